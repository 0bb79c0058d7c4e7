//! A cluster in memory for the tests: one tiny machine, real frames, real sessions, and faults on
//! demand. Answers come when the test says [`FakeCluster::pump`].

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bytemuck::Zeroable;
use vsr_consensus::Report;
use vsr_types::{
    ClientId, ClusterId, Epoch, Frame, FrameError, Header, Op, Operation,
    limits::REPLY_SIZE_MAX,
    message::{PeerStatus, Query, QueryReply, Reject, RejectReason, Reply, Request},
};

use super::{Cluster, Sink};
use crate::kv::{Entries, Entry, Opcode, Watches};

const CLUSTER: ClusterId = ClusterId::new(7);

#[derive(Default)]
struct Session {
    last: u64,
    reply: Vec<u8>,
    checksum: vsr_types::Checksum,
    op: u64,
}

#[derive(Default)]
struct Machine {
    keys: BTreeMap<Vec<u8>, (Vec<u8>, u64)>,
    version: u64,
    /// How many commands changed something.
    writes: u64,
}

impl Machine {
    fn set(&mut self, key: &[u8], value: &[u8]) {
        self.version += 1;
        self.writes += 1;
        self.keys
            .insert(key.to_vec(), (value.to_vec(), self.version));
    }

    fn one(&mut self, entry: &Entry<'_>) -> Vec<u8> {
        let key = entry.argument(0);
        let value = self.keys.get(key).map(|(value, _)| value.clone());
        let bulk = |value: &Option<Vec<u8>>| match value {
            Some(value) => [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat(),
            None => b"_\r\n".to_vec(),
        };
        match entry.opcode {
            Opcode::Get => bulk(&value),
            Opcode::MGet => {
                let mut out = format!("*{}\r\n", entry.argc()).into_bytes();
                for key in entry.arguments() {
                    out.extend(bulk(&self.keys.get(key).map(|(value, _)| value.clone())));
                }
                out
            }
            Opcode::Set => {
                self.set(key, entry.argument(1));
                b"+OK\r\n".to_vec()
            }
            Opcode::Incr => {
                let number: i64 = value.map_or(0, |value| {
                    String::from_utf8(value).unwrap().parse().unwrap()
                });
                self.set(key, (number + 1).to_string().as_bytes());
                format!(":{}\r\n", number + 1).into_bytes()
            }
            Opcode::Version => {
                let version = self.keys.get(key).map_or(0, |(_, version)| *version);
                format!(":{version}\r\n").into_bytes()
            }
            Opcode::DbSize => format!(":{}\r\n", self.keys.len()).into_bytes(),
            Opcode::Exec => self.exec(entry),
            other => format!("-ERR the fake does not know {other:?}\r\n").into_bytes(),
        }
    }

    fn exec(&mut self, entry: &Entry<'_>) -> Vec<u8> {
        for watch in Watches::parse(key_of(entry)).expect("watches") {
            let (key, version) = watch.expect("a watch");
            if self.keys.get(key).map_or(0, |(_, version)| *version) != version {
                return b"_\r\n".to_vec();
            }
        }
        let mut out = format!("*{}\r\n", entry.argc() - 1).into_bytes();
        for command in entry.arguments().skip(1) {
            let command = Entry::parse(command).expect("a queued command");
            out.extend(self.one(&command));
        }
        out
    }

    /// Executes as many entries as fit into a reply.
    fn run(&mut self, operation: &[u8], entries_max: usize) -> Vec<u8> {
        let entries = Entries::parse(operation).expect("a packed operation");
        let mut whole = entries;
        assert!(
            whole
                .by_ref()
                .all(|entry| entry.is_ok_and(|entry| entry.is_well_formed()))
        );
        assert!(whole.is_complete(), "nothing follows the last entry");
        let mut executed: u32 = 0;
        let mut reply = vec![0; 4];
        for entry in entries.take(entries_max) {
            // No reply of the fake's is larger than this; the real machine knows before it executes.
            if reply.len() + 400_000 > REPLY_SIZE_MAX {
                break;
            }
            let one = self.one(&entry.expect("well formed"));
            reply.extend((one.len() as u32).to_le_bytes());
            reply.extend(one);
            executed += 1;
        }
        reply[..4].copy_from_slice(&executed.to_le_bytes());
        reply
    }
}

fn key_of<'a>(entry: &Entry<'a>) -> &'a [u8] {
    entry.argument(0)
}

/// See the module's documentation.
pub(super) struct FakeCluster {
    sinks: RefCell<BTreeMap<u128, Rc<dyn Sink>>>,
    frames: RefCell<VecDeque<Vec<u8>>>,
    machine: RefCell<Machine>,
    sessions: RefCell<BTreeMap<u128, Session>>,
    random: Cell<u128>,
    op: Cell<u64>,
    /// How many of the next frames are executed but never answered.
    pub(super) lose_answers: Cell<usize>,
    /// How many of the next frames never arrive.
    pub(super) lose: Cell<usize>,
    /// What happens to the next frames instead of execution.
    pub(super) reject: Cell<Option<RejectReason>>,
    /// The most entries of an operation whose replies fit.
    pub(super) entries_max: Cell<usize>,
    pub(super) status: Cell<PeerStatus>,
    /// Before every good answer, send another: its header with this done to it, and a false body.
    pub(super) forge: Cell<Option<fn(&mut Header)>>,
    /// How many frames were submitted.
    pub(super) submitted: Cell<usize>,
    /// Body sizes of operations executed.
    pub(super) operations: RefCell<Vec<usize>>,
    pub(super) queries: Cell<usize>,
}

impl FakeCluster {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            sinks: RefCell::default(),
            frames: RefCell::default(),
            machine: RefCell::default(),
            sessions: RefCell::default(),
            random: Cell::new(100),
            op: Cell::new(0),
            lose_answers: Cell::new(0),
            lose: Cell::new(0),
            reject: Cell::new(None),
            entries_max: Cell::new(usize::MAX),
            status: Cell::new(PeerStatus::Normal),
            forge: Cell::new(None),
            submitted: Cell::new(0),
            operations: RefCell::default(),
            queries: Cell::new(0),
        })
    }

    /// How many writes were executed.
    pub(super) fn writes(&self) -> u64 {
        self.machine.borrow().writes
    }

    /// Forgets all sessions, so that the next requests are evicted.
    pub(super) fn evict_all(&self) {
        self.sessions.borrow_mut().clear();
    }

    /// Another client changes a key.
    pub(super) fn set(&self, key: &[u8], value: &[u8]) {
        self.machine.borrow_mut().set(key, value);
    }

    /// Handles the frames submitted so far, once each; false when there was none.
    pub(super) fn pump(&self) -> bool {
        let frames: Vec<_> = self.frames.borrow_mut().drain(..).collect();
        for frame in &frames {
            self.handle(frame);
        }
        !frames.is_empty()
    }

    fn handle(&self, bytes: &[u8]) {
        if self.lose.get() > 0 {
            self.lose.set(self.lose.get() - 1);
            return;
        }
        let frame = Frame::parse(bytes, CLUSTER).expect("a good frame");
        let (client, answer) = if frame.fields::<Request>().is_some() {
            self.request(&frame)
        } else {
            self.query(&frame)
        };
        if self.lose_answers.get() > 0 {
            self.lose_answers.set(self.lose_answers.get() - 1);
            return;
        }
        let sink = self.sinks.borrow().get(&client.raw()).cloned();
        if let Some(sink) = sink {
            if let Some(forge) = self.forge.get() {
                let head = &answer[..vsr_types::HEADER_SIZE];
                let mut header: Header = bytemuck::pod_read_unaligned(head);
                forge(&mut header);
                let forged = sealed(header, b"\x01\0\0\0\x09\0\0\0+FORGED\r\n");
                sink.on_frame(&Frame::parse(&forged, CLUSTER).expect("a good frame"));
            }
            sink.on_frame(&Frame::parse(&answer, CLUSTER).expect("a good answer"));
        }
    }

    fn request(&self, frame: &Frame<'_>) -> (ClientId, Vec<u8>) {
        let request = frame.request().expect("one request");
        let header = *request.header();
        let client = header.client;
        let mut sessions = self.sessions.borrow_mut();
        let reject = |reason: RejectReason| {
            let fields = Reject {
                client,
                request: header.request,
                reason: reason as u32,
                request_checksum: header.checksum(),
                detail: 0,
            };
            (client, sealed(Header::new(fields), &[]))
        };
        if let Some(reason) = self.reject.get() {
            return reject(reason);
        }
        if header.operation == Operation::Register as u8 {
            assert_eq!(header.request.raw(), 0);
            self.op.set(self.op.get() + 1);
            let op = self.op.get();
            let session = sessions.entry(client.raw()).or_default();
            *session = Session {
                last: 0,
                reply: Vec::new(),
                checksum: header.checksum(),
                op,
            };
        } else {
            let Some(session) = sessions.get_mut(&client.raw()) else {
                return reject(RejectReason::Evicted);
            };
            let number = header.request.raw();
            assert!(
                number == session.last || number == session.last + 1,
                "numbers rise by one"
            );
            if number == session.last {
                assert_eq!(
                    header.checksum(),
                    session.checksum,
                    "a retry has the same bytes"
                );
            } else {
                self.op.set(self.op.get() + 1);
                self.operations.borrow_mut().push(request.operation().len());
                session.reply = self
                    .machine
                    .borrow_mut()
                    .run(request.operation(), self.entries_max.get());
                session.last = number;
                session.checksum = header.checksum();
                session.op = self.op.get();
            }
        }
        let session = &sessions[&client.raw()];
        let fields = Reply {
            client,
            request: header.request,
            op: Op::new(session.op),
            request_checksum: session.checksum,
            index: 0,
        };
        let mut header = Header::new(fields);
        header.set_epoch(Epoch::new(3));
        (client, sealed(header, &session.reply))
    }

    fn query(&self, frame: &Frame<'_>) -> (ClientId, Vec<u8>) {
        let query = frame.fields::<Query>().expect("a request or a query");
        if let Some(reason) = self.reject.get() {
            let fields = Reject {
                client: query.client,
                request: query.query,
                reason: reason as u32,
                ..Reject::zeroed()
            };
            return (query.client, sealed(Header::new(fields), &[]));
        }
        self.queries.set(self.queries.get() + 1);
        let reply = self
            .machine
            .borrow_mut()
            .run(frame.body(), self.entries_max.get());
        let fields = QueryReply {
            client: query.client,
            query: query.query,
            op: Op::new(self.op.get()),
            reserved: 0,
        };
        (query.client, sealed(Header::new(fields), &reply))
    }
}

fn sealed(mut header: Header, body: &[u8]) -> Vec<u8> {
    header.set_cluster(CLUSTER);
    header.seal(body);
    [bytemuck::bytes_of(&header), body].concat()
}

impl Cluster for FakeCluster {
    fn attach(&self, client: ClientId, sink: Rc<dyn Sink>) {
        self.sinks.borrow_mut().insert(client.raw(), sink);
    }

    fn detach(&self, client: ClientId) {
        self.sinks.borrow_mut().remove(&client.raw());
    }

    fn submit(&self, frame: &[u8]) -> Result<(), FrameError> {
        self.submitted.set(self.submitted.get() + 1);
        self.frames.borrow_mut().push_back(frame.to_vec());
        Ok(())
    }

    fn cluster_id(&self) -> ClusterId {
        CLUSTER
    }

    fn report(&self) -> Report {
        Report {
            cluster: CLUSTER,
            replica: vsr_types::ReplicaIndex::new(0),
            replicas: 3,
            incarnation: vsr_types::Incarnation::default(),
            status: self.status.get(),
            halted: None,
            op_max: vsr_types::OpMax::new(vsr_types::limits::NUMBER_MAX).expect("not zero"),
            on_op_max: vsr_consensus::OnOpMax::Halt,
            epoch: Epoch::ZERO,
            ops_left: vsr_types::limits::NUMBER_MAX,
            warning: vsr_consensus::EpochWarning::None,
            archive_due: None,
            view: vsr_types::View::ZERO,
            primary: vsr_types::ReplicaIndex::new(0),
            op: Op::new(self.op.get()),
            commit: Op::new(self.op.get()),
            applied: Op::new(self.op.get()),
            tail: Op::ZERO,
            digest: vsr_types::body::DigestReport::zeroed(),
            sessions: self.sessions.borrow().len(),
            in_flight: 0,
            route: vsr_types::Route::through([]),
            peers: Default::default(),
        }
    }

    fn read_stale(&self, query: &[u8], reply: &mut [u8]) -> usize {
        let answer = self.machine.borrow_mut().run(query, usize::MAX);
        reply[..answer.len()].copy_from_slice(&answer);
        answer.len()
    }

    fn random(&self) -> u128 {
        self.random.set(self.random.get() + 1);
        self.random.get()
    }
}
