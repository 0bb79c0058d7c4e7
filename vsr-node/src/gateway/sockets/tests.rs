//! The gateway behind real sockets.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{LocalSet, yield_now};

use super::super::fake::FakeCluster;
use super::*;

/// Runs `test` with a gateway that listens; the cluster answers whenever it is asked.
fn with_gateway<F: Future<Output = ()>>(
    options: GatewayOptions,
    test: impl FnOnce(std::net::SocketAddr, Gateway, Rc<FakeCluster>) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(LocalSet::new().run_until(async {
        let cluster = FakeCluster::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gateway = Gateway::new(Rc::clone(&cluster) as Rc<dyn Cluster>, options);
        let serving = gateway.clone();
        let served = spawn_local(async move { serving.run(listener).await });
        let pumped = Rc::clone(&cluster);
        let pump = spawn_local(async move {
            loop {
                pumped.pump();
                yield_now().await;
            }
        });
        let limit = Duration::from_secs(30);
        tokio::time::timeout(limit, test(address, gateway.clone(), cluster))
            .await
            .unwrap();
        gateway.stop();
        tokio::time::timeout(limit, served).await.unwrap().unwrap();
        assert!(gateway.is_idle());
        pump.abort();
    }));
}

async fn read_exactly(stream: &mut TcpStream, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), expected);
}

#[test]
fn pipelines_of_many_clients_are_answered_over_tcp() {
    with_gateway(
        GatewayOptions::default(),
        |address, gateway, _| async move {
            let mut clients = Vec::new();
            for _ in 0..20 {
                clients.push(spawn_local(async move {
                    let mut stream = TcpStream::connect(address).await.unwrap();
                    for _ in 0..20 {
                        stream
                            .write_all("SET k v\r\nGET k\r\nPING\r\n".repeat(30).as_bytes())
                            .await
                            .unwrap();
                        read_exactly(&mut stream, &"+OK\r\n$1\r\nv\r\n+PONG\r\n".repeat(30)).await;
                    }
                }));
            }
            for client in clients {
                client.await.unwrap();
            }
            let counters = gateway.counters();
            assert_eq!(counters.received_commands, 20 * 20 * 90);
            assert_eq!(counters.connections, 20);
            assert_eq!(counters.output_bytes, 20 * 20 * 30 * (5 + 7 + 7));
        },
    );
}

#[test]
fn a_large_value_goes_in_and_out_even_when_the_reader_is_slow() {
    with_gateway(GatewayOptions::default(), |address, _, _| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let value = "x".repeat(300_000);
        let set = format!(
            "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n{value}\r\n",
            value.len()
        );
        stream.write_all(set.as_bytes()).await.unwrap();
        read_exactly(&mut stream, "+OK\r\n").await;
        // 12 MB of replies, of which nothing is read before all is asked for.
        stream
            .write_all("GET k\r\n".repeat(40).as_bytes())
            .await
            .unwrap();
        for _ in 0..40 {
            read_exactly(&mut stream, &format!("$300000\r\n{value}\r\n")).await;
        }
    });
}

#[test]
fn a_connection_too_many_is_told_so() {
    let options = GatewayOptions {
        clients_max: 1,
        ..GatewayOptions::default()
    };
    with_gateway(options, |address, _, _| async move {
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(b"PING\r\n").await.unwrap();
        read_exactly(&mut first, "+PONG\r\n").await;
        let mut second = TcpStream::connect(address).await.unwrap();
        let mut said = String::new();
        second.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "-ERR max number of clients reached\r\n");
    });
}

#[test]
fn closing_ends_of_connections_leave_nothing_behind() {
    with_gateway(
        GatewayOptions::default(),
        |address, gateway, cluster| async move {
            // Garbage is answered, then the server closes.
            let mut garbage = TcpStream::connect(address).await.unwrap();
            garbage.write_all(b"*1\r\nGET\r\n").await.unwrap();
            let mut said = String::new();
            garbage.read_to_string(&mut said).await.unwrap();
            assert_eq!(said, "-ERR Protocol error: expected '$', got 'G'\r\n");
            // The client says that it is done, and still gets its answers.
            let mut polite = TcpStream::connect(address).await.unwrap();
            polite.write_all(b"SET k v\r\nGET k\r\n").await.unwrap();
            polite.shutdown().await.unwrap();
            let mut said = String::new();
            polite.read_to_string(&mut said).await.unwrap();
            assert_eq!(said, "+OK\r\n$1\r\nv\r\n");
            // The client vanishes with a command in flight.
            cluster.lose_answers.set(1);
            let mut rude = TcpStream::connect(address).await.unwrap();
            rude.write_all(b"SET k w\r\n").await.unwrap();
            while cluster.writes() < 2 {
                yield_now().await;
            }
            drop(rude);
            while !gateway.is_idle() {
                yield_now().await;
            }
        },
    );
}
