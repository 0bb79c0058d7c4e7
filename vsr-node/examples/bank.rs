//! Accounts between which money moves and never vanishes: many requests at once, on three replicas in
//! one process. Run it with: `cargo run --release -p vsr-node --example bank`
use std::error::Error;
use std::time::Duration;

use vsr_net::{Client, ClientOptions, init};
use vsr_node::simple::{Context, Simple, SimpleMachine};
use vsr_node::{Config, Node, local};

/// The balance of every account.
struct Bank([u32; 10]);

impl Simple for Bank {
    /// `[from, to, amount]`: moves the amount if there is enough; the reply says whether.
    fn apply(&mut self, _: &Context, operation: &[u8]) -> Vec<u8> {
        let [from @ 0..10, to @ 0..10, amount] = *operation else { return b"malformed".into() };
        let Some(rest) = self.0[usize::from(from)].checked_sub(amount.into()) else {
            return b"not enough".into();
        };
        self.0[usize::from(from)] = rest;
        self.0[usize::from(to)] += u32::from(amount);
        b"moved".into()
    }
    fn query(&self, _: &Context, _: &[u8]) -> Vec<u8> {
        self.encode()
    }
    fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|balance| balance.to_le_bytes()).collect()
    }
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (balances, []) = bytes.as_chunks() else { return None };
        let balances: Vec<u32> = balances.iter().copied().map(u32::from_le_bytes).collect();
        balances.try_into().ok().map(Self)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let peers: Vec<String> = local::free_members(3)?.into_iter().map(|m| m.native).collect();
    let node = async |replica| {
        let config = Config::new("bank", &peers.join(","), replica)?;
        Node::builder(config).serve(SimpleMachine::new(Bank([1000; 10]))).await?;
        Ok::<(), Box<dyn Error>>(())
    };
    let customers = async {
        init::form(&peers, Some("bank"), Duration::from_secs(10)).await?;
        let client = Client::connect(&peers, ClientOptions::default()).await?;
        let pay = async |i: u8| client.execute(&[i % 10, i % 7, i]).await;
        for i in 0..200 {
            tokio::try_join!(pay(i), pay(i + 1), pay(i + 2), pay(i + 3))?;
        }
        let bank = Bank::decode(&client.query(&[]).await?.body).ok_or("no bank")?;
        println!("after 800 payments: {:?}, together {}", bank.0, bank.0.iter().sum::<u32>());
        Ok::<(), Box<dyn Error>>(assert_eq!(bank.0.iter().sum::<u32>(), 10_000))
    };
    tokio::select! {
        ended = async { tokio::try_join!(node(0), node(1), node(2)) } => ended.map(|_| ()),
        done = customers => done,
    }
}
