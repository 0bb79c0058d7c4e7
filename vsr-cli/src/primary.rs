//! `primary show` and `primary move`: who leads, and letting another replica lead without a time-out.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use vsr_types::message::HandOverOutcome;

use crate::args::{Global, PrimaryArgs, PrimaryCommand};
use crate::ask::{self, Answer};
use crate::failure::Failure;
use crate::output::{Block, Report, Screen};
use crate::status::{self, Status};
use crate::table::Tone;

/// How long a hand-over that was begun is watched between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// # Errors
/// When nobody leads, or the one who leads refuses to hand over.
pub(crate) async fn run(
    args: &PrimaryArgs,
    global: &Global,
    screen: Screen,
) -> Result<(), Failure> {
    let answers = status::gather(global).await?;
    ask::somebody(&answers)?;
    let leader = leader(&answers)?;
    match args.command {
        PrimaryCommand::Show => show(leader, screen),
        PrimaryCommand::Move { replica } => move_to(leader, replica, global, screen).await,
    }
}

/// The replica that leads the newest view.
fn leader(answers: &[Answer<Status>]) -> Result<(&str, &Status), Failure> {
    let leaders = answers.iter().filter_map(|answer| {
        let status = answer.get()?;
        (status.role == "primary").then_some((answer.endpoint.as_str(), status))
    });
    leaders
        .max_by_key(|(_, status)| status.view)
        .ok_or_else(|| {
            Failure::new("no replica leads at the moment".to_owned()).next("vsr-cli status")
        })
}

fn show((endpoint, status): (&str, &Status), screen: Screen) -> Result<(), Failure> {
    let (replica, view) = (status.replica, status.view);
    Ok(screen.show(&Report {
        json: json!({"primary": replica, "view": view, "endpoint": endpoint}),
        blocks: vec![Block::Line(
            format!("R{replica} at {endpoint} leads view {view}"),
            Tone::Good,
        )],
    })?)
}

async fn move_to(
    (endpoint, status): (&str, &Status),
    target: u8,
    global: &Global,
    screen: Screen,
) -> Result<(), Failure> {
    let began = Instant::now();
    let mut tool = ask::connect(global, endpoint)
        .await
        .map_err(|why| Failure::new(format!("{endpoint}: {why}")))?;
    let (outcome, view) = tool
        .hand_over(target)
        .await
        .map_err(|error| Failure::new(error.to_string()))?;
    match outcome {
        HandOverOutcome::Begun => {}
        HandOverOutcome::AlreadyPrimary => return show((endpoint, status), screen),
        HandOverOutcome::NotPrimary => {
            return Err(
                Failure::new(format!("R{} has just lost the lead", status.replica))
                    .next("try again, or look: `vsr-cli status`"),
            );
        }
        HandOverOutcome::NotFit => {
            return Err(Failure::new(format!(
                "R{target} cannot lead: it is no replica of this cluster, not reachable, or not normal"
            ))
            .next("vsr-cli status"));
        }
    }
    // The order is given; the new view is the answer.
    while began.elapsed() < global.timeout {
        let answers = status::gather(global).await?;
        if let Ok((endpoint, status)) = leader(&answers)
            && status.replica == target
            && status.view >= view
        {
            let took = began.elapsed();
            return Ok(screen.show(&Report {
                json: json!({
                    "primary": target, "view": status.view, "endpoint": endpoint,
                    "took_seconds": took.as_secs_f64(),
                }),
                blocks: vec![Block::Line(
                    format!(
                        "R{target} at {endpoint} leads view {} now, after {} ms",
                        status.view,
                        took.as_millis()
                    ),
                    Tone::Good,
                )],
            })?);
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(Failure::new(format!(
        "R{target} has not taken over within {:?}",
        global.timeout
    ))
    .next("vsr-cli status"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::{answer, silent};

    #[test]
    fn the_one_who_leads_the_newest_view_is_the_primary() {
        let deposed = answer(0, |status| status["view"] = 3.into());
        let present = answer(1, |status| {
            status["view"] = 4.into();
            status["role"] = "primary".into();
        });
        let all = [deposed, present, silent("c:3")];
        let (_, status) = leader(&all).expect("somebody leads");
        assert_eq!((status.replica, status.view), (1, 4));
        assert!(leader(&[silent("a:1")]).is_err());
    }
}
