//! How a cluster begins: only by an operator's word, given to blank replicas, all of them (N15).
//!
//! No flag and no time-out ever forms a cluster: after a power failure, restarted replicas would
//! agree on an empty one and serve it (trace T33). Instead an operator's tool proposes a fresh random
//! cluster id; every replica that is blank, and sees no peer that belongs to a cluster, answers with
//! the nonce it drew when its process started; when *all* have answered, the tool sends all nonces to
//! all. A replica that restarted in between has another nonce and does not take part (R7.1).
//!
//! A cluster begins with nothing, or with an image that was brought to every one of its replicas before
//! (`transfer::import`). Then its log begins behind the op that the image is the state after: its genesis
//! stands in that op's place.

use core::time::Duration;

use vsr_types::body::{self, BootNonces};
use vsr_types::message::{
    ImageOffer, InitAck, InitCommit, InitOutcome, InitPropose, InitResult, PeerStatus, Prepare,
};
use vsr_types::{
    ClusterId, CrashVector, Frame, Header, Identity, Incarnation, Instant, MemberId, Nonce,
    ReplicaIndex, Timestamp, View, checksum,
};

use super::admit::Handled;
use super::{Replica, Status};
use crate::mutants::Mutant;
use crate::{DropReason, Outbox, Sent, StateMachine};

/// A proposal to form a cluster that this replica has agreed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    cluster: ClusterId,
    token: Nonce,
    /// When it was agreed to.
    since: Instant,
    /// Whether its cluster was formed with an earlier process in this place, so that this one recovers.
    is_void: bool,
    /// Whether the cluster begins with the image that was brought here by the same token.
    with_image: bool,
}

impl Proposal {
    /// Whether this process is one of those that form `cluster`. However late the word that it was
    /// formed comes: nobody else will ever tell it what it need not recover.
    pub(super) fn is_for(&self, cluster: ClusterId) -> bool {
        self.cluster == cluster && !self.is_void
    }
}

/// How many proposals that came to nothing are remembered.
const RENOUNCED_MAX: usize = 16;

/// The proposals that this process agreed to and then left for another. It agrees to none of them again:
/// their operators may still have its first agreement and give their word, and so may those of the
/// later ones, so that each would win a part of the replicas. Only a restart forgets: it draws a nonce
/// that nobody's word names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Renounced {
    tokens: [Nonce; RENOUNCED_MAX],
    next: usize,
}

impl Renounced {
    pub(super) const NONE: Self = Self {
        tokens: [Nonce::ZERO; RENOUNCED_MAX],
        next: 0,
    };

    fn add(&mut self, token: Nonce) {
        self.tokens[self.next % RENOUNCED_MAX] = token;
        self.next += 1;
    }

    fn has(&self, token: Nonce) -> bool {
        self.tokens.contains(&token)
    }
}

/// How long an agreement keeps others out: longer than an operator's tool takes from the first answer
/// to its word to all. Without it two operators at once could each win a part of the replicas.
pub(super) const AGREED_FOR: Duration = Duration::from_secs(5);

impl<S: StateMachine> Replica<S> {
    pub(super) fn on_init_propose(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let propose = *frame.fields::<InitPropose>().ok_or(DropReason::Malformed)?;
        if propose.cluster.is_zero() || propose.token.is_zero() {
            return Err(DropReason::Malformed);
        }
        if !matches!(self.status, Status::Blank(_)) && !self.is_off(Mutant::InitNotBlank) {
            self.answer_init(out, propose.token, InitOutcome::NotBlank);
            return Err(DropReason::WrongStatus);
        }
        if self.sees_a_cluster() {
            self.answer_init(out, propose.token, InitOutcome::PeerOperational);
            return Err(DropReason::WrongStatus);
        }
        if let Err(outcome) = self.may_begin(propose.token, frame.body()) {
            self.answer_init(out, propose.token, outcome);
            return Err(DropReason::WrongStatus);
        }
        if !self.renounce_agreed(propose.token) {
            self.answer_init(out, propose.token, InitOutcome::OtherProposal);
            return Err(DropReason::WrongStatus);
        }
        self.status = Status::Blank(Some(Proposal {
            cluster: propose.cluster,
            token: propose.token,
            since: self.now.monotonic,
            is_void: false,
            with_image: !frame.body().is_empty(),
        }));
        let ack = InitAck {
            token: propose.token,
            boot_nonce: self.boot.nonce,
            reserved: 0,
        };
        let header = self.letterhead().sealed(ack, &[]);
        let _: Sent = out.sender(&header, &[]);
        Ok(())
    }

    /// R7.5: whether a cluster may begin with what this process holds: with nothing, or with the very
    /// image that is proposed.
    fn may_begin(&self, token: Nonce, proposed: &[u8]) -> Result<(), InitOutcome> {
        if proposed.is_empty() {
            return match self.is_without_state() && !self.is_off(Mutant::LeftoversIgnored) {
                true => Err(InitOutcome::HoldsImage),
                false => Ok(()),
            };
        }
        let offer: Option<ImageOffer> = body::read(proposed);
        match offer.is_some_and(|offer| self.holds_image(token, &offer)) {
            true => Ok(()),
            false => Err(InitOutcome::NoImage),
        }
    }

    /// Leaves the proposal that was agreed to, if it is another than `token`'s and its operator has had
    /// time enough. Says no when it has not, or when `token`'s was left before.
    pub(super) fn renounce_agreed(&mut self, token: Nonce) -> bool {
        if let Status::Blank(Some(agreed)) = self.status
            && agreed.token != token
        {
            if self.now.monotonic.since(agreed.since) < AGREED_FOR || self.renounced.has(token) {
                return false;
            }
            self.renounced.add(agreed.token);
            self.status = Status::Blank(None);
        }
        true
    }

    /// Whether a proposal is agreed to: what is held here does not change until its operator has spoken.
    pub(super) const fn has_agreed(&self) -> bool {
        matches!(self.status, Status::Blank(Some(_)))
    }

    /// Whether it is that of `token`.
    pub(super) fn has_agreed_to(&self, token: Nonce) -> bool {
        matches!(self.status, Status::Blank(Some(agreed)) if agreed.token == token)
    }

    pub(super) fn sees_a_cluster(&self) -> bool {
        self.peers().any(|peer| {
            self.links
                .status_of(peer)
                .is_some_and(|status| status != PeerStatus::Blank)
        })
    }

    pub(super) fn on_init_commit(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let commit = *frame.fields::<InitCommit>().ok_or(DropReason::Malformed)?;
        let nonces: BootNonces = body::read(frame.body()).ok_or(DropReason::Malformed)?;
        let Status::Blank(proposal) = self.status else {
            let outcome = if commit.cluster == self.cluster && commit.token == self.bootstrap_token
            {
                InitOutcome::Applied
            } else {
                InitOutcome::NotBlank
            };
            self.answer_init(out, commit.token, outcome);
            return Err(DropReason::Duplicate);
        };
        let mine = nonces.nonces[self.me().as_usize()];
        let is_mine = mine == self.boot.nonce || self.is_off(Mutant::InitAnyNonce);
        let proposed = proposal
            .filter(|agreed| agreed.cluster == commit.cluster && agreed.token == commit.token);
        if let Some(agreed) = proposed
            && !is_mine
        {
            self.status = Status::Blank(Some(Proposal {
                is_void: true,
                ..agreed
            }));
        }
        // What was agreed to is still what is held here.
        let is_ready = |agreed: &Proposal| match agreed.with_image {
            true => self.image_of(agreed.token).is_some(),
            false => !self.is_without_state(),
        };
        let Some(agreed) = proposed.filter(|_| is_mine).filter(is_ready) else {
            self.answer_init(out, commit.token, InitOutcome::UnknownProposal);
            return Err(DropReason::WrongStatus);
        };
        self.form(agreed, nonces);
        self.answer_init(out, commit.token, InitOutcome::Applied);
        Ok(())
    }

    /// Everybody agreed: view 0 of the new cluster begins, with an empty log, or behind an image.
    fn form(&mut self, agreed: Proposal, nonces: BootNonces) {
        assert!(
            matches!(self.status, Status::Blank(Some(_))),
            "only who agreed takes part (I24)"
        );
        self.cluster = agreed.cluster;
        self.bootstrap = nonces;
        self.bootstrap_token = agreed.token;
        let mut vector = CrashVector::default();
        for replica in ReplicaIndex::all(self.config.replicas) {
            let random = nonces.nonces[replica.as_usize()].raw() as u64;
            vector.raise(replica, Incarnation { counter: 0, random });
        }
        self.incarnation = vector.of(self.me());
        self.crash_vector = vector;
        self.members = [MemberId::ZERO; vsr_types::limits::REPLICAS_MAX];
        self.head = self.genesis();
        self.applied_identity = self.genesis();
        self.head_timestamp = Timestamp::default();
        if let Some(offer) = self.image_of(agreed.token) {
            let genesis = self.genesis_behind(&offer);
            self.begin_with(&genesis);
        }
        self.forget_import();
        self.note_member();
        self.enter_normal();
    }

    /// The identity of op 0: the same for all replicas of this cluster, and of no other.
    pub(super) fn genesis(&self) -> Identity {
        Identity {
            view: View::ZERO,
            checksum: checksum(bytemuck::bytes_of(&self.cluster)),
            checksum_body: checksum(&[self.config.replicas]),
        }
    }

    /// R7.6: what stands in the place of the op that the image is the state after: the same for all
    /// replicas of this cluster, and of no other; bound to the image by its digest. It looks like an entry
    /// whose body nobody has any more, which is what every log has behind a state.
    fn genesis_behind(&self, offer: &ImageOffer) -> Header {
        let last = offer
            .header
            .fields::<Prepare>()
            .expect("it was looked at when it was announced");
        let mut genesis = Header::new(Prepare {
            op: last.op,
            commit: last.op,
            timestamp: last.timestamp,
            parent: Identity {
                checksum: checksum(bytemuck::bytes_of(&offer.digest)),
                ..self.genesis()
            },
        });
        genesis.set_cluster(self.cluster);
        genesis.set_sender(ReplicaIndex::new(0), MemberId::ZERO, Incarnation::default());
        genesis.set_epoch(self.op_max().epoch(last.op));
        genesis.set_view(View::ZERO);
        genesis.seal(&[]);
        genesis
    }

    fn answer_init(&self, out: &mut impl Outbox, token: Nonce, outcome: InitOutcome) {
        let result = InitResult {
            token,
            outcome: outcome as u32,
            reserved: 0,
            cluster: self.cluster,
        };
        let header = self.letterhead().sealed(result, &[]);
        let _: Sent = out.sender(&header, &[]);
    }

    /// R7.1: a member tells a blank peer that all had agreed; the peer takes it only if it is still
    /// the process that did.
    pub(super) fn relay_init(&mut self, peer: ReplicaIndex, out: &mut impl Outbox) {
        // Who joined by recovery was not there when all agreed.
        if !self.is_normal() || self.bootstrap_token.is_zero() {
            return;
        }
        let commit = InitCommit {
            cluster: self.cluster,
            token: self.bootstrap_token,
            reserved: 0,
        };
        let nonces = self.bootstrap;
        let _: Sent = self.send(out, peer, commit, bytemuck::bytes_of(&nonces));
    }
}
