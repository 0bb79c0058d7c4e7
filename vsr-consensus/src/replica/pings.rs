//! What replicas tell each other all the time, whoever leads: view, status, progress, digest (R4.4).

use vsr_types::body::{self, DigestReport};
use vsr_types::message::{PeerStatus, Ping, Pong};
use vsr_types::{Frame, Op, ReplicaIndex};

use super::admit::Handled;
use super::{Replica, Status};
use crate::counters::Event;
use crate::digests::{Comparison, DivergenceReport};
use crate::mutants::Mutant;
use crate::{DropReason, HaltReason, Outbox, Sent, StateMachine};

/// How many ticks lie between pings.
const PING_TICKS: u32 = 10;
/// How many ticks a primary must have been silent before a process that says it lost the primary's
/// memory is believed: a second process that was started by mistake disturbs nobody.
const LOST_TICKS: u32 = 3;

impl<S: StateMachine> Replica<S> {
    pub(super) fn send_pings(&mut self, out: &mut impl Outbox) {
        self.ping_at = self.now.monotonic.after(self.config.tick * PING_TICKS);
        let ping = Ping {
            sent_ns: self.now.monotonic.as_nanos(),
            op: self.op(),
            applied: self.applied,
            tail: self.journal.tail(),
            status: self.peer_status() as u8,
            reserved: [0; 7],
        };
        let (reports, count) = self.digests_to_tell();
        for peer in self.peers() {
            let body = bytemuck::cast_slice(&reports[..count]);
            let _: Sent = self.send(out, peer, ping, body);
        }
    }

    pub(super) fn on_ping(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let ping = *frame.fields::<Ping>().ok_or(DropReason::Malformed)?;
        let status = PeerStatus::from_raw(ping.status).ok_or(DropReason::Malformed)?;
        let peer = frame.header().replica();
        self.note_peer(frame, status, (ping.op, ping.applied, ping.tail), out);
        if status == PeerStatus::Blank {
            self.relay_init(peer, out);
        }
        let pong = Pong {
            sent_ns: ping.sent_ns,
            op: self.op(),
            applied: self.applied,
            tail: self.journal.tail(),
            status: self.peer_status() as u8,
            reserved: [0; 7],
        };
        let (reports, count) = self.digests_to_tell();
        let body = bytemuck::cast_slice(&reports[..count]);
        let _: Sent = self.send(out, peer, pong, body);
        Ok(())
    }

    pub(super) fn on_pong(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let pong = *frame.fields::<Pong>().ok_or(DropReason::Malformed)?;
        let status = PeerStatus::from_raw(pong.status).ok_or(DropReason::Malformed)?;
        self.note_peer(frame, status, (pong.op, pong.applied, pong.tail), out);
        self.links
            .answered_me(frame.header().replica(), self.now.monotonic);
        let round_trip = self.now.monotonic.as_nanos().saturating_sub(pong.sent_ns);
        self.links.measured(frame.header().replica(), round_trip);
        Ok(())
    }

    fn note_peer(
        &mut self,
        frame: &Frame<'_>,
        status: PeerStatus,
        progress: (Op, Op, Op),
        out: &mut impl Outbox,
    ) {
        let header = frame.header();
        let peer = header.replica();
        // What another cluster's replica holds means nothing here; that it belongs to one does.
        let is_ours = header.cluster() == self.cluster;
        let nothing = (Op::ZERO, Op::ZERO, Op::ZERO);
        let progress = if is_ours { progress } else { nothing };
        let view = if is_ours { header.view() } else { self.view };
        let now = self.now.monotonic;
        let is_back_empty = matches!(status, PeerStatus::Blank | PeerStatus::Recovering);
        let silent = self.config.tick * LOST_TICKS;
        if is_back_empty && peer == self.primary() && now.since(self.change_heard_at()) > silent {
            self.primary_is_lost();
        }
        self.links.told(peer, status, view, progress, now);
        let has_recovered = header.incarnation().counter > 0;
        self.note_operational(peer, header.cluster(), has_recovered, out);
        if !is_ours {
            return;
        }
        self.hear_digest(frame);
        // R4.2: whoever stopped because no majority was to be seen goes on when one agrees with it. It kept
        // everything that it promised, and was only silent.
        if let Status::Halted(HaltReason::NoMajority { op }) = self.status
            && self
                .digests
                .is_with_quorum(op, self.config.replicas, self.me())
        {
            self.status = Status::ViewChange;
            self.enter_view_change(self.view.next(), out);
        }
        if status == PeerStatus::Normal && view == self.view {
            self.hear_of_progress(progress.0);
        }
        // R4.4: this is how a view that started behind a broken link becomes known.
        let is_missed = view > self.view || (view == self.view && !self.is_normal());
        if status == PeerStatus::Normal && is_missed {
            self.ask_view(peer, out);
        }
    }

    /// What goes out with pings: the newest digest, and one that somebody else's differs from.
    fn digests_to_tell(&self) -> ([DigestReport; 2], usize) {
        let (reports, count) = self.digests.to_tell();
        if self.is_off(Mutant::ContestUntold) {
            return (reports, 1);
        }
        (reports, count)
    }

    /// The digest that goes out with heartbeats: the newest one.
    pub(super) fn digest_report(&self) -> DigestReport {
        self.digests.newest()
    }

    /// Hears what a peer says of its state: its newest digest, and perhaps one that somebody else's
    /// differs from.
    pub(super) fn hear_digest(&mut self, frame: &Frame<'_>) {
        let header = frame.header();
        for bytes in frame.body().chunks_exact(size_of::<DigestReport>()).take(2) {
            let Some(report) = body::read::<DigestReport>(bytes) else {
                return;
            };
            let is_news = self
                .digests
                .hear(header.replica(), header.incarnation(), report);
            if is_news {
                // Whoever is asked soon still remembers that op.
                let soon = self.now.monotonic.after(self.config.tick);
                self.ping_at = self.ping_at.min(soon);
            }
            self.compare_digests(report.op);
        }
    }

    /// N16, R4.2: whoever is not with a quorum serves nobody any more. Who knows that a quorum agrees on
    /// something else has lost its memory, as far as anybody is concerned, and gets it back from them;
    /// without such a quorum nobody can tell who is right, and everybody stays as it is, for people to
    /// look at.
    pub(super) fn compare_digests(&mut self, op: Op) {
        if self.is_off(Mutant::NoComparison) {
            return;
        }
        match self.status {
            Status::Normal | Status::ViewChange => {}
            Status::Halted(HaltReason::NoMajority { op }) => {
                if self
                    .digests
                    .is_outvoted(op, self.config.replicas, self.me())
                {
                    self.enter_halted(HaltReason::Divergence { op });
                }
                return;
            }
            Status::Blank(_) | Status::Recovering | Status::Halted(_) => return,
        }
        // A peer that was not heard of for long cannot be waited for, nor one that has lost its memory:
        // what it will know it will have from one of those who differ.
        let since = self.now.monotonic.before(self.config.view_timeout * 4);
        let (me, replicas) = (self.me(), self.config.replicas);
        let anybody = self.is_off(Mutant::LostMayVote);
        let links = &self.links;
        let may_vote = |peer: ReplicaIndex| {
            links.heard_since(peer, since) && (links.has_memory(peer) || anybody)
        };
        let verdict = self.digests.compare(op, me, replicas, may_vote);
        match verdict {
            Comparison::Unknown => {}
            Comparison::Equal => self.counters.count(Event::DigestsEqual),
            Comparison::PeerDiffers => self.counters.count(Event::DigestsDifferent),
            Comparison::Outvoted | Comparison::NoMajority => {
                self.counters.count(Event::DigestsDifferent);
                let reason = match verdict {
                    Comparison::Outvoted => HaltReason::Divergence { op },
                    _ => HaltReason::NoMajority { op },
                };
                if !self.is_off(Mutant::MinorityServes) {
                    self.enter_halted(reason);
                }
            }
        }
    }

    /// The last time that replicas were seen to have different digests at the same op: where, since when,
    /// and who said what. None: never, in this life.
    #[must_use]
    pub const fn divergence(&self) -> Option<&DivergenceReport> {
        self.digests.divergence()
    }
}
