//! Random schedules: loss, duplication, disorder, cut links, replicas that stand still. Then everything
//! heals, and every client must have its answer, every replica the same state, every request been
//! executed exactly once, and no read have missed what was acknowledged before it began.
//!
//! Silence makes views change, as often as it likes: none of the above depends on who leads.

use std::collections::BTreeMap;
use std::time::Duration;

use vsr_consensus::{Event, Replica, Settings};
use vsr_types::Op;
use vsr_types::message::{PeerStatus, RejectReason};

use crate::support::{Answer, Client, Cluster, Executed, Ledger, Node, Random, chosen_seeds};

/// How long a client waits before it asks again, in steps.
const RETRY_STEPS: u64 = 40;
const STEP: Duration = Duration::from_micros(500);
const CLIENTS: u8 = 12;

/// How bad the network of one seed is.
#[derive(Debug)]
struct Weather {
    lose: u64,
    double: u64,
    /// How often a frame that could arrive does, in percent: the rest waits, and is overtaken.
    arrive: u64,
    cut: u64,
    stop: u64,
}

struct Run {
    cluster: Cluster,
    random: Random,
    weather: Weather,
    asked_at: BTreeMap<u8, u64>,
    /// For each read under way, the newest op that any client had been told of when it began.
    read_from: BTreeMap<u8, u64>,
    told: u64,
    seen: Vec<usize>,
    /// Clients of former lives, for the final check.
    answered: Vec<Client>,
    requests_made: u64,
    /// How many clients were evicted and came back under a new name.
    reborn: u64,
    /// Everything executed, by its place in the order.
    history: BTreeMap<(Op, u32), Executed>,
    /// How much of what each replica has executed was compared with that.
    agreed: Vec<usize>,
    /// Who led each view.
    leaders: BTreeMap<u64, u8>,
    step: u64,
}

impl Run {
    fn new(n: u8, seed: u64, tune: fn(&mut Settings)) -> Self {
        let mut random = Random::new(seed);
        let mut level = |levels: &[u64]| *random.pick(levels);
        let weather = Weather {
            lose: level(&[0, 1, 10, 30]),
            double: level(&[0, 5, 30]),
            arrive: level(&[100, 70, 30]),
            cut: level(&[0, 2]),
            stop: level(&[0, 1]),
        };
        let mut cluster = Cluster::formed_with(n, |settings| {
            settings.journal_slots = 4096;
            tune(settings);
        });
        for client in 0..CLIENTS {
            cluster.register(client);
        }
        Self {
            cluster,
            random,
            weather,
            asked_at: BTreeMap::new(),
            read_from: BTreeMap::new(),
            told: 0,
            seen: vec![0; usize::from(CLIENTS)],
            answered: Vec::new(),
            requests_made: 0,
            reborn: 0,
            history: BTreeMap::new(),
            agreed: vec![0; usize::from(n)],
            leaders: BTreeMap::new(),
            step: 0,
        }
    }

    fn anybody(&mut self) -> u8 {
        self.random.below(u64::from(self.cluster.n())) as u8
    }

    /// What clients do in one step.
    fn ask(&mut self, new_requests: bool) {
        for client in 0..CLIENTS {
            let (waiting, reading) = {
                let client = self.cluster.client(client);
                (client.waiting, client.reading)
            };
            let late = self
                .asked_at
                .get(&client)
                .is_none_or(|&at| self.step > at + RETRY_STEPS);
            if self.cluster.client(client).request.is_none() {
                self.cluster.register_at(client, 0);
                self.asked_at.insert(client, self.step);
            } else if !waiting && !reading && new_requests && self.random.percent(20) {
                let to = if self.random.percent(70) {
                    0
                } else {
                    self.anybody()
                };
                if self.random.percent(25) {
                    self.cluster.query_at(client, to, "total");
                    self.read_from.insert(client, self.told);
                } else {
                    self.requests_made += 1;
                    let amount = self.requests_made;
                    self.cluster
                        .request_at(client, to, &format!("add {amount}"));
                }
                self.asked_at.insert(client, self.step);
            } else if waiting && late {
                let to = self.anybody();
                self.cluster.retry_at(client, to);
                self.asked_at.insert(client, self.step);
            } else if reading && late {
                let to = self.anybody();
                self.cluster.query_at(client, to, "total");
                self.asked_at.insert(client, self.step);
                self.read_from.insert(client, self.told);
            }
        }
    }

    /// Loses, doubles and delivers frames in any order.
    fn weather(&mut self) {
        for (from, to) in self.cluster.net.between(None, None) {
            let count = self.cluster.net.link(from, to).queue.len();
            let mut arrived = false;
            for _ in 0..count {
                let stopped =
                    matches!(to, Node::Replica(i) if self.cluster.stopped[usize::from(i)]);
                if stopped {
                    break;
                }
                if !self.random.percent(self.weather.arrive) {
                    continue;
                }
                let left = self.cluster.net.link(from, to).queue.len() as u64;
                // Mostly in order, so that something gets done.
                let place = if self.random.percent(60) {
                    0
                } else {
                    self.random.below(left)
                };
                let queue = &mut self.cluster.net.link(from, to).queue;
                let packet = queue.remove(place as usize).expect("a frame is there");
                if self.random.percent(self.weather.double) {
                    self.cluster
                        .net
                        .link(from, to)
                        .queue
                        .push_back(packet.clone());
                }
                if self.random.percent(self.weather.lose) {
                    continue;
                }
                self.cluster.arrive(from, to, &packet.bytes);
                arrived = true;
            }
            if let (Node::Replica(i), true) = (to, arrived) {
                self.cluster.settle(i);
            }
        }
        self.listen();
    }

    /// Checks what clients were told.
    fn listen(&mut self) {
        for client in 0..CLIENTS {
            let answers = self.cluster.client(client).answers.clone();
            let mut evicted = false;
            for answer in &answers[self.seen[usize::from(client)]..] {
                match answer {
                    Answer::Reply { op, .. } => self.told = self.told.max(*op),
                    Answer::Read { op, .. } => {
                        let from = self.read_from.remove(&client).expect("a read that began");
                        assert!(
                            *op >= from,
                            "a read shows op {op}, but {from} was told before"
                        );
                        self.told = self.told.max(*op);
                    }
                    Answer::Reject { reason, .. } => {
                        evicted |=
                            matches!(reason, RejectReason::Evicted | RejectReason::SessionTooLow);
                        // Between views nobody serves: the client asks again.
                        let asks_again =
                            matches!(reason, RejectReason::NotPrimary | RejectReason::NotReady);
                        assert!(evicted || asks_again, "an unexpected refusal: {reason:?}");
                    }
                }
            }
            self.seen[usize::from(client)] = answers.len();
            if evicted {
                // R1.6: a new name, and nobody knows whether the last request was executed.
                self.answered.push(self.cluster.client(client).clone());
                *self.cluster.client(client) = self.cluster.client(client).reborn();
                self.seen[usize::from(client)] = 0;
                self.reborn += 1;
            }
        }
    }

    /// Links break and mend, replicas stand still and go on: mostly well, sometimes several at once.
    fn faults(&mut self) {
        for (percent, cut) in [(self.weather.cut, true), (3 * self.weather.cut, false)] {
            let (from, to) = (self.anybody(), self.anybody());
            if self.random.percent(percent) {
                self.cluster
                    .net
                    .link(Node::Replica(from), Node::Replica(to))
                    .cut = cut;
            }
        }
        for (percent, stop) in [(self.weather.stop, true), (3 * self.weather.stop, false)] {
            let place = usize::from(self.anybody());
            if self.random.percent(percent) {
                self.cluster.stopped[place] = stop;
            }
        }
    }

    fn step(&mut self, bad: bool) {
        self.step += 1;
        if bad {
            self.faults();
        }
        self.ask(bad);
        self.weather();
        self.cluster.tick(STEP);
        self.watch();
    }

    /// What holds in every step, in whatever views: everybody executes the same, in the same order (or
    /// is given the state that came of it), and no view has two primaries.
    fn watch(&mut self) {
        for place in 0..self.agreed.len() {
            let replica = &self.cluster.replicas[place];
            let executed = replica.machine().history();
            for next in &executed[self.agreed[place]..] {
                let at = (next.op, next.index);
                let first = self.history.entry(at).or_insert_with(|| next.clone());
                assert_eq!(next, first, "R{place} executes something else");
            }
            self.agreed[place] = executed.len();
            let report = replica.report();
            if report.status == PeerStatus::Normal && usize::from(report.primary.raw()) == place {
                let view = report.view.raw();
                let leader = *self.leaders.entry(view).or_insert(place as u8);
                assert_eq!(usize::from(leader), place, "view {view} has two primaries");
            }
        }
    }

    fn heal(&mut self) {
        self.cluster.net.heal();
        self.cluster.stopped.fill(false);
        self.weather = Weather {
            lose: 0,
            double: 0,
            arrive: 100,
            cut: 0,
            stop: 0,
        };
    }

    fn is_calm(&mut self) -> bool {
        let busy = (0..CLIENTS).any(|c| {
            let client = self.cluster.client(c);
            client.waiting || client.reading
        });
        let all = 0..self.cluster.n();
        let head = all.clone().map(|r| self.cluster.op(r)).max();
        let head = head.expect("a cluster has replicas");
        let is_calm =
            |r: u8| self.cluster.applied(r) == head && self.cluster.status(r) == PeerStatus::Normal;
        !busy && all.into_iter().all(is_calm)
    }

    /// What was executed is what was asked for, each once, and everybody was told the truth.
    fn check(&mut self) {
        self.cluster.assert_equal();
        let history = &self.history;
        let (executed, made) = (history.len() as u64, self.requests_made);
        assert!(
            executed <= made && made <= executed + self.reborn,
            "{executed} of {made} executed"
        );
        let mut amounts: Vec<&[u8]> = history.values().map(|e| &e.operation[..]).collect();
        amounts.sort_unstable();
        amounts.dedup();
        assert_eq!(
            amounts.len(),
            history.len(),
            "each request is executed once"
        );
        let mut total = 0_u64;
        let mut told = BTreeMap::new();
        let mut after = BTreeMap::new();
        for executed in history.values() {
            let text = String::from_utf8_lossy(&executed.operation).into_owned();
            let amount: u64 = text["add ".len()..].parse().expect("an amount");
            total += amount;
            after.insert(executed.op.raw(), total);
            let twice = told.insert((executed.client, executed.op.raw()), total.to_string());
            assert_eq!(twice, None, "one request of a session in one op");
        }
        let living = &self.cluster.clients[..usize::from(CLIENTS)];
        for client in living.iter().chain(&self.answered) {
            for answer in &client.answers {
                match answer {
                    Answer::Reply { request, op, body } if *request > 0 => {
                        let right = &told[&(client.id, *op)];
                        assert_eq!(
                            &String::from_utf8_lossy(body),
                            right,
                            "the reply at op {op}"
                        );
                    }
                    Answer::Read { op, body, .. } => {
                        let right = after
                            .range(..=*op)
                            .next_back()
                            .map_or(0, |(_, total)| *total);
                        assert_eq!(
                            String::from_utf8_lossy(body),
                            right.to_string(),
                            "a read at {op}"
                        );
                    }
                    Answer::Reply { .. } | Answer::Reject { .. } => {}
                }
            }
        }
    }
}

/// Plays one seed. Returns how many requests were made, and how many views were started.
fn play(n: u8, seed: u64, steps: u64, tune: fn(&mut Settings)) -> (u64, u64) {
    let mut run = Run::new(n, seed, tune);
    for _ in 0..steps {
        run.step(true);
    }
    run.heal();
    let mut left = 20_000;
    while !run.is_calm() {
        left -= 1;
        assert!(
            left > 0,
            "ten seconds after everything healed:\n{}",
            stuck(&mut run)
        );
        run.step(false);
    }
    run.check();
    let started = |replica: &Replica<Ledger>| replica.counters().of(Event::ViewsStarted);
    let views = run.cluster.replicas.iter().map(started).sum();
    (run.requests_made, views)
}

/// What the replicas look like when they should have finished.
fn stuck(run: &mut Run) -> String {
    let replicas = (0..run.cluster.n()).map(|r| {
        let report = run.cluster.replicas[usize::from(r)].report();
        format!(
            "R{r} {:?} op {} commit {} applied {} tail {} route {:?} in flight {} halted {:?}",
            report.status,
            report.op.raw(),
            report.commit.raw(),
            report.applied.raw(),
            report.tail.raw(),
            report
                .route
                .hops()
                .map(vsr_types::ReplicaIndex::raw)
                .collect::<Vec<_>>(),
            report.in_flight,
            report.halted,
        )
    });
    let waiting = (0..CLIENTS).filter(|&c| run.cluster.clients[usize::from(c)].waiting);
    let waiting = format!("waiting: {:?}", waiting.collect::<Vec<_>>());
    replicas.chain([waiting]).collect::<Vec<_>>().join("\n")
}

/// Plays `seeds` seeds; a failure names its own.
fn play_all(n: u8, seeds: std::ops::Range<u64>, tune: fn(&mut Settings)) {
    let chosen = chosen_seeds();
    let seeds = chosen.clone().unwrap_or(seeds);
    let (mut requests, mut views) = (0, 0);
    for seed in seeds {
        let result = std::panic::catch_unwind(|| play(n, seed, 2000, tune));
        let (asked, started) = result.unwrap_or_else(|panic| {
            eprintln!("n = {n}, seed {seed}: VSR_SEED={seed} plays it again");
            std::panic::resume_unwind(panic)
        });
        requests += asked;
        views += started;
    }
    assert!(
        chosen.is_some() || requests > 1000,
        "the schedules do some work: {requests} requests"
    );
    assert!(
        chosen.is_some() || n == 1 || views > 0,
        "and change views: {views} were started"
    );
}

#[test]
fn one_replica_survives_any_schedule() {
    play_all(1, 0..12, |_| {});
}

#[test]
fn two_replicas_survive_any_schedule() {
    play_all(2, 100..120, |_| {});
}

#[test]
fn three_replicas_survive_any_schedule() {
    play_all(3, 200..240, |_| {});
}

#[test]
fn three_replicas_without_a_chain_survive_any_schedule() {
    play_all(3, 300..320, |settings| settings.chain = false);
}

#[test]
fn three_replicas_with_a_short_pipeline_survive_any_schedule() {
    play_all(3, 400..420, |settings| settings.pipeline = 1);
}

#[test]
fn three_replicas_with_too_few_sessions_survive_any_schedule() {
    play_all(3, 600..620, |settings| settings.sessions = 9);
}

#[test]
fn five_replicas_survive_any_schedule() {
    play_all(5, 500..520, |_| {});
}

#[test]
fn seven_replicas_survive_any_schedule() {
    play_all(7, 700..712, |_| {});
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let digest = |seed| {
        let mut run = Run::new(3, seed, |_| {});
        for _ in 0..300 {
            run.step(true);
        }
        (0..3).map(|r| run.cluster.digest(r)).collect::<Vec<_>>()
    };
    assert_eq!(digest(42), digest(42));
    assert_ne!(digest(42), digest(43));
}
