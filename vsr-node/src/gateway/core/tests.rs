//! Whole conversations, without sockets: what clients send, what they get, in which order.

use std::cell::RefCell;
use std::time::Duration;

use vsr_types::message::{QueryReply, RejectReason, Reply};
use vsr_types::{Checksum, ClientId, Header, RequestNumber};

use super::super::fake::FakeCluster;
use super::*;

fn address(text: &str) -> Option<SocketAddr> {
    Some(text.parse().expect("an address"))
}

/// A gateway with a cluster in memory and some clients.
struct World {
    cluster: Rc<FakeCluster>,
    core: Rc<RefCell<Option<Core>>>,
    now: Instant,
}

struct TestSink {
    core: Rc<RefCell<Option<Core>>>,
    lane: usize,
    now: Instant,
}

impl Sink for TestSink {
    fn on_frame(&self, frame: &Frame<'_>) {
        let mut core = self.core.borrow_mut();
        let core = core.as_mut().expect("the core exists");
        let now = core.now.max(self.now);
        core.on_frame(self.lane, frame, now);
    }
}

impl World {
    fn new() -> Self {
        Self::with(GatewayOptions {
            lanes: 1,
            ..GatewayOptions::default()
        })
    }

    fn with(options: GatewayOptions) -> Self {
        let cluster = FakeCluster::new();
        let core = Rc::new(RefCell::new(None));
        let sink = |lane| -> Rc<dyn Sink> {
            Rc::new(TestSink {
                core: Rc::clone(&core),
                lane,
                now: Instant::ZERO,
            })
        };
        let gateway = Core::new(
            options,
            Rc::clone(&cluster) as Rc<dyn Cluster>,
            sink,
            Instant::ZERO,
        );
        *core.borrow_mut() = Some(gateway);
        Self {
            cluster,
            core,
            now: Instant::ZERO,
        }
    }

    fn core<R>(&self, f: impl FnOnce(&mut Core) -> R) -> R {
        f(self.core.borrow_mut().as_mut().expect("the core exists"))
    }

    fn connect(&self) -> u32 {
        self.core(|core| core.accept(address("10.0.0.1:5"), address("10.0.0.2:6379"), self.now))
            .expect("there is room")
    }

    /// The client sends bytes; the gateway parses what it can, but nothing leaves yet.
    fn send(&self, slot: u32, bytes: impl AsRef<[u8]>) {
        let left = self.offer(slot, bytes.as_ref());
        assert!(left.is_empty(), "the connection takes no more input");
    }

    /// The client sends bytes as far as they are taken; returns the others.
    fn offer<'a>(&self, slot: u32, mut bytes: &'a [u8]) -> &'a [u8] {
        while !bytes.is_empty() && self.core(|core| core.interest(slot).read) {
            self.core(|core| {
                let Some(space) = core.read_space(slot) else {
                    return;
                };
                let count = bytes.len().min(space.len());
                space[..count].copy_from_slice(&bytes[..count]);
                bytes = &bytes[count..];
                core.received(slot, count, self.now);
            });
        }
        bytes
    }

    /// Lets gateway and cluster work until nothing moves any more.
    fn settle(&self) {
        loop {
            self.core(|core| core.turn(self.now));
            if !self.cluster.pump() && !self.core(|core| core.wants_turn()) {
                return;
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        self.core(|core| core.deadline(self.now));
        self.settle();
    }

    /// What the client has got so far.
    fn got(&self, slot: u32) -> String {
        self.core(|core| {
            let bytes: Vec<u8> = core.unwritten(slot).flatten().copied().collect();
            if !bytes.is_empty() {
                core.written(slot, bytes.len(), self.now);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    }

    fn ask(&self, slot: u32, bytes: impl AsRef<[u8]>) -> String {
        self.send(slot, bytes);
        self.settle();
        self.got(slot)
    }

    fn is_closed(&self, slot: u32) -> bool {
        self.core(|core| core.interest(slot).finished)
    }
}

#[test]
fn a_command_goes_through_the_cluster_and_back() {
    let world = World::new();
    let a = world.connect();
    assert_eq!(world.ask(a, "SET k v\r\n"), "+OK\r\n");
    assert_eq!(
        world.ask(a, "*2\r\n$3\r\nget\r\n$1\r\nk\r\n"),
        "$1\r\nv\r\n"
    );
    assert_eq!(world.ask(a, "GET none\r\n"), "$-1\r\n");
    assert_eq!(world.ask(a, "MGET k none\r\n"), "*2\r\n$1\r\nv\r\n$-1\r\n");
    assert_eq!(
        world.cluster.queries.get(),
        3,
        "reads do not go through the log"
    );
}

#[test]
fn replies_come_in_the_order_of_the_commands_local_ones_too() {
    let world = World::new();
    let a = world.connect();
    let got = world.ask(
        a,
        "PING\r\nSET k 1\r\nPING two\r\nGET k\r\nINCR k\r\nECHO x\r\nPING\r\nGET k\r\n",
    );
    assert_eq!(
        got,
        "+PONG\r\n+OK\r\n$3\r\ntwo\r\n$1\r\n1\r\n:2\r\n$1\r\nx\r\n+PONG\r\n$1\r\n2\r\n"
    );
}

#[test]
fn commands_of_many_connections_share_one_request() {
    let world = World::new();
    let slots: Vec<u32> = (0..50).map(|_| world.connect()).collect();
    for slot in &slots {
        world.send(*slot, "INCR n\r\nINCR n\r\n");
    }
    world.settle();
    let mut seen: Vec<i64> = Vec::new();
    for slot in slots {
        let got = world.got(slot);
        seen.extend(
            got.split("\r\n")
                .filter(|line| !line.is_empty())
                .map(|line| line[1..].parse::<i64>().unwrap()),
        );
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=100).collect::<Vec<_>>());
    assert_eq!(world.cluster.operations.borrow().len(), 1);
}

#[test]
fn a_write_waits_for_the_reads_before_it_and_reads_follow_writes_into_the_log() {
    let world = World::new();
    let a = world.connect();
    world.cluster.set(b"k", b"old");
    world.send(a, "GET k\r\nSET k new\r\nGET k\r\n");
    assert!(!world.core(|core| core.interest(a).read), "the write waits");
    world.settle();
    assert_eq!(world.got(a), "$3\r\nold\r\n+OK\r\n$3\r\nnew\r\n");
    assert_eq!(
        world.cluster.queries.get(),
        1,
        "the second read shares the write's operation"
    );
}

#[test]
fn a_lost_answer_is_asked_for_again_and_executed_once() {
    let mut world = World::new();
    let a = world.connect();
    assert_eq!(world.ask(a, "INCR n\r\n"), ":1\r\n");
    world.cluster.lose_answers.set(2);
    assert_eq!(world.ask(a, "INCR n\r\n"), "");
    world.pass(Duration::from_millis(200));
    assert_eq!(world.got(a), "");
    world.pass(Duration::from_millis(500));
    assert_eq!(world.got(a), ":2\r\n");
    assert_eq!(world.cluster.writes(), 2);
    world.cluster.lose.set(1);
    assert_eq!(world.ask(a, "GET n\r\n"), "");
    world.pass(Duration::from_millis(200));
    assert_eq!(world.got(a), "$1\r\n2\r\n");
}

/// `header` with its fields changed as if another question were answered.
fn forged(header: &mut Header, reply: fn(&mut Reply), query: fn(&mut QueryReply)) {
    if let Some(fields) = header.fields::<Reply>() {
        let mut fields = *fields;
        reply(&mut fields);
        *header = Header::new(fields);
    } else if let Some(fields) = header.fields::<QueryReply>() {
        let mut fields = *fields;
        query(&mut fields);
        *header = Header::new(fields);
    }
}

#[test]
fn answers_to_other_questions_are_ignored() {
    let forgeries: [fn(&mut Header); 3] = [
        |header| {
            forged(
                header,
                |reply| reply.request = reply.request.next(),
                |query| query.query = query.query.next(),
            );
        },
        |header| {
            forged(
                header,
                |reply| reply.request_checksum = Checksum::new(!reply.request_checksum.raw()),
                |query| query.query = RequestNumber::ZERO,
            );
        },
        |header| {
            forged(
                header,
                |reply| reply.client = ClientId::new(1),
                |query| query.client = ClientId::new(1),
            );
        },
    ];
    for forge in forgeries {
        let world = World::new();
        let a = world.connect();
        assert_eq!(world.ask(a, "SET k 1\r\nINCR n\r\n"), "+OK\r\n:1\r\n");
        world.cluster.forge.set(Some(forge));
        assert_eq!(world.ask(a, "INCR n\r\n"), ":2\r\n");
        assert_eq!(world.ask(a, "GET n\r\n"), "$1\r\n2\r\n");
        assert_eq!(world.ask(a, "INCR n\r\n"), ":3\r\n");
        let ignored = world.core(|core| core.counters.stale_answers);
        assert_eq!(ignored, 3, "every forged answer was ignored");
    }
}

#[test]
fn an_evicted_session_leaves_the_outcome_unknown_and_repeats_nothing() {
    let world = World::new();
    let (a, b) = (world.connect(), world.connect());
    assert_eq!(world.ask(a, "INCR n\r\n"), ":1\r\n");
    world.cluster.evict_all();
    world.send(a, "INCR n\r\nPING\r\n");
    world.core(|core| core.turn(world.now));
    // Not sent yet when the session is lost: it goes on in the new one.
    world.send(b, "INCR n\r\n");
    world.settle();
    let got = world.got(a);
    assert!(
        got.starts_with("-UNKNOWN ") && got.ends_with("\r\n+PONG\r\n"),
        "{got}"
    );
    assert_eq!(world.got(b), ":2\r\n");
    assert_eq!(world.cluster.writes(), 2);
    assert_eq!(world.ask(a, "INCR n\r\n"), ":3\r\n");
}

#[test]
fn without_an_answer_commands_fail_and_a_late_answer_is_not_mistaken() {
    let mut world = World::new();
    let a = world.connect();
    assert_eq!(world.ask(a, "INCR n\r\n"), ":1\r\n");
    world.cluster.lose_answers.set(1);
    world.cluster.reject.set(None);
    assert_eq!(world.ask(a, "INCR n\r\n"), "");
    world.send(a, "INCR n\r\n");
    world.cluster.lose.set(100);
    world.pass(Duration::from_secs(6));
    let got = world.got(a);
    assert_eq!(got.matches("-CLUSTERDOWN ").count(), 2, "{got}");
    assert!(
        world.ask(a, "INCR n\r\n").starts_with("-CLUSTERDOWN "),
        "fails at once"
    );
    world.pass(Duration::from_secs(6));
    let timeouts = world.core(|core| core.counters.timeouts);
    assert_eq!(timeouts, 1, "it is given up once");
    world.cluster.lose.set(0);
    world.pass(Duration::from_secs(2));
    assert_eq!(
        world.got(a),
        "",
        "the late answer is for a command that has failed already"
    );
    assert_eq!(
        world.ask(a, "INCR n\r\n"),
        ":3\r\n",
        "executed once: 1, late 2, 3"
    );
    assert_eq!(world.cluster.writes(), 3);
}

#[test]
fn busy_and_not_ready_are_tried_again_and_named_when_it_takes_too_long() {
    let mut world = World::new();
    let a = world.connect();
    for (reason, code) in [
        (RejectReason::Busy, "-BUSY "),
        // That this replica itself is getting its memory back is said at once; this is another's word.
        (RejectReason::NotReady, "-CLUSTERDOWN "),
        (RejectReason::Halted, "-CLUSTERDOWN "),
    ] {
        world.cluster.reject.set(Some(reason));
        assert_eq!(world.ask(a, "SET k v\r\n"), "");
        world.cluster.reject.set(None);
        world.pass(Duration::from_millis(300));
        assert_eq!(world.got(a), "+OK\r\n");
        world.cluster.reject.set(Some(reason));
        assert_eq!(world.ask(a, "SET k v\r\n"), "");
        world.pass(Duration::from_secs(6));
        let got = world.got(a);
        assert!(got.starts_with(code), "{got}");
        world.cluster.reject.set(None);
        world.pass(Duration::from_secs(2));
        assert_eq!(world.got(a), "");
    }
}

#[test]
fn what_is_in_flight_goes_to_a_new_primary_at_once() {
    let world = World::new();
    let a = world.connect();
    assert_eq!(world.ask(a, "INCR n\r\n"), ":1\r\n");
    world.cluster.lose.set(1);
    assert_eq!(world.ask(a, "INCR n\r\n"), "", "lost with the last primary");
    let now = world.now;
    world.core(|core| core.on_view(0, now));
    assert_eq!(world.ask(a, ""), ":2\r\n", "no time has passed");
    assert_eq!(world.cluster.writes(), 2);
}

#[test]
fn a_refused_operation_fails_and_its_number_is_used_again() {
    let world = World::new();
    let a = world.connect();
    assert_eq!(world.ask(a, "SET k v\r\n"), "+OK\r\n");
    world.cluster.reject.set(Some(RejectReason::Malformed));
    assert!(world.ask(a, "SET k w\r\n").starts_with("-ERR "));
    assert!(world.ask(a, "GET k\r\n").starts_with("-ERR "));
    world.cluster.reject.set(None);
    assert_eq!(world.ask(a, "GET k\r\n"), "$1\r\nv\r\n");
    assert_eq!(world.ask(a, "SET k w\r\n"), "+OK\r\n");
}

#[test]
fn what_did_not_fit_into_a_reply_is_sent_again_and_nothing_else() {
    let world = World::new();
    let (a, b) = (world.connect(), world.connect());
    world.cluster.entries_max.set(3);
    world.send(a, "INCR n\r\n".repeat(8));
    world.send(b, "INCR m\r\nINCR m\r\n");
    world.settle();
    assert_eq!(
        world.got(a),
        (1..=8).map(|n| format!(":{n}\r\n")).collect::<String>()
    );
    assert_eq!(world.got(b), ":1\r\n:2\r\n");
    assert_eq!(world.cluster.writes(), 10);
    assert_eq!(world.cluster.operations.borrow().len(), 4);
    world.send(a, "GET n\r\n".repeat(7));
    world.settle();
    assert_eq!(world.got(a), "$1\r\n8\r\n".repeat(7));
}

#[test]
fn a_full_request_makes_connections_wait_and_nothing_is_lost() {
    let options = GatewayOptions {
        lanes: 1,
        pack_size: 512,
        ..GatewayOptions::default()
    };
    let world = World::with(options);
    let slots: Vec<u32> = (0..5).map(|_| world.connect()).collect();
    for slot in &slots {
        world.send(*slot, format!("INCR key{slot}\r\n").repeat(100));
    }
    assert!(
        !world.core(|core| core.interest(slots[4]).read),
        "backpressure"
    );
    world.settle();
    for slot in slots {
        assert_eq!(
            world.got(slot),
            (1..=100).map(|n| format!(":{n}\r\n")).collect::<String>()
        );
    }
    assert!(
        world
            .cluster
            .operations
            .borrow()
            .iter()
            .all(|size| *size < 600)
    );
}

#[test]
fn too_large_a_command_is_refused_and_the_connection_goes_on() {
    let options = GatewayOptions {
        lanes: 1,
        operation_size_max: 4096,
        ..GatewayOptions::default()
    };
    let world = World::with(options);
    let a = world.connect();
    let large = format!(
        "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5000\r\n{}\r\nPING\r\n",
        "x".repeat(5000)
    );
    assert_eq!(
        world.ask(a, large),
        "-ERR the command is larger than a batch of this cluster may be\r\n+PONG\r\n"
    );
}

#[test]
fn a_client_that_does_not_read_is_not_served_any_further() {
    let options = GatewayOptions {
        lanes: 1,
        output_soft_max: 1000,
        ..GatewayOptions::default()
    };
    let world = World::with(options);
    let a = world.connect();
    let line = format!("ECHO {}\r\n", "x".repeat(100));
    world.send(a, line.repeat(100));
    assert!(!world.core(|core| core.interest(a).read));
    let unread = world.core(|core| core.unwritten(a).flatten().count());
    assert!((1000..1300).contains(&unread), "{unread}");
    let mut answers = 0;
    loop {
        let got = world.got(a);
        if got.is_empty() {
            break;
        }
        answers += got.matches("$100").count();
    }
    assert_eq!(answers, 100);
}

#[test]
fn clients_that_stall_are_closed() {
    let mut world = World::new();
    let (idle, partial, deaf) = (world.connect(), world.connect(), world.connect());
    world.send(partial, "*2\r\n$3\r\nGET\r\n");
    world.send(deaf, "PING\r\n");
    world.now = world.now.after(Duration::from_secs(31));
    world.core(|core| core.sweep(world.now));
    assert!(world.is_closed(partial) && world.is_closed(deaf) && !world.is_closed(idle));
    assert_eq!(world.core(|core| core.counters.connections_timed_out), 2);
}

#[test]
fn the_last_connection_too_many_is_refused() {
    let world = World::with(GatewayOptions {
        clients_max: 2,
        ..GatewayOptions::default()
    });
    let a = world.connect();
    let b = world.connect();
    assert!(
        world
            .core(|core| core.accept(None, None, world.now))
            .is_none()
    );
    world.core(|core| core.closed(a));
    let c = world.connect();
    assert_eq!(
        world.ask(b, "PING\r\n") + &world.ask(c, "PING\r\n"),
        "+PONG\r\n+PONG\r\n"
    );
}

#[test]
fn answers_for_a_closed_connection_reach_nobody_else() {
    let world = World::new();
    let a = world.connect();
    world.send(a, "SET k v\r\n");
    world.core(|core| core.closed(a));
    let b = world.connect();
    assert_eq!(a, b, "the slot is used again");
    world.settle();
    assert_eq!(world.got(b), "");
    assert_eq!(world.ask(b, "GET k\r\n"), "$1\r\nv\r\n");
}

#[test]
fn quit_and_the_end_of_input_wait_for_outstanding_answers() {
    let world = World::new();
    let (a, b) = (world.connect(), world.connect());
    world.send(a, "SET k v\r\nQUIT\r\nSET k w\r\n");
    world.send(b, "GET k\r\nSET b 1\r\n");
    world.core(|core| core.received(b, 0, world.now));
    assert!(!world.is_closed(a) && !world.is_closed(b));
    world.settle();
    assert_eq!(world.got(a), "+OK\r\n+OK\r\n");
    assert!(world.got(b).ends_with("+OK\r\n"));
    assert!(world.is_closed(a) && world.is_closed(b));
    assert_eq!(world.cluster.writes(), 2, "nothing after QUIT");
}

#[test]
fn a_protocol_error_is_answered_in_order_and_ends_the_connection() {
    let world = World::new();
    let a = world.connect();
    world.send(a, "SET k v\r\n*1\r\nGET\r\nPING\r\n");
    world.settle();
    assert_eq!(
        world.got(a),
        "+OK\r\n-ERR Protocol error: expected '$', got 'G'\r\n"
    );
    assert!(world.is_closed(a));
}

#[test]
fn a_blank_replica_says_loading_but_answers_for_itself() {
    let world = World::new();
    world.cluster.status.set(PeerStatus::Blank);
    let a = world.connect();
    assert!(world.ask(a, "GET k\r\n").starts_with("-LOADING "));
    assert_eq!(world.ask(a, "PING\r\n"), "+PONG\r\n");
    assert!(
        world
            .ask(a, "INFO persistence\r\n")
            .contains("loading:1\r\n")
    );
    world.cluster.status.set(PeerStatus::Normal);
    assert_eq!(world.ask(a, "GET k\r\n"), "$-1\r\n");
    assert!(
        world
            .ask(a, "INFO persistence\r\n")
            .contains("loading:0\r\n")
    );
}

#[test]
fn replies_can_be_switched_off() {
    let world = World::new();
    let a = world.connect();
    assert_eq!(
        world.ask(a, "CLIENT REPLY SKIP\r\nSET k 1\r\nPING\r\n"),
        "+PONG\r\n"
    );
    assert_eq!(world.ask(a, "CLIENT REPLY OFF\r\nINCR k\r\nPING\r\n"), "");
    assert_eq!(
        world.ask(a, "CLIENT REPLY ON\r\nGET k\r\n"),
        "+OK\r\n$1\r\n2\r\n"
    );
}

#[test]
fn readonly_reads_come_from_this_replica() {
    let world = World::new();
    let a = world.connect();
    assert_eq!(
        world.ask(a, "READONLY\r\nSET k v\r\nGET k\r\n"),
        "+OK\r\n+OK\r\n$1\r\nv\r\n"
    );
    assert_eq!(world.cluster.queries.get(), 0);
    assert_eq!(world.core(|core| core.counters.stale_reads), 1);
    assert_eq!(world.ask(a, "READWRITE\r\nGET k\r\n"), "+OK\r\n$1\r\nv\r\n");
    assert_eq!(world.cluster.queries.get(), 1);
}

mod conversations;
mod memory;
