//! What may not leave a replica that is without its memory (R6.7, I22).

use vsr_types::Command;
use vsr_types::message::PeerStatus;

use super::{Checked, ensure};

/// A set of commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Commands(u128);

impl Commands {
    pub(crate) const fn add(&mut self, command: Command) {
        self.0 |= 1 << (command as u8);
    }

    pub(crate) const fn has(self, command: Command) -> bool {
        self.0 & (1 << (command as u8)) != 0
    }
}

/// What only a replica that has its memory may say.
const PROMISES: [Command; 15] = [
    Command::Reply,
    Command::QueryReply,
    Command::Prepare,
    Command::PrepareOk,
    Command::Commit,
    Command::CommitOk,
    Command::StartViewChange,
    Command::DoViewChange,
    Command::StartView,
    Command::IncarnationReply,
    Command::RecoveryResponse,
    Command::NewState,
    Command::EpochReady,
    Command::Request,
    Command::Query,
];

/// Checks what left in one step of a replica that had `before` and has `after`.
pub(crate) fn check(
    replica: usize,
    before: PeerStatus,
    after: PeerStatus,
    sent: Commands,
) -> Checked {
    let without = |status| matches!(status, PeerStatus::Blank | PeerStatus::Recovering);
    if !without(before) || !without(after) {
        return Ok(());
    }
    let wrong = PROMISES.into_iter().find(|&command| sent.has(command));
    ensure!(
        wrong.is_none(),
        "a recovering replica promises nothing (R6.7, I22)",
        "R{replica} is {after:?} and sent a {}",
        wrong.map_or("", Command::name)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_of_a_recovering_replica_is_found() {
        let mut sent = Commands::default();
        sent.add(Command::Ping);
        sent.add(Command::RecoveryRequest);
        let recovering = PeerStatus::Recovering;
        assert_eq!(check(0, recovering, recovering, sent), Ok(()));
        sent.add(Command::PrepareOk);
        assert!(check(0, recovering, recovering, sent).is_err());
        assert_eq!(check(0, recovering, PeerStatus::Normal, sent), Ok(()));
    }
}
