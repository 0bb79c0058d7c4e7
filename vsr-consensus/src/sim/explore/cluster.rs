//! The whole cluster, played by the real code step by step: for walks, and to play again what a search
//! believes to have found.

use std::collections::VecDeque;
use std::format;
use std::string::String;
use std::vec::Vec;

use vsr_types::message::PeerStatus;

use super::Bounds;
use super::judge::Judge;
use super::messages::{MessageId, Messages};
use super::node::{Effects, Node, Step, founder};

/// So many messages one fetch consists of, at most.
pub(super) const FETCH_MAX: usize = 32;

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// A step of one replica.
    Step(u8, Step),
    /// A replica loses its memory and begins anew.
    Crash(u8),
}

impl Act {
    pub(super) fn describe(self, messages: &Messages) -> String {
        match self {
            Self::Step(_, Step::Deliver(id)) => messages.describe(id),
            Self::Step(at, Step::Request(client)) => format!("R{at} is asked by client {client}"),
            Self::Step(at, step) => format!("R{at} {step:?}"),
            Self::Crash(at) => format!("R{at} crashes and restarts"),
        }
    }
}

/// See the module's documentation.
pub(super) struct Cluster<'a> {
    pub(super) nodes: Vec<Node>,
    /// Everything that was sent, in order.
    pub(super) net: Vec<MessageId>,
    pub(super) judge: Judge,
    pub(super) crashes: u8,
    pub(super) requests: u8,
    bounds: &'a Bounds,
    pub(super) played: usize,
}

impl<'a> Cluster<'a> {
    pub(super) fn new(bounds: &'a Bounds) -> Self {
        Self {
            nodes: (0..bounds.replicas)
                .map(|index| Node::founded(index, bounds))
                .collect(),
            net: Vec::new(),
            judge: Judge::new(founder()),
            crashes: 0,
            requests: 0,
            bounds,
            played: 0,
        }
    }

    /// Whether `act` is possible here.
    pub(super) fn may(&self, act: Act) -> bool {
        match act {
            Act::Step(_, Step::Deliver(id)) => self.net.contains(&id),
            Act::Step(at, step) => {
                let within =
                    !matches!(step, Step::Request(_)) || self.requests < self.bounds.requests;
                within && self.nodes[usize::from(at)].may(step, self.bounds)
            }
            Act::Crash(at) => {
                let is_down = |node: &Node| {
                    matches!(
                        node.sight().status,
                        PeerStatus::Recovering | PeerStatus::Blank
                    )
                };
                let again =
                    |&(index, _): &(usize, &Node)| self.bounds.detours && index == usize::from(at);
                let nodes = self.nodes.iter().enumerate().filter(|node| !again(node));
                let down = nodes.filter(|(_, node)| is_down(node)).count();
                self.crashes < self.bounds.crashes && down < usize::from(self.bounds.down)
            }
        }
    }

    /// Plays `act`, which is possible.
    ///
    /// # Errors
    /// What it broke, in words.
    pub(super) fn act(&mut self, act: Act, messages: &mut Messages) -> Result<(), String> {
        self.played += 1;
        let effects = match act {
            Act::Step(at, Step::Fetch) => return self.ask(at, Step::Fetch, messages),
            Act::Step(at, Step::Deliver(id)) if messages.is_question(id) => {
                return self.ask(at, Step::Deliver(id), messages);
            }
            Act::Step(at, step) => {
                self.requests += u8::from(matches!(step, Step::Request(_)));
                self.nodes[usize::from(at)].play(step, messages)
            }
            Act::Crash(at) => {
                self.crashes += 1;
                let life = self.nodes[usize::from(at)].life() + 1;
                let (node, sent) = Node::restarted(at, life, self.bounds, messages);
                self.nodes[usize::from(at)] = node;
                Effects {
                    sent,
                    ..Effects::default()
                }
            }
        };
        let sent = effects.sent.iter().filter(|&&id| !messages.is_repair(id));
        self.send(sent.copied().collect());
        self.judged(&effects)
    }

    fn send(&mut self, sent: Vec<MessageId>) {
        for id in sent {
            if !self.net.contains(&id) {
                self.net.push(id);
            }
        }
    }

    fn judged(&mut self, effects: &Effects) -> Result<(), String> {
        if let Some(failure) = &effects.failure {
            return Err(failure.clone());
        }
        effects
            .facts
            .iter()
            .try_for_each(|fact| self.judge.hear(fact))
    }

    /// A replica asks for what it misses; within the bounds, who is asked answers at once.
    fn ask(&mut self, at: u8, step: Step, messages: &mut Messages) -> Result<(), String> {
        let mut queue = VecDeque::new();
        let mut effects = self.nodes[usize::from(at)].play(step, messages);
        let mut is_answer = false;
        for _ in 0..FETCH_MAX {
            self.judged(&effects)?;
            let (now, later): (Vec<MessageId>, Vec<MessageId>) = effects
                .sent
                .iter()
                .partition(|&&id| is_answer || messages.is_repair(id));
            queue.extend(now);
            self.send(later);
            let Some(id) = queue.pop_front() else {
                break;
            };
            is_answer = messages.is_answered(id);
            let to = usize::from(messages.get(id).to);
            effects = self.nodes[to].play(Step::Deliver(id), messages);
        }
        Ok(())
    }

    /// Plays as much of `acts` as is possible, and says what it broke, and after how many.
    pub(super) fn replay(
        bounds: &'a Bounds,
        acts: &[Act],
        messages: &mut Messages,
    ) -> Option<(usize, String)> {
        let mut cluster = Self::new(bounds);
        for (at, &act) in acts.iter().enumerate() {
            if cluster.may(act)
                && let Err(rule) = cluster.act(act, messages)
            {
                return Some((at + 1, rule));
            }
        }
        None
    }

    /// Leaves out of `acts` what is not needed to break a rule.
    pub(super) fn shorten(bounds: &Bounds, acts: &[Act], messages: &mut Messages) -> Vec<Act> {
        let mut acts = acts.to_vec();
        loop {
            let before = acts.len();
            let mut at = acts.len();
            while at > 0 {
                at -= 1;
                let mut fewer = acts.clone();
                fewer.remove(at);
                if let Some((count, _)) = Cluster::replay(bounds, &fewer, messages) {
                    fewer.truncate(count);
                    at = at.min(fewer.len());
                    acts = fewer;
                }
            }
            if acts.len() == before {
                return acts;
            }
        }
    }
}
