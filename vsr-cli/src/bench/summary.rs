//! The result of a run, for programs and for people.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;
use serde::Serialize;

use crate::bench::plan::Plan;
use crate::bench::recorder::{Recorder, TIMELINE_STEP};
use crate::output::{Block, Report};
use crate::table::{Cell, Table, Tone};
use crate::units;

/// The result of a run. The names of the fields are part of the interface.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    /// `resp` or `native`.
    protocol: &'static str,
    endpoints: Vec<String>,
    /// `closed` or `open`.
    #[serde(rename = "loop")]
    kind: &'static str,
    clients: u32,
    pipeline: u32,
    value_bytes: usize,
    keys: u64,
    reads: f64,
    rate_per_second: Option<f64>,
    wait: Option<u32>,
    duration_seconds: f64,
    operations: u64,
    operations_per_second: f64,
    value_bytes_per_second: f64,
    errors: u64,
    errors_by_kind: BTreeMap<String, u64>,
    /// Commands of an open loop for which no client was free before the end.
    unsent: u64,
    longest_gap_us: f64,
    latency_us: Latency,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    min: f64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

impl Latency {
    /// Of a histogram in nanoseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        let empty = histogram.is_empty();
        Self {
            min: if empty {
                0.0
            } else {
                histogram.min() as f64 / 1e3
            },
            mean: histogram.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: if empty {
                0.0
            } else {
                histogram.max() as f64 / 1e3
            },
        }
    }

    /// The columns that [`Self::cells`] fills.
    pub(crate) const TITLES: [&'static str; 6] =
        [">p50", ">p90", ">p99", ">p99.9", ">max", ">mean"];

    /// As cells of a table.
    pub(crate) fn cells(&self) -> Vec<Cell> {
        let mut cells = vec![Cell::time(self.p50 * 1e3).tone(Tone::Strong)];
        let rest = [self.p90, self.p99, self.p99_9, self.max, self.mean];
        cells.extend(rest.map(|us| Cell::time(us * 1e3)));
        cells
    }
}

impl Summary {
    /// Of a finished run.
    pub(crate) fn new(
        plan: &Plan,
        protocol: &'static str,
        endpoints: Vec<String>,
        recorder: &Recorder,
    ) -> Self {
        let seconds = plan.duration.as_secs_f64();
        let rate = recorder.answers() as f64 / seconds;
        Self {
            protocol,
            endpoints,
            kind: if plan.rate.is_some() {
                "open"
            } else {
                "closed"
            },
            clients: plan.clients,
            pipeline: plan.pipeline,
            value_bytes: plan.size,
            keys: plan.keys,
            reads: plan.reads,
            rate_per_second: plan.rate,
            wait: plan.wait,
            duration_seconds: seconds,
            operations: recorder.answers(),
            operations_per_second: rate,
            value_bytes_per_second: rate * plan.size as f64,
            errors: recorder.errors_total(),
            errors_by_kind: recorder.errors().clone(),
            unsent: recorder.unsent(),
            longest_gap_us: recorder.longest_gap().as_secs_f64() * 1e6,
            latency_us: Latency::of(recorder.latency()),
        }
    }

    /// Whether nothing was answered at all.
    pub(crate) const fn is_empty(&self) -> bool {
        self.operations == 0
    }

    /// The kind of failure that occurred most often.
    pub(crate) fn worst_error(&self) -> Option<&str> {
        let worst = self.errors_by_kind.iter().max_by_key(|(_, count)| **count);
        worst.map(|(kind, _)| kind.as_str())
    }

    /// For [`crate::output::Screen`].
    ///
    /// # Errors
    /// When a number is not finite.
    pub(crate) fn report(&self) -> Result<Report, serde_json::Error> {
        let mut facts = Table::new(&["measured", ">value", "note"]);
        let mut fact = |name: &str, value: Cell, note: String| {
            facts.row(vec![name.into(), value, Cell::toned(note, Tone::Dim)]);
        };
        let rate = format!(
            "{}/s",
            units::grouped(self.operations_per_second.round() as u64)
        );
        let values = format!("{}/s of values", units::bytes(self.value_bytes_per_second));
        fact("throughput", Cell::toned(rate, Tone::Strong), values);
        let seconds = format!("in {:.1} s", self.duration_seconds);
        fact(
            "operations",
            units::grouped(self.operations).into(),
            seconds,
        );
        let tone = if self.errors == 0 {
            Tone::Good
        } else {
            Tone::Bad
        };
        let kinds = self
            .errors_by_kind
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"));
        let kinds = kinds.collect::<Vec<_>>().join(", ");
        fact(
            "errors",
            Cell::toned(units::grouped(self.errors), tone),
            kinds,
        );
        let gap = units::time(self.longest_gap_us * 1e3);
        fact("longest gap", gap.into(), "without any answer".to_owned());
        if self.unsent > 0 {
            let note = "not sent: all clients were busy until the end; they count in the latencies";
            let unsent = Cell::toned(units::grouped(self.unsent), Tone::Warn);
            fact("unsent", unsent, note.to_owned());
        }
        let mut latency = Table::new(&Latency::TITLES);
        latency.row(self.latency_us.cells());
        Ok(Report {
            json: serde_json::to_value(self)?,
            blocks: vec![
                Block::Title(self.headline()),
                Block::Table(facts),
                Block::Title(self.latency_title().to_owned()),
                Block::Table(latency),
            ],
        })
    }

    fn headline(&self) -> String {
        let pace = match self.rate_per_second {
            Some(rate) => format!("open loop, {}/s", units::grouped(rate.round() as u64)),
            None => "closed loop".to_owned(),
        };
        let wait = self
            .wait
            .map(|replicas| format!(", WAIT {replicas}"))
            .unwrap_or_default();
        format!(
            "{} {} | {} clients, {} deep, {}, {:.0} % reads{wait} | {pace}",
            self.protocol,
            self.endpoints.join(","),
            self.clients,
            self.pipeline,
            units::bytes(self.value_bytes as f64),
            self.reads * 100.0,
        )
    }

    fn latency_title(&self) -> &'static str {
        match self.rate_per_second {
            Some(_) => "latency of a batch, from its time in the timetable",
            None => "latency of a batch, from sending",
        }
    }
}

/// Writes the histogram: a V2 interval log when the name ends in `.hlog`, else percentiles as text.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write_histogram(
    path: &Path,
    histogram: &Histogram<u64>,
    began: SystemTime,
    duration: Duration,
) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    if path
        .extension()
        .is_some_and(|extension| extension == "hlog")
    {
        write_log(&mut file, histogram, began, duration)?;
    } else {
        write_percentiles(&mut file, histogram)?;
    }
    file.flush()
}

fn write_log(
    file: &mut impl io::Write,
    histogram: &Histogram<u64>,
    began: SystemTime,
    duration: Duration,
) -> io::Result<()> {
    let failed = |error: &dyn std::fmt::Debug| io::Error::other(format!("{error:?}"));
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    builder.with_start_time(began).with_max_value_divisor(1e3);
    let mut log = builder.begin_log_with(file, &mut serializer)?;
    log.write_comment("latencies in nanoseconds; the maxima in microseconds")?;
    log.write_histogram(histogram, Duration::ZERO, duration, None)
        .map_err(|error| failed(&error))
}

/// Writes the answers of each step, with the time at which the step began.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write_timeline(path: &Path, timeline: &[u64]) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    writeln!(file, "milliseconds,answers")?;
    for (step, answers) in timeline.iter().enumerate() {
        let began = step as u128 * TIMELINE_STEP.as_millis();
        writeln!(file, "{began},{answers}")?;
    }
    file.flush()
}

fn write_percentiles(file: &mut impl io::Write, histogram: &Histogram<u64>) -> io::Result<()> {
    writeln!(
        file,
        "{:>14} {:>14} {:>12} {:>14}",
        "Value", "Percentile", "TotalCount", "1/(1-P)"
    )?;
    writeln!(file)?;
    let mut total = 0;
    for step in histogram.iter_quantiles(5) {
        total += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let value = step.value_iterated_to() as f64 / 1e3;
        let left = 1.0 - quantile;
        if left > 0.0 {
            writeln!(
                file,
                "{value:>14.3} {quantile:>14.12} {total:>12} {:>14.2}",
                1.0 / left
            )?;
        } else {
            writeln!(file, "{value:>14.3} {quantile:>14.12} {total:>12}")?;
        }
    }
    let (mean, deviation) = (histogram.mean() / 1e3, histogram.stdev() / 1e3);
    writeln!(
        file,
        "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]"
    )?;
    let (max, count) = (histogram.max() as f64 / 1e3, histogram.len());
    writeln!(
        file,
        "#[Max     = {max:>12.3}, Total count    = {count:>12}]"
    )?;
    writeln!(file, "#[Unit    = microseconds]")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;
    use crate::output::Format;

    fn summary() -> Summary {
        let plan = Plan {
            clients: 50,
            pipeline: 16,
            size: 128,
            keys: 100,
            reads: 0.25,
            rate: None,
            warmup: Duration::ZERO,
            duration: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            wait: Some(1),
            seed: 1,
        };
        let from = Instant::now();
        let mut recorder = Recorder::new(from, from + plan.duration);
        for millis in 1..=1000_u32 {
            let now = from + Duration::from_millis(1) * millis;
            recorder.answered(now - Duration::from_micros(500), now, 16);
        }
        recorder.failed("BUSY", from, 3);
        recorder.finish();
        Summary::new(&plan, "resp", vec!["127.0.0.1:6379".to_owned()], &recorder)
    }

    #[test]
    fn people_get_two_tables() {
        let report = summary().report().expect("finite");
        let text = anstream::adapter::strip_str(&report.render(Format::Table)).to_string();
        let expected = "\
resp 127.0.0.1:6379 | 50 clients, 16 deep, 128 B, 25 % reads, WAIT 1 | closed loop
 measured       value  note
 ───────────  ───────  ────────────────────
 throughput   8,000/s  1000 KiB/s of values
 operations    16,000  in 2.0 s
 errors             3  BUSY 3
 longest gap   1.00 s  without any answer

latency of a batch, from sending
    p50     p90     p99   p99.9     max    mean
 ──────  ──────  ──────  ──────  ──────  ──────
 500 us  500 us  500 us  500 us  500 us  500 us
";
        assert_eq!(text, expected);
    }

    #[test]
    fn programs_get_stable_names() {
        let report = summary().report().expect("finite");
        let fields: Vec<&str> = report
            .json
            .as_object()
            .expect("an object")
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(
            fields,
            [
                "protocol",
                "endpoints",
                "loop",
                "clients",
                "pipeline",
                "value_bytes",
                "keys",
                "reads",
                "rate_per_second",
                "wait",
                "duration_seconds",
                "operations",
                "operations_per_second",
                "value_bytes_per_second",
                "errors",
                "errors_by_kind",
                "unsent",
                "longest_gap_us",
                "latency_us"
            ]
        );
        assert_eq!(report.json["operations_per_second"], 8000.0);
        assert_eq!(report.json["errors_by_kind"]["BUSY"], 3);
        let p50 = report.json["latency_us"]["p50"].as_f64().expect("a number");
        assert!((p50 - 500.0).abs() < 1.0, "{p50}");
    }

    #[test]
    fn a_log_can_be_read_back() {
        let mut histogram = Histogram::<u64>::new(3).expect("valid");
        histogram.record_n(1_000_000, 7).expect("auto-resizing");
        let mut log = Vec::new();
        write_log(
            &mut log,
            &histogram,
            SystemTime::now(),
            Duration::from_secs(3),
        )
        .expect("writes");
        let entries: Vec<_> = IntervalLogIterator::new(&log)
            .collect::<Result<_, _>>()
            .expect("a valid log");
        let Some(LogEntry::Interval(interval)) = entries.last() else {
            panic!("{entries:?}")
        };
        assert_eq!(interval.duration(), Duration::from_secs(3));
        assert!(
            (interval.max() - 1000.0).abs() < 1.0,
            "{} us",
            interval.max()
        );
        // "HIST" and a version, deflated: what every V2 reader expects behind base64.
        assert!(
            interval.encoded_histogram().starts_with("HISTF"),
            "{interval:?}"
        );
    }

    #[test]
    fn percentiles_end_with_everything() {
        let mut histogram = Histogram::<u64>::new(3).expect("valid");
        histogram.record_n(2_000, 99).expect("auto-resizing");
        histogram.record(500_000).expect("auto-resizing");
        let mut text = Vec::new();
        write_percentiles(&mut text, &histogram).expect("writes");
        let text = String::from_utf8(text).expect("text");
        assert!(text.contains("Total count    =          100]"), "{text}");
        let last = text
            .lines()
            .rfind(|line| !line.starts_with('#'))
            .expect("has lines");
        let fields: Vec<&str> = last.split_whitespace().collect();
        assert_eq!(&fields[1..], ["1.000000000000", "100"], "{text}");
    }
}
