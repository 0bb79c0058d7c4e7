//! Transactions, passwords, dialects and the table of bad requests.

use super::*;

#[test]
fn a_transaction_is_one_operation() {
    let world = World::new();
    let a = world.connect();
    let got = world.ask(
        a,
        "MULTI\r\nSET k 1\r\nINCR k\r\nGET none\r\nEXEC\r\nGET k\r\n",
    );
    assert_eq!(
        got,
        "+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n+OK\r\n:2\r\n$-1\r\n$1\r\n2\r\n"
    );
    assert_eq!(world.cluster.operations.borrow().len(), 1);
}

#[test]
fn commands_answered_here_keep_their_place_in_a_transaction() {
    let world = World::new();
    let a = world.connect();
    let got = world.ask(
        a,
        "MULTI\r\nPING\r\nSET k 1\r\nECHO x\r\nINCR k\r\nPING\r\nEXEC\r\nPING\r\n",
    );
    let queued = "+QUEUED\r\n".repeat(5);
    assert_eq!(
        got,
        format!("+OK\r\n{queued}*5\r\n+PONG\r\n+OK\r\n$1\r\nx\r\n:2\r\n+PONG\r\n+PONG\r\n")
    );
    assert_eq!(
        world.ask(a, "MULTI\r\nINCR k\r\nEXEC\r\n"),
        "+OK\r\n+QUEUED\r\n*1\r\n:3\r\n"
    );
}

#[test]
fn a_watched_key_that_changed_stops_the_transaction_in_both_dialects() {
    let world = World::new();
    for (hello, null) in [("HELLO 2\r\n", "*-1\r\n"), ("HELLO 3\r\n", "_\r\n")] {
        let a = world.connect();
        world.ask(a, hello);
        assert_eq!(
            world
                .ask(a, "WATCH k other\r\nGET k\r\n")
                .split("\r\n")
                .next(),
            Some("+OK")
        );
        world.cluster.set(b"k", b"7");
        assert_eq!(
            world.ask(a, "MULTI\r\nSET k 8\r\nEXEC\r\n"),
            format!("+OK\r\n+QUEUED\r\n{null}")
        );
        assert_eq!(
            world.ask(a, "MULTI\r\nINCR k\r\nEXEC\r\n"),
            "+OK\r\n+QUEUED\r\n*1\r\n:8\r\n"
        );
    }
}

#[test]
fn watch_multi_and_exec_work_in_one_pipeline() {
    let world = World::new();
    let a = world.connect();
    assert_eq!(
        world.ask(
            a,
            "SET k 1\r\nWATCH k\r\nMULTI\r\nINCR k\r\nEXEC\r\nWATCH k\r\nUNWATCH\r\nPING\r\n"
        ),
        "+OK\r\n+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n:2\r\n+OK\r\n+OK\r\n+PONG\r\n"
    );
}

#[test]
fn discard_and_unwatch_forget() {
    let world = World::new();
    let a = world.connect();
    assert_eq!(
        world.ask(a, "WATCH k\r\nMULTI\r\nSET k 1\r\nDISCARD\r\n"),
        "+OK\r\n+OK\r\n+QUEUED\r\n+OK\r\n"
    );
    world.cluster.set(b"k", b"5");
    assert_eq!(
        world.ask(a, "MULTI\r\nINCR k\r\nEXEC\r\n"),
        "+OK\r\n+QUEUED\r\n*1\r\n:6\r\n"
    );
    assert_eq!(world.ask(a, "WATCH k\r\nUNWATCH\r\n"), "+OK\r\n+OK\r\n");
    world.cluster.set(b"k", b"1");
    assert_eq!(
        world.ask(a, "MULTI\r\nINCR k\r\nEXEC\r\n"),
        "+OK\r\n+QUEUED\r\n*1\r\n:2\r\n"
    );
}

#[test]
fn an_error_while_queueing_discards_the_transaction() {
    let world = World::new();
    let a = world.connect();
    for bad in ["NOSUCH\r\n", "GET\r\n", "SAVE\r\n"] {
        let got = world.ask(a, format!("MULTI\r\nSET k 1\r\n{bad}EXEC\r\n"));
        assert!(
            got.ends_with("-EXECABORT Transaction discarded because of previous errors.\r\n"),
            "{got}"
        );
    }
    assert_eq!(world.cluster.writes(), 0);
    assert_eq!(world.ask(a, "EXEC\r\n"), "-ERR EXEC without MULTI\r\n");
    // These do not: as in Redis the transaction goes on.
    assert_eq!(
        world.ask(a, "MULTI\r\nMULTI\r\nWATCH k\r\nEXEC\r\nDISCARD\r\n"),
        "+OK\r\n-ERR MULTI calls can not be nested\r\n-ERR WATCH inside MULTI is not allowed\r\n*0\r\n-ERR DISCARD without MULTI\r\n"
    );
}

#[test]
fn a_watch_without_an_answer_lets_nothing_through() {
    let mut world = World::new();
    let a = world.connect();
    world.cluster.lose.set(100);
    world.send(a, "WATCH k\r\n");
    world.settle();
    world.pass(Duration::from_secs(6));
    assert!(world.got(a).starts_with("-CLUSTERDOWN "));
    world.cluster.lose.set(0);
    assert_eq!(
        world.ask(a, "MULTI\r\nSET k 1\r\nEXEC\r\n"),
        "+OK\r\n+QUEUED\r\n*-1\r\n"
    );
    assert_eq!(world.cluster.writes(), 0);
}

#[test]
fn the_password_comes_first() {
    let password = Some(b"secret".to_vec());
    let world = World::with(GatewayOptions {
        password,
        ..GatewayOptions::default()
    });
    let a = world.connect();
    let no = "-NOAUTH Authentication required.\r\n";
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
    assert_eq!(world.ask(a, "PING\r\n"), no);
    assert_eq!(world.ask(a, "GET k\r\n"), no);
    assert_eq!(world.ask(a, "AUTH wrong\r\n"), wrong);
    assert_eq!(world.ask(a, "AUTH secret2\r\n"), wrong);
    assert_eq!(world.ask(a, "AUTH other secret\r\n"), wrong);
    assert!(
        world
            .ask(a, "HELLO 3\r\n")
            .starts_with("-NOAUTH HELLO must be called with")
    );
    assert_eq!(world.ask(a, "HELLO 3 AUTH default wrong\r\n"), wrong);
    assert!(
        world
            .ask(a, "HELLO 3 AUTH default secret SETNAME me\r\n")
            .starts_with("%7\r\n")
    );
    assert_eq!(world.ask(a, "CLIENT GETNAME\r\n"), "$2\r\nme\r\n");
    assert_eq!(world.ask(a, "RESET\r\nPING\r\n"), format!("+RESET\r\n{no}"));
    assert_eq!(world.ask(a, "AUTH secret\r\nPING\r\n"), "+OK\r\n+PONG\r\n");
    assert_eq!(world.core(|core| core.counters.failed_logins), 4);
}

#[test]
fn hello_chooses_the_dialect() {
    let world = World::new();
    let a = world.connect();
    assert!(
        world
            .ask(a, "HELLO\r\n")
            .starts_with("*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n")
    );
    assert_eq!(
        world
            .ask(a, "HELLO 3\r\nGET k\r\n")
            .rsplit_once("*0\r\n")
            .map(|(_, end)| end.to_owned()),
        Some("_\r\n".to_owned())
    );
    assert!(world.ask(a, "HELLO 2\r\n").starts_with("*14\r\n"));
    assert_eq!(world.ask(a, "GET k\r\n"), "$-1\r\n");
    assert_eq!(
        world.ask(a, "HELLO 4\r\n"),
        "-NOPROTO unsupported protocol version\r\n"
    );
    assert_eq!(
        world.ask(a, "HELLO x\r\n"),
        "-ERR Protocol version is not an integer or out of range\r\n"
    );
    assert_eq!(
        world.ask(a, "HELLO 3 NAME\r\n"),
        "-ERR Syntax error in HELLO option 'NAME'\r\n"
    );
}

/// Every case: what is sent, what comes back, exactly.
const BAD_REQUESTS: [(&str, &str); 33] = [
    (
        "NOSUCH a b\r\n",
        "-ERR unknown command 'NOSUCH', with args beginning with: 'a' 'b' \r\n",
    ),
    (
        "\"\"\r\n",
        "-ERR unknown command '', with args beginning with: \r\n",
    ),
    (
        "*2\r\n$3\r\na\r\n\r\n$1\r\n\n\r\n",
        "-ERR unknown command 'a  ', with args beginning with: ' ' \r\n",
    ),
    (
        "GET\r\n",
        "-ERR wrong number of arguments for 'get' command\r\n",
    ),
    (
        "GET a b\r\n",
        "-ERR wrong number of arguments for 'get' command\r\n",
    ),
    (
        "SET a\r\n",
        "-ERR wrong number of arguments for 'set' command\r\n",
    ),
    (
        "PING a b\r\n",
        "-ERR wrong number of arguments for 'ping' command\r\n",
    ),
    (
        "ECHO\r\n",
        "-ERR wrong number of arguments for 'echo' command\r\n",
    ),
    ("SELECT 1\r\n", "-ERR DB index is out of range\r\n"),
    ("SELECT x\r\n", "-ERR invalid DB index\r\n"),
    ("EXEC\r\n", "-ERR EXEC without MULTI\r\n"),
    ("DISCARD\r\n", "-ERR DISCARD without MULTI\r\n"),
    (
        "WATCH\r\n",
        "-ERR wrong number of arguments for 'watch' command\r\n",
    ),
    (
        "AUTH x\r\n",
        "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?\r\n",
    ),
    ("AUTH a b c\r\n", "-ERR syntax error\r\n"),
    (
        "AUTH nobody x\r\n",
        "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
    ),
    (
        "CLIENT NOSUCH\r\n",
        "-ERR unknown subcommand 'NOSUCH'. Try CLIENT HELP.\r\n",
    ),
    (
        "CLIENT SETNAME\r\n",
        "-ERR wrong number of arguments for 'client|setname' command\r\n",
    ),
    (
        "CLIENT SETNAME \"a b\"\r\n",
        "-ERR Client names cannot contain spaces, newlines or special characters.\r\n",
    ),
    (
        "CLIENT SETINFO NOSUCH 1\r\n",
        "-ERR Unrecognized option 'NOSUCH'\r\n",
    ),
    ("CLIENT REPLY MAYBE\r\n", "-ERR syntax error\r\n"),
    ("CLIENT NO-EVICT maybe\r\n", "-ERR syntax error\r\n"),
    (
        "CONFIG GET\r\n",
        "-ERR wrong number of arguments for 'config|get' command\r\n",
    ),
    (
        "CONFIG SET nosuch 1\r\n",
        "-ERR Unknown option or number of arguments for CONFIG SET - 'nosuch'\r\n",
    ),
    (
        "CONFIG SET save x\r\n",
        "-ERR CONFIG SET failed (possibly related to argument 'save') - can't set immutable config\r\n",
    ),
    (
        "CONFIG REWRITE\r\n",
        "-ERR unknown subcommand 'REWRITE'. Try CONFIG HELP.\r\n",
    ),
    (
        "COMMAND NOSUCH\r\n",
        "-ERR unknown subcommand 'NOSUCH'. Try COMMAND HELP.\r\n",
    ),
    (
        "CLUSTER NOSUCH\r\n",
        "-ERR unknown subcommand 'NOSUCH'. Try CLUSTER HELP.\r\n",
    ),
    (
        "WAIT x 1\r\n",
        "-ERR value is not an integer or out of range\r\n",
    ),
    ("WAIT 1 -1\r\n", "-ERR timeout is negative\r\n"),
    (
        "SAVE\r\n",
        "-ERR SAVE is not available: the cluster keeps its state in memory on all replicas; use 'vsr-cli export'\r\n",
    ),
    (
        "SWAPDB 0 1\r\n",
        "-ERR SWAPDB is not available: there is one database, 0; use RENAME\r\n",
    ),
    ("\r\n*0\r\nPING\r\n", "+PONG\r\n"),
];

#[test]
fn bad_requests_are_answered_in_the_words_of_redis() {
    let world = World::new();
    let a = world.connect();
    for (request, answer) in BAD_REQUESTS {
        assert_eq!(world.ask(a, request), answer, "{request:?}");
    }
    assert_eq!(
        world.cluster.submitted.get(),
        0,
        "none of them cost the cluster anything"
    );
    for cut_off in ["POST / HTTP/1.1\r\n", "Host: x\r\n"] {
        let a = world.connect();
        assert_eq!(world.ask(a, cut_off), "");
        assert!(world.is_closed(a));
    }
}

#[test]
fn requests_cut_at_any_byte_give_the_same_replies() {
    let script = "SET k 1\r\n*2\r\n$4\r\nINCR\r\n$1\r\nk\r\nPING\r\nGET k\r\nMULTI\r\nINCR k\r\nEXEC\r\nECHO \"a b\"\r\n";
    let expected = "+OK\r\n:2\r\n+PONG\r\n$1\r\n2\r\n+OK\r\n+QUEUED\r\n*1\r\n:3\r\n$3\r\na b\r\n";
    for cut in 0..script.len() {
        let world = World::new();
        let a = world.connect();
        world.send(a, &script[..cut]);
        world.settle();
        world.send(a, &script[cut..]);
        world.settle();
        assert_eq!(world.got(a), expected, "cut at {cut}");
    }
}

#[test]
fn what_clients_ask_on_connecting_is_answered() {
    let world = World::new();
    let a = world.connect();
    world.cluster.set(b"k", b"v");
    assert_eq!(
        world.ask(
            a,
            "CLIENT SETINFO LIB-NAME x\r\nCLIENT SETINFO lib-ver 1\r\nCLIENT ID\r\n"
        ),
        "+OK\r\n+OK\r\n:1\r\n"
    );
    assert!(
        world
            .ask(a, "CLIENT LIST\r\n")
            .contains("lib-name=x lib-ver=1")
    );
    let info = world.ask(a, "INFO\r\n");
    for field in [
        "# Server\r\nredis_version:7.4.0\r\n",
        "loading:0\r\n",
        "role:master\r\n",
        "tcp_port:6379\r\n",
        "db0:keys=1,",
        "cluster_enabled:0\r\n",
    ] {
        assert!(info.contains(field), "{field} in {info}");
    }
    assert!(!world.ask(a, "INFO replication\r\n").contains("loading"));
}

#[test]
fn what_people_ask_when_they_look_around_is_answered() {
    let world = World::new();
    let a = world.connect();
    assert_eq!(
        world.ask(a, "CONFIG GET sav?\r\n"),
        "*2\r\n$4\r\nsave\r\n$0\r\n\r\n"
    );
    assert!(
        world
            .ask(a, "CONFIG GET max* timeout\r\n")
            .starts_with("*6\r\n")
    );
    assert!(
        world
            .ask(a, "COMMAND INFO get nosuch\r\n")
            .starts_with("*2\r\n*10\r\n$3\r\nget\r\n:2\r\n")
    );
    assert!(
        world
            .ask(a, "COMMAND DOCS get\r\n")
            .starts_with("*2\r\n$3\r\nget\r\n*8\r\n")
    );
    let count = crate::kv::commands().len();
    assert_eq!(world.ask(a, "COMMAND COUNT\r\n"), format!(":{count}\r\n"));
    assert!(
        world
            .ask(a, "COMMAND\r\n")
            .starts_with(&format!("*{count}\r\n"))
    );
    assert!(
        world
            .ask(a, "CLUSTER SLOTS\r\n")
            .contains("$8\r\n10.0.0.2\r\n:6379\r\n")
    );
    assert!(
        world
            .ask(a, "CLUSTER SHARDS\r\n")
            .starts_with("*1\r\n*4\r\n")
    );
    assert!(
        world
            .ask(a, "CLUSTER INFO\r\n")
            .contains("cluster_state:ok\r\n")
    );
    assert!(
        world
            .ask(a, "CLUSTER NODES\r\n")
            .contains(" myself,master - 0 0 ")
    );
    assert_eq!(world.ask(a, "WAIT 1 100\r\n"), ":2\r\n");
    assert!(
        world
            .ask(a, "ROLE\r\n")
            .starts_with("*3\r\n$6\r\nmaster\r\n")
    );
    assert!(world.ask(a, "TIME\r\n").starts_with("*2\r\n$10\r\n"));
    let before = world.core(|core| core.counters.received_commands);
    assert!(before > 10);
    assert_eq!(world.ask(a, "CONFIG RESETSTAT\r\n"), "+OK\r\n");
    assert_eq!(world.core(|core| core.counters.received_commands), 1);
    assert_eq!(world.core(|core| core.counters.connected_clients), 1);
}

#[test]
fn random_bytes_never_break_the_gateway() {
    let mut state = 1_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let pieces: [&[u8]; 16] = [
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\n5\r\n",
        b"GET k\r\n",
        b"MULTI\r\n",
        b"EXEC\r\n",
        b"WATCH k\r\n",
        b"PING\r\n",
        b"DISCARD\r\n",
        b"*2\r\n",
        b"$",
        b"\r\n",
        b"HELLO 3\r\n",
        b"CLIENT REPLY SKIP\r\n",
        b"UNWATCH\r\n",
        b"INCR n\r\n",
        b"RESET\r\n",
        b"READONLY\r\n",
    ];
    for _ in 0..300 {
        let world = World::with(GatewayOptions {
            lanes: 2,
            pack_size: 256,
            ..GatewayOptions::default()
        });
        world.cluster.entries_max.set(1 + next() as usize % 5);
        let slots = [world.connect(), world.connect(), world.connect()];
        for _ in 0..100 {
            let slot = slots[next() as usize % 3];
            if world.core(|core| core.interest(slot).read) {
                world.send(slot, pieces[next() as usize % pieces.len()]);
            }
            if next() % 8 == 0 {
                world.settle();
            }
        }
        world.settle();
        for slot in slots {
            let outstanding = world.core(|core| core.table.at(slot).outstanding());
            assert_eq!(outstanding, 0, "every command is answered");
        }
    }
}
