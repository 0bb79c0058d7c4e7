//! What the session table must do (R1.1 to R1.6), in as few words as possible: which requests of a
//! batch are executed, and which are no-ops.

use std::collections::BTreeMap;

use vsr_types::{ClientId, Op, Operation, Request, SessionNumber};

use super::{Checked, ensure};

#[derive(Clone, Copy, Debug)]
struct Session {
    number: Op,
    request: u64,
    /// When it was used last, as a number that only rises.
    used: u64,
}

/// The model of a session table.
#[derive(Clone, Debug)]
pub(crate) struct Sessions {
    open: BTreeMap<ClientId, Session>,
    by_use: BTreeMap<u64, ClientId>,
    capacity: usize,
    uses: u64,
    /// The last request of each client that was ever executed, whatever session it had.
    executed: BTreeMap<ClientId, u64>,
    /// The last request of each client that was in the agreed order, and its session.
    ordered: BTreeMap<ClientId, (u64, u64)>,
    pub(crate) evictions: u64,
}

impl Sessions {
    pub(crate) const fn new(capacity: usize) -> Self {
        Self {
            open: BTreeMap::new(),
            by_use: BTreeMap::new(),
            capacity,
            uses: 0,
            executed: BTreeMap::new(),
            ordered: BTreeMap::new(),
            evictions: 0,
        }
    }

    /// Whether `client` has this session.
    pub(crate) fn has(&self, client: ClientId, number: SessionNumber) -> bool {
        let session = self.open.get(&client);
        session.is_some_and(|session| session.number.raw() == number.raw())
    }

    fn touch(&mut self, client: ClientId) {
        self.uses += 1;
        if let Some(session) = self.open.get_mut(&client) {
            self.by_use.remove(&session.used);
            session.used = self.uses;
            self.by_use.insert(self.uses, client);
        }
    }

    /// Takes one request of the agreed order; says whether the machine executes it.
    pub(crate) fn take(&mut self, op: Op, request: &Request<'_>) -> Checked<bool> {
        let header = request.header();
        let client = header.client;
        if Operation::from_raw(header.operation) == Some(Operation::Register) {
            if !self.open.contains_key(&client) {
                self.make_room();
                let session = Session {
                    number: op,
                    request: 0,
                    used: 0,
                };
                self.open.insert(client, session);
                self.touch(client);
            }
            return Ok(false);
        }
        let number = header.request.raw();
        let ordered = (header.session.raw(), number);
        let before = self.ordered.insert(client, ordered);
        ensure!(
            before != Some(ordered),
            "what is in the pipeline is not prepared again (R1.3e)",
            "request {number} of client {client} is in the order again at op {op}"
        );
        let Some(session) = self.open.get_mut(&client) else {
            return Ok(false);
        };
        if session.number.raw() != header.session.raw() || number != session.request + 1 {
            return Ok(false);
        }
        session.request = number;
        self.touch(client);
        let last = self.executed.entry(client).or_insert(0);
        ensure!(
            number > *last,
            "exactly once (I20)",
            "request {number} of client {client} is executed again at op {op}"
        );
        *last = number;
        Ok(true)
    }

    fn make_room(&mut self) {
        if self.open.len() < self.capacity {
            return;
        }
        if let Some((_, oldest)) = self.by_use.pop_first() {
            self.open.remove(&oldest);
            self.evictions += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;
    use vsr_types::{Epoch, RequestHeader, RequestNumber};

    fn bytes(kind: Operation, client: u128, session: u64, number: u64) -> Vec<u8> {
        let mut header = RequestHeader::new(
            kind,
            ClientId::new(client),
            Epoch::ZERO,
            SessionNumber::new(session),
            RequestNumber::new(number),
        );
        header.seal(&[]);
        bytemuck::bytes_of(&header).to_vec()
    }

    fn take(model: &mut Sessions, op: u64, bytes: &[u8]) -> Checked<bool> {
        let request = Request::first_in(bytes).expect("a request");
        model.take(Op::new(op), &request)
    }

    #[test]
    fn numbers_rise_by_one_within_a_session_and_the_oldest_session_gives_way() {
        let mut model = Sessions::new(2);
        assert_eq!(
            take(&mut model, 1, &bytes(Operation::Register, 1, 0, 0)),
            Ok(false)
        );
        assert_eq!(
            take(&mut model, 2, &bytes(Operation::Apply, 1, 1, 1)),
            Ok(true)
        );
        assert_eq!(
            take(&mut model, 3, &bytes(Operation::Apply, 1, 1, 3)),
            Ok(false)
        );
        take(&mut model, 4, &bytes(Operation::Register, 2, 0, 0)).expect("room");
        take(&mut model, 5, &bytes(Operation::Apply, 1, 1, 2)).expect("the next");
        take(&mut model, 6, &bytes(Operation::Register, 3, 0, 0)).expect("client 2 gives way");
        assert_eq!(
            take(&mut model, 7, &bytes(Operation::Apply, 2, 4, 1)),
            Ok(false)
        );
        assert_eq!(
            take(&mut model, 8, &bytes(Operation::Apply, 1, 1, 3)),
            Ok(true)
        );
        assert_eq!(model.evictions, 1);
    }

    #[test]
    fn a_request_that_is_ordered_twice_is_found() {
        let mut model = Sessions::new(2);
        take(&mut model, 1, &bytes(Operation::Register, 1, 0, 0)).expect("a session");
        take(&mut model, 2, &bytes(Operation::Apply, 1, 1, 1)).expect("executed");
        let again = take(&mut model, 3, &bytes(Operation::Apply, 1, 1, 1));
        assert!(again.is_err(), "a retry that was prepared again");
    }

    #[test]
    fn a_request_under_a_second_session_is_an_execution_too_many() {
        let mut model = Sessions::new(1);
        take(&mut model, 1, &bytes(Operation::Register, 1, 0, 0)).expect("a session");
        take(&mut model, 2, &bytes(Operation::Apply, 1, 1, 1)).expect("executed");
        take(&mut model, 3, &bytes(Operation::Register, 2, 0, 0)).expect("evicts");
        take(&mut model, 4, &bytes(Operation::Register, 1, 0, 0)).expect("again");
        let again = take(&mut model, 5, &bytes(Operation::Apply, 1, 4, 1));
        assert_eq!(again.map_err(|v| v.rule), Err("exactly once (I20)"));
    }
}
