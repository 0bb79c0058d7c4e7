//! One pass over an image: which chunks were asked for, which have come.
//!
//! A pass goes once over all chunks, from the first to the last, a few *windows* of them in flight at
//! a time. A donor answers a window with the chunks in it that changed after `since`, numbered, and
//! then says how many those were and where it stopped; so a lost, repeated or late message is noticed
//! whatever the network does with the others. No table of chunks is kept: a pass that began when the
//! donor had executed op A leaves behind a copy in which every chunk is as it was at A or later, so the
//! next pass asks for what changed after A, and so on, until little is left.

use vsr_types::Op;
use vsr_types::message::{NewState, STATE_ALL};

use crate::DropReason;

/// How many questions are in flight: the donor reads for one while another one's chunks travel.
pub(super) const WINDOWS: usize = 4;
/// How many chunks one answer has at most.
pub(super) const ANSWER_CHUNKS_MAX: u32 = 64;
/// How many chunks a window looks at, at first; as many of 64 KiB as an answer has bytes.
const SPAN_MIN: u32 = 16;
/// And at most, when hardly any of them changed: a donor looks at so many in microseconds.
pub(super) const SPAN_MAX: u32 = 1 << 14;
/// How many chunks can be chosen one by one.
const CHOSEN_MAX: usize = 16;

/// A range of chunks that was asked for.
#[derive(Clone, Copy, Debug)]
struct Window {
    question: u64,
    from: u64,
    to: u64,
    /// The state that the answer is of, once a part of it has come. A question that was doubled on its way
    /// is answered twice, from two states, and the numbers of one answer's chunks are not the other's.
    op: Option<Op>,
    /// A bit for each chunk of the answer that has come.
    arrived: u64,
    /// How many chunks the answer has, and where the donor stopped.
    end: Option<(u32, u64)>,
}

impl Window {
    /// Whether a message belongs to the answer that is being taken.
    fn takes(&self, answer: &NewState) -> bool {
        self.question == answer.question
            && self.question != 0
            && self.op.is_none_or(|op| op == answer.op)
    }

    const fn is_complete(&self) -> bool {
        match self.end {
            Some((count, _)) => self.arrived.count_ones() == count,
            None => false,
        }
    }
}

/// Chunks that are asked for one by one, whenever they changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chosen {
    chunks: [u64; CHOSEN_MAX],
    count: usize,
}

impl Chosen {
    pub(super) const NONE: Self = Self {
        chunks: [0; CHOSEN_MAX],
        count: 0,
    };

    /// Adds a chunk; says no when there are too many to be asked for one by one.
    pub(super) fn add(&mut self, chunk: u64) -> bool {
        if self.as_slice().contains(&chunk) {
            return true;
        }
        let Some(place) = self.chunks.get_mut(self.count) else {
            return false;
        };
        *place = chunk;
        self.count += 1;
        true
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn as_slice(&self) -> &[u64] {
        &self.chunks[..self.count]
    }
}

/// What is to be asked next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) question: u64,
    pub(super) from: u64,
    pub(super) count: u32,
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    /// Counts the passes of a transfer from 1.
    pub(super) number: u32,
    /// Whether the donor is to hold back execution: the last pass.
    pub(super) held: bool,
    /// Chunks that did not change after it are not asked for.
    pub(super) since: Op,
    /// Only these are asked for, all of them; none: the whole image is looked at.
    chosen: Chosen,
    /// The first chunk that no window has covered; of those that were chosen, the first place.
    cursor: u64,
    span: u32,
    windows: [Option<Window>; WINDOWS],
    /// How many chunks there are, as of the latest state heard of.
    chunks: Option<(Op, u64)>,
    /// The earliest state that a part of this pass was read from, and the latest.
    low: Option<Op>,
    high: Op,
    /// How many chunks came in this pass.
    pub(super) taken: u64,
}

impl Pass {
    pub(super) const fn new(number: u32, held: bool, since: Op) -> Self {
        Self {
            number,
            held,
            since,
            chosen: Chosen::NONE,
            cursor: 0,
            span: SPAN_MIN,
            windows: [None; WINDOWS],
            chunks: None,
            low: None,
            high: Op::ZERO,
            taken: 0,
        }
    }

    /// A pass over nothing but `chosen`.
    pub(super) const fn over(number: u32, chosen: Chosen) -> Self {
        let mut pass = Self::new(number, false, STATE_ALL);
        pass.chosen = chosen;
        pass
    }

    /// Whether it leaves out everything that was not chosen.
    pub(super) const fn is_over_chosen(&self) -> bool {
        !self.chosen.is_empty()
    }

    pub(super) fn chunks(&self) -> Option<u64> {
        self.chunks.map(|(_, chunks)| chunks)
    }

    /// How many chunks are behind this pass.
    pub(super) fn looked_at(&self) -> u64 {
        self.chunks().map_or(0, |chunks| chunks.min(self.cursor))
    }

    /// Every chunk of the copy is as it was after this op or a later one.
    pub(super) const fn low(&self) -> Option<Op> {
        self.low
    }

    /// Whether all that was heard is of one and the same state.
    pub(super) fn is_of_one_state(&self) -> bool {
        self.low.is_none_or(|low| low == self.high)
    }

    /// Whether there is something to ask for that is not in flight.
    pub(super) fn wants(mut self) -> bool {
        self.next(1).is_some()
    }

    /// Opens the next window, if one may be opened, as `question`.
    pub(super) fn next(&mut self, question: u64) -> Option<Range> {
        // Parts that a donor left out come first.
        let left = self
            .windows
            .iter_mut()
            .flatten()
            .find(|window| window.question == 0);
        if let Some(window) = left {
            window.question = question;
            return Some(Range {
                question,
                from: window.from,
                count: (window.to - window.from) as u32,
            });
        }
        let is_first = self.chunks.is_none() && self.windows.iter().all(Option::is_none);
        let is_more = self.chunks().is_some_and(|chunks| self.cursor < chunks);
        if !is_first && !is_more && !self.is_over_chosen() {
            return None;
        }
        let (from, count, next) = match self.chosen.as_slice().get(self.cursor as usize) {
            Some(&chunk) => (chunk, 1, self.cursor + 1),
            None if self.is_over_chosen() => return None,
            None => (self.cursor, self.span, self.cursor + u64::from(self.span)),
        };
        let to = from.saturating_add(u64::from(count));
        let place = self.windows.iter_mut().find(|window| window.is_none())?;
        self.cursor = next;
        *place = Some(Window {
            question,
            from,
            to,
            op: None,
            arrived: 0,
            end: None,
        });
        Some(Range {
            question,
            from,
            count,
        })
    }

    /// Whether a chunk belongs to a question in flight and has not come yet.
    pub(super) fn expects(&self, chunk: &NewState) -> Result<(), DropReason> {
        let mut windows = self.windows.iter().flatten();
        let window = windows
            .find(|window| window.takes(chunk))
            .ok_or(DropReason::Duplicate)?;
        let is_inside = (window.from..window.to).contains(&chunk.chunk)
            && chunk.chunk < chunk.chunks
            && chunk.number < ANSWER_CHUNKS_MAX
            && window.end.is_none_or(|(count, _)| chunk.number < count);
        if !is_inside {
            return Err(DropReason::Malformed);
        }
        if window.arrived & (1 << chunk.number) != 0 {
            return Err(DropReason::Duplicate);
        }
        Ok(())
    }

    /// A chunk that was expected is in the copy now.
    pub(super) fn took(&mut self, chunk: &NewState) {
        self.note_state(chunk);
        self.taken += 1;
        let mut windows = self.windows.iter_mut();
        let place = windows.find(|place| place.is_some_and(|w| w.takes(chunk)));
        let place = place.expect("the caller asked whether it was expected");
        if let Some(window) = place {
            window.op = Some(chunk.op);
            window.arrived |= 1 << chunk.number;
            Self::close(place, &mut self.span);
        }
    }

    /// The donor says how many chunks its answer had and where it stopped.
    pub(super) fn take_end(&mut self, end: &NewState) -> Result<(), DropReason> {
        let place = self
            .windows
            .iter_mut()
            .find(|place| place.is_some_and(|w| w.takes(end)))
            .ok_or(DropReason::Duplicate)?;
        let Some(window) = place.as_mut() else {
            return Err(DropReason::Duplicate);
        };
        let last = window.to.min(end.chunks);
        if end.chunk > window.to || end.number > ANSWER_CHUNKS_MAX || window.end.is_some() {
            return Err(DropReason::Malformed);
        }
        if end.chunk <= window.from && window.from < last {
            // It had no room to send anything: ask again later, not at once.
            return Err(DropReason::Busy);
        }
        if window
            .arrived
            .checked_shr(end.number)
            .is_some_and(|beyond| beyond != 0)
        {
            return Err(DropReason::Malformed);
        }
        window.op = Some(end.op);
        window.end = Some((end.number, end.chunk.max(last.min(window.from))));
        window.to = last.max(window.from);
        Self::close(place, &mut self.span);
        self.note_state(end);
        Ok(())
    }

    fn note_state(&mut self, answer: &NewState) {
        if self.chunks.is_none_or(|(op, _)| answer.op >= op) {
            self.chunks = Some((answer.op, answer.chunks));
        }
        self.low = Some(self.low.map_or(answer.op, |low| low.min(answer.op)));
        self.high = self.high.max(answer.op);
    }

    /// Ends a window whose answer is complete; what the donor left out is asked for next.
    fn close(place: &mut Option<Window>, span: &mut u32) {
        let Some(window) = place.filter(Window::is_complete) else {
            return;
        };
        let (count, stopped) = window.end.expect("complete");
        if stopped < window.to {
            // It was full: smaller windows from now on.
            *span = (*span / 2).max(SPAN_MIN);
            *place = Some(Window {
                question: 0,
                from: stopped,
                to: window.to,
                op: None,
                arrived: 0,
                end: None,
            });
            return;
        }
        if count <= SPAN_MIN / 4 {
            *span = (*span * 2).min(SPAN_MAX);
        }
        *place = None;
    }

    /// Whether every chunk was looked at and everything sent has come.
    pub(super) fn is_complete(&self) -> bool {
        let end = match self.is_over_chosen() {
            true => self.chunks().map(|_| self.chosen.count as u64),
            false => self.chunks(),
        };
        self.windows.iter().all(Option::is_none) && end.is_some_and(|end| self.cursor >= end)
    }

    /// Forgets what is in flight: it is asked for again, perhaps from another donor.
    pub(super) fn rewind(&mut self) {
        for window in self.windows.iter().flatten() {
            self.cursor = match self.is_over_chosen() {
                // There are few of them.
                true => 0,
                false => self.cursor.min(window.from),
            };
        }
        self.windows = [None; WINDOWS];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsr_types::message::{STATE_CHUNK, STATE_END};

    fn chunk(question: u64, chunk: u64, number: u32, op: u64) -> NewState {
        NewState {
            question,
            op: Op::new(op),
            chunk,
            chunks: 40,
            number,
            kind: STATE_CHUNK,
        }
    }

    fn end(question: u64, stopped: u64, number: u32, op: u64) -> NewState {
        NewState {
            kind: STATE_END,
            ..chunk(question, stopped, number, op)
        }
    }

    fn take(pass: &mut Pass, message: &NewState) -> Result<(), DropReason> {
        pass.expects(message)?;
        pass.took(message);
        Ok(())
    }

    #[test]
    fn a_pass_ends_when_every_window_has_all_its_chunks_in_whatever_order_they_come() {
        let mut pass = Pass::new(1, false, Op::ZERO);
        let first = pass.next(1).expect("a window");
        assert_eq!((first.from, first.count), (0, SPAN_MIN));
        assert_eq!(pass.next(2), None, "nobody knows yet how many there are");
        // The end overtakes a chunk.
        take(&mut pass, &chunk(1, 3, 0, 10)).unwrap();
        pass.take_end(&end(1, 16, 2, 10)).unwrap();
        assert_eq!(
            take(&mut pass, &chunk(1, 3, 0, 10)),
            Err(DropReason::Duplicate)
        );
        assert!(!pass.is_complete());
        take(&mut pass, &chunk(1, 9, 1, 10)).unwrap();
        assert_eq!(
            take(&mut pass, &chunk(1, 9, 1, 10)),
            Err(DropReason::Duplicate)
        );
        let second = pass.next(2).expect("16 ..");
        assert_eq!(
            (second.from, second.count),
            (16, 32),
            "few changed: look at more"
        );
        assert_eq!(pass.next(3), None, "that is all");
        pass.take_end(&end(2, 40, 0, 12)).unwrap();
        assert!(pass.is_complete());
        assert_eq!(pass.low(), Some(Op::new(10)));
        assert!(!pass.is_of_one_state());
        assert_eq!(pass.taken, 2);
    }

    /// Chunk 3 changed between the two answers, so the second one's number 1 is the first one's number 0.
    #[test]
    fn a_question_that_is_answered_twice_takes_its_chunks_from_one_of_the_answers() {
        let mut pass = Pass::new(1, false, Op::ZERO);
        pass.next(1).expect("a window");
        take(&mut pass, &chunk(1, 9, 1, 10)).unwrap();
        for other in [chunk(1, 3, 0, 11), chunk(1, 5, 0, 9)] {
            assert_eq!(take(&mut pass, &other), Err(DropReason::Duplicate));
        }
        assert_eq!(
            pass.take_end(&end(1, 16, 3, 11)),
            Err(DropReason::Duplicate)
        );
        pass.take_end(&end(1, 16, 2, 10)).unwrap();
        assert!(pass.windows[0].is_some(), "the other chunk is missing");
        take(&mut pass, &chunk(1, 7, 0, 10)).unwrap();
        assert!(pass.windows[0].is_none());
    }

    #[test]
    fn what_a_full_answer_left_out_is_asked_for_next() {
        let mut pass = Pass::new(1, false, Op::ZERO);
        pass.next(1).expect("a window");
        for number in 0..5 {
            take(&mut pass, &chunk(1, u64::from(number), number, 10)).unwrap();
        }
        pass.take_end(&end(1, 5, 5, 10)).unwrap();
        let rest = pass.next(2).expect("the rest");
        assert_eq!((rest.from, rest.count), (5, 11));
        assert_eq!(
            take(&mut pass, &chunk(1, 5, 0, 10)),
            Err(DropReason::Duplicate),
            "answered"
        );
        assert!(!pass.is_complete());
        assert_eq!(
            pass.take_end(&end(2, 5, 0, 10)),
            Err(DropReason::Busy),
            "nothing at all"
        );
        pass.take_end(&end(2, 16, 0, 10)).unwrap();
        // Nothing was in flight there: nothing is lost by starting over.
        pass.rewind();
        assert_eq!(pass.next(3).expect("the next").from, 16);
        pass.rewind();
        assert_eq!(
            pass.next(4).expect("again").from,
            16,
            "what is in flight is asked for again"
        );
    }

    #[test]
    fn answers_that_contradict_themselves_or_the_question_are_refused() {
        let mut pass = Pass::new(1, false, Op::ZERO);
        pass.next(7).expect("a window");
        let refused = [
            (chunk(8, 1, 0, 10), DropReason::Duplicate),
            (chunk(0, 1, 0, 10), DropReason::Duplicate),
            (chunk(7, 16, 0, 10), DropReason::Malformed),
            (chunk(7, u64::MAX, 0, 10), DropReason::Malformed),
            (chunk(7, 1, ANSWER_CHUNKS_MAX, 10), DropReason::Malformed),
            (chunk(7, 1, u32::MAX, 10), DropReason::Malformed),
        ];
        for (message, reason) in refused {
            assert_eq!(take(&mut pass, &message), Err(reason), "{message:?}");
        }
        take(&mut pass, &chunk(7, 5, 3, 10)).unwrap();
        for (message, reason) in [
            (end(8, 16, 0, 10), DropReason::Duplicate),
            (end(7, 17, 4, 10), DropReason::Malformed),
            (end(7, u64::MAX, 4, 10), DropReason::Malformed),
            (end(7, 16, 65, 10), DropReason::Malformed),
            (end(7, 16, 3, 10), DropReason::Malformed),
        ] {
            assert_eq!(pass.take_end(&message), Err(reason), "{message:?}");
        }
        pass.take_end(&end(7, 16, 4, 10)).unwrap();
        assert!(!pass.is_complete(), "three are missing");
    }
}
