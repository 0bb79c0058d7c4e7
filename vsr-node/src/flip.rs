//! Flipped bits in a running process, for the harness (feature `flip`, never on by default).
//!
//! `/flip/<place>/<number>` on the admin port flips one bit in a place of that kind; the number says which
//! of all there are, and goes round, so that whoever asks need not know how much the process holds.
//!
//! | place | what |
//! | --- | --- |
//! | `copy` | one of the two copies of a journal slot: header and notes |
//! | `header` | both of them |
//! | `body` | the body of an entry |
//! | `sessions`, `replies` | the session table, the cached replies |
//! | `state` | the machine's image |
//! | `control` | the numbers of the protocol |
//! | `unordered` | no bit: a change of the state that no operation made, checksums and all |

use vsr_consensus::{Place, Replica, StateMachine};
use vsr_types::Op;

/// How many places are tried, if one turns out to be empty.
const TRIES: u64 = 64;
/// A slot of the journal has at least so many bits.
const SLOT_BITS: u64 = 1024;
/// So many bits are looked for in the sessions and replies; those beyond the end go round.
const REGION_BITS: u64 = 1 << 40;

/// What only the machine itself can damage: `state` and `unordered`, for a number. False if it did not.
pub(crate) type FlipMachine<S> = fn(&mut Replica<S>, &str, u64) -> bool;

/// Does what the page says; `path` is `<place>/<number>`. Returns what was done, for people.
///
/// # Errors
/// What cannot be done.
pub(crate) fn flip<S: StateMachine>(
    replica: &mut Replica<S>,
    machine: FlipMachine<S>,
    path: &str,
) -> Result<String, String> {
    let (place, number) = path.split_once('/').ok_or("/flip/<place>/<number>")?;
    let number: u64 = number.parse().map_err(|_| "that is no number")?;
    let done = match place {
        "copy" | "header" | "body" => flip_entry(replica, place, number),
        "sessions" => flip_region(replica, Place::Sessions, number),
        "replies" => flip_region(replica, Place::Replies, number),
        "control" => flip_region(replica, Place::Control, number),
        _ => machine(replica, place, number).then(|| place.to_owned()),
    };
    done.ok_or_else(|| format!("there is no bit to flip in {place}"))
}

/// An entry of the journal, far enough behind the end that clients' load does not push it out first.
fn flip_entry<S: StateMachine>(
    replica: &mut Replica<S>,
    place: &str,
    number: u64,
) -> Option<String> {
    let report = replica.report();
    let first = report.tail.raw().max(1);
    let count = (report.op.raw() + 1).checked_sub(first)?;
    for attempt in 0..TRIES.min(count) {
        // From the end backwards: the newest half of what is held.
        let back = (number / SLOT_BITS + attempt) % count.div_ceil(2);
        let op = Op::new(report.op.raw() - back);
        let bit = (number % SLOT_BITS) as usize;
        let done = match place {
            "copy" => replica.flip(Place::Slot(op, (number % 2) as usize), bit),
            "header" => {
                // Two different bits: nobody can tell from the copies which one is right.
                replica.flip(Place::Slot(op, 0), bit)
                    && replica.flip(Place::Slot(op, 1), (bit + 7) % SLOT_BITS as usize)
            }
            _ => {
                let size = replica.log_body(op).map_or(0, <[u8]>::len);
                size > 0 && replica.flip(Place::Body(op), number as usize % (size * 8))
            }
        };
        if done {
            return Some(format!("{place} of op {op}, bit {bit}"));
        }
    }
    None
}

/// One bit of a region whose size only the replica knows: halves are given up until it fits.
fn flip_region<S: StateMachine>(
    replica: &mut Replica<S>,
    place: Place,
    number: u64,
) -> Option<String> {
    let mut bound = REGION_BITS;
    while bound > 0 {
        let bit = number % bound;
        if replica.flip(place, bit as usize) {
            return Some(format!("{place:?}, bit {bit}"));
        }
        bound /= 2;
    }
    None
}
