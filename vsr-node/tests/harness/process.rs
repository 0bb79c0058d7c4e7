//! One replica as a process of ours: started, hurt, looked at, and certainly gone in the end.
//!
//! A child dies with its handle (`kill_on_drop`), also when a test panics; and when this process itself
//! is killed, the child notices that its standard input has ended. Signals go to the process's own id.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};
use vsr_node::config::{FIELDS, Shape};
use vsr_node::inspect::Status;
use vsr_node::local::{self, Member};

/// How many lines of a process's log are kept.
const LOG_MAX: usize = 2000;
/// How long a process may take to answer for the first time.
const START: Duration = Duration::from_secs(20);
/// Between two looks at something that another process changes.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What a process wrote to its standard error.
pub(crate) type Log = Rc<RefCell<VecDeque<String>>>;

/// How to start a replica.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) replica: usize,
    /// The addresses of the proxies in front of all replicas.
    pub(crate) peers: String,
    pub(crate) settings: Vec<(String, String)>,
    /// The most open descriptors; none: as many as we may have.
    pub(crate) descriptors: Option<u32>,
    /// Where it listens, always; none: on ports that are free when it starts.
    pub(crate) fixed: Option<Member>,
}

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// Waiting for a child would close its input, which asks it to stop.
    _stdin: Option<ChildStdin>,
    pub(crate) pid: u32,
    pub(crate) addresses: Member,
}

fn begin(recipe: &Recipe, addresses: &Member) -> io::Result<Child> {
    let program = env!("CARGO_BIN_EXE_vsr-node");
    let mut command = match recipe.descriptors {
        None => Command::new(program),
        Some(most) => {
            let mut command = Command::new("sh");
            let script = format!("ulimit -n {most} && exec \"$0\" \"$@\"");
            command.args(["-c", &script, program]);
            command
        }
    };
    command.args(["start", "--until-stdin-closes", "--quiet"]);
    command.args(["--cluster", "harness", "--peers", &recipe.peers]);
    command.args(["--replica", &recipe.replica.to_string()]);
    command.args(["--listen", &addresses.native]);
    command.args(["--resp", &addresses.resp, "--admin", &addresses.admin]);
    for (name, value) in &recipe.settings {
        command.arg(format!("--{name}"));
        // A switch is on because it is there.
        let field = FIELDS.iter().find(|field| field.name == name);
        if field.is_none_or(|field| field.shape != Shape::Switch) {
            command.arg(value);
        }
    }
    command.env_remove("VSR_CONFIG").env("NO_COLOR", "1");
    for field in FIELDS {
        command.env_remove(field.variable());
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

impl Process {
    /// Starts a replica, and waits until it answers.
    pub(crate) async fn start(recipe: &Recipe, log: &Log) -> io::Result<Self> {
        let mut last = io::Error::other("not tried");
        // Somebody else may take a port between our look and the child's.
        for _ in 0..3 {
            match Self::try_start(recipe, log).await {
                Ok(process) => return Ok(process),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn try_start(recipe: &Recipe, log: &Log) -> io::Result<Self> {
        let addresses = match &recipe.fixed {
            Some(addresses) => addresses.clone(),
            None => local::free_members(1).map_err(io::Error::other)?.remove(0),
        };
        let mut child = begin(recipe, &addresses)?;
        let pid = child.id().expect("it was not waited for");
        let stderr = child.stderr.take().expect("piped");
        let stdin = child.stdin.take();
        spawn_local(keep(Rc::clone(log), BufReader::new(stderr), pid));
        let deadline = Instant::now() + START;
        loop {
            if let Some(status) = child.try_wait()? {
                return Err(io::Error::other(format!("ended at once: {status}")));
            }
            if matches!(local::get(&addresses.admin, "/livez").await, Ok((200, _))) {
                break;
            }
            if Instant::now() > deadline {
                return Err(io::Error::other("gives no answer"));
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(Self {
            child,
            _stdin: stdin,
            pid,
            addresses,
        })
    }

    /// Asks for its end, as the kernel grants it; [`Self::gone`] says when it has come.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.start_kill()
    }

    /// Waits for its end.
    pub(crate) async fn gone(mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Whether the kernel has it stopped; false where the kernel does not say.
    pub(crate) fn is_frozen(&self) -> bool {
        let path = format!("/proc/{}/stat", self.pid);
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let state = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
        state.starts_with('T')
    }
}

/// Sends SIGSTOP, SIGCONT or SIGTERM to one process.
pub(crate) async fn signal(pid: u32, name: &str) -> io::Result<()> {
    let status = Command::new("kill")
        .args([format!("-{name}"), pid.to_string()])
        .status()
        .await?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("kill -{name} {pid}: {status}")))
}

/// What the replica with this admin port says of itself.
pub(crate) async fn status(admin: &str) -> io::Result<Status> {
    let (_, body) = local::get(admin, "/status").await?;
    serde_json::from_str(&body).map_err(io::Error::other)
}

/// The values of metrics, by the beginnings of their lines up to the value; 0 for those that are not
/// there.
pub(crate) async fn metrics<const N: usize>(admin: &str, names: [&str; N]) -> io::Result<[u64; N]> {
    let (_, body) = local::get(admin, "/metrics").await?;
    Ok(names.map(|name| {
        let value = body.lines().find_map(|line| {
            let rest = line.strip_prefix(name)?.strip_prefix(' ')?;
            rest.parse::<f64>().ok()
        });
        value.unwrap_or(0.0) as u64
    }))
}

async fn keep<R: tokio::io::AsyncRead + Unpin>(log: Log, from: BufReader<R>, pid: u32) {
    let mut lines = from.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut log = log.borrow_mut();
        if log.len() == LOG_MAX {
            log.pop_front();
        }
        log.push_back(format!("[{pid}] {line}"));
    }
}
