//! How far the scrubber has come, what it and others found damaged, and what became of that (N18, R14.4).

use serde::{Deserialize, Serialize};
use vsr_consensus::{
    CHUNK_UNKNOWN, Finding, FindingKind, FindingTotals, FoundBy, Remedy, Replica, ScrubReport,
    StateMachine,
};
use vsr_types::{Instant, Op};

/// What the replica says of its memory.
#[derive(Clone, Debug, Default)]
pub struct Integrity {
    /// How far the scrubber has come, and what is damaged now.
    pub scrub: ScrubReport,
    /// The last findings, what is damaged now first.
    pub findings: Vec<Finding>,
    /// How many there were, by kind.
    pub totals: Vec<(FindingKind, FindingTotals)>,
}

impl Integrity {
    /// Asks the replica.
    pub fn of<S: StateMachine>(replica: &Replica<S>) -> Self {
        Self {
            scrub: replica.scrub_report(),
            findings: replica.findings().collect(),
            totals: replica.finding_totals().to_vec(),
        }
    }

    /// Whether something is damaged that no replica can give.
    #[must_use]
    pub fn is_unrepairable(&self) -> bool {
        let is_nobodys = |finding: &Finding| finding.remedy == Remedy::Nobody;
        self.scrub.is_nobodys
            || self.scrub.unrepaired.is_some()
            || self.findings.iter().any(is_nobodys)
    }
}

/// The scrubber's round. A part of topic `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scrub {
    /// How many rounds over everything are complete.
    pub rounds: u64,
    /// How much of this one is done.
    pub percent: f64,
    /// How many bytes it has looked at.
    pub looked_at_bytes: u64,
    /// How many there are.
    pub size_bytes: u64,
    /// For how long it has been going on.
    pub seconds: f64,
    /// When it will be done, if nothing slows it down.
    pub ends_in_seconds: f64,
    /// How long the last one took; none: there was none yet.
    pub last_round_seconds: Option<f64>,
    /// The last thing that was found damaged.
    pub last_finding: Option<Found>,
}

/// Something that was not what had been written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Counts findings from 1.
    pub number: u64,
    /// `copy` (of a header), `entry` (of the journal), `sessions` or `state`.
    pub what: String,
    /// The journal's slot or the image's chunk.
    pub place: String,
    /// The op of the entry, or after which the state was last sound; over all epochs.
    pub op: u64,
    /// Who noticed: `use` or `scrubber`.
    pub by: String,
    /// How long ago.
    pub seconds_ago: f64,
    /// What became of it.
    pub outcome: String,
    /// How long that took; none: it is damaged still.
    pub took_seconds: Option<f64>,
}

/// What is damaged now. A part of topic `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Damage {
    /// One sentence for people.
    pub text: String,
    /// Since when.
    pub seconds: f64,
    /// Who is asked for what is damaged.
    pub waits_for: Option<u8>,
    /// An operation met it: nothing is executed here until it is repaired.
    pub blocks: bool,
    /// No replica can give it: it is bad wherever it was held. Somebody must look at this.
    pub unrepairable: bool,
    /// Each of the last findings that is damaged still.
    pub places: Vec<Found>,
}

/// How many findings there were of a kind since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundTotal {
    /// As in [`Found`].
    pub what: String,
    /// Noticed by whoever read it.
    pub found_on_use: u64,
    /// Noticed by the scrubber.
    pub found_by_scrubber: u64,
    /// Sound again.
    pub repaired: u64,
    /// Times when no replica could give it.
    pub unrepairable: u64,
}

/// Everything about it. Topic `scrub`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scrubbing {
    /// How far the scrubber has come.
    pub scrub: Scrub,
    /// What is damaged now.
    pub damage: Option<Damage>,
    /// How many findings there were.
    pub totals: Vec<FoundTotal>,
    /// The last of them.
    pub findings: Vec<Found>,
}

/// Everything about the scrubber and its findings.
#[must_use]
pub fn scrubbing(integrity: &Integrity, replicas: u8, now: Instant) -> Scrubbing {
    let total = |(kind, totals): &(FindingKind, FindingTotals)| FoundTotal {
        what: kind.name().into(),
        found_on_use: totals.on_use,
        found_by_scrubber: totals.by_scrubber,
        repaired: totals.repaired,
        unrepairable: totals.unrepairable,
    };
    let mut findings: Vec<Found> = integrity.findings.iter().map(|f| found(f, now)).collect();
    findings.sort_by_key(|found| core::cmp::Reverse(found.number));
    Scrubbing {
        scrub: scrub(integrity, now),
        damage: damage(integrity, replicas, now),
        totals: integrity.totals.iter().map(total).collect(),
        findings,
    }
}

/// How far the scrubber has come.
pub(super) fn scrub(integrity: &Integrity, now: Instant) -> Scrub {
    let report = &integrity.scrub;
    let newest = integrity.findings.iter().max_by_key(|f| f.number);
    Scrub {
        rounds: report.rounds,
        percent: (report.looked_at as f64 * 100.0 / report.size.max(1) as f64).min(100.0),
        looked_at_bytes: report.looked_at,
        size_bytes: report.size,
        seconds: report.elapsed.as_secs_f64(),
        ends_in_seconds: report.left.as_secs_f64(),
        last_round_seconds: (report.rounds > 0).then_some(report.last_round.as_secs_f64()),
        last_finding: newest.map(|finding| found(finding, now)),
    }
}

/// What is damaged now; none: nothing is known to be.
pub(super) fn damage(integrity: &Integrity, replicas: u8, now: Instant) -> Option<Damage> {
    let report = &integrity.scrub;
    let open: Vec<&Finding> = integrity
        .findings
        .iter()
        .filter(|finding| !finding.remedy.is_sound())
        .collect();
    let is_known = report.damaged_since.is_some() || report.unrepaired.is_some();
    if open.is_empty() && !is_known {
        return None;
    }
    let began = open.iter().map(|finding| finding.at);
    let since = began.chain(report.damaged_since).min().unwrap_or(now);
    let unrepairable = integrity.is_unrepairable();
    let what = open.first().map_or_else(
        || "memory".to_owned(),
        |finding| {
            let (what, place) = (finding.kind.name(), place(finding));
            format!("{what} in {place}, {}", near(finding))
        },
    );
    let more = match open.len() {
        0 | 1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    let then = match (unrepairable, report.waits_for) {
        (true, _) if replicas == 1 => {
            "there is no other replica to repair it from: restore from an export".to_owned()
        }
        (true, _) => "bad on every replica that has it: nothing is guessed".to_owned(),
        (false, Some(peer)) => format!("being fetched from {peer}"),
        (false, None) => "to be fetched from another replica".to_owned(),
    };
    let blocks = match report.is_blocked {
        true => "; an operation met it, so nothing is executed here until it is repaired",
        false => "",
    };
    Some(Damage {
        text: format!("damaged: {what}{more}: {then}{blocks}"),
        seconds: now.since(since).as_secs_f64(),
        waits_for: report.waits_for.map(vsr_types::ReplicaIndex::raw),
        blocks: report.is_blocked,
        unrepairable,
        places: open
            .into_iter()
            .map(|finding| found(finding, now))
            .collect(),
    })
}

/// What a finding is near to in the order of things.
fn near(finding: &Finding) -> String {
    match finding.kind {
        FindingKind::Copy | FindingKind::Entry => format!("op {}", finding.op),
        FindingKind::Sessions | FindingKind::State => format!("after op {}", finding.op),
    }
}

fn place(finding: &Finding) -> String {
    match (finding.kind, finding.place) {
        (_, CHUNK_UNKNOWN) => "an unknown place".into(),
        (FindingKind::Copy | FindingKind::Entry, slot) => format!("slot {slot}"),
        (FindingKind::Sessions | FindingKind::State, chunk) => format!("chunk {chunk}"),
    }
}

fn found(finding: &Finding, now: Instant) -> Found {
    Found {
        number: finding.number,
        what: finding.kind.name().into(),
        place: place(finding),
        op: Op::raw(finding.op),
        by: match finding.by {
            FoundBy::Use => "use",
            FoundBy::Scrubber => "scrubber",
        }
        .into(),
        seconds_ago: now.since(finding.at).as_secs_f64(),
        outcome: outcome(finding.remedy),
        took_seconds: finding
            .remedy
            .is_sound()
            .then(|| finding.ended_at.since(finding.at).as_secs_f64()),
    }
}

fn outcome(remedy: Remedy) -> String {
    match remedy {
        Remedy::None => "damaged".into(),
        Remedy::OtherCopy => "rewritten from the other copy".into(),
        Remedy::Peer(peer) => format!("replaced by what {peer} had"),
        Remedy::Overwritten => "overwritten since".into(),
        Remedy::Nobody => "damaged, and no replica can give it".into(),
    }
}

/// Says in the log what was found, and what became of it, once.
#[derive(Debug, Default)]
pub struct Told {
    last: u64,
    open: Vec<(u64, Remedy)>,
}

impl Told {
    /// Looks at the findings once more.
    pub fn tell(&mut self, integrity: &Integrity) {
        let mut findings: Vec<&Finding> = integrity.findings.iter().collect();
        findings.sort_by_key(|finding| finding.number);
        for finding in findings {
            let (number, what, op) = (finding.number, finding.kind.name(), finding.op.raw());
            let place = place(finding);
            let is_news = number > self.last;
            let known = self.open.iter().find(|(open, _)| *open == number);
            if !is_news && known.is_none_or(|(_, remedy)| *remedy == finding.remedy) {
                continue;
            }
            let by = match finding.by {
                FoundBy::Use => "use",
                FoundBy::Scrubber => "scrubber",
            };
            let outcome = outcome(finding.remedy);
            if finding.remedy == Remedy::Nobody {
                tracing::error!(what, place, op, by, outcome, "memory is damaged for good");
            } else {
                tracing::warn!(what, place, op, by, outcome, "memory was damaged");
            }
            self.last = self.last.max(number);
            self.open.retain(|(open, _)| *open != number);
            if !finding.remedy.is_sound() {
                self.open.push((number, finding.remedy));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use vsr_types::ReplicaIndex;

    const NOW: Instant = Instant::from_nanos(9_000_000_000);

    fn finding(number: u64, remedy: Remedy) -> Finding {
        Finding {
            number,
            kind: FindingKind::State,
            place: 35,
            op: Op::new(12),
            by: FoundBy::Scrubber,
            at: Instant::from_nanos(7_000_000_000),
            remedy,
            ended_at: Instant::from_nanos(7_500_000_000),
        }
    }

    fn integrity(findings: Vec<Finding>) -> Integrity {
        Integrity {
            scrub: ScrubReport {
                rounds: 3,
                looked_at: 250,
                size: 1000,
                left: Duration::from_secs(60),
                ..ScrubReport::default()
            },
            findings,
            totals: vec![(FindingKind::State, FindingTotals::default())],
        }
    }

    #[test]
    fn sound_memory_has_a_scrubber_and_no_damage() {
        let sound = integrity(Vec::new());
        assert_eq!(damage(&sound, 3, NOW), None);
        let told = scrub(&sound, NOW);
        assert_eq!((told.rounds, told.last_finding), (3, None));
        assert!((told.percent - 25.0).abs() < 1e-9 && (told.ends_in_seconds - 60.0).abs() < 1e-9);
    }

    #[test]
    fn what_was_repaired_is_a_finding_and_no_damage() {
        let repaired = integrity(vec![finding(1, Remedy::Peer(ReplicaIndex::new(2)))]);
        assert_eq!(damage(&repaired, 3, NOW), None);
        let last = scrub(&repaired, NOW).last_finding.expect("one");
        assert_eq!(last.outcome, "replaced by what R2 had");
        assert_eq!((last.seconds_ago, last.took_seconds), (2.0, Some(0.5)));
    }

    #[test]
    fn damage_says_where_since_when_and_from_whom_it_is_fetched() {
        let mut bad = integrity(vec![finding(4, Remedy::None)]);
        bad.scrub.damaged_since = Some(Instant::from_nanos(7_000_000_000));
        bad.scrub.waits_for = Some(ReplicaIndex::new(1));
        let told = damage(&bad, 3, NOW).expect("damage");
        assert_eq!(
            told.text,
            "damaged: state in chunk 35, after op 12: being fetched from R1"
        );
        assert_eq!((told.seconds, told.unrepairable), (2.0, false));
        assert_eq!(told.waits_for, Some(1));
    }

    #[test]
    fn what_nobody_has_is_an_alarm_and_one_replica_alone_is_told_what_to_do() {
        let mut bad = integrity(vec![finding(4, Remedy::Nobody)]);
        bad.scrub.is_blocked = true;
        let told = damage(&bad, 3, NOW).expect("damage");
        assert!(told.unrepairable && told.blocks);
        let expected = "damaged: state in chunk 35, after op 12: bad on every replica that has it: nothing is \
                        guessed; an operation met it, so nothing is executed here until it is repaired";
        assert_eq!(told.text, expected);
        let alone = damage(&bad, 1, NOW).expect("damage");
        assert!(alone.text.contains("no other replica"), "{}", alone.text);
    }
}
