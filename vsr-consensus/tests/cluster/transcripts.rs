//! Runs the transcripts in `tests/transcripts` and compares what happens with what is written there.
//!
//! A transcript is a story: lines that begin with `>` are commands, indented lines below them are what
//! the cluster did. `VSR_TRANSCRIPTS=write cargo test -p vsr-consensus --test cluster` writes the
//! answers anew; the difference is then read by a person. The commands:
//!
//! | command | does |
//! | --- | --- |
//! | `cluster N [pipeline=4] [sessions=2] [slots=16] [chain=off] [op-max=9]` | blank replicas |
//! | `init` | forms the cluster |
//! | `register c1 c2` | opens sessions, everything delivered |
//! | `request c1 "add 5" [to R1]` | puts a request on its way |
//! | `retry c1 [to R1]`, `query c1 "total" [to R1]` | the same for a repetition, a read |
//! | `deliver R0->R1 [first N]` | hands over what is on a link now, then the deadline; `*` is any |
//! | `drop`, `twice`, `reverse R0->R1` | loses, doubles, turns round what is on a link |
//! | `run`, `tick 10ms`, `pass 100ms` | everything now; time without delivery; time with it |
//! | `cut`, `mend R0-R1` (or `R0->R1`), `full`, `free R0->R1` | links that lose, or have no room |
//! | `hand-over R0 R2` | an operator's order to R0: let R2 lead |
//! | `until R1 leads` | lets time go by, everything delivered, until it is so |
//! | `stop`, `resume R1`, `flip R1` | a replica that does nothing; a bit that flips in its state |
//! | `status`, `queue`, `told c1`, `sessions R0`, `count R0 name` | shows |
//! | `quietly ...` | a command whose events are not shown |

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use vsr_types::message::{HandOver, PeerStatus};
use vsr_types::{Header, Nonce};

use crate::support::{Answer, Cluster, Node, describe, short};

struct Player {
    cluster: Cluster,
}

fn node(text: &str) -> Option<Node> {
    if text == "tool" {
        return Some(Node::Tool);
    }
    let (kind, number) = text.split_at(1);
    match (kind, number.parse()) {
        ("R", Ok(index)) => Some(Node::Replica(index)),
        ("c", Ok(index)) => Some(Node::Client(index)),
        _ if text == "*" => None,
        _ => panic!("{text} is no node: R0, c1 or *"),
    }
}

fn replica(text: &str) -> u8 {
    match node(text) {
        Some(Node::Replica(index)) => index,
        _ => panic!("{text} is no replica"),
    }
}

fn client(text: &str) -> u8 {
    match node(text) {
        Some(Node::Client(index)) => index,
        _ => panic!("{text} is no client"),
    }
}

fn millis(text: &str) -> Duration {
    let number = text.strip_suffix("ms").expect("a time such as 10ms");
    Duration::from_millis(number.parse().expect("a number of milliseconds"))
}

/// Splits a command into words; what stands in quotes is one.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (i, part) in line.split('"').enumerate() {
        if i % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

impl Player {
    fn new() -> Self {
        Self {
            cluster: Cluster::new(1, |_| {}),
        }
    }

    /// Does one command and returns what is to be written below it.
    fn play(&mut self, line: &str) -> Vec<String> {
        let words = words(line);
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        let quietly = words[0] == "quietly";
        if quietly {
            words.remove(0);
        }
        self.cluster.show = !quietly;
        self.cluster.trace.clear();
        let shown = self.command(words[0], &words[1..]);
        let mut lines = std::mem::take(&mut self.cluster.trace);
        lines.extend(shown);
        if lines.is_empty() && !quietly && matches!(words[0], "deliver" | "run" | "tick" | "pass") {
            lines.push("nothing".to_owned());
        }
        lines
    }

    fn command(&mut self, name: &str, words: &[&str]) -> Vec<String> {
        match name {
            "cluster" => self.make(words),
            "init" => self.cluster.init(),
            "register" => words.iter().for_each(|c| self.cluster.register(client(c))),
            "request" | "retry" | "query" => self.ask(name, words),
            "deliver" => self.deliver(words),
            "drop" | "twice" | "reverse" => self.change(name, words[0]),
            "run" => self.cluster.run(),
            "tick" => self.cluster.tick(millis(words[0])),
            "pass" => self.cluster.pass(millis(words[0])),
            "cut" | "mend" => self.cut(words[0], name == "cut"),
            "full" | "free" => {
                for (from, to) in self.links(words[0]) {
                    self.cluster.net.link(from, to).full = name == "full";
                }
            }
            "hand-over" => self.hand_over(replica(words[0]), replica(words[1])),
            "until" => self.until_leads(replica(words[0])),
            "stop" | "resume" => {
                let place = usize::from(replica(words[0]));
                self.cluster.stopped[place] = name == "stop";
            }
            "flip" => {
                let place = usize::from(replica(words[0]));
                self.cluster.replicas[place].machine().flip.set(true);
            }
            _ => return self.show(name, words),
        }
        Vec::new()
    }

    fn make(&mut self, words: &[&str]) {
        let n = words[0].parse().expect("how many replicas");
        self.cluster = Cluster::new(n, |settings| {
            for word in &words[1..] {
                let (key, value) = word.split_once('=').expect("key=value");
                let number = || value.parse().expect("a number");
                match key {
                    "pipeline" => settings.pipeline = number(),
                    "sessions" => settings.sessions = number(),
                    "slots" => settings.journal_slots = number(),
                    "op-max" => settings.op_max = number() as u64,
                    "chain" => settings.chain = value != "off",
                    _ => panic!("no setting {key}"),
                }
            }
        });
        self.cluster.show = true;
    }

    fn hand_over(&mut self, from: u8, target: u8) {
        let mut header = Header::new(HandOver {
            nonce: Nonce::new(1),
            target: u64::from(target),
            reserved: [0; 2],
        });
        header.set_cluster(self.cluster.id());
        header.seal(&[]);
        let bytes = bytemuck::bytes_of(&header).to_vec();
        self.cluster.put(Node::Tool, from, bytes);
    }

    fn until_leads(&mut self, leader: u8) {
        let came_to_be = self.cluster.wait(Duration::from_secs(5), |cluster| {
            let report = cluster.replicas[usize::from(leader)].report();
            report.status == PeerStatus::Normal && report.primary.raw() == leader
        });
        assert!(came_to_be, "R{leader} never leads");
    }

    fn ask(&mut self, name: &str, words: &[&str]) {
        let at = words.iter().position(|&word| word == "to");
        let to = at.map_or(0, |at| replica(words[at + 1]));
        let from = client(words[0]);
        match name {
            "request" => self.cluster.request_at(from, to, words[1]),
            "retry" => self.cluster.retry_at(from, to),
            _ => self.cluster.query_at(from, to, words[1]),
        }
    }

    fn links(&self, text: &str) -> Vec<(Node, Node)> {
        let (from, to) = text.split_once("->").expect("a link such as R0->R1");
        self.cluster.net.between(node(from), node(to))
    }

    /// Hands over what is on the links now, all of it before the receivers' deadlines.
    fn deliver(&mut self, words: &[&str]) {
        let most = match words {
            [_, "first", count] => count.parse().expect("how many"),
            _ => usize::MAX,
        };
        let links = self.links(words[0]);
        let mut ready = Vec::new();
        for &(from, to) in &links {
            let queue = &mut self.cluster.net.link(from, to).queue;
            let count = queue.len().min(most);
            ready.extend(queue.drain(..count).map(|packet| (from, to, packet)));
        }
        for (from, to, packet) in &ready {
            self.cluster.arrive(*from, *to, &packet.bytes);
        }
        for i in 0..self.cluster.n() {
            if ready.iter().any(|(_, to, _)| *to == Node::Replica(i)) {
                self.cluster.settle(i);
            }
        }
    }

    fn change(&mut self, name: &str, links: &str) {
        for (from, to) in self.links(links) {
            let queue = &mut self.cluster.net.link(from, to).queue;
            match name {
                "drop" => queue.clear(),
                "twice" => queue.extend(queue.clone()),
                _ => queue.make_contiguous().reverse(),
            }
        }
    }

    fn cut(&mut self, text: &str, cut: bool) {
        if let Some((from, to)) = text.split_once("->") {
            let (from, to) = (node(from).expect("a node"), node(to).expect("a node"));
            self.cluster.net.link(from, to).cut = cut;
        } else {
            let (a, b) = text.split_once('-').expect("two nodes such as R0-R1");
            let (a, b) = (node(a).expect("a node"), node(b).expect("a node"));
            self.cluster.net.set_cut(a, b, cut);
        }
    }

    fn show(&self, name: &str, words: &[&str]) -> Vec<String> {
        match name {
            "status" => (0..self.cluster.n()).map(|i| self.status(i)).collect(),
            "queue" => self.queue(),
            "told" => words.iter().map(|c| self.told(client(c))).collect(),
            "sessions" => self.sessions(replica(words[0])),
            "count" => {
                let counters = self.cluster.replicas[usize::from(replica(words[0]))].counters();
                let mut all = counters.events().chain(counters.drops_by_reason());
                let (name, count) = all.find(|(name, _)| *name == words[1]).expect("a counter");
                vec![format!("{name} {count}")]
            }
            _ => panic!("there is no command {name}"),
        }
    }

    fn status(&self, index: u8) -> String {
        let report = self.cluster.replicas[usize::from(index)].report();
        let status = match report.status {
            PeerStatus::Blank => return format!("R{index} blank"),
            PeerStatus::Normal if report.primary.raw() == index => "primary",
            PeerStatus::Normal => "backup ",
            PeerStatus::ViewChange => "between views",
            other => return format!("R{index} {other:?}: {:?}", report.halted),
        };
        let (op, commit, applied) = (report.op.raw(), report.commit.raw(), report.applied.raw());
        let digest = short(self.cluster.digest(index));
        let mut line =
            format!("R{index} {status} op {op} commit {commit} applied {applied} state {digest}");
        if report.view.raw() > 0 {
            // Writing to a string cannot fail.
            let _: std::fmt::Result = write!(line, " view {}", report.view.raw());
        }
        if report.primary.raw() == index && report.status == PeerStatus::Normal {
            let hops: Vec<String> = report.route.hops().map(|hop| hop.to_string()).collect();
            // Writing to a string cannot fail.
            let _: std::fmt::Result = write!(line, " chain [{}]", hops.join(" "));
            for peer in (0..report.replicas).filter(|&p| report.peers[usize::from(p)].suspect) {
                let _: std::fmt::Result = write!(line, " suspect R{peer}");
            }
        }
        line
    }

    fn queue(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (&(from, to), link) in &self.cluster.net.links {
            for packet in &link.queue {
                let frame = vsr_types::Frame::parse(&packet.bytes, self.cluster.id());
                let frame = frame.expect("what is under way is sound");
                lines.push(format!("{from} -> {to} {}", describe(&frame)));
            }
        }
        lines
    }

    fn told(&self, index: u8) -> String {
        let client = &self.cluster.clients[usize::from(index)];
        let waiting = if client.waiting || client.reading {
            ", waits"
        } else {
            ""
        };
        match client.told() {
            Some(Answer::Reject { reason, .. }) => {
                format!("c{index} was refused: {reason:?}{waiting}")
            }
            Some(Answer::Reply { request: 0, op, .. }) => {
                format!("c{index} has session {op}{waiting}")
            }
            Some(_) => format!("c{index} was told \"{}\"{waiting}", client.text()),
            None => format!("c{index} was told nothing{waiting}"),
        }
    }

    fn sessions(&self, index: u8) -> Vec<String> {
        let replica = &self.cluster.replicas[usize::from(index)];
        let name = |id| {
            self.cluster
                .clients
                .iter()
                .position(|client| client.id == id)
        };
        replica
            .sessions()
            .map(|session| {
                let name = name(session.client).expect("a client of the test");
                let (request, op) = (session.request.raw(), session.op.raw());
                format!(
                    "c{name}: session {}, last request {request} at op {op}",
                    session.session.raw()
                )
            })
            .collect()
    }
}

/// The transcript with its answers as they are.
fn replay(text: &str) -> String {
    let mut player = Player::new();
    let mut out = String::new();
    for line in text.lines() {
        if line.starts_with("  ") {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        if let Some(command) = line.strip_prefix("> ") {
            for answer in player.play(command) {
                out.push_str("  ");
                out.push_str(&answer);
                out.push('\n');
            }
        }
    }
    out
}

#[test]
fn transcripts_tell_what_happens() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let write = std::env::var("VSR_TRANSCRIPTS").is_ok_and(|value| value == "write");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the transcripts' folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    assert!(files.len() >= 23, "the transcripts are there");
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a transcript");
        let played = replay(&text);
        if write {
            std::fs::write(&file, played).expect("a transcript can be written");
            continue;
        }
        let differs = text
            .lines()
            .zip(played.lines())
            .position(|(told, is)| told != is);
        let line = differs.unwrap_or(text.lines().count().min(played.lines().count()));
        assert!(
            text == played,
            "{}:{} tells another story:\n  told: {:?}\n  is:   {:?}\n\
             VSR_TRANSCRIPTS=write writes it anew",
            file.display(),
            line + 1,
            text.lines().nth(line),
            played.lines().nth(line),
        );
    }
}
