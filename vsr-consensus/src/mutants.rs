//! Every rule of the protocol is a switch: a test build can take one away and must then fail.
//!
//! A rule whose absence no test notices is not tested, or not needed. With the feature `mutate` a
//! replica's settings may name one [`Mutant`]; without it the question "is this rule off?" is the
//! constant no and costs nothing. Each variant is named after what the broken replica does, and its
//! text names the rule (see `docs/protocol.md`).
//!
//! Some rules are second locks, which no schedule of crashes and messages opens while the first holds:
//!
//! - `any_parent`: a normal backup holds its view's log (R5.7) and a view has one primary (I12), so that
//!   primary's next entry always follows the backup's last one; only a forged message shows the lock.
//! - `repair_any`: the journal compares every body with the checksum in the header that it holds, so
//!   another entry's body is refused there; one with the same bytes is the same body.
//! - `for_any_incarnation`: a nonce is drawn anew with each incarnation that is registered, so an answer
//!   for another one carries another nonce; `any_nonce` opens both locks.
//! - `drop_unheld`, `nack_faulty`: a quorum of votes meets the quorum of holders in one whose body is
//!   good unless memory went bad as well, and then it must have gone bad in the very entry that only one
//!   other voter could have shown; the scenarios of T20 arrange that.
//! - `epoch_unchecked`: a primary stamps what it prepares with the right epoch, and replicas with other
//!   names for ops do not talk to each other; only a forged message shows the lock.
//! - `no_comparison`: states differ only when a machine is not deterministic or memory lies; the
//!   simulator plants that, and then its own comparison is quicker than the replicas'.

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// One rule taken away.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(not(feature = "mutate"), expect(unreachable_pub, reason = "a build without switches asks, and never makes one"))]
        pub enum Mutant {
            $($(#[$doc])* $name,)*
        }

        #[cfg(feature = "mutate")]
        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name on a command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The one of this name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|mutant| mutant.name() == name)
            }
        }

        #[cfg(not(feature = "mutate"))]
        const _: &[&str] = &[$($text,)*];
    };
}

mutants! {
    /// R0.1: messages of former lives are heard.
    HearTheDead => "hear_the_dead",
    /// R0.2: who learns of a newer life of its own adopts it instead of stopping.
    AdoptOwnEntry => "adopt_own_entry",
    /// R1.2: the session table is changed when a request is prepared, not when it is executed.
    TableAtPrepare => "table_at_prepare",
    /// R1.3e: what is in the pipeline is prepared again.
    PrepareTwice => "prepare_twice",
    /// R1.7: the reply leaves when the request is appended, not when it is committed.
    ReplyBeforeCommit => "reply_before_commit",
    /// R2.2: prepares of an older view are appended.
    OldPrepare => "old_prepare",
    /// R2.2: a prepare beyond the next one is acknowledged.
    Gap => "gap",
    /// R2.2: the parent of a prepare is not compared.
    AnyParent => "any_parent",
    /// R2.3: headers without bodies are acknowledged.
    AckHeaders => "ack_headers",
    /// R2.3: the acknowledgement leaves before the entry is held.
    AckBeforeHeld => "ack_before_held",
    /// R2.4: acknowledgements of another view or entry are counted.
    OldAcks => "old_acks",
    /// R2.4: every copy of an acknowledgement counts.
    CountAcks => "count_acks",
    /// R2.5: one fewer than a quorum commits.
    SmallCommitQuorum => "small_commit_quorum",
    /// R2.6: the commit number follows the last message, also back.
    CommitFollows => "commit_follows",
    /// R2.7: a newer view is adopted from a heartbeat.
    AdoptView => "adopt_view",
    /// R3.2: an acknowledgement speaks for the hops before.
    TailAck => "tail_ack",
    /// R3.3: nobody fetches what the chain lost.
    NothingFetched => "nothing_fetched",
    /// R3.3: no backup is ever suspected.
    NeverSuspect => "never_suspect",
    /// R4.1: every heartbeat, however old, keeps the primary alive.
    OldHeartbeats => "old_heartbeats",
    /// R4.2: digests and committed entries are not compared.
    NoComparison => "no_comparison",
    /// R4.2: whose digest is outvoted goes on serving.
    MinorityServes => "minority_serves",
    /// R4.2: nobody tells of a digest that somebody else's differs from.
    ContestUntold => "contest_untold",
    /// R4.2: a replica that has lost its memory may still say who is right.
    LostMayVote => "lost_may_vote",
    /// R4.3: a primary that hears nobody goes on.
    NeverAbdicate => "never_abdicate",
    /// R5.1: a single vote is enough to leave a view.
    OneVote => "one_vote",
    /// R5.3: logs of former lives count in a view change.
    InconsistentVotes => "inconsistent_votes",
    /// R5.3: one fewer than a quorum starts a view.
    SmallChangeQuorum => "small_change_quorum",
    /// R5.4: the longest log wins, not the one of the newest view.
    LongestLog => "longest_log",
    /// R5.4: headers that a start_view brought are no part of the log until their bodies came.
    ForgetHeaders => "forget_headers",
    /// R5.5: what nobody at hand holds is dropped without a quorum that never had it.
    DropUnheld => "drop_unheld",
    /// R5.5: a damaged entry counts as never received.
    NackFaulty => "nack_faulty",
    /// R5.6: the view starts before everything inherited is held.
    StartEarly => "start_early",
    /// R5.6: the log's view is not set together with the log.
    LateLogView => "late_log_view",
    /// R5.6: a primary that lags leads all the same.
    NeverForfeit => "never_forfeit",
    /// R5.7: a start_view is taken in a view that is normal already.
    StartViewTwice => "start_view_twice",
    /// R5.7: entries that the new view dropped are kept.
    KeepDivergent => "keep_divergent",
    /// R6.2: the incarnation has no random part.
    BareCounter => "bare_counter",
    /// R6.2: the new life has the number of the old one.
    SameIncarnation => "same_incarnation",
    /// R6.3: a replica between views answers recoveries.
    AnswerInViewChange => "answer_in_view_change",
    /// R6.4: an answer to an earlier question counts.
    AnyNonce => "any_nonce",
    /// R6.4: an answer for another incarnation counts.
    ForAnyIncarnation => "for_any_incarnation",
    /// R6.4: answers that contradict each other's crash vectors are combined.
    AnyAnswers => "any_answers",
    /// R6.4: the crash vectors of answers are not joined.
    VectorsNotJoined => "vectors_not_joined",
    /// R6.5: one fewer than a quorum of answers is enough.
    SmallRecoveryQuorum => "small_recovery_quorum",
    /// R6.5: the log is taken from whoever answered.
    RecoverFromAnybody => "recover_from_anybody",
    /// R6.5: recovery ends with headers, before the bodies came.
    RecoverHeadersOnly => "recover_headers_only",
    /// R7.1: a replica that is not blank takes part in an init.
    InitNotBlank => "init_not_blank",
    /// R7.1: nonces are not compared when a cluster is formed.
    InitAnyNonce => "init_any_nonce",
    /// R7.5: an image that was brought counts as verified.
    ImportUnverified => "import_unverified",
    /// R7.5: what an import has left behind counts as nothing.
    LeftoversIgnored => "leftovers_ignored",
    /// R8.1: the ring wraps over what is not executed.
    WrapOver => "wrap_over",
    /// R8.3: on hearing of a newer view the log is cut to what is committed, and the view adopted.
    CutAndAdopt => "cut_and_adopt",
    /// R10.1: a primary that is to halt at the last op goes on.
    BorderIgnored => "border_ignored",
    /// R10.2: a prepare has the epoch of the op before it.
    HeadsEpoch => "heads_epoch",
    /// R10.2: the epoch in a message is not compared with that of the op it is about.
    EpochUnchecked => "epoch_unchecked",
    /// R10.4: the log goes on before the state is archived.
    ArchiveUnawaited => "archive_unawaited",
    /// R10.4: a new primary takes for granted that the last one has archived.
    ArchiveAssumed => "archive_assumed",
    /// R10.4: the archive is made before everything is executed.
    ArchiveEarly => "archive_early",
    /// R10.5: a primary that waits for an archive is replaced.
    WaitDeposes => "wait_deposes",
    /// R8.4: repair takes any entry for the op.
    RepairAny => "repair_any",
    /// R8.5: the image lacks the sessions.
    SessionsNotInImage => "sessions_not_in_image",
    /// R8.5: the digest of an image is not compared.
    ImageUnverified => "image_unverified",
    /// R8.5: chunks that changed during the transfer are not sent again.
    ChangedChunksKept => "changed_chunks_kept",
    /// R12: queries are answered without a round.
    ReadWithoutRound => "read_without_round",
    /// R12.1: queries are answered before what was inherited is executed.
    ReadTooEarly => "read_too_early",
    /// 2.14: a view that fails is given no more time than the one before.
    NoBackoff => "no_backoff",
    /// R13.2: clients may wait for ever for a primary that is alive and commits nothing.
    ServesNobody => "serves_nobody",
    /// M2: the client's checksum is not verified before execution.
    ClientChecksumUnverified => "client_checksum_unverified",
    /// R6.8: the numbers of the protocol are not compared with what they were.
    NumbersUncompared => "numbers_uncompared",
    /// R14.1: nobody looks for damage.
    ScrubberOff => "scrubber_off",
    /// R14.3: what met damage is answered all the same.
    DamageAnswered => "damage_answered",
    /// M2: what is executed is not verified.
    ExecutionUnverified => "execution_unverified",
    /// N17: entries of the session table are not verified.
    SessionsUnverified => "sessions_unverified",
    /// N17: cached replies are not verified.
    RepliesUnverified => "replies_unverified",
    /// N17: queries that wait are not verified.
    QueriesUnverified => "queries_unverified",
    /// N19: votes that wait are not verified.
    VotesUnverified => "votes_unverified",
    /// R14.2: chunks that are known to be damaged are given.
    DamageGiven => "damage_given",
    /// R14.4: damaged chunks are written before all of them are known to be had.
    NothingProbed => "nothing_probed",
    /// N1: the machine is given the local clock.
    LocalClock => "local_clock",
}
