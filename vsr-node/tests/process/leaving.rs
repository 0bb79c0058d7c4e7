//! Processes that are asked to leave: nobody who works with the cluster loses anything by it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use vsr_net::{Client, ClientOptions};
use vsr_node::inspect::Status;
use vsr_node::kv::{Opcode, OperationBuilder};
use vsr_node::local::{self, Member};

use super::cluster::{call, ended, start, until_answered, until_said};
use super::{run, signal};

/// Three replicas that nothing but a signal will end.
struct Three {
    members: Vec<Member>,
    children: Vec<Option<Child>>,
}

impl Three {
    async fn form() -> Self {
        let members = local::free_members(3).expect("free ports");
        let mut three = Self {
            children: members.iter().map(|_| None).collect(),
            members,
        };
        for replica in 0..3 {
            three.start(replica);
            until_answered(&three.members[replica], "/livez").await;
        }
        let peers = three.peers();
        let formed = vsr_net::init::form(&peers, Some("test"), Duration::from_secs(20)).await;
        formed.unwrap_or_else(|error| panic!("{error}"));
        for member in &three.members {
            until_answered(member, "/readyz").await;
        }
        three
    }

    fn peers(&self) -> Vec<&str> {
        self.members.iter().map(|m| m.native.as_str()).collect()
    }

    fn start(&mut self, replica: usize) {
        let (peers, index) = (self.peers().join(","), replica.to_string());
        let more = ["--peers", &peers, "--replica", &index];
        let patient = ["--drain-timeout", "1m", "--client-timeout", "1m"];
        // Long: whoever waits for it instead of being told would be noticed, and a busy machine is not
        // taken for a dead primary.
        let patient = [&patient[..], &["--view-timeout", "5s"]].concat();
        let child = start(&self.members[replica], &[&more[..], &patient].concat());
        self.children[replica] = Some(child);
    }

    async fn status(&self, replica: usize) -> Status {
        let page = local::get(&self.members[replica].admin, "/status").await;
        let (_, body) = page.expect("an answer");
        serde_json::from_str(&body).expect("a status")
    }

    /// Ends a replica with SIGTERM; returns what it logged.
    async fn leave(&mut self, replica: usize) -> String {
        let child = self.children[replica].take().expect("running");
        signal(&child, "TERM").await;
        let (status, _, err) = ended(child).await;
        assert_eq!(status.code(), Some(0), "{err}");
        err
    }
}

/// What clients have counted while replicas come and go.
#[derive(Default)]
struct Work {
    stop: Cell<bool>,
    /// Increments through the native client, which retries until it knows.
    native: Cell<u64>,
    /// Increments through RESP: acknowledged, and with an unknown outcome.
    resp: Cell<(u64, u64)>,
    mistakes: RefCell<Vec<String>>,
}

impl Work {
    async fn native(self: Rc<Self>, client: Client) {
        let mut operation = OperationBuilder::new(vec![0; 256]);
        operation.push(Opcode::Incr, &[b"native"]).expect("small");
        while !self.stop.get() {
            match client.execute(operation.operation()).await {
                Ok(_) => self.native.set(self.native.get() + 1),
                Err(error) => self.mistakes.borrow_mut().push(error.to_string()),
            }
        }
    }

    async fn resp(self: Rc<Self>, members: Vec<Member>, first: usize) {
        let mut replica = first;
        while !self.stop.get() {
            if let Ok(mut stream) = TcpStream::connect(&members[replica].resp).await {
                self.increments(&mut stream).await;
            }
            tokio::task::yield_now().await;
            replica = (replica + 1) % members.len();
        }
    }

    /// One after the other, until the connection ends.
    async fn increments(&self, stream: &mut TcpStream) {
        while !self.stop.get() {
            if stream.write_all(b"INCR resp\r\n").await.is_err() {
                return;
            }
            let mut reply = Vec::new();
            while !reply.ends_with(b"\r\n") {
                let mut byte = [0];
                if stream.read_exact(&mut byte).await.is_err() {
                    let (acknowledged, unknown) = self.resp.get();
                    self.resp.set((acknowledged, unknown + 1));
                    return;
                }
                reply.push(byte[0]);
            }
            let (acknowledged, unknown) = self.resp.get();
            match reply[0] {
                b':' => self.resp.set((acknowledged + 1, unknown)),
                // A replica that recovers says so, and executes nothing.
                _ if reply.starts_with(b"-LOADING") => return,
                _ => {
                    let text = String::from_utf8_lossy(&reply).into_owned();
                    self.mistakes.borrow_mut().push(text);
                    return;
                }
            }
        }
    }

    async fn begin(self: &Rc<Self>, three: &Three) -> Vec<JoinHandle<()>> {
        let options = ClientOptions {
            cluster_name: Some("test".into()),
            sessions: 2,
            timeout: Duration::from_secs(60),
            ..ClientOptions::default()
        };
        let client = Client::connect(&three.peers(), options).await;
        let client = client.expect("a whole cluster");
        let mut tasks: Vec<_> = (0..2)
            .map(|_| spawn_local(Rc::clone(self).native(client.clone())))
            .collect();
        for first in 0..3 {
            let resp = Rc::clone(self).resp(three.members.clone(), first);
            tasks.push(spawn_local(resp));
        }
        tasks
    }

    /// Waits until so much more was done.
    async fn goes_on(&self) {
        let (native, (resp, _)) = (self.native.get(), self.resp.get());
        while self.native.get() < native + 20 || self.resp.get().0 < resp + 20 {
            tokio::task::yield_now().await; // the test's own deadline bounds this
        }
    }
}

async fn counter(member: &Member, key: &str) -> u64 {
    let mut stream = TcpStream::connect(&member.resp).await.expect("a RESP port");
    let command = format!("GET {key}\r\n");
    stream.write_all(command.as_bytes()).await.expect("sent");
    let mut lines = BufReader::new(stream).lines();
    lines.next_line().await.expect("a size");
    let number = lines.next_line().await.expect("text").expect("a number");
    number.parse().expect("a number")
}

#[test]
fn all_replicas_are_restarted_one_after_the_other_under_load_and_nothing_is_lost() {
    run(async {
        let in_one_thread = async {
            let mut three = Three::form().await;
            let work = Rc::new(Work::default());
            let tasks = work.begin(&three).await;
            work.goes_on().await;
            let mut handed_over = 0;
            for replica in 0..3 {
                let leads = three.status(replica).await.role == "primary";
                let said = three.leave(replica).await;
                assert_eq!(said.contains("handed over"), leads, "R{replica}: {said}");
                handed_over += u32::from(leads);
                work.goes_on().await;
                three.start(replica);
                until_answered(&three.members[replica], "/readyz").await;
                let status = three.status(replica).await;
                assert!(
                    status.recovered.is_some(),
                    "its memory was gone: {status:?}"
                );
                work.goes_on().await;
            }
            assert!(handed_over > 0, "the first of them led");
            work.stop.set(true);
            for task in tasks {
                task.await.expect("no client panics");
            }
            assert_eq!(*work.mistakes.borrow(), Vec::<String>::new());
            for member in &three.members {
                assert_eq!(
                    counter(member, "native").await,
                    work.native.get(),
                    "exactly once"
                );
                let (acknowledged, unknown) = work.resp.get();
                let found = counter(member, "resp").await;
                let possible = acknowledged..=acknowledged + unknown;
                assert!(possible.contains(&found), "{found} is not in {possible:?}");
            }
        };
        LocalSet::new().run_until(in_one_thread).await;
    });
}

#[test]
fn a_primary_that_is_asked_to_leave_lets_another_lead_before_it_ends() {
    run(async {
        let mut three = Three::form().await;
        call(&three.members[0].resp, &["SET", "a", "1"], "+OK\r\n").await;
        let said = three.leave(0).await;
        assert!(said.contains("handed over"), "{said}");
        let after = three.status(1).await;
        assert_eq!((after.role.as_str(), after.view), ("primary", 1));
        call(&three.members[2].resp, &["GET", "a"], "$1\r\n1\r\n").await;
        // And a backup simply goes: nobody's view changes.
        let said = three.leave(2).await;
        assert!(!said.contains("handed over"), "{said}");
        assert_eq!(three.status(1).await.view, 1);
        // The last one has nobody to hand over to, and does not wait for anybody.
        three.leave(1).await;
    });
}

#[test]
fn a_primary_nobody_can_follow_ends_at_the_second_signal() {
    run(async {
        let mut three = Three::form().await;
        for backup in 1..3 {
            let child = three.children[backup].as_ref().expect("running");
            signal(child, "STOP").await;
        }
        let mut primary = three.children[0].take().expect("running");
        let mut lines = BufReader::new(primary.stderr.take().expect("piped")).lines();
        signal(&primary, "TERM").await;
        until_said(&mut lines, "once more to end at once").await;
        signal(&primary, "TERM").await;
        assert_eq!(primary.wait().await.expect("waited for").code(), Some(1));
    });
}
