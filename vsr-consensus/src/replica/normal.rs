//! Prepare, acknowledge, commit, execute: what the cluster does while nothing is wrong.
//!
//! ```text
//! client    primary R0            backup R1            backup R2
//!   |--request->|                     |                    |
//!   |           |--prepare----------->|--prepare---------->|     (down the chain, same bytes)
//!   |           |<------prepare_ok----|                    |
//!   |           |   commit, execute   |                    |
//!   |<--reply---|<------prepare_ok-------------------------|
//!   |           |--commit (with the next prepare, or the heartbeat)-->
//! ```

use vsr_journal::Journal;
use vsr_types::message::{Commit, CommitOk, Prepare, PrepareOk, Reply};
use vsr_types::{Batch, Frame, Header, Identity, Op, Operation, Request, Route, Timestamp};
use vsr_types::{Checksum, RequestNumber, ViewStamp, checksum};

use super::Replica;
use super::admit::Handled;
use super::exit::send_to_client;
use super::findings::FoundBy;
use crate::counters::Event;
use crate::mutants::Mutant;
use crate::sessions::{Executed, Verdict};
use crate::{Context, DropReason, HaltReason, Outbox, Sent, StateMachine};

/// How many bytes of batches one deadline executes: keeps the loop responsive while a backlog is
/// worked off, and costs nothing when there is none.
const EXECUTE_BYTES_MAX: usize = 512 << 10;
/// How many bytes of bodies may be in flight, unless it is a single batch: one frame less than a link's
/// send queue holds, so that a pipeline of the largest batches never pushes its own beginning out of it.
const IN_FLIGHT_BYTES_MAX: usize = 7 << 20;

impl<S: StateMachine> Replica<S> {
    /// Whether the open batch could be cut now.
    pub(super) fn can_cut(&self, body_size: usize) -> bool {
        self.is_normal()
            && self.is_primary()
            // R2.1.
            && self.op().distance_from(self.applied) < self.config.pipeline as u64
            && (self.unexecuted_bytes == 0
                || self.unexecuted_bytes + body_size <= IN_FLIGHT_BYTES_MAX)
            // R10.1, R10.4.
            && self.may_append()
            // R8.1: nothing that is not executed here is overwritten.
            && self.journal.room(body_size, self.applied.next())
            // R8.1: nor, for a bounded time, what a backup in the chain has yet to execute.
            && !self.links.must_wait(self.op(), self.config.journal_slots as u64)
            // R8.6: nor does it outrun a replica that can catch up with it.
            && !self.goes_slowly(body_size)
    }

    /// The time that a batch prepared now would have: the wall clock's, but never slower than half
    /// and never faster than twice the time that has really passed since the last one. A clock that
    /// jumps a year ahead for a second must not expire every key, nor one that jumps back keep all of
    /// them; both are caught up with in time.
    pub(super) fn replicated_now(&self) -> Timestamp {
        let wall = self.now.wall;
        let told = match self.clock_bounds() {
            Some((slowest, fastest)) => wall.clamp(slowest, fastest),
            None => wall,
        };
        told.max(self.head_timestamp)
    }

    /// Between what the replicated time must be now, if it was followed from the start; see
    /// [`Replica::clock_base`].
    fn clock_bounds(&self) -> Option<(Timestamp, Timestamp)> {
        let (base, since) = self.clock_base?;
        let passed = self.now.monotonic.since(since).as_nanos();
        let passed = u64::try_from(passed)
            .unwrap_or(u64::MAX / 4)
            .min(u64::MAX / 4);
        let after = |time: u64| Timestamp::from_nanos(base.as_nanos().saturating_add(time));
        Some((after(passed / 2), after(passed * 2)))
    }

    /// A prepare with this timestamp has arrived. It tells the time if it was made just now; one that was
    /// fetched because it had been missed may be older by any time.
    fn hear_time(&mut self, timestamp: Timestamp) {
        let bounds = self.clock_bounds();
        let is_of_now = bounds.is_none_or(|(slowest, _)| timestamp >= slowest);
        if is_of_now {
            self.clock_base = Some((timestamp, self.now.monotonic));
        }
    }

    /// Ends the open batch and prepares it, if the pipeline has room.
    pub(super) fn cut_batch(&mut self, out: &mut impl Outbox) {
        if self.batch.count() > 0 && self.can_cut(self.batch.size()) {
            self.prepare_batch(out);
        }
    }

    /// Prepares the open batch, which may be empty: that moves the replicated clock.
    pub(super) fn prepare_batch(&mut self, out: &mut impl Outbox) {
        assert!(
            self.is_normal() && self.is_primary(),
            "only a primary prepares"
        );
        assert!(
            self.may_append(),
            "no op is prepared that must not be (R10.1, R10.4)"
        );
        let op = self.op().next();
        let timestamp = self.replicated_now().max(self.head_timestamp.next());
        self.clock_base = Some((timestamp, self.now.monotonic));
        let mut letterhead = self.letterhead();
        if !self.is_off(Mutant::HeadsEpoch) {
            letterhead.set_epoch(self.op_max().epoch(op));
        }
        let (body, count) = self.batch.finish();
        let prepare = Prepare {
            op,
            commit: self.commit,
            timestamp,
            parent: self.head,
        };
        let header = letterhead.sealed(prepare, body);
        // R2.1, checked where it matters.
        assert!(
            op.distance_from(self.applied) <= self.config.pipeline as u64,
            "the pipeline is bounded"
        );
        let on_their_way = op.distance_from(self.applied) as usize;
        self.marks.prepares = self.marks.prepares.max(on_their_way);
        self.journal.append(&header, body, self.applied.next());
        self.unexecuted_bytes += body.len();
        self.counters.count(Event::Prepared);
        self.counters.add(Event::PreparedRequests, u64::from(count));
        self.counters.add(Event::PreparedBytes, body.len() as u64);
        self.head = header.identity();
        self.head_timestamp = timestamp;
        self.note_appended(op);
        self.links.note_sent(op, self.now.monotonic);
        self.send_down_the_chain(op, out);
        self.commit_by_acknowledgements();
    }

    pub(super) fn on_prepare(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let header = frame.header();
        let prepare = *frame.fields::<Prepare>().ok_or(DropReason::Malformed)?;
        if !self.is_off(Mutant::OldPrepare) {
            self.admit_view(frame, out)?;
            // In a prepare, replica and incarnation are those of the view's primary.
            self.admit_from_primary(frame)?;
        }
        let route = header.route().ok_or(DropReason::Malformed)?;
        self.links.heard(self.primary(), self.now.monotonic);
        self.repair
            .note_target(prepare.op, self.op(), self.now.monotonic);
        self.learn_commit(prepare.commit);
        let next = self.op().next();
        if !self.is_log_whole() {
            // What the view began with comes first.
            self.repair_now(out);
            return Err(DropReason::Gap);
        }
        if prepare.op > next {
            if self.is_off(Mutant::Gap) {
                self.acknowledge_mutant(frame, out);
            }
            // R2.2: a cumulative acknowledgement speaks for everything before it, so an op is never
            // appended before its predecessor (trace T21).
            self.repair_now(out);
            return Err(DropReason::Gap);
        }
        if prepare.op < next {
            return self.on_prepare_again(frame, prepare.op, route, out);
        }
        if prepare.parent != self.head && !self.is_off(Mutant::AnyParent) {
            return Err(DropReason::WrongParent);
        }
        if prepare.timestamp <= self.head_timestamp {
            return Err(DropReason::Malformed);
        }
        self.make_room(frame.body().len(), out);
        if !self.is_normal() {
            // What was executed just now has another digest than a quorum's (R4.2).
            return Err(DropReason::WrongStatus);
        }
        if !self.journal.room(frame.body().len(), self.protected_from()) {
            // R8.1, trace T24. Others may have room: pass it on all the same (M5).
            if self.is_off(Mutant::AckBeforeHeld) {
                self.acknowledge_mutant(frame, out);
            }
            self.forward(header, frame.body(), prepare.op, route, out);
            return Err(DropReason::JournalFull);
        }
        self.append(header, frame.body(), &prepare);
        // R4.1: an entry that was not here before is no copy of the past.
        self.hear_primary();
        self.forward(header, frame.body(), prepare.op, route, out);
        self.ack_due = true;
        Ok(())
    }

    /// A prepare that is held already: it may have come by another way than the one it is to go on.
    fn on_prepare_again(
        &mut self,
        frame: &Frame<'_>,
        op: Op,
        route: Route,
        out: &mut impl Outbox,
    ) -> Handled {
        let header = frame.header();
        let identity = self.identity_of(op);
        if identity.is_some_and(|held| held != header.identity()) {
            // One primary, one entry per op: see L4. Not ours to judge from a message: drop it.
            return Err(DropReason::WrongIdentity);
        }
        if identity.is_some() {
            self.forward(header, frame.body(), op, route, out);
        }
        self.ack_due = true;
        Err(DropReason::Duplicate)
    }

    /// Takes the body of an entry whose header is held here: by identity, never by number alone (R8.4).
    /// Whoever sends it, in whatever view: the bytes prove themselves.
    pub(super) fn put_back(&mut self, frame: &Frame<'_>) -> bool {
        let Some(op) = frame.fields::<Prepare>().map(|prepare| prepare.op) else {
            return false;
        };
        if op > self.op() || op < self.journal.tail() {
            return false;
        }
        let identity = match self.journal.header(op) {
            Some(held) if self.is_off(Mutant::RepairAny) => held.identity(),
            _ => frame.header().identity(),
        };
        let is_restored = self.restore_slot(op, frame.header());
        if !is_restored && self.journal.put_body(op, &identity, frame.body()).is_err() {
            return false;
        }
        self.note_repaired(op, frame.header().replica());
        self.stalled = self.stalled && op != self.applied.next();
        self.repair.note_progress(self.now.monotonic);
        if op == self.held.next() && op <= self.verified {
            self.recount_held_from(op);
            self.ack_due = self.is_normal() && !self.is_primary();
        }
        true
    }

    fn append(&mut self, header: &Header, body: &[u8], prepare: &Prepare) {
        assert!(
            prepare.op == self.op().next(),
            "entries are appended in order"
        );
        assert!(prepare.parent == self.head, "entries form a chain (I4)");
        assert!(
            header.epoch() == self.op_max().epoch(prepare.op)
                || self.is_off(Mutant::EpochUnchecked),
            "an entry has the epoch of its op (R10.2)"
        );
        self.journal.append(header, body, self.protected_from());
        self.counters.count(Event::Appended);
        self.head = header.identity();
        self.head_timestamp = prepare.timestamp;
        self.note_appended(prepare.op);
        // Who leads next knows how much time has passed since.
        self.hear_time(prepare.timestamp);
        self.repair.note_progress(self.now.monotonic);
    }

    fn note_appended(&mut self, op: Op) {
        assert!(
            self.verified == op.minus(1),
            "entries go behind what belongs to this log"
        );
        self.verified = op;
        if self.held == op.minus(1) {
            self.held = op;
        }
    }

    /// The broken replica of a test that follows any heartbeat into its view (trace T15).
    fn adopt_view_mutant(&mut self, frame: &Frame<'_>) {
        if self.is_off(Mutant::AdoptView) && frame.header().view() > self.view {
            self.view = frame.header().view();
            self.log_view = self.view;
        }
    }

    /// R2.6: the commit number only rises, whatever order messages come in (trace T22).
    pub(super) fn learn_commit(&mut self, commit: Op) {
        assert!(!self.is_primary(), "a primary counts acknowledgements");
        if commit > self.commit {
            self.commit = commit;
            // 2.14: views get their patience back when something commits.
            self.change.on_progress();
        }
    }

    /// R2.3: sent only by a normal backup, cumulative, for what is held with its body.
    pub(super) fn acknowledge(&mut self, out: &mut impl Outbox) {
        self.ack_due = false;
        if self.is_transferring() && !self.is_mending() {
            // R2.3: there is no state here that the acknowledged entries could follow. Where only a few
            // chunks went bad there is one, and the entries behind it are held (M3).
            return;
        }
        let last = if self.is_off(Mutant::AckHeaders) {
            self.log_head()
        } else {
            self.held
        };
        let Some(identity) = self.acknowledged_identity(last) else {
            return;
        };
        assert!(
            self.is_normal() && !self.is_primary(),
            "backups acknowledge"
        );
        let ok = PrepareOk {
            op: last,
            prepare: identity,
            applied: self.applied,
            sequence: self.sequence,
        };
        // If it is lost, the next heartbeat makes us repeat it.
        let _: Sent = self.send(out, self.primary(), ok, &[]);
    }

    /// What an acknowledgement of everything up to `last` names: none when there is nothing to name.
    fn acknowledged_identity(&self, last: Op) -> Option<Identity> {
        if last == Op::ZERO {
            return None;
        }
        let beyond = self.inherited.header(last).map(Header::identity);
        self.identity_of(last).or(beyond)
    }

    /// The broken replica of a test that acknowledges what it cannot append.
    fn acknowledge_mutant(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) {
        let Some(prepare) = frame.fields::<Prepare>() else {
            return;
        };
        let ok = PrepareOk {
            op: prepare.op,
            prepare: frame.header().identity(),
            applied: self.applied,
            sequence: self.sequence,
        };
        let _: Sent = self.send(out, self.primary(), ok, &[]);
    }

    pub(super) fn on_prepare_ok(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let ok = *frame.fields::<PrepareOk>().ok_or(DropReason::Malformed)?;
        if !self.is_off(Mutant::OldAcks) {
            self.admit_view(frame, out)?;
        }
        self.admit_at_primary()?;
        let backup = frame.header().replica();
        if ok.op > self.op() {
            return Err(DropReason::WrongIdentity);
        }
        // R2.4: an acknowledgement counts only for the very entry that is held here (trace T17).
        match self.identity_of(ok.op) {
            Some(_) if self.is_off(Mutant::OldAcks) => {}
            Some(identity) if identity == ok.prepare => {}
            Some(_) => return Err(DropReason::WrongIdentity),
            // Overwritten since, hence committed long ago: it tells where the backup is, no more.
            None if ok.op <= self.commit => {}
            None => return Err(DropReason::WrongIdentity),
        }
        let now = self.now.monotonic;
        self.links.answered_me(backup, now);
        self.count_too_much(backup, ok.op);
        self.links
            .acknowledged(backup, ok.op, ok.applied, self.op(), now);
        self.commit_by_acknowledgements();
        self.welcome_back(backup, out);
        Ok(())
    }

    /// R2.5: what a quorum holds, this primary included, is committed.
    fn commit_by_acknowledgements(&mut self) {
        let quorum = if self.is_off(Mutant::SmallCommitQuorum) {
            (self.config.quorum() - 1).max(1)
        } else if self.is_off(Mutant::ReplyBeforeCommit) {
            1
        } else {
            self.config.quorum()
        };
        let committed = self.links.acknowledged_by_quorum(quorum, self.op());
        assert!(
            committed <= self.op(),
            "a primary commits what it has prepared (I7)"
        );
        if committed > self.commit {
            self.commit = committed;
            self.change.on_progress();
        }
    }

    /// The primary's heartbeat, which is also the question of a read round.
    pub(super) fn send_heartbeats(&mut self, out: &mut impl Outbox) {
        // At every heartbeat, also those of read rounds: while reads flow there are no others.
        self.check_links();
        self.sequence += 1;
        self.heartbeat_at = self.now.monotonic.after(self.config.tick);
        let identity = self.identity_of(self.commit).unwrap_or_default();
        let commit = Commit {
            sequence: self.sequence,
            op: self.op(),
            commit: self.commit,
            commit_checksum: identity.checksum,
            commit_checksum_body: identity.checksum_body,
            commit_view: identity.view,
        };
        let report = self.digest_report();
        let header = self
            .letterhead()
            .sealed(commit, bytemuck::bytes_of(&report));
        for peer in self.peers() {
            let _: Sent = self.send_to_peer(out, peer, &header, bytemuck::bytes_of(&report));
        }
    }

    pub(super) fn on_commit(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let commit = *frame.fields::<Commit>().ok_or(DropReason::Malformed)?;
        self.adopt_view_mutant(frame);
        self.admit_view(frame, out)?;
        self.admit_from_primary(frame)?;
        if commit.sequence <= self.sequence && !self.is_off(Mutant::OldHeartbeats) {
            // R4.1: the past keeps nobody alive.
            return Err(DropReason::Duplicate);
        }
        self.sequence = commit.sequence;
        self.links.heard(self.primary(), self.now.monotonic);
        self.hear_primary();
        if self.is_off(Mutant::CommitFollows) && commit.commit >= self.applied {
            self.commit = commit.commit;
        }
        self.learn_commit(commit.commit);
        self.repair
            .note_target(commit.op, self.op(), self.now.monotonic);
        let theirs = Identity {
            view: commit.commit_view,
            checksum: commit.commit_checksum,
            checksum_body: commit.commit_checksum_body,
        };
        // R4.2. Our entry is chain-verified up to here; theirs is zero when overwritten at theirs.
        let ours = self
            .identity_of(commit.commit)
            .filter(|_| commit.commit <= self.verified && !self.is_off(Mutant::NoComparison));
        if ours.is_some_and(|ours| ours != theirs) && theirs != Identity::default() {
            self.enter_halted(HaltReason::Divergence { op: commit.commit });
            return Ok(());
        }
        self.hear_digest(frame);
        let report = self.digest_report();
        let answer = CommitOk {
            sequence: commit.sequence,
            op: self.op(),
            applied: self.applied,
            tail: self.journal.tail(),
            reserved: 0,
        };
        if !self.is_normal() {
            return Ok(());
        }
        let _: Sent = self.send(out, self.primary(), answer, bytemuck::bytes_of(&report));
        // An acknowledgement may have been lost: repeat it, cumulative as it is.
        self.ack_due = true;
        Ok(())
    }

    pub(super) fn on_commit_ok(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let ok = *frame.fields::<CommitOk>().ok_or(DropReason::Malformed)?;
        self.admit_view(frame, out)?;
        self.admit_at_primary()?;
        if ok.sequence > self.sequence {
            return Err(DropReason::ImplausibleNumber);
        }
        let backup = frame.header().replica();
        self.links.answered_me(backup, self.now.monotonic);
        self.links
            .answered(backup, ok.sequence, ok.op, ok.applied, ok.tail);
        self.hear_digest(frame);
        Ok(())
    }

    /// Whether something is committed, held and not executed.
    pub(super) fn can_execute(&self) -> bool {
        (self.is_normal() || self.is_taking_over())
            && !self.stalled
            && self.has_state()
            && !self.is_blocked()
            && !self.holds_execution()
            && self.applied < self.commit
            && self.applied < self.held
    }

    /// Executes what is committed, in order, a bounded amount of it.
    pub(super) fn execute_some(&mut self, out: &mut impl Outbox) {
        let mut bytes = 0;
        while self.can_execute() && bytes < EXECUTE_BYTES_MAX {
            bytes += self.execute_next(out);
        }
    }

    /// Executes what is committed until a body of this size fits: a ring that is full of what could
    /// have been executed is no reason to refuse a prepare.
    fn make_room(&mut self, body_size: usize, out: &mut impl Outbox) {
        while !self.journal.room(body_size, self.applied.next()) && self.can_execute() {
            self.execute_next(out);
        }
    }

    /// Executes one batch and returns its size. R2.7: only a normal replica whose log is its view's,
    /// along the chain from the last one executed.
    fn execute_next(&mut self, out: &mut impl Outbox) -> usize {
        assert!(
            (self.is_normal() || self.is_taking_over()) && self.log_view == self.view,
            "R2.7"
        );
        let op = self.applied.next();
        let believed = self.is_off(Mutant::ExecutionUnverified);
        let Some((header, intact)) = read_for_execution(&self.journal, op, believed) else {
            self.journal.mark_faulty(op);
            self.note_faulty(op, true, FoundBy::Use);
            self.stalled = true;
            return 0;
        };
        let prepare = *header
            .fields::<Prepare>()
            .expect("the journal holds prepares");
        assert!(prepare.op == op, "a slot holds the op that was asked for");
        assert!(
            prepare.parent == self.applied_identity,
            "execution follows the chain (I4)"
        );
        let at = Context {
            stamp: ViewStamp {
                epoch: header.epoch(),
                view: header.view(),
                op,
            },
            timestamp: if self.is_off(Mutant::LocalClock) {
                self.now.wall
            } else {
                prepare.timestamp
            },
            ..Context::default()
        };
        let intact = intact || self.is_off(Mutant::ClientChecksumUnverified);
        if !self.execute_batch(&at, intact, out) {
            // M3: it met damage. It counts as not executed, and nothing is until the state is repaired.
            return 0;
        }
        self.applied = op;
        self.applied_identity = header.identity();
        self.applied_timestamp = prepare.timestamp;
        if self.is_primary() && self.is_normal() {
            self.unexecuted_bytes -= header.body_size();
        }
        self.counters.count(Event::Executed);
        self.take_digest(prepare.timestamp);
        header.body_size()
    }

    /// Executes the requests of a batch and answers them. Says whether everything read for that was
    /// sound: the request that met damage is not answered, nor is any after it.
    fn execute_batch(&mut self, at: &Context, intact: bool, out: &mut impl Outbox) -> bool {
        // What a question met before is not this operation's; but a machine cannot tell them apart.
        let answers_all = self.is_off(Mutant::DamageAnswered);
        if self.machine.damaged().is_some() && !answers_all {
            self.note_damage_met(true);
            return false;
        }
        self.note_damage_met(false);
        // R1.7: only the primary of a view that has started.
        let reply_to_clients = self.is_primary() && self.is_normal();
        let letterhead = self.letterhead();
        let Self {
            journal,
            sessions,
            machine,
            counters,
            reply_buffer,
            marks,
            ..
        } = self;
        let (_, body) = journal
            .read_unverified_body(at.stamp.op)
            .expect("the entry was verified just now");
        // What is malformed is malformed on every replica alike: it is a no-op there (R1.4).
        let Ok(batch) = Batch::parse(body) else {
            return true;
        };
        for (index, request) in batch.requests().enumerate() {
            let at = Context {
                index: index as u32,
                client: request.header().client,
                ..*at
            };
            counters.count(Event::ExecutedRequests);
            if !intact && !request.is_intact() {
                // M2: the bytes changed between the client and the batch, so they are the same on
                // every replica and none executes them. The client's retry is prepared anew.
                counters.count(Event::DamagedRequests);
                continue;
            }
            let told = execute_request(sessions, machine, counters, &at, &request, reply_buffer);
            // N17: no reply made from damaged bytes leaves.
            let is_damaged = sessions.is_damage_met() || machine.damaged().is_some();
            if is_damaged && !answers_all {
                self.note_damage_met(true);
                return false;
            }
            let size = told.as_ref().map_or(0, |told| told.size);
            marks.reply = marks.reply.max(size);
            let (Some(told), true) = (told, reply_to_clients) else {
                continue;
            };
            let asked = request.header();
            let mut header = letterhead.header(Reply {
                client: at.client,
                request: asked.request,
                op: told.op,
                request_checksum: asked.checksum(),
                index: at.index,
            });
            header.seal_with(told.size, told.checksum);
            let body = &reply_buffer[..told.size];
            // R1.7: after the commit, from a normal primary.
            send_to_client(counters, out, at.client, &header, body);
        }
        true
    }

    /// Takes the digest at the first op of every period of replicated time, and at the last of every epoch.
    fn take_digest(&mut self, timestamp: Timestamp) {
        let length = u64::try_from(self.config.digest_period.as_nanos()).unwrap_or(u64::MAX);
        let period = timestamp.as_nanos() / length.max(1);
        // R10.3: and at the end of an epoch, which archives are compared by.
        let is_at_border = self.is_epoch_executed();
        if is_at_border {
            self.counters.count(Event::EpochsEnded);
        }
        if period == self.digest_period && !is_at_border {
            return;
        }
        self.digest_period = period;
        let digest = self.digest_now();
        self.digests.record(self.applied, digest);
        self.compare_digests(self.applied);
    }
}

/// What a client is told about a request that was executed.
struct Told {
    /// The op of the reply: for a register the one that opened the session.
    op: Op,
    size: usize,
    /// Of that many bytes in the reply's buffer, made for the session that keeps them.
    checksum: Checksum,
}

/// The header of the entry `op`, after every byte of the entry was verified: the header by its own
/// checksum, each request by the one that its client made (M2). Only when one of those is wrong is
/// the body read again, to tell damage here (none is returned) from damage that was replicated
/// (false is returned: not every request is intact).
fn read_for_execution(journal: &Journal, op: Op, believed: bool) -> Option<(Header, bool)> {
    let (header, body) = journal.read_unverified_body(op).ok()?;
    let whole = believed
        || Batch::parse(body).is_ok_and(|batch| {
            let mut requests = batch.requests();
            requests.by_ref().all(|request| request.is_intact()) && requests.is_whole()
        });
    if !whole && journal.read(op).is_err() {
        return None;
    }
    Some((*header, whole))
}

/// Executes one request: every replica does the same with it (R1.4, R1.5).
fn execute_request<S: StateMachine>(
    sessions: &mut crate::sessions::Sessions,
    machine: &mut S,
    counters: &mut crate::Counters,
    at: &Context,
    request: &Request<'_>,
    reply_buffer: &mut [u8],
) -> Option<Told> {
    let header = request.header();
    let executed = |request| Executed {
        request,
        request_checksum: header.checksum(),
        op: at.stamp.op,
        index: at.index,
    };
    if Operation::from_raw(header.operation) == Some(Operation::Register) {
        let slot = sessions.slot_of(at.client);
        if sessions.is_damage_met() {
            return None;
        }
        let slot = slot.unwrap_or_else(|| {
            counters.count(Event::SessionsOpened);
            let held = sessions.open(at.client, at.stamp.epoch, at.stamp.op);
            sessions.store(&held, executed(RequestNumber::ZERO), &[]);
            held.slot()
        });
        let session = sessions.session_number(slot)?;
        return Some(Told {
            op: Op::new(session.raw()),
            size: 0,
            checksum: checksum(&[]),
        });
    }
    let verdict = sessions.verdict(at.client, header.session, header.request, header.checksum());
    // By reference: its entry is not copied once more.
    let Verdict::Next(held) = &verdict else {
        // R1.4: the same no-op on every replica. The client asks again and is told why then.
        counters.count(Event::NoOps);
        return None;
    };
    let size = machine.apply(at, request.operation(), reply_buffer);
    if machine.damaged().is_some() {
        return None;
    }
    assert!(size <= reply_buffer.len(), "a reply fits into its buffer");
    let checksum = sessions.store(held, executed(header.request), &reply_buffer[..size]);
    Some(Told {
        op: at.stamp.op,
        size,
        checksum,
    })
}
