//! The admin port against real sockets and a made-up replica.

use super::*;

use std::cell::RefCell;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;

struct Fake {
    ready: RefCell<Result<(), String>>,
    live: RefCell<Result<String, String>>,
}

impl Source for Fake {
    #[cfg(feature = "flip")]
    fn flip(&self, path: &str) -> Result<String, String> {
        Err(path.to_owned())
    }

    fn status(&self) -> String {
        "{\"op\":7}".into()
    }

    fn metrics(&self) -> String {
        let mut samples = metrics::Samples::default();
        samples.gauge("op", "The last op", Vec::new(), 7);
        samples.text()
    }

    fn live(&self) -> Result<String, String> {
        self.live.borrow().clone()
    }

    fn ready(&self) -> Result<(), String> {
        self.ready.borrow().clone()
    }
}

fn short() -> Bounds {
    Bounds {
        connections: 3,
        head_timeout: Duration::from_millis(50),
        connection_timeout: Duration::from_secs(2),
        ..Bounds::default()
    }
}

/// Runs `test` against a served port.
fn with_port<F: Future<Output = ()>>(bounds: Bounds, test: impl FnOnce(SocketAddr, Rc<Fake>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fake = Rc::new(Fake {
            ready: RefCell::new(Ok(())),
            live: RefCell::new(Ok("5 turns".into())),
        });
        let source: Rc<dyn Source> = Rc::clone(&fake) as Rc<dyn Source>;
        let server = tokio::task::spawn_local(serve(listener, source, bounds, Rc::default()));
        tokio::time::timeout(Duration::from_secs(20), test(address, fake))
            .await
            .expect("in time");
        server.abort();
    });
}

/// Sends `bytes` and returns everything that comes back until the port closes the connection.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The port may close before it has read everything: then writing fails, and reading still tells.
    let _ignored = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ignored = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn get(address: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    exchange(address, request.as_bytes()).await
}

#[test]
fn every_page_is_served() {
    with_port(Bounds::default(), |address, _| async move {
        let cases = [
            ("/", "200 OK", "/readyz"),
            ("/livez", "200 OK", "5 turns"),
            ("/readyz", "200 OK", "ready"),
            ("/metrics", "200 OK", "# EOF"),
            ("/metrics", "application/openmetrics-text", "vsr_op 7"),
            ("/status", "application/json", "{\"op\":7}"),
            ("/status?pretty", "200 OK", "{\"op\":7}"),
            ("/nowhere", "404 Not Found", "no such page"),
        ];
        for (path, head, body) in cases {
            let answer = get(address, path).await;
            assert!(answer.contains(head), "{path}: {answer}");
            assert!(answer.contains(body), "{path}: {answer}");
        }
    });
}

#[test]
fn a_replica_that_is_not_ready_says_why() {
    with_port(Bounds::default(), |address, fake| async move {
        *fake.ready.borrow_mut() = Err("blank: waits for init".into());
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with("blank: waits for init\n"), "{answer}");
        assert!(
            get(address, "/livez").await.contains("200 OK"),
            "live all the same"
        );
        *fake.live.borrow_mut() = Err("no turn for 10 s".into());
        assert!(get(address, "/livez").await.contains("503 "));
    });
}

#[test]
fn one_connection_serves_many_requests_and_head_has_no_body() {
    with_port(Bounds::default(), |address, _| async move {
        let two = "HEAD /status HTTP/1.1\r\nhost: x\r\n\r\n\
                   GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let answer = exchange(address, two.as_bytes()).await;
        assert_eq!(answer.matches("200 OK").count(), 2, "{answer}");
        assert!(!answer.contains("{\"op\":7}"), "{answer}");
    });
}

#[test]
fn bad_requests_are_refused_and_the_port_goes_on() {
    let many: String = (0..40).map(|i| format!("h{i}: x\r\n")).collect();
    let long = "x".repeat(20_000);
    let cases = [
        (
            "POST /status HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                .into(),
            "405 ",
        ),
        (format!("GET / HTTP/1.1\r\n{many}\r\n"), "431 "),
        (format!("GET / HTTP/1.1\r\nlong: {long}\r\n\r\n"), "431 "),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), "431 "),
        ("*3\r\n$3\r\nSET\r\n\r\n".into(), "400 "),
        ("GET / HTTP/9.9\r\n\r\n".into(), "400 "),
    ];
    with_port(Bounds::default(), |address, _| async move {
        for (request, expected) in cases {
            let answer = exchange(address, request.as_bytes()).await;
            let start = &request[..request.len().min(40)];
            assert!(
                answer.contains(expected),
                "{start:?} is answered with {answer:?}"
            );
        }
        assert!(get(address, "/livez").await.contains("200 OK"));
    });
}

#[test]
fn a_head_that_never_ends_is_cut_off() {
    with_port(short(), |address, _| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nslow").await.unwrap();
        let mut answer = Vec::new();
        let _ignored = stream.read_to_end(&mut answer).await; // ends only because the port closes
        assert!(
            !String::from_utf8_lossy(&answer).contains("200"),
            "never answered as if complete"
        );
    });
}

#[test]
fn one_connection_too_many_is_closed_at_once_and_a_freed_one_is_taken() {
    let bounds = Bounds {
        head_timeout: Duration::from_secs(10),
        ..short()
    };
    with_port(bounds, |address, _| async move {
        let mut held = Vec::new();
        for _ in 0..bounds.connections {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // A whole answer proves that the connection was accepted and is being kept.
            stream
                .write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
                .await
                .unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200");
            held.push(stream);
        }
        assert_eq!(get(address, "/livez").await, "", "closed without a word");
        held.pop();
        while !get(address, "/livez").await.contains("200 OK") {
            tokio::task::yield_now().await;
        }
    });
}
