//! What only the replica's insides show: damage between two verifications, views that only later
//! versions reach, and the rules about them that hold already.

extern crate std;

mod epochs;
mod init;

use std::vec::Vec;

use vsr_types::message::{self, Commit, InitCommit, InitPropose, Prepare, PrepareOk, Reply};
use vsr_types::{
    Batch, ClientId, ClusterId, Command, Digest, Epoch, Frame, Header, Identity, Instant, Message,
    Nonce, Now, Op, Operation, ReplicaIndex, RequestHeader, RequestNumber, Route, SessionNumber,
    Timestamp, View, body::BootNonces,
};

use super::{Replica, Status};
use crate::{
    Boot, Context, Counters, DropReason, Event, ImageError, Input, Outbox, Refusal, Scrub, Sent,
    Settings, StateMachine,
};

const CLUSTER: ClusterId = ClusterId::new(0xC1);
const TOKEN: Nonce = Nonce::new(0x70);
const ALICE: ClientId = ClientId::new(0xA11CE);

/// Counts what it is given.
#[derive(Debug, Default)]
struct Counting {
    operations: Vec<Vec<u8>>,
}

impl StateMachine for Counting {
    fn validate(&self, _operation: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }

    fn apply(&mut self, _at: &Context, operation: &[u8], reply: &mut [u8]) -> usize {
        self.operations.push(operation.to_vec());
        reply[..operation.len()].copy_from_slice(operation);
        operation.len()
    }

    fn query(&self, _at: &Context, _query: &[u8], _reply: &mut [u8]) -> usize {
        0
    }

    fn digest(&self) -> Digest {
        Digest::new(self.operations.len() as u128)
    }

    fn image_chunks(&self) -> u64 {
        0
    }

    fn image_chunk_size(&self) -> usize {
        1
    }

    fn image_changed_at(&self, _chunk: u64) -> Op {
        Op::ZERO
    }

    fn image_read(&self, _chunk: u64, _into: &mut [u8]) -> usize {
        0
    }

    fn image_begin(&mut self, _chunks: u64) -> Result<(), ImageError> {
        Err(ImageError::TooLarge)
    }

    fn image_put(&mut self, _chunk: u64, _bytes: &[u8]) -> Result<(), ImageError> {
        Err(ImageError::BadChunk)
    }

    fn image_finish(&mut self, _at: Op) -> Result<(), ImageError> {
        Err(ImageError::Invalid)
    }

    fn scrub(&mut self, _budget: usize) -> Scrub {
        Scrub::Clean
    }
}

/// What left a replica.
#[derive(Default)]
struct Sink {
    peers: Vec<(ReplicaIndex, Vec<u8>)>,
    clients: Vec<Vec<u8>>,
}

fn bytes_of(header: &Header, body: &[u8]) -> Vec<u8> {
    [bytemuck::bytes_of(header), body].concat()
}

impl Outbox for Sink {
    fn peer(&mut self, to: ReplicaIndex, header: &Header, body: &[u8]) -> Sent {
        self.peers.push((to, bytes_of(header, body)));
        Sent::Queued
    }

    fn client(&mut self, _to: ClientId, header: &Header, body: &[u8]) -> Sent {
        self.clients.push(bytes_of(header, body));
        Sent::Queued
    }

    fn sender(&mut self, _header: &Header, _body: &[u8]) -> Sent {
        Sent::Queued
    }
}

impl Sink {
    /// The fields of everything of one kind that was sent to other replicas.
    fn sent<M: Message>(&self) -> Vec<M> {
        let fields = |(_, bytes): &(ReplicaIndex, Vec<u8>)| frame(bytes).fields::<M>().copied();
        self.peers.iter().filter_map(fields).collect()
    }
}

fn frame(bytes: &[u8]) -> Frame<'_> {
    Frame::parse(bytes, CLUSTER).expect("a sound frame")
}

/// A replica and its surroundings.
struct World {
    replica: Replica<Counting>,
    out: Sink,
    now: Now,
}

fn nonce_of(replica: ReplicaIndex) -> Nonce {
    Nonce::new(100 + u128::from(replica.raw()))
}

impl World {
    /// Replica `index` of a formed cluster of `n`.
    fn new(index: u8, n: u8, tune: impl Fn(&mut Settings)) -> Self {
        let mut world = Self::blank(index, n, tune);
        world.form(n);
        world
    }

    /// Replica `index` of a list of `n`, before there is a cluster.
    fn blank(index: u8, n: u8, tune: impl Fn(&mut Settings)) -> Self {
        let mut settings = Settings::new(ReplicaIndex::new(index), n);
        settings.journal_slots = 128;
        settings.journal_bytes = 1 << 20;
        settings.batch_size_max = 8192;
        settings.sessions = 8;
        tune(&mut settings);
        let config = settings.validate().expect("the test's settings make sense");
        let boot = Boot {
            member: vsr_types::MemberId::new(1 + u128::from(index)),
            nonce: nonce_of(ReplicaIndex::new(index)),
            seed: 1,
        };
        Self {
            replica: Replica::new(&config, boot, Counting::default()),
            out: Sink::default(),
            now: Now {
                monotonic: Instant::from_nanos(1),
                wall: Timestamp::from_nanos(1_000_000),
            },
        }
    }

    fn form(&mut self, n: u8) {
        let mut propose = Header::new(InitPropose {
            cluster: CLUSTER,
            token: TOKEN,
            reserved: 0,
        });
        propose.seal(&[]);
        self.hand_over(&bytes_of(&propose, &[]));
        let mut nonces: BootNonces = bytemuck::Zeroable::zeroed();
        for replica in ReplicaIndex::all(n) {
            nonces.nonces[replica.as_usize()] = nonce_of(replica);
        }
        let body = bytemuck::bytes_of(&nonces);
        let mut commit = Header::new(InitCommit {
            cluster: CLUSTER,
            token: TOKEN,
            reserved: 0,
        });
        commit.seal(body);
        self.hand_over(&bytes_of(&commit, body));
        assert!(self.replica.is_normal());
        self.settle();
        self.out = Sink::default();
    }

    fn hand_over(&mut self, bytes: &[u8]) -> Option<DropReason> {
        let frame = Frame::parse(bytes, self.replica.cluster()).expect("a sound frame");
        self.replica
            .step(self.now, Input::Message(frame), &mut self.out)
            .dropped
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            if self.replica.next_deadline() > self.now.monotonic {
                return;
            }
            self.replica.step(self.now, Input::Deadline, &mut self.out);
        }
        panic!("the deadline never passes");
    }

    fn pass(&mut self, ms: u64) {
        let time = core::time::Duration::from_millis(ms);
        self.now.monotonic = self.now.monotonic.after(time);
        self.settle();
    }

    /// What `from` says, in `view`.
    fn say<M: Message>(
        &mut self,
        from: u8,
        view: u64,
        fields: M,
        body: &[u8],
    ) -> Option<DropReason> {
        let bytes = said(from, view, fields, body);
        self.hand_over(&bytes)
    }

    /// A prepare of `view`'s primary with one request in it, after `parent`.
    fn prepare(&self, view: u64, op: u64, parent: Identity, operation: &[u8]) -> Vec<u8> {
        let mut request = RequestHeader::new(
            Operation::Apply,
            ALICE,
            Epoch::ZERO,
            SessionNumber::new(1),
            RequestNumber::new(op),
        );
        request.seal(operation);
        let mut body = std::vec![0; 1024];
        let mut builder = vsr_types::BatchBuilder::new();
        let bytes = [bytemuck::bytes_of(&request), operation].concat();
        let request = vsr_types::Request::first_in(&bytes).expect("a request");
        builder.push(&mut body, &request);
        let size = builder.finish(&mut body);
        let prepare = Prepare {
            op: Op::new(op),
            commit: Op::ZERO,
            timestamp: Timestamp::from_nanos(1000 + op),
            parent,
        };
        let primary = View::new(view).primary(self.replica.config.replicas);
        said(primary.raw(), view, prepare, &body[..size])
    }

    /// Moves the replica into a view as if a view change had brought it there.
    fn enter_view(&mut self, view: u64) {
        self.replica.view = View::new(view);
        self.replica.enter_normal();
        self.replica.seal();
        self.settle();
        self.out = Sink::default();
    }

    fn request(&mut self, number: u64, operation: &[u8]) -> Vec<u8> {
        let kind = if number == 0 {
            Operation::Register
        } else {
            Operation::Apply
        };
        let session = SessionNumber::new(u64::from(number > 0));
        let number = RequestNumber::new(number);
        let mut request = RequestHeader::new(kind, ALICE, Epoch::ZERO, session, number);
        request.seal(operation);
        let mut header = Header::new(message::Request { reserved: [0; 5] });
        header.set_cluster(CLUSTER);
        header.seal_with(request.size(), request.checksum());
        [
            bytemuck::bytes_of(&header),
            bytemuck::bytes_of(&request),
            operation,
        ]
        .concat()
    }

    fn replies(&self) -> Vec<(u64, u64)> {
        let fields = |bytes: &Vec<u8>| frame(bytes).fields::<Reply>().copied();
        let replies = self.out.clients.iter().filter_map(fields);
        replies
            .map(|reply| (reply.request.raw(), reply.op.raw()))
            .collect()
    }

    fn rejects(&self) -> usize {
        let is_reject = |bytes: &&Vec<u8>| frame(bytes).command() == Command::Reject;
        self.out.clients.iter().filter(is_reject).count()
    }
}

fn said<M: Message>(from: u8, view: u64, fields: M, body: &[u8]) -> Vec<u8> {
    let from = ReplicaIndex::new(from);
    let mut header = Header::new(fields);
    header.set_cluster(CLUSTER);
    let random = nonce_of(from).raw() as u64;
    let incarnation = vsr_types::Incarnation { counter: 0, random };
    header.set_sender(
        from,
        vsr_types::MemberId::new(1 + u128::from(from.raw())),
        incarnation,
    );
    header.set_view(View::new(view));
    header.set_route(Route::NONE);
    header.seal(body);
    bytes_of(&header, body)
}

#[test]
fn a_request_that_was_damaged_before_it_was_prepared_is_executed_when_its_client_asks_again() {
    // M2: every bit of the request, in the batch that is being filled.
    let operation = b"pay";
    let size = vsr_types::limits::REQUEST_HEADER_SIZE + operation.len();
    for bit in (0..size * 8).step_by(3) {
        let mut world = World::new(0, 1, |_| {});
        let register = world.request(0, b"");
        world.hand_over(&register);
        world.settle();
        let request = world.request(1, operation);
        world.hand_over(&request);
        let at = vsr_types::limits::BATCH_HEADER_SIZE + bit / 8;
        world.replica.batch.flip(at, bit % 8);
        world.settle();
        assert_eq!(
            world.replies(),
            [(0, 1)],
            "bit {bit}: nothing damaged is answered"
        );
        assert!(
            world.replica.machine().operations.is_empty(),
            "bit {bit}: nor executed"
        );
        world.hand_over(&request);
        world.settle();
        assert_eq!(
            world.replies(),
            [(0, 1), (1, 3)],
            "bit {bit}: the retry is served"
        );
        assert_eq!(world.replica.machine().operations, [operation]);
    }
}

/// M2, switched off: the damage is executed.
#[cfg(feature = "mutate")]
#[test]
fn without_the_clients_checksum_damage_is_executed() {
    let operation = b"pay";
    let mut world = World::new(0, 1, |settings| {
        settings.mutant = Some(crate::Mutant::ClientChecksumUnverified);
    });
    let register = world.request(0, b"");
    world.hand_over(&register);
    world.settle();
    let request = world.request(1, operation);
    world.hand_over(&request);
    let headers = vsr_types::limits::BATCH_HEADER_SIZE + vsr_types::limits::REQUEST_HEADER_SIZE;
    world.replica.batch.flip(headers, 0);
    world.settle();
    assert_eq!(world.replica.machine().operations, [b"qay"]);
}

/// R10.1.
#[test]
fn a_batch_that_takes_the_last_op_number_strands_nobody() {
    // The batch is full, and cutting it takes the last number: who comes then is refused.
    let mut world = World::new(0, 1, |settings| {
        settings.pipeline = 1;
        settings.op_max = 2;
        settings.batch_size_max = 4096;
    });
    let register = world.request(0, b"");
    world.hand_over(&register);
    world.settle();
    let first = world.request(1, &[1; 3900]);
    world.hand_over(&first);
    let mut request = RequestHeader::new(
        Operation::Register,
        ClientId::new(2),
        Epoch::ZERO,
        SessionNumber::ZERO,
        RequestNumber::ZERO,
    );
    request.seal(b"");
    let mut header = Header::new(message::Request { reserved: [0; 5] });
    header.set_cluster(CLUSTER);
    header.seal_with(request.size(), request.checksum());
    let mut fill = 4096 - world.replica.batch.size();
    while fill >= request.size() {
        let bytes = [bytemuck::bytes_of(&header), bytemuck::bytes_of(&request)].concat();
        world.hand_over(&bytes);
        fill -= request.size();
    }
    let bytes = [bytemuck::bytes_of(&header), bytemuck::bytes_of(&request)].concat();
    assert_eq!(world.hand_over(&bytes), Some(DropReason::Refused));
    assert_eq!(world.rejects(), 1);
    world.settle();
    assert_eq!(
        world.replica.batch.count(),
        0,
        "nobody waits for an op that never comes"
    );
}

#[test]
fn a_backup_whose_new_life_was_heard_of_is_left_out_of_the_route_at_once() {
    let mut world = World::new(0, 3, |_| {});
    let route = |world: &World| world.replica.report().route;
    let hop = ReplicaIndex::new;
    assert_eq!(route(&world), Route::through([hop(1), hop(2)]));
    let ping = message::Ping {
        status: message::PeerStatus::Normal as u8,
        ..bytemuck::Zeroable::zeroed()
    };
    let bytes = said(1, 0, ping, &[]);
    let mut header: Header = bytemuck::pod_read_unaligned(&bytes[..vsr_types::HEADER_SIZE]);
    let incarnation = vsr_types::Incarnation {
        counter: 1,
        random: 5,
    };
    header.set_sender(hop(1), vsr_types::MemberId::new(77), incarnation);
    header.seal(&[]);
    assert_eq!(world.hand_over(bytemuck::bytes_of(&header)), None);
    assert_eq!(
        route(&world),
        Route::through([hop(2)]),
        "its memory is gone (R2.4)"
    );
}

#[test]
fn s14_old_view_forward_is_refused() {
    // Trace T14: a prepare of view 0, relayed late, reaches a replica of view 1 with an empty log.
    let mut world = World::new(2, 3, |_| {});
    let genesis = world.replica.genesis();
    let old = world.prepare(0, 1, genesis, b"A");
    world.enter_view(1);
    assert_eq!(world.hand_over(&old), Some(DropReason::OlderView));
    assert_eq!(world.replica.op(), Op::ZERO);
    let new = world.prepare(1, 1, genesis, b"B");
    assert_eq!(world.hand_over(&new), None, "B is view 1's");
    world.settle();
    assert_eq!(world.out.sent::<PrepareOk>().len(), 1);
}

/// R2.7: a view is not adopted from a heartbeat, so nothing of it is executed.
#[test]
fn s15_heartbeat_view_adoption_does_not_happen() {
    // Trace T15: a replica with an uncommitted op of view 0 hears the heartbeat of view 1.
    let mut world = World::new(2, 3, |_| {});
    let genesis = world.replica.genesis();
    let old = world.prepare(0, 1, genesis, b"A");
    assert_eq!(world.hand_over(&old), None);
    world.settle();
    let commit = Commit {
        sequence: 9,
        op: Op::new(1),
        commit: Op::new(1),
        ..bytemuck::Zeroable::zeroed()
    };
    let dropped = world.say(1, 1, commit, &[0; 24]);
    assert_eq!(dropped, Some(DropReason::NewerView));
    world.settle();
    let report = world.replica.report();
    assert_eq!(
        (report.view, report.commit),
        (View::ZERO, Op::ZERO),
        "nothing is learnt from it"
    );
    assert!(
        world.replica.machine().operations.is_empty(),
        "A is not executed"
    );
}

#[test]
fn s17_old_prepare_ok_is_not_counted() {
    // Trace T17, n = 5: R0 leads again, in view 5, and prepares B as op 1. R2's acknowledgement of A,
    // which was op 1 of view 0, arrives.
    let mut world = World::new(0, 5, |_| {});
    let genesis = world.replica.genesis();
    let a = frame(&world.prepare(0, 1, genesis, b"A"))
        .header()
        .identity();
    world.enter_view(5);
    let register = world.request(0, b"");
    world.hand_over(&register);
    world.settle();
    let b = world.replica.head;
    let ok = |prepare| PrepareOk {
        op: Op::new(1),
        prepare,
        applied: Op::ZERO,
        sequence: 0,
    };
    assert_eq!(world.say(3, 5, ok(b), &[]), None);
    assert_eq!(world.say(2, 0, ok(a), &[]), Some(DropReason::OlderView));
    assert_eq!(world.say(2, 5, ok(a), &[]), Some(DropReason::WrongIdentity));
    // Three times one replica is one replica (scenario 33).
    for _ in 0..3 {
        assert_eq!(world.say(3, 5, ok(b), &[]), None);
    }
    assert_eq!(world.replica.commit, Op::ZERO, "two of five hold B");
    assert_eq!(world.say(4, 5, ok(b), &[]), None);
    assert_eq!(world.replica.commit, Op::new(1), "three of five do");
}

#[test]
fn s11_zombie_ack_is_dropped() {
    // Trace T11: R1's new life is known; its old one still acknowledges.
    let mut world = World::new(0, 3, |_| {});
    let register = world.request(0, b"");
    world.hand_over(&register);
    world.settle();
    let ok = PrepareOk {
        op: Op::new(1),
        prepare: world.replica.head,
        applied: Op::ZERO,
        sequence: 0,
    };
    let zombie = said(1, 0, ok, &[]);
    let ping = message::Ping {
        status: message::PeerStatus::Normal as u8,
        ..bytemuck::Zeroable::zeroed()
    };
    let bytes = said(1, 0, ping, &[]);
    let mut header: Header = bytemuck::pod_read_unaligned(&bytes[..vsr_types::HEADER_SIZE]);
    let incarnation = vsr_types::Incarnation {
        counter: 1,
        random: 5,
    };
    header.set_sender(
        ReplicaIndex::new(1),
        vsr_types::MemberId::new(77),
        incarnation,
    );
    header.seal(&[]);
    assert_eq!(world.hand_over(bytemuck::bytes_of(&header)), None);
    assert_eq!(world.hand_over(&zombie), Some(DropReason::StaleIncarnation));
    assert_eq!(world.replica.commit, Op::ZERO);
}

/// R8.4: by identity.
#[test]
fn a_damaged_entry_is_fetched_again_and_executed_once() {
    // The backup's copy of op 1 is marked faulty; op 1 is committed; execution waits for its body.
    let mut world = World::new(1, 3, |_| {});
    let genesis = world.replica.genesis();
    let first = world.prepare(0, 1, genesis, b"A");
    world.hand_over(&first);
    world.settle();
    world.replica.journal.mark_faulty(Op::new(1));
    let identity = frame(&first).header().identity();
    let commit = Commit {
        sequence: 1,
        op: Op::new(1),
        commit: Op::new(1),
        commit_checksum: identity.checksum,
        commit_checksum_body: identity.checksum_body,
        commit_view: identity.view,
    };
    assert_eq!(world.say(0, 0, commit, &[0; 24]), None);
    world.settle();
    assert_eq!(
        world.replica.applied,
        Op::ZERO,
        "what is damaged is not executed"
    );
    world.pass(50);
    let asked = world.out.sent::<message::GetPrepare>();
    assert_eq!((asked[0].from, asked[0].to), (Op::new(1), Op::new(1)));
    // Another body for the same op does not fit; the right one does.
    let other = world.prepare(0, 1, genesis, b"B");
    assert_eq!(world.hand_over(&other), Some(DropReason::WrongIdentity));
    assert_eq!(world.hand_over(&first), None);
    world.settle();
    assert_eq!(world.replica.applied, Op::new(1));
    assert_eq!(count(world.replica.counters(), Event::DamagedEntries), 1);
}

#[test]
fn a_primary_fetches_its_own_damaged_entry_from_a_backup() {
    let mut world = World::new(0, 3, |_| {});
    let register = world.request(0, b"");
    world.hand_over(&register);
    world.settle();
    let sent = world
        .out
        .peers
        .iter()
        .find(|(_, bytes)| frame(bytes).fields::<Prepare>().is_some());
    let own = sent.expect("the prepare left").1.clone();
    world.replica.journal.mark_faulty(Op::new(1));
    let ok = PrepareOk {
        op: Op::new(1),
        prepare: world.replica.head,
        applied: Op::ZERO,
        sequence: 0,
    };
    assert_eq!(world.say(1, 0, ok, &[]), None);
    world.settle();
    assert_eq!(
        (world.replica.commit, world.replica.applied),
        (Op::new(1), Op::ZERO)
    );
    world.pass(50);
    assert!(
        !world.out.sent::<message::GetPrepare>().is_empty(),
        "it asks for its own entry"
    );
    assert_eq!(world.hand_over(&own), None, "relayed back byte for byte");
    world.settle();
    assert_eq!(world.replica.applied, Op::new(1));
    assert_eq!(world.replies(), [(0, 1)], "and the client is answered");
}

/// R1.4.
#[test]
fn a_batch_that_is_no_batch_is_a_no_op_everywhere() {
    let mut world = World::new(1, 3, |_| {});
    let prepare = Prepare {
        op: Op::new(1),
        commit: Op::new(1),
        timestamp: Timestamp::from_nanos(1),
        parent: world.replica.genesis(),
    };
    assert!(Batch::parse(b"no batch").is_err());
    assert_eq!(world.say(0, 0, prepare, b"no batch"), None);
    world.settle();
    assert_eq!(world.replica.applied, Op::new(1));
    assert!(world.replica.machine().operations.is_empty());
    assert_eq!(world.replica.status, Status::Normal);
}

fn count(counters: &Counters, event: Event) -> u64 {
    counters.of(event)
}

/// R7.1: without this two operators at once could each win a part of the replicas.
#[test]
fn replicated_time_follows_a_clock_that_jumps_only_as_fast_as_time_can_pass() {
    const YEAR: u64 = 365 * 24 * 3600 * 1_000_000_000;
    let mut world = World::new(0, 1, |_| {});
    let mut step = |wall: u64, passed: u64| {
        world.now.monotonic = Instant::from_nanos(world.now.monotonic.as_nanos() + passed);
        world.now.wall = Timestamp::from_nanos(wall);
        let before = world.replica.head_timestamp.as_nanos();
        world.replica.now = world.now;
        world.replica.prepare_batch(&mut world.out);
        world.settle();
        (before, world.replica.head_timestamp.as_nanos())
    };
    let start = 50 * YEAR;
    step(start, 1000);
    let (before, after) = step(start + 10_000, 10_000);
    assert_eq!(
        after - before,
        10_000,
        "a clock that goes right is followed"
    );
    let (before, after) = step(start + YEAR, 10_000);
    assert_eq!(
        after - before,
        20_000,
        "a year ahead: twice the time that passed"
    );
    let (before, after) = step(start, 10_000);
    assert_eq!(
        after - before,
        5_000,
        "back again, behind: half of it, so it never stands still"
    );
    let (before, after) = step(0, 0);
    assert_eq!(
        after - before,
        1,
        "no time at all: still later than the batch before"
    );
}

#[test]
fn a_pipeline_of_large_batches_is_bounded_by_its_bytes() {
    let mut world = World::new(0, 3, |_| {});
    assert!(world.replica.can_cut(8192));
    world.replica.unexecuted_bytes = (7 << 20) - 8192;
    assert!(world.replica.can_cut(8192), "up to the bound");
    assert!(!world.replica.can_cut(8193), "and not beyond");
    world.replica.unexecuted_bytes = 0;
    assert!(world.replica.can_cut(8193), "a single batch always goes");
    let register = world.request(0, b"");
    assert_eq!(world.hand_over(&register), None);
    world.settle();
    let in_flight = world.replica.unexecuted_bytes;
    assert!(in_flight > 0, "what is prepared counts");
    let prepare = PrepareOk {
        op: Op::new(1),
        prepare: world.replica.head,
        applied: Op::ZERO,
        sequence: 0,
    };
    assert_eq!(world.say(1, 0, prepare, &[]), None);
    world.settle();
    assert_eq!(world.replica.unexecuted_bytes, 0, "until it is executed");
}
