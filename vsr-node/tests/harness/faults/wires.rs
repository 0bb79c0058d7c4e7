//! Faults of single links, and of whoever else may knock on a port.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use super::{Powers, Trouble, intruders};
use crate::proxy::{Link, Wire};

/// How long a fault that waits for traffic may wait.
const TRAFFIC: Duration = Duration::from_secs(1);

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WireFault {
    Delay,
    Pace,
    Flip,
    FlipNative,
    Cut,
    Reset,
    HalfOpen,
    Nonsense,
    ClientReset,
    ClientCut,
    ClientSilence,
    Slowloris,
    Garbage,
    Flood,
    Hog,
}

impl WireFault {
    const ALL: &[Self] = &[
        Self::Delay,
        Self::Pace,
        Self::Flip,
        Self::Flip,
        Self::FlipNative,
        Self::Cut,
        Self::Reset,
        Self::HalfOpen,
        Self::Nonsense,
        Self::ClientReset,
        Self::ClientCut,
        Self::ClientSilence,
        Self::Slowloris,
        Self::Garbage,
        Self::Flood,
        Self::Hog,
    ];

    /// Those that the product can bear by now.
    pub(crate) fn possible(powers: Powers) -> Vec<Self> {
        let is_possible = |fault: &Self| *fault != Self::FlipNative || powers.client_flips;
        Self::ALL.iter().copied().filter(is_possible).collect()
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Pace => "throttle",
            Self::Flip => "bit flips, peer",
            Self::FlipNative => "bit flips, client",
            Self::Cut => "truncated stream",
            Self::Reset => "reset",
            Self::HalfOpen => "half-open",
            Self::Nonsense => "nonsense in stream",
            Self::ClientReset => "reset, client",
            Self::ClientCut => "truncated, client",
            Self::ClientSilence => "silence, client",
            Self::Slowloris => "slowloris",
            Self::Garbage => "garbage",
            Self::Flood => "flood",
            Self::Hog => "CPU hog",
        }
    }
}

impl Trouble {
    /// Two replicas, in a direction.
    fn pair(&self) -> (usize, usize) {
        let from = self.replica();
        let distance = 1 + self.below(self.cluster.replicas() as u64 - 1) as usize;
        (from, (from + distance) % self.cluster.replicas())
    }

    /// A direction of the link that the native client is on now: only there is traffic.
    fn client_wire(&self) -> Rc<Wire> {
        let replicas = 0..self.cluster.replicas();
        let mut links = replicas.map(|replica| self.cluster.native_link(replica));
        let link = links.find(|link| link.is_up());
        let link = link.unwrap_or_else(|| self.cluster.native_link(0));
        Rc::clone(self.pick(&[&link.up, &link.down]))
    }

    /// Does one fault and takes it away again.
    pub(crate) async fn do_wire(self: &Rc<Self>, fault: WireFault) {
        let (from, to) = self.pair();
        self.say(&format!("{}: R{from} to R{to}", fault.name()));
        let wire = Rc::clone(self.cluster.wire(from, to));
        let link = Rc::clone(self.cluster.link(from, to));
        let effective = match fault {
            WireFault::Delay => self.delay(&wire).await,
            WireFault::Pace => self.throttle(&wire).await,
            WireFault::Flip => self.flip(&wire).await,
            WireFault::FlipNative => self.flip(&self.client_wire()).await,
            WireFault::Cut => self.cut(&wire).await,
            WireFault::Reset => self.reset(&link).await,
            WireFault::HalfOpen => self.half_open(&link).await,
            WireFault::Nonsense => self.nonsense(&wire).await,
            WireFault::ClientReset => self.cluster.resp_link(to).reset() > 0,
            WireFault::ClientCut => {
                let link = Rc::clone(self.cluster.resp_link(to));
                self.cut(self.pick(&[&link.up, &link.down])).await
            }
            WireFault::ClientSilence => self.silence(to).await,
            WireFault::Slowloris | WireFault::Garbage | WireFault::Flood | WireFault::Hog => {
                self.intrude(fault, to);
                return;
            }
        };
        self.book.borrow_mut().note(fault.name(), effective);
    }

    /// Intruders keep busy for a while, beside everything else.
    fn intrude(self: &Rc<Self>, fault: WireFault, replica: usize) {
        let Some(target) = self.cluster.direct(replica) else {
            return;
        };
        let me = Rc::clone(self);
        let seed = self.below(u64::MAX);
        self.errand(async move {
            let effective = match fault {
                WireFault::Slowloris => intruders::slowloris(&target).await,
                WireFault::Garbage => intruders::garbage(&target, seed).await,
                WireFault::Flood => intruders::flood(&target, seed).await,
                _ => intruders::hog(Duration::from_millis(100 + seed % 300)).await,
            };
            me.book.borrow_mut().note(fault.name(), effective);
        });
    }

    async fn delay(&self, wire: &Wire) -> bool {
        let before = wire.delayed.get();
        let delay = Duration::from_micros(200 + self.below(20_000));
        wire.slow_down(delay, self.milliseconds(0, 10));
        sleep(self.milliseconds(50, 400)).await;
        wire.slow_down(Duration::ZERO, Duration::ZERO);
        wire.delayed.get() > before
    }

    async fn throttle(&self, wire: &Wire) -> bool {
        let before = wire.paced.get();
        wire.pace(20_000 << self.below(6));
        sleep(self.milliseconds(50, 400)).await;
        wire.pace(0);
        wire.paced.get() > before
    }

    async fn flip(&self, wire: &Wire) -> bool {
        let before = wire.flipped.get();
        wire.flip(1 + self.below(4));
        let effective = self.wait(TRAFFIC, || wire.flipped.get() > before).await;
        wire.flip(0);
        effective
    }

    async fn cut(&self, wire: &Wire) -> bool {
        let before = wire.cut.get();
        wire.cut();
        self.wait(TRAFFIC, || wire.cut.get() > before).await
    }

    /// The link must come back by itself.
    async fn reset(&self, link: &Link) -> bool {
        let (reset, made) = (link.reset.get(), link.made.get());
        link.reset() > 0
            && self
                .wait(TRAFFIC * 2, || {
                    link.reset.get() > reset && link.made.get() > made
                })
                .await
    }

    /// The caller comes back over a new connection; the old one must then be closed by its other end.
    async fn half_open(&self, link: &Link) -> bool {
        let closed = link.halves_closed.get();
        link.halve() > 0
            && self
                .wait(TRAFFIC * 3, || link.halves_closed.get() > closed)
                .await
    }

    async fn nonsense(&self, wire: &Wire) -> bool {
        let before = wire.injected.get();
        let bytes = (0..1 + self.below(300)).map(|_| self.below(256) as u8);
        wire.inject(bytes.collect());
        self.wait(TRAFFIC, || wire.injected.get() > before).await
    }

    /// Clients of one replica hear nothing for a while, and it hears nothing of them.
    async fn silence(&self, replica: usize) -> bool {
        let link = self.cluster.resp_link(replica);
        let before = link.up.held.get() + link.down.held.get();
        link.up.block(true);
        link.down.block(true);
        sleep(self.milliseconds(50, 500)).await;
        link.up.block(false);
        link.down.block(false);
        link.up.held.get() + link.down.held.get() > before
    }
}
