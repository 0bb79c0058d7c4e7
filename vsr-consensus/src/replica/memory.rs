//! The replica's part of the memory plan (N20): what is allocated, for what, and how much of it is used.
//!
//! [`Replica::pools`] is computed from the configuration alone, [`Replica::levels`] from the replica at
//! work; both name the same pools. High-water marks are integers that only grow, kept where something is
//! put into a pool.

use vsr_journal::Journal;
use vsr_types::memory::{Level, Pool, touch};
use vsr_types::{HEADER_SIZE, Header, limits};

use super::Replica;
use super::chain::Links;
use super::log::suffix_length;
use super::recovery::Recovery;
use super::repair::Repair;
use super::view_change::Change;
use crate::sessions::{Sessions, SessionsImage};
use crate::{Config, StateMachine};

/// How many pools a replica has.
const POOLS: usize = 17;

/// The high-water marks of what is used for the length of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks {
    /// Bytes of the largest reply, answer or piece of state.
    pub(super) reply: usize,
    /// Votes of one view.
    pub(super) votes: usize,
    /// Bytes of this replica's own vote.
    pub(super) own_vote: usize,
    /// Headers of a log that came, or was chosen.
    pub(super) received: usize,
    /// Headers that a view began with.
    pub(super) inherited: usize,
    /// Headers asked for, given or taken.
    pub(super) repair: usize,
    /// Headers of the log that a recovery was told.
    pub(super) recovery: usize,
    /// Images of the session table taken in.
    pub(super) images: usize,
    /// Batches prepared here and not executed.
    pub(super) prepares: usize,
}

/// What every pool of the replica has in common, and some have not.
const POOL: Pool = Pool {
    part: "view change",
    name: "",
    purpose: "",
    setting: "pipeline",
    unit: "headers",
    count: 0,
    size: size_of::<Header>(),
    is_later: false,
};

impl<S: StateMachine> Replica<S> {
    /// The memory that [`Self::new`] allocates beside the machine's, pool by pool.
    #[must_use]
    pub fn pools(config: &Config) -> [Pool; POOLS] {
        let [headers, bodies] = Journal::pools(config.journal_slots, config.journal_bytes);
        let [sessions, index, replies, marks] =
            Sessions::pools(config.sessions, config.reply_bytes);
        let [votes, own, received, inherited, repair, recovery] = view_change_pools(config);
        let alone = |name, purpose, setting, unit, count, size| Pool {
            part: name,
            name,
            purpose,
            setting,
            unit,
            count,
            size,
            is_later: false,
        };
        [
            headers,
            bodies,
            sessions,
            index,
            replies,
            marks,
            image_pool(config),
            alone(
                "open batch",
                "requests that wait for a place in the pipeline",
                "batch-max",
                "bytes",
                config.batch_size_max,
                1,
            ),
            alone(
                "queries",
                "reads of the round under way, and of the next",
                "fixed",
                "rounds",
                2,
                config.query_bytes,
            ),
            votes,
            own,
            received,
            inherited,
            repair,
            recovery,
            alone(
                "reply buffer",
                "the reply that is being made, a chunk of state that is being read",
                "fixed",
                "bytes",
                limits::REPLY_SIZE_MAX,
                1,
            ),
            Pool {
                part: "the rest",
                name: "prepares on their way",
                purpose: "when each was sent, to tell who is late",
                unit: "prepares",
                count: Links::sent_at_count(config),
                size: size_of::<vsr_types::Instant>(),
                ..POOL
            },
        ]
    }

    /// How much of its pools is used.
    #[must_use]
    pub fn levels(&self) -> [Level; POOLS] {
        let [headers, bodies] = self.journal.levels();
        let [sessions, index, replies, marks] = self.sessions.levels();
        let is_taking = usize::from(self.is_transferring());
        let in_flight = match self.is_primary() && self.is_normal() {
            true => self.op().distance_from(self.applied) as usize,
            false => 0,
        };
        let most = &self.marks;
        [
            headers,
            bodies,
            sessions,
            index,
            replies,
            marks,
            Level::new("check of an image", is_taking, most.images.min(1)),
            self.batch.level(),
            self.reads.level(),
            Level::new("votes", self.change.votes_held(), most.votes),
            Level::new("own vote", 0, most.own_vote),
            Level::new("a log that came", 0, most.received),
            Level::new("what the view began with", 0, most.inherited),
            Level::new("repair", 0, most.repair),
            Level::new("recovery", 0, most.recovery),
            Level::new("reply buffer", 0, most.reply),
            Level::new("prepares on their way", in_flight, most.prepares),
        ]
    }

    /// Touches what [`Self::new`] allocated and nothing has been written to yet, so that it is resident.
    /// For a fresh replica.
    ///
    /// # Panics
    /// When it has handled anything.
    pub fn prefault(&mut self) {
        assert!(
            self.sealed.is_none(),
            "memory is touched before anything is in it"
        );
        // The journal is touched when it is made, and the tables of sessions are filled.
        self.sessions.prefault();
        self.batch.prefault();
        self.reads.prefault();
        self.change.prefault();
        self.repair.prefault();
        touch(&mut self.reply_buffer);
    }
}

fn view_change_pools(config: &Config) -> [Pool; 6] {
    let suffix = suffix_length(config);
    [
        Pool {
            name: "votes",
            purpose: "the vote of each replica for a view",
            setting: "pipeline",
            unit: "votes",
            count: usize::from(config.replicas),
            size: Change::vote_size(config),
            ..POOL
        },
        Pool {
            name: "own vote",
            purpose: "this replica's vote as it is sent",
            setting: "fixed",
            unit: "bytes",
            count: Change::OWN_SIZE,
            size: 1,
            ..POOL
        },
        Pool {
            name: "a log that came",
            purpose: "the end of a log as it is read, and as it is chosen",
            count: 2 * suffix,
            ..POOL
        },
        Pool {
            name: "what the view began with",
            purpose: "the end of the log that the view started from",
            count: suffix,
            ..POOL
        },
        Pool {
            name: "repair",
            purpose: "headers that are given to others, and that come from them",
            setting: "fixed",
            count: Repair::memory() / HEADER_SIZE,
            ..POOL
        },
        Pool {
            name: "recovery",
            purpose: "the end of the log that a recovery was told",
            setting: "fixed",
            count: Recovery::memory() / HEADER_SIZE,
            ..POOL
        },
    ]
}

fn image_pool(config: &Config) -> Pool {
    Pool {
        part: "sessions and replies",
        name: "check of an image",
        purpose: "which slots and blocks a list of an image that comes was seen to hold",
        setting: "reply-size",
        unit: "images",
        count: 1,
        size: SessionsImage::memory(config.sessions, config.reply_bytes),
        ..POOL
    }
}
