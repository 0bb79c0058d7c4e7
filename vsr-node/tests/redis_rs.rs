//! redis-rs against three real processes: the same suite as `tests/clients`, on the primary and on
//! both backups, over RESP2 and RESP3.

use std::path::PathBuf;
use std::time::Duration;

use redis::{Client, Commands, Connection, ErrorKind, ServerErrorKind, Value, cmd, pipe};
use tokio::time::timeout;
use vsr_node::local::{self, LocalCluster};

const SETTINGS: [(&str, &str); 3] = [
    ("memory", "64MiB"),
    ("journal-size", "16MiB"),
    ("log-level", "warn"),
];

/// Runs `suite` on a thread of its own, with the RESP addresses of a fresh cluster.
fn with_cluster(suite: impl FnOnce(Vec<String>) + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("answers");
    let test = async {
        let program: PathBuf = env!("CARGO_BIN_EXE_vsr-node").into();
        let members = local::free_members(3).expect("free ports");
        let mut cluster =
            LocalCluster::spawn(&program, "redis-rs", members, &SETTINGS).expect("started");
        cluster
            .form()
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let addresses = cluster
            .members()
            .iter()
            .map(|member| member.resp.clone())
            .collect();
        tokio::task::spawn_blocking(move || suite(addresses))
            .await
            .expect("the suite passes");
        for status in cluster.stop().await {
            assert!(status.expect("the child ended").success());
        }
    };
    runtime.block_on(async {
        timeout(Duration::from_secs(120), test)
            .await
            .expect("in time")
    });
}

fn connect(address: &str, protocol: &str) -> Connection {
    let url = format!("redis://{address}/?protocol={protocol}");
    let connection = Client::open(url).expect("an address").get_connection();
    let connection = connection.unwrap_or_else(|error| panic!("{address} {protocol}: {error}"));
    connection
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a time-out");
    connection
}

#[test]
fn the_suite_passes_on_every_replica_in_both_dialects() {
    with_cluster(|addresses| {
        for address in &addresses {
            for protocol in ["resp2", "resp3"] {
                let mut connection = connect(address, protocol);
                strings(&mut connection);
                errors(&mut connection);
                transactions(&mut connection, &mut connect(&addresses[0], protocol));
                expiry(&mut connection);
                let keys: u64 = cmd("DBSIZE").query(&mut connection).expect("answers");
                assert_eq!(keys, 0, "the suite leaves nothing behind at {address}");
            }
        }
    });
}

fn strings(connection: &mut Connection) {
    let _: () = connection.set("a", 1).expect("answers");
    assert_eq!(
        connection.get::<_, Option<i64>>("a").expect("answers"),
        Some(1)
    );
    assert_eq!(
        connection.get::<_, Option<i64>>("none").expect("answers"),
        None
    );
    assert!(!connection.set_nx::<_, _, bool>("a", 5).expect("answers"));
    assert_eq!(connection.incr::<_, _, i64>("a", 1).expect("answers"), 2);
    assert_eq!(connection.incr::<_, _, i64>("a", 10).expect("answers"), 12);
    let _: () = connection
        .mset(&[("a", "x"), ("b", "\0\r\n")])
        .expect("answers");
    let values: Vec<Option<String>> = connection.mget(&["a", "b", "none"]).expect("answers");
    assert_eq!(
        values,
        [Some("x".to_owned()), Some("\0\r\n".to_owned()), None]
    );
    let large = "v".repeat(300_000);
    let _: () = connection.set("a", &large).expect("answers");
    assert!(connection.get::<_, String>("a").expect("answers") == large);
    assert_eq!(
        connection
            .del::<_, u64>(&["a", "b", "none"])
            .expect("answers"),
        2
    );
}

fn errors(connection: &mut Connection) {
    let _: () = connection.set("text", "text").expect("answers");
    let error = connection
        .incr::<_, _, i64>("text", 1)
        .expect_err("text is no number");
    assert_eq!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ResponseError)
    );
    assert_eq!(
        error.detail(),
        Some("value is not an integer or out of range")
    );
    let error = cmd("NOSUCH")
        .query::<Value>(connection)
        .expect_err("there is no such command");
    assert!(
        error.to_string().contains("unknown command 'NOSUCH'"),
        "{error}"
    );
    assert_eq!(
        connection.del::<_, u64>("text").expect("answers"),
        1,
        "the connection goes on"
    );
}

fn transactions(connection: &mut Connection, other: &mut Connection) {
    let done: (String, i64, i64) = pipe()
        .atomic()
        .set("n", 1)
        .incr("n", 1)
        .get("n")
        .query(connection)
        .expect("answers");
    assert_eq!(done, ("OK".to_owned(), 2, 2));
    let mut many = pipe();
    for _ in 0..300 {
        many.incr("n", 1);
    }
    let counts: Vec<i64> = many.query(connection).expect("answers");
    assert_eq!(counts, (3..303).collect::<Vec<i64>>());

    // Disturbed once from outside, so the transaction runs twice.
    let mut attempts = 0;
    let (after,): (i64,) = redis::transaction(connection, &["n"], |connection, pipe| {
        attempts += 1;
        let value: i64 = connection.get("n")?;
        if attempts == 1 {
            let _: () = other.set("n", 1000)?;
        }
        pipe.set("n", value + 1).ignore().get("n").query(connection)
    })
    .expect("answers");
    assert_eq!((attempts, after), (2, 1001));
    assert_eq!(connection.del::<_, u64>("n").expect("answers"), 1);
}

fn expiry(connection: &mut Connection) {
    let _: () = connection.set_ex("t", "v", 100).expect("answers");
    assert!((98..=100).contains(&connection.ttl::<_, i64>("t").expect("answers")));
    assert!(connection.persist::<_, bool>("t").expect("answers"));
    assert_eq!(connection.ttl::<_, i64>("t").expect("answers"), -1);
    assert!(connection.expire::<_, bool>("t", 50).expect("answers"));
    assert!((48_000..=50_000).contains(&connection.pttl::<_, i64>("t").expect("answers")));
    assert!(connection.pexpire::<_, bool>("t", -1).expect("answers"));
    assert_eq!(
        connection.get::<_, Option<String>>("t").expect("answers"),
        None
    );
}
