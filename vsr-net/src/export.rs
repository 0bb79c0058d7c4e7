//! A tool takes over a replica's state, as a replica would, while clients are served (R8.9).
//!
//! ```text
//!   tool                                          replica (goes on executing)
//!     |-- get_image live, since 0, chunks 0..16 ----->|
//!     |<--------------- chunk, chunk, chunk, end -----|  state at 1000
//!     |   ...                                         |  ... at 1740
//!     |-- get_image live, since 1000 ---------------->|  pass 2: what changed after 1000
//!     |-- get_image held, since 1740 ---------------->|  pass 3: execution stops at 1802
//!     |<------------------------- chunk, end + offer--|
//!     |-- get_image done ---------------------------->|  ... and goes on
//! ```
//!
//! The connection keeps the order of what is asked and answered, so there is little to keep books of.
//! Chunks go to a [`ImageSink`] as they come; one that comes again replaces the one before.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use vsr_types::message::{
    GetImage, IMAGE_REFUSED, Image, ImageOffer, ImageRefusal, STATE_ALL, STATE_CHUNK, STATE_DONE,
    STATE_END, STATE_HELD, STATE_LIVE,
};
use vsr_types::{Digest, Frame, Header, Op, body};

use crate::connection::ConnectionError;
use crate::random;
use crate::tool::Tool;

/// How many questions are in flight.
const WINDOWS: usize = 4;
/// How many chunks a question looks at, at first, and at most, when hardly any of them changed.
const SPAN_MIN: u32 = 16;
const SPAN_MAX: u32 = 1 << 12;
/// A pass that brought no more than this is followed by a held one.
const SMALL_BYTES: u64 = 8 << 20;
/// So many live passes are made at most before a held one.
const LIVE_PASSES_MAX: u32 = 4;
/// So often the load may be faster before the tool gives up.
const ATTEMPTS_MAX: u32 = 12;
/// How long a replica that refuses is left alone.
const PAUSE: Duration = Duration::from_millis(200);

/// So many answers in a row may have nothing.
const STALLS_MAX: u32 = 200;

/// Where chunks go.
pub trait ImageSink {
    /// What the chunks will be like. How many there are, and what they are the state of, may still change.
    ///
    /// # Errors
    /// Whatever keeps them from being kept.
    fn begin(&mut self, offer: &ImageOffer) -> io::Result<()>;

    /// A chunk, perhaps once more: the last one counts.
    ///
    /// # Errors
    /// Whatever keeps it from being kept.
    fn put(&mut self, chunk: u64, bytes: &[u8]) -> io::Result<()>;
}

/// How an export is made.
#[derive(Clone, Copy, Debug)]
pub struct ExportOptions {
    /// The state is the one after this op or a later one.
    pub at_least: Op,
    /// How many bytes a second are asked for at most.
    pub rate: u64,
    /// How long a replica may be silent, or refuse.
    pub patience: Duration,
}

/// An export that came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// What the chunks are the state of.
    pub offer: ImageOffer,
    /// How many passes were made.
    pub passes: u32,
    /// How many bytes came, in all passes.
    pub bytes: u64,
    /// How long the replica held back execution in the end.
    pub held: Duration,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportProgress {
    /// Counts passes from 1.
    pub pass: u32,
    /// How many chunks are behind this pass.
    pub looked_at: u64,
    /// How many there are.
    pub chunks: u64,
    /// How many bytes came.
    pub bytes: u64,
}

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The connection is of no more use.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The file cannot be written.
    #[error("{0}")]
    Sink(io::Error),
    /// Nothing came in time.
    #[error("{endpoint}: no answer within {within:?}")]
    Timeout {
        /// Who was asked.
        endpoint: String,
        /// How long we waited.
        within: Duration,
    },
    /// The replica gives no state.
    #[error("{endpoint}: {}", refusal_text(*.refusal))]
    Refused {
        /// Who was asked.
        endpoint: String,
        /// Why.
        refusal: ImageRefusal,
    },
    /// The answers contradict themselves.
    #[error("{endpoint}: its answers contradict themselves")]
    Nonsense {
        /// Who was asked.
        endpoint: String,
    },
    /// More changes while a pass is made than can be fetched while execution is held back.
    #[error("{endpoint}: in {attempts} attempts the load was faster than the export")]
    Outrun {
        /// Who was asked.
        endpoint: String,
        /// How often it was tried.
        attempts: u32,
    },
}

const fn refusal_text(refusal: ImageRefusal) -> &'static str {
    match refusal {
        ImageRefusal::NoState => {
            "it has no state to give: it is blank, recovering, repairing, or has executed nothing"
        }
        ImageRefusal::Busy => "it is being exported by others already",
        ImageRefusal::NotYet => "it lags: it has not executed what others have",
    }
}

/// One pass over the image.
#[derive(Debug)]
struct Pass {
    span: u32,
    cursor: u64,
    chunks: Option<u64>,
    /// What is asked for and not answered, and what an answer has left out.
    asked: VecDeque<(u64, u64, u64)>,
    left: VecDeque<(u64, u64)>,
    /// The earliest and the latest state that a part came from.
    low: Option<Op>,
    high: Op,
    bytes: u64,
    offer: Option<ImageOffer>,
    is_consistent: bool,
    /// How often in a row an answer had nothing.
    stalls: u32,
}

impl Pass {
    const fn new() -> Self {
        Self {
            span: SPAN_MIN,
            cursor: 0,
            chunks: None,
            asked: VecDeque::new(),
            left: VecDeque::new(),
            low: None,
            high: Op::ZERO,
            bytes: 0,
            offer: None,
            is_consistent: true,
            stalls: 0,
        }
    }

    /// The next range to be asked for.
    fn next(&mut self) -> Option<(u64, u64)> {
        if self.asked.len() >= WINDOWS {
            return None;
        }
        if let Some(range) = self.left.pop_front() {
            return Some(range);
        }
        let is_first = self.chunks.is_none() && self.asked.is_empty();
        if !is_first && self.chunks.is_none_or(|chunks| self.cursor >= chunks) {
            return None;
        }
        let from = self.cursor;
        self.cursor += u64::from(self.span);
        Some((from, self.cursor))
    }

    fn is_complete(&self) -> bool {
        self.asked.is_empty()
            && self.left.is_empty()
            && self.chunks.is_some_and(|chunks| self.cursor >= chunks)
    }

    fn saw(&mut self, op: Op) {
        self.low = Some(self.low.map_or(op, |low| low.min(op)));
        self.high = self.high.max(op);
    }

    /// The replica says where it stopped.
    fn end(&mut self, image: &Image, offer: Option<ImageOffer>) -> Option<()> {
        let (_, from, to) = self.asked.pop_front()?;
        self.saw(image.op);
        self.chunks = Some(image.chunks);
        let last = to.min(image.chunks);
        if image.chunk < from || image.chunk > to {
            return None;
        }
        self.stalls += 1;
        if image.chunk > from || last <= from {
            self.stalls = 0;
        }
        if image.chunk < last {
            self.left.push_back((image.chunk, last));
            self.span = (self.span / 2).max(SPAN_MIN);
        } else if image.number <= SPAN_MIN / 4 {
            self.span = (self.span * 2).min(SPAN_MAX);
        }
        let digest = |offer: Option<ImageOffer>| offer.map(|offer| offer.digest);
        if self.offer.is_some() && digest(self.offer) != digest(offer) {
            self.is_consistent = false;
        }
        self.offer = offer;
        Some(())
    }

    /// Whether all of it is of one state, whose description came with it.
    fn state(&self) -> Option<ImageOffer> {
        let is_one = self.low == Some(self.high) && self.is_consistent;
        self.offer
            .filter(|offer| is_one && offer.digest != Digest::ZERO)
    }
}

/// One export.
struct Export<'a, K> {
    tool: &'a mut Tool,
    sink: &'a mut K,
    options: ExportOptions,
    /// Names this export in every question.
    id: u64,
    questions: u64,
    bytes: u64,
    began: Instant,
}

/// Fetches the state of the replica that `tool` is connected to into `sink`, while the replica works.
///
/// # Errors
/// See [`ExportError`].
pub async fn fetch<K: ImageSink>(
    tool: &mut Tool,
    sink: &mut K,
    options: ExportOptions,
    mut progress: impl FnMut(ExportProgress),
) -> Result<Exported, ExportError> {
    let mut export = Export {
        tool,
        sink,
        options,
        id: random::nonce().raw() as u64 >> 32 << 32,
        questions: 0,
        bytes: 0,
        began: Instant::now(),
    };
    let result = export.run(&mut progress).await;
    // Whatever became of it, nobody needs to wait for it any more. If this is lost, silence says the same.
    let done = export.question(STATE_DONE, Op::ZERO, 0, 0);
    drop(export.send(done).await);
    result
}

impl<K: ImageSink> Export<'_, K> {
    async fn run(
        &mut self,
        progress: &mut impl FnMut(ExportProgress),
    ) -> Result<Exported, ExportError> {
        let (mut since, mut passes, mut live, mut attempts) = (STATE_ALL, 0, 0, 0);
        let mut before = u64::MAX;
        let mut wish = STATE_LIVE;
        self.describe().await?;
        loop {
            passes += 1;
            let begun = Instant::now();
            let pass = self.pass(wish, since, passes, progress).await?;
            let state = pass.state().filter(|_| wish == STATE_HELD);
            if let Some(offer) = state.filter(|_| pass.low >= Some(self.options.at_least)) {
                return Ok(Exported {
                    offer,
                    passes,
                    bytes: self.bytes,
                    held: begun.elapsed(),
                });
            }
            since = pass.low.unwrap_or(since);
            if wish == STATE_HELD {
                attempts += 1;
                live = 0;
                if attempts >= ATTEMPTS_MAX {
                    let endpoint = self.endpoint();
                    return Err(ExportError::Outrun { endpoint, attempts });
                }
                wish = STATE_LIVE;
                continue;
            }
            live += 1;
            let gains = live == 1 || pass.bytes < before / 2;
            before = pass.bytes;
            if pass.bytes <= SMALL_BYTES || !gains || live >= LIVE_PASSES_MAX {
                wish = STATE_HELD;
            }
        }
    }

    /// Asks for nothing, to hear what there is.
    async fn describe(&mut self) -> Result<(), ExportError> {
        let begun = Instant::now();
        loop {
            let question = self.question(STATE_LIVE, Op::ZERO, 0, 0);
            let mut pass = Pass::new();
            pass.asked.push_back((question.question, 0, 0));
            self.send(question).await?;
            let refusal = self.answer(&mut pass).await?;
            if let Some(offer) = pass.offer {
                return self.sink.begin(&offer).map_err(ExportError::Sink);
            }
            if begun.elapsed() > self.options.patience {
                let endpoint = self.endpoint();
                let refusal = refusal.unwrap_or(ImageRefusal::NoState);
                return Err(ExportError::Refused { endpoint, refusal });
            }
            sleep(PAUSE).await;
        }
    }

    async fn pass(
        &mut self,
        wish: u32,
        since: Op,
        number: u32,
        progress: &mut impl FnMut(ExportProgress),
    ) -> Result<Pass, ExportError> {
        let mut pass = Pass::new();
        let mut refused_since = None;
        while !pass.is_complete() {
            while let Some((from, to)) = pass.next() {
                self.pay(wish).await;
                let question = self.question(wish, since, from, (to - from) as u32);
                pass.asked.push_back((question.question, from, to));
                self.send(question).await?;
            }
            let refusal = self.answer(&mut pass).await?;
            progress(ExportProgress {
                pass: number,
                looked_at: pass.cursor.min(pass.chunks.unwrap_or(0)),
                chunks: pass.chunks.unwrap_or(0),
                bytes: self.bytes,
            });
            if pass.stalls > STALLS_MAX {
                let endpoint = self.endpoint();
                let refusal = ImageRefusal::NoState;
                return Err(ExportError::Refused { endpoint, refusal });
            }
            if pass.stalls > 0 {
                // It has no room to answer, or has met damage that it must repair first.
                sleep(PAUSE / 10).await;
            }
            let Some(refusal) = refusal else {
                refused_since = None;
                continue;
            };
            // What else is in flight is refused as well, or comes too late: the pass begins anew.
            let since_when = *refused_since.get_or_insert_with(Instant::now);
            if since_when.elapsed() > self.options.patience {
                let endpoint = self.endpoint();
                return Err(ExportError::Refused { endpoint, refusal });
            }
            self.drain(&mut pass).await?;
            sleep(PAUSE).await;
            pass = Pass::new();
        }
        Ok(pass)
    }

    /// Takes what belongs to the oldest question, up to its end.
    async fn answer(&mut self, pass: &mut Pass) -> Result<Option<ImageRefusal>, ExportError> {
        let Some(&(question, from, to)) = pass.asked.front() else {
            return Ok(None);
        };
        let patience = self.options.patience;
        let endpoint = self.endpoint();
        let nonsense = || ExportError::Nonsense {
            endpoint: endpoint.clone(),
        };
        loop {
            let sink = &mut *self.sink;
            let receive = self.tool.connection().receive();
            let frame = timeout(patience, receive).await;
            let frame = frame.map_err(|_| ExportError::Timeout {
                endpoint: endpoint.clone(),
                within: patience,
            })??;
            let Some(image) = image_of(&frame, question) else {
                continue;
            };
            match image.kind {
                STATE_CHUNK => {
                    if !(from..to).contains(&image.chunk) {
                        return Err(nonsense());
                    }
                    sink.put(image.chunk, frame.body())
                        .map_err(ExportError::Sink)?;
                    pass.saw(image.op);
                    pass.bytes += frame.body().len() as u64;
                    self.bytes += frame.body().len() as u64;
                }
                STATE_END => {
                    let offer: Option<ImageOffer> = body::read(frame.body());
                    pass.end(&image, offer).ok_or_else(nonsense)?;
                    return Ok(None);
                }
                IMAGE_REFUSED => {
                    pass.asked.pop_front();
                    let refusal = ImageRefusal::from_raw(image.number);
                    return refusal.map(Some).ok_or_else(nonsense);
                }
                _ => return Err(nonsense()),
            }
        }
    }

    /// Waits for the answers to everything that is in flight.
    async fn drain(&mut self, pass: &mut Pass) -> Result<(), ExportError> {
        while !pass.asked.is_empty() {
            self.answer(pass).await?;
        }
        Ok(())
    }

    /// What came is paid for with time, except while others wait.
    async fn pay(&self, wish: u32) {
        if wish == STATE_HELD {
            return;
        }
        let price = Duration::from_secs_f64(self.bytes as f64 / self.options.rate.max(1) as f64);
        if let Some(wait) = price.checked_sub(self.began.elapsed()) {
            sleep(wait).await;
        }
    }

    const fn question(&mut self, wish: u32, since: Op, from: u64, count: u32) -> GetImage {
        self.questions += 1;
        GetImage {
            question: self.id | (self.questions & 0xFFFF_FFFF),
            since,
            // An older state is of use until the last pass.
            at_least: match wish {
                STATE_HELD => self.options.at_least,
                _ => Op::ZERO,
            },
            from,
            count,
            wish,
        }
    }

    async fn send(&mut self, question: GetImage) -> Result<(), ExportError> {
        let mut header = Header::new(question);
        header.seal(&[]);
        Ok(self.tool.connection().send(&header, &[]).await?)
    }

    fn endpoint(&mut self) -> String {
        self.tool.connection().endpoint().to_owned()
    }
}

fn image_of(frame: &Frame<'_>, question: u64) -> Option<Image> {
    let image = frame.fields::<Image>()?;
    (image.question == question).then_some(*image)
}
