//! A Redis client that keeps its books: what was sent when, what came back, and what can be said of it.
//!
//! There are three outcomes. *Answered*. *Refused*: it was certainly not executed. *Unknown*: it may
//! have been executed, or may still be. A checker that took an unknown for a refusal would cry wolf; one
//! that took a refusal for an unknown would overlook lost writes, but only where nobody was promised
//! anything.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};
use vsr_net::Random;

/// How long the node waits for the cluster before it tells its Redis clients that it is down.
pub(crate) const NODE_PATIENCE: Duration = Duration::from_secs(2);
/// How long a client waits for anything: longer than the node.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_millis(500);

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Null,
    Array(Vec<Self>),
}

impl Reply {
    pub(crate) fn is_ok(&self) -> bool {
        matches!(self, Self::Simple(text) if text == "OK")
    }

    /// The number in an integer, or in a value; an absent value is 0.
    pub(crate) fn number(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Bulk(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
            Self::Null => Some(0),
            _ => None,
        }
    }
}

/// Takes one reply off the front of `bytes`: the reply and its size, or none while it is not whole.
fn parse(bytes: &[u8]) -> io::Result<Option<(Reply, usize)>> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "no RESP reply");
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return Ok(None);
    };
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| invalid())?;
    let (kind, rest) = line.split_at_checked(1).ok_or_else(invalid)?;
    let size = end + 2;
    let number = || rest.parse::<i64>().map_err(|_| invalid());
    let reply = match kind {
        "+" => Reply::Simple(rest.to_owned()),
        "-" => Reply::Error(rest.to_owned()),
        ":" => Reply::Integer(number()?),
        "_" => Reply::Null,
        "$" | "*" if rest == "-1" => Reply::Null,
        "$" => {
            let length = usize::try_from(number()?).map_err(|_| invalid())?;
            let Some(body) = bytes.get(size..size + length + 2) else {
                return Ok(None);
            };
            return Ok(Some((
                Reply::Bulk(body[..length].to_vec()),
                size + length + 2,
            )));
        }
        "*" => {
            let mut at = size;
            let mut items = Vec::new();
            for _ in 0..number()? {
                let Some((item, size)) = parse(&bytes[at..])? else {
                    return Ok(None);
                };
                items.push(item);
                at += size;
            }
            return Ok(Some((Reply::Array(items), at)));
        }
        _ => return Err(invalid()),
    };
    Ok(Some((reply, size)))
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    at: usize,
}

impl Wire {
    pub(crate) async fn connect(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
            at: 0,
        })
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    pub(crate) async fn reply(&mut self) -> io::Result<Reply> {
        loop {
            if let Some((reply, size)) = parse(&self.buffer[self.at..])? {
                self.at += size;
                return Ok(reply);
            }
            self.buffer.drain(..self.at);
            self.at = 0;
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// One command and its reply.
    pub(crate) async fn call(&mut self, command: &Command) -> io::Result<Reply> {
        let mut bytes = Vec::new();
        command.encode(&mut bytes);
        self.send(&bytes).await?;
        self.reply().await
    }
}

/// A command in words.
#[derive(Clone, Debug)]
pub(crate) struct Command(Vec<Vec<u8>>);

/// Makes a command out of its words.
pub(crate) fn command<W: AsRef<[u8]>>(words: &[W]) -> Command {
    Command(words.iter().map(|word| word.as_ref().to_vec()).collect())
}

impl Command {
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(format!("*{}\r\n", self.0.len()).as_bytes());
        for word in &self.0 {
            into.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            into.extend_from_slice(word);
            into.extend_from_slice(b"\r\n");
        }
    }
}

/// What is known of a command that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The machine's answer, and when it had arrived (nanoseconds of the run).
    Answered(Reply, u64),
    /// It was not and will not be executed.
    Refused,
    /// Nobody can say.
    Unknown,
}

/// How often what came about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) answered: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    /// The errors, by their first word.
    pub(crate) errors: BTreeMap<String, u64>,
}

impl Tally {
    pub(crate) fn all(&self) -> u64 {
        self.answered + self.refused + self.unknown
    }

    pub(crate) fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Answered(..) => self.answered += 1,
            Outcome::Refused => self.refused += 1,
            Outcome::Unknown => self.unknown += 1,
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.refused += other.refused;
        self.unknown += other.unknown;
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
    }

    pub(crate) fn error(&mut self, text: &str) {
        let word = text.split(' ').next().unwrap_or_default();
        *self.errors.entry(word.to_owned()).or_default() += 1;
    }
}

/// A client that goes on whatever happens: reconnects, and moves on to the next replica.
#[derive(Debug)]
pub(crate) struct Caller {
    addresses: Rc<Vec<String>>,
    at: usize,
    wire: Option<Wire>,
    bytes: Vec<u8>,
    epoch: Instant,
    pub(crate) random: Random,
    pub(crate) tally: Rc<RefCell<Tally>>,
}

impl Caller {
    /// A client of the replicas at `addresses`, beginning with replica `at`. Times count from `epoch`.
    pub(crate) fn new(
        addresses: Rc<Vec<String>>,
        at: usize,
        epoch: Instant,
        seed: u64,
        tally: Rc<RefCell<Tally>>,
    ) -> Self {
        let at = at % addresses.len();
        Self {
            addresses,
            at,
            wire: None,
            bytes: Vec::new(),
            epoch,
            random: Random::new(seed),
            tally,
        }
    }

    /// Nanoseconds since the run began.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).expect("no run lasts 500 years")
    }

    /// Sends all `commands` at once and says what became of each.
    pub(crate) async fn batch(&mut self, commands: &[Command]) -> Vec<Outcome> {
        let began = Instant::now();
        let mut outcomes = Vec::with_capacity(commands.len());
        let deadline = began + PATIENCE;
        if self.wire.is_none() {
            let connect = Wire::connect(&self.addresses[self.at]);
            match timeout_at(began + CONNECT, connect).await {
                Ok(Ok(wire)) => self.wire = Some(wire),
                // Nothing was sent.
                Ok(Err(_)) | Err(_) => {
                    outcomes.resize(commands.len(), Outcome::Refused);
                    self.tally.borrow_mut().error("(no-connection)");
                }
            }
        }
        if let Some(mut wire) = self.wire.take() {
            self.bytes.clear();
            for command in commands {
                command.encode(&mut self.bytes);
            }
            let exchange = self.exchange(&mut wire, commands.len(), &mut outcomes, began);
            match timeout_at(deadline, exchange).await {
                Ok(Ok(())) => self.wire = Some(wire),
                Ok(Err(_)) => self.tally.borrow_mut().error("(connection-lost)"),
                Err(_) => self.tally.borrow_mut().error("(no-answer-in-time)"),
            }
            outcomes.resize(commands.len(), Outcome::Unknown);
        }
        let is_answered = |outcome: &Outcome| matches!(outcome, Outcome::Answered(..));
        if !outcomes.iter().all(is_answered) {
            self.move_on().await;
        }
        outcomes
    }

    async fn exchange(
        &self,
        wire: &mut Wire,
        count: usize,
        outcomes: &mut Vec<Outcome>,
        began: Instant,
    ) -> io::Result<()> {
        wire.send(&self.bytes).await?;
        for _ in 0..count {
            let outcome = match wire.reply().await? {
                Reply::Error(text) => {
                    self.tally.borrow_mut().error(&text);
                    refused_or_unknown(&text, began.elapsed())
                }
                reply => Outcome::Answered(reply, self.now()),
            };
            outcomes.push(outcome);
        }
        Ok(())
    }

    /// Whoever was told to go away comes back a little later, and to somebody else.
    async fn move_on(&mut self) {
        self.wire = None;
        self.at = (self.at + 1) % self.addresses.len();
        sleep(Duration::from_millis(5 + self.random.below(20))).await;
    }

    /// Tries `command` until it is answered. Only for what may be executed more than once.
    pub(crate) async fn insist(&mut self, command: &Command, within: Duration) -> Option<Reply> {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if let [Outcome::Answered(reply, _)] =
                self.batch(std::slice::from_ref(command)).await.as_slice()
            {
                return Some(reply.clone());
            }
        }
        None
    }
}

/// What an error says about the fate of its command, by the gateway's own words: a command that fails
/// before the node's patience has run out was never sent to the cluster.
fn refused_or_unknown(text: &str, after: Duration) -> Outcome {
    let word = text.split(' ').next().unwrap_or_default();
    match word {
        "CLUSTERDOWN" | "LOADING" | "BUSY"
            if after < NODE_PATIENCE * 3 / 4 && !text.contains("stopped accepting") =>
        {
            Outcome::Refused
        }
        "ERR" | "EXECABORT" | "NOAUTH" => Outcome::Refused,
        _ => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_taken_whole_or_not_at_all() {
        let text = b"*3\r\n$2\r\nab\r\n:-7\r\n*-1\r\n+OK\r\n";
        for cut in 0..22 {
            assert_eq!(parse(&text[..cut]).unwrap(), None, "{cut}");
        }
        let items = vec![Reply::Bulk(b"ab".to_vec()), Reply::Integer(-7), Reply::Null];
        assert_eq!(parse(text).unwrap(), Some((Reply::Array(items), 22)));
        assert_eq!(
            parse(&text[22..]).unwrap(),
            Some((Reply::Simple("OK".into()), 5))
        );
        assert!(parse(b"hello\r\n").is_err());
    }

    #[test]
    fn an_error_after_the_node_has_waited_leaves_the_fate_of_a_command_open() {
        let (early, late) = (Duration::from_millis(3), NODE_PATIENCE);
        assert_eq!(refused_or_unknown("LOADING x", early), Outcome::Refused);
        assert_eq!(refused_or_unknown("LOADING x", late), Outcome::Unknown);
        assert_eq!(refused_or_unknown("CLUSTERDOWN x", late), Outcome::Unknown);
        assert_eq!(refused_or_unknown("UNKNOWN x", early), Outcome::Unknown);
        let halted = "CLUSTERDOWN The cluster has stopped accepting operations";
        assert_eq!(refused_or_unknown(halted, early), Outcome::Unknown);
    }
}
