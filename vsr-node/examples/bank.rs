//! Money moves and never vanishes. Run it with: `cargo run --release -p vsr-node --example bank`
#![expect(clippy::print_stdout, reason = "an example shows its result")]
use std::{error::Error, time::Duration};

use vsr_net::{Client, ClientOptions, init};
use vsr_node::simple::{Context, Simple, SimpleMachine};
use vsr_node::{Config, Node, local};

struct Bank([u32; 10]); // the balance of every account

impl Simple for Bank {
    /// `[from, to, amount]`: moves the amount if there is enough; the reply says whether.
    fn apply(&mut self, _: &Context, operation: &[u8]) -> Vec<u8> {
        match *operation {
            [from @ 0..10, to @ 0..10, amount] if self.0[from as usize] >= amount.into() => {
                self.0[from as usize] -= u32::from(amount);
                self.0[to as usize] += u32::from(amount);
                b"moved".into()
            }
            _ => b"refused".into(),
        }
    }
    fn query(&self, _: &Context, _: &[u8]) -> Vec<u8> {
        self.encode()
    }
    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).expect("numbers are JSON")
    }
    fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().map(Self)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let peers = local::free_peers(3)?;
    let node = async |replica| {
        let config = Config::new("bank", &peers.join(","), replica)?;
        let machine = SimpleMachine::new(Bank([1000; 10]));
        Node::builder(config).serve(machine).await?;
        Ok::<(), Box<dyn Error>>(())
    };
    let customers = async {
        init::form(&peers, None, Duration::from_secs(10)).await?;
        let client = Client::connect(&peers, ClientOptions::default()).await?;
        let pay = async |i: u8| client.execute(&[i % 10, i % 7, i]).await;
        for i in 0..200 {
            tokio::try_join!(pay(i), pay(i + 1), pay(i + 2), pay(i + 3))?;
        }
        let bank = Bank::decode(&client.query(&[]).await?.body).ok_or("no bank")?;
        println!("after 800 payments: {:?}", bank.0);
        assert_eq!(bank.0.iter().sum::<u32>(), 10_000, "no money is lost");
        Ok::<(), Box<dyn Error>>(())
    };
    tokio::select! {
        ended = async { tokio::try_join!(node(0), node(1), node(2)) } => ended.map(|_| ()),
        done = customers => done,
    }
}
