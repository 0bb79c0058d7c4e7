//! A cluster whose every link can be hurt: processes, the proxies between them, and questions to both.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use vsr_net::init;
use vsr_node::inspect::Status;
use vsr_node::local;

use crate::process::{self, LOOK_AGAIN, Log, Process, Recipe};
use crate::proxy::{Link, Proxy, Wire};
use crate::resp::NODE_PATIENCE;

/// How long a cluster may take to come up, or to be whole again.
pub(crate) const WHOLE: Duration = Duration::from_secs(30);

/// Where a replica's process stands, as far as we know.
#[derive(Debug)]
enum Place {
    Up(Box<Process>),
    /// We ended it.
    Killed,
    /// It ended by itself.
    Fallen,
}

/// Replicas behind proxies.
#[derive(Debug)]
pub(crate) struct Cluster {
    name: String,
    recipes: Vec<RefCell<Recipe>>,
    native: Vec<Rc<Proxy>>,
    resp: Vec<Rc<Proxy>>,
    places: RefCell<Vec<Place>>,
    /// Replicas that are stopped now: asking them would only cost time.
    frozen: RefCell<BTreeSet<usize>>,
    logs: Vec<Log>,
    /// Processes that ended although nobody asked them to.
    falls: RefCell<Vec<String>>,
}

/// The settings of a cluster that shall see trouble soon: a short journal, little memory.
pub(crate) fn small() -> Vec<(&'static str, String)> {
    vec![
        ("memory", "96MiB".into()),
        // They are started and killed all the time, and few pages of each are ever used.
        ("no-prefault", "on".into()),
        ("journal-size", "32MiB".into()),
        ("journal-slots", "2048".into()),
        ("reply-size", "16MiB".into()),
        ("connections-max", "16".into()),
        ("client-timeout", format!("{}ms", NODE_PATIENCE.as_millis())),
        ("log-level", "info".into()),
    ]
}

impl Cluster {
    /// Starts `replicas` processes behind proxies, forms a cluster of them, and waits until it serves.
    pub(crate) async fn start(
        name: &str,
        replicas: usize,
        settings: &[(&'static str, String)],
        seed: u64,
    ) -> Rc<Self> {
        Self::start_limited(name, replicas, settings, seed, 0).await
    }

    /// As [`Self::start`], with at most `descriptors` open files in every process (0: no limit).
    pub(crate) async fn start_limited(
        name: &str,
        replicas: usize,
        settings: &[(&'static str, String)],
        seed: u64,
        descriptors: u32,
    ) -> Rc<Self> {
        let cluster = Rc::new(Self::blank(name, replicas, settings, seed).await);
        for recipe in &cluster.recipes {
            recipe.borrow_mut().descriptors = (descriptors > 0).then_some(descriptors);
        }
        cluster.form().await;
        cluster
    }

    /// A cluster without proxies, for measurements.
    pub(crate) async fn start_plain(
        name: &str,
        replicas: usize,
        settings: &[(&'static str, String)],
    ) -> Rc<Self> {
        let cluster = Rc::new(Self::blank(name, replicas, settings, 1).await);
        let members = local::free_members(replicas).expect("free ports");
        let peers: Vec<&str> = members.iter().map(|one| one.native.as_str()).collect();
        for (recipe, member) in cluster.recipes.iter().zip(&members) {
            let mut recipe = recipe.borrow_mut();
            recipe.fixed = Some(member.clone());
            recipe.peers = peers.join(",");
        }
        cluster.form().await;
        cluster
    }

    async fn form(&self) {
        for replica in 0..self.replicas() {
            self.revive(replica).await;
        }
        init::form(&self.native_addresses(), Some("harness"), WHOLE)
            .await
            .unwrap_or_else(|error| panic!("no cluster: {error}"));
        self.until_whole().await;
    }

    async fn blank(
        name: &str,
        replicas: usize,
        settings: &[(&'static str, String)],
        seed: u64,
    ) -> Self {
        let (mut native, mut resp) = (Vec::new(), Vec::new());
        for index in 0..replicas as u64 {
            native.push(
                Proxy::start(replicas, seed ^ (index << 8))
                    .await
                    .expect("a port"),
            );
            resp.push(Proxy::start(0, seed ^ (index << 16)).await.expect("a port"));
        }
        let peers: Vec<&str> = native.iter().map(|proxy| proxy.address.as_str()).collect();
        let peers = peers.join(",");
        let settings: Vec<(String, String)> = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        let recipe = |replica| {
            RefCell::new(Recipe {
                replica,
                peers: peers.clone(),
                settings: settings.clone(),
                descriptors: None,
                fixed: None,
            })
        };
        Self {
            name: name.to_owned(),
            recipes: (0..replicas).map(recipe).collect(),
            places: RefCell::new((0..replicas).map(|_| Place::Killed).collect()),
            logs: (0..replicas).map(|_| Log::default()).collect(),
            falls: RefCell::default(),
            frozen: RefCell::default(),
            native,
            resp,
        }
    }

    pub(crate) fn replicas(&self) -> usize {
        self.recipes.len()
    }

    /// Where Redis clients connect.
    pub(crate) fn resp_addresses(&self) -> Rc<Vec<String>> {
        Rc::new(
            self.resp
                .iter()
                .map(|proxy| proxy.address.clone())
                .collect(),
        )
    }

    /// Where native clients connect.
    pub(crate) fn native_addresses(&self) -> Vec<String> {
        self.addresses(&self.native, |fixed| &fixed.native)
    }

    /// Those of the proxies, or of the replicas themselves where they have none in front.
    fn addresses(
        &self,
        proxies: &[Rc<Proxy>],
        of: impl Fn(&local::Member) -> &String,
    ) -> Vec<String> {
        let both = proxies.iter().zip(&self.recipes);
        both.map(|(proxy, recipe)| match &recipe.borrow().fixed {
            Some(fixed) => of(fixed).clone(),
            None => proxy.address.clone(),
        })
        .collect()
    }

    /// The real addresses of a running replica, past all proxies.
    pub(crate) fn direct(&self, replica: usize) -> Option<local::Member> {
        match &self.places.borrow()[replica] {
            Place::Up(process) => Some(process.addresses.clone()),
            Place::Killed | Place::Fallen => None,
        }
    }

    /// The link of Redis clients to a replica.
    pub(crate) fn resp_link(&self, replica: usize) -> &Rc<Link> {
        self.resp[replica].clients()
    }

    /// The link of native clients and tools to a replica.
    pub(crate) fn native_link(&self, replica: usize) -> &Rc<Link> {
        self.native[replica].clients()
    }

    /// The link between two replicas: the one with the higher number dials.
    pub(crate) fn link(&self, a: usize, b: usize) -> &Rc<Link> {
        self.native[a.min(b)].peer(a.max(b))
    }

    /// The direction from one replica to another.
    pub(crate) fn wire(&self, from: usize, to: usize) -> &Rc<Wire> {
        let link = self.link(from, to);
        if from > to { &link.up } else { &link.down }
    }

    /// All links between replicas.
    pub(crate) fn peer_links(&self) -> Vec<Rc<Link>> {
        let pairs = (0..self.replicas()).flat_map(|b| (0..b).map(move |a| (a, b)));
        pairs.map(|(a, b)| Rc::clone(self.link(a, b))).collect()
    }

    /// Takes all faults off all links.
    pub(crate) fn heal(&self) {
        for proxy in self.native.iter().chain(&self.resp) {
            for link in proxy.links() {
                link.heal();
            }
        }
    }

    /// Starts the process of a replica, which must not be there; it comes up empty.
    pub(crate) async fn revive(&self, replica: usize) {
        assert!(
            !matches!(self.places.borrow()[replica], Place::Up(_)),
            "R{replica} runs already"
        );
        let recipe = self.recipes[replica].borrow().clone();
        let process = Process::start(&recipe, &self.logs[replica])
            .await
            .unwrap_or_else(|error| panic!("R{replica} cannot be started: {error}"));
        self.native[replica].aim(&process.addresses.native);
        self.resp[replica].aim(&process.addresses.resp);
        self.places.borrow_mut()[replica] = Place::Up(Box::new(process));
    }

    /// Kills a replica and waits until the kernel says that it is gone. Returns when it was sent.
    pub(crate) async fn kill(&self, replica: usize) -> (Instant, ExitStatus) {
        self.check_falls();
        let place = std::mem::replace(&mut self.places.borrow_mut()[replica], Place::Killed);
        let Place::Up(mut process) = place else {
            panic!(
                "R{replica} is not there to be killed: {:?}",
                self.falls.borrow()
            );
        };
        process.kill().expect("our own child");
        let at = Instant::now();
        (at, process.gone().await.expect("our own child"))
    }

    /// Asks a replica to leave in an orderly way, and waits until it has.
    pub(crate) async fn dismiss(&self, replica: usize) -> ExitStatus {
        self.check_falls();
        let place = std::mem::replace(&mut self.places.borrow_mut()[replica], Place::Killed);
        let Place::Up(process) = place else {
            panic!("R{replica} is not there: {:?}", self.falls.borrow());
        };
        process::signal(process.pid, "TERM")
            .await
            .expect("our own child");
        let status = timeout(WHOLE, process.gone()).await;
        status.expect("it leaves in time").expect("our own child")
    }

    /// The process id of a running replica.
    pub(crate) fn pid(&self, replica: usize) -> Option<u32> {
        match &self.places.borrow()[replica] {
            Place::Up(process) => Some(process.pid),
            Place::Killed | Place::Fallen => None,
        }
    }

    /// Stops a replica in its tracks, and says whether the kernel has done so.
    pub(crate) async fn freeze(&self, replica: usize) -> bool {
        let Some(pid) = self.pid(replica) else {
            return false;
        };
        self.frozen.borrow_mut().insert(replica);
        process::signal(pid, "STOP").await.expect("our own child");
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            let is_frozen = match &self.places.borrow()[replica] {
                Place::Up(process) => process.is_frozen(),
                Place::Killed | Place::Fallen => return false,
            };
            if is_frozen || Instant::now() > deadline {
                return is_frozen;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Lets a stopped replica go on.
    pub(crate) async fn thaw(&self, replica: usize) {
        if let Some(pid) = self.pid(replica) {
            process::signal(pid, "CONT").await.expect("our own child");
        }
        self.frozen.borrow_mut().remove(&replica);
    }

    /// What a replica says of itself; none when it says nothing.
    pub(crate) async fn status(&self, replica: usize) -> Option<Status> {
        let is_frozen = self.frozen.borrow().contains(&replica);
        let admin = self.direct(replica).filter(|_| !is_frozen)?.admin;
        process::status(&admin).await.ok()
    }

    /// What all replicas say of themselves.
    pub(crate) async fn statuses(&self) -> Vec<Option<Status>> {
        let mut statuses = Vec::new();
        for replica in 0..self.replicas() {
            statuses.push(self.status(replica).await);
        }
        statuses
    }

    /// Numbers of a replica; zeros when it says nothing.
    pub(crate) async fn metrics<const N: usize>(
        &self,
        replica: usize,
        names: [&str; N],
    ) -> [u64; N] {
        match self.direct(replica) {
            Some(address) => {
                let metrics = process::metrics(&address.admin, names).await;
                metrics.unwrap_or([0; N])
            }
            None => [0; N],
        }
    }

    /// Something that the replicas have counted since their last start, all together.
    pub(crate) async fn counted(&self, event: &str) -> u64 {
        let name = format!("vsr_events_total{{event=\"{event}\"}}");
        let mut sum = 0;
        for replica in 0..self.replicas() {
            sum += self.metrics(replica, [name.as_str()]).await[0];
        }
        sum
    }

    /// Who leads, as the replicas of the highest view say: the primary and the view. None while the
    /// primary does not answer, or does not think so itself.
    pub(crate) async fn primary(&self) -> Option<(usize, u64)> {
        let statuses = self.statuses().await;
        let leader = statuses
            .iter()
            .flatten()
            .filter(|status| status.role == "primary")
            .max_by_key(|status| status.view)?;
        Some((usize::from(leader.replica), leader.view))
    }

    /// Waits until `is_so` of what all replicas say.
    pub(crate) async fn until(
        &self,
        what: &str,
        within: Duration,
        is_so: impl Fn(&[Option<Status>]) -> bool,
    ) -> Vec<Option<Status>> {
        let deadline = Instant::now() + within;
        loop {
            let statuses = self.statuses().await;
            if is_so(&statuses) {
                return statuses;
            }
            self.check_falls();
            assert!(
                Instant::now() < deadline,
                "not within {within:?}: {what}\n{}",
                describe(&statuses)
            );
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until every replica takes part, in one view.
    pub(crate) async fn until_whole(&self) {
        self.until("every replica takes part", WHOLE, |statuses| {
            let first = statuses.first().and_then(Option::as_ref);
            statuses.iter().all(|status| {
                let (Some(status), Some(first)) = (status, first) else {
                    return false;
                };
                status.ready && status.view == first.view
            })
        })
        .await;
    }

    /// Waits until every replica has executed everything and their states are the same. The load must
    /// have ended; `nudge` makes a little more, because digests are taken as time goes on in the log.
    pub(crate) async fn until_equal<F: Future<Output = ()>>(&self, mut nudge: impl FnMut() -> F) {
        self.until_whole().await;
        let mut seen: BTreeMap<u64, String> = BTreeMap::new();
        let deadline = Instant::now() + WHOLE;
        loop {
            nudge().await;
            let statuses = self.statuses().await;
            let mut newest = Vec::new();
            for status in statuses.iter().flatten() {
                let digest = &status.digest;
                let known = seen
                    .entry(digest.op)
                    .or_insert_with(|| digest.digest.clone());
                assert_eq!(
                    known, &digest.digest,
                    "R{} has another state at op {}",
                    status.replica, digest.op
                );
                newest.push(digest.op);
            }
            let is_same = |op: &u64| *op > 0 && *op == newest[0];
            if newest.len() == self.replicas() && newest.iter().all(is_same) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "the replicas do not catch up\n{}",
                describe(&statuses)
            );
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Notes processes that have ended by themselves.
    fn look_for_falls(&self) {
        for (replica, place) in self.places.borrow_mut().iter_mut().enumerate() {
            let Place::Up(process) = place else { continue };
            if let Some(status) = process.ended() {
                let text = format!("R{replica} has ended by itself: {status}");
                self.falls.borrow_mut().push(text);
                *place = Place::Fallen;
            }
        }
    }

    /// Panics when a process has ended by itself.
    pub(crate) fn check_falls(&self) {
        self.look_for_falls();
        let falls = self.falls.borrow();
        assert!(falls.is_empty(), "{falls:?}");
    }

    /// Ends everything, and sees it gone.
    pub(crate) async fn end(&self) {
        self.check_falls();
        for replica in 0..self.replicas() {
            let Some(pid) = self.pid(replica) else {
                continue;
            };
            self.kill(replica).await;
            // Reaped: the id means nothing any more, or somebody else.
            let is_ours = fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.contains("vsr-node"));
            assert!(!is_ours, "process {pid} is still there");
        }
    }

    /// Writes all logs to files, and says where.
    fn dump(&self) -> io::Result<String> {
        let folder = std::env::temp_dir().join(format!("vsr-harness-{}", self.name));
        fs::create_dir_all(&folder)?;
        for (replica, log) in self.logs.iter().enumerate() {
            let log: &VecDeque<String> = &log.borrow();
            let lines: Vec<&str> = log.iter().map(String::as_str).collect();
            fs::write(folder.join(format!("r{replica}.log")), lines.join("\n"))?;
        }
        Ok(folder.display().to_string())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.look_for_falls();
            eprintln!("ends: {:?}", self.falls.borrow());
            eprintln!("logs of all replicas: {:?}", self.dump());
            for (replica, log) in self.logs.iter().enumerate() {
                let log = log.borrow();
                for line in log.iter().skip(log.len().saturating_sub(12)) {
                    eprintln!("R{replica} {line}");
                }
            }
        }
    }
}

/// What replicas say of themselves, a line for each.
pub(crate) fn describe(statuses: &[Option<Status>]) -> String {
    let line = |(replica, status): (usize, &Option<Status>)| match status {
        None => format!("R{replica} says nothing\n"),
        Some(status) => format!(
            "R{replica} {} {} view {} primary R{} op {} commit {} applied {} tail {} {}\n",
            status.status,
            status.role,
            status.view,
            status.primary,
            status.op,
            status.commit,
            status.applied,
            status.tail,
            status.reason
        ),
    };
    statuses.iter().enumerate().map(line).collect()
}
