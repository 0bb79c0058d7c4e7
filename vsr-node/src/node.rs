//! A replica as a part of a program: server, RESP port and admin port, from the first allocation to
//! the last answer.
//!
//! ```no_run
//! # use vsr_node::{Config, Node, simple::{Context, Simple, SimpleMachine}};
//! # struct Mine;
//! # impl Simple for Mine {
//! #     fn apply(&mut self, _: &Context, _: &[u8]) -> Vec<u8> { Vec::new() }
//! #     fn query(&self, _: &Context, _: &[u8]) -> Vec<u8> { Vec::new() }
//! #     fn encode(&self) -> Vec<u8> { Vec::new() }
//! #     fn decode(_: &[u8]) -> Option<Self> { Some(Self) }
//! # }
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::new("mine", "a:7000,b:7000,c:7000", 0)?.with("admin", "0.0.0.0:9100")?;
//! Node::builder(config).serve(SimpleMachine::new(Mine)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Everything runs on the thread that awaits it. An orderly end ([`Builder::with_shutdown`]) lets
//! another replica lead first, then stops accepting, answers what is outstanding, and only then leaves
//! the cluster.

use std::cell::Cell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use vsr_consensus::{Boot, Event, HaltReason, Replica, Report, StateMachine};
use vsr_types::memory::{Level, Pool};
use vsr_types::message::{InspectTopic, PeerStatus};
use vsr_types::{Epoch, MemberId, Nonce, Op};

use crate::admin::{self, Bounds, Source};
use crate::archive::{self, Archives, Written};
use crate::banner::Addresses;
use crate::config::Config;
use crate::doubt::History;
use crate::gateway::Gateway;
use crate::image;
use crate::inspect::{self, Progress, Recovered, Surroundings};
use crate::kv::KvMachine;
use crate::metrics::{self, Samples};
use crate::plan::{Plan, gateway_options, server_config};
use crate::residency;
use crate::resp_port::ReplicaPort;
use crate::server::{Server, ServerError, StopReason};

/// How often commits are looked at, to know how long the oldest has been waiting.
const LOOK: Duration = Duration::from_millis(100);

/// The same while the replica does not take part: how long a recovery took is to be known well.
const LOOK_CLOSELY: Duration = Duration::from_millis(10);

/// A loop that has not turned for so long hangs: heartbeats alone turn it every tick.
const LOOP_SILENCE_MAX: Duration = Duration::from_secs(10);

/// Why a node ended, or never began.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A port cannot be opened.
    #[error("cannot listen on {address} (--{setting}): {error}")]
    Listen {
        /// Which setting names it.
        setting: &'static str,
        /// The address.
        address: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The RESP port speaks to the built-in machine only.
    #[error("the RESP port needs the built-in key-value machine: use serve_key_values, or no-resp")]
    RespNeedsKeyValues,
    /// The server could not be started.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The replica's state is not that of the others: exit code 4.
    #[error("{0}")]
    Divergence(String),
    /// No majority agrees about the state, so nobody can tell whose is right. Said when such a node is
    /// asked to leave, which ends what it holds: exit code 4.
    #[error("{0}")]
    NoMajority(String),
    /// The memory of this machine does not keep what is written (R6.8): exit code 5.
    #[error("{0}")]
    Memory(String),
    /// The replica stopped for another reason.
    #[error("{0}")]
    Stopped(String),
}

/// What is known when a node has started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Where it listens.
    pub addresses: Addresses,
    /// What it has allocated.
    pub plan: Plan,
}

/// Whoever is told when all ports are open.
type Tell = Box<dyn FnOnce(&Started)>;

/// A replica.
#[derive(Debug)]
pub struct Node;

impl Node {
    /// Begins to describe a node.
    pub fn builder(config: Config) -> Builder {
        Builder {
            config,
            shutdown: Box::pin(std::future::pending()),
            on_start: None,
        }
    }
}

/// A node that has not started yet.
#[must_use = "a node does nothing until it is served"]
pub struct Builder {
    config: Config,
    shutdown: Pin<Box<dyn Future<Output = ()>>>,
    on_start: Option<Tell>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Ends the node in an orderly way when `shutdown` resolves.
    pub fn with_shutdown(mut self, shutdown: impl Future<Output = ()> + 'static) -> Self {
        self.shutdown = Box::pin(shutdown);
        self
    }

    /// Calls `tell` once, when all ports are open.
    pub fn on_start(mut self, tell: impl FnOnce(&Started) + 'static) -> Self {
        self.on_start = Some(Box::new(tell));
        self
    }

    /// Serves a machine of your own on the native port.
    ///
    /// # Errors
    /// When it cannot start, or had to stop by itself.
    pub async fn serve<S: StateMachine + 'static>(self, machine: S) -> Result<(), NodeError> {
        if self.config.resp.is_some() {
            return Err(NodeError::RespNeedsKeyValues);
        }
        LocalSet::new()
            .run_until(async {
                let running = Running::start(self.config, machine, Extras::none()).await?;
                running.run(None, self.shutdown, self.on_start).await
            })
            .await
    }

    /// Serves the built-in key-value machine, with a RESP port if the configuration has one.
    ///
    /// # Errors
    /// When it cannot start, or had to stop by itself.
    pub async fn serve_key_values(self) -> Result<(), NodeError> {
        LocalSet::new()
            .run_until(async {
                let config = self.config;
                let resp = listen("resp", config.resp.as_deref()).await?;
                let machine = match config.prefault {
                    true => KvMachine::new(config.memory),
                    false => KvMachine::untouched(config.memory),
                };
                let extras = Extras {
                    pools: KvMachine::pools(config.memory).to_vec(),
                    levels: |machine: &KvMachine| machine.levels().to_vec(),
                    metrics: |machine: &KvMachine, samples| {
                        metrics::key_values(samples, &machine.kv_report());
                    },
                    #[cfg(feature = "flip")]
                    flip: flip_key_values,
                };
                let running = Running::start(config, machine, extras).await?;
                let gateway = resp.map(|listener| {
                    let port = Rc::new(ReplicaPort::new(running.server.clone()));
                    (
                        listener,
                        Gateway::new(port, gateway_options(&running.config)),
                    )
                });
                running.run(gateway, self.shutdown, self.on_start).await
            })
            .await
    }
}

async fn listen(
    setting: &'static str,
    address: Option<&str>,
) -> Result<Option<TcpListener>, NodeError> {
    let Some(address) = address else {
        return Ok(None);
    };
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) => Err(NodeError::Listen {
            setting,
            address: address.to_owned(),
            error,
        }),
    }
}

/// All the randomness that a replica ever gets.
fn boot() -> Boot {
    let mut bytes = [0; 40];
    getrandom::fill(&mut bytes).expect("the operating system has randomness to give");
    let wide = |at: usize| u128::from_le_bytes(bytes[at..at + 16].try_into().expect("16 bytes"));
    Boot {
        member: MemberId::new(wide(0)),
        nonce: Nonce::new(wide(16)),
        seed: u64::from_le_bytes(bytes[32..].try_into().expect("8 bytes")),
    }
}

/// What only the machine itself knows.
struct Extras<S> {
    /// What it allocates.
    pools: Vec<Pool>,
    /// How much of that is used.
    levels: fn(&S) -> Vec<Level>,
    /// Its own metrics.
    metrics: fn(&S, &mut Samples),
    /// Damages it, for tests.
    #[cfg(feature = "flip")]
    flip: crate::flip::FlipMachine<S>,
}

impl<S> Extras<S> {
    fn none() -> Self {
        Self {
            pools: Vec::new(),
            levels: |_| Vec::new(),
            metrics: |_, _| {},
            #[cfg(feature = "flip")]
            flip: |_, _, _| false,
        }
    }
}

/// A node that has started. Also what the admin port and the tools ask.
struct Running<S: StateMachine + 'static> {
    config: Config,
    server: Server<S>,
    extras: Extras<S>,
    admin: Cell<Option<TcpListener>>,
    gateway: std::cell::OnceCell<Gateway>,
    plan: std::cell::OnceCell<Plan>,
    admin_open: Rc<admin::Open>,
    started: Instant,
    progress: Cell<Progress>,
    /// When it was first seen to recover.
    recovers_since: Cell<Option<vsr_types::Instant>>,
    /// How this process got the state of the one before it.
    recovered: Cell<Option<Recovered>>,
    /// The divergence that the log tells of, and whether this replica had stopped when it did.
    divergence_told: Cell<Option<(Op, bool)>>,
    /// What became of archives.
    archives: Archives,
    /// How often the loop had turned when it was last seen to turn, and when that was.
    turns: Cell<(u64, Instant)>,
}

impl<S: StateMachine + 'static> Running<S> {
    async fn start(config: Config, machine: S, extras: Extras<S>) -> Result<Rc<Self>, NodeError> {
        let admin = listen("admin", config.admin.as_deref()).await?;
        let native = listen("listen", Some(&config.listen))
            .await?
            .expect("an address was given");
        // The server's clock begins here too: both say the same to less than a look's interval.
        let now = Instant::now();
        let server = Server::start_on(native, server_config(&config), boot(), machine)?;
        Ok(Rc::new(Self {
            config,
            server,
            extras,
            admin: Cell::new(admin),
            gateway: std::cell::OnceCell::new(),
            plan: std::cell::OnceCell::new(),
            admin_open: Rc::default(),
            started: now,
            progress: Cell::default(),
            recovers_since: Cell::default(),
            recovered: Cell::default(),
            divergence_told: Cell::default(),
            archives: Archives::default(),
            turns: Cell::new((0, now)),
        }))
    }

    async fn run(
        self: Rc<Self>,
        gateway: Option<(TcpListener, Gateway)>,
        shutdown: Pin<Box<dyn Future<Output = ()>>>,
        on_start: Option<Tell>,
    ) -> Result<(), NodeError> {
        let native = self.server.address().to_string();
        let mut addresses = Addresses {
            native,
            ..Addresses::default()
        };
        let mut serving: Option<JoinHandle<()>> = None;
        if let Some((listener, gateway)) = gateway {
            addresses.resp = local_address(&listener);
            let served = gateway.clone();
            serving = Some(spawn_local(async move { served.run(listener).await }));
            assert!(
                self.gateway.set(gateway).is_ok(),
                "a node has one RESP port"
            );
        }
        let with_resp = self.gateway.get().is_some();
        let plan = Plan::new::<S>(&self.config, &self.extras.pools, with_resp);
        residency::settle(&self.config, &plan);
        assert!(self.plan.set(plan.clone()).is_ok(), "a node is run once");
        let mut tasks = Vec::new();
        if let Some(listener) = self.admin.take() {
            addresses.admin = local_address(&listener);
            let source: Rc<dyn Source> = Rc::clone(&self) as Rc<dyn Source>;
            tasks.push(spawn_local(admin::serve(
                listener,
                source,
                Bounds::default(),
                Rc::clone(&self.admin_open),
            )));
        }
        tasks.push(spawn_local(Rc::clone(&self).watch()));
        tasks.push(spawn_local(Rc::clone(&self).archive()));
        self.answer_tools();
        if let Some(tell) = on_start {
            tell(&Started { addresses, plan });
        }
        let result = tokio::select! {
            reason = self.server.stopped() => {
                self.tell_divergence();
                stop_result(reason)
            }
            () = shutdown => {
                self.drain(serving).await;
                self.tell_divergence();
                left_result(self.server.report().halted)
            }
        };
        self.server.stop();
        for task in tasks {
            task.abort();
        }
        result
    }

    /// Hands over, takes no more work and answers what there is, for at most the drain time-out.
    async fn drain(&self, serving: Option<JoinHandle<()>>) {
        let until = Instant::now() + self.config.drain_timeout;
        if timeout_at(until, self.hand_over()).await.is_err() {
            tracing::warn!("no other replica has taken over before the drain time-out");
        }
        let (Some(gateway), Some(serving)) = (self.gateway.get(), serving) else {
            return;
        };
        gateway.stop();
        if timeout_at(until, serving).await.is_err() {
            tracing::warn!("some clients were still waiting when the drain time-out was over");
        }
    }

    /// A primary lets another replica lead before it goes, so that nobody waits for a time-out. Returns
    /// when this replica does not lead, or when nobody is left who could.
    async fn hand_over(&self) {
        let mut views = self.server.views();
        let mut has_led = false;
        loop {
            views.mark_unchanged();
            let report = self.server.report();
            let may_lead = match report.status {
                PeerStatus::Normal => report.primary == report.replica,
                PeerStatus::ViewChange => true,
                PeerStatus::Blank | PeerStatus::Recovering | PeerStatus::Halted => false,
            };
            let others = self.server.links().iter().filter(|link| link.is_up).count();
            if !may_lead {
                if has_led {
                    let (view, primary) = (report.view.raw(), report.primary.raw());
                    tracing::info!(view, primary, "handed over");
                }
                return;
            }
            if others == 0 || others + 1 < usize::from(self.config.consensus.quorum()) {
                return;
            }
            // Again and again: the one that was asked first may be gone.
            self.server.leave();
            has_led = true;
            let _elapsed = timeout(LOOK, views.changed()).await;
        }
    }

    /// Archives what the replica asks for (R10.4).
    async fn archive(self: Rc<Self>) {
        let Some(folder) = &self.config.archive_dir else {
            return;
        };
        let write = async |epoch: Epoch| {
            let name = &self.config.cluster;
            let written = image::archive::write(&self.server, folder, name, epoch).await;
            let written = written.map_err(|error| error.to_string())?;
            Ok(Written {
                path: written.path.display().to_string(),
                bytes: written.size,
            })
        };
        let done = |epoch| self.server.archived(epoch);
        archive::run(&self.archives, self.server.archives_due(), write, done).await;
    }

    /// Looks at the replica regularly: what stands still can only be seen by looking twice.
    async fn watch(self: Rc<Self>) {
        let mut last = None;
        let mut findings = inspect::ToldFindings::default();
        loop {
            let report = self.server.report();
            let mut progress = self.progress.get();
            progress.observe(&report, self.now());
            self.progress.set(progress);
            let turns = self.server.loop_turns();
            if turns != self.turns.get().0 {
                self.turns.set((turns, Instant::now()));
            }
            let now = (report.status, report.view, report.primary);
            if last.replace(now) != Some(now) {
                let status = inspect::status_name(report.status);
                let (view, primary) = (report.view.raw(), report.primary.raw());
                tracing::info!(status, view, primary, "status");
            }
            self.tell_divergence();
            self.note_recovery(&report);
            let integrity = self.server.with_replica(inspect::Integrity::of);
            findings.tell(&integrity);
            let is_calm = report.status == PeerStatus::Normal;
            sleep(if is_calm { LOOK } else { LOOK_CLOSELY }).await;
        }
    }

    /// Says, once, where the states of replicas were seen to differ: in the log, because the memory in
    /// which the evidence lies may be gone soon.
    fn tell_divergence(&self) {
        let known = self.server.with_replica(|replica| {
            let report = replica.divergence()?;
            Some((report.op, replica.report().halted.is_some()))
        });
        if known.is_none() || known == self.divergence_told.replace(known) {
            return;
        }
        if let Some(divergence) = self.server.with_replica(inspect::divergence) {
            divergence.log();
        }
    }

    /// Notes, once, that this process has got the state of the one before it.
    fn note_recovery(&self, report: &Report) {
        if report.status == PeerStatus::Recovering && self.recovers_since.get().is_none() {
            self.recovers_since.set(Some(self.now()));
        }
        // The processes that formed the cluster count as life 0.
        let is_later_life = report.status == PeerStatus::Normal && report.incarnation.counter > 0;
        if !is_later_life || self.recovered.get().is_some() {
            return;
        }
        // Nobody saw it recover: it took no longer than since the clock's start.
        let since = self
            .recovers_since
            .get()
            .unwrap_or(vsr_types::Instant::ZERO);
        let recovered = Recovered {
            seconds: self.now().since(since).as_secs_f64(),
            seconds_since_start: self.started.elapsed().as_secs_f64(),
            op: report.op.raw(),
            bytes: self.server.net_counters().peer_bytes_received,
        };
        self.recovered.set(Some(recovered));
        let Recovered { seconds, bytes, .. } = recovered;
        tracing::info!(seconds, bytes, op = recovered.op, "recovered");
    }

    /// The server's monotonic clock.
    fn now(&self) -> vsr_types::Instant {
        vsr_types::Instant::ZERO.after(self.started.elapsed())
    }

    fn around(&self) -> Surroundings<'_> {
        // Whoever hears that this replica is ready hears how it became so.
        self.note_recovery(&self.server.report());
        Surroundings {
            config: &self.config,
            now: self.now(),
            uptime: self.started.elapsed(),
            memory: self.plan.get().map_or(0, Plan::bytes),
            progress: self.progress.get(),
            links: self.server.links(),
            recovery: self.server.with_replica(Replica::recovery_report),
            transfer: self.server.with_replica(Replica::transfer),
            recovered: self.recovered.get(),
            divergence: self.server.with_replica(inspect::divergence),
            restarts_in_place: History::of_this_process().restarts().len() as u64,
            integrity: self.server.with_replica(inspect::Integrity::of),
            archives: self.archives.report(),
            view_changes: self
                .server
                .with_replica(|replica| replica.counters().of(Event::ViewsLeft)),
        }
    }

    /// How much of every pool is used.
    fn levels(&self) -> Vec<Level> {
        let mut levels = self.server.levels();
        let machine = |replica: &Replica<S>| (self.extras.levels)(replica.machine());
        levels.extend(self.server.with_replica(machine));
        levels.extend(self.gateway.get().into_iter().flat_map(Gateway::levels));
        levels.extend(self.admin_open.levels());
        levels
    }

    fn answer_tools(self: &Rc<Self>) {
        let weak = Rc::downgrade(self);
        self.server.on_inspect(Rc::new(move |topic, argument| {
            let answer = match weak.upgrade() {
                Some(running) => running.answer(topic, argument),
                None => Err("this node is shutting down".to_owned()),
            };
            answer.map_err(|error| serde_json::json!({ "error": error }).to_string())
        }));
    }

    fn answer(&self, topic: InspectTopic, argument: u64) -> Result<String, String> {
        let (report, around) = (self.server.report(), self.around());
        let op = Op::new(argument);
        match topic {
            InspectTopic::Status => json(&inspect::status(&report, &around)),
            InspectTopic::Scrub => json(&inspect::scrubbing(
                &around.integrity,
                report.replicas,
                around.now,
            )),
            InspectTopic::Chain => json(&inspect::chain(&report, &around)),
            InspectTopic::Config => json(&inspect::settings(&self.config)),
            InspectTopic::Limits => json(&inspect::limits(
                &self.config,
                self.plan.get(),
                &self.levels(),
            )),
            InspectTopic::Metrics => json(&self.metrics()),
            InspectTopic::Log => json(&self.server.with_replica(|r| inspect::log(r, argument))),
            InspectTopic::Sessions => json(&self.server.with_replica(inspect::sessions)),
            InspectTopic::Op => json(&self.server.with_replica(|r| inspect::op(r, op))?),
            InspectTopic::Digest => json(&self.server.with_replica(|r| inspect::digest(r, op))?),
            InspectTopic::Chunks => {
                json(&self.server.with_replica(|r| inspect::chunks(r, argument))?)
            }
        }
    }
}

impl<S: StateMachine + 'static> Source for Running<S> {
    fn status(&self) -> String {
        json(&inspect::status(&self.server.report(), &self.around())).unwrap_or_else(|error| error)
    }

    fn metrics(&self) -> String {
        let mut samples = Samples::default();
        metrics::replica(&mut samples, &self.server.report(), &self.around());
        self.server.with_replica(|replica| {
            metrics::counters(&mut samples, replica.counters());
            (self.extras.metrics)(replica.machine(), &mut samples);
        });
        if let Some(plan) = self.plan.get() {
            metrics::memory(&mut samples, plan, &self.levels());
        }
        samples.counter(
            "loop_turns",
            "Turns of the loop",
            Vec::new(),
            self.server.loop_turns(),
        );
        for (name, value) in self.server.net_counters().iter() {
            let labels = vec![("event", name.to_owned())];
            samples.counter(
                "connection_events",
                "What happened to connections",
                labels,
                value,
            );
        }
        if let Some(gateway) = self.gateway.get() {
            metrics::gateway(&mut samples, &gateway.counters());
        }
        samples.text()
    }

    fn live(&self) -> Result<String, String> {
        let (turns, at) = self.turns.get();
        let takes_part = self.server.report().status == PeerStatus::Normal;
        if takes_part && at.elapsed() > LOOP_SILENCE_MAX {
            return Err(format!("the loop has not turned for {:.0?}", at.elapsed()));
        }
        Ok(format!("the loop has turned {turns} times"))
    }

    fn ready(&self) -> Result<(), String> {
        inspect::readiness(&self.server.report(), &self.around())
    }

    #[cfg(feature = "flip")]
    fn flip(&self, path: &str) -> Result<String, String> {
        let done = self
            .server
            .with_replica_mut(|replica| crate::flip::flip(replica, self.extras.flip, path));
        tracing::warn!(path, ?done, "memory was damaged on purpose");
        done
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<String, String> {
    serde_json::to_string(value).map_err(|error| error.to_string())
}

fn local_address(listener: &TcpListener) -> Option<String> {
    listener
        .local_addr()
        .ok()
        .map(|address| address.to_string())
}

fn stop_result(reason: StopReason) -> Result<(), NodeError> {
    match reason {
        StopReason::Asked => Ok(()),
        StopReason::Halted(why @ HaltReason::Divergence { .. }) => {
            Err(NodeError::Divergence(inspect::halt_text(why)))
        }
        StopReason::Halted(why @ HaltReason::Memory) => {
            Err(NodeError::Memory(inspect::halt_text(why)))
        }
        StopReason::Halted(why) => Err(NodeError::Stopped(inspect::halt_text(why))),
    }
}

/// Damages the built-in machine, for tests.
#[cfg(feature = "flip")]
fn flip_key_values(replica: &mut Replica<KvMachine>, place: &str, number: u64) -> bool {
    let at = replica.context();
    match place {
        "state" => {
            replica.machine_mut().flip(number);
            true
        }
        "unordered" => replica.machine_mut().change_unordered(&at, number),
        _ => false,
    }
}

/// Why a node that was asked to leave is not fine with that.
fn left_result(halted: Option<HaltReason>) -> Result<(), NodeError> {
    match halted {
        Some(why @ HaltReason::NoMajority { .. }) => {
            Err(NodeError::NoMajority(inspect::halt_text(why)))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halts_become_errors_and_being_asked_is_none() {
        assert!(stop_result(StopReason::Asked).is_ok());
        let op = Op::new(5);
        let diverged = stop_result(StopReason::Halted(HaltReason::Divergence { op }));
        assert!(matches!(diverged, Err(NodeError::Divergence(text)) if text.contains("op 5")));
        let damaged = stop_result(StopReason::Halted(HaltReason::Memory));
        assert!(matches!(damaged, Err(NodeError::Memory(text)) if text.contains("memory")));
        let full = stop_result(StopReason::Halted(HaltReason::OpMax));
        assert!(matches!(full, Err(NodeError::Stopped(text)) if text.contains("--op-max")));
        assert!(left_result(None).is_ok() && left_result(Some(HaltReason::OpMax)).is_ok());
        let split = left_result(Some(HaltReason::NoMajority { op }));
        assert!(matches!(split, Err(NodeError::NoMajority(text)) if text.contains("no majority")));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_machine_of_ones_own_has_no_resp_port() {
        let config = Config::new("c", "127.0.0.1:1", 0).and_then(|c| c.with("resp", "127.0.0.1:0"));
        let machine = KvMachine::new(crate::kv::MEMORY_MIN);
        let result = Node::builder(config.expect("valid")).serve(machine).await;
        assert!(matches!(result, Err(NodeError::RespNeedsKeyValues)));
    }
}
