//! Every bound of `docs/limits.md` exists (N23): each row names a constant, a field or a setting, with the
//! value that it has in the source. Only values that are plain numbers, sizes and durations are compared;
//! the rest is looked up by name.

use std::path::{Path, PathBuf};

use vsr_node::config::FIELDS;

/// A row of a table: what is bounded, the value in words, and where it stands.
#[derive(Debug)]
struct Row {
    bound: String,
    value: String,
    place: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The rows of all tables behind that of the memory.
fn rows() -> Vec<Row> {
    let text = std::fs::read_to_string(root().join("docs/limits.md")).expect("it is there");
    let (_, tables) = text
        .split_once("<!-- /memory -->")
        .expect("the memory's end");
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| ---");
    let mut rows = Vec::new();
    for line in tables.lines().filter(is_row) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if cells.first() == Some(&"bound") {
            assert_eq!(cells.last(), Some(&"where"), "{line}");
            continue;
        }
        assert_eq!(cells.len(), 5, "bound, value, why, when, where: {line}");
        rows.push(Row {
            bound: cells[0].into(),
            value: cells[1].into(),
            place: cells[4].trim_matches('`').into(),
        });
    }
    rows
}

/// What stands behind `name` in a source: of a constant what it is, of a field what it defaults to.
fn definition(source: &str, name: &str) -> Option<String> {
    let mut definitions = source.lines().filter_map(|line| {
        let line = line.trim();
        let constant = line.split_once(&format!("const {name}: "));
        if let Some((_, rest)) = constant {
            return Some(
                rest.split_once('=')?
                    .1
                    .trim_end_matches(';')
                    .trim()
                    .to_owned(),
            );
        }
        // A default; a declaration has a type behind the colon.
        let (field, value) = line.split_once(':')?;
        let is_value = value.contains(|c: char| c.is_ascii_digit());
        (field == name && is_value).then(|| value.trim().trim_end_matches(',').to_owned())
    });
    definitions.next()
}

/// The ways to write a value of the source in words; none when it is no plain value.
fn words(source: &str) -> Vec<String> {
    if let Some(inside) = source
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'))
    {
        return inside.split("), ").flat_map(words).collect();
    }
    let source = source.trim_end_matches(')');
    for (call, unit) in [
        ("from_secs(", "s"),
        ("from_millis(", "ms"),
        ("from_micros(", "us"),
    ] {
        if let Some((_, number)) = source.split_once(call) {
            let number: u64 = number.replace('_', "").parse().expect("a number");
            let minutes = (unit == "s" && number.is_multiple_of(60)).then_some(number / 60);
            return match minutes {
                Some(minutes) => vec![format!("{minutes} min")],
                None => vec![format!("{number} {unit}")],
            };
        }
    }
    number(source).map_or_else(Vec::new, number_in_words)
}

/// A number, a shift or a product of what is known.
fn number(source: &str) -> Option<u64> {
    if let Some((a, b)) = source.split_once(" << ") {
        return Some(number(a)? << number(b)?);
    }
    if let Some((a, b)) = source.split_once(" * ") {
        return Some(number(a)? * number(b)?);
    }
    match source.trim() {
        "limits::FRAME_SIZE_MAX" | "FRAME_SIZE_MAX" => Some(1 << 20),
        digits => digits.replace('_', "").parse().ok(),
    }
}

fn number_in_words(number: u64) -> Vec<String> {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|group| std::str::from_utf8(group).ok())
        .collect();
    let mut words = vec![digits.clone(), groups.join(",")];
    for (shift, unit) in [(10, "KiB"), (20, "MiB"), (30, "GiB")] {
        if number > 0 && number.is_multiple_of(1 << shift) {
            words.push(format!("{} {unit}", number >> shift));
        }
    }
    if number.is_power_of_two() {
        words.push(format!("2^{}", number.ilog2()));
    }
    if number.is_multiple_of(1_000_000) {
        words.push(format!("{} million", number / 1_000_000));
    }
    words
}

/// The default of a setting in words: `256MiB`, `10m` and `65536` as people write them.
fn default_in_words(default: &str) -> Vec<String> {
    let end = default
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(default.len());
    let (digits, unit) = default.split_at(end);
    let Ok(number) = digits.parse::<u64>() else {
        return Vec::new();
    };
    match unit {
        "" | "B" => number_in_words(number),
        "m" => vec![format!("{number} min")],
        unit => vec![format!("{number} {unit}")],
    }
}

/// Whether `value` says one of `words`, as whole words.
fn says(value: &str, words: &[String]) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == ',' || c == '^';
    words.iter().any(|word| {
        value.match_indices(word.as_str()).any(|(at, _)| {
            let before = value[..at].chars().next_back();
            let mut after = value[at + word.len()..].chars();
            let (next, then) = (after.next(), after.next());
            // A comma that ends a part of the sentence is none of a number's.
            let goes_on = next.is_some_and(is_part) && !(next == Some(',') && then == Some(' '));
            !before.is_some_and(is_part) && !goes_on
        })
    })
}

#[test]
fn every_bound_that_is_documented_is_in_the_source_with_its_value() {
    let rows = rows();
    let mut compared = 0;
    for row in &rows {
        let (file, name) = row
            .place
            .split_once(": ")
            .unwrap_or_else(|| panic!("{row:?}"));
        let path = file.replacen('/', "/src/", 1);
        let source = std::fs::read_to_string(root().join(&path));
        let source = source.unwrap_or_else(|error| panic!("{path}: {error} ({row:?})"));
        assert!(
            source.contains(&format!("{name}: ")),
            "there is no {name} in {path}: {row:?}"
        );
        let words = definition(&source, name).map_or_else(Vec::new, |text| words(&text));
        if !words.is_empty() {
            compared += 1;
            assert!(says(&row.value, &words), "{row:?} is {words:?} in {path}");
        }
    }
    assert!(
        rows.len() > 45 && compared > 35,
        "{compared} of {}",
        rows.len()
    );
}

#[test]
fn every_setting_that_is_documented_has_its_default() {
    let mut compared = 0;
    for row in rows() {
        let Some((_, rest)) = row.bound.split_once("`--") else {
            continue;
        };
        let name = rest.split('`').next().expect("a name");
        let field = FIELDS.iter().find(|field| field.name == name);
        let field = field.unwrap_or_else(|| panic!("there is no setting {name}"));
        let words = field.default.map(default_in_words).unwrap_or_default();
        if words.is_empty() || row.value.contains("default the most") {
            continue;
        }
        compared += 1;
        assert!(says(&row.value, &words), "{row:?} defaults to {words:?}");
    }
    assert!(compared > 15, "{compared}");
}

#[test]
fn words_are_compared_as_whole_words() {
    let words = |text: &str| [text.to_owned()];
    assert!(says("at most 4 MiB, or less", &words("4 MiB")));
    assert!(says("1 to 64, default 2", &words("64")));
    assert!(!says("64 MiB", &words("4 MiB")));
    assert!(!says("10,000", &words("10")));
    assert!(!says("2^62", &words("2^6")));
}
