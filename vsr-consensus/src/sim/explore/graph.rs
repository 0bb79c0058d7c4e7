//! Breadth first through everything that can happen.
//!
//! ```text
//!  state of the cluster = states of its replicas (numbers) + messages sent (numbers) + what was committed
//!  state of a replica x input  ->  state of a replica, messages, facts      played once, then looked up
//! ```

use std::boxed::Box;
use std::collections::{BTreeMap, VecDeque};
use std::vec;
use std::vec::Vec;

use vsr_types::message::PeerStatus;

use super::cluster::{Act, Cluster, FETCH_MAX};
use super::judge::Judge;
use super::messages::{MessageId, Messages};
use super::node::{Effects, Node, Step, founder};
use super::table::Table;
use super::{Bounds, Seen, Violation};
use crate::replica::fingerprint::{Fingerprint, Sight};

const REPLICAS_MAX: usize = 5;
/// How many replicas are kept ready to go on from where they are.
const LIVE_MAX: usize = 512;
/// After how many states the caller hears of it.
const WATCH_EVERY: usize = 50_000;

type LocalId = u32;

/// Where a replica's state comes from.
#[derive(Clone, Copy, Debug)]
enum Origin {
    Founded(u8),
    Restarted(u8, u32),
    Step(LocalId, Step),
}

#[derive(Debug)]
struct Local {
    origin: Origin,
    sight: Sight,
    life: u32,
}

#[derive(Debug)]
struct Transition {
    to: LocalId,
    effects: Effects,
}

/// All states of single replicas seen so far, and what leads from one to another.
struct Locals<'a> {
    bounds: &'a Bounds,
    messages: Messages,
    all: Vec<Local>,
    known: Table,
    steps: Table,
    transitions: Vec<Transition>,
    /// Replicas in some state, ready to be used up: a bounded cache.
    live: BTreeMap<LocalId, Node>,
    /// What a process in some place and life begins with.
    lives: BTreeMap<(u8, u32), (LocalId, Vec<MessageId>)>,
    played: usize,
}

/// The transition that changes nothing.
const STAYS: u32 = u32::MAX - 1;

impl<'a> Locals<'a> {
    fn new(bounds: &'a Bounds) -> Self {
        Self {
            bounds,
            messages: Messages::new(bounds),
            all: Vec::new(),
            known: Table::new(),
            steps: Table::new(),
            transitions: Vec::new(),
            live: BTreeMap::new(),
            lives: BTreeMap::new(),
            played: 0,
        }
    }

    /// The number of the state in which `node` is.
    fn number(&mut self, node: &Node, origin: Origin) -> LocalId {
        let fingerprint = node.fingerprint();
        if let Some(known) = self.known.get(fingerprint) {
            return known;
        }
        let id = self.all.len() as LocalId;
        self.known.insert(fingerprint, id);
        self.all.push(Local {
            origin,
            sight: node.sight(),
            life: node.life(),
        });
        id
    }

    fn keep(&mut self, id: LocalId, node: Node) {
        if self.live.len() >= LIVE_MAX {
            self.live.pop_first();
        }
        self.live.insert(id, node);
    }

    fn founded(&mut self, index: u8) -> LocalId {
        let node = Node::founded(index, self.bounds);
        let id = self.number(&node, Origin::Founded(index));
        self.keep(id, node);
        id
    }

    fn restarted(&mut self, index: u8, life: u32) -> (LocalId, Vec<MessageId>) {
        if let Some(known) = self.lives.get(&(index, life)) {
            return known.clone();
        }
        let (node, sent) = Node::restarted(index, life, self.bounds, &mut self.messages);
        let id = self.number(&node, Origin::Restarted(index, life));
        self.keep(id, node);
        self.lives.insert((index, life), (id, sent.clone()));
        (id, sent)
    }

    /// A replica in state `id`: one that is there, or played again from its beginning.
    fn revive(&mut self, id: LocalId) -> Node {
        if let Some(node) = self.live.remove(&id) {
            return node;
        }
        let mut steps = Vec::new();
        let mut at = id;
        let mut node = loop {
            match self.all[at as usize].origin {
                Origin::Step(from, step) => {
                    steps.push(step);
                    at = from;
                }
                Origin::Founded(index) => break Node::founded(index, self.bounds),
                Origin::Restarted(index, life) => {
                    break Node::restarted(index, life, self.bounds, &mut self.messages).0;
                }
            }
        };
        for step in steps.into_iter().rev() {
            drop(node.play(step, &mut self.messages));
        }
        node
    }

    /// Where `step` leads from `from`; none if it changes nothing.
    fn follow(&mut self, from: LocalId, step: Step) -> Option<u32> {
        let key = (u128::from(from) << 64 | u128::from(step.code())).wrapping_add(1);
        let key = {
            let mut spread = Fingerprint::new();
            spread.word(key as u64);
            spread.word((key >> 64) as u64);
            spread.finish()
        };
        if let Some(known) = self.steps.get(key) {
            return (known != STAYS).then_some(known);
        }
        let mut node = self.revive(from);
        if !node.may(step, self.bounds) {
            self.steps.insert(key, STAYS);
            self.keep(from, node);
            return None;
        }
        let effects = node.play(step, &mut self.messages);
        self.played += 1;
        let failed = effects.failure.is_some();
        let to = if failed {
            from
        } else {
            self.number(&node, Origin::Step(from, step))
        };
        if !failed {
            self.keep(to, node);
        }
        if to == from && effects.sent.is_empty() && effects.facts.is_empty() && !failed {
            self.steps.insert(key, STAYS);
            return None;
        }
        let id = self.transitions.len() as u32;
        self.transitions.push(Transition { to, effects });
        self.steps.insert(key, id);
        Some(id)
    }
}

/// A state of the cluster.
#[derive(Clone, Debug)]
struct State {
    locals: [LocalId; REPLICAS_MAX],
    net: Net,
    judge: u32,
    crashes: u8,
    requests: u8,
    /// Its place in the list of parents.
    number: u32,
}

impl State {
    fn fingerprint(&self) -> u128 {
        let mut into = Fingerprint::new();
        for &local in &self.locals {
            into.word(u64::from(local));
        }
        self.net.0.iter().for_each(|&word| into.word(word));
        into.word(u64::from(self.judge));
        into.word(u64::from(self.crashes) << 8 | u64::from(self.requests));
        into.finish()
    }

    /// What it has in common with states that differ in the network only.
    fn rest(&self) -> u128 {
        let mut into = Fingerprint::new();
        for &local in &self.locals {
            into.word(u64::from(local));
        }
        into.word(u64::from(self.judge));
        into.word(u64::from(self.crashes) << 8 | u64::from(self.requests));
        into.finish()
    }
}

/// What was sent: a set of messages, as bits, without zeros at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Net(Box<[u64]>);

impl Net {
    fn add(&mut self, sent: &[MessageId]) {
        let Some(last) = sent.iter().max() else {
            return;
        };
        let words = self.0.len().max(*last as usize / 64 + 1);
        let mut bits = core::mem::take(&mut self.0).into_vec();
        bits.resize(words, 0);
        for &id in sent {
            bits[id as usize / 64] |= 1 << (id % 64);
        }
        self.0 = bits.into_boxed_slice();
    }

    fn iter(&self) -> impl Iterator<Item = MessageId> + '_ {
        let words = self.0.iter().enumerate();
        words.flat_map(|(at, &word)| {
            (0..64)
                .filter(move |bit| word >> bit & 1 == 1)
                .map(move |bit| at as u32 * 64 + bit)
        })
    }

    /// Whether everything in it is in `other` too, and `other` has more.
    fn is_less_than(&self, other: &Self) -> bool {
        let within =
            |(at, &word): (usize, &u64)| other.0.get(at).is_some_and(|more| word & !more == 0);
        self != other && self.0.iter().enumerate().all(within)
    }
}

/// How many states that differ in the network only are compared with a new one.
const COMPARED_MAX: usize = 48;
const NO_STATE: u32 = u32::MAX;

/// Messages need not arrive: of two states that differ in the network only, the one with more of it
/// can do all that the other can.
struct Larger {
    newest: Vec<u32>,
    groups: Table,
    /// By number of state: its network, and the one before it in its group.
    nets: Vec<(Net, u32)>,
}

impl Larger {
    fn new() -> Self {
        Self {
            newest: Vec::new(),
            groups: Table::new(),
            nets: Vec::new(),
        }
    }

    /// Whether some state like `state` has a larger network.
    fn has(&self, state: &State, rest: u128) -> bool {
        let Some(group) = self.groups.get(rest) else {
            return false;
        };
        let mut number = self.newest[group as usize];
        for _ in 0..COMPARED_MAX {
            if number == NO_STATE {
                return false;
            }
            let (net, before) = &self.nets[number as usize];
            if state.net.is_less_than(net) {
                return true;
            }
            number = *before;
        }
        false
    }

    /// Adds a state, in the order of their numbers.
    fn add(&mut self, state: &State, rest: u128) {
        let group = self.groups.get(rest).unwrap_or_else(|| {
            let group = self.newest.len() as u32;
            self.groups.insert(rest, group);
            self.newest.push(NO_STATE);
            group
        });
        let before = core::mem::replace(&mut self.newest[group as usize], self.nets.len() as u32);
        self.nets.push((state.net.clone(), before));
    }
}

struct Graph<'a> {
    bounds: &'a Bounds,
    locals: Locals<'a>,
    judges: Vec<Judge>,
    judges_known: Table,
    states: Table,
    larger: Larger,
    /// How each state was reached first.
    parents: Vec<(u32, Act)>,
    next: Vec<State>,
    seen: Seen,
}

/// What broke: the act after the state with this number.
struct Broken {
    number: u32,
    act: Act,
}

pub(super) fn search(bounds: &Bounds, watch: &mut dyn FnMut(&Seen)) -> Seen {
    let mut graph = Graph {
        bounds,
        locals: Locals::new(bounds),
        judges: vec![Judge::new(founder())],
        judges_known: Table::new(),
        states: Table::new(),
        larger: Larger::new(),
        parents: Vec::new(),
        next: Vec::new(),
        seen: Seen::default(),
    };
    graph.judges_known.insert(graph.judges[0].fingerprint(), 0);
    graph.begin();
    graph.run(watch);
    graph.count();
    graph.seen
}

impl Graph<'_> {
    fn begin(&mut self) {
        let mut locals = [0; REPLICAS_MAX];
        for index in 0..self.bounds.replicas {
            locals[usize::from(index)] = self.locals.founded(index);
        }
        let state = State {
            locals,
            net: Net::default(),
            judge: 0,
            crashes: 0,
            requests: 0,
            number: 0,
        };
        self.states.insert(state.fingerprint(), 0);
        self.larger.add(&state, state.rest());
        self.parents.push((0, Act::Crash(0)));
        self.next.push(state);
    }

    fn run(&mut self, watch: &mut dyn FnMut(&Seen)) {
        let mut watched = 0;
        loop {
            let layer = core::mem::take(&mut self.next);
            if layer.is_empty() {
                self.seen.exhausted = true;
                return;
            }
            for state in layer {
                if let Err(broken) = self.expand(&state) {
                    if let Some(violation) = self.confirm(&broken) {
                        self.seen.violation = Some(violation);
                        return;
                    }
                    self.seen.mirages += 1;
                }
                if self.states.len() >= self.bounds.states {
                    return;
                }
                if self.states.len() - watched >= WATCH_EVERY {
                    watched = self.states.len();
                    self.count();
                    watch(&self.seen);
                }
            }
            self.seen.depth += 1;
        }
    }

    fn count(&mut self) {
        self.seen.states = self.states.len();
        self.seen.local = self.locals.all.len();
        self.seen.played = self.locals.played;
        self.seen.messages = self.locals.messages.len();
    }

    /// Everything that can happen next.
    fn expand(&mut self, state: &State) -> Result<(), Broken> {
        if self.larger.has(state, state.rest()) {
            return Ok(());
        }
        self.note(state);
        let net: Vec<MessageId> = state.net.iter().collect();
        for at in 0..self.bounds.replicas {
            for &id in &net {
                if self.locals.messages.get(id).to != at {
                    continue;
                }
                if self.locals.messages.is_question(id) {
                    self.ask(state, at, Step::Deliver(id))?;
                } else {
                    self.step(state, at, Step::Deliver(id))?;
                }
            }
            if state.requests < self.bounds.requests {
                self.step(state, at, Step::Request(state.requests))?;
            }
            self.step(state, at, Step::Suspect)?;
            self.step(state, at, Step::Beat)?;
            self.ask(state, at, Step::Fetch)?;
            self.crash(state, at);
        }
        Ok(())
    }

    fn note(&mut self, state: &State) {
        let judge = &self.judges[state.judge as usize];
        self.seen.committed += usize::from(judge.committed() > 0);
        self.seen.changed += usize::from(judge.started() > 1);
        let replicas = &state.locals[..usize::from(self.bounds.replicas)];
        let has_recovered = |&id: &LocalId| {
            let local = &self.locals.all[id as usize];
            local.life > 0 && local.sight.status == PeerStatus::Normal
        };
        self.seen.recovered += usize::from(replicas.iter().any(has_recovered));
    }

    fn step(&mut self, state: &State, at: u8, step: Step) -> Result<(), Broken> {
        let place = usize::from(at);
        let Some(id) = self.locals.follow(state.locals[place], step) else {
            return Ok(());
        };
        let broken = Broken {
            number: state.number,
            act: Act::Step(at, step),
        };
        let mut next = state.clone();
        next.requests += u8::from(matches!(step, Step::Request(_)));
        let Some(sent) = self.apply(&mut next, at, id) else {
            return Err(broken);
        };
        let messages = &self.locals.messages;
        let kept: Vec<MessageId> = sent
            .into_iter()
            .filter(|&id| !messages.is_repair(id))
            .collect();
        next.net.add(&kept);
        self.reach(next, broken.act);
        Ok(())
    }

    /// Takes over what a transition of one replica does, and gives what it sent; none: it broke
    /// something.
    fn apply(&mut self, next: &mut State, at: u8, id: u32) -> Option<Vec<MessageId>> {
        let transition = &self.locals.transitions[id as usize];
        if transition.effects.failure.is_some() {
            return None;
        }
        next.locals[usize::from(at)] = transition.to;
        let sent = transition.effects.sent.clone();
        if !transition.effects.facts.is_empty() {
            let mut judge = self.judges[next.judge as usize].clone();
            for fact in &transition.effects.facts {
                judge.hear(fact).ok()?;
            }
            next.judge = self.judge_number(judge);
        }
        Some(sent)
    }

    /// As [`Cluster`]'s.
    fn ask(&mut self, state: &State, at: u8, step: Step) -> Result<(), Broken> {
        let Some(mut id) = self.locals.follow(state.locals[usize::from(at)], step) else {
            return Ok(());
        };
        let act = Act::Step(at, step);
        let mut next = state.clone();
        let mut queue = VecDeque::new();
        let (mut to, mut is_answer) = (at, false);
        for _ in 0..FETCH_MAX {
            let Some(sent) = self.apply(&mut next, to, id) else {
                return Err(Broken {
                    number: state.number,
                    act,
                });
            };
            let messages = &self.locals.messages;
            let (now, later): (Vec<MessageId>, Vec<MessageId>) = sent
                .iter()
                .partition(|&&id| is_answer || messages.is_repair(id));
            queue.extend(now);
            next.net.add(&later);
            let followed = loop {
                let Some(message) = queue.pop_front() else {
                    break None;
                };
                to = self.locals.messages.get(message).to;
                is_answer = self.locals.messages.is_answered(message);
                let local = next.locals[usize::from(to)];
                if let Some(id) = self.locals.follow(local, Step::Deliver(message)) {
                    break Some(id);
                }
            };
            let Some(followed) = followed else {
                break;
            };
            id = followed;
        }
        self.reach(next, act);
        Ok(())
    }

    fn judge_number(&mut self, judge: Judge) -> u32 {
        let fingerprint = judge.fingerprint();
        self.judges_known.get(fingerprint).unwrap_or_else(|| {
            let number = self.judges.len() as u32;
            self.judges_known.insert(fingerprint, number);
            self.judges.push(judge);
            number
        })
    }

    fn crash(&mut self, state: &State, at: u8) {
        let sight = |index: usize| self.locals.all[state.locals[index] as usize].sight.status;
        let is_down =
            |&index: &usize| matches!(sight(index), PeerStatus::Recovering | PeerStatus::Blank);
        let place = usize::from(at);
        let replicas = usize::from(self.bounds.replicas);
        let again = |&index: &usize| self.bounds.detours && index == place;
        let down = (0..replicas)
            .filter(|index| !again(index))
            .filter(is_down)
            .count();
        let within = state.crashes < self.bounds.crashes && down < usize::from(self.bounds.down);
        if !within {
            return;
        }
        let life = self.locals.all[state.locals[place] as usize].life + 1;
        let (id, sent) = self.locals.restarted(at, life);
        let mut next = state.clone();
        next.locals[place] = id;
        next.net.add(&sent);
        next.crashes += 1;
        self.reach(next, Act::Crash(at));
    }

    fn reach(&mut self, mut next: State, act: Act) {
        self.seen.edges += 1;
        let rest = next.rest();
        let number = self.parents.len() as u32;
        if self.larger.has(&next, rest) || !self.states.insert(next.fingerprint(), number) {
            return;
        }
        self.larger.add(&next, rest);
        self.parents.push((next.number, act));
        next.number = number;
        self.next.push(next);
    }

    /// Plays the way to what broke again, by the real code alone.
    fn confirm(&mut self, broken: &Broken) -> Option<Violation> {
        let mut acts = vec![broken.act];
        let mut number = broken.number;
        while number != 0 {
            let (parent, act) = self.parents[number as usize];
            acts.push(act);
            number = parent;
        }
        acts.reverse();
        let messages = &mut self.locals.messages;
        let (count, _) = Cluster::replay(self.bounds, &acts, messages)?;
        acts.truncate(count);
        let acts = Cluster::shorten(self.bounds, &acts, messages);
        let (_, rule) = Cluster::replay(self.bounds, &acts, messages)?;
        let trace = acts.iter().map(|act| act.describe(messages)).collect();
        Some(Violation { rule, trace })
    }
}
