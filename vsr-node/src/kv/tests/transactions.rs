//! MULTI/EXEC as one operation.

use super::support::{Fixture, assert_identical, only, pack};
use crate::kv::{Opcode, OperationBuilder, ReplyReader, lookup};
use vsr_consensus::StateMachine as _;

/// Packs a transaction.
fn exec(watches: &[(&str, u64)], lines: &[&str]) -> Vec<u8> {
    let mut builder = OperationBuilder::new(vec![0; 1 << 20]);
    add(&mut builder, watches, lines);
    builder.operation().to_vec()
}

fn add(builder: &mut OperationBuilder<Vec<u8>>, watches: &[(&str, u64)], lines: &[&str]) {
    builder.begin(Opcode::Exec);
    builder.watches(
        watches
            .iter()
            .map(|(key, version)| (key.as_bytes(), *version)),
    );
    for line in lines {
        let mut words = line.split(' ').map(str::as_bytes);
        let spec = lookup(words.next().expect("a name")).expect("known");
        builder.queued(spec.opcode().expect("the machine's"), words);
    }
    builder.end().expect("fits");
}

fn version(fixture: &mut Fixture, key: &str) -> u64 {
    let mut builder = OperationBuilder::new(vec![0; 256]);
    builder
        .push(Opcode::Version, &[key.as_bytes()])
        .expect("fits");
    let reply = only(&fixture.query(builder.operation()));
    let text = String::from_utf8(reply).expect("text");
    text[1..].trim_end().parse().expect("a number")
}

fn text(reply: &[u8]) -> String {
    String::from_utf8(only(reply)).expect("text")
}

#[test]
fn queued_commands_run_as_one_and_failures_do_not_undo_the_others() {
    let mut fixture = Fixture::new(8 << 20);
    let operation = exec(
        &[],
        &[
            "set a 1", "incr a", "get a", "incr a b", "set b x", "incr b", "mget a b",
        ],
    );
    fixture.machine.validate(&operation).expect("well formed");
    assert_eq!(
        text(&fixture.apply(&operation)),
        "*7\r\n+OK\r\n:2\r\n$1\r\n2\r\n-ERR wrong number of arguments for 'incr' command\r\n+OK\r\n\
         -ERR value is not an integer or out of range\r\n*2\r\n$1\r\n2\r\n$1\r\nx\r\n"
    );
    assert_eq!(text(&fixture.apply(&exec(&[], &[]))), "*0\r\n");
    assert!(fixture.machine.verify());
}

#[test]
fn a_watched_key_that_changed_stops_the_transaction() {
    let mut fixture = Fixture::new(8 << 20);
    fixture.run("set a 1");
    let watched = version(&mut fixture, "a");
    assert!(watched > 0);
    assert_eq!(version(&mut fixture, "absent"), 0);
    let operation = exec(&[("a", watched), ("absent", 0)], &["set a 2"]);
    assert_eq!(text(&fixture.apply(&operation)), "*1\r\n+OK\r\n");
    let before = fixture.machine.digest();
    assert_eq!(
        text(&fixture.apply(&operation)),
        "_\r\n",
        "its own write counts"
    );
    assert_eq!(fixture.machine.digest(), before);
}

#[test]
fn every_way_to_change_a_key_raises_its_version() {
    let mut fixture = Fixture::new(8 << 20);
    fixture.run("set a 1");
    fixture.run("set other 1");
    let mut last = version(&mut fixture, "a");
    for line in [
        "set a 1",
        "incr a",
        "append a 5",
        "setrange a 0 7",
        "expire a 100",
        "persist a",
        "mset a 1",
        "getset a 2",
        "getex a ex 5",
        "incrbyfloat a 1.5",
        "copy other a replace",
        "set a 3 ifne 4",
    ] {
        let other = version(&mut fixture, "other");
        assert!(!fixture.run(line).starts_with('-'), "{line}");
        let now = version(&mut fixture, "a");
        assert!(now > last, "{line}: {last} then {now}");
        assert_eq!(version(&mut fixture, "other"), other, "{line}");
        last = now;
    }
    fixture.run("rename other a");
    assert!(version(&mut fixture, "a") > last);
    last = version(&mut fixture, "a");
    fixture.run("del a");
    assert_eq!(version(&mut fixture, "a"), 0);
    fixture.run("flushall");
    fixture.run("set a 1");
    assert!(
        version(&mut fixture, "a") > last,
        "versions never come again"
    );
    for line in [
        "get a",
        "ttl a",
        "exists a",
        "setnx a 5",
        "persist a",
        "set a 1 ifeq 9",
        "getex a",
    ] {
        last = version(&mut fixture, "a");
        fixture.run(line);
        assert_eq!(version(&mut fixture, "a"), last, "{line}");
    }
}

#[test]
fn a_watched_key_that_expired_counts_as_changed() {
    let mut fixture = Fixture::new(8 << 20);
    fixture.run("set a 1 px 100");
    let watched = version(&mut fixture, "a");
    fixture.now += 100;
    assert_eq!(version(&mut fixture, "a"), 0);
    assert_eq!(
        text(&fixture.apply(&exec(&[("a", watched)], &["set b 1"]))),
        "_\r\n"
    );
}

#[test]
fn replies_that_do_not_fit_wait_or_say_so() {
    let big = "x".repeat(400_000);
    let mut fixture = Fixture::new(8 << 20);
    fixture.run(&format!("set big {big}"));
    // Three reads of 400 kB do not fit into 1 MiB: the third says so, the write after it happens.
    let operation = exec(&[], &["get big", "get big", "get big", "incr n"]);
    let reply = text(&fixture.apply(&operation));
    assert!(reply.starts_with("*4\r\n$400000\r\nxxx"));
    assert!(reply.ends_with("x\r\n-ERR reply too large\r\n:1\r\n"));
    // Behind another command the same transaction waits for the next operation.
    let mut builder = OperationBuilder::new(vec![0; 1 << 16]);
    builder.push(Opcode::Incr, &[b"first"]).expect("fits");
    add(
        &mut builder,
        &[],
        &["get big", "get big", "get big", "incr n"],
    );
    let reply = fixture.apply(builder.operation());
    let replies = ReplyReader::parse(&reply).expect("well formed");
    assert_eq!(
        (replies.executed(), replies.collect::<Vec<_>>()),
        (1, vec![&b":1\r\n"[..]])
    );
    assert_eq!(fixture.run("get n"), "$1\r\n1\r\n");
    // So do plain commands.
    let mut builder = OperationBuilder::new(vec![0; 1 << 16]);
    for _ in 0..4 {
        builder
            .push(Opcode::GetEx, &[b"big", b"ex", b"9"])
            .expect("fits");
    }
    let reply = fixture.apply(builder.operation());
    assert_eq!(
        ReplyReader::parse(&reply).expect("well formed").executed(),
        2
    );
    // What never fits is an error and not executed.
    let many: Vec<&[u8]> = std::iter::once(&b"mget"[..])
        .chain(std::iter::repeat_n(&b"big"[..], 3))
        .collect();
    assert_eq!(fixture.words(&many), b"-ERR reply too large\r\n");
    assert!(fixture.machine.verify());
}

#[test]
fn transactions_leave_the_same_bytes_as_their_commands_one_by_one() {
    let (mut a, mut b) = (Fixture::new(8 << 20), Fixture::new(8 << 20));
    let lines = [
        "mset a 1 b 2",
        "append a xyz",
        "del b",
        "set c 1 px 50",
        "rename a d",
        "setrange e 9 q",
    ];
    a.apply(&exec(&[], &lines));
    for line in lines {
        b.run(line);
    }
    assert_identical(&a.machine, &b.machine);
    assert!(pack(&[b"dbsize"]).len() == 12);
}

#[test]
fn what_reads_and_destroys_is_not_executed_when_its_reply_does_not_fit() {
    for destroyer in ["getdel b", "getset b new", "getex b px 1", "set b new get"] {
        let mut fixture = Fixture::new(16 << 20);
        let (large, value) = (vec![b'a'; 700_000], vec![b'b'; 700_000]);
        fixture.words(&[b"set", b"a", &large]);
        fixture.words(&[b"set", b"b", &value]);
        let reply = text(&fixture.apply(&exec(&[], &["get a", destroyer, "strlen b"])));
        assert!(
            reply.ends_with("-ERR reply too large\r\n:700000\r\n"),
            "{destroyer}: {}",
            &reply[reply.len().saturating_sub(100)..]
        );
        let alone = text(&fixture.apply(&exec(&[], &[destroyer])));
        assert!(alone.contains("$700000\r\nbbb"), "{destroyer}");
    }
}
