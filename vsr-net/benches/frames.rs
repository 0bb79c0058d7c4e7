//! What framing costs on top of the socket: the same bytes through one loopback connection, as frames
//! (send ring, receive buffer, both checksums verified) and raw, in the same run. One thread does both
//! ends, so that nothing but the work is measured.

use std::hint::black_box;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use bytemuck::Zeroable;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vsr_net::{Egress, Flushed, Ingress};
use vsr_types::message::Query;
use vsr_types::{ClusterId, Frame, HEADER_SIZE, Header, limits};

/// How many bytes gather before they are written: what a busy turn sends.
const TURN: usize = 64 << 10;

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("listening");
    let (far, _) = listener.accept().expect("connected");
    for stream in [&near, &far] {
        stream.set_nonblocking(true).expect("non-blocking");
        stream.set_nodelay(true).expect("no delay");
    }
    (near, far)
}

/// One turn's bytes there, as they are.
fn raw(near: &mut TcpStream, far: &mut TcpStream, bytes: &[u8], into: &mut [u8]) {
    let (mut sent, mut received) = (0, 0);
    while received < bytes.len() {
        if sent < bytes.len() {
            match near.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        match far.read(into) {
            Ok(count) => received += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

/// The same as frames.
fn framed(
    (near, far): (&mut TcpStream, &mut TcpStream),
    (egress, ingress): (&mut Egress, &mut Ingress),
    (header, body): (&Header, &[u8]),
    count: usize,
) {
    for _ in 0..count {
        assert!(egress.push(header, body), "the ring holds a turn");
    }
    let mut received = 0;
    while received < count {
        let flushed = egress
            .flush(|slices| near.write_vectored(slices))
            .expect("open");
        assert!(flushed == Flushed::All || !egress.is_empty());
        match far.read(ingress.space()) {
            Ok(read) => ingress.filled(read),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        while let Some(bytes) = ingress.next_frame().expect("whole") {
            black_box(Frame::parse(bytes, ClusterId::ZERO).expect("good"));
            received += 1;
        }
    }
}

fn loopback(c: &mut Criterion) {
    let mut group = c.benchmark_group("loopback");
    for size in [256, 4 << 10, 64 << 10, 1 << 20] {
        let body = vec![7; size - HEADER_SIZE];
        let mut header = Header::new(Query::zeroed());
        header.seal(&body);
        let count = (TURN / size).max(1);
        let total = count * size;
        group.throughput(Throughput::Bytes(total as u64));

        let bytes = [bytemuck::bytes_of(&header), &body].concat().repeat(count);
        let mut into = vec![0; 256 << 10];
        let (mut near, mut far) = pair();
        group.bench_function(BenchmarkId::new("raw", size), |b| {
            b.iter(|| raw(&mut near, &mut far, &bytes, &mut into));
        });

        let (mut near, mut far) = pair();
        let mut egress = Egress::new(8 << 20);
        let mut ingress = Ingress::new(2 * limits::FRAME_SIZE_MAX, limits::FRAME_SIZE_MAX);
        group.bench_function(BenchmarkId::new("frames", size), |b| {
            b.iter(|| {
                let buffers = (&mut egress, &mut ingress);
                framed((&mut near, &mut far), buffers, (&header, &body), count);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, loopback);
criterion_main!(benches);
