//! Directed links that hold messages until they are told what to do with them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use vsr_types::{Command, Header, Instant};

/// Who sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    Replica(u8),
    Client(u8),
    Tool,
}

impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Replica(index) => write!(f, "R{index}"),
            Self::Client(index) => write!(f, "c{index}"),
            Self::Tool => f.write_str("tool"),
        }
    }
}

/// The bytes of one frame, and when they arrive.
#[derive(Clone, Debug)]
pub struct Packet {
    pub bytes: Vec<u8>,
    pub due: Instant,
}

/// One direction between two nodes.
#[derive(Clone, Debug, Default)]
pub struct Link {
    pub queue: VecDeque<Packet>,
    /// Everything sent is lost, silently.
    pub cut: bool,
    /// The sender is told that there is no room.
    pub full: bool,
    pub delay: Duration,
}

/// All links.
#[derive(Clone, Debug, Default)]
pub struct Network {
    pub links: BTreeMap<(Node, Node), Link>,
    /// How many frames were sent, lost ones included.
    pub sent: u64,
    /// Kinds of messages that are lost on a link; what is lost stays here, to be delivered by hand.
    pub lose: Vec<(Node, Node, Command)>,
    pub lost: Vec<(Node, Node, Vec<u8>)>,
    /// Everything ever sent, while it is to be kept.
    pub record: Option<Vec<Vec<u8>>>,
}

impl Network {
    pub fn link(&mut self, from: Node, to: Node) -> &mut Link {
        self.links.entry((from, to)).or_default()
    }

    /// Takes a frame from `from`; says whether the sender believes that it is on its way.
    pub fn send(
        &mut self,
        from: Node,
        to: Node,
        header: &Header,
        body: &[u8],
        now: Instant,
    ) -> bool {
        self.sent += 1;
        if let Some(record) = &mut self.record {
            record.push([bytemuck::bytes_of(header), body].concat());
        }
        let is_meant = |&(a, b, command): &(Node, Node, Command)| {
            (a, b) == (from, to) && Some(command) == header.command()
        };
        if self.lose.iter().any(is_meant) {
            let bytes = [bytemuck::bytes_of(header), body].concat();
            self.lost.push((from, to, bytes));
            return true;
        }
        let link = self.link(from, to);
        if link.full {
            return false;
        }
        if !link.cut {
            let bytes = [bytemuck::bytes_of(header), body].concat();
            let due = now.after(link.delay);
            link.queue.push_back(Packet { bytes, due });
        }
        true
    }

    /// How many frames are under way.
    pub fn in_flight(&self) -> usize {
        self.links.values().map(|link| link.queue.len()).sum()
    }

    /// The earliest arrival.
    pub fn next_due(&self) -> Option<Instant> {
        let dues = |link: &Link| link.queue.iter().map(|packet| packet.due).min();
        self.links.values().filter_map(dues).min()
    }

    /// The links from and to these nodes; none means any.
    pub fn between(&self, from: Option<Node>, to: Option<Node>) -> Vec<(Node, Node)> {
        let wanted = |node: Node, wanted: Option<Node>| wanted.is_none_or(|w| w == node);
        self.links
            .keys()
            .copied()
            .filter(|&(f, t)| wanted(f, from) && wanted(t, to))
            .collect()
    }

    /// Cuts or mends both directions between two nodes.
    pub fn set_cut(&mut self, a: Node, b: Node, cut: bool) {
        for (from, to) in [(a, b), (b, a)] {
            let link = self.link(from, to);
            link.cut = cut;
            if cut {
                link.queue.clear();
            }
        }
    }

    /// Mends everything.
    pub fn heal(&mut self) {
        for link in self.links.values_mut() {
            (link.cut, link.full, link.delay) = (false, false, Duration::ZERO);
        }
    }
}
