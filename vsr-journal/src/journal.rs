//! The journal itself: what is held, what may be overwritten, what is read.
//!
//! Five numbers say what is held. `first <= oldest <= tail` and `tail <= head + 1`:
//! headers of `oldest..=head`, bodies (or room reserved for them) of `tail..=head`. `oldest` and
//! `tail` never move back, not even when the head does: what was overwritten stays overwritten.

use alloc::{boxed::Box, vec};

use vsr_types::memory::{Level, Pool};
use vsr_types::{Header, Identity, Op, message::Prepare};

use crate::SlotState;
use crate::ring::{LINE_SIZE, Position, Ring};
use crate::slot::{Place, Slot, Stored, fresh_header, is_header_of};

/// Why an entry cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// Nothing is held for this op.
    Empty,
    /// The body was never received.
    Missing,
    /// The entry is damaged: marked so before, or found so now. Whoever finds it marks it
    /// ([`Journal::mark_faulty`]) and repairs it.
    Faulty,
    /// The body made room for newer ones.
    Overwritten,
}

/// Why a body was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutError {
    /// No room is reserved for this op: nothing is held, or it was overwritten.
    NotReserved,
    /// The body is already held.
    Present,
    /// The header held for this op is another entry's, or damaged beyond reading.
    Identity,
    /// The body is not the one the header was sealed with.
    Body,
    /// Where the body lies cannot be told.
    Place,
}

/// A bounded log of prepares. See the crate's documentation for the picture.
pub struct Journal {
    /// Every slot twice, in arrays of their own, so that no single fault near one reaches the other.
    pub(crate) headers: [Box<[Header]>; 2],
    pub(crate) places: [Box<[Place]>; 2],
    pub(crate) ring: Ring,
    head: Op,
    oldest: Op,
    tail: Op,
    /// Where the body of the tail begins, or a position before it; meaningless when nothing is held.
    tail_at: Position,
    /// The position in the ring behind the head's body.
    end: Position,
    /// The most slots that were held, and bytes of the ring that were written, before the head was last
    /// moved back: otherwise both only grow.
    most: (usize, usize),
}

impl core::fmt::Debug for Journal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Journal")
            .field("head", &self.head)
            .field("tail", &self.tail)
            .field("oldest", &self.oldest)
            .field("bytes_used", &self.bytes_used())
            .finish_non_exhaustive()
    }
}

/// # Construction and size
impl Journal {
    /// An empty journal of `slots` headers and `bytes` of bodies, head at the genesis. Allocates and
    /// touches all of its memory, so that it is resident from now on.
    ///
    /// # Panics
    /// When `slots` or `bytes` is zero: the configuration was validated.
    #[must_use]
    pub fn new(slots: usize, bytes: usize) -> Self {
        assert!(slots > 0, "a journal has at least one slot");
        assert!(bytes > 0, "a journal has room for bodies");
        let headers = || vec![fresh_header(); slots].into_boxed_slice();
        let places = || vec![Place::fresh(); slots].into_boxed_slice();
        Self {
            headers: [headers(), headers()],
            places: [places(), places()],
            ring: Ring::new(bytes),
            head: Op::ZERO,
            oldest: Op::ZERO.next(),
            tail: Op::ZERO.next(),
            tail_at: Position::FIRST,
            end: Position::FIRST,
            most: (0, 0),
        }
    }

    /// How many bytes [`Self::new`] allocates.
    #[must_use]
    pub const fn memory(slots: usize, bytes: usize) -> usize {
        2 * slots * (size_of::<Header>() + size_of::<Place>()) + Ring::memory(bytes)
    }

    /// The same, pool by pool.
    #[must_use]
    pub const fn pools(slots: usize, bytes: usize) -> [Pool; 2] {
        let pool = Pool {
            part: "journal",
            name: "journal headers",
            purpose: "header and place of every entry, both twice",
            setting: "journal-slots",
            unit: "slots",
            count: slots,
            size: 2 * (size_of::<Header>() + size_of::<Place>()),
            is_later: false,
        };
        [
            pool,
            Pool {
                name: "journal bodies",
                purpose: "a ring with the operations of every entry",
                setting: "journal-size",
                unit: "bytes",
                count: Ring::memory(bytes),
                size: 1,
                ..pool
            },
        ]
    }

    /// How much of its pools is used.
    #[must_use]
    pub fn levels(&self) -> [Level; 2] {
        let (slots, written) = self.reached();
        [
            Level::new("journal headers", slots, self.most.0),
            Level::new(
                "journal bodies",
                self.bytes_used(),
                self.most.1.max(written),
            ),
        ]
    }

    /// How many slots are held, and how many bytes of the ring have been written since its beginning.
    const fn reached(&self) -> (usize, usize) {
        let held = self.head.next().raw().saturating_sub(self.oldest.raw()) as usize;
        let written = match self.end.lap {
            0 => self.end.line as usize * LINE_SIZE,
            _ => self.ring.capacity(),
        };
        (held, written)
    }

    /// The head is about to move back.
    const fn note_reached(&mut self) {
        let (held, written) = self.reached();
        if held > self.most.0 {
            self.most.0 = held;
        }
        if written > self.most.1 {
            self.most.1 = written;
        }
    }

    /// How many headers it holds at most.
    #[must_use]
    pub const fn slots(&self) -> usize {
        self.places[0].len()
    }

    /// How many bytes of bodies it holds at most.
    #[must_use]
    pub const fn capacity_bytes(&self) -> usize {
        self.ring.capacity()
    }

    /// How many of them the entries from tail to head occupy: rounded up to lines, and with what was
    /// skipped at the region's end.
    #[must_use]
    pub fn bytes_used(&self) -> usize {
        if self.tail > self.head {
            return 0;
        }
        self.ring.distance(self.tail_at, self.end)
    }

    /// Starts again, empty, with `head` as the op before the first: after a state was installed, or
    /// at the genesis.
    ///
    /// Marks and remains of earlier entries stay in the slots and are honoured when the very same
    /// entry comes back (see [`Self::append_header`]).
    pub fn reset(&mut self, head: Op) {
        self.note_reached();
        self.head = head;
        self.oldest = head.next();
        self.tail = head.next();
        self.end = Position::FIRST;
    }

    /// As [`Self::reset`], with `header` kept as the head's: the parent of the next entry is then
    /// known. Its state is [`SlotState::Overwritten`].
    ///
    /// # Panics
    /// When `header` is no prepare.
    pub fn reset_with(&mut self, header: &Header) {
        let head = op_of(header);
        self.reset(head);
        self.oldest = head;
        // A place that no body will be looked up at: the tail is beyond it.
        self.write(header, Position::FIRST, Stored::Present);
    }
}

/// # Writing
impl Journal {
    /// Whether an entry for `head + 1` with a body of `body_size` bytes can be appended without
    /// overwriting any op at or above `protected_from`: the caller's first op not executed here
    /// (R8.1).
    #[must_use]
    pub fn room(&self, body_size: usize, protected_from: Op) -> bool {
        self.room_for(body_size, protected_from).is_some()
    }

    /// Where that body would begin and end, if there is room.
    #[inline(always)]
    fn room_for(&self, body_size: usize, protected_from: Op) -> Option<(Position, Position)> {
        if !self.ring.fits(body_size) {
            return None;
        }
        let op = self.head.next();
        let slots = self.slots() as u64;
        // The op whose slot the new one takes, if there is one.
        let evicts = op.raw().checked_sub(slots).map(Op::new);
        if evicts.is_some_and(|evicted| evicted >= protected_from.max(self.oldest)) {
            return None;
        }
        let first = protected_from.max(self.tail);
        let start = self.ring.place(self.end, body_size);
        let end = Ring::end_of(start, body_size);
        // Bodies lie in order: when the tail is spared, so is everything after it.
        let is_room = first > self.head
            || Ring::is_intact(self.tail_at, end)
            || Ring::is_intact(self.start_bound(first), end);
        is_room.then_some((start, end))
    }

    /// Appends an entry; its body is copied once. The body's checksum is the one in the header, which
    /// the frame's door has verified: it is not computed again here, but whenever the entry is read.
    ///
    /// # Panics
    /// When `header` is not the prepare of `head + 1`, `body` has another size than the header says,
    /// or there is no [`Self::room`]: all three are our own bugs.
    pub fn append(&mut self, header: &Header, body: &[u8], protected_from: Op) {
        assert!(
            header.body_size() == body.len(),
            "a body has the size its header says"
        );
        let start = self.reserve(header, protected_from);
        self.ring.put(start, body);
        self.write_slot(header, start, Stored::Present);
    }

    /// Appends a header and reserves room for its body, which is missing until [`Self::put_body`].
    /// Returns the state of the new entry:
    ///
    /// - [`SlotState::Missing`], usually.
    /// - When the very same entry (same identity) was here before and only the head was moved back
    ///   behind it, what is known of it stays known: [`SlotState::Faulty`] if it was faulty or its
    ///   body is gone, [`SlotState::Present`] if the body is still there, intact. An entry once
    ///   held, and perhaps acknowledged, must never turn up as never received (trace T20b: a damaged
    ///   copy became a "nack" that way, and a committed op was lost).
    ///
    /// The memory of such an entry lasts until another entry takes its slot.
    ///
    /// # Panics
    /// When `header` is not the prepare of `head + 1`, or there is no [`Self::room`].
    pub fn append_header(&mut self, header: &Header, protected_from: Op) -> SlotState {
        let op = self.head.next();
        let before = self
            .slot(op)
            .map(|slot| (slot.header.identity(), slot.start, slot.state));
        let lost = self.is_lost(op);
        let start = self.reserve(header, protected_from);
        let state = match before {
            Some((identity, was_at, state)) if identity == header.identity() => match state {
                Stored::Missing => Stored::Missing,
                Stored::Present if was_at == start && self.is_body_at(start, header) => {
                    Stored::Present
                }
                Stored::Present | Stored::Faulty => Stored::Faulty,
            },
            // Both copies of what was here are damaged: it may have been this entry.
            None if lost => Stored::Faulty,
            _ => Stored::Missing,
        };
        self.write(header, start, state);
        self.state(op)
    }

    /// Whether the body of `header` lies, undamaged, at `start`.
    fn is_body_at(&self, start: Position, header: &Header) -> bool {
        header.covers(self.ring.get(start, header.body_size()))
    }

    /// Moves the head to the op of `header`, and `oldest` and `tail` beyond what it overwrites.
    /// Returns where its body begins.
    ///
    /// Inlined with all that it asks, as everything on the way of an append: behind the copy of a body,
    /// each register that is saved on the stack is one more store in a long queue.
    #[inline(always)]
    fn reserve(&mut self, header: &Header, protected_from: Op) -> Position {
        let op = op_of(header);
        assert!(op == self.head.next(), "the log has no gaps");
        let (start, end) = self
            .room_for(header.body_size(), protected_from)
            .expect("an op that is not executed here is never overwritten (R8.1)");
        self.oldest = self.oldest.max(op.next().minus(self.slots() as u64));
        let mut tail = self.tail.max(self.oldest);
        if tail != self.tail && tail < op {
            self.tail_at = self.start_bound(tail);
        }
        while tail < op && !Ring::is_intact(self.tail_at, end) {
            tail = tail.next();
            self.tail_at = self.start_bound(tail);
        }
        if tail == op {
            self.tail_at = start;
        }
        self.tail = tail;
        self.head = op;
        self.end = end;
        start
    }

    /// Fills in the body of `op`, if it is missing or faulty and the entry is `identity`: a body is
    /// repaired by what it is, never by the number of its op alone (R8.4).
    ///
    /// # Errors
    /// Says why the body was not taken; nothing changed then.
    pub fn put_body(&mut self, op: Op, identity: &Identity, body: &[u8]) -> Result<(), PutError> {
        if op < self.tail || op > self.head {
            return Err(PutError::NotReserved);
        }
        let slot = self.slot(op).ok_or(PutError::Identity)?;
        if slot.header.identity() != *identity {
            return Err(PutError::Identity);
        }
        if slot.state == Stored::Present {
            return Err(PutError::Present);
        }
        // Repairs are rare: unlike on append, the second look at the bytes costs nothing that counts.
        if !slot.header.covers(body) {
            return Err(PutError::Body);
        }
        let (header, start) = (*slot.header, slot.start);
        self.ring.put(start, body);
        self.write(&header, start, Stored::Present);
        Ok(())
    }

    /// Notes that the entry of `op` is damaged. It stays so until its body is put again, whatever
    /// happens to the head meanwhile (see [`Self::append_header`]).
    ///
    /// # Panics
    /// When `op` is not between tail and head.
    pub fn mark_faulty(&mut self, op: Op) {
        assert!(
            op >= self.tail && op <= self.head,
            "only what is held can be damaged"
        );
        // Without a readable slot the entry is faulty already.
        if let Some(slot) = self.slot(op) {
            let (header, start) = (*slot.header, slot.start);
            self.write(&header, start, Stored::Faulty);
        }
    }

    /// Drops every entry above `head`. Their room is free again.
    ///
    /// # Panics
    /// When `head` is below `committed`, above the current head, or so old that its successor was
    /// overwritten.
    pub fn truncate(&mut self, head: Op, committed: Op) {
        assert!(head >= committed, "a committed op is never dropped");
        assert!(head <= self.head, "truncation only shortens the log");
        assert!(
            head.next() >= self.tail,
            "what was overwritten cannot become the log's end again"
        );
        if head == self.head {
            return;
        }
        self.note_reached();
        // Where the head's body ends; if its slot is unreadable, where the next one began; if that is
        // too, the room of what is dropped stays taken until the ring has gone round.
        let end_of_head = (head >= self.tail).then(|| self.end_of(head)).flatten();
        if let Some(end) = end_of_head.or_else(|| self.start(head.next())) {
            self.end = end;
        }
        self.head = head;
    }

    /// Puts back the header of an entry whose slot is damaged in both copies; the caller knows from
    /// the chain of parents that it is the right one. Returns the state of the entry:
    /// [`SlotState::Present`] if the body turns out to be there, intact, else
    /// [`SlotState::Faulty`].
    ///
    /// # Errors
    /// [`PutError::NotReserved`] when the op is not between tail and head, [`PutError::Present`] when
    /// its slot is readable, [`PutError::Place`] when the slots on both sides are damaged too (start
    /// with another one) or a body of this size was never there.
    ///
    /// # Panics
    /// When `header` is no prepare.
    pub fn restore_header(&mut self, header: &Header) -> Result<SlotState, PutError> {
        let op = op_of(header);
        if op < self.tail || op > self.head {
            return Err(PutError::NotReserved);
        }
        if self.slot(op).is_some() {
            return Err(PutError::Present);
        }
        let start = self.place_of_lost(op, header.body_size());
        let start = start.ok_or(PutError::Place)?;
        let state = match self.is_body_at(start, header) {
            true => Stored::Present,
            false => Stored::Faulty,
        };
        self.write(header, start, state);
        Ok(self.state(op))
    }

    /// Where the body of an entry whose slot is unreadable lies, from the entries beside it.
    fn place_of_lost(&self, op: Op, size: usize) -> Option<Position> {
        let behind = match op == self.head {
            true => Some(self.end),
            false => self.start(op.next()),
        };
        let before = (op > self.oldest).then(|| self.end_of(op.minus(1)));
        let before = before.flatten();
        // Bodies touch, except at the region's end, where the room in front of the next one is still
        // this one's own.
        let start = match (self.start(op), before, behind) {
            (Some(start), _, _) => start,
            (None, Some(before), _) => self.ring.place(before, size),
            (None, None, Some(behind)) => self.ring.start_of(behind, size)?,
            (None, None, None) => return None,
        };
        let in_one_piece = self.ring.place(start, size) == start;
        let fits = start >= self.start_bound(op)
            && behind.is_none_or(|behind| Ring::end_of(start, size) <= behind);
        (in_one_piece && fits).then_some(start)
    }

    /// Writes both copies of the slot of `header`'s op.
    fn write(&mut self, header: &Header, start: Position, state: Stored) {
        self.write_slot(header, start, state);
    }

    #[inline(always)]
    fn write_slot(&mut self, header: &Header, start: Position, state: Stored) {
        let op = op_of(header);
        let slot = self.slot_of(op);
        let place = Place::new(op, start, state);
        for copy in 0..2 {
            self.headers[copy][slot] = *header;
            self.places[copy][slot] = place;
        }
    }
}

/// # Reading
impl Journal {
    /// The last op of the log. Before the first append: the genesis, or what it was reset to.
    #[must_use]
    pub const fn head(&self) -> Op {
        self.head
    }

    /// The oldest op whose body is held or has room reserved; `head + 1` when there is none.
    #[must_use]
    pub const fn tail(&self) -> Op {
        self.tail
    }

    /// The oldest op whose header is held; `head + 1` when there is none.
    #[must_use]
    pub const fn oldest(&self) -> Op {
        self.oldest
    }

    /// Head, oldest and tail, and where the bodies of tail and head lie: the numbers that no checksum
    /// covers, for whoever keeps a second copy of them.
    #[must_use]
    #[inline]
    pub const fn numbers(&self) -> [u64; 7] {
        [
            self.head.raw(),
            self.oldest.raw(),
            self.tail.raw(),
            self.tail_at.lap,
            self.tail_at.line,
            self.end.lap,
            self.end.line,
        ]
    }

    /// The header of `op`, verified, if it is held and at least one of its copies is undamaged.
    #[must_use]
    pub fn header(&self, op: Op) -> Option<&Header> {
        let within = op >= self.oldest && op <= self.head;
        within
            .then(|| self.header_in(self.slot_of(op), op))
            .flatten()
    }

    /// What is known of the entry for `op`. Verifies the slot, not the body.
    #[must_use]
    pub fn state(&self, op: Op) -> SlotState {
        if op < self.oldest || op > self.head {
            return SlotState::Empty;
        }
        if op < self.tail {
            return SlotState::Overwritten;
        }
        match self.slot(op).map(|slot| slot.state) {
            Some(Stored::Present) => SlotState::Present,
            Some(Stored::Missing) => SlotState::Missing,
            Some(Stored::Faulty) | None => SlotState::Faulty,
        }
    }

    /// The entry of `op`: header, slot and body verified.
    ///
    /// # Errors
    /// Says what is held instead.
    pub fn read(&self, op: Op) -> Result<(&Header, &[u8]), ReadError> {
        let (header, body) = self.read_unverified_body(op)?;
        if !header.covers(body) {
            return Err(ReadError::Faulty);
        }
        Ok((header, body))
    }

    /// The entry of `op` with a body that **may be damaged**: header and slot are verified, the body
    /// is not. Only for the execution of a batch, where each request's own checksum is verified
    /// right before it is applied (M2), so that the bytes are read once. Everybody else, above all
    /// whoever sends the entry to a peer, uses [`Self::read`].
    ///
    /// # Errors
    /// Says what is held instead.
    pub fn read_unverified_body(&self, op: Op) -> Result<(&Header, &[u8]), ReadError> {
        if op < self.oldest || op > self.head {
            return Err(ReadError::Empty);
        }
        if op < self.tail {
            return Err(ReadError::Overwritten);
        }
        let slot = self.slot(op).ok_or(ReadError::Faulty)?;
        match slot.state {
            Stored::Present => {
                let body = self.ring.get(slot.start, slot.header.body_size());
                Ok((slot.header, body))
            }
            Stored::Missing => Err(ReadError::Missing),
            Stored::Faulty => Err(ReadError::Faulty),
        }
    }

    #[inline]
    pub(crate) const fn slot_of(&self, op: Op) -> usize {
        (op.raw() % self.slots() as u64) as usize
    }

    /// The slot in which `op` lies or lay: header and place each from an undamaged copy, bound to
    /// `op`.
    #[inline(always)]
    pub(crate) fn slot(&self, op: Op) -> Option<Slot<'_>> {
        let slot = self.slot_of(op);
        let (start, state) = self.place_in(slot, op)?;
        let header = self.header_in(slot, op)?;
        Some(Slot {
            header,
            start,
            state,
        })
    }

    #[inline]
    pub(crate) fn header_in(&self, slot: usize, op: Op) -> Option<&Header> {
        let first = &self.headers[0][slot];
        if is_header_of(first, op) {
            return Some(first);
        }
        self.second_header(slot, op)
    }

    #[cold]
    fn second_header(&self, slot: usize, op: Op) -> Option<&Header> {
        let second = &self.headers[1][slot];
        is_header_of(second, op).then_some(second)
    }

    // Always inlined, with its caller: a position that is returned through memory as two words, and
    // loaded again as one of twice the size, holds up the read of the body until it has reached the
    // cache, for longer than everything else that a read does before.
    #[inline(always)]
    fn place_in(&self, slot: usize, op: Op) -> Option<(Position, Stored)> {
        match self.places[0][slot].open(op) {
            Some(open) => Some(open),
            None => self.second_place(slot, op),
        }
    }

    #[cold]
    fn second_place(&self, slot: usize, op: Op) -> Option<(Position, Stored)> {
        self.places[1][slot].open(op)
    }

    /// Where the body of `op` begins.
    #[inline(always)]
    fn start(&self, op: Op) -> Option<Position> {
        self.place_in(self.slot_of(op), op).map(|(start, _)| start)
    }

    /// Where the body of `op`, which must be within the log's bounds, ends.
    fn end_of(&self, op: Op) -> Option<Position> {
        let slot = self.slot(op)?;
        Some(Ring::end_of(slot.start, slot.header.body_size()))
    }

    /// Whether the slot of `op` held something that cannot be told any more.
    pub(crate) fn is_lost(&self, op: Op) -> bool {
        let slot = self.slot_of(op);
        let never_used = self.places.iter().all(|copy| copy[slot].is_fresh());
        let tells = self.headers.iter().any(|copy| {
            let header = &copy[slot];
            header
                .fields::<Prepare>()
                .is_some_and(|prepare| is_header_of(header, prepare.op))
        });
        // A header that tells of another entry is enough: it was written last. For this entry the
        // place must tell as well.
        !never_used
            && (!tells
                || (self.header_in(self.slot_of(op), op).is_some() && self.start(op).is_none()))
    }

    /// As [`Self::start`]; if that is damaged beyond reading, a position at or before it: the
    /// closest older one that is known, so that protection errs towards protecting.
    #[inline(always)]
    fn start_bound(&self, op: Op) -> Position {
        match self.start(op) {
            Some(start) => start,
            None => self.start_before(op),
        }
    }

    #[cold]
    fn start_before(&self, op: Op) -> Position {
        let mut older = op;
        loop {
            if let Some(start) = self.start(older) {
                return start;
            }
            if older <= self.oldest {
                return Ring::oldest_intact(self.end);
            }
            older = older.minus(1);
        }
    }
}

#[inline]
fn op_of(header: &Header) -> Op {
    header
        .fields::<Prepare>()
        .expect("the log holds prepares only")
        .op
}

#[cfg(test)]
mod tests;
