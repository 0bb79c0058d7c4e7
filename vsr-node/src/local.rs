//! Throw-away clusters on loopback: every replica a child process of this one.
//!
//! Nothing outlives its parent. Each child holds the reading end of a pipe whose writing end only we
//! hold: when we are gone, however we went, the pipe ends and the child shuts down (`start
//! --until-stdin-closes`). Closing the pipe is also how a cluster is asked to stop.

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use vsr_net::init::{self, Formed, ImageSource, InitError};

use crate::config::{FIELDS, Shape};
use crate::inspect::Status;

/// How long a child may take from its start to its first answer.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a child may take to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Between two looks at something that will change by itself.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The largest answer of an admin port that is taken.
const ANSWER_MAX: u64 = 4 << 20;

/// The addresses of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Peers, native clients, tools.
    pub native: String,
    /// Redis clients.
    pub resp: String,
    /// HTTP.
    pub admin: String,
}

/// What went wrong with a throw-away cluster.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A port is taken.
    #[error("port {port} is in use ({error}); choose other ones with --base-port")]
    Port {
        /// Which one.
        port: u16,
        /// What the system says.
        error: io::Error,
    },
    /// The system refuses something else.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        error: io::Error,
    },
    /// A child ended although nobody asked it to.
    #[error("replica {replica} has ended by itself ({status}); what it said stands above")]
    Died {
        /// Which one.
        replica: usize,
        /// How.
        status: ExitStatus,
    },
    /// No cluster came about.
    #[error("the cluster could not be formed: {0}")]
    Init(#[from] InitError),
    /// Something took too long.
    #[error("replica {replica} did not become ready in {} s: {reason}", START_TIMEOUT.as_secs())]
    NotReady {
        /// Which one.
        replica: usize,
        /// What it says itself.
        reason: String,
    },
    /// An admin port gave no usable answer.
    #[error("replica {replica} gave no usable answer to {path}: {reason}")]
    Answer {
        /// Which one.
        replica: usize,
        /// Which page.
        path: &'static str,
        /// What came instead.
        reason: String,
    },
}

fn system(what: &'static str) -> impl Fn(io::Error) -> LocalError {
    move |error| LocalError::System { what, error }
}

/// Addresses of `replicas` replicas on ports that are free at this moment.
///
/// # Errors
/// When the system has none.
pub fn free_members(replicas: usize) -> Result<Vec<Member>, LocalError> {
    let mut held = Vec::new();
    let mut address = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?.to_string();
        held.push(listener); // until all are found, or the same port would be given twice
        io::Result::Ok(address)
    };
    (0..replicas)
        .map(|_| {
            Ok(Member {
                native: address()?,
                resp: address()?,
                admin: address()?,
            })
        })
        .collect::<io::Result<_>>()
        .map_err(system("no free ports"))
}

/// Native addresses for `replicas` replicas on ports that are free at this moment.
///
/// # Errors
/// When the system has none.
pub fn free_peers(replicas: usize) -> Result<Vec<String>, LocalError> {
    let members = free_members(replicas)?;
    Ok(members.into_iter().map(|member| member.native).collect())
}

/// Addresses of `replicas` replicas from a base port: RESP ports from there on, native ports from
/// 7000 and admin ports from 9100 when the base is 6379, and at the same distances otherwise.
///
/// # Errors
/// When one of them is taken.
pub fn members_from(base_port: u16, replicas: usize) -> Result<Vec<Member>, LocalError> {
    let taken =
        |offset: u16, index: usize| {
            let port = u16::try_from(usize::from(base_port) + usize::from(offset) + index)
                .map_err(|_| LocalError::Port {
                    port: base_port,
                    error: io::Error::other("too high"),
                })?;
            match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                Ok(_) => Ok(format!("127.0.0.1:{port}")),
                Err(error) => Err(LocalError::Port { port, error }),
            }
        };
    (0..replicas)
        .map(|index| {
            let (resp, native) = (taken(0, index)?, taken(621, index)?);
            Ok(Member {
                native,
                resp,
                admin: taken(2721, index)?,
            })
        })
        .collect()
}

/// A throw-away cluster.
#[derive(Debug)]
pub struct LocalCluster {
    program: PathBuf,
    name: String,
    members: Vec<Member>,
    settings: Vec<(String, String)>,
    /// The process of each member; none: it was killed.
    children: Vec<Option<Child>>,
}

/// Whether a flag has no value.
fn is_switch(flag: &str) -> bool {
    let name = flag.trim_start_matches('-');
    let field = FIELDS.iter().find(|field| field.name == name);
    field.is_some_and(|field| field.shape == Shape::Switch)
}

impl LocalCluster {
    /// Starts one process per member, each with `settings` besides its addresses.
    ///
    /// # Errors
    /// When a process cannot be started.
    pub fn spawn(
        program: &Path,
        name: &str,
        members: Vec<Member>,
        settings: &[(&str, &str)],
    ) -> Result<Self, LocalError> {
        let settings = settings
            .iter()
            .map(|(setting, value)| (format!("--{setting}"), (*value).to_owned()));
        let mut cluster = Self {
            program: program.to_owned(),
            name: name.to_owned(),
            members,
            settings: settings.collect(),
            children: Vec::new(),
        };
        for replica in 0..cluster.members.len() {
            let child = cluster.start(replica)?;
            cluster.children.push(Some(child));
        }
        Ok(cluster)
    }

    fn start(&self, replica: usize) -> Result<Child, LocalError> {
        let natives: Vec<&str> = self.members.iter().map(|m| m.native.as_str()).collect();
        let member = &self.members[replica];
        let mut command = Command::new(&self.program);
        command.args(["start", "--until-stdin-closes", "--quiet"]);
        command.args(["--cluster", &self.name, "--peers", &natives.join(",")]);
        command.args(["--replica", &replica.to_string()]);
        command.args(["--resp", &member.resp, "--admin", &member.admin]);
        for (setting, value) in &self.settings {
            command.arg(setting);
            // A switch is on because it is there.
            if !is_switch(setting) {
                command.arg(value);
            }
        }
        // What the parent was told is not meant for the children.
        command.env_remove("VSR_CONFIG");
        for field in FIELDS {
            command.env_remove(field.variable());
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        command.spawn().map_err(system("cannot start a replica"))
    }

    /// Ends a replica's process with SIGKILL, and waits until it is gone with all its memory.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn kill(&mut self, replica: usize) -> Result<(), LocalError> {
        let Some(mut child) = self.children[replica].take() else {
            return Ok(());
        };
        child.kill().await.map_err(system("cannot kill a replica"))
    }

    /// Starts a replica that was killed: a process that holds nothing, in the same place.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn restart(&mut self, replica: usize) -> Result<(), LocalError> {
        assert!(self.children[replica].is_none(), "it was killed before");
        self.children[replica] = Some(self.start(replica)?);
        Ok(())
    }

    /// Who is in it.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The process of each replica.
    #[must_use]
    pub fn processes(&self) -> Vec<Option<u32>> {
        let id = |child: &Option<Child>| child.as_ref().and_then(Child::id);
        self.children.iter().map(id).collect()
    }

    /// Whether all children that were not killed are still there.
    ///
    /// # Errors
    /// Who is not.
    pub fn check_alive(&mut self) -> Result<(), LocalError> {
        for (replica, child) in self.children.iter_mut().enumerate() {
            let Some(child) = child else { continue };
            if let Some(status) = child.try_wait().map_err(system("cannot ask for a child"))? {
                return Err(LocalError::Died { replica, status });
            }
        }
        Ok(())
    }

    /// Which children have ended by themselves since the last call, and how.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn take_dead(&mut self) -> Result<Vec<(usize, ExitStatus)>, LocalError> {
        let mut dead = Vec::new();
        for (replica, place) in self.children.iter_mut().enumerate() {
            let Some(child) = place else { continue };
            if let Some(status) = child.try_wait().map_err(system("cannot ask for a child"))? {
                *place = None;
                dead.push((replica, status));
            }
        }
        Ok(dead)
    }

    /// Waits until every replica answers, forms the cluster, and waits until every replica is ready.
    ///
    /// # Errors
    /// Whatever came in between.
    pub async fn form(&mut self) -> Result<Formed, LocalError> {
        self.wait_for("/livez").await?;
        let endpoints: Vec<&str> = self.members.iter().map(|m| m.native.as_str()).collect();
        let formed = init::form(&endpoints, Some(&self.name), START_TIMEOUT).await?;
        self.wait_for("/readyz").await?;
        Ok(formed)
    }

    /// As [`Self::form`], of a cluster that begins with an image.
    ///
    /// # Errors
    /// Whatever came in between.
    pub async fn form_with(&mut self, image: &mut impl ImageSource) -> Result<Formed, LocalError> {
        self.wait_for("/livez").await?;
        let endpoints: Vec<&str> = self.members.iter().map(|m| m.native.as_str()).collect();
        let name = Some(self.name.as_str());
        let formed = init::form_with(&endpoints, name, START_TIMEOUT, image, |_| {}).await?;
        self.wait_for("/readyz").await?;
        Ok(formed)
    }

    /// Waits until every replica answers 200 to `path`.
    async fn wait_for(&mut self, path: &'static str) -> Result<(), LocalError> {
        let deadline = Instant::now() + START_TIMEOUT;
        for replica in 0..self.members.len() {
            loop {
                self.check_alive()?;
                let Err(reason) = self.answers(replica, path).await else {
                    break;
                };
                if Instant::now() >= deadline {
                    return Err(LocalError::NotReady { replica, reason });
                }
                sleep(LOOK_AGAIN).await;
            }
        }
        Ok(())
    }

    /// Whether a replica answers 200 to `path`; if not, what it answers.
    async fn answers(&self, replica: usize, path: &str) -> Result<(), String> {
        match get(&self.members[replica].admin, path).await {
            Ok((200, _)) => Ok(()),
            Ok((_, body)) => Err(body.trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What every replica says of itself.
    ///
    /// # Errors
    /// When one says nothing usable.
    pub async fn statuses(&self) -> Result<Vec<Status>, LocalError> {
        let mut statuses = Vec::new();
        for replica in 0..self.members.len() {
            statuses.push(self.status(replica).await?);
        }
        Ok(statuses)
    }

    /// What a replica says of itself.
    ///
    /// # Errors
    /// When it says nothing usable.
    pub async fn status(&self, replica: usize) -> Result<Status, LocalError> {
        const PATH: &str = "/status";
        let fail = |reason: String| LocalError::Answer {
            replica,
            path: PATH,
            reason,
        };
        let (_, body) = get(&self.members[replica].admin, PATH)
            .await
            .map_err(|error| fail(error.to_string()))?;
        serde_json::from_str(&body).map_err(|error| fail(error.to_string()))
    }

    /// Asks every child to stop, waits for them, and kills those that do not. Returns how each ended.
    pub async fn stop(mut self) -> Vec<io::Result<ExitStatus>> {
        for child in self.children.iter_mut().flatten() {
            drop(child.stdin.take());
        }
        let mut ends = Vec::new();
        for child in self.children.iter_mut().flatten() {
            ends.push(match timeout(STOP_TIMEOUT, child.wait()).await {
                Ok(end) => end,
                Err(_) => match child.kill().await {
                    Ok(()) => child.wait().await,
                    Err(error) => Err(error),
                },
            });
        }
        ends
    }
}

/// Prints a line for people.
pub(crate) fn say(text: &str) {
    // A closed pipe is the reader's wish to see no more.
    let _ignored = writeln!(io::stdout(), "{text}");
}

/// Fetches a page of an admin port: the status code and the body.
///
/// # Errors
/// When nobody answers, or not in HTTP.
pub async fn get(address: &str, path: &str) -> io::Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: vsr\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(ANSWER_MAX).read_to_string(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let answer = match timeout(Duration::from_secs(5), exchange).await {
        Ok(answer) => answer?,
        Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in 5 s")),
    };
    let no_http = || io::Error::new(io::ErrorKind::InvalidData, "no HTTP answer");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(no_http)?;
    let code = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(no_http)?;
    Ok((code, body.to_owned()))
}
