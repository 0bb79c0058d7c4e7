//! What a user may choose about a run.

use std::vec::Vec;

use super::faults::Faults;
use crate::OnOpMax;

/// How a batch or a single seed is played. What is not chosen is drawn from the seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The kinds of trouble that seeds may draw.
    pub faults: Faults,
    /// How many client operations the first phase has.
    pub ops: u64,
    /// How many replicas; none: drawn.
    pub replicas: Option<u8>,
    /// How many clients; none: drawn.
    pub clients: Option<u16>,
    /// Whether frames travel as streams of bytes, cut anywhere, or one by one; none: drawn.
    pub stream: Option<bool>,
    /// How many ops an epoch has; none: drawn, and mostly more than a run needs.
    pub op_max: Option<u64>,
    /// What happens at the end of an epoch; none: drawn.
    pub on_op_max: Option<OnOpMax>,
    /// Kinds of trouble that the seed draws and that are left out all the same, everything else staying
    /// as it was drawn.
    pub without: Faults,
    /// Entries of the seed's schedule of faults to leave out, by their numbers: what the shrinker found
    /// not to matter.
    pub skip: Vec<u32>,
    /// Whether every message is written down: slower, for looking at one seed.
    pub trace: bool,
    /// Whether a failure is shrunk before it is returned.
    pub shrink: bool,
    /// A mistake put in on purpose, which the checkers must report.
    pub plant: Option<Plant>,
    /// A rule of the protocol that all replicas go without.
    #[cfg(feature = "mutate")]
    pub mutant: Option<crate::Mutant>,
}

impl Options {
    /// The defaults, with these kinds of trouble.
    #[must_use]
    pub const fn new(faults: Faults) -> Self {
        Self {
            faults,
            ops: 5_000,
            replicas: None,
            clients: None,
            stream: None,
            op_max: None,
            on_op_max: None,
            without: Faults::none(),
            skip: Vec::new(),
            trace: false,
            shrink: true,
            plant: None,
            #[cfg(feature = "mutate")]
            mutant: None,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new(Faults::all())
    }
}

/// Mistakes that can be put in on purpose, to see that the checkers find them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// One replica executes one operation twice.
    ExecutesTwice,
    /// One replica leaves one operation out.
    LeavesOut,
    /// One replica answers one client with a changed byte.
    WrongReply,
    /// Reads are answered as they were answered the first time.
    StaleRead,
    /// The machine of this replica goes its own way once: no mistake of the protocol's, which must find it
    /// out and mend it (N16).
    OneDiverges(u8),
    /// Every machine goes a way of its own: everybody must stop (N16).
    AllDiverge,
}

impl Plant {
    /// Whether this replica makes the mistake. One that all make alike is for the clients to notice.
    pub(crate) const fn is_at(self, replica: u8) -> bool {
        match self {
            Self::ExecutesTwice | Self::LeavesOut => replica == 1,
            Self::OneDiverges(which) => replica == which,
            Self::WrongReply | Self::StaleRead | Self::AllDiverge => true,
        }
    }

    /// Whether the protocol is to find it out, and not the checkers.
    pub(crate) const fn is_for_replicas(self) -> bool {
        matches!(self, Self::OneDiverges(_) | Self::AllDiverge)
    }

    /// Whether a majority goes on as it should.
    pub(crate) const fn spares_others(self) -> bool {
        matches!(self, Self::OneDiverges(_))
    }
}
