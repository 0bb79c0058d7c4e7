//! What was planned is what is resident, from the start: a process of its own looks at its size.
#![cfg(target_os = "linux")]

use vsr_journal::Journal;

/// The resident size of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    let kib: usize = kib.expect("a size").parse().expect("a number");
    kib * 1024
}

#[test]
fn a_new_journal_is_resident_before_it_is_used() {
    let (slots, bytes) = (50_000, 64 << 20);
    let before = resident();
    let journal = Journal::new(slots, bytes);
    let grown = resident() - before;
    let planned = Journal::memory(slots, bytes);
    assert_eq!(journal.bytes_used(), 0);
    // Within two percent: the allocator's pages and the test's own come on top.
    let slack = planned / 50;
    assert!(
        grown >= planned - slack && grown <= planned + slack,
        "{grown} bytes for {planned} planned"
    );
}
