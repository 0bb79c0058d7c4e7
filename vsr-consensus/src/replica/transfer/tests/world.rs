//! Three replicas, their wires and a few clients.

extern crate std;

use core::time::Duration;
use std::boxed::Box;
use std::collections::{BTreeMap, VecDeque};
use std::vec::Vec;

use vsr_types::body::BootNonces;
use vsr_types::message::{self, ImageOffer, InitAck, InitCommit, InitPropose, Reply};
use vsr_types::{
    ClientId, ClusterId, Command, Digest, Epoch, Frame, HEADER_SIZE, Header, Instant, MemberId,
    Message, Nonce, Now, Op, Operation, ReplicaIndex, RequestHeader, RequestNumber, SessionNumber,
    Timestamp,
};

use super::cells::Cells;
use crate::random::Random;
use crate::{Boot, Config, DropReason, Event, Input, Outbox, Replica, Sent, Settings};

pub(super) const CLUSTER: ClusterId = ClusterId::new(0xFEED);
pub(super) const TOKEN: Nonce = Nonce::new(9);
const TICK: Duration = Duration::from_millis(10);

#[cfg(feature = "mutate")]
std::thread_local! {
    /// The rule that the replicas made from now on do without.
    pub(super) static MUTANT: core::cell::Cell<Option<crate::Mutant>> =
        const { core::cell::Cell::new(None) };
}

#[derive(Debug)]
struct Client {
    id: u128,
    session: u64,
    request: u64,
    waiting: bool,
    /// The bytes of the last request, to send them again, and its answer.
    frame: Vec<u8>,
    answer: Vec<u8>,
}

/// May change a frame's body on its way; the frame is sealed again.
type Tamper = fn(u8, &Header, &mut Vec<u8>);

pub(super) struct World {
    pub(super) replicas: Vec<Replica<Cells>>,
    down: [bool; 3],
    lives: u128,
    view_timeout: Duration,
    /// To whom clients speak.
    pub(super) primary: u8,
    wires: BTreeMap<(u8, u8), VecDeque<Vec<u8>>>,
    cut: Vec<(u8, u8)>,
    clients: Vec<Client>,
    now: Now,
    random: Random,
    pub(super) frames_per_turn: usize,
    /// How many cells the load writes to.
    pub(super) cells: u64,
    pub(super) served: u64,
    pub(super) tamper: Option<Tamper>,
    /// Answers with state lie about themselves, in sound frames.
    pub(super) garble: bool,
    pub(super) seed: u64,
    /// Counts what is allocated in steps.
    pub(super) measures: bool,
    pub(super) allocated: u64,
    pub(super) steps: u64,
}

struct Exit {
    peers: Vec<(u8, Vec<u8>)>,
    clients: Vec<Vec<u8>>,
    sender: Vec<Vec<u8>>,
}

fn bytes(header: &Header, body: &[u8]) -> Vec<u8> {
    [bytemuck::bytes_of(header), body].concat()
}

impl Outbox for Exit {
    fn peer(&mut self, to: ReplicaIndex, header: &Header, body: &[u8]) -> Sent {
        allocation_counter::opt_out(|| self.peers.push((to.raw(), bytes(header, body))));
        Sent::Queued
    }

    fn client(&mut self, _: ClientId, header: &Header, body: &[u8]) -> Sent {
        allocation_counter::opt_out(|| self.clients.push(bytes(header, body)));
        Sent::Queued
    }

    fn sender(&mut self, header: &Header, body: &[u8]) -> Sent {
        allocation_counter::opt_out(|| self.sender.push(bytes(header, body)));
        Sent::Queued
    }
}

fn config(replica: ReplicaIndex, view_timeout: Duration) -> Config {
    let mut settings = Settings::new(replica, 3);
    settings.journal_slots = 128;
    settings.batch_size_max = 16 << 10;
    settings.journal_bytes = 1 << 20;
    settings.sessions = 16;
    settings.reply_bytes = 4 << 20;
    settings.query_bytes = 2 << 20;
    settings.tick = TICK;
    settings.view_timeout = view_timeout;
    #[cfg(feature = "mutate")]
    {
        settings.mutant = MUTANT.get();
    }
    settings.validate().expect("the test's settings make sense")
}

fn replica(index: ReplicaIndex, life: u128, view_timeout: Duration) -> Replica<Cells> {
    let boot = Boot {
        member: MemberId::new(100 + u128::from(index.raw())),
        nonce: Nonce::new((life << 70) + 200 + u128::from(index.raw())),
        seed: u64::from(index.raw()) + life as u64,
    };
    Replica::new(&config(index, view_timeout), boot, Cells::new(40_000))
}

impl World {
    /// Replicas that never suspect their primary.
    pub(super) fn formed() -> Self {
        Self::formed_with(Duration::from_secs(3600))
    }

    pub(super) fn formed_with(view_timeout: Duration) -> Self {
        let mut world = Self::blank_with(view_timeout);
        world.form(None);
        for _ in 0..8 {
            world.newcomer();
        }
        world
    }

    /// Three processes that belong to nothing.
    pub(super) fn blank_with(view_timeout: Duration) -> Self {
        let replica = |index| replica(index, 1, view_timeout);
        Self {
            replicas: ReplicaIndex::all(3).map(replica).collect(),
            down: [false; 3],
            lives: 1,
            view_timeout,
            primary: 0,
            wires: BTreeMap::new(),
            cut: Vec::new(),
            clients: Vec::new(),
            now: Now {
                monotonic: Instant::from_nanos(1_000_000),
                wall: Timestamp::from_nanos(1_700_000_000_000_000_000),
            },
            random: Random::new(5),
            frames_per_turn: usize::MAX,
            cells: 9000,
            served: 0,
            tamper: None,
            garble: false,
            seed: 0,
            measures: false,
            allocated: 0,
            steps: 0,
        }
    }

    /// What everybody says when a cluster is proposed, with an image or without one.
    pub(super) fn propose(&mut self, image: Option<&ImageOffer>) -> Vec<Vec<u8>> {
        let mut propose = Header::new(InitPropose {
            cluster: CLUSTER,
            token: TOKEN,
            reserved: 0,
        });
        let image = image.map_or(&[][..], bytemuck::bytes_of);
        propose.seal(image);
        let ask = |at| self.ask_as_tool(at, &propose, image).remove(0);
        (0..3).map(ask).collect()
    }

    pub(super) fn form(&mut self, image: Option<&ImageOffer>) {
        let mut nonces: BootNonces = bytemuck::Zeroable::zeroed();
        for (i, answer) in self.propose(image).iter().enumerate() {
            let frame = Frame::parse(answer, ClusterId::ZERO).expect("an ack");
            nonces.nonces[i] = frame.fields::<InitAck>().expect("an ack").boot_nonce;
        }
        self.tell_all(&nonces);
    }

    /// The word that all have agreed.
    pub(super) fn tell_all(&mut self, nonces: &BootNonces) {
        let mut commit = Header::new(InitCommit {
            cluster: CLUSTER,
            token: TOKEN,
            reserved: 0,
        });
        commit.seal(bytemuck::bytes_of(nonces));
        for i in 0..3 {
            self.step(i, Some(&bytes(&commit, bytemuck::bytes_of(nonces))));
        }
    }

    /// A tool's question, and the answers to it.
    pub(super) fn ask_as_tool(&mut self, at: u8, header: &Header, body: &[u8]) -> Vec<Vec<u8>> {
        self.step(at, Some(&bytes(header, body))).sender
    }

    /// The clients of another world go on here, with the sessions that they have.
    pub(super) fn adopt_clients(&mut self, other: &mut Self) {
        self.clients = core::mem::take(&mut other.clients);
    }

    fn step(&mut self, at: u8, message: Option<&[u8]>) -> Exit {
        let mut exit = Exit {
            peers: Vec::new(),
            clients: Vec::new(),
            sender: Vec::new(),
        };
        let replica = &mut self.replicas[usize::from(at)];
        let input = match message {
            Some(bytes) => match Frame::parse(bytes, replica.cluster()) {
                Ok(frame) => Input::Message(frame),
                Err(_) => return exit,
            },
            None => Input::Deadline,
        };
        self.steps += 1;
        let now = self.now;
        if self.measures {
            let counted = allocation_counter::measure(|| {
                let _ = replica.step(now, input, &mut exit);
            });
            self.allocated += counted.count_total;
        } else {
            let _ = replica.step(now, input, &mut exit);
        }
        self.post(at, &mut exit);
        for reply in &exit.clients {
            Self::on_reply(&mut self.clients, &mut self.served, reply);
        }
        exit
    }

    /// Puts what a replica sends to others on the wires.
    fn post(&mut self, at: u8, exit: &mut Exit) {
        for (to, bytes) in exit.peers.drain(..) {
            let is_cut = self.cut.contains(&(at, to));
            if !is_cut {
                self.wires.entry((at, to)).or_default().push_back(bytes);
            }
        }
    }

    /// A check of a replica's own has found these chunks of its image to be bad.
    pub(super) fn repair_state(&mut self, at: u8, chunks: &[u64]) -> bool {
        let mut exit = Exit {
            peers: Vec::new(),
            clients: Vec::new(),
            sender: Vec::new(),
        };
        let replica = &mut self.replicas[usize::from(at)];
        let begun = replica.repair_state(chunks, &mut exit);
        replica.seal();
        self.post(at, &mut exit);
        begun
    }

    /// Flips a bit in a cell of a replica's state; returns which chunk of the image is bad now.
    pub(super) fn flip(&mut self, at: u8, cell: u64) -> u64 {
        let replica = &mut self.replicas[usize::from(at)];
        let chunk = replica.machine.flip(cell);
        assert!(!replica.machine.is_sound(), "a bit counts");
        replica.chunk_of_machine(chunk)
    }

    fn on_reply(clients: &mut [Client], served: &mut u64, bytes: &[u8]) {
        let frame = Frame::parse(bytes, CLUSTER).expect("a sound reply");
        let Some(reply) = frame.fields::<Reply>() else {
            return;
        };
        let Some(client) = clients
            .iter_mut()
            .find(|c| ClientId::new(c.id) == reply.client)
        else {
            return;
        };
        if reply.request.raw() != client.request {
            return;
        }
        if !client.waiting {
            assert_eq!(frame.body(), client.answer, "told again, and the same");
        } else {
            client.waiting = false;
            client.answer = frame.body().to_vec();
            *served += 1;
            if client.request == 0 {
                client.session = reply.op.raw();
            }
        }
    }

    fn damaged(&mut self, from: u8, mut frame: Vec<u8>) -> Vec<u8> {
        let mut header: Header = bytemuck::pod_read_unaligned(&frame[..HEADER_SIZE]);
        let is_state = header.command() == Some(Command::NewState);
        if let Some(tamper) = self.tamper {
            let mut body = frame[HEADER_SIZE..].to_vec();
            tamper(from, &header, &mut body);
            if body != frame[HEADER_SIZE..] {
                header.seal(&body);
                frame = bytes(&header, &body);
            }
        }
        if self.garble && is_state {
            let roll = self.random.next() ^ self.seed;
            if roll.is_multiple_of(4) {
                let at = 80 + (roll >> 8) as usize % 40;
                frame[at] ^= 1 << ((roll >> 16) % 8);
            } else if roll.is_multiple_of(3) && frame.len() > HEADER_SIZE {
                let at = HEADER_SIZE + (roll >> 8) as usize % (frame.len() - HEADER_SIZE);
                frame[at] ^= 1 << ((roll >> 40) % 8);
            }
            let mut header: Header = bytemuck::pod_read_unaligned(&frame[..HEADER_SIZE]);
            let body = frame[HEADER_SIZE..].to_vec();
            header.seal(&body);
            frame = bytes(&header, &body);
        }
        frame
    }

    /// Delivers what is on the wires, so many frames each, and gives everybody its deadlines.
    pub(super) fn turn(&mut self) -> usize {
        self.advance(Duration::from_micros(200));
        let mut delivered = 0;
        let wires: Vec<(u8, u8)> = self.wires.keys().copied().collect();
        for (from, to) in wires {
            let mut left = self.frames_per_turn;
            // What the replica sends to itself does not exist; what comes now waits for the next turn.
            let ready = self.wires[&(from, to)].len();
            if self.down[usize::from(to)] {
                self.wires.remove(&(from, to));
                continue;
            }
            for _ in 0..ready {
                let wire = self.wires.get_mut(&(from, to)).expect("listed");
                let Some(frame) = wire.pop_front() else { break };
                let is_bulk = frame[126] == Command::NewState as u8;
                if is_bulk {
                    left -= 1;
                }
                let frame = self.damaged(from, frame);
                self.step(to, Some(&frame));
                delivered += 1;
                if left == 0 {
                    break;
                }
            }
        }
        for i in (0..3)
            .filter(|&i| !self.down[usize::from(i)])
            .collect::<Vec<u8>>()
        {
            self.settle(i);
        }
        delivered
    }

    fn settle(&mut self, at: u8) {
        for _ in 0..10_000 {
            if self.replicas[usize::from(at)].next_deadline() > self.now.monotonic {
                return;
            }
            self.step(at, None);
        }
        panic!("the deadline of R{at} never passes");
    }

    fn advance(&mut self, time: Duration) {
        self.now.monotonic = self.now.monotonic.after(time);
        self.now.wall = Timestamp::from_nanos(self.now.wall.as_nanos() + time.as_nanos() as u64);
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now.monotonic.after(time);
        while self.now.monotonic < end {
            self.turn();
        }
    }

    /// Until all have executed the same.
    pub(super) fn settle_all(&mut self) {
        for _ in 0..20_000 {
            self.turn();
            let first = self.replicas[usize::from(self.primary)].report();
            let mut alive = self
                .replicas
                .iter()
                .zip(self.down)
                .filter(|(_, down)| !down);
            let is_done = alive.all(|(replica, _)| {
                let report = replica.report();
                let serves = report.status == message::PeerStatus::Normal;
                serves && report.applied == first.op && replica.transfer().is_none()
            });
            if is_done {
                return;
            }
        }
        let reports: Vec<_> = self
            .replicas
            .iter()
            .map(|r| (r.report().applied, r.transfer()))
            .collect();
        panic!("they never agree: {reports:?}");
    }

    pub(super) fn cut(&mut self, replica: u8) {
        for other in 0..3 {
            self.cut_link(replica, other);
        }
    }

    pub(super) fn cut_link(&mut self, a: u8, b: u8) {
        for wire in [(a, b), (b, a)] {
            self.cut.push(wire);
            self.wires.remove(&wire);
        }
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
    }

    fn ask(&mut self, client: usize, operation: Operation, body: &[u8]) {
        let client = &mut self.clients[client];
        client.waiting = true;
        let mut request = RequestHeader::new(
            operation,
            ClientId::new(client.id),
            Epoch::ZERO,
            SessionNumber::new(client.session),
            RequestNumber::new(client.request),
        );
        request.seal(body);
        let mut header = Header::new(message::Request { reserved: [0; 5] });
        header.set_cluster(CLUSTER);
        header.seal_with(request.size(), request.checksum());
        let frame = [
            bytemuck::bytes_of(&header),
            bytemuck::bytes_of(&request),
            body,
        ]
        .concat();
        client.frame.clone_from(&frame);
        self.step(self.primary, Some(&frame));
    }

    /// Every client sends its last request again; says how many were answered from memory.
    pub(super) fn retry_all(&mut self) -> u64 {
        let sent = self.replicas[usize::from(self.primary)]
            .counters()
            .drops(DropReason::Repeated);
        for client in 0..self.clients.len() {
            let frame = self.clients[client].frame.clone();
            self.step(self.primary, Some(&frame));
        }
        self.turn();
        self.replicas[usize::from(self.primary)]
            .counters()
            .drops(DropReason::Repeated)
            - sent
    }

    /// The process is gone, and its memory with it.
    pub(super) fn crash(&mut self, index: u8) {
        self.down[usize::from(index)] = true;
        self.wires
            .retain(|&(from, to), _| from != index && to != index);
    }

    /// A new process in its place.
    pub(super) fn restart(&mut self, index: u8) {
        self.lives += 1;
        self.down[usize::from(index)] = false;
        let fresh = replica(ReplicaIndex::new(index), self.lives, self.view_timeout);
        self.replicas[usize::from(index)] = fresh;
    }

    pub(super) fn clients(&self) -> u64 {
        self.clients.len() as u64
    }

    pub(super) fn is_normal(&self, index: usize) -> bool {
        self.replicas[index].report().status == message::PeerStatus::Normal
    }

    /// Another client registers; the first ones of too many are forgotten.
    pub(super) fn newcomer(&mut self) {
        let id = self.clients.last().map_or(1000, |client| client.id + 1);
        if self.clients.len() >= 12 {
            self.clients.remove(0);
        }
        self.clients.push(Client {
            id,
            session: 0,
            request: 0,
            waiting: false,
            frame: Vec::new(),
            answer: Vec::new(),
        });
        let client = self.clients.len() - 1;
        self.ask(client, Operation::Register, &[]);
        self.wait_for(client);
    }

    fn wait_for(&mut self, client: usize) {
        for _ in 0..10_000 {
            if !self.clients[client].waiting {
                return;
            }
            self.turn();
        }
        panic!("a client waits for ever");
    }

    /// Writes a cell and waits for the answer.
    pub(super) fn write(&mut self, index: u64, value: u64) {
        let client = self
            .clients
            .iter()
            .rposition(|client| !client.waiting)
            .expect("an idle client");
        self.begin_write(client, index, value);
        self.wait_for(client);
    }

    fn begin_write(&mut self, client: usize, index: u64, value: u64) {
        self.clients[client].request += 1;
        let operation: [u8; 16] = bytemuck::cast([index.to_le_bytes(), value.to_le_bytes()]);
        self.ask(client, Operation::Apply, &operation);
    }

    /// Every idle client writes somewhere.
    pub(super) fn load(&mut self) {
        for client in 0..self.clients.len() {
            if !self.clients[client].waiting {
                let (index, value) = (self.random.next() % self.cells, self.random.next());
                self.begin_write(client, index, value);
            }
        }
    }

    /// A replica says that it cannot catch up with what follows `since`.
    pub(super) fn ask_to_go_slowly(&mut self, from: u8, to: u8, since: Op) {
        let word = message::GetState {
            question: 0,
            since,
            at_least: since,
            from: 0,
            count: 0,
            wish: message::STATE_SLOWLY,
        };
        self.forge(from, to, word, &[]);
    }

    pub(super) fn forge<M: Message>(&mut self, from: u8, to: u8, fields: M, body: &[u8]) {
        let header = self.replicas[usize::from(from)]
            .letterhead()
            .sealed(fields, body);
        let frame: Box<[u8]> = bytes(&header, body).into();
        self.step(to, Some(&frame));
    }

    pub(super) fn count(&self, replica: usize, event: Event) -> u64 {
        self.replicas[replica].counters().of(event)
    }

    pub(super) fn digest(&self, replica: usize) -> Digest {
        let replica = &self.replicas[replica];
        replica
            .digest_at(replica.report().applied)
            .expect("the present digest")
    }

    /// All that run hold the same state.
    pub(super) fn assert_equal(&self) {
        let first = usize::from(self.primary);
        for i in (0..3).filter(|&i| !self.down[i]) {
            let (replica, primary) = (&self.replicas[i], &self.replicas[first]);
            assert_eq!(replica.report().applied, primary.report().applied);
            assert_eq!(
                self.digest(i),
                self.digest(first),
                "R{i} and R{first} hold the same state"
            );
            assert!(replica.sessions().eq(primary.sessions()));
        }
    }
}
