//! What a history must look like to be right. Every checker reads the whole of it.
//!
//! Times are nanoseconds of the run: `start` is before the command was sent, `end` after its answer had
//! arrived. A command of unknown outcome has the end [`NEVER`]: it may take effect at any time after its
//! start, or not at all.

pub(crate) mod append;
pub(crate) mod bank;
pub(crate) mod counter;
pub(crate) mod lock;
pub(crate) mod register;

/// The end of a command whose outcome is unknown.
pub(crate) const NEVER: u64 = u64::MAX;

/// What a checker found: how much it looked at, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Commands looked at.
    pub(crate) checked: u64,
    /// How many things are wrong.
    pub(crate) anomalies: u64,
    /// The first of them in words.
    pub(crate) texts: Vec<String>,
}

/// How many anomalies are described; more are only counted.
const TEXTS: usize = 8;

impl Findings {
    pub(crate) fn wrong(&mut self, text: String) {
        self.anomalies += 1;
        if self.texts.len() < TEXTS {
            self.texts.push(text);
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.checked += other.checked;
        self.anomalies += other.anomalies;
        self.texts.extend(other.texts);
        self.texts.truncate(TEXTS);
    }
}

/// Something that saw or made a growing number: an increment its result, an append the length after it,
/// a read what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) value: u64,
    /// Whether it made the number, or only saw it.
    pub(crate) made: bool,
}

/// Whatever ended before something else began must have seen less (or the same, for a read), and no
/// number may be made twice.
pub(crate) fn grows(what: &str, seen: &[Seen], findings: &mut Findings) {
    findings.checked += seen.len() as u64;
    let mut made: Vec<u64> = seen.iter().filter(|s| s.made).map(|s| s.value).collect();
    made.sort_unstable();
    for pair in made.windows(2).filter(|pair| pair[0] == pair[1]) {
        findings.wrong(format!("{what}: {} was made twice", pair[0]));
    }
    let mut by_start: Vec<&Seen> = seen.iter().collect();
    by_start.sort_unstable_by_key(|s| s.start);
    let mut by_end: Vec<&Seen> = seen.iter().collect();
    by_end.sort_unstable_by_key(|s| s.end);
    let mut ended = by_end.into_iter().peekable();
    let mut highest: Option<&Seen> = None;
    for now in by_start {
        while let Some(before) = ended.next_if(|before| before.end < now.start) {
            if highest.is_none_or(|highest| before.value > highest.value) {
                highest = Some(before);
            }
        }
        let Some(before) = highest else { continue };
        if before.value > now.value || (now.made && before.value == now.value) {
            findings.wrong(format!(
                "{what}: {now:?} although {before:?} had ended before it began"
            ));
        }
    }
}

/// Until when each of the ascending `values` must have been made: the earliest end of anything that saw
/// more.
pub(crate) fn deadlines(values: &[u64], seen: &[Seen]) -> Vec<u64> {
    let mut falling: Vec<&Seen> = seen.iter().collect();
    falling.sort_unstable_by_key(|s| core::cmp::Reverse(s.value));
    let mut falling = falling.into_iter().peekable();
    let mut deadline = NEVER;
    let mut deadlines: Vec<u64> = values
        .iter()
        .rev()
        .map(|&value| {
            // A read of the very value shows that it was made, too.
            let saw_it = |s: &&Seen| s.value > value || (s.value == value && !s.made);
            while let Some(seen) = falling.next_if(saw_it) {
                deadline = deadline.min(seen.end);
            }
            deadline
        })
        .collect();
    deadlines.reverse();
    deadlines
}
