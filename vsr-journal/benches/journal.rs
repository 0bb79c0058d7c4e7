//! What the journal costs beyond what its bytes cost.
//!
//! Appending has to copy a body once, reading has to checksum it once: those are the floors, taken in
//! the same run on memory of the same size. `append` and `read` go round a ring that stays in the
//! second-level cache, `wrap` and `scan` round one that is larger than it. At the end each pair is
//! measured again in turn (A B A B), and the medians of the pairs' ratios are printed: absolute times
//! drift between runs, ratios do not. `both` is what an entry costs that is appended and read once.
//! Time is that of this thread on its processor, so that what else runs on the machine counts less.
//!
//! `cargo bench -p vsr-journal` prints the table at the end, `-- nothing` it alone.

use std::hint::black_box;
use std::time::Duration;

use cpu_time::ThreadTime;
use criterion::{Criterion, Throughput};
use vsr_journal::{Journal, LINE_SIZE};
use vsr_types::{HEADER_SIZE, Header, Op, limits, message::Prepare};

/// The last is a frame's largest body, 1 MiB with its header.
const SIZES: [usize; 4] = [128, 4096, 65_536, limits::BODY_SIZE_MAX];
/// Half of a second-level cache of 2 MiB.
const SMALL: usize = 1 << 20;
const LARGE: usize = 64 << 20;

/// Runs itself so many times.
type Loop = Box<dyn FnMut(u64)>;

/// The floor's memory is aligned as the journal's: copies that are not run at another speed.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; LINE_SIZE]);

struct Pair {
    name: &'static str,
    size: usize,
    ring: usize,
    journal: Loop,
    floor: Loop,
}

fn pairs() -> impl Iterator<Item = Pair> {
    SIZES.into_iter().flat_map(|size| {
        let small = SMALL.max(2 * size.next_multiple_of(LINE_SIZE));
        let make: [fn(&'static str, usize, usize) -> Pair; 4] = [append, read, append, read];
        let names = ["append", "read", "wrap", "scan"];
        let rings = [small, small, LARGE, LARGE];
        (0..4).map(move |i| make[i](names[i], size, rings[i]))
    })
}

fn body_of(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31) as u8).collect()
}

fn prepare(op: u64, body: &[u8]) -> Header {
    let mut header = Header::new(Prepare {
        op: Op::new(op),
        ..bytemuck::Zeroable::zeroed()
    });
    header.seal(body);
    header
}

fn slots(size: usize, ring: usize) -> usize {
    ring / size.next_multiple_of(LINE_SIZE)
}

fn append(name: &'static str, size: usize, ring: usize) -> Pair {
    let body = body_of(size);
    let template = prepare(1, &body);
    let mut journal = Journal::new(slots(size, ring), ring);
    let mut lines = vec![Line([1; LINE_SIZE]); ring / LINE_SIZE];
    let (source, mut header, mut offset) = (body.clone(), template, 0);
    Pair {
        name,
        size,
        ring,
        journal: Box::new(move |count| {
            let mut header = template;
            for _ in 0..count {
                let op = journal.head().next();
                renumber(&mut header, op);
                journal.append(black_box(&header), black_box(&body), op);
            }
        }),
        floor: Box::new(move |count| {
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut lines);
            for op in 0..count {
                renumber(&mut header, Op::new(op));
                black_box(&header);
                if offset + size > ring {
                    offset = 0;
                }
                black_box(&mut bytes[offset..offset + size]).copy_from_slice(black_box(&source));
                offset += size.next_multiple_of(LINE_SIZE);
            }
            black_box(bytes);
        }),
    }
}

/// Appending does not look at the header's checksum (the frame's door has), so its making can stay
/// out of the measurement.
fn renumber(header: &mut Header, op: Op) {
    const OP: usize = 80;
    const { assert!(OP + 40 + 8 == HEADER_SIZE) };
    bytemuck::bytes_of_mut(header)[OP..OP + 8].copy_from_slice(&op.raw().to_le_bytes());
}

fn read(name: &'static str, size: usize, ring: usize) -> Pair {
    let body = body_of(size);
    let entries = slots(size, ring) as u64;
    let mut journal = Journal::new(entries as usize, ring);
    for op in 1..=entries {
        journal.append(&prepare(op, &body), &body, Op::new(op));
    }
    assert!(journal.tail() == Op::new(1), "everything fits");
    let place = size.next_multiple_of(LINE_SIZE);
    let lines = vec![Line([1; LINE_SIZE]); ring / LINE_SIZE];
    let (mut op, mut entry) = (0, 0);
    Pair {
        name,
        size,
        ring,
        journal: Box::new(move |count| {
            for _ in 0..count {
                op = op % entries + 1;
                let read = journal.read(black_box(Op::new(op)));
                black_box(read.expect("held"));
            }
        }),
        floor: Box::new(move |count| {
            let bytes: &[u8] = bytemuck::cast_slice(&lines);
            for _ in 0..count {
                entry = (entry + 1) % entries as usize;
                let start = entry * place;
                black_box(crc32c::crc32c(black_box(&bytes[start..start + size])));
            }
        }),
    }
}

fn time(run: &mut Loop, count: u64) -> Duration {
    let start = ThreadTime::now();
    run(count);
    start.elapsed()
}

/// Median times in nanoseconds and the median of the pairs' ratios.
fn in_turn(pair: &mut Pair) -> (f64, f64, f64) {
    const ROUNDS: usize = 41;
    let mut count = 1;
    while time(&mut pair.floor, count) < Duration::from_millis(3) {
        count *= 2;
    }
    time(&mut pair.journal, count);
    let (mut journal, mut floor, mut ratio) = (vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let ours = time(&mut pair.journal, count).as_secs_f64() * 1e9 / count as f64;
        let least = time(&mut pair.floor, count).as_secs_f64() * 1e9 / count as f64;
        journal.push(ours);
        floor.push(least);
        ratio.push(ours / least);
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[ROUNDS / 2]
    };
    (median(&mut journal), median(&mut floor), median(&mut ratio))
}

#[expect(clippy::print_stdout, reason = "the table is the result")]
fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for mut pair in pairs() {
        let mut group = criterion.benchmark_group(format!("{}/{}", pair.name, pair.size));
        group.throughput(Throughput::Bytes(pair.size as u64));
        group.bench_function("journal", |bencher| {
            bencher.iter_custom(|count| time(&mut pair.journal, count));
        });
        group.bench_function("floor", |bencher| {
            bencher.iter_custom(|count| time(&mut pair.floor, count));
        });
        group.finish();
    }
    criterion.final_summary();
    // `cargo bench` says so; `cargo test --benches` only wants to see that everything runs.
    if std::env::args().all(|argument| argument != "--bench") {
        return;
    }
    println!("\nin turn, medians    ring        journal       floor   journal/floor");
    let line = |name, size, ring, (journal, floor, ratio): (f64, f64, f64)| {
        let ring = ring >> 20;
        println!(
            "{name:>8} {size:>9} B {ring:>3} MiB {journal:>9.0} ns {floor:>8.0} ns {ratio:>12.2}"
        );
    };
    let mut appended = (0.0, 0.0);
    for mut pair in pairs() {
        let (journal, floor, ratio) = in_turn(&mut pair);
        let (name, size, ring) = (pair.name, pair.size, pair.ring);
        line(name, size, ring, (journal, floor, ratio));
        if matches!(name, "append" | "wrap") {
            appended = (journal, floor);
        } else {
            let (journal, floor) = (journal + appended.0, floor + appended.1);
            line("both", size, ring, (journal, floor, journal / floor));
        }
    }
}
