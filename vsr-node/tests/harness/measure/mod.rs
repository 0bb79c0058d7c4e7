//! Measurements on real processes, without proxies in between: how long a dead primary is missed, how
//! fast an empty replica gets its state back, and how much memory all of it takes.

mod fail_over;
mod recovery;
mod resident;

use std::time::Duration;

/// A point in a sorted list of times: 0.5 for the median.
fn quantile(sorted: &[Duration], at: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    let index = (last as f64 * at).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}

fn line(name: &str, times: &mut [Duration]) -> String {
    times.sort_unstable();
    format!(
        "{name:<28}{:>7} times   p50 {:>8.1?}   p90 {:>8.1?}   p99 {:>8.1?}   max {:>8.1?}",
        times.len(),
        quantile(times, 0.5),
        quantile(times, 0.9),
        quantile(times, 0.99),
        quantile(times, 1.0),
    )
}
