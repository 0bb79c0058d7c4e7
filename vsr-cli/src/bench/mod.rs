//! The load generator: clients in one thread, a timetable, one histogram.
//!
//! ```text
//!   plan ──> schedule ──next()──> work ──> Load::batch ──> replica
//!                                   │          │
//!                                   └─ failed ─┴─ answered ──> recorder ──> summary
//! ```
//!
//! Where to read next: [`plan`] for closed and open loops, [`recorder`] for what is counted,
//! [`resp_load`] for the protocol that Redis users speak.

mod commands;
mod load;
mod native_load;
mod pacer;
mod plan;
mod recorder;
mod resp_load;
mod summary;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::{JoinHandle, spawn_local};
use vsr_net::{Client, ClientOptions};

use crate::args::{BenchArgs, Global, RESP_DEFAULT};
use crate::bench::load::{Load, Shared, work};
use crate::bench::native_load::NativeLoad;
use crate::bench::pacer::Pacer;
use crate::bench::plan::{Plan, Schedule};
use crate::bench::recorder::Recorder;
use crate::bench::resp_load::RespLoad;
use crate::bench::summary::Summary;
use crate::failure::{Exit, Failure};
use crate::output::Screen;
use crate::progress::Progress;
use crate::units;

pub(crate) use crate::bench::summary::Latency;

/// How often the progress bar moves.
const TICK: Duration = Duration::from_millis(200);

/// Runs the load that `args` describes and prints what it found.
///
/// # Errors
/// When nobody can be reached, or nothing at all was answered.
pub(crate) async fn run(args: &BenchArgs, global: &Global, screen: Screen) -> Result<(), Failure> {
    let plan = plan_of(args, global);
    let began = SystemTime::now();
    let (protocol, endpoints, shared) = match args.native {
        true => run_native(&plan, global).await?,
        false => run_resp(&plan, args).await?,
    };
    let recorder = shared.recorder.borrow();
    let unwritten = |path: &std::path::Path, error: std::io::Error| {
        Failure::new(format!("cannot write {}: {error}", path.display()))
            .next("name a file in a folder that exists")
    };
    if let Some(path) = &args.hist {
        summary::write_histogram(path, recorder.latency(), began, plan.duration)
            .map_err(|error| unwritten(path, error))?;
    }
    if let Some(path) = &args.timeline {
        summary::write_timeline(path, recorder.timeline())
            .map_err(|error| unwritten(path, error))?;
    }
    let summary = Summary::new(&plan, protocol, endpoints, &recorder);
    let report = summary
        .report()
        .map_err(|error| Failure::new(error.to_string()))?;
    screen.show(&report)?;
    if summary.is_empty() {
        let why = summary.worst_error().unwrap_or("no answers");
        return Err(Failure::new(format!("nothing was answered well ({why})"))
            .next("look at `vsr-cli status`; is a cluster formed?"));
    }
    Ok(())
}

/// As many as one native client has sessions, which is also what a cluster keeps by default.
const NATIVE_CLIENTS_MAX: usize = 4096;

type Finished = (&'static str, Vec<String>, Rc<Shared>);

async fn run_resp(plan: &Plan, args: &BenchArgs) -> Result<Finished, Failure> {
    let endpoints = match args.resp.as_slice() {
        [] => vec![RESP_DEFAULT.to_owned()],
        named => named.to_vec(),
    };
    let load = |client: u32| {
        let endpoint = endpoints[client as usize % endpoints.len()].clone();
        RespLoad::new(plan, client, endpoint)
    };
    let loads = (0..plan.clients).map(load).collect();
    Ok(("resp", endpoints.clone(), drive(plan, loads).await?))
}

async fn run_native(plan: &Plan, global: &Global) -> Result<Finished, Failure> {
    let clients = plan.clients as usize;
    if clients > NATIVE_CLIENTS_MAX {
        let message = format!("--clients is at most {NATIVE_CLIENTS_MAX} with --native");
        return Err(
            Failure::with(Exit::Usage, message).next("start several load generators for more")
        );
    }
    let client = connect_native(global, clients).await?;
    let operation_size = plan.pipeline as usize * plan.size;
    if operation_size > client.operation_size_max() {
        let most = client.operation_size_max();
        let message =
            format!("a batch of {operation_size} bytes is more than one operation, {most}");
        return Err(Failure::with(Exit::Usage, message).next("lower --pipeline or --size"));
    }
    let load = |number| NativeLoad::new(plan, number, client.clone());
    let loads = (0..plan.clients).map(load).collect();
    Ok((
        "native",
        global.endpoints.clone(),
        drive(plan, loads).await?,
    ))
}

/// A native client with `sessions` sessions.
pub(crate) async fn connect_native(global: &Global, sessions: usize) -> Result<Client, Failure> {
    let options = ClientOptions {
        cluster_name: global.cluster.clone(),
        sessions,
        connect_timeout: global.timeout,
        timeout: global.timeout,
        ..ClientOptions::default()
    };
    let connected = Client::connect(&global.endpoints, options).await;
    connected.map_err(|error| {
        Failure::new(error.to_string()).next("is a cluster formed there? See `vsr-cli status`")
    })
}

fn plan_of(args: &BenchArgs, global: &Global) -> Plan {
    Plan {
        clients: args.clients,
        pipeline: args.pipeline,
        size: args.size,
        keys: args.keys,
        reads: args.reads,
        rate: args.rate,
        warmup: args.warmup,
        duration: args.duration,
        timeout: global.timeout,
        wait: args.wait,
        seed: args.seed,
    }
}

/// Connects all clients, then lets them work until the schedule ends.
async fn drive<L: Load + 'static>(plan: &Plan, mut loads: Vec<L>) -> Result<Rc<Shared>, Failure> {
    let advice = "is a replica listening there? See --resp, --endpoints and `vsr-node start`";
    for load in &mut loads {
        match tokio::time::timeout(plan.timeout, load.connect()).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => return Err(Failure::new(format!("cannot connect: {why}")).next(advice)),
            Err(_) => return Err(Failure::new("cannot connect: no answer").next(advice)),
        }
    }
    let schedule = Schedule::new(plan, Instant::now());
    let recorder = Recorder::new(schedule.measure_from(), schedule.end());
    let shared = Rc::new(Shared {
        schedule,
        recorder: RefCell::new(recorder),
        timeout: plan.timeout,
        pipeline: plan.pipeline,
    });
    let mut workers = Vec::with_capacity(loads.len());
    for load in loads {
        let pacer = Pacer::new(plan.rate.is_some())?;
        workers.push(spawn_local(work(load, pacer, Rc::clone(&shared))));
    }
    let progress = show_progress(&shared);
    for worker in workers {
        worker
            .await
            .map_err(|error| Failure::new(format!("a client stopped: {error}")))?;
    }
    progress.abort();
    let mut recorder = shared.recorder.borrow_mut();
    for intended in shared.schedule.missed() {
        recorder.missed(intended, u64::from(shared.pipeline));
    }
    recorder.finish();
    drop(recorder);
    Ok(shared)
}

/// Moves a bar on standard error while the run goes on.
fn show_progress(shared: &Rc<Shared>) -> JoinHandle<()> {
    let start = shared.schedule.start();
    let length = shared.schedule.end() - start;
    let mut bar = Progress::new(length);
    let shared = Rc::clone(shared);
    spawn_local(async move {
        let mut ticks = tokio::time::interval(TICK);
        let mut before = 0;
        loop {
            ticks.tick().await;
            let (total, errors) = {
                let recorder = shared.recorder.borrow();
                (recorder.total(), recorder.errors_total())
            };
            let rate = (total - before) as f64 / TICK.as_secs_f64();
            before = total;
            let rate = units::grouped(rate.round() as u64);
            bar.show(
                start.elapsed(),
                format!("{rate}/s, {} errors", units::grouped(errors)),
            );
        }
    })
}
