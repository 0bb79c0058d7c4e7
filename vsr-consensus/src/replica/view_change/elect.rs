//! The elect: from a quorum of votes to a view that has started (R5.3 to R5.6).

use vsr_types::limits::REPLICAS_MAX;
use vsr_types::{Batch, Header, Nonce, Op, ReplicaIndex, View};

use super::super::log_choice::{ChosenLog, Undecided, Without, choose};
use super::super::{Replica, Status};
use crate::counters::Event;
use crate::mutants::Mutant;
use crate::{DropReason, HaltReason, Outbox, StateMachine};

impl<S: StateMachine> Replica<S> {
    /// The elect: chooses the log as soon as a quorum of votes agrees on who is alive (R5.3).
    pub(in crate::replica) fn choose_log(&mut self, out: &mut impl Outbox) {
        assert!(
            self.status == Status::ViewChange && self.is_primary(),
            "only the elect chooses"
        );
        if self.change.chosen.is_some() {
            return;
        }
        let anybody = self.is_off(Mutant::InconsistentVotes);
        let hear_dead = self.is_off(Mutant::HearTheDead);
        for replica in ReplicaIndex::all(self.config.replicas) {
            let is_me = replica == self.me();
            let believed = self.is_off(Mutant::VotesUnverified);
            let stored = &mut self.change.votes[replica.as_usize()];
            if stored.from.is_some() && !stored.is_sound() && !believed {
                // N19: it is not what was voted. Its sender says it again; what this replica says itself it
                // cannot trust any more (R6.8).
                self.is_untrusted |= is_me;
                self.counters.dropped(DropReason::Damaged);
                stored.from = None;
            }
            let known = self.crash_vector.of(replica);
            let is_dead = stored.from.is_some_and(|from| from < known)
                || stored.suffix.crash_vector.of(replica) < known;
            if stored.from.is_some() && is_dead && !anybody && !hear_dead {
                self.counters.dropped(DropReason::Inconsistent);
                stored.from = None;
            }
        }
        if self.is_untrusted {
            return;
        }
        let mut headers = core::mem::take(&mut self.change.choice);
        let chosen = self.chosen_log(&mut headers);
        match chosen {
            None => {}
            Some(Ok(chosen)) => self.take_over(chosen, &headers[..chosen.count], out),
            Some(Err(Undecided::Op(_))) => self.counters.count(Event::Undecided),
            Some(Err(Undecided::Contradiction(op))) => {
                // One of those who have voted is wrong, and nobody can tell who.
                self.enter_halted(HaltReason::NoMajority { op });
            }
        }
        self.change.choice = headers;
    }

    /// The log chosen from the votes at hand; none while they are too few.
    fn chosen_log(&self, into: &mut [Header]) -> Option<Result<ChosenLog, Undecided>> {
        let stored = |replica: ReplicaIndex| &self.change.votes[replica.as_usize()];
        let me = stored(self.me()).vote();
        let mut votes = [me; REPLICAS_MAX];
        let mut count = 1;
        for replica in self
            .peers()
            .filter(|&replica| stored(replica).from.is_some())
        {
            votes[count] = stored(replica).vote();
            count += 1;
        }
        let quorum = self.config.quorum();
        let needed = if self.is_off(Mutant::SmallChangeQuorum) {
            (quorum - 1).max(1)
        } else {
            quorum
        };
        let without = Without {
            newest_view: self.is_off(Mutant::LongestLog),
            denials: self.is_off(Mutant::DropUnheld),
        };
        let votes = &votes[..count];
        let pipeline = self.config.pipeline_length();
        (count >= usize::from(needed)).then(|| choose(votes, quorum, pipeline, without, into))
    }

    /// The elect takes the chosen log for its own. Log and log view change in one step (R5.6).
    fn take_over(&mut self, chosen: ChosenLog, headers: &[Header], out: &mut impl Outbox) {
        if let Some(better) = self.better_elect(&chosen) {
            self.counters.count(Event::Forfeited);
            let view = self.next_view_of(better);
            self.enter_view_change(view, out);
            return;
        }
        if let Err(conflict) = self.install_log(headers, chosen.head) {
            self.enter_halted(HaltReason::NoMajority { op: conflict.op });
            return;
        }
        if !self.is_off(Mutant::LateLogView) {
            self.log_view = self.view;
        }
        self.commit = self.commit.max(chosen.commit);
        self.change.chosen = Some(chosen);
        self.repair.forget();
        self.repair_now(out);
    }

    /// R5.6: who cannot fetch what it lacks, or lacks much more than another voter, lets that one lead
    /// (trace T25). Of those who lack little it is the one whose turn comes first: whoever is furthest may be
    /// somebody who hears too few to lead, and would be waited for in every round.
    fn better_elect(&self, chosen: &ChosenLog) -> Option<ReplicaIndex> {
        if self.is_off(Mutant::NeverForfeit) {
            return None;
        }
        let voters = || {
            let has_voted =
                |replica: &ReplicaIndex| self.change.votes[replica.as_usize()].from.is_some();
            self.peers().filter(has_voted)
        };
        let fields = |replica: ReplicaIndex| self.change.votes[replica.as_usize()].fields;
        let lag_of = |applied: Op| chosen.head.distance_from(applied);
        // Everybody has had a turn since that log's view: whoever can lead does.
        let turns = self.view.raw() - chosen.log_view.raw();
        let is_second_round = turns > u64::from(self.config.replicas);
        let is_near = |&replica: &ReplicaIndex| {
            let applied = fields(replica).applied;
            applied > self.applied && lag_of(applied) <= 4 * self.config.pipeline_length() as u64
        };
        let best = voters().max_by_key(|&replica| fields(replica).applied)?;
        let first_near = voters()
            .filter(is_near)
            .min_by_key(|&replica| self.next_view_of(replica));
        let better = first_near.unwrap_or(best);
        // M3: it has nothing to execute on. Unless everybody has declined: somebody must lead.
        if (!self.has_state() || self.is_blocked()) && !self.have_all_declined() {
            return Some(better);
        }
        if fields(best).applied <= self.applied {
            return None;
        }
        let is_far =
            !is_second_round && lag_of(self.applied) > 4 * self.config.pipeline_length() as u64;
        let reaches = voters().any(|replica| fields(replica).tail <= self.applied.next());
        (is_far || !reaches).then_some(better)
    }

    /// Whether everybody had a turn to lead since something was committed.
    fn have_all_declined(&self) -> bool {
        let replicas = u64::from(self.config.replicas);
        self.change.failures > u32::from(self.config.replicas)
            || self.view.raw() - self.log_view.raw() > 2 * replicas
    }

    /// The next view that `replica` leads.
    pub(in crate::replica) fn next_view_of(&self, replica: ReplicaIndex) -> View {
        let mut view = self.view.next();
        while view.primary(self.config.replicas) != replica {
            view = view.next();
        }
        view
    }

    /// Whether this replica has chosen the log of a view that it is about to start.
    pub(in crate::replica) fn is_taking_over(&self) -> bool {
        self.status == Status::ViewChange && self.change.chosen.is_some()
    }

    /// Whether everything is here, and everything committed executed (N11).
    pub(in crate::replica) fn can_start_view(&self) -> bool {
        if !self.is_taking_over() {
            return false;
        }
        // R14.3: a view without anybody who can execute serves no client, but in it the replicas can repair
        // each other.
        let is_hopeless = self.is_blocked() && self.have_all_declined();
        let is_whole = self.is_log_whole()
            && self.held == self.op()
            && (self.applied >= self.commit || is_hopeless)
            && !self.is_transferring()
            && self.first_unreadable().is_none();
        is_whole || (self.is_off(Mutant::StartEarly) && self.is_log_whole())
    }

    /// The first entry that is still to be executed and whose body has gone bad since it was held. A view
    /// does not start with one: its requests would not be known to be in flight (R1.3e).
    pub(in crate::replica) fn first_unreadable(&self) -> Option<Op> {
        let count = self.op().distance_from(self.applied);
        (1..=count)
            .map(|behind| self.applied.plus(behind))
            .find(|&op| self.journal.read_unverified_body(op).is_err())
    }

    pub(in crate::replica) fn start_view(&mut self, out: &mut impl Outbox) {
        assert!(self.can_start_view(), "the caller asked");
        assert!(self.is_primary(), "only the elect starts the view (N4)");
        self.counters.count(Event::ViewsStarted);
        let left_at = self.change.since;
        self.enter_normal();
        // Who has not been heard of since the last view was left is probably why.
        for peer in self.peers() {
            if !self.links.heard_since(peer, left_at) {
                self.suspect(peer);
            }
        }
        self.index_inherited();
        for peer in self.peers() {
            self.send_start_view(peer, Nonce::ZERO, out);
        }
        self.send_heartbeats(out);
    }

    /// R1.3e, trace T23b: what was inherited and is not executed yet is in flight, so that its clients'
    /// retries are not prepared a second time.
    fn index_inherited(&mut self) {
        let mut op = self.applied;
        while op < self.op() {
            op = op.next();
            let (header, body) = self
                .journal
                .read_unverified_body(op)
                .expect("a view starts when every body is present");
            self.unexecuted_bytes += header.body_size();
            let Ok(batch) = Batch::parse(body) else {
                continue;
            };
            for request in batch.requests() {
                let header = request.header();
                if let Some(slot) = self.sessions.slot_of(header.client) {
                    self.sessions.set_in_flight(slot, header.request, op);
                }
            }
        }
    }
}
