//! What a whole cluster of three costs beyond what its bytes cost.
//!
//! Three replicas in one thread, driven as a node drives one: all frames that are ready, then the
//! deadline. Frames are bytes: they are copied into a link, parsed and verified at the other end. The
//! clients' frames are made, and sealed, before the clock starts, and their replies are only counted.
//!
//! Time is that of this thread on its processor, so that what else runs on the machine counts less.
//!
//! The *floor* is what the same bytes need at the least, measured in the same run in turn with the
//! cluster (A B A B): each request's frame is verified once and copied into its batch; the batch is
//! checksummed three times (at the primary and on arrival at two backups) and copied five times (three
//! journals, two links); each request is verified before it is executed, three times; each reply's
//! header is checksummed. Ratios are medians of pairs: absolute times drift between runs.
//!
//! `cargo bench -p vsr-consensus --bench cluster` prints the table at the end, `-- --table` it alone.
//! `-- --profile-time 10 packed/256` runs one case under a profiler.

use std::hint::black_box;
use std::time::{Duration, Instant as Clock};

use cpu_time::ThreadTime;
use criterion::{BenchmarkId, Criterion, Throughput};
use vsr_consensus::{
    Boot, Context, Event, ImageError, Input, Outbox, Refusal, Replica, Scrub, Sent, Settings,
    StateMachine,
};
use vsr_types::message::{self, InitCommit, InitPropose, Reply};
use vsr_types::{
    Batch, ClientId, ClusterId, Command, Digest, Epoch, Frame, HEADER_SIZE, Header, Instant,
    MemberId, Nonce, Now, Op, Operation, ReplicaIndex, RequestHeader, RequestNumber, SessionNumber,
    Timestamp, body::BootNonces, checksum, limits,
};

const REPLICAS: u8 = 3;
const CLUSTER: ClusterId = ClusterId::new(0xBE7C);
const TOKEN: Nonce = Nonce::new(0x70CE);
/// The operation that the packed cases are made of.
const OPERATION: usize = 128;
/// Pairs of measurements behind each line of the table.
const PAIRS: usize = 7;

/// Executes operations of a fixed size, any number of them in one request.
#[derive(Debug)]
struct Adder {
    operation_size: usize,
    total: u64,
    count: u64,
}

impl StateMachine for Adder {
    fn validate(&self, _operation: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }

    fn apply(&mut self, _at: &Context, operation: &[u8], reply: &mut [u8]) -> usize {
        for operation in operation.chunks(self.operation_size) {
            // As little as reads the operation at all: the cluster is measured, not a state machine.
            self.total = self
                .total
                .wrapping_mul(31)
                .wrapping_add(u64::from(operation[0]));
            self.count += 1;
        }
        reply[..8].copy_from_slice(&self.total.to_le_bytes());
        8
    }

    fn query(&self, _at: &Context, _query: &[u8], reply: &mut [u8]) -> usize {
        reply[..8].copy_from_slice(&self.total.to_le_bytes());
        8
    }

    fn digest(&self) -> Digest {
        Digest::new((u128::from(self.total) << 64) | u128::from(self.count))
    }

    fn image_chunks(&self) -> u64 {
        1
    }

    fn image_chunk_size(&self) -> usize {
        16
    }

    fn image_changed_at(&self, _chunk: u64) -> Op {
        Op::ZERO
    }

    fn image_read(&self, _chunk: u64, into: &mut [u8]) -> usize {
        into[..8].copy_from_slice(&self.total.to_le_bytes());
        into[8..16].copy_from_slice(&self.count.to_le_bytes());
        16
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

/// The links: what is under way to each replica, frames end to end.
#[derive(Default)]
struct Bus {
    inbox: [Vec<u8>; REPLICAS as usize],
    answered: Vec<usize>,
    sessions: Vec<(usize, u64)>,
    acks: Vec<Nonce>,
}

impl Outbox for Bus {
    fn peer(&mut self, to: ReplicaIndex, header: &Header, body: &[u8]) -> Sent {
        let inbox = &mut self.inbox[to.as_usize()];
        inbox.extend_from_slice(bytemuck::bytes_of(header));
        inbox.extend_from_slice(body);
        Sent::Queued
    }

    fn client(&mut self, to: ClientId, header: &Header, body: &[u8]) -> Sent {
        let client = to.raw() as usize - 1;
        let reply = header
            .fields::<Reply>()
            .expect("clients are served, never refused");
        black_box(body);
        if reply.request == RequestNumber::ZERO {
            self.sessions.push((client, reply.op.raw()));
        } else {
            self.answered.push(client);
        }
        Sent::Queued
    }

    fn sender(&mut self, header: &Header, _body: &[u8]) -> Sent {
        if let Some(ack) = header.fields::<message::InitAck>() {
            self.acks.push(ack.boot_nonce);
        }
        Sent::Queued
    }
}

/// One case: so many sessions, each with one request of so many bytes in flight.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// Bytes of one operation, and how many are in one request.
    operation: usize,
    packed: usize,
    sessions: usize,
}

impl Case {
    const fn request_size(&self) -> usize {
        self.operation * self.packed
    }

    /// How many requests each session makes while the clock runs once.
    fn rounds(&self) -> usize {
        let bytes = self.sessions * (self.request_size() + 512);
        ((16 << 20) / bytes).clamp(2, 4096)
    }

    fn label(&self) -> String {
        if self.packed > 1 {
            format!("{}", self.packed)
        } else {
            format!("{}", self.operation)
        }
    }
}

struct Cluster {
    case: Case,
    replicas: Vec<Replica<Adder>>,
    bus: Bus,
    /// Emptied while its frames are handed over, then given back: the buffers never grow again.
    spare: Vec<u8>,
    sessions: Vec<SessionNumber>,
    next_request: u64,
    /// The frames of the next run, in the order in which they are handed over: as they lie in the
    /// buffer that a node receives into.
    frames: Vec<u8>,
    started: Clock,
}

impl Cluster {
    fn new(case: Case) -> Self {
        let replicas = ReplicaIndex::all(REPLICAS).map(|replica| {
            let mut settings = Settings::new(replica, REPLICAS);
            // Larger than any cache, as in service.
            settings.journal_bytes = 64 << 20;
            settings.journal_slots = 16_384;
            // Between two runs the one thread makes frames for longer than any time-out in service.
            settings.tick = Duration::from_secs(1);
            settings.view_timeout = Duration::from_secs(100);
            settings.prepare_timeout = Duration::from_secs(50);
            let config = settings
                .validate()
                .expect("the benchmark's settings make sense");
            let boot = Boot {
                member: MemberId::new(1 + u128::from(replica.raw())),
                nonce: Nonce::new(100 + u128::from(replica.raw())),
                seed: u64::from(replica.raw()),
            };
            let (operation_size, total, count) = (case.operation, 0, 0);
            Replica::new(
                &config,
                boot,
                Adder {
                    operation_size,
                    total,
                    count,
                },
            )
        });
        let mut cluster = Self {
            case,
            replicas: replicas.collect(),
            bus: Bus::default(),
            spare: Vec::new(),
            sessions: vec![SessionNumber::ZERO; case.sessions],
            next_request: 1,
            frames: Vec::new(),
            started: Clock::now(),
        };
        cluster.form();
        cluster.register();
        cluster
    }

    fn now(&self) -> Now {
        let ns = self.started.elapsed().as_nanos() as u64 + 1;
        Now {
            monotonic: Instant::from_nanos(ns),
            wall: Timestamp::from_nanos(1_700_000_000_000_000_000 + ns),
        }
    }

    fn tell_all<M: vsr_types::Message>(&mut self, fields: M, body: &[u8]) {
        let mut header = Header::new(fields);
        header.seal(body);
        let bytes = [bytemuck::bytes_of(&header), body].concat();
        for replica in 0..self.replicas.len() {
            self.hand_over(replica, &bytes, self.now());
        }
    }

    fn form(&mut self) {
        let reserved = 0;
        self.tell_all(
            InitPropose {
                cluster: CLUSTER,
                token: TOKEN,
                reserved,
            },
            &[],
        );
        let mut nonces: BootNonces = bytemuck::Zeroable::zeroed();
        nonces.nonces[..self.bus.acks.len()].copy_from_slice(&self.bus.acks);
        let body = bytemuck::bytes_of(&nonces);
        self.tell_all(
            InitCommit {
                cluster: CLUSTER,
                token: TOKEN,
                reserved,
            },
            body,
        );
    }

    /// Appends the frame of one request to `into`.
    fn push_frame(&self, into: &mut Vec<u8>, session: usize, number: u64, operation: &[u8]) {
        let kind = if number == 0 {
            Operation::Register
        } else {
            Operation::Apply
        };
        let client = ClientId::new(session as u128 + 1);
        let number = RequestNumber::new(number);
        let mut request =
            RequestHeader::new(kind, client, Epoch::ZERO, self.sessions[session], number);
        request.seal(operation);
        let mut header = Header::new(message::Request { reserved: [0; 5] });
        header.set_cluster(CLUSTER);
        header.seal_with(request.size(), request.checksum());
        into.extend_from_slice(bytemuck::bytes_of(&header));
        into.extend_from_slice(bytemuck::bytes_of(&request));
        into.extend_from_slice(operation);
    }

    fn register(&mut self) {
        for session in 0..self.case.sessions {
            let mut frame = Vec::new();
            self.push_frame(&mut frame, session, 0, &[]);
            self.hand_over(0, &frame, self.now());
        }
        while self.bus.sessions.len() < self.case.sessions {
            self.turn_of_all();
        }
        for (session, op) in std::mem::take(&mut self.bus.sessions) {
            self.sessions[session] = SessionNumber::new(op);
        }
    }

    /// Makes the frames of the next run, off the clock.
    fn make_frames(&mut self) {
        let operation = vec![7; self.case.request_size()];
        let rounds = self.case.rounds() as u64;
        let mut frames = std::mem::take(&mut self.frames);
        frames.clear();
        for i in 0..rounds {
            for session in 0..self.case.sessions {
                self.push_frame(&mut frames, session, self.next_request + i, &operation);
            }
        }
        self.frames = frames;
        self.next_request += rounds;
    }

    fn hand_over(&mut self, to: usize, bytes: &[u8], now: Now) {
        let frame = Frame::parse(bytes, self.replicas[to].cluster()).expect("a sound frame");
        let _: vsr_consensus::Outcome =
            self.replicas[to].step(now, Input::Message(frame), &mut self.bus);
    }

    fn deliver(&mut self, to: usize, now: Now) {
        let mut inbox = std::mem::take(&mut self.spare);
        std::mem::swap(&mut inbox, &mut self.bus.inbox[to]);
        let mut rest = &inbox[..];
        while !rest.is_empty() {
            let size = Frame::peek(rest, limits::FRAME_SIZE_MAX);
            let size = size.expect("a sound frame").expect("a whole frame");
            let (frame, behind) = rest.split_at(size);
            self.hand_over(to, frame, now);
            rest = behind;
        }
        inbox.clear();
        self.spare = inbox;
    }

    fn settle(&mut self, replica: usize, now: Now) {
        while self.replicas[replica].next_deadline() <= now.monotonic {
            let _: vsr_consensus::Outcome =
                self.replicas[replica].step(now, Input::Deadline, &mut self.bus);
        }
    }

    fn turn_of_all(&mut self) {
        for replica in 0..self.replicas.len() {
            let now = self.now();
            self.deliver(replica, now);
            self.settle(replica, now);
        }
    }

    /// One run: every session makes its requests, one in flight each. Returns the time it took.
    fn run(&mut self) -> Duration {
        self.make_frames();
        let rounds = self.case.rounds();
        let frames = std::mem::take(&mut self.frames);
        let frame_size = frames.len() / (rounds * self.case.sessions);
        let mut made = vec![0; self.case.sessions];
        let mut ready: Vec<usize> = (0..self.case.sessions).collect();
        let mut left = rounds * self.case.sessions;
        let clock = ThreadTime::now();
        while left > 0 {
            let now = self.now();
            self.deliver(0, now);
            for session in ready.drain(..) {
                let at = (made[session] * self.case.sessions + session) * frame_size;
                made[session] += 1;
                self.hand_over(0, &frames[at..at + frame_size], now);
            }
            self.settle(0, now);
            for replica in 1..self.replicas.len() {
                let now = self.now();
                self.deliver(replica, now);
                self.settle(replica, now);
            }
            left -= self.bus.answered.len();
            let answered = self.bus.answered.drain(..);
            ready.extend(answered.filter(|&session| made[session] < rounds));
        }
        let time = clock.elapsed();
        self.frames = frames;
        time
    }

    fn operations_per_run(&self) -> usize {
        self.case.rounds() * self.case.sessions * self.case.packed
    }

    /// How many requests shared a prepare, on average.
    fn batch(&self) -> usize {
        let counters = self.replicas[0].counters();
        let batches = counters.of(Event::Prepared).max(1);
        (counters.of(Event::PreparedRequests) as f64 / batches as f64)
            .round()
            .max(1.0) as usize
    }
}

/// Does with memory what the bytes of a case need at the least, and nothing else.
struct Floor {
    case: Case,
    per_batch: usize,
    frames: Vec<u8>,
    batch: Vec<u8>,
    links: [Vec<u8>; 2],
    journals: [Vec<u8>; REPLICAS as usize],
    at: usize,
}

impl Floor {
    fn new(cluster: &Cluster) -> Self {
        let (case, per_batch) = (cluster.case, cluster.batch());
        let request = limits::REQUEST_HEADER_SIZE + case.request_size();
        let total = case.rounds() * case.sessions * (HEADER_SIZE + request);
        let batch = limits::BATCH_HEADER_SIZE + per_batch * request;
        Self {
            case,
            per_batch,
            frames: vec![7; total],
            batch: vec![1; batch],
            links: [vec![2; HEADER_SIZE + batch], vec![3; HEADER_SIZE + batch]],
            journals: std::array::from_fn(|_| vec![4; (64 << 20).max(2 * batch)]),
            at: 0,
        }
    }

    fn run(&mut self) -> Duration {
        let request = limits::REQUEST_HEADER_SIZE + self.case.request_size();
        let clock = ThreadTime::now();
        let frames = std::mem::take(&mut self.frames);
        let mut left = frames.as_slice();
        while !left.is_empty() {
            let mut size = limits::BATCH_HEADER_SIZE;
            for _ in 0..self.per_batch.min(left.len() / (HEADER_SIZE + request)) {
                let (frame, behind) = left.split_at(HEADER_SIZE + request);
                left = behind;
                black_box(checksum(&frame[12..HEADER_SIZE]));
                black_box(checksum(&frame[HEADER_SIZE..]));
                self.batch[size..size + request].copy_from_slice(&frame[HEADER_SIZE..]);
                size += request;
            }
            self.replicate(size, request);
        }
        let time = clock.elapsed();
        self.frames = frames;
        time
    }

    fn replicate(&mut self, size: usize, request: usize) {
        let aligned = size.next_multiple_of(64);
        if self.at + aligned > self.journals[0].len() {
            self.at = 0;
        }
        let batch = &self.batch[..size];
        black_box(checksum(batch));
        let place = self.at..self.at + size;
        self.at += aligned;
        self.journals[0][place.clone()].copy_from_slice(batch);
        let [first, second] = &mut self.links;
        let [primary, backup, last] = &mut self.journals;
        first[..size].copy_from_slice(&primary[place.clone()]);
        black_box(checksum(&first[..size]));
        backup[place.clone()].copy_from_slice(&first[..size]);
        // The first backup passes on what it received.
        second[..size].copy_from_slice(&first[..size]);
        black_box(checksum(&second[..size]));
        last[place.clone()].copy_from_slice(&second[..size]);
        for journal in &self.journals {
            for bytes in journal[place.clone()][limits::BATCH_HEADER_SIZE..].chunks(request) {
                black_box(checksum(bytes));
            }
        }
        for reply in self.batch[..size].chunks(request) {
            black_box(checksum(&reply[..reply.len().min(HEADER_SIZE - 12)]));
        }
    }
}

const fn case(name: &'static str, operation: usize, packed: usize, sessions: usize) -> Case {
    Case {
        name,
        operation,
        packed,
        sessions,
    }
}

/// The largest operation that fits into a frame of 1 MiB.
const LARGEST: usize = limits::OPERATION_SIZE_MAX;

const CASES: [Case; 19] = [
    case("one", 1, 1, 1),
    case("one", 128, 1, 1),
    case("one", 4096, 1, 1),
    case("one", 65_536, 1, 1),
    case("one", LARGEST, 1, 1),
    case("many", 1, 1, 512),
    case("many", 16, 1, 512),
    case("many", 128, 1, 64),
    case("many", 128, 1, 512),
    case("many", 128, 1, 2048),
    case("many", 1024, 1, 512),
    case("many", 4096, 1, 256),
    case("many", 16_384, 1, 128),
    case("many", 65_536, 1, 64),
    case("many", 262_144, 1, 16),
    case("many", LARGEST, 1, 8),
    case("packed", OPERATION, 16, 256),
    case("packed", OPERATION, 64, 256),
    case("packed", OPERATION, 256, 128),
];

fn criterion_cases(criterion: &mut Criterion) {
    for case in CASES {
        let mut group = criterion.benchmark_group(format!("cluster/{}", case.name));
        let per_run = case.rounds() * case.sessions * case.packed;
        group.throughput(Throughput::Elements(per_run as u64));
        group.sample_size(10);
        group.warm_up_time(Duration::from_millis(200));
        group.measurement_time(Duration::from_millis(600));
        let id = BenchmarkId::new(case.label(), case.sessions);
        let mut cluster = None;
        group.bench_function(id, |bencher| {
            let cluster = cluster.get_or_insert_with(|| Cluster::new(case));
            bencher.iter_custom(|runs| (0..runs).map(|_| cluster.run()).sum());
        });
        group.finish();
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[expect(clippy::print_stdout, reason = "the benchmark's result")]
fn print_table() {
    println!();
    println!(
        "committed operations per second, three replicas in one thread, medians of {PAIRS} pairs"
    );
    println!(
        "| case | operation | per request | sessions | per batch | k ops/s | MB/s | floor k ops/s | of floor |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for case in CASES {
        let mut cluster = Cluster::new(case);
        cluster.run();
        let mut floor = Floor::new(&cluster);
        floor.run();
        let (mut rates, mut floors, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..PAIRS {
            let operations = cluster.operations_per_run() as f64;
            let rate = operations / cluster.run().as_secs_f64();
            let least = operations / floor.run().as_secs_f64();
            rates.push(rate);
            floors.push(least);
            ratios.push(rate / least);
        }
        let rate = median(rates);
        println!(
            "| {} | {} | {} | {} | {} | {:.1} | {:.1} | {:.1} | {:.2} |",
            case.name,
            case.operation,
            case.packed,
            case.sessions,
            cluster.batch(),
            rate / 1e3,
            rate * case.operation as f64 / 1e6,
            median(floors) / 1e3,
            median(ratios),
        );
    }
}

/// A benchmark of a cluster that does not do its work would be a fast one.
fn check() {
    let mut cluster = Cluster::new(case("check", 128, 4, 16));
    cluster.run();
    let wanted = cluster.operations_per_run() as u64;
    assert_eq!(
        cluster.replicas[0].machine().count,
        wanted,
        "everything is executed at the primary"
    );
    let body = cluster.replicas[0].log_body(cluster.replicas[0].report().op);
    let batch = Batch::parse(body.expect("the last batch is held")).expect("a batch");
    assert!(batch.requests().all(|request| request.is_intact()));
    assert_eq!(cluster.replicas[0].counters().sent_of(Command::Reject), 0);
    while cluster
        .replicas
        .iter()
        .any(|replica| replica.machine().count < wanted)
    {
        cluster.turn_of_all();
    }
}

fn main() {
    check();
    if std::env::args().any(|argument| argument == "--table") {
        print_table();
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    criterion_cases(&mut criterion);
    criterion.final_summary();
    let asked_for_one = std::env::args()
        .skip(1)
        .any(|argument| argument != "--bench");
    if !asked_for_one {
        print_table();
    }
}
