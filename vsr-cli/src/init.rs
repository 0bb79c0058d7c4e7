//! `init`: the operator's one command that forms a cluster.

use serde_json::json;
use vsr_net::init::{Formed, InitError};

use crate::args::Global;
use crate::failure::{Exit, Failure};
use crate::output::{Block, Report, Screen};
use crate::table::Tone;

/// Forms a cluster of the replicas at the endpoints.
///
/// # Errors
/// When a replica refuses (exit code 3) or is not there (exit code 1).
pub(crate) async fn run(global: &Global, screen: Screen) -> Result<(), Failure> {
    let name = global.cluster.as_deref();
    let formed = vsr_net::init::form(&global.endpoints, name, global.timeout).await;
    match formed {
        Ok(formed) => Ok(screen.show(&report(formed))?),
        Err(error) => Err(failure(&error)),
    }
}

pub(crate) fn report(formed: Formed) -> Report {
    let replicas = formed.replicas;
    let survives = replicas.saturating_sub(1) / 2;
    let failures = if survives == 1 { "failure" } else { "failures" };
    let facts = format!(
        "{replicas} replicas, survives {survives} {failures} | next: vsr-cli status, then any Redis \
         client"
    );
    Report {
        json: json!({
            "cluster": formed.cluster.to_string(),
            "replicas": replicas,
            "failures_survived": survives,
        }),
        blocks: vec![
            Block::Line(format!("formed cluster {}", formed.cluster), Tone::Good),
            Block::Line(facts, Tone::Plain),
        ],
    }
}

pub(crate) fn failure(error: &InitError) -> Failure {
    let text = error.to_string();
    match error {
        InitError::Refused(_) => Failure::with(Exit::Refused, text)
            .next("nothing was changed; `vsr-cli status` shows which cluster each belongs to"),
        InitError::Unreachable(_) => Failure::new(text)
            .next("nothing was changed; start the missing replicas, then repeat `vsr-cli init`"),
        InitError::Mismatch(_) => {
            Failure::new(text).next("name every replica of the --peers list once, with --endpoints")
        }
        InitError::Source(_) => Failure::new(text).next(
            "no cluster was formed; blank replicas may hold a part of the image: import another one, or \
             restart them",
        ),
        InitError::NotBrought(_) => Failure::new(text).next(
            "no cluster was formed; start what is missing and repeat `vsr-cli import`, which needs no \
             restart of the others",
        ),
        InitError::Unconfirmed { .. } => Failure::new(text).next("vsr-cli status"),
    }
}

#[cfg(test)]
mod tests {
    use vsr_net::init::InitRefusal;
    use vsr_types::ClusterId;
    use vsr_types::message::InitOutcome;

    use super::*;
    use crate::output::Format;

    #[test]
    fn a_refusal_is_exit_code_three_and_an_absence_one() {
        let refusal = InitRefusal::Outcome(InitOutcome::NotBlank, ClusterId::new(7));
        let refused = failure(&InitError::Refused(vec![("a:1".to_owned(), refusal)]));
        assert_eq!(refused.exit(), Exit::Refused);
        assert!(refused.message().contains("a:1"), "{refused}");
        let absent = vec![("b:2".to_owned(), "connection refused".to_owned())];
        let absent = failure(&InitError::Unreachable(absent));
        assert_eq!(absent.exit(), Exit::Failed);
        assert!(
            absent
                .advice()
                .is_some_and(|advice| advice.contains("init"))
        );
    }

    #[test]
    fn success_names_the_cluster_and_what_it_survives() {
        let report = report(Formed {
            cluster: ClusterId::new(0xabc),
            replicas: 5,
        });
        assert_eq!(report.json["failures_survived"], 2);
        let text = report.render(Format::Plain);
        assert!(text.starts_with("formed cluster 00000000000000000000000000000abc\n5 replicas"));
    }
}
