//! What all clients did to registers and counters, and whether it makes sense.
//!
//! Every written value is unique, so that a read says which write it saw. Then no search is needed to
//! know whether a register is linearizable (Gibbons and Korach, *Testing shared memories*, SIAM Journal
//! on Computing 26, 1997): the operations on one value, a write and its reads, span a *zone* from the
//! first end to the last start. If that goes forward, the register held this value all the while, and no
//! other one may have been held at the same time; if it goes backward, all of them took effect together
//! at some moment in between, which must not lie wholly where another value was held.
//!
//! ```text
//!   write 1  |----|                      read 1          |---|     zone of 1: forward, held
//!                  <----------------------------------->
//!   write 2            |------|                                    zone of 2: backward, somewhere in it:
//!                      <------>                                    within the other one, so it is wrong
//! ```
//!
//! An operation that was never answered has no end: it may have happened at any time since, or never.

/// Nanoseconds since the load began.
pub(super) type Time = u64;

/// The end of what was not answered.
const NEVER: Time = Time::MAX;

/// The operations on one value of one register.
#[derive(Clone, Copy, Debug)]
struct Zone {
    first_end: Time,
    last_start: Time,
}

impl Zone {
    /// Whether anybody was told that this value was written, or read it.
    const fn is_known(self) -> bool {
        self.first_end != NEVER
    }

    const fn is_forward(self) -> bool {
        self.first_end < self.last_start
    }
}

/// A register: the value 0 is "absent", the others are numbered as their writes began.
#[derive(Clone, Debug)]
pub(super) struct Register {
    zones: Vec<Zone>,
    /// Reads of values that nobody wrote.
    invented: u64,
}

impl Default for Register {
    fn default() -> Self {
        let absent = Zone {
            first_end: 0,
            last_start: 0,
        };
        Self {
            zones: vec![absent],
            invented: 0,
        }
    }
}

impl Register {
    /// A write begins; returns the number of its value.
    pub(super) fn write(&mut self, start: Time) -> u32 {
        self.zones.push(Zone {
            first_end: NEVER,
            last_start: start,
        });
        u32::try_from(self.zones.len() - 1).expect("fewer writes than four billion")
    }

    /// The write of `value` was acknowledged.
    pub(super) fn wrote(&mut self, value: u32, end: Time) {
        let zone = &mut self.zones[value as usize];
        zone.first_end = zone.first_end.min(end);
    }

    /// A read has returned `value`.
    pub(super) fn read(&mut self, value: u32, start: Time, end: Time) {
        match self.zones.get_mut(value as usize) {
            Some(zone) => {
                zone.first_end = zone.first_end.min(end);
                zone.last_start = zone.last_start.max(start);
            }
            None => self.invented += 1,
        }
    }

    /// Whether anything was ever written.
    pub(super) const fn is_used(&self) -> bool {
        self.zones.len() > 1
    }

    /// How many values were written, or may have been.
    pub(super) const fn values(&self) -> u64 {
        self.zones.len() as u64 - 1
    }

    /// How much of this history cannot be: 0 if the register is linearizable.
    pub(super) fn anomalies(&self) -> u64 {
        let known = || self.zones.iter().filter(|zone| zone.is_known());
        let mut held: Vec<(Time, Time)> = known()
            .filter(|zone| zone.is_forward())
            .map(|zone| (zone.first_end, zone.last_start))
            .collect();
        held.sort_unstable();
        let overlap = |pair: &&[(Time, Time)]| pair[1].0 < pair[0].1;
        let twice = held.windows(2).filter(overlap).count() as u64;
        let moments = known().filter(|zone| !zone.is_forward());
        let within = moments.filter(|zone| {
            let before = held.partition_point(|(from, _)| *from < zone.last_start);
            before > 0 && zone.first_end < held[before - 1].1
        });
        self.invented + twice + within.count() as u64
    }

    /// Whether `value` may be what the register holds when everything is over: no other value came
    /// wholly after it.
    pub(super) fn may_end_with(&self, value: u32) -> bool {
        let Some(last) = self.zones.get(value as usize) else {
            return false;
        };
        let others = self.zones.iter().enumerate();
        others
            .filter(|(other, zone)| *other != value as usize && zone.is_known())
            .all(|(_, zone)| zone.last_start <= last.first_end)
    }
}

/// A counter that is only incremented, by one.
#[derive(Clone, Debug, Default)]
pub(super) struct Counter {
    /// The results that were returned, one bit each.
    returned: Vec<u64>,
    acknowledged: u64,
    unanswered: u64,
    highest: u64,
    /// Results that were returned twice, or not above one that had been returned before they were
    /// asked for.
    wrong: u64,
}

impl Counter {
    /// What an increment that begins now must exceed.
    pub(super) const fn floor(&self) -> u64 {
        self.highest
    }

    /// An increment that began when [`Self::floor`] was `floor` has returned `result`.
    pub(super) fn returned(&mut self, result: u64, floor: u64) {
        self.acknowledged += 1;
        let (word, bit) = ((result / 64) as usize, 1 << (result % 64));
        // A result that far off is none, and must not take all memory.
        let is_possible = result <= self.acknowledged + self.unanswered + (1 << 20);
        if is_possible && self.returned.len() <= word {
            self.returned.resize(word + 1, 0);
        }
        let is_new = is_possible && self.returned[word] & bit == 0;
        if is_new {
            self.returned[word] |= bit;
            self.highest = self.highest.max(result);
        }
        self.wrong += u64::from(!is_new || result <= floor);
    }

    /// An increment was never answered.
    pub(super) const fn not_answered(&mut self) {
        self.unanswered += 1;
    }

    /// How many results cannot be.
    pub(super) const fn anomalies(&self) -> u64 {
        self.wrong
    }

    /// How many increments are missing when the counter ends with `found`.
    pub(super) fn lost(&self, found: u64) -> u64 {
        self.acknowledged.max(self.highest).saturating_sub(found)
    }

    /// How many are too many.
    pub(super) const fn doubled(&self, found: u64) -> u64 {
        found.saturating_sub(self.acknowledged + self.unanswered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsr_net::Random;

    #[test]
    fn a_stale_read_is_wrong_and_a_concurrent_one_is_not() {
        let mut register = Register::default();
        let one = register.write(10);
        register.wrote(one, 20);
        let two = register.write(30);
        register.read(one, 25, 29);
        register.read(one, 32, 50); // the write of two goes on
        register.wrote(two, 40);
        assert_eq!(register.anomalies(), 0);
        assert!(register.may_end_with(two) && !register.may_end_with(one));
        register.read(one, 41, 51);
        assert_eq!(register.anomalies(), 1, "two was acknowledged before");
    }

    #[test]
    fn what_was_not_answered_may_happen_late_or_never_but_not_before_it_began() {
        let mut register = Register::default();
        let unknown = register.write(10);
        let other = register.write(20);
        register.wrote(other, 30);
        assert!(register.may_end_with(unknown) && register.may_end_with(other));
        register.read(unknown, 40, 50);
        assert_eq!(register.anomalies(), 0);
        assert!(!register.may_end_with(other), "it was replaced");
        register.read(other, 60, 70);
        assert_eq!(register.anomalies(), 1, "it was replaced for good");
        let mut register = Register::default();
        register.read(1, 1, 5);
        assert_eq!(register.anomalies(), 1, "nobody has written it");
    }

    /// One operation on a register of unique values: start, end, value, whether it writes.
    type Event = (Time, Time, u32, bool);

    /// Tries every order, without any cleverness.
    fn by_force(events: &[Event], done: u32, value: u32) -> bool {
        let left = || (0..events.len()).filter(|index| done >> index & 1 == 0);
        if left().all(|index| events[index].1 == NEVER) {
            return true;
        }
        let first_end = left().map(|index| events[index].1).min().unwrap();
        left()
            .filter(|&index| events[index].0 < first_end)
            .any(|index| {
                let (.., of, is_write) = events[index];
                (is_write || of == value) && by_force(events, done | 1 << index, of)
            })
    }

    /// All times of a history are different, as those of a clock in nanoseconds nearly are.
    fn random_history(random: &mut Random) -> Vec<Event> {
        let mut times: Vec<Time> = (1..40).collect();
        let mut draw =
            |below: usize| times.remove(random.below(below.min(times.len()) as u64) as usize);
        let mut spans: Vec<(Time, Time)> = (0..6)
            .map(|_| {
                let (a, b) = (draw(40), draw(40));
                (a.min(b), a.max(b))
            })
            .collect();
        spans.sort_unstable();
        let writes = 1 + random.below(3) as u32;
        let mut events: Vec<Event> = Vec::new();
        let mut written = 0;
        for (start, end) in spans {
            if written < writes && random.below(2) == 0 {
                written += 1;
                let end = if random.below(4) == 0 { NEVER } else { end };
                events.push((start, end, written, true));
            } else {
                let value = random.below(u64::from(written) + 1) as u32;
                events.push((start, end, value, false));
            }
        }
        events
    }

    #[test]
    fn the_zones_agree_with_brute_force_on_small_histories() {
        let mut random = Random::new(11);
        let mut fine = 0;
        for _ in 0..20_000 {
            let events = random_history(&mut random);
            let mut register = Register::default();
            for &(start, end, value, is_write) in &events {
                if is_write {
                    assert_eq!(register.write(start), value);
                }
                match (is_write, end) {
                    (true, NEVER) => {}
                    (true, _) => register.wrote(value, end),
                    (false, _) => register.read(value, start, end),
                }
            }
            let expected = by_force(&events, 0, 0);
            assert_eq!(register.anomalies() == 0, expected, "{events:?}");
            fine += u64::from(expected);
        }
        assert!((4_000..18_000).contains(&fine), "both kinds: {fine}");
    }

    #[test]
    fn counters_notice_what_is_lost_and_what_is_doubled() {
        let mut counter = Counter::default();
        counter.returned(1, 0);
        counter.returned(3, 0);
        counter.returned(2, 0); // began before 3 was returned
        assert_eq!((counter.anomalies(), counter.floor()), (0, 3));
        assert_eq!((counter.lost(3), counter.doubled(3)), (0, 0));
        assert_eq!((counter.lost(2), counter.doubled(5)), (1, 2));
        counter.not_answered();
        assert_eq!(counter.doubled(4), 0, "it may have happened, once");
        assert_eq!((counter.lost(3), counter.doubled(5)), (0, 1));
        counter.returned(3, 3);
        assert_eq!(counter.anomalies(), 1, "returned twice");
        counter.returned(u64::MAX, 3);
        assert_eq!(counter.anomalies(), 2, "no result at all");
    }
}
