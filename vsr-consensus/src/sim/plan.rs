//! What one seed draws before anything happens: the cluster, its clients, its network, and an explicit
//! list of faults with their times.
//!
//! The list is drawn up front so that a failing run can be played again with a part of it: that is how
//! the shrinker finds the few faults that matter. What happens to single messages (loss, delay,
//! duplication) is drawn on the way, from a generator of its own.

use core::fmt;
use core::time::Duration;
use std::vec::Vec;

use vsr_types::ReplicaIndex;

use super::faults::{FaultClass, Faults};
use super::options::Options;
use super::random::Random;
use crate::{Config, OnOpMax, Settings};

/// Nanoseconds of simulated time.
pub(crate) type Time = u64;
pub(crate) const MICROSECOND: Time = 1_000;
pub(crate) const MILLISECOND: Time = 1_000_000;
pub(crate) const SECOND: Time = 1_000_000_000;

/// Whom a fault hits. Who that is turns out when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The replica with this number, modulo how many there are.
    Any(u8),
    /// Who leads the newest view.
    Primary,
    /// Who would lead the next one.
    NextPrimary,
    /// Who is last in the chain: whom others are fed from.
    Tail,
    /// Who recovers right now; nobody, if nobody does.
    Recovering,
    /// Who gave a part of its state or log away last.
    Donor,
}

/// How a partition divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One replica from all others, clients included when the flag is set.
    Isolate(Target, bool),
    /// Those in the mask from the rest.
    Split(u8),
    /// Two halves that only this replica connects.
    Bridge(u8),
    /// Each replica reaches only its neighbours in the list.
    Chain,
    /// One link.
    Link(u8, u8),
    /// Clients from one replica.
    Clients(Target),
    /// The primary, those after it who are no quorum with it, and all clients, from the rest: what they
    /// prepare is acknowledged and comes to nothing, and the rest has nothing to do (trace T17).
    Minority,
}

/// Which way a partition blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Both,
    Out,
    In,
}

/// How two processes come to be in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubling {
    /// The first one is well.
    Mistake,
    /// The first one stands still and was taken for dead.
    Stopped,
    /// Nobody hears the first one, so it was taken for dead.
    Unreachable {
        /// Whether it hears nobody either.
        deaf: bool,
        /// Whether what it says meanwhile arrives in the end.
        held: bool,
    },
    /// The first one died, and two are started in its stead.
    Twins,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    Crash {
        target: Target,
        restart_after: Option<Time>,
    },
    Partition {
        shape: Shape,
        way: Way,
        lasts: Time,
    },
    Double {
        target: Target,
        how: Doubling,
        lasts: Time,
    },
    Pause {
        target: Target,
        lasts: Time,
    },
    Slow {
        target: Target,
        factor: u32,
        lasts: Time,
    },
    Clog {
        from: u8,
        to: u8,
        lasts: Time,
    },
    /// The monotonic clock jumps ahead by this, and the wall clock by that, either way.
    ClockJump {
        target: Target,
        ahead: Time,
        wall: i64,
    },
    /// This many earlier messages arrive again.
    Replay {
        count: u8,
    },
    /// For a while, one message in this many is damaged.
    Corrupt {
        one_in: u32,
        lasts: Time,
    },
    /// An entry so far behind the end of a replica's log goes bad.
    Rot {
        target: Target,
        behind: u8,
    },
    /// The operator moves the primary.
    HandOver {
        to: u8,
    },
    /// The operator lets the primary lead again that was cut off last.
    Relapse,
    /// A client gives up and comes back under another name.
    Churn {
        client: u8,
    },
}

impl FaultKind {
    pub(crate) const fn class(&self) -> FaultClass {
        match self {
            Self::Crash {
                restart_after: Some(_),
                ..
            } => FaultClass::Crash,
            Self::Crash {
                restart_after: None,
                ..
            } => FaultClass::Kill,
            Self::Partition { .. } | Self::Relapse => FaultClass::Partition,
            Self::Double { .. } => FaultClass::Zombie,
            Self::Pause { .. } => FaultClass::Pause,
            Self::Slow { .. } => FaultClass::Slow,
            Self::Clog { .. } => FaultClass::Clog,
            Self::ClockJump { .. } => FaultClass::Clock,
            Self::Replay { .. } => FaultClass::Replay,
            Self::Corrupt { .. } => FaultClass::Corrupt,
            Self::Rot { .. } => FaultClass::Rot,
            Self::HandOver { .. } => FaultClass::HandOver,
            Self::Churn { .. } => FaultClass::Churn,
        }
    }
}

/// One entry of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: Time,
    pub(crate) kind: FaultKind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:9.3} ms {:?}", self.at as f64 / 1e6, self.kind)
    }
}

/// What happens to single messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weather {
    /// The mean delay of a link; each has its own, between half and twice that.
    pub(crate) delay: Time,
    /// Messages per million that take ten to fifty times longer.
    pub(crate) tail: u32,
    pub(crate) loss: u32,
    pub(crate) duplicate: u32,
    /// Messages per million that arrive out of their order.
    pub(crate) reorder: u32,
    /// Bytes and not messages: frames arrive in pieces and stuck together, and a damaged one breaks the
    /// connection.
    pub(crate) stream: bool,
}

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) clients: u16,
    /// The mean time between an answer and the next request.
    pub(crate) think: Time,
    /// Requests in a hundred that are queries.
    pub(crate) queries: u64,
    /// Time is cut into periods of this length; in every other one clients rest. Zero: never.
    pub(crate) rest: Time,
    /// How long a client waits before it asks again.
    pub(crate) retry: Time,
}

/// Everything that one seed draws up front.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) replicas: u8,
    pub(crate) settings: Settings,
    pub(crate) weather: Weather,
    pub(crate) load: Load,
    /// How long a replica takes for one message.
    pub(crate) cost: Time,
    /// How long a node takes to archive an epoch, on average.
    pub(crate) archiving: Time,
    /// How far clocks run from the true rate, in parts per million.
    pub(crate) drift: u32,
    /// Views change all the time, and little is remembered: small clusters, short logs, many crashes.
    pub(crate) storm: bool,
    /// The classes that this seed has.
    pub(crate) classes: Faults,
    pub(crate) faults: Vec<Fault>,
    /// The number of each fault in the whole schedule.
    pub(crate) numbers: Vec<u32>,
    /// The safety phase ends here at the latest.
    pub(crate) horizon: Time,
    /// Client operations after which it ends earlier.
    pub(crate) ops: u64,
}

impl Plan {
    /// Draws the plan of `seed`.
    pub(crate) fn draw(seed: u64, options: &Options) -> Self {
        let root = Random::new(seed);
        let random = &mut root.split(1);
        let storm = random.percent(30);
        let classes = draw_classes(random, options.faults, storm);
        let replicas = draw_replicas(random, options, storm);
        let weather = draw_weather(random, classes, options);
        let load = draw_load(random, &weather, options);
        let mut settings = draw_settings(random, replicas, &weather, load.clients);
        if options
            .plant
            .is_some_and(super::options::Plant::is_for_replicas)
        {
            // Where no majority can be asked in time everybody stops: that is another story.
            let patience = settings.tick.as_nanos() as Time * 10;
            let patience = Duration::from_nanos(patience.max(8 * weather.delay));
            settings.view_timeout = settings.view_timeout.max(patience);
        }
        if storm {
            settings.pipeline = settings.pipeline.min(4);
            settings.journal_slots = 16;
        }
        let archiving = draw_epochs(&mut root.split(9), options, &mut settings);
        #[cfg(feature = "mutate")]
        {
            settings.mutant = options.mutant;
        }
        let horizon = 150 * SECOND;
        let mut plan = Self {
            replicas,
            settings,
            weather,
            load,
            cost: random.pick(&[200, MICROSECOND, 5 * MICROSECOND, 50 * MICROSECOND]),
            archiving,
            drift: if classes.has(FaultClass::Clock) {
                random.pick(&[100, 10_000, 200_000])
            } else {
                0
            },
            storm,
            classes,
            faults: Vec::new(),
            numbers: Vec::new(),
            horizon,
            ops: options.ops,
        };
        plan.faults = draw_faults(&mut root.split(2), &plan);
        plan.numbers = (0..plan.faults.len() as u32).collect();
        plan.leave_out(options);
        plan
    }

    /// Leaves out what the shrinker does without; everything else stays as it was drawn.
    fn leave_out(&mut self, options: &Options) {
        let all = self.faults.iter().zip(&self.numbers);
        let kept = all.filter(|(fault, number)| {
            !options.without.has(fault.kind.class()) && !options.skip.contains(number)
        });
        (self.faults, self.numbers) = kept.map(|(&fault, &number)| (fault, number)).unzip();
        for class in options.without.iter() {
            self.classes = self.classes.without(class);
        }
        let out = |class| options.without.has(class);
        let weather = &mut self.weather;
        for (class, part) in [
            (FaultClass::Tail, &mut weather.tail),
            (FaultClass::Loss, &mut weather.loss),
            (FaultClass::Duplicate, &mut weather.duplicate),
            (FaultClass::Reorder, &mut weather.reorder),
            (FaultClass::Clock, &mut self.drift),
        ] {
            if out(class) {
                *part = 0;
            }
        }
    }

    /// The configuration of one replica.
    pub(crate) fn config(&self, replica: u8) -> Config {
        let settings = Settings {
            replica: ReplicaIndex::new(replica),
            ..self.settings.clone()
        };
        settings.validate().expect("what is drawn makes sense")
    }

    /// How many replicas may be without their memory at the same time.
    pub(crate) const fn failures_survived(&self) -> u8 {
        self.replicas - (self.replicas / 2 + 1)
    }
}

fn draw_classes(random: &mut Random, allowed: Faults, storm: bool) -> Faults {
    let mut classes = Faults::none();
    for &class in FaultClass::ALL {
        let percent = match class {
            FaultClass::BeyondF => 100,
            FaultClass::Kill => 15,
            FaultClass::Init => 40,
            FaultClass::Crash | FaultClass::Partition | FaultClass::Zombie if storm => 95,
            FaultClass::Replay if storm => 95,
            FaultClass::Crash => 80,
            _ => 60,
        };
        // Drawn in any case, so that taking one class away changes nothing else.
        if random.percent(percent) && allowed.has(class) {
            classes = classes.with(class);
        }
    }
    classes
}

fn draw_replicas(random: &mut Random, options: &Options, storm: bool) -> u8 {
    let drawn = match random.below(100) {
        0..50 if storm => 3,
        _ if storm => 5,
        0..3 => 1,
        3..8 => 2,
        8..52 => 3,
        52..62 => 4,
        62..87 => 5,
        87..91 => 6,
        _ => 7,
    };
    options.replicas.unwrap_or(drawn)
}

fn draw_weather(random: &mut Random, classes: Faults, options: &Options) -> Weather {
    let delay = match random.below(100) {
        0..30 => 50 * MICROSECOND,
        30..60 => 200 * MICROSECOND,
        60..80 => MILLISECOND,
        80..92 => 5 * MILLISECOND,
        92..98 => 20 * MILLISECOND,
        _ => 100 * MILLISECOND,
    };
    let loss = random.pick(&[1_000, 1_000, 10_000, 10_000, 50_000, 100_000, 400_000]);
    let duplicate = random.pick(&[1_000, 10_000, 100_000]);
    let tail = random.pick(&[1_000, 10_000, 50_000]);
    let reorder = random.pick(&[1_000, 20_000, 200_000]);
    let stream = random.percent(15);
    let when = |class, value| if classes.has(class) { value } else { 0 };
    Weather {
        delay,
        tail: when(FaultClass::Tail, tail),
        loss: when(FaultClass::Loss, loss),
        duplicate: when(FaultClass::Duplicate, duplicate),
        reorder: when(FaultClass::Reorder, reorder),
        stream: options.stream.unwrap_or(stream),
    }
}

fn draw_settings(random: &mut Random, replicas: u8, weather: &Weather, clients: u16) -> Settings {
    let pipeline = random.pick(&[1, 2, 4, 8, 16, 32]);
    let slots = random.pick(&[16, 32, 64, 128, 256]);
    let batch = random.pick(&[4096, 4096, 16 << 10, 64 << 10]);
    // Rarely fewer than clients, who then do little else than take them from one another.
    let enough = usize::from(clients) + random.below(8) as usize;
    let sessions = if random.percent(10) {
        random.pick(&[1, 4, 8, 32])
    } else {
        enough
    };
    let tick = random.pick(&[5, 10, 10, 10, 20]);
    let period = random.pick(&[1, 20, 100]);
    let chain = random.percent(70);
    let patient = random.percent(85);
    let millis = Duration::from_millis;
    // Mostly in proportion to the network, sometimes far too short.
    let delay_ms = weather.delay.div_ceil(MILLISECOND);
    let view_timeout = if patient {
        (10 * tick).max(8 * delay_ms)
    } else {
        4 * tick
    };
    let prepare_timeout = if patient {
        (5 * tick).max(6 * delay_ms)
    } else {
        2 * tick
    };
    Settings {
        replicas,
        batch_size_max: batch,
        pipeline,
        journal_slots: slots.max(4 * pipeline),
        journal_bytes: 4 * batch * random.pick(&[1, 1, 4]),
        sessions,
        reply_bytes: 2 * vsr_types::limits::REPLY_SIZE_MAX,
        query_bytes: vsr_types::limits::FRAME_SIZE_MAX + vsr_types::HEADER_SIZE,
        tick: millis(tick),
        view_timeout: millis(view_timeout),
        prepare_timeout: millis(prepare_timeout),
        digest_period: millis(period),
        chain,
        ..Settings::new(ReplicaIndex::new(0), replicas)
    }
}

/// Epochs so short that many end, in a part of all seeds; and how long archiving one takes.
fn draw_epochs(random: &mut Random, options: &Options, settings: &mut Settings) -> Time {
    let is_short = random.percent(30);
    let mode = match random.below(100) {
        0..40 => OnOpMax::Reset,
        40..85 => OnOpMax::Archive,
        _ => OnOpMax::Halt,
    };
    let mode = options.on_op_max.unwrap_or(mode);
    let shortest = random.between(3, 64);
    let drawn = match mode {
        // It ends once, and there must be something to do before.
        OnOpMax::Halt => shortest * 8,
        OnOpMax::Reset | OnOpMax::Archive => shortest,
    };
    if is_short || options.op_max.is_some() {
        settings.op_max = options.op_max.unwrap_or(drawn);
        settings.on_op_max = mode;
    }
    let view_timeout = settings.view_timeout.as_nanos() as Time;
    random.pick(&[
        100 * MICROSECOND,
        2 * MILLISECOND,
        20 * MILLISECOND,
        view_timeout / 2,
        2 * view_timeout,
    ])
}

fn draw_load(random: &mut Random, weather: &Weather, options: &Options) -> Load {
    let drawn = random.pick(&[1, 2, 4, 8, 16, 24, 32, 64]);
    let clients = options.clients.unwrap_or(drawn);
    let per_second = random.pick(&[100, 200, 400, 1_000, 3_000]);
    Load {
        clients,
        think: u64::from(clients) * SECOND / per_second,
        queries: random.pick(&[0, 10, 30, 60]),
        rest: random.pick(&[0, 0, 500 * MILLISECOND, 3 * SECOND]),
        retry: (100 * MILLISECOND).max(weather.delay * 8),
    }
}

fn draw_faults(random: &mut Random, plan: &Plan) -> Vec<Fault> {
    let mut faults = Vec::new();
    for &class in FaultClass::ALL {
        let random = &mut random.split(class as u64 + 10);
        // Every class has a rhythm of its own in every seed.
        let mean = match class {
            FaultClass::Crash | FaultClass::Partition | FaultClass::Zombie if plan.storm => {
                SECOND / 4
            }
            FaultClass::Crash => {
                random.pick(&[SECOND / 5, SECOND / 5, SECOND / 2, SECOND, 4 * SECOND])
            }
            FaultClass::Kill => 10 * SECOND,
            FaultClass::Partition => random.pick(&[SECOND / 2, 2 * SECOND, 8 * SECOND]),
            FaultClass::Zombie => random.pick(&[SECOND / 2, SECOND, 4 * SECOND]),
            FaultClass::Pause | FaultClass::Clog => {
                random.pick(&[SECOND / 3, 2 * SECOND, 8 * SECOND])
            }
            FaultClass::Slow => random.pick(&[SECOND, 6 * SECOND]),
            FaultClass::Clock => random.pick(&[SECOND, 6 * SECOND]),
            FaultClass::Replay => random.pick(&[SECOND / 50, SECOND / 5, 2 * SECOND]),
            FaultClass::Corrupt => random.pick(&[SECOND, 6 * SECOND]),
            FaultClass::Rot => random.pick(&[SECOND / 10, SECOND]),
            FaultClass::Churn => random.pick(&[SECOND / 5, 2 * SECOND]),
            FaultClass::BeyondF => 3 * SECOND,
            FaultClass::HandOver => random.pick(&[SECOND / 2, 3 * SECOND]),
            FaultClass::Loss
            | FaultClass::Duplicate
            | FaultClass::Reorder
            | FaultClass::Tail
            | FaultClass::Init => {
                continue;
            }
        };
        if !plan.classes.has(class) {
            continue;
        }
        let mut at = 20 * MILLISECOND + random.waiting(mean);
        while at < plan.horizon {
            let kind = draw_fault(random, class, plan);
            faults.push(Fault { at, kind });
            if class == FaultClass::Partition {
                draw_sequel(random, plan, at, kind, &mut faults);
            }
            at += random.waiting(mean).max(MILLISECOND);
        }
    }
    faults.sort_by_key(|fault| fault.at);
    faults
}

/// Partitions come in series: one that flaps, or one primary after the other cut off, each before
/// the last one is back with a log that the others have left behind (traces T12 and T16).
fn draw_sequel(random: &mut Random, plan: &Plan, at: Time, kind: FaultKind, into: &mut Vec<Fault>) {
    let FaultKind::Partition { shape, way, lasts } = kind else {
        return;
    };
    match random.below(4) {
        2 => {
            let patience = plan.settings.view_timeout.as_nanos() as Time;
            let mut from = at;
            for _ in 0..random.between(1, 4) {
                let lasts = patience + random.below(3 * patience);
                let kind = FaultKind::Partition {
                    shape: Shape::Minority,
                    way: Way::Both,
                    lasts,
                };
                into.push(Fault { at: from, kind });
                from += lasts + random.below(patience);
                let kind = FaultKind::Relapse;
                into.push(Fault { at: from, kind });
                from += random.below(2 * patience);
            }
        }
        0 => {
            let lasts = lasts / 4;
            let kind = FaultKind::Partition { shape, way, lasts };
            for i in 1..random.between(2, 8) {
                into.push(Fault {
                    at: at + i * lasts * 2,
                    kind,
                });
            }
        }
        1 => {
            // Each a little longer than a view change takes, and the next before the last one is over:
            // who comes back meets those who have just been left alone.
            let patience = plan.settings.view_timeout.as_nanos() as Time;
            let mut from = at;
            for _ in 0..random.between(2, 8) {
                from += patience + random.below(patience);
                let lasts = patience + random.below(3 * patience);
                let shape = Shape::Isolate(Target::Primary, random.percent(20));
                let kind = FaultKind::Partition {
                    shape,
                    way: Way::Both,
                    lasts,
                };
                into.push(Fault { at: from, kind });
            }
        }
        _ => {}
    }
}

fn draw_target(random: &mut Random) -> Target {
    match random.below(100) {
        0..30 => Target::Any(random.below(7) as u8),
        30..65 => Target::Primary,
        65..75 => Target::NextPrimary,
        75..83 => Target::Tail,
        83..92 => Target::Recovering,
        _ => Target::Donor,
    }
}

fn draw_fault(random: &mut Random, class: FaultClass, plan: &Plan) -> FaultKind {
    let lasts = random.pick(&[
        5 * MILLISECOND,
        50 * MILLISECOND,
        200 * MILLISECOND,
        SECOND,
        4 * SECOND,
    ]);
    let lasts = lasts / 2 + random.below(lasts);
    match class {
        FaultClass::Crash | FaultClass::BeyondF => {
            let longest = random.pick(&[
                1,
                MILLISECOND,
                30 * MILLISECOND,
                300 * MILLISECOND,
                3 * SECOND,
            ]);
            FaultKind::Crash {
                target: draw_target(random),
                restart_after: Some(random.below(longest)),
            }
        }
        FaultClass::Kill => FaultKind::Crash {
            target: draw_target(random),
            restart_after: None,
        },
        FaultClass::Zombie => draw_double(random, plan),
        FaultClass::Pause => FaultKind::Pause {
            target: draw_target(random),
            lasts,
        },
        FaultClass::Slow => FaultKind::Slow {
            target: draw_target(random),
            factor: random.pick(&[3, 10, 100]),
            lasts: 2 * lasts,
        },
        FaultClass::Clog => FaultKind::Clog {
            from: random.below(u64::from(plan.replicas)) as u8,
            to: random.below(u64::from(plan.replicas)) as u8,
            lasts,
        },
        FaultClass::Clock => FaultKind::ClockJump {
            target: draw_target(random),
            ahead: if random.percent(50) { 0 } else { lasts },
            wall: (lasts as i64) * random.pick(&[-1000, -1, 0, 1, 1000]),
        },
        FaultClass::Replay => FaultKind::Replay {
            count: random.between(1, 8) as u8,
        },
        FaultClass::Corrupt => FaultKind::Corrupt {
            one_in: random.pick(&[3, 30, 300]),
            lasts,
        },
        FaultClass::Rot => FaultKind::Rot {
            target: draw_target(random),
            behind: random.below(random_depth(plan)) as u8,
        },
        FaultClass::HandOver => FaultKind::HandOver {
            to: random.below(u64::from(plan.replicas)) as u8,
        },
        FaultClass::Churn => FaultKind::Churn {
            client: random.below(u64::from(plan.load.clients)) as u8,
        },
        _ => draw_partition(random, plan, lasts),
    }
}

/// How far behind its head a replica's log is not committed yet, or not long since.
fn random_depth(plan: &Plan) -> u64 {
    plan.settings.pipeline as u64 + 2
}

/// Long enough that the others believe that the first process is dead, or not quite.
fn draw_double(random: &mut Random, plan: &Plan) -> FaultKind {
    let patience = plan.settings.view_timeout.as_nanos() as Time;
    let how = match random.below(8) {
        0 => Doubling::Mistake,
        1 => Doubling::Twins,
        2 | 3 => Doubling::Stopped,
        _ => Doubling::Unreachable {
            deaf: random.percent(30),
            held: random.percent(60),
        },
    };
    let longest = random.pick(&[2, 8, 30]) * patience;
    FaultKind::Double {
        target: draw_target(random),
        how,
        lasts: patience + random.below(longest),
    }
}

fn draw_partition(random: &mut Random, plan: &Plan, lasts: Time) -> FaultKind {
    let n = u64::from(plan.replicas);
    let shape = match random.below(8) {
        0 | 1 => Shape::Isolate(draw_target(random), random.percent(50)),
        2 => Shape::Isolate(Target::Primary, random.percent(50)),
        3 => Shape::Split(random.below(1 << n) as u8),
        4 => Shape::Bridge(random.below(n) as u8),
        5 => Shape::Chain,
        6 => Shape::Link(random.below(n) as u8, random.below(n) as u8),
        _ => Shape::Clients(draw_target(random)),
    };
    let way = random.pick(&[Way::Both, Way::Both, Way::Out, Way::In]);
    FaultKind::Partition { shape, way, lasts }
}
