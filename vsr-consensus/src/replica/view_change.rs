//! Leaving a view and starting the next (N11, N12).
//!
//! A backup that does not hear its primary says so (`start_view_change`) and stays where it is: one
//! deaf replica disturbs nobody. When a quorum says so, or a vote proves that a quorum did, the view is
//! left: nothing is acknowledged any more, and one vote, the log as it is, goes to everybody and is
//! never changed (`do_view_change`). The next view's primary collects votes until a quorum agrees on
//! who is alive, chooses the log, makes it whole, executes what is committed, and only then leads
//! (`start_view`).
//!
//! ```text
//!            a quorum suspects, or a vote of a newer view           start_view
//!   Normal ------------------------------------------> ViewChange -------------> Normal (backup)
//!                                                        |    ^
//!     the elect: quorum of votes -> chosen -> whole ->   |    | no start_view in time, and a
//!     executed -> Normal (primary)  <--------------------'    | quorum wants the next one
//!                                                        '----'
//! ```

mod elect;
#[cfg(feature = "sim")]
mod fingerprint;

use alloc::boxed::Box;
use alloc::vec;
use core::time::Duration;

use bytemuck::Zeroable;
use vsr_types::body::{self, LogSuffix};
use vsr_types::limits::REPLICAS_MAX;
use vsr_types::memory::touch;
use vsr_types::message::{DoViewChange, GetView, StartView, StartViewChange};
use vsr_types::{
    Checksum, CrashVector, Frame, Header, Incarnation, Instant, Nonce, ReplicaIndex, View,
    checksum, limits,
};

use super::admit::Handled;
use super::log::{SUFFIX_SIZE_MAX, read_headers, suffix_length};
use super::log_choice::{ChosenLog, Vote};
use super::unserved::Unserved;
use super::{Replica, Status};
use crate::counters::Event;
use crate::mutants::Mutant;
use crate::{Config, DropReason, HaltReason, Outbox, Sent, StateMachine};

/// How long a primary goes on without an answer from a quorum (T_abdicate).
const ABDICATE_TICKS: u32 = 8;
/// How many ticks lie between two `start_view_change` of one suspicion, and how long one counts.
const SUSPECT_TICKS: u32 = 2;
const SUSPICION_TICKS: u32 = 6;
/// How many ticks lie between two copies of a vote.
const VOTE_TICKS: u32 = 3;
/// How long a view may take to start (T_vc), doubled with each that failed.
const CHANGE_TICKS: u32 = 10;
/// How often that is doubled at most: a cluster that was torn for long is served again within seconds of
/// being healed.
const DOUBLINGS_MAX: u32 = 4;
/// How many ticks the silence of a replica may last before it is passed over as the next primary: pings
/// come every ten.
const LATELY_TICKS: u32 = 25;
/// How many ticks of jitter a backup adds to its patience, so that not all suspect at once.
const JITTER_TICKS: u32 = 5;
/// How many ticks a planned hand-over may take before it is given up.
const HAND_OVER_TICKS: u32 = 50;

/// A vote as it was received.
#[derive(Debug)]
struct Stored {
    /// Which life of the sender gave it; none: no vote.
    from: Option<Incarnation>,
    fields: DoViewChange,
    suffix: LogSuffix,
    headers: Box<[Header]>,
    count: usize,
    /// Over all of that: it waits until a quorum has voted, and a log is chosen by it (N19).
    check: u64,
}

impl Stored {
    fn computed_check(&self) -> u64 {
        let Some(from) = self.from else {
            return 0;
        };
        let headers = &self.headers[..self.count];
        let parts = [
            checksum(bytemuck::bytes_of(&from)),
            checksum(bytemuck::bytes_of(&self.fields)),
            checksum(bytemuck::bytes_of(&self.suffix)),
            checksum(bytemuck::cast_slice(headers)),
        ];
        let mix = |sum: u64, part: Checksum| {
            (sum ^ u64::from(part.raw())).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        };
        parts.into_iter().fold(self.count as u64, mix)
    }

    /// Whether it is what was received.
    fn is_sound(&self) -> bool {
        self.count <= self.headers.len() && self.check == self.computed_check()
    }

    fn new(config: &Config) -> Self {
        Self {
            from: None,
            fields: DoViewChange::zeroed(),
            suffix: LogSuffix::zeroed(),
            headers: vec![Header::zeroed(); suffix_length(config)].into_boxed_slice(),
            count: 0,
            check: 0,
        }
    }

    fn set(
        &mut self,
        from: Incarnation,
        fields: DoViewChange,
        suffix: LogSuffix,
        headers: &[Header],
    ) {
        self.from = Some(from);
        self.fields = fields;
        self.suffix = suffix;
        self.count = headers.len();
        self.headers[..self.count].copy_from_slice(headers);
        self.check = self.computed_check();
    }

    fn vote(&self) -> Vote<'_> {
        Vote::new(self.fields, &self.suffix, &self.headers[..self.count])
    }
}

/// What a replica knows of the view that is to come.
#[derive(Debug)]
pub(super) struct Change {
    /// When the primary last showed that it is alive (R4.1).
    heard_at: Instant,
    /// How long a backup waits for the next sign of it.
    patience: Duration,
    /// Whether this replica wants to leave its view.
    suspecting: bool,
    /// Whether this primary has stopped leading, because it hears too few (R4.3).
    abdicated: bool,
    /// Whom this primary lets take over, and until when it tries.
    successor: Option<(ReplicaIndex, Instant)>,
    /// Since when the present status lasts.
    since: Instant,
    /// When the suspicion or the vote is repeated.
    repeat_at: Instant,
    /// When the view has taken too long to start.
    give_up_at: Instant,
    /// Clients that the primary of this view does not serve.
    pub(super) unserved: Unserved,
    /// How many views have failed since something was committed.
    failures: u32,
    /// The view each peer wants, and when it said so.
    wanted: [(View, Instant); REPLICAS_MAX],
    votes: Box<[Stored]>,
    /// This replica's own vote, as it is sent (R5.2).
    own: Box<[u8]>,
    own_size: usize,
    own_check: Checksum,
    chosen: Option<ChosenLog>,
    /// When a peer may be asked for its view again.
    ask_view_at: Instant,
    /// Headers are read from messages into here.
    received: Box<[Header]>,
    /// The end of the chosen log is written into here.
    choice: Box<[Header]>,
}

impl Change {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            heard_at: Instant::ZERO,
            patience: config.view_timeout,
            suspecting: false,
            abdicated: false,
            successor: None,
            since: Instant::ZERO,
            repeat_at: Instant::ZERO,
            give_up_at: Instant::ZERO,
            unserved: Unserved::default(),
            failures: 0,
            wanted: [(View::ZERO, Instant::ZERO); REPLICAS_MAX],
            votes: (0..config.replicas).map(|_| Stored::new(config)).collect(),
            own: vec![0; SUFFIX_SIZE_MAX].into_boxed_slice(),
            own_size: 0,
            own_check: Checksum::default(),
            chosen: None,
            ask_view_at: Instant::ZERO,
            received: vec![Header::zeroed(); suffix_length(config)].into_boxed_slice(),
            choice: vec![Header::zeroed(); suffix_length(config)].into_boxed_slice(),
        }
    }

    /// What this replica's own vote takes.
    pub(super) const OWN_SIZE: usize = SUFFIX_SIZE_MAX;

    /// What each replica's vote takes.
    pub(super) const fn vote_size(config: &Config) -> usize {
        size_of::<Stored>() + suffix_length(config) * size_of::<Header>()
    }

    /// How many votes for the view are here.
    pub(super) fn votes_held(&self) -> usize {
        let votes = self.votes.iter();
        votes.filter(|vote| vote.from.is_some()).count()
    }

    /// Touches what was allocated: nothing is in it yet.
    pub(super) fn prefault(&mut self) {
        touch(&mut self.own);
        touch(bytemuck::cast_slice_mut(&mut self.received));
        touch(bytemuck::cast_slice_mut(&mut self.choice));
        for vote in &mut self.votes {
            touch(bytemuck::cast_slice_mut(&mut vote.headers));
        }
    }

    /// A view is normal: what led to it is over.
    pub(super) fn on_normal(&mut self, now: Instant) {
        self.heard_at = now;
        self.since = now;
        self.suspecting = false;
        self.unserved = Unserved::default();
        self.abdicated = false;
        self.successor = None;
        self.forget_votes();
    }

    fn computed_own_check(&self) -> Checksum {
        checksum(&self.own[..self.own_size])
    }

    /// Flips a bit of a vote, as memory does.
    #[cfg(feature = "flip")]
    pub(super) fn flip_vote(&mut self, replica: ReplicaIndex, bit: usize) -> bool {
        let vote = &mut self.votes[replica.as_usize()];
        let mut regions = [
            bytemuck::bytes_of_mut(&mut vote.fields),
            bytemuck::bytes_of_mut(&mut vote.suffix),
            bytemuck::cast_slice_mut(&mut vote.headers[..vote.count]),
        ];
        vote.from.is_some() && super::flip::flip_in(&mut regions, bit)
    }

    /// Flips a bit of the own vote, as it is sent.
    #[cfg(feature = "flip")]
    pub(super) fn flip_own_vote(&mut self, bit: usize) -> bool {
        super::flip::flip_bit(&mut self.own[..self.own_size], bit)
    }

    fn forget_votes(&mut self) {
        self.chosen = None;
        for vote in &mut self.votes {
            vote.from = None;
        }
    }

    /// Something was committed.
    pub(super) const fn on_progress(&mut self) {
        self.failures = 0;
    }

    /// Whether this primary has stopped leading for want of an audience.
    pub(super) const fn has_abdicated(&self) -> bool {
        self.abdicated
    }

    /// Whether this primary accepts nothing at the moment.
    pub(super) const fn accepts_nothing(&self) -> bool {
        self.abdicated || self.successor.is_some()
    }

    /// The view in whose log the elect found the new view's.
    pub(super) fn chosen_from(&self) -> Option<View> {
        self.chosen.map(|chosen| chosen.log_view)
    }
}

impl<S: StateMachine> Replica<S> {
    /// When this room wants the deadline to come.
    pub(super) fn change_deadline(&self) -> Instant {
        let change = &self.change;
        match self.status {
            Status::Normal if self.config.replicas == 1 => Instant::FAR_FUTURE,
            // Watched at its heartbeats.
            Status::Normal if self.is_primary() => Instant::FAR_FUTURE,
            Status::Normal if change.suspecting => change.repeat_at,
            Status::Normal => change.heard_at.after(change.patience),
            Status::ViewChange => change.give_up_at.min(change.repeat_at),
            Status::Blank(_) | Status::Recovering | Status::Halted(_) => Instant::FAR_FUTURE,
        }
    }

    /// A new primary is watched with new patience.
    pub(super) fn watch_primary(&mut self) {
        let jitter = self.config.tick * JITTER_TICKS;
        let jitter = u64::try_from(jitter.as_nanos()).unwrap_or(u64::MAX).max(1);
        let jitter = Duration::from_nanos(self.random.next() % jitter);
        self.change.patience = self.config.view_timeout + jitter;
    }

    /// When the primary was last known to be alive.
    pub(super) const fn change_heard_at(&self) -> Instant {
        self.change.heard_at
    }

    /// The primary of this view is alive.
    pub(super) fn hear_primary(&mut self) {
        self.change.heard_at = self.now.monotonic;
        self.change.suspecting = self.change.is_unserved(self.commit);
    }

    /// The primary's process has lost its memory: it will not lead this view again (L4), so there is
    /// nothing to wait for.
    pub(super) fn primary_is_lost(&mut self) {
        if self.is_normal() && !self.is_primary() && !self.change.suspecting {
            self.change.suspecting = true;
            self.change.repeat_at = self.now.monotonic;
        }
    }

    /// At a backup's deadline.
    pub(super) fn suspect_primary(&mut self, out: &mut impl Outbox) {
        if self.now.monotonic < self.change_deadline() || self.config.replicas == 1 {
            return;
        }
        self.change.suspecting = true;
        self.want_next_view(out);
    }

    /// At a primary's heartbeat: check-quorum (R4.3), and a planned hand-over.
    pub(super) fn watch_backups(&mut self, out: &mut impl Outbox) {
        let now = self.now.monotonic;
        self.heartbeat_at = now.after(self.config.tick);
        let patience = self.config.tick * ABDICATE_TICKS;
        let since = now.before(patience);
        let hears_enough = self.links.answered_since(since) + 1 >= self.config.quorum();
        let is_new = now.since(self.change.since) < patience;
        self.change.abdicated = !hears_enough && !is_new && !self.is_off(Mutant::NeverAbdicate);
        self.change.suspecting = self.change.abdicated;
        if self.change.abdicated && now >= self.change.repeat_at {
            self.want_next_view(out);
        }
        self.go_on_handing_over(out);
    }

    /// From now on nothing is accepted; `target` takes over when what is in flight is done.
    pub(super) fn hand_over_to(&mut self, target: ReplicaIndex) {
        let until = self.now.monotonic.after(self.config.tick * HAND_OVER_TICKS);
        self.change.successor = Some((target, until));
        self.heartbeat_at = self.now.monotonic;
    }

    fn go_on_handing_over(&mut self, out: &mut impl Outbox) {
        let Some((target, until)) = self.change.successor else {
            return;
        };
        // R10.5: what waits for an archive has no op yet; its clients ask the successor.
        let is_done = (self.batch.count() == 0 || self.waits_at_border())
            && self.applied == self.op()
            && self.links.applied_of(target)
                >= self.op().minus(self.config.pipeline_length() as u64);
        if is_done {
            self.counters.count(Event::HandedOver);
            let view = self.next_view_of(target);
            self.enter_view_change(view, out);
        } else if self.now.monotonic >= until {
            // It does not keep up: lead on.
            self.change.successor = None;
        }
    }

    /// The next view whose primary is this replica or one that was heard of lately: waiting for the dead
    /// to start a view helps nobody.
    fn next_view(&self) -> View {
        let replicas = self.config.replicas;
        let since = self.now.monotonic.before(self.config.tick * LATELY_TICKS);
        let mut view = self.view.next();
        for _ in 1..replicas {
            let primary = view.primary(replicas);
            if primary == self.me() || self.links.heard_since(primary, since) {
                return view;
            }
            view = view.next();
        }
        self.view.next()
    }

    /// Says that the next view is wanted, and goes there when a quorum wants it.
    fn want_next_view(&mut self, out: &mut impl Outbox) {
        let view = self.next_view();
        self.change.repeat_at = self.now.monotonic.after(self.config.tick * SUSPECT_TICKS);
        let mut letterhead = self.letterhead();
        letterhead.set_view(view);
        let header = letterhead.sealed(StartViewChange::zeroed(), &[]);
        for peer in self.peers() {
            let _: Sent = self.send_to_peer(out, peer, &header, &[]);
        }
        self.leave_if_wanted(out);
    }

    pub(super) fn on_start_view_change(
        &mut self,
        frame: &Frame<'_>,
        out: &mut impl Outbox,
    ) -> Handled {
        let peer = frame.header().replica();
        let view = frame.header().view();
        self.links.heard(peer, self.now.monotonic);
        if view <= self.view {
            // It has missed that its view is over.
            if self.is_normal() {
                self.send_start_view(peer, Nonce::ZERO, out);
            }
            return Err(DropReason::OlderView);
        }
        self.change.wanted[peer.as_usize()] = (view, self.now.monotonic);
        self.leave_if_wanted(out);
        Ok(())
    }

    /// R5.1: the newest view that a quorum wants. This replica's own wish counts while it suspects.
    fn leave_if_wanted(&mut self, out: &mut impl Outbox) {
        let now = self.now.monotonic;
        let lasts = self.config.tick * SUSPICION_TICKS;
        let own = u8::from(self.change.suspecting);
        let needed = if self.is_off(Mutant::OneVote) {
            1
        } else {
            self.config.quorum()
        };
        let is_fresh = |&(view, at): &(View, Instant)| view > self.view && now.since(at) <= lasts;
        let wanted = &self.change.wanted;
        let supporters = |view: View| {
            let for_it = |entry: &&(View, Instant)| is_fresh(entry) && entry.0 >= view;
            wanted.iter().filter(for_it).count() as u8 + own
        };
        let own_wish = self.change.suspecting.then(|| self.next_view());
        let candidates = wanted
            .iter()
            .filter(|entry| is_fresh(entry))
            .map(|entry| entry.0);
        let newest = candidates
            .chain(own_wish)
            .filter(|&view| supporters(view) >= needed)
            .max();
        if let Some(view) = newest {
            self.enter_view_change(view, out);
        }
    }

    /// Leaves the view (R5.2): from here on nothing is acknowledged, and the log stays as it is.
    pub(super) fn enter_view_change(&mut self, view: View, out: &mut impl Outbox) {
        assert!(view > self.view, "a view is left for a newer one");
        assert!(
            matches!(self.status, Status::Normal | Status::ViewChange),
            "only a member leaves a view (R6.7)"
        );
        self.counters.count(Event::ViewsLeft);
        self.status = Status::ViewChange;
        self.view = view;
        self.end_untouched_transfer();
        self.forget_leading();
        self.links.reset(self.now.monotonic);
        let now = self.now.monotonic;
        let doublings = self.change.failures.min(DOUBLINGS_MAX);
        let doublings = if self.is_off(Mutant::NoBackoff) {
            0
        } else {
            doublings
        };
        let patience = self.config.tick * (CHANGE_TICKS << doublings);
        let change = &mut self.change;
        change.failures = change.failures.saturating_add(1);
        change.suspecting = false;
        change.abdicated = false;
        change.successor = None;
        change.since = now;
        change.give_up_at = now.after(self.random.jitter(patience));
        change.forget_votes();
        self.make_vote();
        self.send_vote(out);
        if self.is_primary() {
            self.choose_log(out);
        }
    }

    /// Makes this replica's vote for the view: once, from the log as it was when the view was left.
    fn make_vote(&mut self) {
        let mut own = core::mem::take(&mut self.change.own);
        let size = self.write_suffix(&mut own);
        let op = if self.is_off(Mutant::ForgetHeaders) {
            self.held
        } else {
            self.log_head()
        };
        let fields = DoViewChange {
            log_view: self.log_view,
            op: self.log_head(),
            applied: self.applied,
            commit: self.commit.min(self.log_head()),
            tail: self.journal.tail(),
        };
        let suffix: LogSuffix = body::read(&own[..size]).expect("written just now");
        let names = self.op_max();
        let vote = &mut self.change.votes[self.config.replica.as_usize()];
        let bytes = &own[size_of::<LogSuffix>()..size];
        let into = &mut vote.headers;
        let read = read_headers(bytes, suffix.count, fields.op, true, names, into);
        let count = read.expect("a replica's own log is linked").len();
        // A sound replica keeps them all.
        let kept = count - fields.op.distance_from(op).min(count as u64) as usize;
        vote.from = Some(self.incarnation);
        vote.fields = DoViewChange { op, ..fields };
        vote.suffix = LogSuffix {
            count: kept as u64,
            ..suffix
        };
        vote.count = kept;
        vote.check = vote.computed_check();
        own[..size_of::<LogSuffix>()].copy_from_slice(bytemuck::bytes_of(&vote.suffix));
        self.change.own_size = size_of::<LogSuffix>() + kept * size_of::<Header>();
        self.marks.own_vote = self.marks.own_vote.max(self.change.own_size);
        self.marks.votes = self.marks.votes.max(self.change.votes_held());
        self.change.own = own;
        self.change.own_check = self.change.computed_own_check();
    }

    /// Sends the vote to everybody: to the elect, who counts it, and to the others as the proof that a
    /// quorum wanted the view.
    fn send_vote(&mut self, out: &mut impl Outbox) {
        self.change.repeat_at = self.now.monotonic.after(self.config.tick * VOTE_TICKS);
        let mine = &self.change.votes[self.me().as_usize()];
        let is_sound = mine.is_sound() && self.change.own_check == self.change.computed_own_check();
        if !is_sound && !self.is_off(Mutant::VotesUnverified) {
            // R6.8: a promise that is not what was promised, and the first one may have been heard.
            self.is_untrusted = true;
            return;
        }
        let fields = self.change.votes[self.me().as_usize()].fields;
        let own = core::mem::take(&mut self.change.own);
        let body = &own[..self.change.own_size];
        let header = self.letterhead().sealed(fields, body);
        for peer in self.peers() {
            let _: Sent = self.send_to_peer(out, peer, &header, body);
        }
        self.change.own = own;
    }

    pub(super) fn on_view_change_deadline(&mut self, out: &mut impl Outbox) {
        let now = self.now.monotonic;
        if self.can_start_view() {
            self.start_view(out);
            return;
        }
        if now >= self.change.give_up_at && !self.change.suspecting {
            // Not alone: the next view is entered when a quorum has lost patience.
            self.change.suspecting = true;
            self.change.give_up_at = now;
        }
        if now >= self.change.repeat_at {
            self.send_vote(out);
        }
        if self.change.suspecting && now >= self.change.give_up_at {
            self.change.give_up_at = now.after(self.config.tick * SUSPECT_TICKS);
            self.want_next_view(out);
        }
        if self.status == Status::ViewChange {
            self.on_repair_timeout(out);
        }
    }

    pub(super) fn on_do_view_change(
        &mut self,
        frame: &Frame<'_>,
        out: &mut impl Outbox,
    ) -> Handled {
        let fields = *frame
            .fields::<DoViewChange>()
            .ok_or(DropReason::Malformed)?;
        let suffix: LogSuffix = body::read(frame.body()).ok_or(DropReason::Malformed)?;
        let view = frame.header().view();
        let voter = frame.header().replica();
        self.links.heard(voter, self.now.monotonic);
        if view < self.view {
            return Err(DropReason::OlderView);
        }
        if fields.log_view >= view || fields.applied > fields.op || fields.commit > fields.op {
            return Err(DropReason::Malformed);
        }
        let mut headers = core::mem::take(&mut self.change.received);
        let bytes = &frame.body()[size_of::<LogSuffix>()..];
        let (op, names) = (fields.op, self.op_max());
        let read = read_headers(bytes, suffix.count, op, true, names, &mut headers);
        let handled = match read {
            Some(read) => self.take_vote(frame, fields, suffix, read, out),
            None => Err(DropReason::Malformed),
        };
        self.change.received = headers;
        handled?;
        if self.status == Status::ViewChange && self.is_primary() {
            self.choose_log(out);
        }
        Ok(())
    }

    fn take_vote(
        &mut self,
        frame: &Frame<'_>,
        fields: DoViewChange,
        suffix: LogSuffix,
        headers: &[Header],
        out: &mut impl Outbox,
    ) -> Handled {
        let view = frame.header().view();
        let voter = frame.header().replica();
        self.join_vector(&suffix.crash_vector)?;
        if view == self.view && self.is_normal() {
            // It has missed the start.
            self.send_start_view(voter, Nonce::ZERO, out);
            return Err(DropReason::Duplicate);
        }
        if view > self.view {
            // R5.1: a vote proves that a quorum wanted the view.
            self.enter_view_change(view, out);
        }
        if !self.is_primary() {
            return Ok(());
        }
        let incarnation = frame.header().incarnation();
        let stored = &mut self.change.votes[voter.as_usize()];
        if stored.from.is_some_and(|from| from >= incarnation) {
            // R5.2: a life votes once per view.
            return Err(DropReason::Duplicate);
        }
        stored.set(incarnation, fields, suffix, headers);
        self.marks.votes = self.marks.votes.max(self.change.votes_held());
        self.marks.received = self.marks.received.max(headers.len());
        Ok(())
    }

    /// R0.2: knowledge of lives is joined, except of one's own: who hears of a later life of itself is
    /// the former one and stops (trace T10).
    pub(super) fn join_vector(&mut self, theirs: &CrashVector) -> Handled {
        let me = self.me();
        for replica in ReplicaIndex::all(self.config.replicas) {
            let (known, told) = (self.crash_vector.of(replica), theirs.of(replica));
            if told.counter > known.counter.saturating_add(limits::LEAP_MAX) {
                return Err(DropReason::ImplausibleNumber);
            }
        }
        if theirs.of(me) > self.incarnation {
            if self.is_off(Mutant::AdoptOwnEntry) {
                self.incarnation = theirs.of(me);
                self.crash_vector.raise(me, self.incarnation);
                return Ok(());
            }
            self.enter_halted(HaltReason::Superseded);
            return Err(DropReason::StaleIncarnation);
        }
        for replica in ReplicaIndex::all(self.config.replicas).filter(|&replica| replica != me) {
            let told = theirs.of(replica);
            if told > self.crash_vector.of(replica) {
                self.raise_incarnation(replica, told)?;
            }
        }
        Ok(())
    }

    /// Tells a replica how this view began, or how its log looks now.
    fn send_start_view(&mut self, to: ReplicaIndex, nonce: Nonce, out: &mut impl Outbox) {
        assert!(
            self.is_normal(),
            "only a view that has started is told (R5.8)"
        );
        let mut own = core::mem::take(&mut self.change.own);
        let size = self.write_suffix(&mut own);
        let fields = StartView {
            op: self.log_head(),
            commit: self.commit.min(self.log_head()),
            nonce,
            reserved: 0,
        };
        let _: Sent = self.send(out, to, fields, &own[..size]);
        self.change.own = own;
    }

    pub(super) fn on_start_view(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let start = *frame.fields::<StartView>().ok_or(DropReason::Malformed)?;
        let suffix: LogSuffix = body::read(frame.body()).ok_or(DropReason::Malformed)?;
        let view = frame.header().view();
        self.links
            .heard(frame.header().replica(), self.now.monotonic);
        if view < self.view {
            return Err(DropReason::OlderView);
        }
        if view == self.view && self.is_normal() && !self.is_off(Mutant::StartViewTwice) {
            // R5.7, trace T13: a log that has grown since is not reset.
            return Err(DropReason::Duplicate);
        }
        if view.primary(self.config.replicas) == self.me() {
            // Nobody else starts a view of this replica's.
            return Err(DropReason::NotFromPrimary);
        }
        if start.commit > start.op {
            return Err(DropReason::Malformed);
        }
        let mut headers = core::mem::take(&mut self.change.received);
        let bytes = &frame.body()[size_of::<LogSuffix>()..];
        let (op, names) = (start.op, self.op_max());
        let read = read_headers(bytes, suffix.count, op, true, names, &mut headers);
        let handled = match read {
            Some(read) => {
                self.marks.received = self.marks.received.max(read.len());
                let blank = |header: &&Header| header.command().is_none();
                let known = read.len() - read.iter().rev().take_while(|h| !blank(h)).count();
                self.follow(view, &start, &read[known..], out)
            }
            None => Err(DropReason::Malformed),
        };
        self.change.received = headers;
        handled
    }

    /// Becomes a backup of a view that has started.
    fn follow(
        &mut self,
        view: View,
        start: &StartView,
        headers: &[Header],
        out: &mut impl Outbox,
    ) -> Handled {
        if let Err(conflict) = self.install_log(headers, start.op) {
            self.enter_halted(HaltReason::Divergence { op: conflict.op });
            return Ok(());
        }
        self.view = view;
        self.commit = self.commit.max(start.commit);
        self.enter_normal();
        self.counters.count(Event::ViewsFollowed);
        self.ack_due = true;
        self.repair
            .note_target(start.op, self.op(), self.now.monotonic);
        self.repair_now(out);
        Ok(())
    }

    pub(super) fn on_get_view(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let wanted = *frame.fields::<GetView>().ok_or(DropReason::Malformed)?;
        if !self.is_normal() || frame.header().view() > self.view {
            return Err(DropReason::WrongStatus);
        }
        self.send_start_view(frame.header().replica(), wanted.nonce, out);
        Ok(())
    }

    /// R2.7, R8.3: who hears of a newer view asks for its beginning and changes nothing until it has
    /// that (traces T12 and T15).
    pub(super) fn ask_view(&mut self, of: ReplicaIndex, out: &mut impl Outbox) {
        let is_member = matches!(self.status, Status::Normal | Status::ViewChange);
        if !is_member || self.now.monotonic < self.change.ask_view_at || of == self.me() {
            return;
        }
        self.change.ask_view_at = self.now.monotonic.after(self.config.tick);
        let question = GetView {
            nonce: Nonce::ZERO,
            reserved: [0; 3],
        };
        let _: Sent = self.send(out, of, question, &[]);
    }
}
