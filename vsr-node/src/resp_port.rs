//! The RESP gateway beside a replica: what the gateway asks for, in the words of the server.

use std::rc::Rc;

use vsr_consensus::{Report, StateMachine};
use vsr_types::{ClientId, ClusterId, Frame, FrameError, View};

use crate::gateway::{Cluster, Sink};
use crate::server::{LocalClient, Server};

/// A server as the gateway sees it.
#[derive(Debug)]
pub(crate) struct ReplicaPort<S> {
    server: Server<S>,
}

impl<S> ReplicaPort<S> {
    pub(crate) const fn new(server: Server<S>) -> Self {
        Self { server }
    }
}

/// A lane of the gateway as the server sees it.
struct Lane(Rc<dyn Sink>);

impl LocalClient for Lane {
    fn on_frame(&self, frame: &Frame<'_>) {
        self.0.on_frame(frame);
    }

    fn on_view(&self, _view: View) {
        self.0.on_view();
    }
}

impl<S: StateMachine + 'static> Cluster for ReplicaPort<S> {
    fn attach(&self, client: ClientId, sink: Rc<dyn Sink>) {
        self.server.attach(client, Rc::new(Lane(sink)));
    }

    fn detach(&self, client: ClientId) {
        self.server.detach(client);
    }

    fn submit(&self, frame: &[u8]) -> Result<(), FrameError> {
        self.server.submit(frame)
    }

    fn cluster_id(&self) -> ClusterId {
        self.server.cluster()
    }

    fn report(&self) -> Report {
        self.server.report()
    }

    fn read_stale(&self, query: &[u8], reply: &mut [u8]) -> usize {
        self.server.with_replica(|replica| {
            if !replica.has_state() {
                // Half a state answers nothing.
                return 0;
            }
            let size = replica.machine().query(&replica.context(), query, reply);
            // N17: nor does an answer made from damaged bytes leave.
            let is_sound = replica.machine().damaged().is_none();
            if is_sound { size } else { 0 }
        })
    }

    fn random(&self) -> u128 {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system has randomness to give");
        u128::from_le_bytes(bytes)
    }
}
