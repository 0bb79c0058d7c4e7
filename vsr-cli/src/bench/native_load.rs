//! A client that speaks the native protocol: one session, one request in flight, many commands in it.
//!
//! The commands are those of the built-in key-value machine, packed as its gateway packs them. A batch
//! of writes is one operation, executed exactly once; a batch of reads is one query, linearizable and
//! not in the log. So the share of reads is that of batches.

use std::cell::RefCell;
use std::time::Instant;

use vsr_net::{Client, ClientError};
use vsr_node::kv::{Opcode, OperationBuilder, ReplyReader};

use crate::bench::commands::{Choices, key, value};
use crate::bench::load::Load;
use crate::bench::plan::Plan;
use crate::bench::recorder::Recorder;
use crate::bench::resp_load::error_kind;

/// What a packed command needs besides its key and value: sizes and opcode.
const COMMAND_OVERHEAD: usize = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct NativeLoad {
    client: Client,
    choices: Choices,
    pipeline: u32,
    value: Vec<u8>,
    operation: OperationBuilder<Vec<u8>>,
    missing: u64,
}

impl NativeLoad {
    /// Client `number` of `plan`, with a session of `client`.
    pub(crate) fn new(plan: &Plan, number: u32, client: Client) -> Self {
        let size = plan.pipeline as usize * (plan.size + COMMAND_OVERHEAD) + COMMAND_OVERHEAD;
        Self {
            client,
            choices: Choices::new(plan, number),
            pipeline: plan.pipeline,
            value: value(plan.size),
            operation: OperationBuilder::new(vec![0; size]),
            missing: 0,
        }
    }

    /// Packs the next batch; says whether it only reads.
    fn pack(&mut self) -> Result<bool, &'static str> {
        self.operation.clear();
        let mut choice = self.choices.next();
        let read = choice.read;
        for _ in 0..self.pipeline {
            let key = key(choice.key);
            let packed = match read {
                true => self.operation.push(Opcode::Get, &[&key]),
                false => self.operation.push(Opcode::Set, &[&key, &self.value]),
            };
            packed.map_err(|_| "batch too large")?;
            choice = self.choices.next();
        }
        Ok(read)
    }
}

impl Load for NativeLoad {
    async fn connect(&mut self) -> Result<(), String> {
        // The client behind all sessions connects, and connects again, by itself.
        self.missing = u64::from(self.pipeline);
        Ok(())
    }

    async fn batch(
        &mut self,
        intended: Instant,
        recorder: &RefCell<Recorder>,
    ) -> Result<(), &'static str> {
        let answer = match self.pack()? {
            true => self.client.query(self.operation.operation()).await,
            false => self.client.execute(self.operation.operation()).await,
        };
        let reply = answer.map_err(|error| name_of(&error))?;
        let now = Instant::now();
        let mut good = 0;
        let mut recorder = recorder.borrow_mut();
        for answer in ReplyReader::parse(&reply.body).map_err(|_| "garbage")? {
            self.missing = self.missing.checked_sub(1).ok_or("surplus reply")?;
            match answer.strip_prefix(b"-") {
                Some(error) => recorder.failed(&error_kind(error), now, 1),
                None => good += 1,
            }
        }
        recorder.answered(intended, now, good);
        match self.missing {
            0 => Ok(()),
            _ => Err("reply too large"),
        }
    }

    fn missing(&self) -> u64 {
        self.missing
    }

    fn disconnect(&mut self) {}
}

const fn name_of(error: &ClientError) -> &'static str {
    match error {
        ClientError::Timeout { .. } => "timeout",
        ClientError::Evicted => "session evicted",
        ClientError::Malformed { .. } => "refused",
        ClientError::TooLarge { .. } => "operation too large",
        ClientError::Halted => "halted",
        ClientError::Refused { .. } | ClientError::Unreachable(_) => "connect",
        ClientError::WrongCluster { .. } => "wrong cluster",
        _ => "client",
    }
}
