//! One real replica under the explorer's hands: an input, everything it decides at once, and what that
//! made true.
//!
//! No time passes while messages arrive. What stands for "time goes by" is a step of its own: it moves
//! this replica's clock, and no other's, to the deadline that is meant.

use core::time::Duration;
use std::collections::BTreeSet;
use std::format;
use std::string::String;

use std::vec::Vec;

use vsr_types::body::{BootNonces, DigestReport};
use vsr_types::message::{self, InitCommit, InitPropose, PeerStatus, Ping, StartViewChange};
use vsr_types::{
    ClientId, ClusterId, Command, Digest, Epoch, Frame, HEADER_SIZE, Header, Incarnation, Instant,
    MemberId, Nonce, Now, Op, Operation, ReplicaIndex, RequestHeader, RequestNumber, SessionNumber,
    Timestamp, limits,
};

use super::Bounds;
use super::judge::{Fact, entry};
use super::messages::{MessageId, Messages};
use crate::replica::fingerprint::{Fingerprint, Sight};
use crate::sessions::mix;
use crate::sim::panics;
use crate::{
    Boot, Config, Context, ImageError, Input, Outbox, Refusal, Replica, Scrub, Sent, Settings,
    StateMachine,
};

const CLUSTER: ClusterId = ClusterId::new(0xFEED);
const TOKEN: Nonce = Nonce::new(0x70CE);
const START: Instant = Instant::from_nanos(1_000_000_000);
/// Work that needs no time is done after so many deadlines at most.
const SETTLE_MAX: u32 = 100;

/// The smallest state there is: nothing.
#[derive(Debug)]
pub(super) struct Nothing;

impl StateMachine for Nothing {
    fn validate(&self, _: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }

    fn apply(&mut self, _: &Context, _: &[u8], _: &mut [u8]) -> usize {
        0
    }

    fn query(&self, _: &Context, _: &[u8], _: &mut [u8]) -> usize {
        0
    }

    fn digest(&self) -> Digest {
        Digest::ZERO
    }

    fn image_chunks(&self) -> u64 {
        0
    }

    fn image_chunk_size(&self) -> usize {
        1
    }

    fn image_changed_at(&self, _: u64) -> Op {
        Op::ZERO
    }

    fn image_read(&self, _: u64, _: &mut [u8]) -> usize {
        0
    }

    fn image_begin(&mut self, _: u64) -> Result<(), ImageError> {
        Ok(())
    }

    fn image_put(&mut self, _: u64, _: &[u8]) -> Result<(), ImageError> {
        Ok(())
    }

    fn image_finish(&mut self, _: Op) -> Result<(), ImageError> {
        Ok(())
    }

    fn scrub(&mut self, _: usize) -> Scrub {
        Scrub::Clean
    }
}

/// What happens to one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A message arrives.
    Deliver(MessageId),
    /// A new client asks for a session: the operation that is to be committed.
    Request(u8),
    /// It loses patience with its primary, or with the view that does not start.
    Suspect,
    /// As a primary, it speaks.
    Beat,
    /// It asks for what it misses.
    Fetch,
}

impl Step {
    /// As a number, for tables.
    pub(super) const fn code(self) -> u64 {
        match self {
            Self::Deliver(id) => id as u64,
            Self::Request(client) => 1 << 32 | client as u64,
            Self::Suspect => 2 << 32,
            Self::Beat => 3 << 32,
            Self::Fetch => 4 << 32,
        }
    }
}

/// What a step led to.
#[derive(Clone, Debug, Default)]
pub(super) struct Effects {
    pub(super) sent: Vec<MessageId>,
    pub(super) facts: Vec<Fact>,
    /// A broken invariant, or a replica that stopped because two logs contradict each other.
    pub(super) failure: Option<String>,
}

/// A replica's way out.
#[derive(Default)]
struct Exit {
    peers: Vec<(u8, Header, Vec<u8>)>,
}

impl Outbox for Exit {
    fn peer(&mut self, to: ReplicaIndex, header: &Header, body: &[u8]) -> Sent {
        let is_idle = matches!(header.command(), Some(Command::Ping | Command::Pong));
        if !is_idle {
            self.peers.push((to.raw(), *header, body.to_vec()));
        }
        Sent::Queued
    }

    fn client(&mut self, _: ClientId, _: &Header, _: &[u8]) -> Sent {
        Sent::Queued
    }

    fn sender(&mut self, _: &Header, _: &[u8]) -> Sent {
        Sent::Queued
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Node {
    replica: Replica<Nothing>,
    index: u8,
    life: u32,
    now: Instant,
    /// What was last told to all: view, head, commit.
    told: (u64, u64, u64),
    /// Everything that ever lay in the journal: a slot may still show it.
    ever: BTreeSet<(u64, u64)>,
    /// See [`Bounds::detours`].
    detours: bool,
}

const fn nonce(index: u8, life: u32) -> Nonce {
    Nonce::new(((life as u128) << 64) + 0xB007 + index as u128 * 0x0101_0101)
}

const fn member(index: u8) -> MemberId {
    MemberId::new(0xA000 + index as u128)
}

/// The life that `index` begins a new cluster with.
pub(super) const fn first_life(index: u8) -> Incarnation {
    Incarnation {
        counter: 0,
        random: nonce(index, 0).raw() as u64,
    }
}

fn life_number(life: Incarnation) -> u64 {
    mix(mix(life.counter) ^ life.random)
}

/// The life that leads view 0, as the judge knows it.
pub(super) fn founder() -> u64 {
    life_number(first_life(0))
}

fn frame(header: &Header, body: &[u8]) -> Vec<u8> {
    [bytemuck::bytes_of(header), body].concat()
}

/// The word of `from` that it is well.
fn ping(from: u8) -> Vec<u8> {
    let mut header = Header::new(Ping {
        sent_ns: 0,
        op: Op::ZERO,
        applied: Op::ZERO,
        tail: Op::ZERO,
        status: PeerStatus::Normal as u8,
        reserved: [0; 7],
    });
    header.set_cluster(CLUSTER);
    header.set_sender(ReplicaIndex::new(from), member(from), first_life(from));
    let body = DigestReport::default();
    header.seal(bytemuck::bytes_of(&body));
    frame(&header, bytemuck::bytes_of(&body))
}

/// What an operator's tool sends to form the cluster.
fn founding(replicas: u8) -> [Vec<u8>; 2] {
    let mut propose = Header::new(InitPropose {
        cluster: CLUSTER,
        token: TOKEN,
        reserved: 0,
    });
    propose.seal(&[]);
    let mut nonces: BootNonces = bytemuck::Zeroable::zeroed();
    for index in 0..replicas {
        nonces.nonces[usize::from(index)] = nonce(index, 0);
    }
    let mut commit = Header::new(InitCommit {
        cluster: CLUSTER,
        token: TOKEN,
        reserved: 0,
    });
    commit.seal(bytemuck::bytes_of(&nonces));
    [
        frame(&propose, &[]),
        frame(&commit, bytemuck::bytes_of(&nonces)),
    ]
}

/// A client's request for a session.
fn register(client: u8) -> Vec<u8> {
    let client = ClientId::new(0xC11E_0000 + u128::from(client));
    let (session, number) = (SessionNumber::ZERO, RequestNumber::ZERO);
    let mut request = RequestHeader::new(Operation::Register, client, Epoch::ZERO, session, number);
    request.seal(&[]);
    let mut header = Header::new(message::Request { reserved: [0; 5] });
    header.set_cluster(CLUSTER);
    header.seal_with(request.size(), request.checksum());
    frame(&header, bytemuck::bytes_of(&request))
}

fn config(index: u8, bounds: &Bounds) -> Config {
    let mut settings = Settings::new(ReplicaIndex::new(index), bounds.replicas);
    settings.pipeline = 2;
    settings.journal_slots = 8;
    settings.batch_size_max = limits::BATCH_SIZE_MIN;
    settings.journal_bytes = 4 * limits::BATCH_SIZE_MIN;
    settings.sessions = 2;
    settings.reply_bytes = 2 * limits::REPLY_SIZE_MAX;
    settings.query_bytes = limits::FRAME_SIZE_MAX + HEADER_SIZE;
    settings.tick = Duration::from_millis(10);
    settings.chain = bounds.chain;
    #[cfg(feature = "mutate")]
    {
        settings.mutant = bounds.mutant;
    }
    settings
        .validate()
        .expect("the explorer's settings make sense")
}

/// # Beginnings
impl Node {
    fn blank(index: u8, life: u32, bounds: &Bounds) -> Self {
        let boot = Boot {
            member: member(index),
            nonce: nonce(index, life),
            seed: u64::from(index),
        };
        Self {
            replica: Replica::new(&config(index, bounds), boot, Nothing),
            index,
            life,
            now: START,
            told: (0, 0, 0),
            ever: BTreeSet::new(),
            detours: bounds.detours,
        }
    }

    /// A member of a cluster that was formed just now.
    pub(super) fn founded(index: u8, bounds: &Bounds) -> Self {
        let mut node = Self::blank(index, 0, bounds);
        let mut out = Exit::default();
        for bytes in founding(bounds.replicas) {
            node.hand_over(&bytes, &mut out);
        }
        for peer in (0..bounds.replicas).filter(|&peer| peer != index) {
            node.hand_over(&ping(peer), &mut out);
        }
        node.settle(&mut out);
        node
    }

    /// A process that took the place of one that crashed, and has heard of the cluster.
    pub(super) fn restarted(
        index: u8,
        life: u32,
        bounds: &Bounds,
        messages: &mut Messages,
    ) -> (Self, Vec<MessageId>) {
        let mut node = Self::blank(index, life, bounds);
        let mut out = Exit::default();
        node.hand_over(&ping((index + 1) % bounds.replicas), &mut out);
        node.settle(&mut out);
        let sent = node.post(&out, messages);
        (node, sent)
    }
}

/// # Steps
impl Node {
    pub(super) fn sight(&self) -> Sight {
        self.replica.sight()
    }

    pub(super) const fn life(&self) -> u32 {
        self.life
    }

    fn at(&self) -> Now {
        Now {
            monotonic: self.now,
            wall: Timestamp::from_nanos(1_700_000_000_000_000_000),
        }
    }

    fn hand_over(&mut self, bytes: &[u8], out: &mut Exit) {
        let frame = Frame::parse(bytes, CLUSTER).expect("frames of replicas are sound");
        self.replica.step(self.at(), Input::Message(frame), out);
    }

    fn deadline(&mut self, out: &mut Exit) {
        self.replica.step(self.at(), Input::Deadline, out);
    }

    /// Everything that needs no time.
    fn settle(&mut self, out: &mut Exit) {
        for _ in 0..SETTLE_MAX {
            if self.replica.next_deadline() > self.now {
                return;
            }
            self.deadline(out);
        }
    }

    /// Whether `step` means anything here. Requests and messages always do.
    pub(super) fn may(&self, step: Step, bounds: &Bounds) -> bool {
        let sight = self.sight();
        match step {
            Step::Deliver(_) => true,
            Step::Request(_) => sight.leads && sight.op.raw() < bounds.ops,
            Step::Suspect => {
                let waits = match sight.status {
                    PeerStatus::Normal => !sight.leads,
                    PeerStatus::ViewChange => true,
                    _ => false,
                };
                waits && !sight.suspects && sight.view.raw() < bounds.views
            }
            Step::Beat => bounds.heartbeats && sight.leads && self.told != self.to_tell(),
            Step::Fetch => sight.repairs,
        }
    }

    fn to_tell(&self) -> (u64, u64, u64) {
        let sight = self.sight();
        (sight.view.raw(), sight.op.raw(), sight.commit.raw())
    }

    /// Plays one step.
    pub(super) fn play(&mut self, step: Step, messages: &mut Messages) -> Effects {
        let before = self.sight();
        let mut out = Exit::default();
        let played = panics::catch(0, || {
            self.begin(step, messages, &mut out);
            self.settle(&mut out);
            Ok(())
        });
        let mut effects = Effects {
            sent: self.post(&out, messages),
            ..Effects::default()
        };
        if let Err(violation) = played {
            effects.failure = Some(format!("R{}: {}", self.index, violation.text));
            return effects;
        }
        self.note_facts(&before, &mut effects);
        effects
    }

    fn begin(&mut self, step: Step, messages: &Messages, out: &mut Exit) {
        match step {
            Step::Deliver(id) => {
                let message = messages.get(id);
                if message.command == Command::RecoveryRequest {
                    // It may come at any time, also long after its sender fell silent.
                    self.replica.forget_alive(ReplicaIndex::new(message.from));
                }
                self.hand_over(&message.bytes, out);
            }
            Step::Request(client) => self.hand_over(&register(client), out),
            Step::Suspect => {
                let view = self.sight().view;
                for _ in 0..SETTLE_MAX {
                    self.now = self.now.max(self.replica.patience_ends());
                    self.deadline(out);
                    if self.sight().suspects || self.sight().view != view {
                        break;
                    }
                }
                if !self.detours && self.sight().suspects {
                    self.hand_over(&self.impatience(), out);
                }
            }
            Step::Beat => {
                self.now = self.now.max(self.replica.speaks_at());
                self.deadline(out);
                self.told = self.to_tell();
            }
            Step::Fetch => {
                if let Some(due) = self.replica.asks_at() {
                    self.now = self.now.max(due);
                    self.deadline(out);
                }
            }
        }
    }

    /// The word of another replica that it wants the next view too.
    fn impatience(&self) -> Vec<u8> {
        let peer = (self.index + 1) % self.replica.config().replicas;
        let mut header = Header::new(StartViewChange { reserved: [0; 5] });
        header.set_cluster(CLUSTER);
        let life = self.replica.known_life(ReplicaIndex::new(peer));
        header.set_sender(ReplicaIndex::new(peer), member(peer), life);
        header.set_view(self.sight().view.next());
        header.seal(&[]);
        frame(&header, &[])
    }

    fn post(&self, out: &Exit, messages: &mut Messages) -> Vec<MessageId> {
        let mut sent = Vec::new();
        for (to, header, body) in &out.peers {
            if let Some(id) = messages.intern(self.index, *to, header, body)
                && !sent.contains(&id)
            {
                sent.push(id);
            }
        }
        sent
    }

    fn note_facts(&mut self, before: &Sight, effects: &mut Effects) {
        let after = self.sight();
        if let (None, Some(reason)) = (before.halted, after.halted) {
            effects.failure = Some(format!("R{} stops: {reason:?}", self.index));
            return;
        }
        let view = after.view.raw();
        let counted_from = if before.leads && before.view == after.view {
            before.commit
        } else {
            Op::ZERO
        };
        let known = |op: u64| {
            self.replica
                .log_identity(Op::new(op))
                .map(|found| entry(&found))
        };
        let executed = before.applied.raw()..after.applied.raw();
        let counted = if after.leads {
            counted_from.raw()..after.commit.raw()
        } else {
            0..0
        };
        for op in executed.chain(counted).map(|op| op + 1) {
            let Some(entry) = known(op) else {
                continue;
            };
            let fact = Fact::Committed { op, entry, view };
            if !effects.facts.contains(&fact) {
                effects.facts.push(fact);
            }
        }
        if after.leads && (!before.leads || before.view != after.view) {
            let log = (1..=after.op.raw())
                .map(|op| known(op).unwrap_or(0))
                .collect();
            let life = life_number(after.incarnation);
            effects.facts.push(Fact::Started { view, life, log });
        }
        for op in after.tail.raw()..=after.op.raw() {
            if let Some(header) = self.replica.log_header(Op::new(op)) {
                self.ever.insert((op, entry(&header.identity())));
            }
        }
    }

    pub(super) fn fingerprint(&self) -> u128 {
        let mut into = Fingerprint::new();
        into.word(u64::from(self.index));
        into.word(u64::from(self.life));
        for word in [self.told.0, self.told.1, self.told.2] {
            into.word(word);
        }
        let op = self.sight().op.raw();
        for &(at, entry) in self.ever.iter().filter(|known| known.0 > op) {
            into.word(at);
            into.word(entry);
        }
        self.replica.fingerprint(&mut into);
        into.finish()
    }
}
