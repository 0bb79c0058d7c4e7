//! What a run has shown, as a table for people.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use crate::faults::Book;
use crate::resp::Tally;
use crate::work::Row;

/// The sum of one or several runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    rows: Vec<Row>,
    pub(crate) book: Book,
    took: Duration,
    runs: u64,
}

impl Summary {
    pub(crate) fn add(&mut self, rows: Vec<Row>, book: &Book, took: Duration) {
        for row in rows {
            match self.rows.iter_mut().find(|sum| sum.name == row.name) {
                None => self.rows.push(row),
                Some(sum) => {
                    sum.tally.add(&row.tally);
                    sum.findings.add(row.findings);
                }
            }
        }
        self.book.add(book);
        self.took += took;
        self.runs += 1;
    }

    pub(crate) fn anomalies(&self) -> u64 {
        self.rows.iter().map(|row| row.findings.anomalies).sum()
    }

    /// All commands of all workloads.
    pub(crate) fn total(&self) -> Tally {
        let mut total = Tally::default();
        for row in &self.rows {
            total.add(&row.tally);
        }
        total
    }

    /// Workloads of which nothing was answered.
    pub(crate) fn idle(&self) -> Vec<&'static str> {
        let idle = self.rows.iter().filter(|row| row.tally.answered == 0);
        idle.map(|row| row.name).collect()
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "{:<20}{:>10}{:>10}{:>9}{:>9}{:>11}{:>11}\n",
            "workload", "ops", "ok", "fail", "unknown", "checked", "anomalies"
        );
        let mut line = |name: &str, tally: &Tally, checked: u64, anomalies: u64| {
            let _infallible = writeln!(
                text,
                "{name:<20}{:>10}{:>10}{:>9}{:>9}{checked:>11}{anomalies:>11}",
                tally.all(),
                tally.answered,
                tally.refused,
                tally.unknown,
            );
        };
        let mut checked = 0;
        for row in &self.rows {
            checked += row.findings.checked;
            line(
                row.name,
                &row.tally,
                row.findings.checked,
                row.findings.anomalies,
            );
        }
        let total = self.total();
        line("all", &total, checked, self.anomalies());
        let _infallible = writeln!(text, "\n{:<28}{:>7}{:>11}", "fault", "tried", "effective");
        let mut tried = 0;
        for (name, score) in &self.book.scores {
            tried += score.tried;
            let _infallible = writeln!(text, "{name:<28}{:>7}{:>11}", score.tried, score.effective);
        }
        let effective = self.book.effective();
        let _infallible = writeln!(text, "{:<28}{tried:>7}{effective:>11}", "all");
        let errors: Vec<String> = total
            .errors
            .iter()
            .map(|(error, count)| format!("{error} {count}"))
            .collect();
        let counted = self.book.counted.iter();
        let counted: Vec<String> = counted
            .map(|(event, count)| format!("{event} {count}"))
            .collect();
        let seconds = self.took.as_secs_f64();
        let _infallible = writeln!(
            text,
            "\nerrors: {}\nreplicas since their last start: {}\nview changes: {}\n{} runs, {seconds:.1} s, {:.0} answers/s",
            errors.join(", "),
            counted.join(", "),
            self.book.views,
            self.runs,
            total.answered as f64 / seconds
        );
        for row in self.rows.iter().filter(|row| row.findings.anomalies > 0) {
            let _infallible = writeln!(text, "\n{}:", row.name);
            for anomaly in &row.findings.texts {
                let _infallible = writeln!(text, "  {anomaly}");
            }
        }
        text
    }
}

/// Says something to whoever runs the tests, also when the test passes.
pub(crate) fn say(text: &str) {
    // Nobody listening is no reason to fail.
    drop(writeln!(std::io::stderr(), "{text}"));
}
