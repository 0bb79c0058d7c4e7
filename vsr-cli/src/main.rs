//! Inspect, operate and benchmark a vsr cluster.
fn main() {}
