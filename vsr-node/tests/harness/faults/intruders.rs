//! Strangers at the ports: slow ones, mad ones, many at once. And a process that wants all the CPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use vsr_net::Random;
use vsr_node::local::Member;

/// A native connection that has not said hello is closed after two seconds; twice that is certainly
/// late.
const HELLO: Duration = Duration::from_secs(4);

/// Whoever never finishes its first frame is shown the door; a Redis client that types slowly is not.
pub(crate) async fn slowloris(target: &Member) -> bool {
    let (native, resp) = tokio::join!(native_slowloris(target), resp_slowloris(target));
    native && resp
}

async fn native_slowloris(target: &Member) -> bool {
    let Ok(mut stream) = TcpStream::connect(&target.native).await else {
        return false;
    };
    let dribble = async {
        let mut sink = [0; 256];
        loop {
            tokio::select! {
                read = stream.read(&mut sink) => if !matches!(read, Ok(count) if count > 0) { return },
                () = sleep(Duration::from_millis(100)) => if stream.write_all(&[7]).await.is_err() { return },
            }
        }
    };
    timeout(HELLO, dribble).await.is_ok()
}

async fn resp_slowloris(target: &Member) -> bool {
    let Ok(mut stream) = TcpStream::connect(&target.resp).await else {
        return false;
    };
    let exchange = async {
        for byte in b"*1\r\n$4\r\nPING\r\n" {
            stream.write_all(&[*byte]).await?;
            sleep(Duration::from_millis(20)).await;
        }
        let mut reply = [0; 7];
        stream.read_exact(&mut reply).await?;
        std::io::Result::Ok(reply)
    };
    matches!(timeout(HELLO, exchange).await, Ok(Ok(reply)) if reply == *b"+PONG\r\n")
}

/// Random bytes at both ports: the native one ends the conversation, the other answers with an error.
pub(crate) async fn garbage(target: &Member, seed: u64) -> bool {
    let mut random = Random::new(seed);
    let size = 130 + random.below(4000);
    let mut bytes: Vec<u8> = (0..size).map(|_| random.below(256) as u8).collect();
    let native = answer(&target.native, &bytes, false).await;
    bytes.extend_from_slice(b"\r\n");
    let resp = answer(&target.resp, &bytes, true).await;
    native && resp
}

/// Whether the conversation ends; for Redis clients an error will do.
async fn answer(address: &str, bytes: &[u8], error_will_do: bool) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else {
        return false;
    };
    let exchange = async {
        // May fail when the other side has heard enough.
        drop(stream.write_all(bytes).await);
        let mut sink = [0; 4096];
        loop {
            match stream.read(&mut sink).await {
                Ok(0) | Err(_) => return,
                Ok(count) if error_will_do && sink[..count].starts_with(b"-") => return,
                Ok(_) => {}
            }
        }
    };
    timeout(HELLO, exchange).await.is_ok()
}

/// More connections at once than may be half-open, most of which say nothing.
pub(crate) async fn flood(target: &Member, seed: u64) -> bool {
    let mut held = Vec::new();
    for index in 0..100 + seed % 60 {
        let address = if index % 4 == 0 {
            &target.resp
        } else {
            &target.native
        };
        match TcpStream::connect(address).await {
            Ok(stream) => held.push(stream),
            Err(_) => break,
        }
    }
    sleep(Duration::from_millis(seed % 200)).await;
    held.len() >= 100
}

/// Threads that do nothing but count.
pub(crate) async fn hog(during: Duration) -> bool {
    let counted = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let counted = Arc::clone(&counted);
            std::thread::spawn(move || {
                let began = std::time::Instant::now();
                while began.elapsed() < during {
                    for _ in 0..10_000 {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    while threads.iter().any(|thread| !thread.is_finished()) {
        sleep(Duration::from_millis(10)).await;
    }
    counted.load(Ordering::Relaxed) > 0
}
