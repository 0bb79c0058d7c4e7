//! What happened, counted. Dropping, repairing and re-routing are data, not log lines.

use vsr_types::Command;

use crate::DropReason;

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// Things worth counting that are no messages.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event {
            $($(#[$doc])* $name,)*
        }

        impl Event {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name under which it is counted.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

events! {
    /// Batches prepared by this primary.
    Prepared => "prepared",
    /// Requests in them.
    PreparedRequests => "prepared_requests",
    /// Bytes of their bodies.
    PreparedBytes => "prepared_bytes",
    /// Prepares appended to the journal.
    Appended => "appended",
    /// Prepares passed on down the chain.
    Forwarded => "forwarded",
    /// Batches executed.
    Executed => "executed",
    /// Requests in them.
    ExecutedRequests => "executed_requests",
    /// Requests that were no-ops when executed (R1.4).
    NoOps => "no_ops",
    /// Requests whose client checksum was wrong at execution although the batch was intact (M2).
    DamagedRequests => "damaged_requests",
    /// Journal entries found damaged.
    DamagedEntries => "damaged_entries",
    /// Damaged entries that were replaced by a peer's copy.
    EntriesRepaired => "entries_repaired",
    /// Damaged entries that no peer could give.
    EntriesUnrepaired => "entries_unrepaired",
    /// Damaged copies of journal slots that were rewritten from the other copy.
    CopiesMended => "copies_mended",
    /// Times when sessions or the machine's state were found damaged.
    DamagedStates => "damaged_states",
    /// Damaged states that were repaired.
    StatesRepaired => "states_repaired",
    /// Damaged states in which every damaged place was overwritten by something new.
    StatesOverwritten => "states_overwritten",
    /// Times when no peer could give what is damaged of the state.
    StatesUnrepaired => "states_unrepaired",
    /// Bytes that the scrubber looked at.
    ScrubbedBytes => "scrubbed_bytes",
    /// Rounds of the scrubber over everything.
    ScrubRounds => "scrub_rounds",
    /// Sessions opened.
    SessionsOpened => "sessions_opened",
    /// Repairs asked for.
    RepairsAsked => "repairs_asked",
    /// Prepares sent to repair others.
    RepairsGiven => "repairs_given",
    /// Backups that became suspects.
    Suspected => "suspected",
    /// Suspects that caught up.
    Rejoined => "rejoined",
    /// Read rounds started.
    ReadRounds => "read_rounds",
    /// Queries answered.
    QueriesAnswered => "queries_answered",
    /// Requests passed on to the primary.
    PassedOn => "passed_on",
    /// Times when a client had waited so long for a primary that is alive that a backup wants another.
    ClientsUnserved => "clients_unserved",
    /// Transfers of state to this replica begun.
    TransfersBegun => "transfers_begun",
    /// Transfers that ended with a state that was verified and installed.
    TransfersFinished => "transfers_finished",
    /// Images that were complete and no state, or too large: fetched anew from another donor.
    TransfersFailed => "transfers_failed",
    /// Chunks of state taken.
    StateChunksTaken => "state_chunks_taken",
    /// Those that had been taken before and changed meanwhile.
    StateChunksTakenAgain => "state_chunks_taken_again",
    /// Bytes of chunks taken.
    StateBytesTaken => "state_bytes_taken",
    /// Chunks of state given.
    StateChunksGiven => "state_chunks_given",
    /// Bytes of chunks given.
    StateBytesGiven => "state_bytes_given",
    /// Times when execution was held back for the end of a transfer.
    Holds => "holds",
    /// Last passes of a transfer during which the donor had to go on.
    HoldsBroken => "holds_broken",
    /// Times when this primary began to go slowly for a replica that the load had overtaken.
    WentSlowly => "went_slowly",
    /// Messages the outbox had no room for.
    OutboxDropped => "outbox_dropped",
    /// Views left (view changes begun).
    ViewsLeft => "views_left",
    /// Views started as their primary.
    ViewsStarted => "views_started",
    /// Views followed as a backup.
    ViewsFollowed => "views_followed",
    /// Views handed to a replica that is better prepared (R5.6).
    Forfeited => "forfeited",
    /// Times when the votes at hand did not decide about an entry (R5.5).
    Undecided => "undecided",
    /// Planned hand-overs.
    HandedOver => "handed_over",
    /// Messages of replicas whose log ends in an older epoch than this one's (R10.2).
    OlderEpochs => "older_epochs",
    /// Epochs whose end was executed here.
    EpochsEnded => "epochs_ended",
    /// Epochs whose end state this primary's node archived (R10.4).
    EpochsArchived => "epochs_archived",
    /// Digests compared with another replica's and found equal.
    DigestsEqual => "digests_equal",
    /// Digests compared and found different.
    DigestsDifferent => "digests_different",
}

/// The counters of one replica, since its start.
#[derive(Clone, Debug)]
pub struct Counters {
    dropped: [u64; DropReason::ALL.len()],
    received: [u64; Command::ALL.len()],
    sent: [u64; Command::ALL.len()],
    events: [u64; Event::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            dropped: [0; DropReason::ALL.len()],
            received: [0; Command::ALL.len()],
            sent: [0; Command::ALL.len()],
            events: [0; Event::ALL.len()],
        }
    }
}

/// Where in the arrays each command is counted: asked for every message.
const PLACES: [u8; 256] = {
    let mut places = [0; 256];
    let mut place = 0;
    while place < Command::ALL.len() {
        places[Command::ALL[place] as usize] = place as u8;
        place += 1;
    }
    places
};

const fn place_of(command: Command) -> usize {
    PLACES[command as usize] as usize
}

impl Counters {
    pub(crate) fn count(&mut self, event: Event) {
        self.add(event, 1);
    }

    pub(crate) fn add(&mut self, event: Event, amount: u64) {
        self.events[event as usize] += amount;
    }

    pub(crate) fn received(&mut self, command: Command) {
        self.received[place_of(command)] += 1;
    }

    pub(crate) fn sent(&mut self, command: Command) {
        self.sent[place_of(command)] += 1;
    }

    pub(crate) fn dropped(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }

    /// How often `event` happened.
    #[must_use]
    pub const fn of(&self, event: Event) -> u64 {
        self.events[event as usize]
    }

    /// How many messages were dropped for `reason`.
    #[must_use]
    pub const fn drops(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// How many messages of this kind were handed to the outbox.
    #[must_use]
    pub const fn sent_of(&self, command: Command) -> u64 {
        self.sent[place_of(command)]
    }

    /// Everything that happened, by name.
    pub fn events(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Event::ALL
            .iter()
            .map(|&event| (event.name(), self.events[event as usize]))
    }

    /// Messages dropped, by reason.
    pub fn drops_by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        DropReason::ALL
            .iter()
            .map(|&reason| (reason.name(), self.dropped[reason as usize]))
    }

    /// Messages received and sent, by kind.
    pub fn messages(&self) -> impl Iterator<Item = (Command, u64, u64)> {
        Command::ALL
            .iter()
            .enumerate()
            .map(|(place, &command)| (command, self.received[place], self.sent[place]))
    }
}
