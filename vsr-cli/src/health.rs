//! `health`: does the cluster work? For scripts: the exit code is the answer.

use serde_json::json;

use crate::args::{Global, HealthArgs};
use crate::ask::{self, Answer};
use crate::failure::Failure;
use crate::output::{Block, Report, Screen};
use crate::status::{self, Status};
use crate::table::Tone;

/// Succeeds when a majority works under one primary; with `--all`, when every replica does.
///
/// # Errors
/// When the cluster does not work, saying why.
pub(crate) async fn run(args: &HealthArgs, global: &Global, screen: Screen) -> Result<(), Failure> {
    let answers = status::gather(global).await?;
    ask::somebody(&answers)?;
    let summary = judge(&answers, args.all)
        .map_err(|why| Failure::new(format!("not healthy: {why}")).next("vsr-cli status"))?;
    Ok(screen.show(&Report {
        json: json!({"healthy": true, "summary": summary}),
        blocks: vec![Block::Line(format!("healthy: {summary}"), Tone::Good)],
    })?)
}

/// What works, in words.
fn judge(answers: &[Answer<Status>], all: bool) -> Result<String, String> {
    let known: Vec<&Status> = answers.iter().filter_map(Answer::get).collect();
    if known.iter().all(|status| status.cluster.is_none()) {
        return Err("no cluster is formed yet (`vsr-cli init`)".to_owned());
    }
    let view = known.iter().map(|status| status.view).max().unwrap_or(0);
    let works = |status: &&&Status| status.ready && status.view == view;
    let working = known.iter().filter(works).count();
    let total = known
        .iter()
        .map(|status| usize::from(status.replicas))
        .max()
        .unwrap_or(0);
    let total = total.max(answers.len());
    let quorum = known
        .iter()
        .map(|status| usize::from(status.quorum))
        .max()
        .unwrap_or(0);
    let quorum = quorum.max(total / 2 + 1);
    let Some(primary) = known
        .iter()
        .filter(works)
        .find(|status| status.role == "primary")
    else {
        return Err(format!(
            "no working primary in view {view}, of {} replicas",
            known.len()
        ));
    };
    let summary = format!(
        "{working} of {total} replicas work in view {view}, led by R{}",
        primary.replica
    );
    if working < quorum {
        return Err(format!("{summary}; a quorum is {quorum}"));
    }
    if all && working < total {
        return Err(format!("{summary}; --all asks for all"));
    }
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::{answer, silent};

    #[test]
    fn a_majority_is_enough_unless_all_are_asked_for() {
        let two = [answer(0, |_| {}), answer(1, |_| {}), silent("c:3")];
        let words = "2 of 3 replicas work in view 0, led by R0";
        assert_eq!(judge(&two, false), Ok(words.to_owned()));
        assert!(judge(&two, true).is_err());
        let three = [answer(0, |_| {}), answer(1, |_| {}), answer(2, |_| {})];
        assert!(judge(&three, true).is_ok());
    }

    #[test]
    fn asking_one_endpoint_of_three_is_no_majority() {
        let why = judge(&[answer(0, |_| {})], false).expect_err("one of three");
        assert!(why.contains("a quorum is 2"), "{why}");
    }

    #[test]
    fn what_does_not_work_is_said() {
        let not_ready = |raw: &mut serde_json::Value| raw["ready"] = json!(false);
        let newer = |raw: &mut serde_json::Value| raw["view"] = json!(1);
        let blank = |raw: &mut serde_json::Value| raw["cluster"] = json!(null);
        for (answers, says) in [
            (
                vec![answer(0, not_ready), answer(1, |_| {}), answer(2, |_| {})],
                "no working primary",
            ),
            (
                vec![
                    answer(0, |_| {}),
                    answer(1, not_ready),
                    answer(2, not_ready),
                ],
                "quorum is 2",
            ),
            (
                vec![answer(0, |_| {}), answer(1, newer), answer(2, newer)],
                "no working primary",
            ),
            (
                vec![answer(0, blank), answer(1, blank), answer(2, blank)],
                "vsr-cli init",
            ),
        ] {
            let why = judge(&answers, false).expect_err(says);
            assert!(why.contains(says), "{why}");
        }
    }
}
