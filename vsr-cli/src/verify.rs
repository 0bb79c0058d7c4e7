//! `verify`: every replica's digest at one op, compared.
//!
//! Replicas take a digest of their whole state every so many ops and remember the last few. The newest
//! op that *every* replica has passed is the one to compare at; while the cluster is working some may
//! have forgotten it by the time they are asked, so the question is repeated a few times. With `--deep`
//! the memory itself is compared as well, chunk by chunk.

mod deep;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use vsr_types::message::InspectTopic;

use crate::args::{Global, VerifyArgs};
use crate::ask::{self, Answer};
use crate::failure::{Exit, Failure};
use crate::output::{Block, Report, Screen};
use crate::status::Digest;
use crate::table::{Cell, Table, Tone};

/// How often the question is asked before giving up.
const ATTEMPTS: u32 = 5;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// Compares the digests of all replicas.
///
/// # Errors
/// When they differ (exit code 4), or cannot all be compared (exit code 1).
pub(crate) async fn run(args: &VerifyArgs, global: &Global, screen: Screen) -> Result<(), Failure> {
    let mut attempt = 1;
    let (op, answers) = loop {
        let newest: Vec<Answer<Digest>> = ask::all(global, InspectTopic::Digest, 0).await?;
        ask::somebody(&newest)?;
        let op = common_op(&newest);
        let answers: Vec<Answer<Digest>> = match op {
            0 => newest,
            op => ask::all(global, InspectTopic::Digest, op).await?,
        };
        if (op > 0 && answers.iter().all(|answer| answer.result.is_ok())) || attempt == ATTEMPTS {
            break (op, answers);
        }
        attempt += 1;
        tokio::time::sleep(PAUSE).await;
    };
    let verdict = judge(op, &answers);
    let mut report = report(op, &answers, &verdict);
    if !args.deep {
        screen.show(&report)?;
        return verdict.into_result(op);
    }
    let deep = deep::run(global).await?;
    report.json["deep"] = deep.json();
    report.blocks.extend(deep.blocks());
    screen.show(&report)?;
    let digests = verdict.into_result(op);
    match deep.into_result() {
        // Of two complaints the worse one is told.
        Err(failure) if failure.exit() == Exit::Divergence => Err(failure),
        chunks => digests.and(chunks),
    }
}

/// The newest op at which everybody who answered has taken a digest; 0: somebody has none.
fn common_op(answers: &[Answer<Digest>]) -> u64 {
    answers
        .iter()
        .filter_map(Answer::get)
        .map(|digest| digest.op)
        .min()
        .unwrap_or(0)
}

/// What the comparison says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// All replicas hold the same state.
    Equal,
    /// Those that answered do, but not all answered.
    Incomplete { compared: usize },
    /// No digest was taken yet.
    Nothing,
    /// Not the same; the digest that most of them have, if one is that of a majority.
    Different { majority: Option<String> },
}

impl Verdict {
    fn into_result(self, op: u64) -> Result<(), Failure> {
        match self {
            Self::Equal => Ok(()),
            Self::Incomplete { compared } => Err(Failure::new(format!(
                "only {compared} could be compared at op {op}"
            ))
            .next("bring the others back, then verify again; see `vsr-cli status`")),
            Self::Nothing => Err(Failure::new("there is nothing to compare yet")
                .next("digests are taken every so many ops: write something, then verify again")),
            Self::Different { .. } => Err(Failure::with(
                Exit::Divergence,
                format!("the states differ at op {op}"),
            )
            .next(
                "keep the logs; stop the replica that differs and start it again, blank: it \
                     recovers from the others",
            )),
        }
    }

    const fn word(&self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Incomplete { .. } => "incomplete",
            Self::Nothing => "nothing",
            Self::Different { .. } => "different",
        }
    }
}

fn judge(op: u64, answers: &[Answer<Digest>]) -> Verdict {
    let digests: Vec<&Digest> = answers
        .iter()
        .filter_map(Answer::get)
        .filter(|digest| digest.op == op)
        .collect();
    if op == 0 || digests.is_empty() {
        return Verdict::Nothing;
    }
    let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
    for digest in &digests {
        *votes.entry(&digest.digest).or_default() += 1;
    }
    if votes.len() > 1 {
        let majority = votes.iter().find(|(_, count)| **count > answers.len() / 2);
        return Verdict::Different {
            majority: majority.map(|(digest, _)| (*digest).to_owned()),
        };
    }
    if digests.len() < answers.len() {
        return Verdict::Incomplete {
            compared: digests.len(),
        };
    }
    Verdict::Equal
}

fn report(op: u64, answers: &[Answer<Digest>], verdict: &Verdict) -> Report {
    let mut table = Table::new(&["endpoint", ">op", "digest", "verdict"]);
    let mut rows = Vec::new();
    for answer in answers {
        let endpoint = answer.endpoint.as_str();
        match &answer.result {
            Ok(digest) => {
                let (word, tone) = match verdict {
                    Verdict::Equal | Verdict::Incomplete { .. } => ("equal", Tone::Good),
                    Verdict::Nothing => ("none taken yet", Tone::Dim),
                    Verdict::Different {
                        majority: Some(most),
                    } if *most == digest.digest => ("as the majority", Tone::Good),
                    Verdict::Different { .. } => ("different", Tone::Bad),
                };
                let cell = Cell::toned(word, tone);
                table.row(vec![
                    endpoint.into(),
                    Cell::number(digest.op),
                    (&digest.digest).into(),
                    cell,
                ]);
                rows.push(json!({
                    "endpoint": endpoint, "op": digest.op, "digest": digest.digest, "verdict": word,
                }));
            }
            Err(why) => {
                let cell = Cell::toned(why, Tone::Bad);
                table.row(vec![endpoint.into(), "-".into(), "-".into(), cell]);
                rows.push(json!({"endpoint": endpoint, "error": why}));
            }
        }
    }
    Report {
        json: json!({"op": op, "verdict": verdict.word(), "replicas": rows}),
        blocks: vec![Block::Table(table)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    fn says(endpoint: &str, op: u64, digest: &str) -> Answer<Digest> {
        let digest = Digest {
            op,
            digest: digest.to_owned(),
        };
        Answer {
            endpoint: endpoint.to_owned(),
            result: Ok(digest),
        }
    }

    fn silent() -> Answer<Digest> {
        Answer {
            endpoint: "c:3".to_owned(),
            result: Err("connection refused".to_owned()),
        }
    }

    #[test]
    fn the_common_op_is_that_of_the_slowest() {
        let answers = [says("a:1", 512, "x"), says("b:2", 256, "y"), silent()];
        assert_eq!(common_op(&answers), 256);
        assert_eq!(common_op(&[silent()]), 0);
    }

    #[test]
    fn each_verdict_has_its_exit_code() {
        let equal = [says("a:1", 64, "x"), says("b:2", 64, "x")];
        assert!(judge(64, &equal).into_result(64).is_ok());
        let code = |answers: &[_], op| judge(op, answers).into_result(op).expect_err("bad").exit();
        assert_eq!(
            code(&[says("a:1", 64, "x"), says("b:2", 64, "y")], 64),
            Exit::Divergence
        );
        assert_eq!(code(&[says("a:1", 64, "x"), silent()], 64), Exit::Failed);
        assert_eq!(
            code(&[says("a:1", 0, "x"), says("b:2", 0, "x")], 0),
            Exit::Failed
        );
        // A difference among those that answered is not hidden by one that did not.
        let both = [says("a:1", 64, "x"), says("b:2", 64, "y"), silent()];
        assert_eq!(code(&both, 64), Exit::Divergence);
    }

    #[test]
    fn the_odd_one_out_is_named() {
        let answers = [
            says("a:1", 64, "x"),
            says("b:2", 64, "y"),
            says("c:3", 64, "x"),
        ];
        let verdict = judge(64, &answers);
        assert_eq!(
            verdict,
            Verdict::Different {
                majority: Some("x".to_owned())
            }
        );
        let report = report(64, &answers, &verdict);
        let expected = "endpoint\top\tdigest\tverdict\n\
                        a:1\t64\tx\tas the majority\n\
                        b:2\t64\ty\tdifferent\n\
                        c:3\t64\tx\tas the majority\n";
        assert_eq!(report.render(Format::Plain), expected);
        assert_eq!(report.json["verdict"], "different");
    }
}
