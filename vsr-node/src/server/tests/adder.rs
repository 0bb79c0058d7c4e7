//! The state machine of the server's tests, here and in `tests/server_no_alloc.rs`.

use vsr_consensus::{Boot, Context, ImageError, Refusal, Scrub, StateMachine};
use vsr_types::{Digest, MemberId, Nonce, Op};

/// Adds what it is given, one little-endian number; answers with the sum.
#[derive(Debug, Default)]
pub(super) struct Adder {
    pub(super) sum: u64,
}

impl StateMachine for Adder {
    fn validate(&self, operation: &[u8]) -> Result<(), Refusal> {
        if operation.len() == 8 {
            Ok(())
        } else {
            Err(Refusal { code: 42 })
        }
    }

    fn apply(&mut self, _: &Context, operation: &[u8], reply: &mut [u8]) -> usize {
        let number = u64::from_le_bytes(operation.try_into().expect("validated"));
        self.sum = self.sum.wrapping_add(number);
        self.query(&Context::default(), &[], reply)
    }

    fn query(&self, _: &Context, _: &[u8], reply: &mut [u8]) -> usize {
        reply[..8].copy_from_slice(&self.sum.to_le_bytes());
        8
    }

    fn digest(&self) -> Digest {
        Digest::new(self.sum.into())
    }

    fn image_chunks(&self) -> u64 {
        0
    }

    fn image_chunk_size(&self) -> usize {
        8
    }

    fn image_changed_at(&self, _: u64) -> Op {
        Op::ZERO
    }

    fn image_read(&self, _: u64, _: &mut [u8]) -> usize {
        0
    }

    fn image_begin(&mut self, _: u64) -> Result<(), ImageError> {
        Ok(())
    }

    fn image_put(&mut self, _: u64, _: &[u8]) -> Result<(), ImageError> {
        Ok(())
    }

    fn image_finish(&mut self, _: Op) -> Result<(), ImageError> {
        Ok(())
    }

    fn scrub(&mut self, _: usize) -> Scrub {
        Scrub::Clean
    }
}

/// What the process of a replica draws when it starts.
pub(super) fn boot(replica: u8) -> Boot {
    let raw = u128::from(replica) + 1;
    Boot {
        member: MemberId::new(raw),
        nonce: Nonce::new(raw << 64 | 7),
        seed: raw as u64,
    }
}
