//! What a frame costs beyond the checksum of its bytes.
//!
//! Sealing and parsing have to read a body once: a raw CRC-32C of the same bytes, in the same run, is
//! the floor. `checksum` is our function around it, `encode` makes a header and seals it, `parse` is
//! the door. At the end each is measured again in turn with the floor (A B A B), and the medians of
//! the pairs' ratios are printed: absolute times drift between runs, ratios do not.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytemuck::Zeroable;
use criterion::{Criterion, Throughput};
use vsr_types::message::Prepare;
use vsr_types::{ClusterId, Frame, HEADER_SIZE, Header, Op, View, checksum, limits};

/// The last is a frame's largest body, 1 MiB with its header.
const SIZES: [usize; 4] = [128, 4096, 65_536, limits::BODY_SIZE_MAX];

const CLUSTER: ClusterId = ClusterId::new(0xC1);

/// Runs itself so many times.
type Loop = Box<dyn FnMut(u64)>;

fn encode(body: &[u8]) -> Header {
    let mut header = Header::new(Prepare {
        op: Op::new(3),
        ..Prepare::zeroed()
    });
    header.set_cluster(CLUSTER);
    header.set_view(View::new(1));
    header.seal(body);
    header
}

/// A sealed frame with a body of `size` bytes.
fn frame(size: usize) -> Vec<u8> {
    let body: Vec<u8> = (0..size).map(|i| (i * 31) as u8).collect();
    let mut frame = bytemuck::bytes_of(&encode(&body)).to_vec();
    frame.extend_from_slice(&body);
    frame
}

fn run(size: usize, mut each: impl FnMut(&[u8]) + 'static) -> Loop {
    let frame = frame(size);
    Box::new(move |count| {
        for _ in 0..count {
            each(black_box(&frame));
        }
    })
}

fn floor(size: usize) -> Loop {
    run(size, |frame| {
        black_box(crc32c::crc32c(&frame[HEADER_SIZE..]));
    })
}

fn ours(size: usize) -> [(&'static str, Loop); 3] {
    [
        (
            "checksum",
            run(size, |frame| {
                black_box(checksum(&frame[HEADER_SIZE..]));
            }),
        ),
        (
            "encode",
            run(size, |frame| {
                black_box(encode(&frame[HEADER_SIZE..]));
            }),
        ),
        (
            "parse",
            run(size, |frame| {
                black_box(Frame::parse(frame, CLUSTER).expect("sealed"));
            }),
        ),
    ]
}

fn time(run: &mut Loop, count: u64) -> Duration {
    let start = Instant::now();
    run(count);
    start.elapsed()
}

/// Median times in nanoseconds and the median of the pairs' ratios.
fn in_turn(ours: &mut Loop, floor: &mut Loop) -> (f64, f64, f64) {
    const ROUNDS: usize = 41;
    let mut count = 1;
    while time(floor, count) < Duration::from_millis(3) {
        count *= 2;
    }
    time(ours, count);
    let mut times = [vec![], vec![], vec![]];
    for _ in 0..ROUNDS {
        let it = time(ours, count).as_secs_f64() * 1e9 / count as f64;
        let least = time(floor, count).as_secs_f64() * 1e9 / count as f64;
        for (values, value) in times.iter_mut().zip([it, least, it / least]) {
            values.push(value);
        }
    }
    let [it, least, ratio] = times.map(|mut values| {
        values.sort_by(f64::total_cmp);
        values[ROUNDS / 2]
    });
    (it, least, ratio)
}

#[expect(clippy::print_stdout, reason = "the table is the result")]
fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for size in SIZES {
        let mut group = criterion.benchmark_group(format!("frame/{size}"));
        group.throughput(Throughput::Bytes(size as u64));
        for (name, mut run) in ours(size).into_iter().chain([("floor", floor(size))]) {
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|count| time(&mut run, count));
            });
        }
        group.finish();
    }
    criterion.final_summary();
    // `cargo bench` says so; `cargo test --benches` only wants to see that everything runs.
    if std::env::args().all(|argument| argument != "--bench") {
        return;
    }
    println!("\nin turn, medians           ours       floor      ours/floor");
    for size in SIZES {
        for (name, mut run) in ours(size) {
            let (it, least, ratio) = in_turn(&mut run, &mut floor(size));
            println!("{name:>8} {size:>9} B {it:>9.0} ns {least:>8.0} ns {ratio:>12.2}");
        }
    }
}
