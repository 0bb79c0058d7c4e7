//! The built-in key-value machine: the data plane of `vsr-node`, and what its RESP port speaks to.
//!
//! The idea: *one arena*. Everything the machine knows lies in one region of memory that is allocated
//! at start and addressed by offsets, with an allocator, a hash table and a timing wheel whose every
//! byte follows from the operations executed. Replicas at the same op hold byte-identical arenas, and
//! that gives, for nothing more: comparison and repair chunk by chunk, state transfer without a
//! serialization format, a fixed memory bound, and running out of memory at the same operation
//! everywhere.
//!
//! ```text
//! gateway --(codec: packed commands)--> log --> KvMachine::apply --> execute::{strings, keys, ...}
//!                                                   |                     |
//!                                                sweep (expiry)     store: find, put, remove
//!                                                                         |
//!                                         table - allocator - wheel - digest, all over `arena`
//! ```
//!
//! **Invariants.** Nothing depends on anything but the operations and their `Context` (no clock, no
//! random source, no address). Nothing is allocated after start. An entry is verified whenever it is
//! read, and nothing made of damaged bytes becomes a reply (`damage`). The digest always equals the one recomputed from all entries. A command that fails has
//! changed nothing.
//!
//! Where to read next: [`mod@commands`] for what there is, [`codec`] for how it travels, `layout` for the
//! bytes, `store` for what happens to them.

mod allocator;
mod arena;
pub mod codec;
mod command_table;
pub mod commands;
mod damage;
mod digest;
mod execute;
mod expiry;
#[cfg(feature = "flip")]
mod flip;
mod glob;
mod image;
mod layout;
mod machine;
mod number;
mod reply;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod walk;
mod work;

pub use codec::{Entries, Entry, Full, Malformed, OperationBuilder, ReplyReader, Watches};
pub use commands::{CommandSpec, Flags, Handler, Local, Opcode, ReplySize, commands, lookup};
pub(crate) use digest::of_bytes as digest_of_bytes;
pub use execute::{REPLY_BUFFER_MIN, STRING_SIZE_MAX};
pub use machine::{KvMachine, KvReport, MEMORY_MAX, MEMORY_MIN, REFUSED_MALFORMED};
