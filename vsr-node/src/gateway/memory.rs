//! What memory the RESP port has, and how it is divided.
//!
//! Everything is allocated when the gateway is made; a connection borrows and gives back. Each use has
//! pages or blocks of its own, so that no use can take what another needs to come to an end: replies
//! never wait for input, input never for transactions.

use vsr_types::memory::{Level, Pool, touch};

use super::GatewayOptions;
use super::blocks::{Blocks, CLASSES};
use super::channel::{Channel, Waiter};
use super::core::{ARGUMENTS_MAX, Core};
use super::lane::Lane;
use super::pages::{PAGE, Pages};
use crate::resp::Args;

/// The smallest blocks, in bytes: a pipeline of 64 small commands fits.
const SMALL_BLOCK: usize = 16 * 1024;
/// Blocks for commands that are larger than that, but not very large.
const MEDIUM_BLOCK: usize = 128 * 1024;
/// Room beyond the largest command for the line that announces more than that.
pub(super) const INPUT_SLACK: usize = 64;

/// The most bytes that a reply of the largest size becomes in RESP2: a null in an array grows from
/// three bytes to five, a double from four to seven.
pub(super) const REPLY_MAX: usize = vsr_types::limits::REPLY_SIZE_MAX / 4 * 7;
/// The most bytes of answers given here to the commands of one transaction.
pub(super) const SPLICES_MAX: usize = 64 * 1024;
/// Pages that requests leave for answers given here, of which the largest is a stale read's.
pub(super) const KEEP: usize = REPLY_MAX.div_ceil(PAGE) + LOCAL_ROOM;
/// Without so many pages no command is executed: every short answer fits.
pub(super) const LOCAL_ROOM: usize = 16;
/// A longer answer given here needs to be asked for.
pub(super) const SHORT_ANSWER: usize = (LOCAL_ROOM - 1) * PAGE / 2;
/// The most connections that have a part in one request: each may need a page for its replies.
pub(super) const CONNECTIONS_MAX: usize = 768;
/// The most commands in one request.
pub(super) const COMMANDS_MAX: usize = 8192;

/// The most bytes of answers given here to the commands of all transactions in one request.
pub(super) const SPLICED_MAX: usize = 4 * SPLICES_MAX;
/// The most pages that the replies to one request fill.
pub(super) const REQUEST_PAGES_MAX: usize =
    (REPLY_MAX + SPLICED_MAX).div_ceil(PAGE) + CONNECTIONS_MAX;

/// The least that all pools together may have, in bytes.
pub(crate) const BUFFERS_MIN: usize = 16 << 20;
/// The most.
pub(crate) const BUFFERS_MAX: usize = 64 << 30;

/// What the runtime keeps for a connection: its task, its registration, its two halves. Measured, and
/// rounded up.
const RUNTIME_PER_CONNECTION: usize = 1024;

/// How the memory of the pools is divided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// The size and the count of the blocks of each class.
    pub(super) blocks: [(usize, usize); CLASSES],
    /// Pages for transactions, and for answers that must wait for those before them.
    pub(super) aside: usize,
    /// Pages for replies.
    pub(super) output: usize,
}

impl Plan {
    /// A quarter for small blocks, a sixteenth for medium ones, three for large ones, an eighth for
    /// what is put aside, and the rest, more than a third, for replies.
    pub(super) const fn new(options: &GatewayOptions) -> Self {
        let sum = options.buffers;
        assert!(sum >= BUFFERS_MIN, "the configuration was checked");
        let large = options.command_size_max + INPUT_SLACK;
        let large_count = match sum / 16 * 3 / large {
            0 | 1 => 2,
            count => count,
        };
        let blocks = [
            (SMALL_BLOCK, sum / 4 / SMALL_BLOCK),
            (MEDIUM_BLOCK, sum / 16 / MEDIUM_BLOCK),
            (large, large_count),
        ];
        let aside = sum / 8 / Pages::memory(1);
        let used = sum / 4 + sum / 16 + large * large_count + Pages::memory(aside);
        let output = (sum - used) / Pages::memory(1);
        assert!(
            output >= REQUEST_PAGES_MAX + KEEP,
            "when all pages are free, any request may leave"
        );
        Self {
            blocks,
            aside,
            output,
        }
    }
}

/// The pages that connections share.
#[derive(Debug)]
pub(super) struct Pools {
    /// What waits to be written.
    pub(super) output: Pages,
    /// Transactions, and answers that wait for those before them.
    pub(super) aside: Pages,
    /// Where replies are put together that are not copied as they are.
    pub(super) scratch: Vec<u8>,
    /// The most bytes that were put together there.
    scratch_most: usize,
}

impl Pools {
    /// The bytes of [`Self::scratch`].
    pub(super) const SCRATCH: usize = REPLY_MAX + SPLICES_MAX + PAGE;

    pub(super) fn new(plan: &Plan, prefault: bool) -> Self {
        Self {
            output: Pages::new(plan.output, prefault),
            aside: Pages::new(plan.aside, prefault),
            scratch: room(Self::SCRATCH, prefault, || 0),
            scratch_most: 0,
        }
    }

    /// The scratch memory is not needed any more for now.
    pub(super) fn put_back(&mut self, scratch: Vec<u8>) {
        self.scratch_most = self.scratch_most.max(scratch.len());
        self.scratch = scratch;
    }
}

/// A buffer of `size` bytes; touched, if that is wanted.
pub(super) fn buffer(size: usize, prefault: bool) -> Box<[u8]> {
    let mut bytes = vec![0; size].into_boxed_slice();
    if prefault {
        touch(&mut bytes);
    }
    bytes
}

/// An empty vector with room for `count`; touched, if that is wanted.
pub(super) fn room<T>(count: usize, prefault: bool, any: impl FnMut() -> T) -> Vec<T> {
    let mut room = Vec::with_capacity(count);
    if prefault {
        room.resize_with(count, any);
        room.clear();
    }
    room
}

/// The bytes of a query that is answered here.
pub(super) const fn stale_query_size(options: &GatewayOptions) -> usize {
    options.command_size_max + INPUT_SLACK
}

/// The names of the classes of blocks.
const BLOCKS: [&str; CLASSES] = [
    "RESP small blocks",
    "RESP medium blocks",
    "RESP large blocks",
];

const POOL: Pool = Pool {
    part: "RESP requests",
    name: "",
    purpose: "",
    setting: "resp-lanes",
    unit: "requests",
    count: 0,
    size: 1,
    is_later: false,
};

impl GatewayOptions {
    /// Everything that the RESP port allocates: all of it at the start, but for what the runtime keeps
    /// for each connection while it is open, which is counted as if all were.
    #[must_use]
    pub fn pools(&self) -> Vec<Pool> {
        let mut pools = self.request_pools();
        let shared = Pool {
            part: "RESP connections",
            setting: "clients-max",
            unit: "connections",
            count: self.clients_max,
            ..POOL
        };
        pools.extend([
            Pool {
                name: "RESP connections",
                purpose: "what is known of each connection, and its place in every line",
                size: super::table::PER_CONNECTION
                    + super::sockets::PER_CONNECTION
                    + super::core::PER_CONNECTION
                    + Blocks::PER_CONNECTION
                    + 2 * self.lanes * Channel::PER_CONNECTION,
                ..shared
            },
            Pool {
                name: "RESP connections in the runtime",
                purpose: "the task and the socket of each connection, while it is open",
                size: RUNTIME_PER_CONNECTION,
                is_later: true,
                ..shared
            },
        ]);
        pools.extend(self.buffer_pools());
        pools
    }

    fn request_pools(&self) -> Vec<Pool> {
        let requests = Pool {
            name: "RESP operations",
            purpose: "for each lane, one that fills and one that is unanswered",
            count: 2 * self.lanes,
            size: self.operation_size_max + super::lane::REQUEST_START,
            ..POOL
        };
        let scratch = Pool {
            setting: "fixed",
            unit: "bytes",
            ..POOL
        };
        vec![
            requests,
            Pool {
                name: "RESP queries",
                purpose: "the same for reads that need no place in the log",
                size: self.operation_size_max + super::lane::QUERY_START,
                ..requests
            },
            Pool {
                part: "the rest",
                name: "RESP lanes",
                purpose: "the sessions that connections share",
                unit: "sessions",
                count: self.lanes,
                size: size_of::<Lane>() + super::sockets::PER_LANE,
                ..POOL
            },
            Pool {
                name: "RESP commands",
                purpose: "who waits for the reply to each command in those",
                unit: "commands",
                count: 4 * self.lanes * COMMANDS_MAX,
                size: size_of::<Waiter>(),
                ..POOL
            },
            Pool {
                name: "RESP arguments",
                purpose: "where the arguments of the command at hand lie",
                setting: "fixed",
                unit: "arguments",
                count: ARGUMENTS_MAX,
                size: Args::PER_ARGUMENT,
                ..POOL
            },
            Pool {
                name: "RESP scratch",
                purpose: "a command in words, a stale read and its reply, a reply being put together",
                count: Args::WORDS
                    + stale_query_size(self)
                    + vsr_types::limits::REPLY_SIZE_MAX
                    + Pools::SCRATCH,
                ..scratch
            },
        ]
    }

    fn buffer_pools(&self) -> Vec<Pool> {
        let plan = Plan::new(self);
        let buffers = Pool {
            part: "RESP buffers",
            setting: "resp-buffers",
            ..POOL
        };
        let purposes = [
            "what was read of small commands",
            "what was read of larger ones",
            "what was read of the largest",
        ];
        let block = |class: usize| Pool {
            name: BLOCKS[class],
            purpose: purposes[class],
            unit: "blocks",
            count: plan.blocks[class].1,
            size: plan.blocks[class].0 + Blocks::PER_BLOCK,
            ..buffers
        };
        let pages = Pool {
            unit: "pages",
            size: Pages::memory(1),
            ..buffers
        };
        let mut pools: Vec<Pool> = (0..CLASSES).map(block).collect();
        pools.extend([
            Pool {
                name: "RESP transactions",
                purpose: "commands between MULTI and EXEC, answers that wait for those before them",
                count: plan.aside,
                ..pages
            },
            Pool {
                name: "RESP replies",
                purpose: "replies on their way to clients",
                count: plan.output,
                ..pages
            },
        ]);
        pools
    }
}

impl Core {
    /// How much of its pools is used.
    pub(super) fn levels(&self) -> Vec<Level> {
        let logs = || self.lanes.iter().map(|lane| &lane.log);
        let queries = || self.lanes.iter().map(|lane| &lane.queries);
        let used = logs().chain(queries()).map(Channel::depth).sum();
        // Each channel's own most: all of them together never had more.
        let most = logs().chain(queries()).map(|c| c.most().0).sum();
        let (clients, most_clients) = (self.table.len(), self.table.most());
        let of = |name, (used, most)| Level::new(name, used, most);
        let mut levels = vec![
            requests("RESP operations", logs()),
            requests("RESP queries", queries()),
            Level::new("RESP lanes", self.lanes.len(), self.lanes.len()),
            Level::new("RESP commands", used, most),
            Level::new("RESP arguments", self.args.len(), self.args.most()),
            Level::new("RESP scratch", 0, self.table.pools.scratch_most),
            Level::new("RESP connections", clients, most_clients),
            Level::new("RESP connections in the runtime", clients, most_clients),
        ];
        levels.extend((0..CLASSES).map(|class| of(BLOCKS[class], self.blocks.taken(class))));
        levels.push(of("RESP transactions", self.table.pools.aside.taken()));
        levels.push(of("RESP replies", self.table.pools.output.taken()));
        levels
    }
}

/// Of the channels of one kind: the one that fills and the one that is unanswered change places, so
/// what one has held, the other will.
fn requests<'a>(name: &'static str, channels: impl Iterator<Item = &'a Channel>) -> Level {
    let (mut used, mut most, mut fullest) = (0, 0, 0);
    for channel in channels {
        let (commands, bytes) = channel.most();
        used += channel.in_use();
        most += if commands > 0 { 2 } else { 0 };
        fullest = fullest.max(bytes);
    }
    Level::new(name, used, most).with_fullest(fullest)
}
