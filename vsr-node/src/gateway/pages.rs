//! Memory for what connections have still to say and for what they put aside: pages of a fixed size,
//! all of them allocated at the start.
//!
//! ```text
//! Chain:  first -> page -> page -> last        bytes are appended at the end and consumed at the start
//! Pages:  free  -> page -> page -> page        a page that was consumed is the next to be handed out
//! ```
//!
//! A chain is a handle of a few words in its owner; it holds no page while it is empty. Who promises
//! to append later, whatever else happens, reserves pages first: see [`Pages::reserve`].

use super::memory::buffer;

/// The size of a page in bytes: the replies to a pipeline of sixteen small commands fit.
pub(super) const PAGE: usize = 4096;

const NONE: u32 = u32::MAX;

/// Bytes in pages, first in, first out.
#[derive(Debug)]
pub(super) struct Chain {
    first: u32,
    last: u32,
    /// Where the bytes start in the first page.
    start: usize,
    /// Where they end in the last.
    end: usize,
    size: usize,
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            first: NONE,
            last: NONE,
            start: 0,
            end: PAGE,
            size: 0,
        }
    }
}

impl Chain {
    /// How many bytes it holds.
    pub(super) const fn size(&self) -> usize {
        self.size
    }

    /// Whether it holds none, and so no page.
    pub(super) const fn is_empty(&self) -> bool {
        self.size == 0
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Pages {
    bytes: Box<[u8]>,
    /// For each page the one behind it, in its chain or in the free list.
    next: Box<[u32]>,
    first_free: u32,
    free: usize,
    reserved: usize,
    /// More has become available since somebody looked.
    freed: bool,
    /// The fewest that were free.
    least_free: usize,
}

impl Pages {
    /// `count` pages, all free.
    pub(super) fn new(count: usize, prefault: bool) -> Self {
        assert!(count > 0 && count < NONE as usize, "pages have numbers");
        let mut next: Box<[u32]> = (1..=count as u32).collect();
        next[count - 1] = NONE;
        Self {
            bytes: buffer(count * PAGE, prefault),
            next,
            first_free: 0,
            free: count,
            reserved: 0,
            freed: false,
            least_free: count,
        }
    }

    /// How many are taken, and how many were at most.
    pub(super) fn taken(&self) -> (usize, usize) {
        let count = self.next.len();
        (count - self.free, count - self.least_free)
    }

    /// What `count` pages take, in bytes.
    pub(super) const fn memory(count: usize) -> usize {
        count * (PAGE + size_of::<u32>())
    }

    /// How many are free and promised to nobody.
    pub(super) const fn available(&self) -> usize {
        self.free.saturating_sub(self.reserved)
    }

    /// Promises `count` pages, if so many are available and `keep` more.
    pub(super) const fn reserve(&mut self, count: usize, keep: usize) -> bool {
        let granted = self.available() >= count + keep;
        if granted {
            self.reserved += count;
        }
        granted
    }

    /// Takes back a promise of `count` pages, for example because they are appended to now.
    pub(super) fn unreserve(&mut self, count: usize) {
        assert!(
            self.reserved >= count,
            "only what was promised is taken back"
        );
        self.reserved -= count;
        self.freed |= count > 0;
    }

    /// Whether more has become available since [`Self::take_freed`].
    pub(super) const fn is_freed(&self) -> bool {
        self.freed
    }

    /// Whether more has become available since the last time.
    pub(super) const fn take_freed(&mut self) -> bool {
        core::mem::replace(&mut self.freed, false)
    }

    /// Appends all of `bytes`; false, with nothing appended, when there are not enough pages.
    #[inline]
    pub(super) fn append(&mut self, chain: &mut Chain, bytes: &[u8]) -> bool {
        let room = PAGE - chain.end;
        if bytes.len() <= room {
            let at = chain.last as usize * PAGE + chain.end;
            if !bytes.is_empty() {
                self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
            }
            chain.end += bytes.len();
            chain.size += bytes.len();
            return true;
        }
        self.append_pages(chain, bytes)
    }

    fn append_pages(&mut self, chain: &mut Chain, bytes: &[u8]) -> bool {
        let (head, tail) = bytes.split_at(PAGE - chain.end);
        if tail.len().div_ceil(PAGE) > self.free {
            return false;
        }
        if !head.is_empty() {
            let at = chain.last as usize * PAGE + chain.end;
            self.bytes[at..at + head.len()].copy_from_slice(head);
        }
        for part in tail.chunks(PAGE) {
            let page = self.take();
            if chain.first == NONE {
                chain.first = page;
            } else {
                self.next[chain.last as usize] = page;
            }
            chain.last = page;
            chain.end = part.len();
            let at = page as usize * PAGE;
            self.bytes[at..at + part.len()].copy_from_slice(part);
        }
        chain.size += bytes.len();
        true
    }

    /// The first bytes of `chain` that lie in one piece; empty when there are none.
    pub(super) fn front(&self, chain: &Chain) -> &[u8] {
        self.pieces(chain).next().unwrap_or_default()
    }

    /// All bytes of `chain`, page by page.
    pub(super) fn pieces(&self, chain: &Chain) -> impl Iterator<Item = &[u8]> {
        let (mut page, mut start) = (chain.first, chain.start);
        let (last, end) = (chain.last, chain.end);
        core::iter::from_fn(move || {
            if page == NONE {
                return None;
            }
            let at = page as usize * PAGE;
            let is_last = page == last;
            let piece = &self.bytes[at + start..at + if is_last { end } else { PAGE }];
            page = if is_last {
                NONE
            } else {
                self.next[page as usize]
            };
            start = 0;
            Some(piece)
        })
    }

    /// Forgets the first `count` bytes of `chain`.
    pub(super) fn consume(&mut self, chain: &mut Chain, count: usize) {
        assert!(count <= chain.size, "only what was there can be consumed");
        chain.size -= count;
        let mut left = count;
        while chain.first != NONE {
            let is_last = chain.first == chain.last;
            let end = if is_last { chain.end } else { PAGE };
            let here = end - chain.start;
            if left < here {
                chain.start += left;
                return;
            }
            left -= here;
            let page = chain.first;
            chain.start = 0;
            chain.first = if is_last {
                NONE
            } else {
                self.next[page as usize]
            };
            self.give_back(page);
        }
        *chain = Chain::default();
    }

    /// Forgets everything in `chain`.
    pub(super) fn clear(&mut self, chain: &mut Chain) {
        self.consume(chain, chain.size);
    }

    /// Copies the first bytes of `chain`, which has as many, into `into`.
    pub(super) fn peek(&self, chain: &Chain, into: &mut [u8]) {
        assert!(chain.size >= into.len(), "only what was put in can be seen");
        let mut at = 0;
        for piece in self.pieces(chain) {
            let size = piece.len().min(into.len() - at);
            into[at..at + size].copy_from_slice(&piece[..size]);
            at += size;
            if at == into.len() {
                return;
            }
        }
    }

    /// Moves the first `count` bytes of `chain` to the end of `into`.
    pub(super) fn take_into(&mut self, chain: &mut Chain, count: usize, into: &mut Vec<u8>) {
        let mut left = count;
        while left > 0 {
            let piece = self.front(chain);
            let size = piece.len().min(left);
            assert!(size > 0, "only what was put in can be taken out");
            into.extend_from_slice(&piece[..size]);
            self.consume(chain, size);
            left -= size;
        }
    }

    fn take(&mut self) -> u32 {
        let page = self.first_free;
        assert!(page != NONE, "the pages were counted before");
        self.first_free = self.next[page as usize];
        self.free -= 1;
        self.least_free = self.least_free.min(self.free);
        page
    }

    fn give_back(&mut self, page: u32) {
        self.next[page as usize] = self.first_free;
        self.first_free = page;
        self.free += 1;
        self.freed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_gives_back_what_was_put_in_and_all_its_pages() {
        let mut pages = Pages::new(8, false);
        let mut state = 1_u64;
        let mut next = |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize % below
        };
        let mut chains = [Chain::default(), Chain::default()];
        let mut models = [Vec::new(), Vec::new()];
        for round in 0..20_000_usize {
            let which = next(2);
            let (chain, model) = (&mut chains[which], &mut models[which]);
            if next(2) == 0 {
                let bytes = vec![round as u8; next(6000)];
                if pages.append(chain, &bytes) {
                    model.extend(bytes);
                } else {
                    assert!(pages.available() < 2, "refused only when it does not fit");
                }
            } else {
                let count = next(chain.size() + 1);
                let mut out = Vec::new();
                pages.take_into(chain, count, &mut out);
                assert_eq!(out, model.drain(..count).collect::<Vec<_>>());
            }
            assert_eq!(chain.size(), model.len());
            assert_eq!(pages.pieces(chain).flatten().count(), model.len());
        }
        for chain in &mut chains {
            pages.clear(chain);
        }
        assert_eq!(pages.available(), 8, "no page is lost");
    }

    #[test]
    fn what_is_promised_to_one_is_not_available_to_others() {
        let mut pages = Pages::new(8, false);
        assert!(pages.reserve(5, 2));
        assert_eq!(pages.available(), 3);
        assert!(!pages.reserve(2, 2));
        pages.unreserve(5);
        assert!(pages.reserve(8, 0));
    }
}
