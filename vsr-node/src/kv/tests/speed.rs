//! How long the scrubber's round and the proof of an image take over a large state. Run by hand:
//!
//! `VSR_KV_GIB=4 cargo test --release -p vsr-node --lib kv::tests::speed -- --ignored --nocapture`

use std::time::Duration;

use super::support::Fixture;
use crate::kv::{KvMachine, Opcode, OperationBuilder};
use vsr_consensus::{Scrub, StateMachine as _};
use vsr_types::Op;

const STEP: usize = 1 << 20;
/// The share of a core that a round is spread to in the last line.
const SHARE: f64 = 0.01;

/// Entries of `size` bytes until the image has `bytes`; one in eight has a deadline.
fn fill(fixture: &mut Fixture, bytes: u64, size: usize) {
    let mut builder = OperationBuilder::new(vec![0; 1 << 16]);
    let value = vec![b'v'; size];
    let (mut index, mut deadline) = (0_u64, *b"100000000000");
    while fixture.machine.kv_report().image_bytes < bytes {
        builder.clear();
        for _ in 0..(60_000 / (size + 80)).max(1) {
            index += 1;
            let key = format!("key:{index:012}");
            deadline[8..].copy_from_slice(format!("{:04}", index % 10_000).as_bytes());
            let pushed = if index.is_multiple_of(8) {
                builder.push(Opcode::PSetEx, &[key.as_bytes(), &deadline, &value])
            } else {
                builder.push(Opcode::Set, &[key.as_bytes(), &value])
            };
            pushed.expect("fits");
        }
        fixture.apply(builder.operation());
    }
}

/// What this thread has had of a processor: whoever shares the machine does not count.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanoseconds = stat.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}

/// Calls `step` until it says that it is through; returns the number of calls, their time and the longest.
fn timed(mut step: impl FnMut() -> bool) -> (u32, Duration, Duration) {
    let (mut steps, mut sum, mut worst) = (0, Duration::ZERO, Duration::ZERO);
    loop {
        let began = cpu_time();
        let is_through = step();
        let took = cpu_time() - began;
        steps += 1;
        sum += took;
        worst = worst.max(took);
        if is_through {
            return (steps, sum, worst);
        }
    }
}

#[test]
#[ignore = "needs gigabytes of memory, and a release build to mean anything"]
fn a_round_of_the_scrubber_and_a_proof_over_a_large_state() {
    let wanted = std::env::var("VSR_KV_GIB").map_or(1.0, |gib| gib.parse().expect("a number"));
    for size in [128, 1024, 60_000] {
        let bytes = (wanted * f64::from(1 << 30)) as u64;
        let mut fixture = Fixture::with(KvMachine::new(bytes as usize + (64 << 20)));
        fill(&mut fixture, bytes, size);
        let machine = &mut fixture.machine;
        let report = machine.kv_report();
        eprintln!(
            "{} entries of {size} bytes, image {} MiB",
            report.keys,
            report.image_bytes >> 20
        );

        let mut left = machine.scrub_size() as i64;
        let (steps, sum, worst) = timed(|| {
            assert_eq!(machine.scrub(STEP), Scrub::Clean);
            left -= STEP as i64;
            left <= 0
        });
        eprintln!(
            "  scrub: {sum:.2?} a round in {steps} steps of {STEP} bytes, the longest {worst:.2?}; \
             {:.2} GiB/s; at {:.0} % of a core a round takes {:.0} s",
            report.image_bytes as f64 / f64::from(1 << 30) / sum.as_secs_f64(),
            SHARE * 100.0,
            sum.as_secs_f64() / SHARE,
        );

        machine.image_begin(machine.image_chunks()).expect("fits");
        let (steps, sum, worst) = timed(|| machine.image_verify(STEP).expect("a state"));
        let began = cpu_time();
        machine.image_finish(Op::new(fixture.op)).expect("a state");
        eprintln!(
            "  image: proved in {sum:.2?}, {steps} steps of {STEP} bytes, the longest {worst:.2?}; \
             then finished in {:.2?}",
            cpu_time() - began
        );
    }
}
