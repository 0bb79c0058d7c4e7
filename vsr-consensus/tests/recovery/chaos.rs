//! Random crashes, restarts and broken links under load: nothing that a client was told is ever lost.

use std::time::Duration;

use vsr_consensus::{HaltReason, Replica, Settings};
use vsr_types::message::PeerStatus;

use crate::support::{Cluster, Ledger, Node, Random, chosen_seeds};

const CLIENTS: u8 = 6;

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

struct Story {
    cluster: Cluster,
    random: Random,
    /// What each client's requests were, in order.
    asked: Vec<Vec<String>>,
    next: u64,
    crashes: u32,
}

impl Story {
    fn begin(seed: u64, tune: impl Fn(&mut Settings)) -> Self {
        let n = if seed.is_multiple_of(2) { 3 } else { 5 };
        let mut cluster = Cluster::formed_with(n, tune);
        for client in 0..CLIENTS {
            cluster.register(client);
        }
        Self {
            cluster,
            random: Random::new(seed),
            asked: vec![Vec::new(); usize::from(CLIENTS)],
            next: 0,
            crashes: 0,
        }
    }

    fn any(&mut self) -> u8 {
        let n = u64::from(self.cluster.n());
        self.random.below(n) as u8
    }

    /// How many replicas have no memory: crashed, or not back yet.
    fn failed(&self) -> u8 {
        let takes_part = |&replica: &u8| {
            let is_member = matches!(
                self.cluster.status(replica),
                PeerStatus::Normal | PeerStatus::ViewChange
            );
            is_member && !self.cluster.stopped[usize::from(replica)]
        };
        self.cluster.n() - (0..self.cluster.n()).filter(takes_part).count() as u8
    }

    fn load(&mut self) {
        for client in 0..CLIENTS {
            let to = self.any();
            if self.cluster.clients[usize::from(client)].waiting {
                if self.random.percent(5) {
                    self.cluster.retry_at(client, to);
                }
            } else if self.next < 150 && self.random.percent(20) {
                self.next += 1;
                let operation = format!("entry {}", self.next);
                self.cluster.request_at(client, to, &operation);
                self.asked[usize::from(client)].push(operation);
            }
        }
    }

    fn disturb(&mut self) {
        let replica = self.any();
        let is_down = self.cluster.stopped[usize::from(replica)];
        let survives = self.failed() < (self.cluster.n() - 1) / 2;
        let ended = self.cluster.replicas[usize::from(replica)].report().halted;
        let is_superseded = ended == Some(HaltReason::Superseded);
        if is_superseded || (is_down && self.random.percent(20)) {
            self.cluster.restart(replica);
        } else if !is_down && survives && self.random.percent(6) {
            self.cluster.crash(replica);
            self.crashes += 1;
        }
        let (from, to) = (Node::Replica(self.any()), Node::Replica(self.any()));
        if from != to && self.random.percent(10) {
            let delay = self.random.below(30);
            let is_cut = self.random.percent(30);
            let link = self.cluster.net.link(from, to);
            (link.delay, link.cut) = (millis(delay), is_cut);
        }
        if self.random.percent(3) {
            self.cluster.net.heal();
        }
    }

    /// Everything is repaired: all replicas come back, all clients are answered.
    fn end(&mut self, seed: u64) {
        self.cluster.net.heal();
        for replica in 0..self.cluster.n() {
            if self.cluster.stopped[usize::from(replica)] {
                self.cluster.restart(replica);
            }
        }
        let is_over = |cluster: &Cluster| {
            let normal = (0..cluster.n()).all(|r| cluster.status(r) == PeerStatus::Normal);
            normal
                && cluster.clients[..usize::from(CLIENTS)]
                    .iter()
                    .all(|client| !client.waiting)
        };
        for attempt in 0..100 {
            if self.cluster.wait(millis(50), is_over) {
                break;
            }
            for client in 0..CLIENTS {
                if self.cluster.clients[usize::from(client)].waiting {
                    self.cluster.retry_at(client, attempt % self.cluster.n());
                }
            }
        }
        if !is_over(&self.cluster) {
            let told = |replica: &Replica<Ledger>| {
                format!("{:?}\n{:?}", replica.report(), replica.recovery_report())
            };
            let all: Vec<_> = self.cluster.replicas.iter().map(told).collect();
            panic!(
                "seed {seed}: the cluster does not come to rest\n{}",
                all.join("\n")
            );
        }
        // A donor may hold back what it executes for a second, if it does not hear that its receiver is done (M4).
        let is_done =
            |cluster: &Cluster| (0..cluster.n()).all(|r| cluster.applied(r) == cluster.op(0));
        self.cluster.wait(millis(1500), is_done);
        self.cluster.pass(millis(300));
    }

    /// As [`Self::check`], where nobody need have executed everything.
    fn check_states(&self, seed: u64) {
        let count = self.asked.iter().map(Vec::len).sum::<usize>() as u64;
        for replica in 0..self.cluster.n() {
            let place = format!("seed {seed}: R{replica}");
            assert_eq!(
                self.cluster.applied(replica),
                self.cluster.applied(0),
                "{place}"
            );
            assert_eq!(
                self.cluster.digest(replica),
                self.cluster.digest(0),
                "{place}"
            );
            assert_eq!(self.cluster.count(replica), count, "{place}: each once");
        }
    }

    fn check(&self, seed: u64) {
        self.cluster.assert_equal();
        let history = self.cluster.replicas[0].machine().history();
        for (client, asked) in self.asked.iter().enumerate() {
            let id = self.cluster.clients[client].id;
            let executed: Vec<_> = history
                .iter()
                .filter(|entry| entry.client == id)
                .map(|entry| String::from_utf8_lossy(&entry.operation).into_owned())
                .collect();
            assert_eq!(
                &executed, asked,
                "seed {seed}: c{client}, each once and in order"
            );
        }
    }
}

/// Plays one story to its end and says how many crashes it had.
fn tell(seed: u64, tune: impl Fn(&mut Settings), check: impl Fn(&Story, u64)) -> u32 {
    // Shown when the test fails.
    eprintln!("seed {seed}");
    let mut story = Story::begin(seed, tune);
    for _ in 0..400 {
        story.load();
        story.disturb();
        let time = 1 + story.random.below(8);
        story.cluster.pass(millis(time));
    }
    story.end(seed);
    check(&story, seed);
    story.crashes
}

#[test]
fn what_clients_were_told_survives_any_crashes_that_leave_a_majority() {
    let mut crashes = 0;
    for seed in chosen_seeds().unwrap_or(0..12) {
        crashes += tell(seed, |_| {}, Story::check);
    }
    assert!(crashes > 0, "something happened");
}

/// The ring holds sixteen entries: who was away for a moment has to fetch the state.
#[test]
fn what_clients_were_told_survives_when_journals_are_short() {
    let mut crashes = 0;
    for seed in chosen_seeds().unwrap_or(0..12) {
        let tune = |settings: &mut Settings| {
            settings.pipeline = 4;
            settings.journal_slots = 16;
            settings.batch_size_max = 4096;
            settings.journal_bytes = 64 << 10;
        };
        crashes += tell(seed, tune, Story::check_states);
    }
    assert!(crashes > 0, "something happened");
}
