//! The memory plan is the truth (N20): a counting allocator looks at everything that a node asks for
//! from its first line to its open ports, and the sum is that of the plan, whatever the configuration.
//!
//! What comes on top is named and small: the node's own tasks, its configuration with the words it was
//! given in, the runtime's bookkeeping, and, in the test, the runtime itself.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use vsr_node::local::free_peers;
use vsr_node::plan::Plan;
use vsr_node::{Config, Node};

/// What no pool holds may take so much: 58 KiB when this was written.
const BESIDE: i64 = 96 << 10;

/// Around the table of the documentation.
const BEGIN: &str = "<!-- memory -->";
const END: &str = "<!-- /memory -->";

/// Small sizes, so that nothing can hide behind large ones.
const SMALL: [(&str, &str); 9] = [
    ("resp", "127.0.0.1:0"),
    ("admin", "127.0.0.1:0"),
    ("memory", "4MiB"),
    ("journal-slots", "128"),
    ("journal-size", "4MiB"),
    ("sessions", "16"),
    ("reply-size", "2MiB"),
    ("clients-max", "100"),
    ("resp-buffers", "16MiB"),
];

fn config(replicas: usize, settings: &[(&str, &str)]) -> Config {
    let peers = free_peers(replicas).expect("free ports").join(",");
    let mut config = Config::new("plan", &peers, 0).expect("valid");
    for (name, value) in SMALL.iter().chain(settings) {
        config = config.with(name, value).expect("valid");
    }
    config
}

/// The bytes that a node has allocated when its ports are open, and what its plan says.
fn start(config: &Config) -> (i64, usize) {
    let planned = Rc::new(RefCell::new(None));
    let mut kept = None;
    let allocated = allocation_counter::measure(|| {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let local = LocalSet::new();
        let (tell, told) = oneshot::channel();
        let node = Node::builder(config.clone()).on_start(move |started| {
            tell.send(started.plan.clone()).expect("somebody waits");
        });
        let plan = runtime.block_on(local.run_until(async {
            let node = tokio::task::spawn_local(node.serve_key_values());
            let within = tokio::time::timeout(Duration::from_secs(20), told);
            let plan = within.await.expect("it starts").expect("it starts");
            assert!(!node.is_finished());
            plan
        }));
        planned.replace(Some(plan));
        // Whatever were dropped now would not be counted.
        kept = Some((local, runtime));
    });
    drop(kept);
    let plan: Plan = planned.take().expect("it was told");
    assert_eq!(plan, Plan::of_key_values(config), "it is known before");
    (allocated.bytes_current, plan.bytes_at_start())
}

/// Starts a node with `settings` and compares.
fn compare(replicas: usize, settings: &[(&str, &str)]) -> i64 {
    let config = config(replicas, settings);
    let (allocated, planned) = start(&config);
    let beside = allocated - planned as i64;
    assert!(
        (0..BESIDE).contains(&beside),
        "{replicas} replicas, {settings:?}: {planned} bytes are planned, {allocated} were allocated"
    );
    beside
}

#[test]
fn what_is_allocated_at_the_start_is_what_was_planned() {
    // What a process allocates once, whatever is started in it.
    start(&config(1, &[]));
    // Each setting once: a pool that follows it wrongly, or not at all, shows itself.
    let cases: [(usize, &[(&str, &str)]); 14] = [
        (3, &[]),
        (1, &[]),
        (7, &[]),
        (3, &[("memory", "9MiB")]),
        (3, &[("journal-slots", "5000")]),
        (3, &[("journal-size", "7MiB")]),
        (3, &[("sessions", "9000")]),
        (3, &[("reply-size", "5MiB")]),
        (3, &[("batch-max", "64KiB")]),
        (3, &[("journal-slots", "1024"), ("pipeline", "256")]),
        (3, &[("resp-lanes", "7")]),
        (3, &[("clients-max", "20000")]),
        (3, &[("connections-max", "70")]),
        (3, &[("resp-buffers", "40MiB")]),
    ];
    let beside: Vec<i64> = cases
        .iter()
        .map(|(n, settings)| compare(*n, settings))
        .collect();
    // What is beside the plan does not follow any setting, or it would be a pool.
    let spread = beside.iter().max().zip(beside.iter().min());
    let spread = spread.map(|(most, least)| most - least).expect("some");
    assert!(spread < 1 << 10, "{beside:?}");
}

#[test]
fn touching_it_allocates_nothing_more() {
    start(&config(1, &[]));
    let lazily = compare(3, &[("no-prefault", "true")]);
    let at_once = compare(3, &[]);
    assert!((lazily - at_once).abs() < 2 << 10, "{lazily} and {at_once}");
}

/// `VSR_LIMITS=write cargo test -p vsr-node --test plan` rewrites it.
#[test]
fn the_table_of_the_documentation_is_the_plan_of_the_defaults() {
    let config = Config::new("c", "a:7000,b:7000,c:7000", 0)
        .and_then(|config| config.with("resp", "127.0.0.1:6379"))
        .and_then(|config| config.with("admin", "127.0.0.1:9100"))
        .expect("valid");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/limits.md");
    let text = std::fs::read_to_string(&path).expect("it is there");
    let (before, rest) = text.split_once(BEGIN).expect("the table has a beginning");
    let (table, after) = rest.split_once(END).expect("the table has an end");
    let right = format!("\n\n{}\n", Plan::of_key_values(&config).markdown());
    if std::env::var_os("VSR_LIMITS").is_some_and(|value| value == "write") {
        let text = format!("{before}{BEGIN}{right}{END}{after}");
        std::fs::write(&path, text).expect("written");
        return;
    }
    assert!(
        table == right,
        "docs/limits.md has another plan: VSR_LIMITS=write cargo test -p vsr-node --test plan"
    );
}
