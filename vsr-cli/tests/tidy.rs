//! What the house expects of every file, and no compiler checks.
//!
//! Each check is a function over paths and texts that returns complaints, so that a second test can
//! show that it would complain: a check that cannot fail checks nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a Rust file. Files aim at 500.
const LINES_MAX: usize = 800;

/// The crates, and what else the plan has at the top.
const CRATES: [&str; 6] = [
    "vsr-types",
    "vsr-journal",
    "vsr-consensus",
    "vsr-net",
    "vsr-node",
    "vsr-cli",
];
const FOLDERS: [&str; 4] = ["docs", ".ci", ".git", "target"];

/// Words that have no place in a finished file. In two parts, so that this file has none of them.
const FORBIDDEN: [(&str, &str); 8] = [
    ("todo", "!("),
    ("unimplemented", "!("),
    ("dbg", "!("),
    ("FIX", "ME"),
    ("HA", "CK"),
    ("XX", "X"),
    ("/home", "/"),
    ("/Users", "/"),
];

/// One file of the workspace, its path relative to the root.
struct File {
    path: String,
    text: String,
}

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a crate lies in a workspace");
    root.to_path_buf()
}

/// All files below `folder` (relative to the root) with one of the extensions.
fn files_below(folder: &str, extensions: &[&str]) -> Vec<File> {
    let root = root();
    let mut files = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                if path.file_name().is_none_or(|name| name != "target") {
                    folders.push(path);
                }
                continue;
            }
            let extension = path.extension().and_then(|extension| extension.to_str());
            if extension.is_some_and(|extension| extensions.contains(&extension)) {
                let text = fs::read_to_string(&path).expect("a text file");
                let path = path.strip_prefix(&root).expect("below the root");
                files.push(File {
                    path: path.to_string_lossy().into_owned(),
                    text,
                });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn rust_files() -> Vec<File> {
    let files: Vec<File> = CRATES
        .iter()
        .flat_map(|name| files_below(name, &["rs"]))
        .collect();
    assert!(
        files.len() > 50,
        "only {} Rust files were found",
        files.len()
    );
    files
}

fn documents() -> Vec<File> {
    let mut files = files_below("docs", &["md"]);
    for name in fs::read_dir(root()).expect("the root").flatten() {
        let name = name.file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") {
            let text = fs::read_to_string(root().join(&name)).expect("a text file");
            files.push(File { path: name, text });
        }
    }
    for name in CRATES {
        files.extend(files_below(name, &["md"]));
    }
    files
}

fn too_long(file: &File) -> Option<String> {
    let lines = file.text.lines().count();
    (lines > LINES_MAX).then(|| format!("{} has {lines} lines, more than {LINES_MAX}", file.path))
}

fn without_purpose(file: &File) -> Option<String> {
    let opens =
        file.text.starts_with("//! ") && file.text.lines().next().is_some_and(|l| l.len() > 8);
    (!opens).then(|| format!("{} does not open with `//!` and why it exists", file.path))
}

fn forbidden_words(file: &File) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for (first, second) in FORBIDDEN {
            let word = format!("{first}{second}");
            // As a word of its own: not the end of a longer one.
            let found = line.match_indices(&word).any(|(at, _)| {
                !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
            });
            if found {
                complaints.push(format!("{}:{} has `{word}`", file.path, number + 1));
            }
        }
        if line
            .chars()
            .any(|c| matches!(c, '\u{1F000}'..='\u{1FAFF}' | '\u{2705}' | '\u{274C}'))
        {
            complaints.push(format!("{}:{} has an emoji", file.path, number + 1));
        }
    }
    complaints
}

/// Folders at the top that are not in the plan.
fn unplanned(folders: &[String]) -> Vec<String> {
    let planned = |name: &str| CRATES.contains(&name) || FOLDERS.contains(&name);
    let unplanned = folders.iter().filter(|name| !planned(name));
    unplanned
        .map(|name| format!("the folder {name} is not in the plan"))
        .collect()
}

/// Entries of the root's clippy.toml that the nearer file does not repeat. Clippy does not merge.
fn not_repeated(root: &str, nearer: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let lines =
        |text: &str| -> Vec<String> { text.lines().map(|line| line.trim().to_owned()).collect() };
    let repeated = lines(nearer);
    for line in lines(root)
        .iter()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let found = match line.strip_suffix("[]") {
            // An empty list at the root may be longer nearer to the code.
            Some(key) => repeated
                .iter()
                .any(|line| line.starts_with(&format!("{key}["))),
            None => repeated.contains(line),
        };
        if !found {
            complaints.push(format!(
                "vsr-consensus/clippy.toml does not repeat `{line}`"
            ));
        }
    }
    complaints
}

/// Relative links of a document whose target does not exist.
fn dead_links(file: &File, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let folder = Path::new(&file.path)
        .parent()
        .unwrap_or_else(|| Path::new(""));
    let mut complaints = Vec::new();
    let targets = file
        .text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    for target in targets {
        let path = target.split(['#', ' ']).next().unwrap_or_default();
        if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
            continue;
        }
        if !exists(&folder.join(path)) {
            complaints.push(format!(
                "{} links to {path}, which does not exist",
                file.path
            ));
        }
    }
    complaints
}

/// The rules in the table of docs/protocol.md: rows whose first cell is a rule's number.
fn rules(protocol: &str) -> Vec<String> {
    let first_cell = |line: &str| {
        line.strip_prefix('|')?
            .split('|')
            .next()
            .map(str::trim)
            .map(str::to_owned)
    };
    let is_rule = |cell: &String| {
        let Some((group, number)) = cell.strip_prefix('R').and_then(|rest| rest.split_once('.'))
        else {
            return false;
        };
        [group, number]
            .iter()
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    };
    protocol
        .lines()
        .filter_map(first_cell)
        .filter(is_rule)
        .collect()
}

/// Whether `text` names `rule`, and not only a longer number that begins alike.
fn cites(text: &str, rule: &str) -> bool {
    text.match_indices(rule).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + rule.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(|c| c.is_ascii_digit())
    })
}

/// Splits a file of a crate into its code and its tests.
fn code_and_tests(file: &File) -> (&str, &str) {
    let is_test = |part: &str| part == "tests" || part == "tests.rs" || part == "benches";
    if file.path.split('/').any(is_test) {
        return ("", &file.text);
    }
    // Not at any `#[cfg(test)]`: a helper for tests, or `mod tests;`, has code below it.
    let module = file.text.find("#[cfg(test)]\nmod tests {");
    let at = module.unwrap_or(file.text.len());
    file.text.split_at(at)
}

/// Rules without a citation in code or in a test.
fn uncited(rules: &[String], files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for rule in rules {
        let parts = || files.iter().map(code_and_tests);
        if !parts().any(|(code, _)| cites(code, rule)) {
            complaints.push(format!("no code cites {rule}"));
        }
        if !parts().any(|(_, tests)| cites(tests, rule)) {
            complaints.push(format!("no test cites {rule}"));
        }
    }
    complaints
}

fn file(path: &str, text: &str) -> File {
    File {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}

fn none() -> Vec<String> {
    Vec::new()
}

#[test]
fn no_rust_file_is_over_800_lines() {
    assert_eq!(
        rust_files().iter().filter_map(too_long).collect::<Vec<_>>(),
        none()
    );
}

#[test]
fn every_rust_file_opens_with_why_it_exists() {
    assert_eq!(
        rust_files()
            .iter()
            .filter_map(without_purpose)
            .collect::<Vec<_>>(),
        none()
    );
}

#[test]
fn no_file_has_forbidden_words() {
    let mut files = rust_files();
    files.extend(documents());
    for name in CRATES {
        files.extend(files_below(name, &["toml", "sh", "txt", "py", "js"]));
    }
    assert_eq!(
        files.iter().flat_map(forbidden_words).collect::<Vec<_>>(),
        none()
    );
}

#[test]
fn only_planned_folders_are_at_the_top() {
    let entries = fs::read_dir(root()).expect("the root").flatten();
    let folders = entries.filter(|entry| entry.path().is_dir());
    let folders: Vec<_> = folders
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(
        CRATES
            .iter()
            .all(|name| folders.iter().any(|folder| folder == name))
    );
    assert_eq!(unplanned(&folders), none());
}

#[test]
fn the_clippy_settings_of_the_core_repeat_those_of_the_root() {
    let read = |path: &str| fs::read_to_string(root().join(path)).expect("there");
    assert_eq!(
        not_repeated(&read("clippy.toml"), &read("vsr-consensus/clippy.toml")),
        none()
    );
}

#[test]
fn documents_link_to_what_exists() {
    let root = root();
    let exists = |path: &Path| root.join(path).exists();
    let documents = documents();
    assert!(
        documents.iter().any(|file| file.path == "docs/protocol.md"),
        "no documents found"
    );
    let dead: Vec<_> = documents
        .iter()
        .flat_map(|file| dead_links(file, exists))
        .collect();
    assert_eq!(dead, none());
}

#[test]
fn each_rule_of_the_protocol_is_cited_in_code_and_in_a_test() {
    let protocol = fs::read_to_string(root().join("docs/protocol.md")).expect("docs/protocol.md");
    let rules = rules(&protocol);
    let unique: BTreeSet<&String> = rules.iter().collect();
    assert!(
        unique.len() >= 25,
        "only {} rules were found in the table",
        unique.len()
    );
    assert_eq!(unique.len(), rules.len(), "a rule is listed twice");
    let this_file = |file: &File| file.path == "vsr-cli/tests/tidy.rs";
    let mut files = rust_files();
    files.extend(CRATES.iter().flat_map(|name| files_below(name, &["txt"])));
    files.retain(|file| !this_file(file));
    assert_eq!(uncited(&rules, &files), none());
}

#[test]
fn each_check_would_complain() {
    let long = "//! Why it exists.\n".repeat(LINES_MAX + 1);
    assert!(too_long(&file("a.rs", &long)).is_some());
    assert!(too_long(&file("a.rs", &long[19..])).is_none());
    for text in [
        "",
        "//!\n",
        "// Why.\n",
        "use std::io;\n",
        "\n//! Why it exists.\n",
    ] {
        assert!(without_purpose(&file("a.rs", text)).is_some(), "{text:?}");
    }
    for (first, second) in FORBIDDEN {
        let text = format!("fine\nlet x = {first}{second});\n");
        assert_eq!(
            forbidden_words(&file("a.rs", &text)).len(),
            1,
            "{first}{second}"
        );
    }
    assert_eq!(
        forbidden_words(&file("a.md", "well done \u{1F680}")).len(),
        1
    );
    assert_eq!(
        forbidden_words(&file("a.rs", "a_dbg!(x) is another word")),
        none()
    );
    let folders = ["docs", "vsr-net", "scripts"].map(str::to_owned);
    assert_eq!(
        unplanned(&folders),
        ["the folder scripts is not in the plan"]
    );
    let missing = not_repeated(
        "# why\na = 1\nb = []\nc = []\n",
        "a = 2\nb = [\n  { path = \"x\" },\n]",
    );
    assert_eq!(missing.len(), 2, "{missing:?}");
}

#[test]
fn a_dead_link_would_be_seen() {
    let text =
        "[a](b.md) [c](https://example.invalid/x) [d](#here) [e](../README.md#top) [f](g.md)";
    let exists =
        |path: &Path| path == Path::new("docs/b.md") || path == Path::new("docs/../README.md");
    let dead = dead_links(&file("docs/a.md", text), exists);
    assert_eq!(dead, ["docs/a.md links to g.md, which does not exist"]);
}

#[test]
fn an_uncited_rule_would_be_seen() {
    let found =
        rules("| rule | is |\n| --- | --- |\n| R1.2 | x |\n| R10.1 | y |\n| 3 | z |\nR9.9\n");
    assert_eq!(found, ["R1.2", "R10.1"]);
    let files = [
        file(
            "vsr-a/src/a.rs",
            "// R1.2, R10.15\n#[cfg(test)]\nmod tests { /* R10.1 */ }",
        ),
        file("vsr-a/tests/b.rs", "//! xR1.2"),
    ];
    assert_eq!(
        uncited(&found, &files),
        ["no test cites R1.2", "no code cites R10.1"]
    );
}
