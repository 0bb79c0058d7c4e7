//! Faults of whole replicas: killed, stopped, cut off. Never more at a time than the cluster must bear,
//! and after each the cluster must become whole again by itself.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use super::{Powers, Trouble};
use crate::cluster::WHOLE;
use crate::proxy::Wire;

/// How long the others may take to replace a primary that they cannot reach.
const REPLACED: Duration = Duration::from_secs(10);

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessFault {
    StopBackup,
    StopPrimary,
    KillBackup,
    KillPrimary,
    KillRecovering,
    Rolling,
    Leave,
    IsolateBackup,
    IsolatePrimary,
    OneWay,
    Bridge,
    Flapping,
}

impl ProcessFault {
    const ALL: &[Self] = &[
        Self::StopBackup,
        Self::StopPrimary,
        Self::KillBackup,
        Self::KillPrimary,
        Self::KillRecovering,
        Self::Rolling,
        Self::Leave,
        Self::IsolateBackup,
        Self::IsolatePrimary,
        Self::OneWay,
        Self::Bridge,
        Self::Flapping,
    ];

    /// Those that the product can bear by now.
    pub(crate) fn possible(powers: Powers) -> Vec<Self> {
        let is_possible = |fault: &Self| match fault {
            Self::StopPrimary | Self::IsolatePrimary => powers.view_change,
            Self::KillBackup => powers.recovery,
            Self::KillPrimary | Self::KillRecovering | Self::Rolling | Self::Leave => {
                powers.view_change && powers.recovery
            }
            _ => true,
        };
        Self::ALL.iter().copied().filter(is_possible).collect()
    }

    const fn name(self) -> &'static str {
        match self {
            Self::StopBackup => "stop and go on, backup",
            Self::StopPrimary => "stop and go on, primary",
            Self::KillBackup => "kill, backup",
            Self::KillPrimary => "kill, primary",
            Self::KillRecovering => "kill while recovering",
            Self::Rolling => "kill, each in turn",
            Self::Leave => "leave on SIGTERM, and return",
            Self::IsolateBackup => "partition, backup",
            Self::IsolatePrimary => "partition, primary",
            Self::OneWay => "partition, one way",
            Self::Bridge => "partition, bridge",
            Self::Flapping => "partition, flapping",
        }
    }
}

impl Trouble {
    /// Does one fault, takes it away again, and waits until all replicas take part.
    pub(crate) async fn do_process(self: &Rc<Self>, fault: ProcessFault) {
        let Some((primary, view)) = self.cluster.primary().await else {
            // Between two views; the next look will find one.
            sleep(Duration::from_millis(10)).await;
            return;
        };
        let backup = (primary + 1 + self.below(self.cluster.replicas() as u64 - 1) as usize)
            % self.cluster.replicas();
        self.say(&format!(
            "{}: primary R{primary}, view {view}, backup R{backup}",
            fault.name()
        ));
        let effective = match fault {
            ProcessFault::StopBackup => self.stop(backup, None).await,
            ProcessFault::StopPrimary => self.stop(primary, Some(view)).await,
            ProcessFault::KillBackup => self.kill(backup, None).await,
            ProcessFault::KillPrimary => self.kill(primary, Some(view)).await,
            ProcessFault::KillRecovering => self.kill_recovering(backup).await,
            ProcessFault::Rolling => self.rolling().await,
            ProcessFault::Leave => self.leave(self.pick(&[primary, backup])).await,
            ProcessFault::IsolateBackup => self.partition(&self.isolating(backup), None).await,
            ProcessFault::IsolatePrimary => {
                let wires = self.isolating(primary);
                self.partition(&wires, Some((primary, view))).await
            }
            ProcessFault::OneWay => self.one_way(backup).await,
            ProcessFault::Bridge => self.bridge(primary, backup).await,
            ProcessFault::Flapping => self.flap(primary, backup).await,
        };
        self.book.borrow_mut().note(fault.name(), effective);
        self.cluster.until_whole().await;
        self.say("whole again");
    }

    /// Waits until somebody else than in `view` leads.
    async fn replaced(&self, view: u64) -> bool {
        let deadline = tokio::time::Instant::now() + REPLACED;
        while tokio::time::Instant::now() < deadline {
            if self
                .cluster
                .primary()
                .await
                .is_some_and(|(_, now)| now > view)
            {
                return true;
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("nobody has replaced the primary of view {view} in {REPLACED:?}");
    }

    /// Stops a process; a primary, until it has been replaced.
    async fn stop(&self, replica: usize, view: Option<u64>) -> bool {
        let is_frozen = self.cluster.freeze(replica).await;
        let effective = match view {
            None => {
                sleep(self.milliseconds(20, 800)).await;
                true
            }
            Some(view) => self.replaced(view).await,
        };
        self.cluster.thaw(replica).await;
        is_frozen && effective
    }

    /// Kills a process and starts it again, empty; a primary, once it has been replaced, or at once.
    async fn kill(&self, replica: usize, view: Option<u64>) -> bool {
        let (_, status) = self.cluster.kill(replica).await;
        let mut effective = status.code().is_none();
        match view {
            Some(view) if self.below(3) > 0 => effective &= self.replaced(view).await,
            _ => sleep(self.milliseconds(1, 200)).await,
        }
        self.cluster.revive(replica).await;
        effective
    }

    async fn kill_recovering(&self, replica: usize) -> bool {
        self.cluster.kill(replica).await;
        self.cluster.revive(replica).await;
        let mut was_recovering = false;
        for _ in 0..1 + self.below(3) {
            // As early or as late as it happens; a replica that is done is killed all the same.
            sleep(self.milliseconds(0, 60)).await;
            let status = self.cluster.status(replica).await;
            was_recovering |= status.is_some_and(|status| status.status != "normal");
            self.cluster.kill(replica).await;
            self.cluster.revive(replica).await;
        }
        was_recovering
    }

    async fn rolling(&self) -> bool {
        for replica in 0..self.cluster.replicas() {
            self.cluster.kill(replica).await;
            self.cluster.revive(replica).await;
            self.cluster.until_whole().await;
        }
        true
    }

    /// An orderly end, which hands over first what it leads, and a new beginning.
    async fn leave(&self, replica: usize) -> bool {
        let status = self.cluster.dismiss(replica).await;
        assert!(status.success(), "R{replica} left with {status}");
        self.cluster.revive(replica).await;
        true
    }

    /// All wires from and to a replica.
    fn isolating(&self, replica: usize) -> Vec<Rc<Wire>> {
        let others = (0..self.cluster.replicas()).filter(|other| *other != replica);
        others
            .flat_map(|other| {
                [
                    Rc::clone(self.cluster.wire(replica, other)),
                    Rc::clone(self.cluster.wire(other, replica)),
                ]
            })
            .collect()
    }

    /// Blocks wires; where that cuts off a primary, until it has been replaced.
    async fn partition(&self, wires: &[Rc<Wire>], primary: Option<(usize, u64)>) -> bool {
        let held = || -> u64 { wires.iter().map(|wire| wire.held.get()).sum() };
        let before = held();
        for wire in wires {
            wire.block(true);
        }
        let effective = match primary {
            Some((_, view)) if self.powers.view_change => self.replaced(view).await,
            _ => {
                sleep(self.milliseconds(20, 800)).await;
                true
            }
        };
        for wire in wires {
            wire.block(false);
        }
        effective && held() > before
    }

    /// A replica that can only hear, or only speak.
    async fn one_way(&self, replica: usize) -> bool {
        let is_deaf = self.below(2) == 0;
        let others = (0..self.cluster.replicas()).filter(|other| *other != replica);
        let wires: Vec<Rc<Wire>> = others
            .map(|other| {
                Rc::clone(if is_deaf {
                    self.cluster.wire(other, replica)
                } else {
                    self.cluster.wire(replica, other)
                })
            })
            .collect();
        self.partition(&wires, None).await
    }

    /// Two replicas that cannot reach each other, while everybody else reaches both.
    async fn bridge(&self, primary: usize, backup: usize) -> bool {
        let other = (0..self.cluster.replicas())
            .find(|replica| *replica != primary && *replica != backup)
            .expect("three or more");
        let (a, b) = self.pick(&[(primary, backup), (backup, other)]);
        let wires = [
            Rc::clone(self.cluster.wire(a, b)),
            Rc::clone(self.cluster.wire(b, a)),
        ];
        self.partition(&wires, None).await
    }

    /// A link that comes and goes.
    async fn flap(&self, primary: usize, backup: usize) -> bool {
        let wires = self.isolating(self.pick(&[primary, backup]));
        let held = || -> u64 { wires.iter().map(|wire| wire.held.get()).sum() };
        let before = held();
        for _ in 0..3 + self.below(8) {
            for wire in &wires {
                wire.block(true);
            }
            sleep(self.milliseconds(10, 150)).await;
            for wire in &wires {
                wire.block(false);
            }
            sleep(self.milliseconds(5, 100)).await;
        }
        held() > before
    }
}

const _: () = assert!(WHOLE.as_secs() > REPLACED.as_secs());
