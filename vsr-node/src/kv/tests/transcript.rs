//! What is answered, word for word.

use super::support::{Fixture, only, pack};
use vsr_consensus::StateMachine as _;

/// Splits a command line as a shell does, double quotes only.
fn split(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').expect("a closing quote"),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(word.as_bytes().to_vec());
        rest = after.trim_start();
    }
    words
}

/// Runs a transcript; every read is asked as a query as well.
fn follow(transcript: &str) -> usize {
    let mut fixture = Fixture::new(8 << 20);
    // The first operation draws the table's seed.
    fixture.run("dbsize");
    let (mut checked, mut wrong) = (0, Vec::new());
    let mut lines = transcript.lines();
    while let Some(line) = lines.next() {
        if let Some(wait) = line.strip_prefix("+ ") {
            fixture.now += wait.parse::<u64>().expect("milliseconds");
            // What is due now is asked for before anything sweeps it, and once more after that.
            let read = pack(&[b"exists", b"t"]);
            let swept = fixture.query(&read);
            assert_eq!(fixture.apply(&read), swept);
        }
        let Some(command) = line.strip_prefix("> ") else {
            continue;
        };
        let expected = lines
            .next()
            .and_then(|line| line.strip_prefix("< "))
            .expect("a reply");
        let words = split(command);
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let operation = pack(&words);
        let read = crate::kv::lookup(words[0])
            .and_then(|spec| spec.opcode())
            .expect("known");
        let before = fixture.machine.digest();
        if read.is_read() {
            let answer = only(&fixture.query(&operation));
            assert_eq!(text(&answer), expected, "query {command}");
        }
        let reply = fixture.words(&words);
        if text(&reply) != expected {
            wrong.push(format!("{command}: {} instead of {expected}", text(&reply)));
        }
        if read.is_read() || reply.first() == Some(&b'-') {
            assert_eq!(
                fixture.machine.digest(),
                before,
                "{command} changed the state"
            );
        }
        assert!(fixture.machine.verify(), "after {command}");
        checked += 1;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    checked
}

fn text(reply: &[u8]) -> String {
    let text: String = reply.iter().map(|byte| char::from(*byte)).collect();
    text.replace('\\', "\\\\")
        .replace("\r\n", "\\r\\n")
        .replace('\n', "\\n")
        .replace('\0', "\\0")
}

#[test]
fn replies_are_those_of_redis() {
    assert!(follow(include_str!("redis.txt")) > 250);
}

#[test]
fn newer_commands_and_time_answer_as_documented() {
    assert!(follow(include_str!("own.txt")) > 40);
}
