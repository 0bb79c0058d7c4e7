//! What replicas tell each other all the time, whoever leads: view, status, progress, digest (R4.4).

use vsr_types::body::{self, DigestReport};
use vsr_types::message::{PeerStatus, Ping, Pong};
use vsr_types::{Frame, Op, ReplicaIndex};

use super::Replica;
use super::admit::Handled;
use crate::counters::Event;
use crate::digests::Comparison;
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
        let report = self.digest_report();
        for peer in self.peers() {
            let _: Sent = self.send(out, peer, ping, bytemuck::bytes_of(&report));
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
        let report = self.digest_report();
        let _: Sent = self.send(out, peer, pong, bytemuck::bytes_of(&report));
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
        if status == PeerStatus::Normal && view == self.view {
            self.hear_of_progress(progress.0);
        }
        // R4.4: this is how a view that started behind a broken link becomes known.
        let is_missed = view > self.view || (view == self.view && !self.is_normal());
        if status == PeerStatus::Normal && is_missed {
            self.ask_view(peer, out);
        }
    }

    /// The digest that goes out with pings and heartbeats: the newest agreed one.
    pub(super) fn digest_report(&self) -> DigestReport {
        self.digests.newest()
    }

    pub(super) fn hear_digest(&mut self, frame: &Frame<'_>) {
        let Some(report) = body::read::<DigestReport>(frame.body()) else {
            return;
        };
        self.digests.hear(frame.header().replica(), report);
        self.compare_digests(report.op);
    }

    /// N16, R4.2: the minority stops; without a majority everybody does.
    pub(super) fn compare_digests(&mut self, op: Op) {
        if !self.is_normal() {
            return;
        }
        // A peer that was not heard of for long cannot be waited for.
        let since = self.now.monotonic.before(self.config.view_timeout * 4);
        let links = &self.links;
        let may_vote = |peer: ReplicaIndex| links.heard_since(peer, since);
        match self
            .digests
            .compare(op, self.me(), self.config.replicas, may_vote)
        {
            Comparison::Unknown => {}
            Comparison::Equal => self.counters.count(Event::DigestsEqual),
            Comparison::PeerDiffers => self.counters.count(Event::DigestsDifferent),
            Comparison::Outvoted(op) => {
                self.counters.count(Event::DigestsDifferent);
                self.enter_halted(HaltReason::Divergence { op });
            }
        }
    }
}
