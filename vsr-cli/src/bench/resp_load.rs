//! A client that speaks RESP: one socket, one task, one write per batch.
//!
//! Hand-rolled rather than a client library, because the generator shares its cores with the servers:
//! both buffers are allocated once, replies are only scanned, and writing and reading go on at the
//! same time so that a batch larger than the sockets' buffers cannot block itself.

use std::cell::RefCell;
use std::io;
use std::time::Instant;

use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::bench::commands::RespBatches;
use crate::bench::load::Load;
use crate::bench::plan::Plan;
use crate::bench::recorder::Recorder;
use crate::resp::{self, Kind};

/// The room that is read into at once.
const INPUT_SIZE: usize = 64 * 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct RespLoad {
    endpoint: String,
    stream: Option<TcpStream>,
    batches: RespBatches,
    pipeline: u64,
    wait: Option<u32>,
    output: Vec<u8>,
    input: Vec<u8>,
    /// Commands of the batch that have no reply yet.
    missing: u64,
    /// Commands of the batch that were answered well, but are not counted before the `WAIT` is.
    unacknowledged: u64,
}

impl RespLoad {
    /// Client `client` of `plan`, for the RESP port `endpoint`.
    pub(crate) fn new(plan: &Plan, client: u32, endpoint: String) -> Self {
        Self {
            endpoint,
            stream: None,
            batches: RespBatches::new(plan, client),
            pipeline: u64::from(plan.pipeline),
            wait: plan.wait,
            output: Vec::new(),
            input: Vec::with_capacity(INPUT_SIZE),
            missing: 0,
            unacknowledged: 0,
        }
    }

    /// Takes the complete replies out of the input. Says whether the batch is done.
    fn take_replies(
        &mut self,
        waiting: &mut bool,
        intended: Instant,
        recorder: &RefCell<Recorder>,
    ) -> Result<(), &'static str> {
        let now = Instant::now();
        let mut recorder = recorder.borrow_mut();
        let mut taken = 0;
        let mut good = 0;
        while let Some((size, kind)) = resp::scan(&self.input[taken..]).map_err(|_| "garbage")? {
            taken += size;
            if self.missing > 0 {
                self.missing -= 1;
                match kind {
                    Kind::Error(text) => recorder.failed(&error_kind(text), now, 1),
                    Kind::Integer(_) | Kind::Other => good += 1,
                }
            } else if let (true, Some(replicas)) = (*waiting, self.wait) {
                *waiting = false;
                let count = self.unacknowledged + good;
                good = 0;
                self.unacknowledged = 0;
                match kind {
                    Kind::Integer(reached) if reached >= i64::from(replicas) => {
                        recorder.answered(intended, now, count);
                    }
                    Kind::Error(text) => recorder.failed(&error_kind(text), now, count),
                    Kind::Integer(_) | Kind::Other => recorder.failed("WAIT", now, count),
                }
            } else {
                return Err("surplus reply");
            }
        }
        if *waiting {
            self.unacknowledged += good;
        } else if good > 0 {
            recorder.answered(intended, now, good);
        }
        if taken == self.input.len() {
            self.input.clear();
        } else {
            self.input.drain(..taken);
        }
        Ok(())
    }
}

/// The first word of an error reply, which is its code.
pub(crate) fn error_kind(text: &[u8]) -> String {
    let word = text.split(|&byte| byte == b' ').next().unwrap_or_default();
    String::from_utf8_lossy(&word[..word.len().min(32)]).into_owned()
}

impl Load for RespLoad {
    async fn connect(&mut self) -> Result<(), String> {
        self.missing = self.pipeline;
        self.unacknowledged = 0;
        if self.stream.is_some() {
            return Ok(());
        }
        let stream = TcpStream::connect(&self.endpoint)
            .await
            .map_err(|error| error.to_string())?;
        stream
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        self.input.clear();
        self.stream = Some(stream);
        Ok(())
    }

    async fn batch(
        &mut self,
        intended: Instant,
        recorder: &RefCell<Recorder>,
    ) -> Result<(), &'static str> {
        self.batches.fill(&mut self.output);
        let mut waiting = self.wait.is_some();
        let mut written = 0;
        while self.missing > 0 || waiting {
            let stream = self.stream.as_ref().ok_or("connect")?;
            if written < self.output.len() {
                match stream.try_write(&self.output[written..]) {
                    Ok(size) => written += size,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Err("connection lost"),
                }
            }
            let interest = match self.output.len() - written {
                0 => Interest::READABLE,
                _ => Interest::READABLE | Interest::WRITABLE,
            };
            let ready = stream
                .ready(interest)
                .await
                .map_err(|_| "connection lost")?;
            if !ready.is_readable() {
                continue;
            }
            match stream.try_read_buf(&mut self.input) {
                Ok(0) => return Err("connection lost"),
                Ok(_) => self.take_replies(&mut waiting, intended, recorder)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err("connection lost"),
            }
        }
        Ok(())
    }

    fn missing(&self) -> u64 {
        self.missing + self.unacknowledged
    }

    fn disconnect(&mut self) {
        self.stream = None;
    }
}
