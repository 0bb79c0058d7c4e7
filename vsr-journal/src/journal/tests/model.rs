//! The journal against a model so simple that it is obviously right: a vector of everything that was
//! ever appended, and a picture of the ring in which each line knows whose it is.

use super::*;

/// A small generator of our own: the same seed, the same run, on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

struct Kept {
    header: Header,
    body: Vec<u8>,
    state: SlotState,
    /// First line and count of lines in the ring.
    lines: (usize, usize),
}

struct Model {
    slots: u64,
    /// Which op's body each line of the ring holds: the one that took it last.
    owner: Vec<u64>,
    log: Vec<Kept>,
    /// The op before the first of `log`.
    base: u64,
    next_line: usize,
    /// The highest op that was ever the head since the last reset: its slot is used up.
    highest: u64,
    overwritten_below: u64,
}

fn lines_of(size: usize) -> usize {
    size.max(1).div_ceil(LINE_SIZE)
}

impl Model {
    fn new(slots: u64, lines: usize, base: u64) -> Self {
        Self {
            slots,
            owner: alloc::vec![0; lines],
            log: Vec::new(),
            base,
            next_line: 0,
            highest: base,
            overwritten_below: base + 1,
        }
    }

    fn head(&self) -> u64 {
        self.base + self.log.len() as u64
    }

    fn at(&mut self, op: u64) -> &mut Kept {
        &mut self.log[(op - self.base - 1) as usize]
    }

    /// The lines an entry of `size` takes, the skipped ones first; none when the ring is too small.
    fn lines(&self, size: usize) -> Option<(Vec<usize>, usize)> {
        let (count, all) = (lines_of(size), self.owner.len());
        if count > all {
            return None;
        }
        if self.next_line + count <= all {
            let lines = self.next_line..self.next_line + count;
            return Some((lines.collect(), self.next_line));
        }
        Some(((self.next_line..all).chain(0..count).collect(), 0))
    }

    /// The held ops whose slot or bytes an entry of `size` would take; none when it never fits.
    fn victims(&self, size: usize) -> Option<Vec<u64>> {
        let (lines, _) = self.lines(size)?;
        let mut victims: Vec<u64> = lines.into_iter().map(|line| self.owner[line]).collect();
        victims.push((self.head() + 1).saturating_sub(self.slots));
        victims.retain(|&op| op >= self.oldest() && op <= self.head());
        Some(victims)
    }

    fn append(&mut self, header: Header, body: Vec<u8>, state: SlotState) {
        let victims = self.victims(body.len()).expect("there is room");
        let (lines, first) = self.lines(body.len()).expect("there is room");
        let op = self.head() + 1;
        let last = victims.into_iter().max().unwrap_or(0);
        self.overwritten_below = self.overwritten_below.max(last + 1);
        let count = lines_of(body.len());
        for line in lines {
            // What is skipped at the region's end is nobody's.
            let own = (first..first + count).contains(&line);
            self.owner[line] = if own { op } else { 0 };
        }
        self.next_line = first + count;
        let lines = (first, count);
        self.log.push(Kept {
            header,
            body,
            state,
            lines,
        });
        self.highest = self.highest.max(op);
    }

    fn truncate(&mut self, head: u64) {
        if head == self.head() {
            return;
        }
        let (dropped, _) = self.at(head + 1).lines;
        self.next_line = dropped;
        if head >= self.overwritten_below {
            let (first, count) = self.at(head).lines;
            self.next_line = first + count;
        }
        for line in self.owner.iter_mut().filter(|line| **line > head) {
            *line = 0;
        }
        self.log.truncate((head - self.base) as usize);
    }

    fn oldest(&self) -> u64 {
        (self.highest + 1)
            .saturating_sub(self.slots)
            .max(self.base + 1)
    }

    fn check(&self, journal: &Journal) {
        assert_eq!(journal.head(), Op::new(self.head()));
        assert_eq!(journal.tail(), Op::new(self.overwritten_below));
        assert_eq!(journal.oldest(), Op::new(self.oldest()));
        for (op, kept) in (self.base + 1..).zip(&self.log) {
            let expected = match kept.state {
                _ if op < self.oldest() => Err(ReadError::Empty),
                _ if op < self.overwritten_below => Err(ReadError::Overwritten),
                SlotState::Present => Ok((&kept.header, &kept.body[..])),
                SlotState::Missing => Err(ReadError::Missing),
                _ => Err(ReadError::Faulty),
            };
            assert_eq!(journal.read(Op::new(op)), expected, "op {op}");
            let header = (op >= self.oldest()).then_some(&kept.header);
            assert_eq!(journal.header(Op::new(op)), header);
        }
        for outside in [self.base, self.head() + 1, self.head() + self.slots] {
            assert_eq!(journal.read(Op::new(outside)), Err(ReadError::Empty));
        }
    }
}

struct Run {
    random: Random,
    journal: Journal,
    model: Model,
    protected: u64,
    version: u64,
    size_max: u64,
    seen: [u64; 9],
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let slots = 1 + random.below(24);
        let lines = 1 + random.below(48) as usize;
        Self {
            journal: Journal::new(slots as usize, lines * LINE_SIZE),
            model: Model::new(slots, lines, 0),
            protected: 1,
            version: 0,
            size_max: 1 + random.below((lines * LINE_SIZE) as u64),
            random,
            seen: [0; 9],
        }
    }

    fn step(&mut self) {
        let did = match self.random.below(32) {
            0..16 => self.append(false),
            16..20 => self.append(true),
            20..24 => self.put(),
            24..26 => self.mark(),
            26 => self.truncate(),
            27 if self.random.below(8) == 0 => self.reset(),
            _ => self.execute(),
        };
        self.seen[did] += 1;
        if self.random.below(4) == 0 {
            self.model.check(&self.journal);
        }
    }

    fn size(&mut self) -> usize {
        let size = match self.random.below(8) {
            0 => 0,
            1 => self.size_max,
            2 => self.size_max + self.random.below(LINE_SIZE as u64 * 2),
            _ => self.random.below(self.size_max),
        };
        size as usize
    }

    fn append(&mut self, header_only: bool) -> usize {
        let (size, op) = (self.size(), self.model.head() + 1);
        let protected = Op::new(self.protected);
        let room = self
            .model
            .victims(size)
            .is_some_and(|victims| victims.iter().all(|&victim| victim < self.protected));
        let asked = self.journal.room(size, protected);
        assert_eq!(asked, room, "op {op}, {size} bytes");
        if !room {
            return 0;
        }
        // A new version each time: entries that come back have tests of their own.
        self.version += 1;
        let (header, body) = entry(op, self.version, size);
        let state = if header_only {
            self.journal.append_header(&header, protected)
        } else {
            self.journal.append(&header, &body, protected);
            SlotState::Present
        };
        assert_eq!(state == SlotState::Missing, header_only);
        self.model.append(header, body, state);
        1 + usize::from(header_only)
    }

    /// An op from the first of this life to beyond the head.
    fn some_op(&mut self) -> u64 {
        self.model.base + 1 + self.random.below(self.model.log.len() as u64 + 2)
    }

    fn put(&mut self) -> usize {
        let op = self.some_op();
        if op > self.model.head() {
            let identity = Identity::default();
            let refused = self.journal.put_body(Op::new(op), &identity, &[]);
            assert_eq!(refused, Err(PutError::NotReserved));
            return 8;
        }
        let held = op >= self.model.overwritten_below;
        let kept = self.model.at(op);
        let expected = match kept.state {
            _ if !held => Err(PutError::NotReserved),
            SlotState::Present => Err(PutError::Present),
            _ => Ok(()),
        };
        let identity = kept.header.identity();
        let put = self.journal.put_body(Op::new(op), &identity, &kept.body);
        assert_eq!(put, expected);
        if put.is_err() {
            return 8;
        }
        kept.state = SlotState::Present;
        3
    }

    fn mark(&mut self) -> usize {
        let op = self.some_op();
        if op < self.model.overwritten_below || op > self.model.head() {
            return 8;
        }
        self.journal.mark_faulty(Op::new(op));
        self.model.at(op).state = SlotState::Faulty;
        4
    }

    fn truncate(&mut self) -> usize {
        // Everything executed is committed.
        let committed = self.protected - 1;
        let head = committed + self.random.below(self.model.head() - committed + 1);
        self.journal.truncate(Op::new(head), Op::new(committed));
        self.model.truncate(head);
        5
    }

    fn reset(&mut self) -> usize {
        let head = self.model.head() + self.random.below(100);
        self.journal.reset(Op::new(head));
        self.model = Model::new(self.model.slots, self.model.owner.len(), head);
        self.protected = head + 1;
        6
    }

    fn execute(&mut self) -> usize {
        let behind = self.model.head() + 1 - self.protected;
        self.protected += self.random.below(behind + 1);
        7
    }
}

#[test]
fn the_journal_does_what_the_model_does() {
    let mut seen = [0; 9];
    for seed in 1..=120 {
        let mut run = Run::new(seed);
        for _ in 0..600 {
            run.step();
        }
        run.model.check(&run.journal);
        for (sum, count) in seen.iter_mut().zip(run.seen) {
            *sum += count;
        }
    }
    assert!(
        seen.iter().all(|&count| count > 100),
        "every kind of step was taken: {seen:?}"
    );
}
