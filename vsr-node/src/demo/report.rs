//! What came out of a demo, as a table that can be read at a glance: whatever is wrong says so.

use std::fmt::Write as _;
use std::time::Duration;

use crate::config::show_size;
use crate::inspect::{Recovered, Status};

use super::load::{Book, Verdict};

/// What became of the replica that was killed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Story {
    pub(super) victim: usize,
    /// Who leads now, and in which view.
    pub(super) successor: u8,
    pub(super) view: u64,
    /// From the kill until it took part again.
    pub(super) whole_after: Duration,
    pub(super) recovered: Recovered,
}

/// All that was seen.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) book: Book,
    pub(super) anomalies: u64,
    pub(super) verdict: Verdict,
    pub(super) story: Story,
    pub(super) statuses: Vec<Status>,
    pub(super) seconds: f64,
    pub(super) stopped_well: bool,
}

/// The lines so far, and whether all of them are good.
struct Table {
    text: String,
    good: bool,
}

impl Table {
    fn line(&mut self, name: &str, value: &str) {
        let _infallible = writeln!(self.text, "  {name:<34}{value}");
    }

    fn judge(&mut self, name: &str, value: &str, good: bool) {
        let mark = if good { "" } else { "  <-- WRONG" };
        self.line(name, &format!("{value}{mark}"));
        self.good &= good;
    }

    /// A number that must be zero.
    fn none(&mut self, name: &str, count: u64) {
        self.judge(name, &grouped(count), count == 0);
    }

    /// A number that must not be zero, or nothing was shown.
    fn some(&mut self, name: &str, count: u64) {
        self.judge(name, &grouped(count), count > 0);
    }
}

impl Outcome {
    /// The table, and whether everything was as promised.
    pub(super) fn table(&self) -> (String, bool) {
        let Self { book, verdict, .. } = self;
        let mut table = Table {
            text: String::new(),
            good: true,
        };
        let operations = book.writes + book.reads;
        let rate = grouped((operations as f64 / self.seconds) as u64);
        table.line(
            "operations answered",
            &format!("{} ({rate} per second)", grouped(operations)),
        );
        table.some("writes acknowledged", book.writes);
        table.some("  values and counters read back", verdict.compared);
        table.none("  lost", verdict.lost);
        table.none("  doubled", verdict.doubled);
        table.some("reads", book.reads);
        self.linearizable(&mut table);
        table.none("errors", book.errors);
        self.broken(&mut table);
        table.line("latency p50 / p99 / p99.9 / max", &self.latency());
        let gap = book.longest_gap.as_secs_f64() * 1e3;
        table.line("longest gap without a commit", &format!("{gap:.1} ms"));
        self.recovery(&mut table);
        self.digests(&mut table);
        let stopped = if self.stopped_well { "yes" } else { "no" };
        table.judge("replicas stopped in order", stopped, self.stopped_well);
        (table.text, table.good)
    }

    fn linearizable(&self, table: &mut Table) {
        let (values, anomalies) = (grouped(self.book.values()), self.anomalies);
        let text = if anomalies == 0 {
            format!("yes ({values} values checked)")
        } else {
            format!("no ({} contradictions)", grouped(anomalies))
        };
        table.judge("linearizable", &text, anomalies == 0);
    }

    /// Only the killed process may have broken connections.
    fn broken(&self, table: &mut Table) {
        let victim = self.story.victim;
        let unanswered = grouped(self.book.unanswered);
        table.line(
            "unanswered, when a process died",
            &format!("{unanswered} (each happened once or not at all)"),
        );
        let others = self.book.broken.iter().enumerate();
        let others = others.filter(|(replica, _)| *replica != victim);
        let others = others.map(|(_, broken)| broken).sum();
        table.none("connections others broke", others);
    }

    fn recovery(&self, table: &mut Table) {
        let Story {
            victim,
            successor,
            view,
            whole_after,
            recovered,
        } = self.story;
        table.line(
            "killed",
            &format!("R{victim}, the primary; R{successor} leads view {view}"),
        );
        let bytes = show_size(usize::try_from(recovered.bytes).unwrap_or(usize::MAX));
        table.line(
            &format!("R{victim} recovered, from nothing"),
            &format!(
                "in {:.0} ms, up to op {}, {bytes} from its peers",
                recovered.seconds * 1e3,
                grouped(recovered.op)
            ),
        );
        table.line(
            "  from the kill to taking part",
            &format!("{:.0} ms", whole_after.as_secs_f64() * 1e3),
        );
    }

    fn latency(&self) -> String {
        let histogram = &self.book.latency;
        let millis = |nanos: u64| format!("{:.2}", nanos as f64 / 1e6);
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|q| millis(histogram.value_at_quantile(q)));
        format!("{p50} / {p99} / {p999} / {} ms", millis(histogram.max()))
    }

    fn digests(&self, table: &mut Table) {
        for status in &self.statuses {
            let (op, digest) = (grouped(status.digest.op), &status.digest.digest);
            table.line(&format!("digest of R{} at op {op}", status.replica), digest);
        }
        let equal = self
            .statuses
            .windows(2)
            .all(|pair| pair[0].digest == pair[1].digest);
        let word = if equal { "equal" } else { "different" };
        table.judge("digests", word, equal && !self.statuses.is_empty());
    }
}

/// Digits in groups of three.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::Digest;

    fn status(replica: u8, digest: &str) -> Status {
        let mut status: Status = serde_json::from_value(serde_json::json!({
            "version": "", "cluster_name": "", "cluster": null, "replica": 0, "replicas": 3,
            "quorum": 2, "failures_survived": 1, "address": "", "incarnation": "", "status": "",
            "halted": null, "role": "", "ready": true, "reason": "", "quorum_lost": false,
            "view_changes": 0, "recovery": null, "recovered": null, "epoch": 0, "view": 0,
            "primary": 0, "op": 9, "commit": 9, "applied": 9, "tail": 1,
            "digest": {"op": 0, "digest": ""}, "sessions": 0, "in_flight": 0, "chain": [],
            "peers": [], "memory_bytes": 0, "uptime_seconds": 1.0
        }))
        .expect("all fields of a status");
        status.replica = replica;
        status.digest = Digest {
            op: 9,
            digest: digest.into(),
        };
        status
    }

    fn good() -> Outcome {
        let mut book = Book::new(3);
        (book.writes, book.reads) = (1000, 500);
        book.broken[0] = 16;
        let recovered = Recovered {
            seconds: 0.5,
            seconds_since_start: 0.6,
            op: 1234,
            bytes: 3 << 20,
        };
        Outcome {
            book,
            anomalies: 0,
            story: Story {
                victim: 0,
                successor: 1,
                view: 1,
                whole_after: Duration::from_millis(700),
                recovered,
            },
            verdict: Verdict {
                lost: 0,
                doubled: 0,
                compared: 10,
            },
            statuses: vec![status(0, "aa"), status(1, "aa"), status(2, "aa")],
            seconds: 1.0,
            stopped_well: true,
        }
    }

    #[test]
    fn when_all_is_well_nothing_is_marked() {
        let (text, is_good) = good().table();
        assert!(is_good && !text.contains("WRONG"), "{text}");
        for part in [
            "1,500 (1,500 per second)",
            "R0, the primary; R1 leads view 1",
            "in 500 ms, up to op 1,234, 3 MiB from its peers",
            "700 ms",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_marked() {
        let cases: [fn(&mut Outcome); 10] = [
            |o| o.book.writes = 0,
            |o| o.book.reads = 0,
            |o| o.anomalies = 1,
            |o| o.book.broken[2] = 1,
            |o| o.book.errors = 1,
            |o| o.verdict.lost = 1,
            |o| o.verdict.doubled = 1,
            |o| o.verdict.compared = 0,
            |o| o.statuses[2].digest.digest = "bb".into(),
            |o| o.stopped_well = false,
        ];
        for (i, break_it) in cases.iter().enumerate() {
            let mut outcome = good();
            break_it(&mut outcome);
            let (text, is_good) = outcome.table();
            assert!(!is_good, "case {i}: {text}");
            assert_eq!(text.matches("WRONG").count(), 1, "case {i}: {text}");
        }
    }

    #[test]
    fn digits_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
    }
}
