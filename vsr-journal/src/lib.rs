//! The in-memory log of a replica: bounded, checked whenever it is read, honest about what it lost.
//!
//! A diskless replica's log *is* its promise: an acknowledgement means "these bytes are in my
//! memory". So the log must say at any time, for any op, whether it holds the entry, never received
//! its body, held it and lost it to a flipped bit, or let it go. Confusing two of these loses
//! committed operations (R5.5), so each is a state of its own: [`SlotState`].
//!
//! Memory is fixed at construction: a ring of *slots* for headers and, apart from it, a ring of
//! *bytes* for bodies. Bodies lie end to end, as long as they are, in the order of their ops:
//!
//! ```text
//!            oldest            tail                              head
//!              v                v                                 v
//!  slots   | h4 | h5 | h6 | h7 | h8 | h9 | h10 | h11 | h12 | h13 | .. |   op % slots, twice
//!                               |    |      |     '-----.
//!                               v    v      v           v
//!  bytes   | b12 |   b13   |....| b8 | b9  |     b10    |   b11   |////|   op order, 64-byte lines
//!                          ^end                                    '- skipped: b12 did not fit
//! ```
//!
//! Batches are usually far smaller than the largest one. A ring with one largest body per slot would
//! spend the whole of it on each; the ring of bytes reaches back 20 to 100 times further with the
//! same memory and is written in sequence. `docs/decisions/0001-journal-byte-ring.md` says more.
//!
//! **What always fits.** Each body counts rounded up to [`LINE_SIZE`], an empty one as a line. Let M
//! be the largest body. The newest entries, as many as there are with a sum of at most
//! `capacity_bytes() - M`, and not more than `slots()`, are always held: at most one gap, smaller
//! than M, lies among them.
//!
//! **Architecture invariants.**
//! - Nothing is allocated after [`Journal::new`], which touches every page: what is resident is
//!   what was planned.
//! - Whatever is read is verified first: the header by its own checksum, what the journal notes beside
//!   it by a seal, the body by the checksum in the header; and the slot must hold the op that was
//!   asked for, not one a lap away. The exception has a long name: [`Journal::read_unverified_body`].
//! - Every slot exists twice. One damaged copy costs nothing; two make the entry
//!   [`SlotState::Faulty`], and a faulty entry never claims that it was never received.
//! - An op at or above `protected_from` is never overwritten; asking for it panics (R8.1).
//! - The journal orders nothing and decides nothing: parents, views and commits are the replica's.
//!
//! ```
//! use vsr_journal::{Journal, ReadError, SlotState};
//! use vsr_types::{Header, Op, message::Prepare};
//!
//! let mut journal = Journal::new(1024, 1 << 20);
//! let body = b"what the clients asked for";
//! let mut header = Header::new(Prepare { op: Op::new(1), ..bytemuck::Zeroable::zeroed() });
//! header.seal(body);
//!
//! let applied = Op::ZERO;
//! assert!(journal.room(body.len(), applied.next()));
//! journal.append(&header, body, applied.next());
//!
//! let (read, bytes) = journal.read(Op::new(1)).expect("appended just now");
//! assert_eq!((read, bytes), (&header, &body[..]));
//! assert_eq!(journal.state(Op::new(1)), SlotState::Present);
//! assert_eq!(journal.read(Op::new(2)), Err(ReadError::Empty));
//! ```
//!
//! Where to read next: [`Journal`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

#[cfg(any(test, feature = "inject"))]
mod inject;
mod journal;
mod memory;
mod ring;
mod scrub;
mod slot;

#[cfg(any(test, feature = "inject"))]
pub use inject::SLOT_BITS;
pub use journal::{Journal, PutError, ReadError};
pub use ring::LINE_SIZE;
pub use scrub::Scrubbed;
pub use slot::SlotState;
