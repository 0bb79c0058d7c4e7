//! What memory the RESP port has, and how it is divided.
//!
//! Everything is allocated when the gateway is made; a connection borrows and gives back. Each use has
//! pages or blocks of its own, so that no use can take what another needs to come to an end: replies
//! never wait for input, input never for transactions.

use super::GatewayOptions;
use super::blocks::CLASSES;
use super::pages::{PAGE, Pages};

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
}

impl Pools {
    /// The bytes of [`Self::scratch`].
    pub(super) const SCRATCH: usize = REPLY_MAX + SPLICES_MAX + PAGE;

    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            output: Pages::new(plan.output),
            aside: Pages::new(plan.aside),
            scratch: Vec::with_capacity(Self::SCRATCH),
        }
    }
}

impl GatewayOptions {
    /// Everything that the RESP port allocates, by part, in bytes: all of it at the start, but for what
    /// the runtime keeps for each connection while it is open, which is counted as if all were.
    #[must_use]
    pub fn memory(&self) -> [(&'static str, usize); 3] {
        let channel = self.operation_size_max + super::lane::REQUEST_START;
        let waiters = COMMANDS_MAX * size_of::<super::channel::Waiter>();
        let connection = super::table::PER_CONNECTION
            + RUNTIME_PER_CONNECTION
            + CLASSES * size_of::<(u32, u32)>()
            + 2 * self.lanes * size_of::<(u32, u32)>();
        let scratch = Pools::SCRATCH + super::core::scratch_memory(self);
        [
            (
                "RESP requests",
                self.lanes * 4 * (channel + waiters) + scratch,
            ),
            ("RESP connections", self.clients_max * connection),
            ("RESP buffers", self.buffers),
        ]
    }
}
