//! What every scenario stands on: a cluster, words for what happens to it, and what must hold at the end.
//!
//! A scene is a function that is given a [`Stage`] and does things to it; whatever it finds wrong is a
//! panic. When it is over, everything heals, every client asks again until it is served, and the
//! history is judged: everybody executed the same, each request once, and whoever was told something
//! was told the truth.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use vsr_consensus::{Event, Mutant, Settings};
use vsr_types::message::{HandOver, PeerStatus};
use vsr_types::{Command, Header, Nonce};

use crate::support::{Answer, Cluster, Node};

pub(crate) const R0: Node = Node::Replica(0);
pub(crate) const R1: Node = Node::Replica(1);
pub(crate) const R2: Node = Node::Replica(2);

/// How long a cluster may take to come to rest when everything works again.
const CALM: Duration = Duration::from_secs(30);

pub(crate) const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// How prepares travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Chain,
    Star,
}

/// One scenario, what it stands for, and what must not survive it.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) replicas: u8,
    pub(crate) shape: Shape,
    pub(crate) tune: fn(&mut Settings),
    pub(crate) scene: fn(&mut Stage),
    /// What must have happened somewhere, or the scenario has missed what it is about.
    pub(crate) marks: &'static [Event],
}

impl Scenario {
    fn play(&self, mutant: Option<Mutant>) -> Stage {
        let mut stage = Stage::new(self, mutant);
        (self.scene)(&mut stage);
        stage.finish();
        stage
    }

    /// The scenario as it is.
    pub(crate) fn holds(&self) {
        let stage = self.play(None);
        for &mark in self.marks {
            let times: u64 = stage.replicas.iter().map(|r| r.counters().of(mark)).sum();
            assert!(times > 0, "{} never reached {}", self.name, mark.name());
        }
    }

    /// The scenario without a rule: it must fail.
    pub(crate) fn fails_without(&self, mutant: Mutant) {
        let outcome = catch_unwind(AssertUnwindSafe(|| drop(self.play(Some(mutant)))));
        let name = mutant.name();
        assert!(outcome.is_err(), "{} survives {name}", self.name);
    }
}

/// A cluster with three clients that have sessions, at rest.
pub(crate) struct Stage {
    cluster: Cluster,
    /// The last op of the beginning.
    pub(crate) base: u64,
    leaders: BTreeMap<u64, u8>,
    /// Replicas that end up halted, as the scene wants it.
    pub(crate) halted: Vec<u8>,
}

impl Deref for Stage {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for Stage {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

/// # Making one
impl Stage {
    fn new(scenario: &Scenario, mutant: Option<Mutant>) -> Self {
        let mut cluster = Cluster::formed_with(scenario.replicas, |settings| {
            settings.chain = scenario.shape == Shape::Chain;
            settings.mutant = mutant;
            (scenario.tune)(settings);
        });
        for client in 1..=3 {
            cluster.register_at(client, 0);
            cluster.pass(millis(5));
        }
        cluster.pass(millis(30));
        let base = cluster.op(0);
        Self {
            cluster,
            base,
            leaders: BTreeMap::new(),
            halted: Vec::new(),
        }
    }
}

/// # Links
impl Stage {
    fn everybody(&self) -> Vec<u8> {
        (0..self.n()).collect()
    }

    /// Only replicas of one group hear each other.
    pub(crate) fn split(&mut self, groups: &[&[u8]]) {
        for a in self.everybody() {
            for b in self.everybody().into_iter().filter(|&b| b > a) {
                let together = groups.iter().any(|g| g.contains(&a) && g.contains(&b));
                let (from, to) = (Node::Replica(a), Node::Replica(b));
                self.net.set_cut(from, to, !together);
            }
        }
    }

    /// One replica hears nobody and is heard by nobody.
    pub(crate) fn isolate(&mut self, replica: u8) {
        let others: Vec<u8> = self
            .everybody()
            .into_iter()
            .filter(|&r| r != replica)
            .collect();
        self.split(&[&others]);
    }

    /// All links work, and lose nothing.
    pub(crate) fn mend(&mut self) {
        self.net.heal();
        self.net.lose.clear();
    }

    /// Messages of these kinds are lost from now on, and kept for [`Self::late`].
    pub(crate) fn lose(&mut self, from: u8, to: u8, commands: &[Command]) {
        let (from, to) = (Node::Replica(from), Node::Replica(to));
        self.net
            .lose
            .extend(commands.iter().map(|&command| (from, to, command)));
    }

    /// The same on every link to or from one replica.
    pub(crate) fn lose_around(&mut self, replica: u8, commands: &[Command]) {
        for other in self.everybody() {
            self.lose(replica, other, commands);
            self.lose(other, replica, commands);
        }
    }

    /// The same on every link.
    pub(crate) fn lose_everywhere(&mut self, commands: &[Command]) {
        for from in self.everybody() {
            for to in self.everybody() {
                self.lose(from, to, commands);
            }
        }
    }

    /// What was lost on a link, of one kind, in order.
    pub(crate) fn lost(&self, from: u8, to: u8, command: Command) -> Vec<Vec<u8>> {
        let (from, to) = (Node::Replica(from), Node::Replica(to));
        let is_meant = |(a, b, bytes): &&(Node, Node, Vec<u8>)| {
            let header = crate::support::header_of(bytes);
            (*a, *b, header.command()) == (from, to, Some(command))
        };
        self.net
            .lost
            .iter()
            .filter(is_meant)
            .map(|(_, _, bytes)| bytes.clone())
            .collect()
    }

    /// Takes what is on a link, of one kind, off it.
    pub(crate) fn take(&mut self, from: Node, to: Node, command: Command) -> Vec<Vec<u8>> {
        let queue = &mut self.net.link(from, to).queue;
        let is_meant = |bytes: &[u8]| crate::support::header_of(bytes).command() == Some(command);
        let taken = queue
            .iter()
            .filter(|p| is_meant(&p.bytes))
            .map(|p| p.bytes.clone());
        let taken = taken.collect();
        queue.retain(|packet| !is_meant(&packet.bytes));
        taken
    }

    /// Frames arrive, however late.
    pub(crate) fn late(&mut self, from: Node, to: u8, frames: &[Vec<u8>]) {
        for frame in frames {
            self.hand_over(from, to, frame);
        }
        self.settle(to);
    }
}

/// # Views
impl Stage {
    pub(crate) fn view(&self, replica: u8) -> u64 {
        self.replicas[usize::from(replica)].report().view.raw()
    }

    pub(crate) fn leads(&self, replica: u8) -> bool {
        let report = self.replicas[usize::from(replica)].report();
        report.status == PeerStatus::Normal && report.primary.raw() == replica
    }

    /// Waits until something is so; it must come to be so in time.
    pub(crate) fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = self.now.monotonic.after(millis(8000));
        while !is_so(self) {
            assert!(self.now.monotonic < end, "never: {what}");
            self.go_on(millis(1));
        }
    }

    /// Waits until a replica leads its view.
    pub(crate) fn until_leads(&mut self, replica: u8) {
        self.until(&format!("R{replica} leads"), |stage| stage.leads(replica));
    }

    /// Waits until these follow the view that `primary` leads.
    pub(crate) fn until_follow(&mut self, primary: u8, backups: &[u8]) {
        self.until_leads(primary);
        let view = self.view(primary);
        self.until("they follow", |stage| {
            let follows = |r: &u8| stage.view(*r) == view && stage.status(*r) == PeerStatus::Normal;
            backups.iter().all(follows)
        });
    }

    /// Lets time go by.
    pub(crate) fn go_on(&mut self, time: Duration) {
        let mut left = time;
        while left > Duration::ZERO {
            self.cluster.pass(millis(1).min(left));
            left = left.saturating_sub(millis(1));
            self.watch();
        }
    }

    /// I12: one primary per view.
    fn watch(&mut self) {
        for replica in self.everybody() {
            if self.leads(replica) {
                let view = self.view(replica);
                let leader = *self.leaders.entry(view).or_insert(replica);
                assert_eq!(leader, replica, "view {view} has two primaries");
            }
        }
    }

    /// An operator's order.
    pub(crate) fn order_hand_over(&mut self, from: u8, to: u8) {
        let mut header = Header::new(HandOver {
            nonce: Nonce::new(0x0BEE),
            target: u64::from(to),
            reserved: [0; 2],
        });
        header.set_cluster(self.id());
        header.seal(&[]);
        self.put(Node::Tool, from, bytemuck::bytes_of(&header).to_vec());
    }
}

/// # Clients
impl Stage {
    /// A request reaches `at`, and what that sends stays on the links.
    pub(crate) fn ask_only(&mut self, client: u8, at: u8, operation: &str) {
        self.request_at(client, at, operation);
        self.deliver(Node::Client(client), Node::Replica(at));
    }

    /// c1's request is committed by R0 and R1, and c1 is told; nobody else has heard of either.
    pub(crate) fn only_r0_and_r1_know(&mut self, operation: &str) {
        self.ask_only(1, 0, operation);
        self.deliver(R0, R1);
        self.take(R1, R2, Command::Prepare);
        self.deliver(R1, R0);
        self.deliver(R0, Node::Client(1));
        assert!(self.is_told(1), "committed by R0 and R1");
    }

    /// The same with five: committed by R0, R1 and R2.
    pub(crate) fn only_r0_r1_and_r2_know(&mut self, operation: &str) {
        self.ask_only(1, 0, operation);
        self.deliver(R0, R1);
        self.deliver(R1, R2);
        self.take(R2, Node::Replica(3), Command::Prepare);
        self.deliver(R1, R0);
        self.deliver(R2, R0);
        self.deliver(R0, Node::Client(1));
        assert!(self.is_told(1), "committed by R0, R1 and R2");
    }

    /// A request that is served.
    pub(crate) fn served_at(&mut self, client: u8, at: u8, operation: &str) {
        self.request_at(client, at, operation);
        self.until(&format!("c{client} is served"), |stage| {
            !stage.clients[usize::from(client)].waiting
        });
    }

    /// A request that is served by whoever leads.
    pub(crate) fn served_elsewhere(&mut self, client: u8, operation: &str) {
        let leader = (0..self.n())
            .filter(|&r| self.leads(r))
            .max_by_key(|&r| self.view(r));
        self.served_at(client, leader.expect("somebody leads"), operation);
    }

    pub(crate) fn is_told(&self, client: u8) -> bool {
        !self.clients[usize::from(client)].waiting
    }

    /// How often `event` was counted, everywhere.
    pub(crate) fn counted(&self, event: Event) -> u64 {
        self.replicas.iter().map(|r| r.counters().of(event)).sum()
    }

    pub(crate) fn operations(&self, replica: u8) -> Vec<String> {
        let history = self.replicas[usize::from(replica)].machine().history();
        let text =
            |e: &crate::support::Executed| String::from_utf8_lossy(&e.operation).into_owned();
        history.iter().map(text).collect()
    }
}

/// # The end
impl Stage {
    fn is_calm(&self) -> bool {
        let alive = || (0..self.n()).filter(|r| !self.halted.contains(r));
        let head = alive().map(|r| self.op(r)).max();
        let view = alive().map(|r| self.view(r)).max();
        let is_calm = |r: u8| {
            Some(self.applied(r)) == head
                && Some(self.view(r)) == view
                && self.status(r) == PeerStatus::Normal
        };
        alive().all(is_calm) && self.clients.iter().all(|client| !client.waiting)
    }

    /// Everything heals; everybody is served; then the history is judged.
    fn finish(&mut self) {
        self.mend();
        self.stopped.fill(false);
        self.lazy.fill(false);
        let end = self.now.monotonic.after(CALM);
        let mut round = 0_u64;
        while !self.is_calm() {
            assert!(
                self.now.monotonic < end,
                "it never comes to rest:\n{}",
                self.table()
            );
            if round.is_multiple_of(40) {
                let to = (round / 40 % u64::from(self.n())) as u8;
                for client in 1..=3 {
                    if !self.is_told(client) {
                        self.retry_at(client, to);
                    }
                }
            }
            round += 1;
            self.go_on(millis(1));
        }
        self.judge();
    }

    pub(crate) fn table(&self) -> String {
        let row = |r: u8| {
            let report = self.replicas[usize::from(r)].report();
            let (op, commit, applied) =
                (report.op.raw(), report.commit.raw(), report.applied.raw());
            let view = report.view.raw();
            let (status, halted) = (report.status, report.halted);
            format!(
                "R{r} {status:?} view {view} op {op} commit {commit} applied {applied} {halted:?}"
            )
        };
        let waits = (1..=3)
            .filter(|&c| !self.is_told(c))
            .map(|c| format!("c{c} waits"));
        (0..self.n())
            .map(row)
            .chain(waits)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Everybody executed the same, each request once, and everybody was told the truth.
    fn judge(&self) {
        let alive: Vec<u8> = (0..self.n()).filter(|r| !self.halted.contains(r)).collect();
        self.assert_prefixes();
        let of = |replica: u8| self.replicas[usize::from(replica)].machine().history();
        let mut all = BTreeMap::new();
        for executed in alive.iter().flat_map(|&replica| of(replica)) {
            all.insert((executed.op, executed.index), executed);
        }
        let history: Vec<_> = all.into_values().collect();
        for &replica in &alive {
            assert_eq!(
                self.digest(replica),
                self.digest(alive[0]),
                "R{replica}'s state"
            );
        }
        let mut once: Vec<_> = history.iter().map(|e| (e.client, &e.operation)).collect();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), history.len(), "each request is executed once");
        let mut total = 0_u64;
        let mut after = BTreeMap::new();
        let mut replies = BTreeMap::new();
        for executed in history {
            let text = String::from_utf8_lossy(&executed.operation);
            let amount = text
                .strip_prefix("add ")
                .and_then(|amount| amount.parse().ok());
            total += amount.unwrap_or(0_u64);
            after.insert(executed.op.raw(), total);
            replies.insert((executed.client, executed.op.raw()), total);
        }
        for client in &self.clients {
            for answer in &client.answers {
                match answer {
                    Answer::Reply { request, op, body } if *request > 0 => {
                        let Some(total) = replies.get(&(client.id, *op)) else {
                            panic!("{:?} was told of op {op}, which is not its own", client.id);
                        };
                        if body.len() < 20 {
                            assert_eq!(String::from_utf8_lossy(body), total.to_string());
                        }
                    }
                    Answer::Read { op, body, .. } => {
                        let right = after
                            .range(..=*op)
                            .next_back()
                            .map_or(0, |(_, total)| *total);
                        assert_eq!(String::from_utf8_lossy(body), right.to_string(), "a read");
                    }
                    Answer::Reply { .. } | Answer::Reject { .. } => {}
                }
            }
        }
    }
}

/// Writes scenarios down: for each the test that it holds, and one for each rule that it cannot do
/// without.
macro_rules! scenarios {
    ($($(#[$doc:meta])* $name:ident: $scene:path, $n:literal $shape:ident $(, $tune:expr)?;
        marks [$($mark:ident)*]; kills [$($mutant:ident)*];)*) => {
        $(
            $(#[$doc])*
            mod $name {
                use super::*;

                fn scenario() -> Scenario {
                    // The first of these counts.
                    let tunes: &[fn(&mut vsr_consensus::Settings)] = &[$($tune,)? |_| {}];
                    Scenario {
                        name: stringify!($name),
                        replicas: $n,
                        shape: Shape::$shape,
                        tune: tunes[0],
                        scene: $scene,
                        marks: &[$(vsr_consensus::Event::$mark),*],
                    }
                }

                #[test]
                fn holds() {
                    scenario().holds();
                }

                mod without {
                    $(
                        #[test]
                        #[expect(non_snake_case, reason = "named after the rule's switch")]
                        fn $mutant() {
                            super::scenario().fails_without(vsr_consensus::Mutant::$mutant);
                        }
                    )*
                }
            }
        )*
    };
}
pub(crate) use scenarios;
