//! The simulated network: frames in reused buffers, links with delays, loss and cuts.
//!
//! Addresses are bytes: replicas from 0, the operator's tool, then clients.

use std::vec;
use std::vec::Vec;

use vsr_types::limits::REPLICAS_MAX;
use vsr_types::{Command, HEADER_SIZE, Header};

use super::plan::{Time, Weather};
use super::random::Random;

/// Who sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address(u8);

impl Address {
    pub(crate) const TOOL: Self = Self(REPLICAS_MAX as u8);
    const CLIENT: u8 = REPLICAS_MAX as u8 + 1;

    pub(crate) const fn replica(index: u8) -> Self {
        Self(index)
    }

    pub(crate) const fn client(index: u16) -> Self {
        Self(Self::CLIENT + index as u8)
    }

    pub(crate) fn as_replica(self) -> Option<usize> {
        (self.0 < REPLICAS_MAX as u8).then_some(usize::from(self.0))
    }

    pub(crate) fn as_client(self) -> Option<u16> {
        self.0.checked_sub(Self::CLIENT).map(u16::from)
    }

    pub(crate) const fn raw(self) -> u8 {
        self.0
    }

    /// The row of the link tables: all clients share one.
    pub(crate) fn row(self) -> usize {
        usize::from(self.0).min(REPLICAS_MAX)
    }
}

impl core::fmt::Display for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match (self.as_replica(), self.as_client()) {
            (Some(index), _) => write!(f, "R{index}"),
            (_, Some(index)) => write!(f, "c{index}"),
            _ => f.write_str("tool"),
        }
    }
}

/// A frame on its way.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: Address,
    pub(crate) to: Address,
    /// The client this is for, when a replica's node is only to pass it on.
    pub(crate) relay: Option<Address>,
    pub(crate) bytes: Vec<u8>,
    /// Damaged on the way: it must never be taken for a message.
    pub(crate) damaged: bool,
}

/// The place of a [`Packet`].
pub(crate) type PacketIndex = u32;

/// Frames in buffers that are used again.
#[derive(Debug, Default)]
pub(crate) struct Packets {
    all: Vec<Packet>,
    free: Vec<PacketIndex>,
}

impl Packets {
    fn take(&mut self, from: Address, to: Address) -> PacketIndex {
        let index = self.free.pop().unwrap_or_else(|| {
            self.all.push(Packet {
                from,
                to,
                relay: None,
                bytes: Vec::with_capacity(512),
                damaged: false,
            });
            (self.all.len() - 1) as PacketIndex
        });
        let packet = &mut self.all[index as usize];
        packet.from = from;
        packet.to = to;
        packet.relay = None;
        packet.damaged = false;
        packet.bytes.clear();
        index
    }

    pub(crate) fn make(
        &mut self,
        from: Address,
        to: Address,
        header: &Header,
        body: &[u8],
    ) -> PacketIndex {
        let index = self.take(from, to);
        let bytes = &mut self.all[index as usize].bytes;
        bytes.extend_from_slice(bytemuck::bytes_of(header));
        bytes.extend_from_slice(body);
        index
    }

    pub(crate) fn copy(&mut self, from: Address, to: Address, frame: &[u8]) -> PacketIndex {
        let index = self.take(from, to);
        self.all[index as usize].bytes.extend_from_slice(frame);
        index
    }

    /// The same frame once more.
    pub(crate) fn double(&mut self, index: PacketIndex) -> PacketIndex {
        let (from, to, relay) = {
            let packet = &self.all[index as usize];
            (packet.from, packet.to, packet.relay)
        };
        let copy = self.take(from, to);
        let bytes = core::mem::take(&mut self.all[index as usize].bytes);
        self.all[copy as usize].bytes.extend_from_slice(&bytes);
        self.all[copy as usize].relay = relay;
        self.all[index as usize].bytes = bytes;
        copy
    }

    pub(crate) fn get(&self, index: PacketIndex) -> &Packet {
        &self.all[index as usize]
    }

    pub(crate) fn get_mut(&mut self, index: PacketIndex) -> &mut Packet {
        &mut self.all[index as usize]
    }

    /// Takes the bytes out, to use them while the pool is used.
    pub(crate) fn lend(&mut self, index: PacketIndex) -> Vec<u8> {
        core::mem::take(&mut self.all[index as usize].bytes)
    }

    /// Gives lent bytes back and frees the packet.
    pub(crate) fn give_back(&mut self, index: PacketIndex, bytes: Vec<u8>) {
        self.all[index as usize].bytes = bytes;
        self.release(index);
    }

    pub(crate) fn release(&mut self, index: PacketIndex) {
        self.free.push(index);
    }
}

/// The header of a frame, if it is long enough to have one.
pub(crate) fn header_of(packet: &Packet) -> Option<Header> {
    let head = packet.bytes.get(..HEADER_SIZE)?;
    Some(bytemuck::pod_read_unaligned(head))
}

/// Rows of the link tables: replicas, and one for everybody else.
const ROWS: usize = REPLICAS_MAX + 1;

/// How slow links are and how bad.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Climate {
    weather: Weather,
    delay: [[Time; ROWS]; ROWS],
}

/// When and whether a frame arrives.
#[derive(Debug)]
pub(crate) struct Links {
    weather: Weather,
    random: Random,
    /// The mean delay of each link.
    delay: [[Time; ROWS]; ROWS],
    /// How many partitions block a link.
    cuts: [[u16; ROWS]; ROWS],
    /// Nothing arrives before this.
    clogged_until: [[Time; ROWS]; ROWS],
    /// When the newest frame of a link arrives, to keep order.
    last: Vec<Time>,
    corrupt_until: Time,
    corrupt_one_in: u32,
    /// Earlier frames, any of which may come again.
    kept: Vec<Packet>,
    keeps: bool,
    /// The newest heartbeat of each replica to each other.
    beats: Vec<Vec<u8>>,
}

/// How many earlier frames are kept to be sent again.
const KEPT_MAX: usize = 512;
/// The largest frame that is kept.
const KEPT_SIZE_MAX: usize = 8 << 10;

/// What became of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fate {
    /// When it arrives; none: never.
    pub(crate) first: Option<Time>,
    /// When it arrives a second time.
    pub(crate) second: Option<Time>,
    /// Whether a bit of it flips.
    pub(crate) damaged: bool,
}

impl Links {
    pub(crate) fn new(weather: Weather, mut random: Random, keeps: bool) -> Self {
        let mut delay = [[0; ROWS]; ROWS];
        for place in delay.iter_mut().flatten() {
            *place = weather.delay / 2 + random.below(weather.delay * 3 / 2);
        }
        Self {
            weather,
            random,
            delay,
            cuts: [[0; ROWS]; ROWS],
            clogged_until: [[0; ROWS]; ROWS],
            last: vec![0; 256 * 256],
            corrupt_until: 0,
            corrupt_one_in: 1,
            kept: Vec::new(),
            keeps,
            beats: vec![Vec::new(); REPLICAS_MAX * REPLICAS_MAX],
        }
    }

    pub(crate) fn fate(&mut self, packet: &Packet, now: Time) -> Fate {
        let (from, to) = (packet.from.row(), packet.to.row());
        if self.keeps {
            self.keep(packet);
        }
        if self.cuts[from][to] > 0 || self.random.per_million(self.weather.loss) {
            return Fate::default();
        }
        let first = self.arrival(packet, now);
        let second = self.random.per_million(self.weather.duplicate);
        let second = second.then(|| {
            let later = now + self.random.waiting(20 * self.weather.delay);
            self.arrival(packet, later)
        });
        let damaged = self.damages(now);
        Fate {
            first: Some(first),
            second,
            damaged,
        }
    }

    /// Whether what is on its way now is damaged.
    pub(crate) fn damages(&mut self, now: Time) -> bool {
        now < self.corrupt_until && self.random.below(self.corrupt_one_in.into()) == 0
    }

    fn arrival(&mut self, packet: &Packet, now: Time) -> Time {
        let (from, to) = (packet.from.row(), packet.to.row());
        let mean = self.delay[from][to];
        let mut delay = mean / 2 + self.random.below(mean + 1);
        if self.random.per_million(self.weather.tail) {
            delay *= self.random.between(10, 50);
        }
        if self.random.per_million(self.weather.reorder) {
            // Overtaken by others, or overtaking them.
            delay *= self.random.below(6);
            return (now + delay).max(self.clogged_until[from][to]);
        }
        let last = usize::from(packet.from.raw()) << 8 | usize::from(packet.to.raw());
        let at = (now + delay)
            .max(self.clogged_until[from][to])
            .max(self.last[last]);
        self.last[last] = at;
        at
    }

    /// Keeps a sample of everything sent, mostly of late, and mostly of what is said seldom.
    fn keep(&mut self, packet: &Packet) {
        let command = header_of(packet).and_then(|header| header.command());
        if command == Some(Command::Commit)
            && let (Some(from), Some(to)) = (packet.from.as_replica(), packet.to.as_replica())
        {
            let beat = &mut self.beats[from * REPLICAS_MAX + to];
            beat.clear();
            beat.extend_from_slice(&packet.bytes);
        }
        let one_in = match command {
            Some(Command::Ping | Command::Pong | Command::CommitOk) => 64,
            Some(Command::PrepareOk) => 3,
            Some(Command::Prepare | Command::Commit | Command::Request) => 8,
            Some(Command::Reply | Command::Query | Command::QueryReply | Command::Headers) => 8,
            _ => 1,
        };
        if packet.bytes.len() > KEPT_SIZE_MAX || self.random.below(one_in) != 0 {
            return;
        }
        if self.kept.len() < KEPT_MAX {
            self.kept.push(packet.clone());
            return;
        }
        // A part of the places keeps what is old for long.
        let place = self.random.below(KEPT_MAX as u64) as usize;
        if place >= KEPT_MAX / 2 || self.random.below(64) == 0 {
            let kept = &mut self.kept[place];
            kept.from = packet.from;
            kept.to = packet.to;
            kept.relay = packet.relay;
            kept.bytes.clear();
            kept.bytes.extend_from_slice(&packet.bytes);
        }
    }

    /// Everything that is kept.
    pub(crate) fn kept(&self) -> &[Packet] {
        &self.kept
    }

    /// An earlier frame, to arrive again.
    pub(crate) fn replayed(&mut self, packets: &mut Packets) -> Option<PacketIndex> {
        if self.kept.is_empty() {
            return None;
        }
        let place = self.random.below(self.kept.len() as u64) as usize;
        Some(self.again(place, packets))
    }

    /// The earlier frame in this place of [`Self::kept`], to arrive again.
    pub(crate) fn again(&self, place: usize, packets: &mut Packets) -> PacketIndex {
        let kept = &self.kept[place];
        let index = packets.copy(kept.from, kept.to, &kept.bytes);
        packets.get_mut(index).relay = kept.relay;
        index
    }

    /// The newest heartbeat of one replica to another, to arrive again.
    pub(crate) fn beat(&self, from: u8, to: u8, packets: &mut Packets) -> Option<PacketIndex> {
        let beat = &self.beats[usize::from(from) * REPLICAS_MAX + usize::from(to)];
        let (from, to) = (Address::replica(from), Address::replica(to));
        (!beat.is_empty()).then(|| packets.copy(from, to, beat))
    }

    /// Flips a bit or a few, or cuts the end off.
    pub(crate) fn damage(&mut self, packet: &mut Packet) {
        packet.damaged = true;
        let size = packet.bytes.len() as u64;
        if size == 0 {
            return;
        }
        match self.random.below(8) {
            0 => packet.bytes.truncate(self.random.below(size) as usize),
            flips => {
                let mut bits = [u64::MAX; 3];
                for i in 0..flips.min(3) as usize {
                    let bit = self.random.below(size * 8);
                    // The same bit twice is no damage.
                    if !bits.contains(&bit) {
                        bits[i] = bit;
                        packet.bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
                    }
                }
            }
        }
    }

    /// Adds (or takes away) one partition that blocks the links of the table.
    pub(crate) fn cut(&mut self, table: &CutTable, add: bool) {
        for (row, blocked) in self.cuts.iter_mut().zip(table) {
            for (to, cuts) in row.iter_mut().enumerate() {
                if blocked & (1 << to) != 0 {
                    *cuts = if add { *cuts + 1 } else { *cuts - 1 };
                }
            }
        }
    }

    pub(crate) fn clog(&mut self, from: u8, to: u8, until: Time) {
        let place = &mut self.clogged_until[usize::from(from)][usize::from(to)];
        *place = until.max(*place);
    }

    pub(crate) const fn corrupt(&mut self, one_in: u32, until: Time) {
        self.corrupt_one_in = one_in;
        self.corrupt_until = until;
    }

    /// How the network is, to let it be so again after a heal.
    pub(crate) const fn climate(&self) -> Climate {
        Climate {
            weather: self.weather,
            delay: self.delay,
        }
    }

    pub(crate) const fn restore(&mut self, climate: &Climate) {
        self.weather = climate.weather;
        self.delay = climate.delay;
    }

    /// From now on, links among `members` (and with the tool and all clients) are quick and lose
    /// nothing, and all others lose everything; or, with all members, everything is well. With
    /// `is_heard`, what the others say arrives, and they hear nothing.
    pub(crate) fn heal(&mut self, members: u8, is_heard: bool) {
        let healed = Weather {
            tail: 0,
            loss: 0,
            duplicate: 0,
            reorder: 0,
            ..self.weather
        };
        self.weather = healed;
        self.corrupt_until = 0;
        for from in 0..ROWS {
            for to in 0..ROWS {
                let inside = |row: usize| row == REPLICAS_MAX || members & (1 << row) != 0;
                let well = inside(from) && inside(to);
                let is_open = well || (is_heard && inside(to) && from != REPLICAS_MAX);
                self.cuts[from][to] = u16::from(!is_open);
                if well {
                    self.clogged_until[from][to] = 0;
                    self.delay[from][to] = self.delay[from][to].min(super::plan::MILLISECOND);
                }
            }
        }
        self.last.fill(0);
    }
}

/// Which links a partition blocks: one row per sender, one bit per receiver.
pub(crate) type CutTable = [u8; ROWS];

/// The bit and row of clients.
pub(crate) const CLIENTS_ROW: usize = REPLICAS_MAX;
