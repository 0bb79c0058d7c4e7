//! Patterns of KEYS and SCAN: what Redis' `stringmatch` understands, in bounded work.
//!
//! `*`, `?`, `[abc]`, `[a-z]`, `[^a]` and `\x`. Redis backtracks into every star; a pattern of many
//! stars then takes exponential time. Going back to the last star only gives the same answers (an
//! earlier star could only give away what the last one can take) in at most pattern times text steps.

/// Whether `text` matches `pattern`; none when that cannot be said within `steps`, from which the
/// steps taken are subtracted.
pub(super) fn matches(pattern: &[u8], text: &[u8], steps: &mut u64) -> Option<bool> {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        *steps = steps.checked_sub(1)?;
        if p < pattern.len() && pattern[p] == b'*' {
            p += 1;
            star = Some((p, t));
            continue;
        }
        if t < text.len() {
            if p < pattern.len()
                && let Some(next) = one(pattern, p, text[t], steps)
            {
                p = next;
                t += 1;
                continue;
            }
        } else if p == pattern.len() {
            return Some(true);
        }
        // Let the last star take one byte more.
        match star {
            Some((after, taken)) if taken < text.len() => {
                p = after;
                t = taken + 1;
                star = Some((after, t));
            }
            _ => return Some(false),
        }
    }
}

/// Matches one byte against the pattern's element at `p`; returns where the next element begins.
fn one(pattern: &[u8], p: usize, byte: u8, steps: &mut u64) -> Option<usize> {
    match pattern[p] {
        b'?' => Some(p + 1),
        b'[' => {
            let (end, next) = class(pattern, p + 1, byte);
            *steps = steps.saturating_sub((end - p) as u64);
            next
        }
        b'\\' if p + 1 < pattern.len() => (pattern[p + 1] == byte).then_some(p + 2),
        literal => (literal == byte).then_some(p + 1),
    }
}

/// Matches one byte against the class that begins at `p`: where the class ends, and the same again if
/// it matches. As in Redis, a class that is not closed ends with the pattern.
fn class(pattern: &[u8], mut p: usize, byte: u8) -> (usize, Option<usize>) {
    let negated = pattern.get(p) == Some(&b'^');
    if negated {
        p += 1;
    }
    let mut found = false;
    while p < pattern.len() {
        if pattern[p] == b'\\' && p + 1 < pattern.len() {
            p += 1;
            found |= pattern[p] == byte;
        } else if pattern[p] == b']' {
            p += 1;
            return (p, (found != negated).then_some(p));
        } else if p + 2 < pattern.len() && pattern[p + 1] == b'-' {
            let (low, high) = (
                pattern[p].min(pattern[p + 2]),
                pattern[p].max(pattern[p + 2]),
            );
            found |= (low..=high).contains(&byte);
            p += 2;
        } else {
            found |= pattern[p] == byte;
        }
        p += 1;
    }
    (p, (found != negated).then_some(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &[u8], text: &[u8]) -> bool {
        matches(pattern, text, &mut 100_000_000).expect("enough steps")
    }

    #[test]
    fn patterns_match_as_in_redis() {
        let table = [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            ("h[a-b]llo", "hcllo", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("a\\", "a\\", true),
            ("[\\]]", "]", true),
            ("[abc", "b", true),
            ("[abc", "d", false),
            ("a[", "ab", false),
            ("a[^", "ab", true),
            ("*a*b*c*", "xxaxxbxxcxx", true),
            ("*a*b*c*", "xxaxxcxxbxx", false),
            ("a*b", "ab", true),
            ("a**b", "axb", true),
            ("*b", "aab", true),
            ("user:*:name", "user:12:name", true),
            ("user:*:name", "user:12:names", false),
            ("?", "", false),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(
                fits(pattern.as_bytes(), text.as_bytes()),
                expected,
                "{pattern} {text}"
            );
        }
    }

    /// The obvious definition: exponential, but right.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.first() {
            None => text.is_empty(),
            Some(b'*') => (0..=text.len()).any(|skip| naive(&pattern[1..], &text[skip..])),
            Some(_) => text.first().is_some_and(|byte| {
                one(pattern, 0, *byte, &mut 1000)
                    .is_some_and(|next| naive(&pattern[next..], &text[1..]))
            }),
        }
    }

    #[test]
    fn going_back_to_the_last_star_is_enough() {
        let mut random = 1;
        for _ in 0..50_000 {
            let mut word = |alphabet: &[u8]| -> Vec<u8> {
                random = super::super::digest::mix(random, 3);
                let (mut bits, size) = (random >> 8, random % 8);
                (0..size)
                    .map(|_| {
                        bits /= 7;
                        alphabet[bits as usize % alphabet.len()]
                    })
                    .collect()
            };
            let (pattern, text) = (word(b"**?ab[^-]\\"), word(b"ab"));
            assert_eq!(
                fits(&pattern, &text),
                naive(&pattern, &text),
                "{pattern:?} {text:?}"
            );
        }
    }

    #[test]
    fn many_stars_do_not_take_forever() {
        let pattern = b"*a".repeat(200);
        let text = b"a".repeat(20_000);
        assert!(fits(&pattern, &text));
        let pattern = [b"*a".repeat(200), b"b".to_vec()].concat();
        assert!(!fits(&pattern, &text));
    }
    #[test]
    fn a_pattern_that_takes_too_many_steps_is_given_up() {
        let pattern = [b"*a".repeat(200), b"b".to_vec()].concat();
        let (text, mut steps) = (b"a".repeat(20_000), 5000);
        assert_eq!(matches(&pattern, &text, &mut steps), None);
        let class = [b"[".to_vec(), b"x".repeat(4000), b"]".to_vec()].concat();
        let (text, mut steps) = (b"x".repeat(10), 5000);
        assert_eq!(matches(&class.repeat(10), &text, &mut steps), None);
        assert_eq!(matches(b"a*", b"abc", &mut 10), Some(true));
    }
}
