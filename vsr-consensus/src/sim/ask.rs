//! What clients do, and what they make of the answers.

use vsr_types::message::RejectReason;
use vsr_types::{Frame, Op, checksum};

use super::check::order::Place;
use super::check::{Checked, ensure};
use super::client::{Heard, Waiting};
use super::machine::Simulated;
use super::net::Address;
use super::plan::{MILLISECOND, Time};
use super::world::{Kind, Phase, World};
use crate::OnOpMax;

impl<M: Simulated> World<M> {
    /// A client's time has come: to ask, or to ask again.
    pub(crate) fn wake(&mut self, index: usize) {
        let client = &self.clients[index];
        if client.waiting != Waiting::Nothing {
            self.stats.retries += 1;
            self.knock(index);
            return;
        }
        if self.phase == Phase::Quiet {
            return;
        }
        if let Some(later) = self.rests_until() {
            self.wake_later(index, later - self.now);
            return;
        }
        let (now, cluster) = (self.now, self.cluster);
        let floor = self.order.floor();
        let client = &mut self.clients[index];
        client.floor = floor;
        client.key = None;
        let reads_only = client.reads_only;
        if !client.has_session() && !reads_only {
            client.register(cluster, now);
            self.knock(index);
            return;
        }
        let is_query = self.asking.percent(self.plan.load.queries) || reads_only;
        let query = if is_query {
            M::question(&mut self.asking)
        } else {
            None
        };
        match query {
            Some(query) => {
                client.asked = query;
                client.query(cluster, now);
            }
            None if !client.has_session() => client.register(cluster, now),
            None => {
                client.asked = M::operation(&mut self.asking);
                client.request(cluster, now);
            }
        }
        if let Some(seen) = M::observe(&client.asked, &[]) {
            client.key = Some(seen.key);
            self.registers.begin(seen.key);
        }
        self.knock(index);
    }

    /// Until when all clients rest, if they do.
    fn rests_until(&self) -> Option<Time> {
        let length = self.plan.load.rest;
        let rests = self.phase == Phase::Safety && length > 0 && (self.now / length) % 2 == 1;
        rests.then(|| (self.now / length + 1) * length)
    }

    /// Sends what a client has to say to some replica, and plans to do it again.
    fn knock(&mut self, index: usize) {
        let n = self.plan.replicas;
        let client = &mut self.clients[index];
        let is_first = client.began == self.now;
        if !is_first {
            client.target = self.asking.below(n.into()) as u8;
        }
        let wait = client.patience(self.plan.load.retry, &mut self.asking);
        let to = Address::replica(client.target);
        let packet = self
            .packets
            .copy(Address::client(client.index), to, &client.frame);
        self.send(packet, self.now);
        self.wake_later(index, wait);
    }

    pub(crate) fn wake_later(&mut self, index: usize, wait: Time) {
        let at = self.now + wait.max(1);
        let client = &mut self.clients[index];
        client.wake_at = at;
        let index = client.index;
        self.schedule(at, Kind::Wake(index));
    }

    /// A client hears something.
    pub(crate) fn hear(&mut self, index: usize, frame: &Frame<'_>, damaged: bool) -> Checked {
        ensure!(
            !damaged,
            "damaged bytes are no message (N17)",
            "a client was told something with flipped bits"
        );
        let heard = self.clients[index].hear(frame.header());
        if self.is_doubtful(frame.header()) && matches!(heard, Heard::Reply(..) | Heard::Answer(_))
        {
            return self.hear_doubtful(index, heard, frame.body());
        }
        match heard {
            Heard::Nothing => Ok(()),
            Heard::Later => {
                // It is told again soon, by somebody else.
                self.wake_later(index, 5 * MILLISECOND);
                Ok(())
            }
            Heard::Halted => self.used_up(index),
            Heard::Session(op) => {
                self.check_is_committed(index, op)?;
                self.content(index);
                Ok(())
            }
            Heard::Reply(place) => {
                let number = self.clients[index].request_number();
                self.check_reply(index, place, number, frame.body())?;
                let floor = self.clients[index].floor;
                self.order.answered(floor, place)?;
                self.stats.operations += 1;
                self.explain(index, frame.body())?;
                self.served(index);
                Ok(())
            }
            Heard::Again(..) if self.is_doubtful(frame.header()) => Ok(()),
            Heard::Again(place, number) => {
                self.stats.repeated += 1;
                self.check_reply(index, place, number, frame.body())
            }
            Heard::Answer(op) => {
                self.check_is_committed(index, op)?;
                let floor = self.clients[index].floor;
                self.order.read(floor, op)?;
                self.stats.queries += 1;
                self.explain(index, frame.body())?;
                self.served(index);
                Ok(())
            }
            Heard::Refused(reason) => self.refused(index, reason),
        }
    }

    pub(crate) fn served(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.served += 1;
        let took = self.now - client.began;
        self.stats.latency_longest = self.stats.latency_longest.max(took);
        self.content(index);
    }

    /// A client has what it wanted and thinks.
    fn content(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.waiting = Waiting::Nothing;
        let think = self.asking.waiting(self.plan.load.think);
        self.wake_later(index, think);
    }

    /// What the answer says about a register.
    fn explain(&mut self, index: usize, reply: &[u8]) -> Checked {
        let client = &mut self.clients[index];
        if client.key.take().is_none() {
            return Ok(());
        }
        match M::observe(&client.asked, reply) {
            Some(seen) => self.registers.end(client.began, self.now, &seen),
            None => Ok(()),
        }
    }

    fn check_is_committed(&self, index: usize, op: Op) -> Checked {
        ensure!(
            op <= self.history.committed(),
            "clients are told what is committed (R1.7)",
            "c{index} was told of op {op}, but {} is the last that is committed",
            self.history.committed()
        );
        Ok(())
    }

    /// A reply is that of the operation it answers, byte for byte, whenever it is given.
    pub(crate) fn check_reply(
        &self,
        index: usize,
        place: Place,
        number: u64,
        reply: &[u8],
    ) -> Checked {
        self.check_is_committed(index, place.0)?;
        let client = &self.clients[index];
        let executed = self.history.execution(place.0, place.1);
        let is_right = executed.is_some_and(|executed| {
            executed.client == client.id
                && executed.request == number
                && executed.reply == checksum(reply).raw()
        });
        ensure!(
            is_right,
            "a reply is that of its operation (I20)",
            "c{index} was told {} bytes for its request {number} at {}.{}; the history has {:?}",
            reply.len(),
            place.0,
            place.1,
            executed
        );
        Ok(())
    }

    fn refused(&mut self, index: usize, reason: RejectReason) -> Checked {
        let client = &mut self.clients[index];
        match reason {
            RejectReason::Malformed | RejectReason::TooLarge => {
                ensure!(
                    client.waiting == Waiting::Reply && self.judge.validate(&client.asked).is_err(),
                    "good operations are not refused",
                    "c{index} was told that its request {} is {reason:?}",
                    client.request_number()
                );
                self.stats.refused_operations += 1;
                if let Some(key) = client.key.take() {
                    self.registers.cancel(key)?;
                }
                client.take_back();
                self.served(index);
                Ok(())
            }
            RejectReason::Evicted | RejectReason::SessionTooLow => {
                self.stats.evicted += 1;
                self.check_is_evicted(index)?;
                self.give_up(index)
            }
            _ => {
                ensure!(
                    false,
                    "good operations are not refused",
                    "c{index} was told {reason:?} of its request {}",
                    client.request_number()
                );
                Ok(())
            }
        }
    }

    /// A client was told that there are no op numbers left (R10.1): it only reads from now on.
    fn used_up(&mut self, index: usize) -> Checked {
        let op_max = Op::new(self.plan.settings.op_max);
        let client = &mut self.clients[index];
        if self.plan.settings.on_op_max != OnOpMax::Halt || !self.history.is_proposed(op_max) {
            // One replica has stopped.
            self.wake_later(index, 5 * MILLISECOND);
            return Ok(());
        }
        ensure!(
            client.waiting != Waiting::Answer,
            "reads go on at the last op (R10.1)",
            "c{index} was told that no op number is left for its query"
        );
        self.stats.used_up += 1;
        if M::question(&mut self.asking.split(0)).is_none() {
            // There is nothing to read.
            self.clients[index].served += 1;
            return self.give_up(index);
        }
        let client = &mut self.clients[index];
        client.reads_only = true;
        // Whether it was executed is not known: whoever said so may have been deposed.
        let (key, began) = (client.key.take(), client.began);
        let seen = key.and_then(|_| M::observe(&client.asked, &[]));
        self.served(index);
        match seen {
            Some(seen) => self.registers.abandon(began, &seen),
            None => Ok(()),
        }
    }

    /// A client that has a session may only be told that it has none when that is so.
    fn check_is_evicted(&mut self, index: usize) -> Checked {
        let client = &self.clients[index];
        ensure!(
            !self.history.has_session(client.id, client.session_number()),
            "live sessions are not refused (R1.3)",
            "c{index} was told that its session {} is no more",
            client.session_number()
        );
        Ok(())
    }

    /// A client gives up what is under way and comes back under another name.
    pub(crate) fn give_up(&mut self, index: usize) -> Checked {
        let client = &mut self.clients[index];
        let is_query = client.waiting == Waiting::Answer;
        let key = client.key.take();
        let seen = key.and_then(|_| M::observe(&client.asked, &[]));
        let began = client.began;
        client.be_reborn(&mut self.asking);
        self.stats.reborn += 1;
        self.content(index);
        match seen {
            // A read changes nothing, whether it happened or not.
            Some(seen) if is_query => self.registers.cancel(seen.key),
            Some(seen) => self.registers.abandon(began, &seen),
            None => Ok(()),
        }
    }
}
