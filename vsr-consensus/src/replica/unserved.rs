//! A primary that is alive and serves nobody (R13.2).
//!
//! Heartbeats show that a process runs and is heard, not that anything is committed: a primary that no
//! request reaches, or that cannot execute, keeps a view for ever in which nobody is answered. Clients
//! notice it: they send the same request again, to one replica after the other. A backup that has passed on a request which only had to be executed, sees it again
//! long afterwards, and has heard of no commit in between, wants the next view. Alone it gets none: a
//! backup whose own link to the primary is broken disturbs nobody.

use vsr_types::{ClientId, Instant, Op, Request, RequestNumber};

use super::Replica;
use super::view_change::Change;
use crate::StateMachine;
use crate::counters::Event;
use crate::mutants::Mutant;
use crate::sessions::Verdict;

/// How many view time-outs a client may wait while nothing at all is committed: far longer than a
/// primary needs to find its way round dead and slow backups.
const PATIENCE_TIMEOUTS: u32 = 10;

/// The request that has waited longest since something was committed.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    client: ClientId,
    request: RequestNumber,
    since: Instant,
    /// The commit number then.
    commit: Op,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unserved {
    waiting: Option<Waiting>,
    /// Whether it has waited too long.
    overdue: bool,
}

impl<S: StateMachine> Replica<S> {
    /// A client's request was passed on to the primary.
    pub(super) fn watch_over(&mut self, request: &Request<'_>) {
        let header = request.header();
        let (client, number) = (header.client, header.request);
        let verdict =
            self.sessions
                .verdict(client, header.session, number, request.header().checksum());
        // Only what no primary has a reason to refuse counts: one client must not depose them all, one after
        // the other. A replica whose state is being replaced may be the very one that the primary waits for.
        let counts = matches!(verdict, Verdict::Next(_))
            && self.fits(request)
            && self.machine.validate(request.operation()).is_ok()
            // R10.1, R10.5.
            && !self.is_used_up()
            && !self.primary_may_wait()
            && !self.is_transferring()
            && !self.is_off(Mutant::ServesNobody);
        if !counts {
            return;
        }
        let now = self.now.monotonic;
        let waiting = Waiting {
            client,
            request: number,
            since: now,
            commit: self.commit,
        };
        let patience = self.config.view_timeout * PATIENCE_TIMEOUTS;
        let unserved = &mut self.change.unserved;
        match unserved.waiting {
            Some(earlier) if earlier.commit == self.commit => {
                if unserved.overdue || now.since(earlier.since) < patience {
                    return;
                }
                if (earlier.client, earlier.request) == (client, number) {
                    unserved.overdue = true;
                    self.counters.count(Event::ClientsUnserved);
                    self.primary_is_lost();
                } else {
                    // That client asks no more, or asks somebody else.
                    unserved.waiting = Some(waiting);
                }
            }
            Some(_) | None => {
                unserved.waiting = Some(waiting);
                unserved.overdue = false;
            }
        }
    }
}

impl Change {
    /// Whether clients have waited too long for a primary that is alive.
    pub(super) fn is_unserved(&self, commit: Op) -> bool {
        self.unserved.overdue
            && self
                .unserved
                .waiting
                .is_some_and(|waiting| waiting.commit == commit)
    }
}
