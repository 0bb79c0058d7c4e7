//! The state chunk by chunk, for comparing it with another replica's. Topic `chunks`.
//!
//! What a chunk holds follows from the op that last changed it, and it held the same at every op from
//! that one to the one executed last. So two replicas need not stand still, or at the same op, to be
//! compared: it is enough that for a chunk those two spans overlap.

use serde::{Deserialize, Serialize};
use vsr_consensus::{Replica, StateMachine};

/// The most chunks that one answer tells of: 4 MiB of the key-value machine, read in about a
/// millisecond, so that nobody has to wait for it.
pub const CHUNKS_MAX: u64 = 64;

/// Some chunks of a replica's state machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunks {
    /// The op executed last: what follows is the state after it.
    pub op: u64,
    /// How many chunks the state has.
    pub count: u64,
    /// The size of every chunk but the last, in bytes.
    pub chunk_bytes: u64,
    /// The first one in the list.
    pub from: u64,
    /// Whether the machine has met damage in its memory and waits for its repair.
    pub damaged: bool,
    /// At most [`CHUNKS_MAX`].
    pub chunks: Vec<Chunk>,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// The op that last changed it, or a later one up to which it has not changed.
    pub changed_at: u64,
    /// 32 hexadecimal digits, of its bytes as they stand there: nobody has verified them.
    pub digest: String,
}

/// The chunks from `from` on.
///
/// # Errors
/// While the state is being replaced by another's.
pub fn chunks<S: StateMachine>(replica: &Replica<S>, from: u64) -> Result<Chunks, String> {
    if replica.transfer().is_some() {
        return Err("its state is on its way from another replica".into());
    }
    let machine = replica.machine();
    let mut answer = Chunks {
        op: replica.report().applied.raw(),
        count: machine.image_chunks(),
        chunk_bytes: machine.image_chunk_size() as u64,
        from,
        ..Chunks::default()
    };
    let mut bytes = vec![0; machine.image_chunk_size()];
    let end = from.saturating_add(CHUNKS_MAX).min(answer.count);
    for chunk in from..end {
        let size = machine.image_read(chunk, &mut bytes);
        let digest = vsr_types::Digest::new(crate::kv::digest_of_bytes(&bytes[..size]));
        answer.chunks.push(Chunk {
            changed_at: machine.image_changed_at(chunk).raw(),
            digest: digest.to_string(),
        });
    }
    answer.damaged = machine.damaged().is_some();
    Ok(answer)
}
