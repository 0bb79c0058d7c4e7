//! A text that is only appended to: every element unique, every reply the length after it.

use std::collections::BTreeMap;

use super::{Findings, NEVER, Seen, deadlines, grows};

/// An append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Append {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// The element; no other is the same.
    pub(crate) element: u64,
    /// The length that was returned; none: unknown outcome.
    pub(crate) length: Option<u64>,
}

/// A read of the whole text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) length: u64,
    /// Of the text, see [`hash`].
    pub(crate) hash: u64,
}

/// What happened to one text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Text {
    pub(crate) appends: Vec<Append>,
    pub(crate) looks: Vec<Look>,
}

/// What an element looks like in the text.
pub(crate) fn encode(element: u64) -> String {
    format!("{element},")
}

/// Goes on with the hash of a text (FNV-1a).
pub(crate) fn hash(so_far: u64, more: &[u8]) -> u64 {
    more.iter().fold(so_far, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// The hash of the empty text.
pub(crate) const EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

impl Text {
    /// Checks the whole history against the text that is there in the end.
    pub(crate) fn check(self, what: &str, last: &[u8]) -> Findings {
        let mut findings = Findings::default();
        // Where each element ends, and the hash up to there.
        let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
        let mut prefixes = BTreeMap::from([(0, EMPTY)]);
        let (mut length, mut so_far) = (0, EMPTY);
        for part in last.split_inclusive(|byte| *byte == b',') {
            length += part.len() as u64;
            so_far = hash(so_far, part);
            prefixes.insert(length, so_far);
            let digits = part.strip_suffix(b",").unwrap_or_default();
            let element = std::str::from_utf8(digits)
                .ok()
                .and_then(|text| text.parse().ok());
            match element {
                Some(element) if ends.insert(element, length).is_none() => {}
                Some(element) => findings.wrong(format!("{what}: {element} is there twice")),
                None => findings.wrong(format!("{what}: {part:?} was never appended")),
            }
        }
        for look in &self.looks {
            if prefixes.get(&look.length) != Some(&look.hash) {
                findings.wrong(format!(
                    "{what}: {look:?} is no beginning of the final text"
                ));
            }
        }
        self.places(what, ends, &mut findings);
        findings
    }

    /// Every append against its element's place in the final text.
    fn places(&self, what: &str, mut ends: BTreeMap<u64, u64>, findings: &mut Findings) {
        let mut seen: Vec<Seen> = Vec::new();
        let mut unknown: Vec<(u64, &Append)> = Vec::new();
        for append in &self.appends {
            match (ends.remove(&append.element), append.length) {
                (place, Some(length)) => {
                    if place != Some(length) {
                        findings.wrong(format!("{what}: {append:?} ends at {place:?}"));
                    }
                    seen.push(Seen {
                        start: append.start,
                        end: append.end,
                        value: length,
                        made: true,
                    });
                }
                (Some(place), None) => unknown.push((place, append)),
                (None, None) => findings.checked += 1,
            }
        }
        for element in ends.keys() {
            findings.wrong(format!("{what}: {element} was refused or never appended"));
        }
        seen.extend(self.looks.iter().map(|look| Seen {
            start: look.start,
            end: look.end,
            value: look.length,
            made: false,
        }));
        grows(what, &seen, findings);
        unknown.sort_unstable_by_key(|(place, _)| *place);
        let places: Vec<u64> = unknown.iter().map(|(place, _)| *place).collect();
        for ((place, append), deadline) in unknown.iter().zip(deadlines(&places, &seen)) {
            findings.checked += 1;
            assert_eq!(append.end, NEVER, "an append without a reply has no end");
            let late = seen
                .iter()
                .any(|s| s.end < append.start && s.value > *place);
            if late || append.start > deadline {
                findings.wrong(format!(
                    "{what}: {append:?} ends at {place}, before its time"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(start: u64, end: u64, element: u64, length: Option<u64>) -> Append {
        Append {
            start,
            end,
            element,
            length,
        }
    }

    fn anomalies(appends: &[Append], looks: &[(u64, u64, &str)], last: &str) -> u64 {
        let looks = looks.iter().map(|(start, end, text)| Look {
            start: *start,
            end: *end,
            length: text.len() as u64,
            hash: hash(EMPTY, text.as_bytes()),
        });
        let text = Text {
            appends: appends.to_vec(),
            looks: looks.collect(),
        };
        text.check("t", last.as_bytes()).anomalies
    }

    #[test]
    fn every_acknowledged_element_is_there_once_at_its_place() {
        let both = [append(1, 2, 5, Some(2)), append(3, 4, 6, Some(4))];
        assert_eq!(anomalies(&both, &[(3, 5, "5,")], "5,6,"), 0);
        assert_ne!(anomalies(&both, &[], "5,"), 0, "lost");
        assert_ne!(anomalies(&both, &[], "6,5,"), 0, "reordered");
        assert_ne!(anomalies(&both, &[], "5,6,5,"), 0, "doubled");
        assert_ne!(anomalies(&both, &[], "5,6,7,"), 0, "from nowhere");
        assert_ne!(anomalies(&both, &[(5, 6, "5,")], "5,6,"), 0, "stale");
        assert_ne!(anomalies(&both, &[(5, 6, "5,7,")], "5,6,"), 0, "vanished");
    }

    #[test]
    fn an_unknown_element_may_be_missing_or_late_but_not_early() {
        let maybe = append(10, NEVER, 7, None);
        let one = append(1, 2, 5, Some(2));
        assert_eq!(anomalies(&[one, maybe], &[], "5,"), 0);
        assert_eq!(anomalies(&[one, maybe], &[], "5,7,"), 0);
        let after = append(1, 2, 5, Some(4));
        assert_ne!(anomalies(&[after, maybe], &[], "7,5,"), 0);
        assert_ne!(anomalies(&[one, maybe], &[(3, 4, "5,7,")], "5,7,"), 0);
    }
}
