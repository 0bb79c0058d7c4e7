//! What happens when the memory that connections share runs out: they wait their turn, and everything
//! comes back.

use super::*;
use crate::gateway::memory::BUFFERS_MIN;

const LARGE: usize = 900_000;

fn small_world() -> World {
    World::with(GatewayOptions {
        lanes: 1,
        buffers: BUFFERS_MIN,
        ..GatewayOptions::default()
    })
}

fn set(key: &str, size: usize) -> Vec<u8> {
    let value = "x".repeat(size);
    let key_size = key.len();
    format!("*3\r\n$3\r\nSET\r\n${key_size}\r\n{key}\r\n${size}\r\n{value}\r\n").into_bytes()
}

impl World {
    /// Free blocks of each size, free pages of both kinds.
    fn free(&self) -> (Vec<usize>, usize, usize) {
        self.core(|core| {
            let pools = &core.table.pools;
            let pages = (pools.output.available(), pools.aside.available());
            (core.blocks.free(), pages.0, pages.1)
        })
    }

    /// Lets everybody who was touched see what was granted, as the sockets do.
    fn grant(&self) {
        while self.core(Core::pop_touched).is_some() {}
    }

    /// Everybody reads everything and closes.
    fn close(&self, slots: &[u32]) {
        for slot in slots {
            self.core(|core| core.closed(*slot));
        }
    }
}

#[test]
fn large_commands_wait_in_line_for_a_block_and_all_are_executed() {
    let world = small_world();
    let all = world.free();
    let large_blocks = all.0[2];
    let slots: Vec<u32> = (0..large_blocks + 5).map(|_| world.connect()).collect();
    let command = set("k", LARGE);
    let half = LARGE / 2;
    // Everybody sends the first half; only as many as there are blocks get through.
    let mut unsent: Vec<(u32, &[u8])> = slots
        .iter()
        .map(|slot| (*slot, world.offer(*slot, &command[..half])))
        .collect();
    let through = unsent.iter().filter(|(_, left)| left.is_empty()).count();
    assert_eq!(through, large_blocks);
    let mut order = Vec::new();
    for _ in 0..100 {
        for (slot, left) in &mut unsent {
            world.grant();
            *left = world.offer(*slot, left);
            if left.is_empty() && !order.contains(slot) {
                order.push(*slot);
                assert!(world.offer(*slot, &command[half..]).is_empty());
            }
        }
        world.settle();
    }
    assert_eq!(order, slots, "first come, first served");
    for slot in &slots {
        assert_eq!(world.got(*slot), "+OK\r\n");
    }
    assert!(world.core(|core| core.counters.memory_stalls) > 0);
    assert_eq!(world.free(), all, "everything was given back");
}

#[test]
fn a_connection_that_streams_large_commands_holds_no_block_between_them() {
    let world = small_world();
    let all = world.free();
    let a = world.connect();
    let stream = set("k", 100_000).repeat(20);
    for piece in stream.chunks(7777) {
        assert!(world.offer(a, piece).is_empty() || !world.core(|core| core.interest(a).read));
        world.settle();
        let held = world.core(|core| core.table.at(a).input.capacity());
        let unread = world.core(|core| core.table.at(a).input.is_empty());
        assert!(!unread || held == 0, "nothing is held for nothing");
    }
    assert_eq!(world.got(a), "+OK\r\n".repeat(20));
    assert_eq!(world.free(), all);
}

#[test]
fn small_commands_go_on_while_all_large_blocks_are_taken_and_the_idle_holder_is_closed() {
    let mut world = small_world();
    let large_blocks = world.free().0[2];
    let holders: Vec<u32> = (0..large_blocks).map(|_| world.connect()).collect();
    let command = set("k", LARGE);
    for slot in &holders {
        assert!(world.offer(*slot, &command[..LARGE / 2]).is_empty());
    }
    let (small, waiting) = (world.connect(), world.connect());
    assert_eq!(
        world.ask(small, "SET a 1\r\nGET a\r\n"),
        "+OK\r\n$1\r\n1\r\n"
    );
    let left = world.offer(waiting, &command);
    assert!(!left.is_empty());
    world.now = world.now.after(Duration::from_secs(4));
    world.core(|core| core.sweep(world.now));
    assert!(
        holders.iter().all(|slot| world.is_closed(*slot)),
        "in the way"
    );
    assert!(!world.is_closed(waiting) && !world.is_closed(small));
    world.close(&holders);
    world.grant();
    assert!(world.offer(waiting, left).is_empty());
    world.settle();
    assert_eq!(world.got(waiting), "+OK\r\n");
}

#[test]
fn slow_senders_of_large_commands_have_time_while_nobody_waits() {
    let mut world = small_world();
    let a = world.connect();
    let command = set("k", LARGE);
    assert!(world.offer(a, &command[..LARGE / 2]).is_empty());
    world.now = world.now.after(Duration::from_secs(20));
    world.core(|core| core.sweep(world.now));
    assert!(!world.is_closed(a));
    assert!(world.offer(a, &command[LARGE / 2..]).is_empty());
    world.settle();
    assert_eq!(world.got(a), "+OK\r\n");
}

#[test]
fn a_client_that_asks_for_more_than_it_reads_gets_it_piece_by_piece() {
    let world = small_world();
    let all = world.free();
    let a = world.connect();
    assert_eq!(world.ask(a, set("k", LARGE)), "+OK\r\n");
    // 27 MB of replies out of a pool of a few.
    world.send(a, "GET k\r\n".repeat(30));
    let (mut got, mut most) = (0, 0);
    while got < 30 {
        world.settle();
        let unread = world.core(|core| core.table.at(a).output.size());
        most = most.max(unread);
        let replies = world.got(a).matches("$900000\r\n").count();
        assert!(replies > 0, "{got} of 30");
        got += replies;
    }
    assert!(most < 3 * LARGE, "{most} bytes unread at once");
    world.settle();
    assert_eq!(world.free(), all);
}

#[test]
fn a_client_that_holds_a_lane_up_is_closed_and_the_others_go_on() {
    let mut world = small_world();
    let (deaf, other) = (world.connect(), world.connect());
    assert_eq!(world.ask(deaf, set("k", LARGE)), "+OK\r\n");
    world.send(deaf, "GET k\r\n".repeat(5));
    world.send(other, "GET a\r\n");
    world.settle();
    assert_eq!(world.got(other), "", "it shares the request");
    world.now = world.now.after(Duration::from_secs(4));
    world.core(|core| core.sweep(world.now));
    assert!(world.is_closed(deaf) && !world.is_closed(other));
    world.close(&[deaf]);
    world.settle();
    assert_eq!(world.got(other), "$-1\r\n");
}

#[test]
fn readers_of_large_values_share_what_there_is_and_nobody_is_forgotten() {
    let world = small_world();
    let all = world.free();
    let slots: Vec<u32> = (0..40).map(|_| world.connect()).collect();
    assert_eq!(world.ask(slots[0], set("k", LARGE)), "+OK\r\n");
    for slot in &slots {
        world.send(*slot, "GET k\r\nPING\r\n");
    }
    // 36 MB; each reads all it can get, in turn, and the pool is a few MB.
    let mut answered = vec![String::new(); slots.len()];
    for _ in 0..100 {
        world.settle();
        for (slot, text) in slots.iter().zip(&mut answered) {
            text.push_str(&world.got(*slot));
        }
    }
    let whole = format!("${LARGE}\r\n{}\r\n+PONG\r\n", "x".repeat(LARGE));
    assert!(answered.iter().all(|text| *text == whole));
    assert_eq!(world.free(), all);
    assert_eq!(world.core(|core| core.counters.connections_overrun), 0);
}

#[test]
fn unread_answers_of_many_fill_the_pool_and_the_rest_wait_in_line() {
    let mut world = small_world();
    let slots: Vec<u32> = (0..800).map(|_| world.connect()).collect();
    let ping = format!("PING {}\r\n", "x".repeat(10_000));
    let mut waiting = 0;
    for slot in &slots {
        world.send(*slot, &ping);
        let stall = world.core(|core| core.table.at(*slot).stall);
        waiting += usize::from(stall == Some(Stall::Memory));
    }
    assert!(waiting > 50 && waiting < 800, "{waiting} wait");
    let mut answered = 0;
    for _ in 0..20 {
        for slot in &slots {
            answered += world.got(*slot).matches("$10000\r\n").count();
        }
        world.settle();
    }
    assert_eq!(answered, slots.len(), "all are answered in the end");
    // The deaf are closed when others wait for what they hold.
    slots.iter().for_each(|slot| world.send(*slot, &ping));
    world.now = world.now.after(Duration::from_secs(4));
    world.core(|core| core.sweep(world.now));
    let closed = slots.iter().filter(|slot| world.is_closed(**slot)).count();
    assert_eq!(closed, slots.len() - waiting);
}

#[test]
fn transactions_that_find_no_memory_fail_and_others_are_served() {
    let world = small_world();
    let all = world.free();
    let slots: Vec<u32> = (0..10).map(|_| world.connect()).collect();
    let mut failed = 0;
    for slot in &slots {
        assert_eq!(world.ask(*slot, "MULTI\r\n"), "+OK\r\n");
        let queued = world.ask(*slot, set("k", LARGE));
        failed += usize::from(queued.starts_with("-ERR no memory is left for another transaction"));
    }
    assert!((1..10).contains(&failed), "{failed} of 10");
    let other = world.connect();
    assert_eq!(world.ask(other, "SET a 1\r\nPING\r\n"), "+OK\r\n+PONG\r\n");
    let mut executed = 0;
    for slot in &slots {
        let reply = world.ask(*slot, "EXEC\r\n");
        executed += usize::from(reply == "*1\r\n+OK\r\n");
        assert!(
            reply == "*1\r\n+OK\r\n" || reply.starts_with("-EXECABORT "),
            "{reply}"
        );
    }
    assert_eq!(executed + failed, 10);
    assert_eq!(world.free(), all);
}

#[test]
fn a_connection_that_goes_away_leaves_nothing_behind() {
    let world = small_world();
    let all = world.free();
    let a = world.connect();
    world.ask(a, set("k", LARGE));
    world.send(a, "GET k\r\nPING\r\n");
    world.settle();
    let b = world.connect();
    world.send(
        b,
        "WATCH k other\r\nMULTI\r\nSET k 1\r\nPING\r\nECHO x\r\nSET k 2\r\n",
    );
    world.settle();
    let c = world.connect();
    world.send(c, "SET a 1\r\nPING\r\nPING\r\n");
    let d = world.connect();
    assert!(world.offer(d, &set("k", LARGE)[..LARGE / 2]).is_empty());
    world.close(&[a, b, c, d]);
    world.settle();
    assert_eq!(world.free(), all);
}

#[test]
fn the_dialect_changes_for_the_replies_after_hello_only() {
    let world = World::new();
    let a = world.connect();
    let got = world.ask(
        a,
        "GET none\r\nHELLO 3\r\nGET none\r\nSET k v\r\nGET none\r\nHELLO 2\r\nGET none\r\n",
    );
    assert!(got.starts_with("$-1\r\n%7\r\n"), "{got}");
    let parts: Vec<&str> = got.split("$7\r\nmodules\r\n*0\r\n").collect();
    assert_eq!(parts.len(), 3, "{got}");
    assert!(parts[1].starts_with("_\r\n+OK\r\n_\r\n*14\r\n"), "{got}");
    assert_eq!(parts[2], "$-1\r\n");
    let got = world.ask(a, "HELLO 3\r\nSET k v\r\nGET none\r\nRESET\r\nGET none\r\n");
    assert!(got.ends_with("+OK\r\n_\r\n+RESET\r\n$-1\r\n"), "{got}");
    assert_eq!(
        world.ask(a, "MULTI\r\nHELLO 3\r\nEXEC\r\n"),
        "+OK\r\n-ERR Command not allowed inside a transaction\r\n-EXECABORT Transaction discarded because of previous errors.\r\n"
    );
}

#[test]
fn the_plan_divides_what_it_is_given_and_no_more() {
    for buffers in [BUFFERS_MIN, 32 << 20, 1 << 30] {
        let options = GatewayOptions {
            buffers,
            ..GatewayOptions::default()
        };
        let plan = Plan::new(&options);
        let blocks: usize = plan.blocks.iter().map(|(size, count)| size * count).sum();
        let pages = crate::gateway::pages::Pages::memory(plan.aside + plan.output);
        assert!(blocks + pages <= buffers && blocks + pages > buffers - 10_000);
    }
}
