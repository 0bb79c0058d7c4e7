//! `export`: the cluster's state as a file, while it serves (R8.9).

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use vsr_net::export::{self, ExportOptions, ExportProgress};
use vsr_net::{PingReport, Tool};
use vsr_node::image::{Facts, FileSink};
use vsr_types::message::{InspectTopic, PeerStatus};
use vsr_types::{Op, View};

use crate::args::{ExportArgs, Global};
use crate::ask::{self, Answer};
use crate::failure::{Exit, Failure};
use crate::image;
use crate::output::Screen;
use crate::progress::Progress;
use crate::units::{bytes, time};

/// What takes longer than this gets a bar.
const PATIENCE: Duration = Duration::from_secs(2);

/// Writes the state to a file.
///
/// # Errors
/// When no replica gives it, or the file cannot be written: then there is no file.
pub(crate) async fn run(args: &ExportArgs, global: &Global, screen: Screen) -> Result<(), Failure> {
    if args.check {
        return image::show(&args.file, screen);
    }
    if args.file.exists() && !args.replace {
        let text = format!("{} exists already", args.file.display());
        return Err(Failure::with(Exit::Usage, text).next("choose another name, or say --replace"));
    }
    let begun = Instant::now();
    let replicas: Vec<Answer<PingReport>> = ask::each(global, |global, endpoint| async move {
        let mut tool = ask::connect(&global, &endpoint).await?;
        tool.ping()
            .await
            .map_err(|error| ask::words_of(error, &endpoint))
    })
    .await?;
    ask::somebody(&replicas)?;
    let at_least = newest_op(&replicas, global.endpoints.len(), args.accept_loss)?;
    let donor = donor(&replicas, args.from)?;
    let mut tool = ask::connect(global, &donor.endpoint)
        .await
        .map_err(Failure::new)?;
    let origin = origin(&mut tool).await?;
    let mut sink = FileSink::new(&args.file);
    let mut bar = Bar::new();
    let options = ExportOptions {
        at_least,
        rate: args.rate as u64,
        patience: global.timeout,
    };
    let exported = export::fetch(&mut tool, &mut sink, options, |at| bar.show(at)).await;
    drop(bar);
    let exported = exported.map_err(|error| match sink.take_error() {
        Some(error) => image::failure(&error),
        None => Failure::new(error.to_string()).next(
            "nothing was written; try again, or name another replica with --from (`vsr-cli status`)",
        ),
    })?;
    let facts = Facts {
        offer: exported.offer,
        written_ns: wall(),
        replica: tool.replica().raw(),
        cluster_name: origin.cluster_name,
        op_max: origin.op_max,
    };
    let summary = sink
        .finish(&facts)
        .map_err(|error| image::failure(&error))?;
    let took = begun.elapsed();
    let more = [
        ("time", format!("{took:.1?}"), json!(took.as_secs_f64())),
        (
            "fetched",
            format!(
                "{} in {} passes",
                bytes(exported.bytes as f64),
                exported.passes
            ),
            json!(exported.bytes),
        ),
        (
            "execution held",
            time(exported.held.as_nanos() as f64),
            json!(exported.held.as_secs_f64()),
        ),
    ];
    Ok(screen.show(&image::report(&summary, "written and verified", &more))?)
}

/// The last op that any of a majority holds. Whatever was acknowledged is held by a majority, so by one of
/// these.
fn newest_op(
    replicas: &[Answer<PingReport>],
    count: usize,
    accept_loss: bool,
) -> Result<Op, Failure> {
    let has_log = |ping: &&PingReport| {
        matches!(
            ping.status,
            Some(PeerStatus::Normal | PeerStatus::ViewChange | PeerStatus::Halted)
        )
    };
    let known: Vec<_> = replicas
        .iter()
        .filter_map(Answer::get)
        .filter(has_log)
        .collect();
    if known.len() > count / 2 {
        return Ok(known.iter().map(|ping| ping.op).max().unwrap_or(Op::ZERO));
    }
    if accept_loss {
        return Ok(Op::ZERO);
    }
    let text = format!(
        "only {} of {count} replicas have their memory and answer",
        known.len()
    );
    Err(Failure::with(Exit::Refused, text).next(
        "what was acknowledged last may be with the others: bring them back, or say --accept-loss",
    ))
}

/// Who gives: the last backup of the chain, which has the least to do, then those before it, the primary
/// last; or the one that was named.
fn donor(
    replicas: &[Answer<PingReport>],
    from: Option<u8>,
) -> Result<&Answer<PingReport>, Failure> {
    let of = |answer: &&Answer<PingReport>| answer.get().copied();
    if let Some(from) = from {
        let named = |answer: &&Answer<PingReport>| {
            of(answer).is_some_and(|ping| ping.replica.raw() == from)
        };
        let found = replicas.iter().find(named);
        return found.ok_or_else(|| Failure::new(format!("replica {from} does not answer")));
    }
    let count = replicas.len() as u8;
    let view = replicas
        .iter()
        .filter_map(Answer::get)
        .map(|ping| ping.view)
        .max();
    let primary = view.unwrap_or(View::ZERO).primary(count);
    let rank = |answer: &&Answer<PingReport>| {
        let ping = of(answer)?;
        let serves = ping.status == Some(PeerStatus::Normal);
        let steps = (ping.replica.raw() + count - primary.raw()) % count;
        Some((serves, steps, ping.applied))
    };
    let best = replicas
        .iter()
        .filter(|answer| of(answer).is_some())
        .max_by_key(rank);
    best.ok_or_else(|| Failure::new("no replica answered"))
}

/// What a file says of where it is from.
struct Origin {
    cluster_name: String,
    op_max: u64,
}

async fn origin(tool: &mut Tool) -> Result<Origin, Failure> {
    let text = tool.inspect(InspectTopic::Status, 0).await;
    let text = text.map_err(|error| Failure::new(error.to_string()))?;
    let json: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| Failure::new(format!("its answer is no JSON: {error}")))?;
    let op_max = json["epoch_end"]["op_max"].as_u64();
    Ok(Origin {
        cluster_name: json["cluster_name"].as_str().unwrap_or_default().to_owned(),
        op_max: op_max.unwrap_or(vsr_types::limits::NUMBER_MAX),
    })
}

fn wall() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// A bar, if it takes long.
struct Bar {
    begun: Instant,
    bar: Option<Progress>,
    pass: u32,
}

impl Bar {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            bar: None,
            pass: 0,
        }
    }

    fn show(&mut self, at: ExportProgress) {
        if self.begun.elapsed() < PATIENCE {
            return;
        }
        if self.pass != at.pass || self.bar.is_none() {
            self.pass = at.pass;
            self.bar = Some(Progress::counting(at.chunks));
        }
        if let Some(bar) = &mut self.bar {
            bar.reach(
                at.looked_at,
                format!("pass {}, {}", at.pass, bytes(at.bytes as f64)),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use vsr_types::{ClusterId, ReplicaIndex};

    use super::*;

    fn ping(replica: u8, view: u64, status: PeerStatus, op: u64) -> Answer<PingReport> {
        Answer {
            endpoint: format!("r{replica}:1"),
            result: Ok(PingReport {
                round_trip: Duration::ZERO,
                replica: ReplicaIndex::new(replica),
                cluster: ClusterId::new(1),
                view: View::new(view),
                status: Some(status),
                op: Op::new(op),
                applied: Op::new(op),
                tail: Op::new(1),
            }),
        }
    }

    fn silent(replica: u8) -> Answer<PingReport> {
        Answer {
            endpoint: format!("r{replica}:1"),
            result: Err("connection refused".to_owned()),
        }
    }

    #[test]
    fn the_last_backup_of_the_chain_gives_and_the_primary_only_when_nobody_else_can() {
        use PeerStatus::{Normal, Recovering};
        let name = |replicas: &[Answer<PingReport>], from| {
            donor(replicas, from).map(|a| a.endpoint.clone())
        };
        let all = [
            ping(0, 4, Normal, 9),
            ping(1, 4, Normal, 9),
            ping(2, 4, Normal, 9),
        ];
        assert_eq!(
            name(&all, None).unwrap(),
            "r0:1",
            "R1 leads view 4, R0 is the last"
        );
        assert_eq!(name(&all, Some(1)).unwrap(), "r1:1");
        let some = [ping(0, 4, Recovering, 0), ping(1, 4, Normal, 9), silent(2)];
        assert_eq!(name(&some, None).unwrap(), "r1:1");
        assert!(name(&some, Some(2)).is_err());
    }

    #[test]
    fn what_was_acknowledged_is_held_by_one_of_a_majority() {
        use PeerStatus::{Normal, Recovering};
        let some = [ping(0, 4, Normal, 7), ping(1, 4, Normal, 9), silent(2)];
        assert_eq!(newest_op(&some, 3, false).unwrap(), Op::new(9));
        let few = [ping(0, 4, Normal, 7), ping(1, 4, Recovering, 9), silent(2)];
        assert_eq!(newest_op(&few, 3, false).unwrap_err().exit(), Exit::Refused);
        assert_eq!(newest_op(&few, 3, true).unwrap(), Op::ZERO);
    }
}
