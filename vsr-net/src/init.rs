//! How a cluster begins: one operator's command, all replicas up, all blank (R7.1).
//!
//! ```text
//!   coordinator                         every replica
//!      | -- InitPropose{cluster, token} -> |   blank, and sees nobody who belongs to a cluster?
//!      | <----- InitAck{token, nonce} ---- |   or InitResult: why not
//!   all of them said yes
//!      | -- InitCommit{cluster, nonces} -> |   still the process that said yes?
//!      | <------- InitResult{Applied} ---- |
//! ```
//!
//! A cluster may begin with an image of another one's state: then the image comes first, to all of them
//! (`bring`), and whoever agrees holds it (R7.4).
//!
//! The cluster's id is drawn here, fresh for every attempt. Nothing else ever forms a cluster: not a
//! flag, not a file, not a time-out. So after the loss of a majority nobody can start an empty cluster
//! under the old name by accident and take it for the old one.

mod bring;

use core::fmt;
use std::io;
use std::time::Duration;

use bytemuck::Zeroable;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use vsr_types::body::BootNonces;
use vsr_types::message::{InitAck, InitCommit, InitOutcome, InitPropose, InitResult, PutOutcome};
use vsr_types::{ClusterId, Header, Nonce, ReplicaIndex, limits};

use crate::handshake::Refusal;
use crate::tool::Tool;
use crate::{ConnectionError, random};

pub use bring::ImageSource;

/// A cluster that has just begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formed {
    /// Its id, for ever.
    pub cluster: ClusterId,
    /// How many replicas it has.
    pub replicas: u8,
}

/// Why one replica refuses to take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitRefusal {
    /// It refuses the connection.
    Connection(Refusal),
    /// It refuses the proposal; the cluster is the one it belongs to, zero when it is blank.
    Outcome(InitOutcome, ClusterId),
    /// It refuses the image that the cluster is to begin with.
    Image(PutOutcome),
}

impl fmt::Display for InitRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(refusal) => refusal.fmt(f),
            Self::Image(outcome) => f.write_str(image_text(*outcome)),
            Self::Outcome(InitOutcome::NotBlank, cluster) => write!(
                f,
                "it belongs to cluster {cluster} already; a cluster is formed of blank replicas only"
            ),
            Self::Outcome(InitOutcome::PeerOperational, _) => f.write_str(
                "it sees a replica that belongs to a cluster; it will recover from there by itself",
            ),
            Self::Outcome(InitOutcome::OtherProposal, _) => f.write_str(
                "it agreed to another init a moment ago; if that one did not succeed, try again in \
                 some seconds",
            ),
            Self::Outcome(InitOutcome::UnknownProposal, _) => f.write_str(
                "it restarted while the cluster was being formed, or another init is going on; try \
                 again",
            ),
            Self::Outcome(InitOutcome::Applied, cluster) => {
                write!(
                    f,
                    "it has applied another init just now, for cluster {cluster}"
                )
            }
            Self::Outcome(InitOutcome::HoldsImage, _) => f.write_str(
                "it holds an image, or a part of one, that an import has left; import once more, or \
                 restart it to begin with nothing",
            ),
            Self::Outcome(InitOutcome::NoImage, _) => f.write_str(
                "it does not hold the image that the cluster is to begin with; it restarted \
                 meanwhile: import once more",
            ),
        }
    }
}

/// Why no cluster was formed.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Not every endpoint could be reached in time; nothing was changed anywhere.
    #[error(
        "not all replicas can be reached, and a cluster is formed of all or not at all:{}",
        lines(.0)
    )]
    Unreachable(Vec<(String, String)>),
    /// A replica refuses; nothing was changed anywhere.
    #[error("refused:{}", lines(.0))]
    Refused(Vec<(String, InitRefusal)>),
    /// The image cannot be read. Replicas may hold a part of it.
    #[error("{0}")]
    Source(io::Error),
    /// The image was announced and fits, but not all replicas hold it now.
    #[error("the image did not come to:{}", lines(.0))]
    NotBrought(Vec<(String, String)>),
    /// The endpoints are not the replicas of one cluster-to-be, each of them once.
    #[error("{0}")]
    Mismatch(String),
    /// All agreed, but not all have confirmed. Those that have will tell the others; look at `status`.
    #[error(
        "cluster {cluster} was agreed on, but not confirmed by:{}\nthe replicas that did apply it \
         tell the others by themselves; see `vsr-cli status` before trying again",
        lines(.missing)
    )]
    Unconfirmed {
        /// The cluster that may exist now.
        cluster: ClusterId,
        /// Who has not confirmed, and what was seen instead.
        missing: Vec<(String, String)>,
    },
}

impl InitError {
    /// Whether a replica said no, as opposed to not being there: exit code 3.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

const fn image_text(outcome: PutOutcome) -> &'static str {
    match outcome {
        PutOutcome::NotBlank => {
            "it belongs to a cluster already; a cluster is formed of blank replicas only"
        }
        PutOutcome::PeerOperational => {
            "it sees a replica that belongs to a cluster; it will recover from there by itself"
        }
        PutOutcome::OtherProposal => {
            "another init or import was going on a moment ago; try again in some seconds"
        }
        PutOutcome::Malformed => "what the image says of itself contradicts itself",
        PutOutcome::OtherMachine => {
            "the image is of another state machine, or of one with another memory: start the replicas \
             with the --memory of the cluster that it is from"
        }
        PutOutcome::OtherSessions => {
            "the image is of a cluster with other --sessions or another room for replies: start the \
             replicas with the same"
        }
        PutOutcome::TooLarge => "the image is larger than its memory",
        PutOutcome::OutOfOrder => "it restarted meanwhile, or something is lost",
        PutOutcome::NoState => "what came is not the state that was announced",
        PutOutcome::Taken | PutOutcome::Verifying | PutOutcome::Verified => "an answer out of turn",
    }
}

fn lines<T: fmt::Display>(items: &[(String, T)]) -> String {
    items
        .iter()
        .map(|(endpoint, why)| format!("\n  {endpoint}: {why}"))
        .collect()
}

/// Forms a cluster of the blank replicas at `endpoints`, which must be all of them, in any order.
/// `cluster_name`, if given, must be theirs. `within` bounds the whole.
///
/// # Errors
/// See [`InitError`]. Only [`InitError::Unconfirmed`] leaves something behind.
pub async fn form<S: AsRef<str>>(
    endpoints: &[S],
    cluster_name: Option<&str>,
    within: Duration,
) -> Result<Formed, InitError> {
    let deadline = Instant::now() + within;
    let mut tools = connect_all(endpoints, cluster_name, within).await?;
    check(&mut tools)?;
    agree(&mut tools, random::nonce(), &[], deadline).await
}

/// As [`form`], of a cluster that begins with the image of `source` (R7.4): it is brought to every replica,
/// and verified by every one of them, before any of them agrees. `within` bounds each step and not the
/// whole, which takes as long as the image is large; `progress` is told how many chunks have left.
///
/// # Errors
/// See [`InitError`]. [`InitError::Refused`] comes before anything is written, unless a replica restarts.
pub async fn form_with<S: AsRef<str>>(
    endpoints: &[S],
    cluster_name: Option<&str>,
    within: Duration,
    source: &mut impl ImageSource,
    progress: impl FnMut(u64),
) -> Result<Formed, InitError> {
    let mut tools = connect_all(endpoints, cluster_name, within).await?;
    check(&mut tools)?;
    let (token, offer) = (random::nonce(), source.offer());
    bring::bring(&mut tools, token, within, source, progress).await?;
    let deadline = Instant::now() + within;
    agree(&mut tools, token, bytemuck::bytes_of(&offer), deadline).await
}

async fn agree(
    tools: &mut [Tool],
    token: Nonce,
    image: &[u8],
    deadline: Instant,
) -> Result<Formed, InitError> {
    let cluster = random::cluster_id();
    let nonces = propose(tools, cluster, token, image, deadline).await?;
    commit(tools, cluster, token, &nonces, deadline).await?;
    Ok(Formed {
        cluster,
        replicas: tools.len() as u8,
    })
}

async fn connect_all<S: AsRef<str>>(
    endpoints: &[S],
    cluster_name: Option<&str>,
    within: Duration,
) -> Result<Vec<Tool>, InitError> {
    if endpoints.is_empty() || endpoints.len() > limits::REPLICAS_MAX {
        return Err(InitError::Mismatch(format!(
            "{} endpoints were given; a cluster has 1 to {} replicas, and all must be named",
            endpoints.len(),
            limits::REPLICAS_MAX
        )));
    }
    let mut dials = JoinSet::new();
    for (place, endpoint) in endpoints.iter().enumerate() {
        let endpoint = endpoint.as_ref().to_owned();
        let name = cluster_name.map(str::to_owned);
        dials.spawn(async move {
            let result = Tool::connect(&endpoint, name.as_deref(), within).await;
            (place, endpoint, result)
        });
    }
    let mut results = dials.join_all().await;
    results.sort_by_key(|(place, ..)| *place);
    let (mut tools, mut refused, mut unreachable) = (Vec::new(), Vec::new(), Vec::new());
    for (_, endpoint, result) in results {
        match result {
            Ok(tool) => tools.push(tool),
            Err(error) => match error.refusal() {
                Some(refusal) => refused.push((endpoint, InitRefusal::Connection(refusal))),
                None => unreachable.push((endpoint, error.to_string())),
            },
        }
    }
    if !refused.is_empty() {
        return Err(InitError::Refused(refused));
    }
    if !unreachable.is_empty() {
        return Err(InitError::Unreachable(unreachable));
    }
    Ok(tools)
}

/// The endpoints must be every replica of one list, each once; afterwards they are in its order.
fn check(tools: &mut [Tool]) -> Result<(), InitError> {
    tools.sort_by_key(Tool::replica);
    let count = tools.len();
    let mut first = None;
    for (index, tool) in tools.iter_mut().enumerate() {
        let connection = tool.connection();
        let (endpoint, replica) = (connection.endpoint().to_owned(), connection.replica());
        let welcome = connection.greeting().welcome;
        if usize::from(welcome.replicas) != count {
            return Err(InitError::Mismatch(format!(
                "{endpoint} belongs to a list of {} replicas, but {count} endpoints were given",
                welcome.replicas
            )));
        }
        if replica.as_usize() != index {
            return Err(InitError::Mismatch(format!(
                "{endpoint} is replica {}, but replica {index} is missing: is an endpoint given twice?",
                replica.raw()
            )));
        }
        let list = (welcome.cluster_name, welcome.configuration);
        if *first.get_or_insert(list) != list {
            return Err(InitError::Mismatch(format!(
                "{endpoint} has another --cluster or --peers than the replicas before it"
            )));
        }
    }
    Ok(())
}

/// What a replica answered, or why it did not.
enum Answer<T> {
    Yes(T),
    No(InitRefusal),
    Nothing(String),
}

async fn propose(
    tools: &mut [Tool],
    cluster: ClusterId,
    token: Nonce,
    image: &[u8],
    deadline: Instant,
) -> Result<BootNonces, InitError> {
    let mut header = Header::new(InitPropose {
        cluster,
        token,
        ..InitPropose::zeroed()
    });
    header.seal(image);
    let mut nonces = BootNonces::zeroed();
    let (mut refused, mut silent) = (Vec::new(), Vec::new());
    send_all(tools, &header, image).await;
    for tool in tools {
        let endpoint = tool.connection().endpoint().to_owned();
        match answer(tool, token, deadline).await {
            Answer::Yes(Yes::Ack(replica, nonce)) => nonces.nonces[replica.as_usize()] = nonce,
            Answer::Yes(Yes::Applied(cluster)) => {
                refused.push((
                    endpoint,
                    InitRefusal::Outcome(InitOutcome::Applied, cluster),
                ));
            }
            Answer::No(why) => refused.push((endpoint, why)),
            Answer::Nothing(why) => silent.push((endpoint, why)),
        }
    }
    if !refused.is_empty() {
        return Err(InitError::Refused(refused));
    }
    if !silent.is_empty() {
        return Err(InitError::Unreachable(silent));
    }
    Ok(nonces)
}

async fn commit(
    tools: &mut [Tool],
    cluster: ClusterId,
    token: Nonce,
    nonces: &BootNonces,
    deadline: Instant,
) -> Result<(), InitError> {
    let body = bytemuck::bytes_of(nonces);
    let mut header = Header::new(InitCommit {
        cluster,
        token,
        ..InitCommit::zeroed()
    });
    header.seal(body);
    send_all(tools, &header, body).await;
    let mut missing = Vec::new();
    for tool in tools {
        let endpoint = tool.connection().endpoint().to_owned();
        let why = loop {
            match answer(tool, token, deadline).await {
                Answer::Yes(Yes::Applied(applied)) if applied == cluster => break None,
                // A second ack, from a proposal that was delivered twice.
                Answer::Yes(Yes::Ack(..)) => {}
                Answer::Yes(Yes::Applied(other)) => {
                    break Some(format!("it belongs to cluster {other} now"));
                }
                Answer::No(why) => break Some(why.to_string()),
                Answer::Nothing(why) => break Some(why),
            }
        };
        missing.extend(why.map(|why| (endpoint, why)));
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(InitError::Unconfirmed { cluster, missing })
    }
}

async fn send_all(tools: &mut [Tool], header: &Header, body: &[u8]) {
    for tool in tools {
        // A connection that breaks here gives no answer either, and is reported there.
        drop(tool.connection().send(header, body).await);
    }
}

enum Yes {
    Ack(ReplicaIndex, Nonce),
    Applied(ClusterId),
}

/// The next answer that belongs to this attempt.
async fn answer(tool: &mut Tool, token: Nonce, deadline: Instant) -> Answer<Yes> {
    let replica = tool.replica();
    let wait = async {
        loop {
            let frame = tool.connection().receive().await?;
            if let Some(ack) = frame.fields::<InitAck>().filter(|ack| ack.token == token) {
                return Ok(Answer::Yes(Yes::Ack(replica, ack.boot_nonce)));
            }
            let result = frame
                .fields::<InitResult>()
                .filter(|result| result.token == token);
            if let Some(result) = result {
                return Ok(match InitOutcome::from_raw(result.outcome) {
                    Some(InitOutcome::Applied) => Answer::Yes(Yes::Applied(result.cluster)),
                    Some(outcome) => Answer::No(InitRefusal::Outcome(outcome, result.cluster)),
                    None => Answer::Nothing(format!("unknown outcome {}", result.outcome)),
                });
            }
        }
    };
    match timeout_at(deadline, wait).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(ConnectionError::Refused { refusal, .. })) => {
            Answer::No(InitRefusal::Connection(refusal))
        }
        Ok(Err(error)) => Answer::Nothing(error.to_string()),
        Err(_) => Answer::Nothing("it is connected, but gave no answer in time".to_owned()),
    }
}
