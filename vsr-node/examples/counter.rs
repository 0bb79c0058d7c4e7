//! A state machine of your own, replicated: three replicas in one process, and a client.
//!
//! Run it with: `cargo run --release -p vsr-node --example counter`
#![expect(clippy::print_stdout, reason = "an example shows its result")]
use std::{error::Error, time::Duration};

use vsr_net::{Client, ClientOptions, init};
use vsr_node::simple::{Context, Simple, SimpleMachine};
use vsr_node::{Config, Node, local};

#[derive(Default)]
struct Counter(u64);

impl Simple for Counter {
    /// An operation is a number to add; the reply is the sum.
    fn apply(&mut self, _: &Context, operation: &[u8]) -> Vec<u8> {
        let amount = operation.try_into().map_or(0, u64::from_le_bytes);
        self.0 = self.0.wrapping_add(amount);
        self.encode()
    }
    fn query(&self, _: &Context, _: &[u8]) -> Vec<u8> {
        self.encode()
    }
    fn encode(&self) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }
    fn decode(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(u64::from_le_bytes).map(Self)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let peers = local::free_peers(3)?;
    let node = async |replica| {
        let config = Config::new("counter", &peers.join(","), replica)?;
        let machine = SimpleMachine::new(Counter::default());
        Node::builder(config).serve(machine).await?;
        Ok::<(), Box<dyn Error>>(())
    };
    tokio::select! {
        ended = async { tokio::try_join!(node(0), node(1), node(2)) } => ended.map(|_| ()),
        done = count(&peers) => done,
    }
}

async fn count(peers: &[String]) -> Result<(), Box<dyn Error>> {
    let within = Duration::from_secs(10);
    let cluster = init::form(peers, Some("counter"), within).await?.cluster;
    let client = Client::connect(peers, ClientOptions::default()).await?;
    for amount in 1..=100_u64 {
        client.execute(&amount.to_le_bytes()).await?; // exactly once, whatever happens on the way
    }
    let reply = client.query(&[]).await?; // linearizable, and not logged
    let sum = u64::from_le_bytes(reply.body.as_slice().try_into()?);
    println!("cluster {cluster}: 1 + 2 + ... + 100 = {sum}");
    assert_eq!(sum, 5050);
    Ok(())
}
