//! Random walks, in strides.
//!
//! Single random deliveries rarely complete anything. A stride is one phase of the protocol that some
//! replicas take part in and others do not: a request and its acknowledgements, a suspicion, votes, the
//! start of a view, a crash, a recovery. Between strides something old may arrive once more.

use core::ops::Range;
use std::vec::Vec;

use vsr_types::Command;

use super::cluster::{Act, Cluster};
use super::messages::Messages;
use super::node::Step;
use super::{Bounds, Seen, Violation};
use crate::sim::Random;

/// How many strides a walk has.
const STRIDES: u64 = 22;

struct Walk<'a, 'b> {
    bounds: &'a Bounds,
    cluster: Cluster<'a>,
    messages: &'b mut Messages,
    random: Random,
    acts: Vec<Act>,
    broken: bool,
}

pub(super) fn wander(bounds: &Bounds, seeds: Range<u64>) -> Seen {
    let mut seen = Seen::default();
    for seed in seeds {
        // What is known of messages grows without bound otherwise.
        let mut messages = Messages::new(bounds);
        let mut walk = Walk {
            bounds,
            cluster: Cluster::new(bounds),
            messages: &mut messages,
            random: Random::new(seed),
            acts: Vec::new(),
            broken: false,
        };
        walk.run();
        seen.states += walk.cluster.played;
        seen.committed += usize::from(walk.cluster.judge.committed() > 0);
        seen.changed += usize::from(walk.cluster.judge.started() > 1);
        seen.recovered += usize::from(walk.cluster.crashes > 0);
        if walk.broken {
            let acts = walk.acts;
            let acts = Cluster::shorten(bounds, &acts, &mut messages);
            if let Some((_, rule)) = Cluster::replay(bounds, &acts, &mut messages) {
                let trace = acts.iter().map(|act| act.describe(&messages)).collect();
                seen.violation = Some(Violation { rule, trace });
                return seen;
            }
            seen.mirages += 1;
        }
    }
    seen.exhausted = true;
    seen
}

impl Walk<'_, '_> {
    fn run(&mut self) {
        for _ in 0..STRIDES {
            self.stride();
            if self.broken {
                return;
            }
        }
    }

    fn act(&mut self, act: Act) {
        if self.broken || !self.cluster.may(act) {
            return;
        }
        self.acts.push(act);
        self.broken = self.cluster.act(act, self.messages).is_err();
    }

    /// Some of the replicas.
    fn some(&mut self) -> u64 {
        let all = (1 << self.bounds.replicas) - 1;
        match self.random.below(4) {
            0 => all,
            1 => all & !(1 << self.random.below(u64::from(self.bounds.replicas))),
            _ => self.random.below(all + 1),
        }
    }

    fn anybody(&mut self) -> u8 {
        self.random.below(u64::from(self.bounds.replicas)) as u8
    }

    /// Messages of these kinds arrive, from some at some; newest last, seldom ones that are old.
    fn deliver(&mut self, commands: &[Command], from: u64, to: u64) {
        for &command in commands {
            let recent = if self.random.below(6) == 0 {
                usize::MAX
            } else {
                24
            };
            let net = self.cluster.net.clone();
            for &id in &net[net.len().saturating_sub(recent)..] {
                let message = self.messages.get(id);
                let (at, sender) = (message.to, message.from);
                let meant =
                    message.command == command && from >> sender & 1 == 1 && to >> at & 1 == 1;
                if meant {
                    self.act(Act::Step(at, Step::Deliver(id)));
                }
            }
        }
    }

    fn stride(&mut self) {
        let (from, to) = (self.some(), self.some());
        match self.random.below(16) {
            0..4 => self.serve(from, to),
            4..8 => self.change_view(from, to),
            8..11 => self.recover(),
            11 => {
                let at = self.anybody();
                self.fetch(at);
            }
            12 => {
                let at = self.anybody();
                self.act(Act::Step(at, Step::Beat));
                self.deliver(&[Command::Commit, Command::PrepareOk], from, to);
            }
            13 => {
                let at = self.anybody();
                self.act(Act::Step(at, Step::Suspect));
            }
            _ => self.something_old(),
        }
    }

    fn serve(&mut self, from: u64, to: u64) {
        let requests = self.cluster.requests;
        for at in 0..self.bounds.replicas {
            if self.random.below(3) > 0 {
                self.act(Act::Step(at, Step::Request(requests)));
            }
        }
        self.deliver(&[Command::Prepare, Command::Prepare], from, to);
        if self.random.below(3) > 0 {
            let acks = self.some();
            self.deliver(&[Command::PrepareOk], acks, from);
        }
    }

    fn change_view(&mut self, from: u64, to: u64) {
        for at in 0..self.bounds.replicas {
            if from >> at & 1 == 1 {
                self.act(Act::Step(at, Step::Suspect));
            }
        }
        let both = from | to;
        self.deliver(
            &[Command::StartViewChange, Command::StartViewChange],
            both,
            both,
        );
        if self.random.below(3) > 0 {
            let votes = self.some();
            self.deliver(&[Command::DoViewChange, Command::DoViewChange], from, votes);
        }
        if self.random.below(3) > 0 {
            let followers = self.some();
            self.deliver(&[Command::StartView], both, followers);
            if self.random.below(2) > 0 {
                self.deliver(&[Command::PrepareOk], followers, from);
            }
        }
        if self.random.below(3) == 0 {
            let at = self.anybody();
            self.fetch(at);
        }
    }

    fn fetch(&mut self, at: u8) {
        self.act(Act::Step(at, Step::Fetch));
        let (me, donors) = (1 << at, self.some());
        self.deliver(
            &[Command::GetHeaders, Command::GetPrepare, Command::GetView],
            me,
            donors,
        );
        self.deliver(
            &[Command::StartView, Command::Headers, Command::Prepare],
            donors,
            me,
        );
        self.deliver(&[Command::Headers], donors, me);
    }

    fn recover(&mut self) {
        let at = self.anybody();
        if self.random.below(4) > 0 {
            self.act(Act::Crash(at));
        }
        let me = 1 << at;
        let all = self.some() | self.some();
        self.deliver(&[Command::IncarnationQuery], me, all);
        self.deliver(&[Command::IncarnationReply], all, me);
        let some = self.some();
        self.deliver(&[Command::RecoveryRequest], me, all & some | some);
        self.deliver(&[Command::RecoveryResponse], all | some, me);
        if self.random.below(4) > 0 {
            self.fetch(at);
        }
    }

    fn something_old(&mut self) {
        for _ in 0..=self.random.below(3) {
            let count = self.cluster.net.len() as u64;
            if count == 0 {
                return;
            }
            let id = self.cluster.net[self.random.below(count) as usize];
            let at = self.messages.get(id).to;
            self.act(Act::Step(at, Step::Deliver(id)));
        }
    }
}
