//! A replicated state machine with a mistake that tests on one machine never show: its answers depend
//! on the order in which a hash table gives its entries, which differs from process to process. The
//! simulator finds it.
//!
//! `cargo run -p vsr-consensus --features sim --example sim_hash_order`

use std::hash::{BuildHasher, RandomState};
use std::process::ExitCode;

use vsr_consensus::sim::{Faults, Options, Random, Seeds, Simulated, check_with};
use vsr_consensus::{Context, ImageError, Refusal, Scrub, StateMachine};
use vsr_types::{Digest, Op};

/// Counts votes for sixteen candidates and names a leader.
struct Votes {
    votes: [u64; 16],
    /// What every hash table of the standard library has: keys of its own in every process.
    hasher: RandomState,
    changed_at: Op,
}

impl Votes {
    /// The candidate with the most votes. The mistake: among equals, the one that a hash table would
    /// give first.
    fn leader(&self) -> u8 {
        let order = |candidate: &u8| {
            let votes = self.votes[usize::from(*candidate)];
            (votes, self.hasher.hash_one(candidate))
        };
        (0..16).max_by_key(order).unwrap_or(0)
    }
}

impl StateMachine for Votes {
    fn validate(&self, operation: &[u8]) -> Result<(), Refusal> {
        match operation {
            [0..16] => Ok(()),
            _ => Err(Refusal { code: 1 }),
        }
    }

    fn apply(&mut self, at: &Context, operation: &[u8], reply: &mut [u8]) -> usize {
        self.votes[usize::from(operation[0])] += 1;
        self.changed_at = at.stamp.op;
        reply[0] = self.leader();
        1
    }

    fn query(&self, _at: &Context, _query: &[u8], reply: &mut [u8]) -> usize {
        reply[0] = self.leader();
        1
    }

    fn digest(&self) -> Digest {
        let mix = |sum: u128, votes: &u64| {
            sum.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835) + u128::from(*votes)
        };
        Digest::new(self.votes.iter().fold(1, mix))
    }

    fn image_chunks(&self) -> u64 {
        1
    }

    fn image_chunk_size(&self) -> usize {
        136
    }

    fn image_changed_at(&self, _chunk: u64) -> Op {
        self.changed_at
    }

    fn image_read(&self, _chunk: u64, into: &mut [u8]) -> usize {
        let words = self.votes.iter().copied().chain([self.changed_at.raw()]);
        for (place, word) in into.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        136
    }

    fn image_begin(&mut self, chunks: u64) -> Result<(), ImageError> {
        if chunks == 1 {
            Ok(())
        } else {
            Err(ImageError::TooLarge)
        }
    }

    fn image_put(&mut self, _chunk: u64, bytes: &[u8]) -> Result<(), ImageError> {
        let bytes: &[u8; 136] = bytes.try_into().map_err(|_| ImageError::BadChunk)?;
        let mut words = bytes.chunks_exact(8).map(|word| {
            let word = word.try_into().map_err(|_| ImageError::BadChunk)?;
            Ok(u64::from_le_bytes(word))
        });
        for votes in &mut self.votes {
            *votes = words.next().ok_or(ImageError::BadChunk)??;
        }
        self.changed_at = Op::new(words.next().ok_or(ImageError::BadChunk)??);
        Ok(())
    }

    fn image_finish(&mut self, _at: Op) -> Result<(), ImageError> {
        Ok(())
    }

    fn scrub(&mut self, _budget: usize) -> Scrub {
        Scrub::Clean
    }
}

impl Simulated for Votes {
    fn new() -> Self {
        Self {
            votes: [0; 16],
            hasher: RandomState::new(),
            changed_at: Op::ZERO,
        }
    }

    fn operation(random: &mut Random) -> Vec<u8> {
        vec![random.below(16) as u8]
    }
}

fn main() -> ExitCode {
    let options = Options {
        ops: 500,
        ..Options::new(Faults::none())
    };
    match check_with::<Votes>(Seeds::range(0..20), &options) {
        Ok(summary) => {
            eprintln!("the mistake was not found:\n{summary}");
            ExitCode::FAILURE
        }
        Err(failure) => {
            eprintln!("the mistake was found, as it should be:\n\n{failure}");
            ExitCode::SUCCESS
        }
    }
}
