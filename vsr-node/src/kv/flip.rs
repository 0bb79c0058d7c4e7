//! Damage on demand, for the harness: bits of the state that nobody wrote, and a change that nobody
//! ordered.

use super::codec::OperationBuilder;
use super::commands::Opcode;
use super::machine::KvMachine;
use vsr_consensus::{Context, StateMachine as _};

/// A key that nobody asks for: what is changed behind everybody's back must not reach a client.
const UNORDERED: &[u8] = b"flip:unordered";

impl KvMachine {
    /// Flips a bit of the image (its header, the table, the heap), as memory does; `bit` counts from its
    /// beginning and goes round.
    pub fn flip(&mut self, bit: u64) {
        let bits = self.store.image_size() as u64 * 8;
        let bit = bit % bits.max(1);
        self.store.arena.flip((bit / 8) as usize, (bit % 8) as u8);
    }

    /// Changes the state properly, every checksum and sum included, although no operation says so: what
    /// only the comparison of digests can find. False when the machine could not.
    pub fn change_unordered(&mut self, at: &Context, value: u64) -> bool {
        let mut operation = OperationBuilder::new(vec![0; 256]);
        let value = value.to_le_bytes();
        if operation.push(Opcode::Set, &[UNORDERED, &value]).is_err() {
            return false;
        }
        let before = self.digest();
        let mut reply = vec![0; 1024];
        self.apply(at, operation.operation(), &mut reply);
        self.digest() != before
    }
}
