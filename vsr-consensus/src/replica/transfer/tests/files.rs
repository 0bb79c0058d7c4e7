//! The state leaves for a file while clients are served (R8.9), and a cluster begins with it (R7.4 to R7.6).

use alloc::vec;
use alloc::vec::Vec;

use vsr_types::message::{
    GetImage, IMAGE_REFUSED, Image, ImageOffer, ImageRefusal, InitOutcome, InitResult, PUT_BEGIN,
    PUT_CHUNK, PUT_END, PeerStatus, Prepare, PutImage, PutImageResult, PutOutcome, STATE_ALL,
    STATE_CHUNK, STATE_DONE, STATE_END, STATE_HELD, STATE_LIVE,
};
use vsr_types::{ClusterId, Digest, Frame, Header, Op, body};

use super::millis;
use super::world::{CLUSTER, TOKEN, World};
use crate::counters::Event;

/// An image as a file has it.
struct File {
    offer: ImageOffer,
    chunks: Vec<Vec<u8>>,
}

fn question(tool: u64, since: Op, from: u64, wish: u32) -> GetImage {
    GetImage {
        question: tool << 32 | from,
        since,
        at_least: Op::ZERO,
        from,
        count: 16,
        wish,
    }
}

fn ask(world: &mut World, at: u8, question: GetImage) -> Vec<(Image, Vec<u8>)> {
    let mut header = Header::new(question);
    header.seal(&[]);
    let answers = world.ask_as_tool(at, &header, &[]);
    let read = |bytes: &Vec<u8>| {
        let frame = Frame::parse(bytes, CLUSTER).expect("sound");
        (
            *frame.fields::<Image>().expect("an answer"),
            frame.body().to_vec(),
        )
    };
    answers.iter().map(read).collect()
}

/// What a tool does: pass after pass, and something else happens between two questions.
fn export(world: &mut World, at: u8, mut meanwhile: impl FnMut(&mut World)) -> (File, u32) {
    let mut chunks: Vec<Vec<u8>> = Vec::new();
    let mut since = STATE_ALL;
    for pass in 1..100 {
        let wish = if pass < 3 { STATE_LIVE } else { STATE_HELD };
        let (mut from, mut end, mut ops, mut offer) = (0, 1, Vec::new(), None);
        while from < end {
            for (image, body) in ask(world, at, question(7, since, from, wish)) {
                ops.push(image.op);
                match image.kind {
                    STATE_CHUNK => {
                        let at = image.chunk as usize;
                        chunks.resize(chunks.len().max(at + 1), Vec::new());
                        chunks[at] = body;
                    }
                    STATE_END => {
                        (from, end) = (image.chunk, image.chunks);
                        offer = body::read::<ImageOffer>(&body);
                    }
                    IMAGE_REFUSED => world.pass(millis(100)),
                    other => panic!("{other}"),
                }
            }
            meanwhile(world);
        }
        let low = *ops.iter().min().expect("answers");
        if wish == STATE_HELD && ops.iter().all(|op| *op == low) {
            ask(world, at, question(7, since, 0, STATE_DONE));
            let offer = offer.expect("with every end");
            chunks.truncate(offer.chunks as usize);
            return (File { offer, chunks }, pass);
        }
        since = low;
    }
    panic!("it never ends");
}

fn put(world: &mut World, at: u8, put: PutImage, body: &[u8]) -> PutImageResult {
    let mut header = Header::new(put);
    header.seal(body);
    let answers = world.ask_as_tool(at, &header, body);
    let frame = Frame::parse(&answers[0], ClusterId::ZERO).expect("sound");
    *frame.fields().expect("an answer")
}

const fn part(chunk: u64, kind: u32) -> PutImage {
    PutImage {
        token: TOKEN,
        chunk,
        kind,
        reserved: 0,
        reserved_2: 0,
    }
}

fn outcome(result: PutImageResult) -> PutOutcome {
    PutOutcome::from_raw(result.outcome).expect("a known one")
}

fn bring(world: &mut World, at: u8, file: &File) -> PutOutcome {
    let announced = put(
        world,
        at,
        part(0, PUT_BEGIN),
        bytemuck::bytes_of(&file.offer),
    );
    assert_eq!(outcome(announced), PutOutcome::Taken);
    for (chunk, bytes) in (0..).zip(&file.chunks) {
        let result = put(world, at, part(chunk, PUT_CHUNK), bytes);
        if outcome(result) != PutOutcome::Taken {
            return outcome(result);
        }
        assert_eq!(result.next, chunk + 1);
    }
    loop {
        let result = outcome(put(world, at, part(0, PUT_END), &[]));
        if result != PutOutcome::Verifying {
            return result;
        }
        world.turn();
    }
}

/// A cluster that has worked for a while.
fn with_a_state() -> World {
    let mut world = World::formed();
    for index in 1..700 {
        world.write(index * 11, index * 7);
    }
    world.settle_all();
    world
}

fn imported_with(file: &File, view_timeout: core::time::Duration) -> World {
    let mut world = World::blank_with(view_timeout);
    for at in 0..3 {
        assert_eq!(bring(&mut world, at, file), PutOutcome::Verified);
    }
    world.form(Some(&file.offer));
    for at in 0..3 {
        assert!(world.is_normal(at));
        assert_eq!(world.digest(at), file.offer.digest, "R7.6");
    }
    world
}

fn imported(file: &File) -> World {
    imported_with(file, core::time::Duration::from_secs(3600))
}

fn base_of(file: &File) -> Op {
    file.offer.header.fields::<Prepare>().expect("a prepare").op
}

/// R8.9, R7.4, R7.6.
#[test]
fn an_export_under_load_is_of_one_state_and_a_cluster_begins_with_it() {
    let mut world = with_a_state();
    let served = world.served;
    let (file, passes) = export(&mut world, 2, |world| {
        world.load();
        world.turn();
    });
    assert!(passes >= 3, "live passes and a held one");
    assert!(world.served > served + 100, "clients were served meanwhile");
    assert!(world.count(2, Event::Holds) > 0);
    world.settle_all();

    let mut new = imported(&file);
    assert_eq!(new.replicas[0].report().op, base_of(&file));
    for at in 1..3 {
        assert!(new.replicas[at].sessions().eq(new.replicas[0].sessions()));
    }
    // The same once more: what is in the file is what was in the file.
    let (again, _) = export(&mut new, 1, |_| {});
    assert_eq!(again.chunks, file.chunks, "byte for byte");
    assert_eq!(again.offer.digest, file.offer.digest);
    // New clients are served, behind the op of the image.
    new.adopt_clients(&mut world);
    new.newcomer();
    new.write(5, 5);
    new.settle_all();
    new.assert_equal();
    assert!(new.replicas[0].report().op > base_of(&file));
}

/// R7.6: sessions are part of the image: who was answered is answered the same, and who goes on goes on.
#[test]
fn sessions_and_their_replies_outlive_their_cluster() {
    let mut world = with_a_state();
    let (file, _) = export(&mut world, 1, |_| {});
    let mut new = imported(&file);
    new.adopt_clients(&mut world);
    assert_eq!(new.retry_all(), new.clients(), "all answered from memory");
    for index in 0..20 {
        new.write(index, index);
    }
    new.settle_all();
    new.assert_equal();
}

/// R7.6, R8.2: there is no empty state at the beginning of this log, so whoever comes later takes over
/// the state, even when nothing has been ordered yet.
#[test]
fn who_recovers_into_a_cluster_that_began_with_an_image_takes_over_the_state() {
    let (file, _) = export(&mut with_a_state(), 2, |_| {});
    for writes in [0, 1, 40, 300] {
        let mut new = imported_with(&file, millis(100));
        new.newcomer();
        for index in 0..writes {
            new.write(index, index + 1);
        }
        new.crash(2);
        new.pass(millis(200));
        new.restart(2);
        new.settle_all();
        new.assert_equal();
        assert_eq!(new.count(2, Event::TransfersFinished), 1, "{writes} writes");
    }
    // Nobody has asked for anything yet: the log ends where it begins.
    let mut new = imported_with(&file, millis(100));
    new.crash(1);
    new.pass(millis(200));
    new.restart(1);
    new.settle_all();
    new.assert_equal();
    assert_eq!(new.replicas[1].report().applied, base_of(&file));
}

/// R7.6, R5.4: votes show what is behind the image, and nothing in front of it.
#[test]
fn views_change_in_a_cluster_that_began_with_an_image() {
    let (file, _) = export(&mut with_a_state(), 2, |_| {});
    for writes in [0, 3, 50] {
        let mut new = imported_with(&file, millis(100));
        if writes > 0 {
            new.newcomer();
        }
        for index in 1..writes {
            new.write(index, index + 1);
        }
        new.crash(0);
        new.pass(millis(400));
        new.primary = 1;
        assert_eq!(new.replicas[1].report().status, PeerStatus::Normal);
        assert!(new.replicas[1].report().view.raw() > 0, "{writes} writes");
        new.newcomer();
        new.write(3, 4);
        new.restart(0);
        new.settle_all();
        new.assert_equal();
    }
}

/// R0.3 counts from what was told of the log, not from nothing.
#[test]
fn a_fresh_process_recovers_however_far_the_log_has_come() {
    let (mut file, _) = export(&mut with_a_state(), 2, |_| {});
    let last = *file.offer.header.fields::<Prepare>().expect("a prepare");
    file.offer.header = Header::new(Prepare {
        op: Op::new(1 << 40),
        ..last
    });
    file.offer.header.seal(&[]);
    let mut new = imported_with(&file, millis(100));
    new.crash(2);
    new.newcomer();
    new.write(1, 1);
    new.pass(millis(200));
    new.restart(2);
    new.settle_all();
    new.assert_equal();
}

fn init_outcomes(world: &mut World, image: Option<&ImageOffer>) -> Vec<Option<InitOutcome>> {
    let read = |bytes: &Vec<u8>| {
        let frame = Frame::parse(bytes, ClusterId::ZERO).expect("sound");
        frame
            .fields::<InitResult>()
            .and_then(|r| InitOutcome::from_raw(r.outcome))
    };
    world.propose(image).iter().map(read).collect()
}

/// R7.5: no cluster begins with nothing where something is left of an import, and none with an image that
/// is not there, or is another one.
#[test]
fn a_cluster_begins_with_what_every_replica_holds_or_not_at_all() {
    let (file, _) = export(&mut with_a_state(), 2, |_| {});
    let mut new = World::blank_with(millis(100));
    assert_eq!(bring(&mut new, 0, &file), PutOutcome::Verified);
    put(
        &mut new,
        1,
        part(0, PUT_BEGIN),
        bytemuck::bytes_of(&file.offer),
    );
    put(&mut new, 1, part(0, PUT_CHUNK), &file.chunks[0]);
    let nothing = init_outcomes(&mut new, None);
    let holds = Some(InitOutcome::HoldsImage);
    assert_eq!(nothing, [holds, holds, None], "R2 holds nothing and agrees");
    new.pass(millis(5_100));
    let mut other = file.offer;
    other.digest = Digest::new(1);
    let none = Some(InitOutcome::NoImage);
    assert_eq!(init_outcomes(&mut new, Some(&other)), [none; 3]);
    assert_eq!(
        init_outcomes(&mut new, Some(&file.offer)),
        [None, none, none]
    );
}

/// R7.4: an announcement tells what does not fit before anything is written.
#[test]
fn an_image_that_does_not_fit_is_refused_before_anything_is_written() {
    let (file, _) = export(&mut with_a_state(), 2, |_| {});
    type Break = fn(&mut ImageOffer);
    let cases: [(PutOutcome, Break); 9] = [
        (PutOutcome::OtherMachine, |o| o.layout.name[0] = b'x'),
        (PutOutcome::OtherMachine, |o| o.layout.capacity = 1),
        (PutOutcome::OtherMachine, |o| o.chunk_size += 8),
        (PutOutcome::OtherSessions, |o| o.sessions += 1),
        (PutOutcome::OtherSessions, |o| o.reply_bytes += 4096),
        (PutOutcome::OtherSessions, |o| o.session_chunks -= 1),
        (PutOutcome::Malformed, |o| o.chunks = 0),
        (PutOutcome::Malformed, |o| o.chunks = u64::MAX),
        (PutOutcome::Malformed, |o| {
            o.header.set_view(vsr_types::View::new(9))
        }),
    ];
    let mut new = World::blank_with(millis(100));
    for (expected, break_it) in cases {
        let mut offer = file.offer;
        break_it(&mut offer);
        let result = put(&mut new, 0, part(0, PUT_BEGIN), bytemuck::bytes_of(&offer));
        assert_eq!(outcome(result), expected);
    }
    let short = put(&mut new, 0, part(0, PUT_BEGIN), &[1, 2, 3]);
    assert_eq!(outcome(short), PutOutcome::Malformed);
    // What follows an announcement that was refused belongs to nothing.
    let chunk = put(&mut new, 0, part(0, PUT_CHUNK), &file.chunks[0]);
    assert_eq!(outcome(chunk), PutOutcome::OtherProposal);
    new.form(None);
    assert!(new.is_normal(0), "it is as blank as it was");
}

/// R7.5: what came is believed when its digest is the announced one.
#[test]
fn an_image_that_is_not_what_was_announced_is_refused() {
    let (file, _) = export(&mut with_a_state(), 2, |_| {});
    let mut new = World::blank_with(millis(100));
    let mut broken = File {
        offer: file.offer,
        chunks: file.chunks.clone(),
    };
    let last = broken.chunks.len() - 1;
    broken.chunks[last][3] ^= 1;
    assert_eq!(bring(&mut new, 0, &broken), PutOutcome::NoState);
    let mut short = File {
        offer: file.offer,
        chunks: file.chunks.clone(),
    };
    short.chunks[0].pop();
    assert_eq!(bring(&mut new, 1, &short), PutOutcome::NoState);
    // The wrong order, too much, and the end too early.
    put(
        &mut new,
        2,
        part(0, PUT_BEGIN),
        bytemuck::bytes_of(&file.offer),
    );
    for wrong in [
        part(1, PUT_CHUNK),
        part(u64::MAX, PUT_CHUNK),
        part(0, PUT_END),
    ] {
        let result = put(&mut new, 2, wrong, &file.chunks[1]);
        assert_eq!(outcome(result), PutOutcome::OutOfOrder);
    }
    // Once more, and right: nothing is left of what was wrong.
    for at in 0..3 {
        assert_eq!(bring(&mut new, at, &file), PutOutcome::Verified);
    }
    new.form(Some(&file.offer));
    assert_eq!(new.digest(0), file.offer.digest);
}

/// R7.1, R7.5: an operator's word counts for what was agreed to. Another import came in between.
#[test]
fn one_import_at_a_time() {
    let (file, _) = export(&mut with_a_state(), 2, |_| {});
    let mut new = World::blank_with(millis(100));
    assert_eq!(bring(&mut new, 0, &file), PutOutcome::Verified);
    let other = PutImage {
        token: vsr_types::Nonce::new(77),
        ..part(0, PUT_BEGIN)
    };
    let offer = bytemuck::bytes_of(&file.offer);
    let result = put(&mut new, 0, other, offer);
    assert_eq!(outcome(result), PutOutcome::OtherProposal);
    new.pass(millis(5_100));
    assert_eq!(outcome(put(&mut new, 0, other, offer)), PutOutcome::Taken);
    let none = Some(InitOutcome::NoImage);
    assert_eq!(init_outcomes(&mut new, Some(&file.offer))[0], none);
    // Who belongs to a cluster, or sees one, takes none.
    let mut old = with_a_state();
    let result = put(&mut old, 0, part(0, PUT_BEGIN), offer);
    assert_eq!(outcome(result), PutOutcome::NotBlank);
    old.crash(2);
    old.restart(2);
    old.pass(millis(30));
    let result = put(&mut old, 2, part(0, PUT_BEGIN), offer);
    assert!(matches!(
        outcome(result),
        PutOutcome::NotBlank | PutOutcome::PeerOperational
    ));
}

/// R7.1: who restarts between its agreement and the word to all is told by the others that there is a
/// cluster, and recovers from them.
#[test]
fn who_restarts_between_agreement_and_word_recovers() {
    let (file, _) = export(&mut with_a_state(), 2, |_| {});
    let mut new = World::blank_with(millis(100));
    for at in 0..3 {
        bring(&mut new, at, &file);
    }
    let mut nonces: body::BootNonces = bytemuck::Zeroable::zeroed();
    for (at, answer) in new.propose(Some(&file.offer)).iter().enumerate() {
        let frame = Frame::parse(answer, ClusterId::ZERO).expect("sound");
        let ack: &vsr_types::message::InitAck = frame.fields().expect("an ack");
        nonces.nonces[at] = ack.boot_nonce;
    }
    new.crash(2);
    new.restart(2);
    new.tell_all(&nonces);
    assert!(new.is_normal(0) && new.is_normal(1) && !new.is_normal(2));
    new.settle_all();
    new.assert_equal();
    assert_eq!(new.count(2, Event::TransfersFinished), 1);
}

/// R7.5: an import was begun at a process that turns out to belong to a cluster. That one's log reaches
/// back to its first op, and what is in this memory is not what that op follows.
#[test]
fn what_an_import_left_behind_is_not_executed_on() {
    let (file, _) = export(&mut with_a_state(), 2, |_| {});
    for chunks in [1, file.chunks.len()] {
        let mut old = World::formed_with(millis(100));
        old.write(3, 3);
        old.crash(2);
        old.pass(millis(200));
        old.restart(2);
        // Before it has heard of anybody.
        put(
            &mut old,
            2,
            part(0, PUT_BEGIN),
            bytemuck::bytes_of(&file.offer),
        );
        for (chunk, bytes) in (0..).zip(&file.chunks[..chunks]) {
            assert_eq!(
                outcome(put(&mut old, 2, part(chunk, PUT_CHUNK), bytes)),
                PutOutcome::Taken
            );
        }
        old.settle_all();
        old.assert_equal();
        assert_eq!(
            old.count(2, Event::TransfersFinished),
            1,
            "the state, not the log"
        );
    }
}

/// R8.9: execution waits for a tool that asks, not for one that is gone, and not all the time.
#[test]
fn a_tool_that_is_gone_holds_up_nobody() {
    let mut world = with_a_state();
    let held = ask(&mut world, 1, question(7, STATE_ALL, 0, STATE_HELD));
    let end = held.last().expect("an end").0;
    assert_eq!(end.kind, STATE_END);
    world.write(1, 1);
    world.pass(millis(20));
    assert_eq!(world.replicas[1].report().applied, end.op, "held back");
    assert!(world.replicas[1].report().op > end.op, "but acknowledged");
    world.pass(millis(300));
    assert!(
        world.replicas[1].report().applied > end.op,
        "it went on by itself"
    );
    let again = ask(&mut world, 1, question(7, STATE_ALL, 0, STATE_HELD));
    assert_eq!(again[0].0.kind, IMAGE_REFUSED, "not again at once");
    assert_eq!(again[0].0.number, ImageRefusal::NotYet as u32);
    world.pass(millis(1100));
    let again = ask(&mut world, 1, question(7, STATE_ALL, 0, STATE_HELD));
    assert_eq!(again.last().expect("an end").0.kind, STATE_END);
    // Asking on and on prolongs it, to five seconds.
    let began = again[0].0.op;
    world.write(2, 2);
    let mut asked = 0;
    while world.replicas[1].report().applied == began {
        world.pass(millis(50));
        drop(ask(&mut world, 1, question(7, STATE_ALL, 0, STATE_HELD)));
        asked += 1;
        assert!(asked < 110, "five seconds are enough");
    }
    assert!(
        asked > 90,
        "it was held back as long as somebody asked: {asked}"
    );
}

/// R8.9: a few tools at a time, and nothing for who asks a replica that has no state.
#[test]
fn who_has_no_state_or_is_busy_says_so() {
    let mut world = with_a_state();
    let refusal = |answers: Vec<(Image, Vec<u8>)>| {
        let (image, _) = &answers[0];
        (image.kind == IMAGE_REFUSED).then_some(image.number)
    };
    for tool in [1, 2] {
        assert_eq!(
            refusal(ask(&mut world, 1, question(tool, STATE_ALL, 0, STATE_LIVE))),
            None
        );
    }
    let third = question(3, STATE_ALL, 0, STATE_LIVE);
    assert_eq!(
        refusal(ask(&mut world, 1, third)),
        Some(ImageRefusal::Busy as u32)
    );
    assert_eq!(
        ask(&mut world, 1, question(2, STATE_ALL, 0, STATE_DONE)).len(),
        0
    );
    assert_eq!(refusal(ask(&mut world, 1, third)), None, "one has gone");
    world.pass(millis(2_100));
    let fourth = question(4, STATE_ALL, 0, STATE_LIVE);
    assert_eq!(
        refusal(ask(&mut world, 1, fourth)),
        None,
        "the others are silent"
    );
    let too_new = GetImage {
        at_least: Op::new(1 << 20),
        ..fourth
    };
    assert_eq!(
        refusal(ask(&mut world, 1, too_new)),
        Some(ImageRefusal::NotYet as u32)
    );
    let mut blank = World::blank_with(millis(100));
    let none = Some(ImageRefusal::NoState as u32);
    assert_eq!(refusal(ask(&mut blank, 0, fourth)), none);
    let mut fresh = World::blank_with(millis(100));
    fresh.form(None);
    assert_eq!(
        refusal(ask(&mut fresh, 0, fourth)),
        none,
        "nothing was executed"
    );
    assert_eq!(fresh.replicas[0].image_offer(), None);
}

/// What an archive reads is what a tool is given.
#[test]
fn a_node_reads_the_same_image_from_its_own_replica() {
    let mut world = with_a_state();
    let (file, _) = export(&mut world, 1, |_| {});
    let replica = &world.replicas[0];
    let offer = replica.image_offer().expect("a state");
    assert_eq!(offer, file.offer);
    let mut buffer = vec![0; offer.chunk_size as usize];
    for (chunk, bytes) in (0..).zip(&file.chunks) {
        let size = replica.image_chunk(chunk, &mut buffer).expect("sound");
        assert_eq!(&buffer[..size], bytes);
    }
    assert_eq!(replica.image_chunk(offer.chunks, &mut buffer), None);
    assert_eq!(replica.image_chunk(u64::MAX, &mut buffer), None);
}

/// R7.3: who is left when a majority is gone serves nobody, and can still be exported: between views too.
#[test]
fn a_survivor_gives_its_state_to_whoever_accepts_what_may_be_lost() {
    let mut world = World::formed_with(millis(100));
    for index in 1..40 {
        world.write(index * 11, index * 7);
    }
    world.settle_all();
    // R1 and R2 want to leave the view, and R2 does not come to the next one.
    world.crash(0);
    let is_leaving = |world: &World| world.replicas[1].report().status == PeerStatus::ViewChange;
    let left = (0..10_000).any(|_| {
        world.turn();
        is_leaving(&world)
    });
    assert!(left, "nobody is heard any more");
    world.crash(2);
    world.pass(millis(500));
    assert_eq!(world.replicas[1].report().status, PeerStatus::ViewChange);
    let applied = world.replicas[1].report().applied;
    let (file, _) = export(&mut world, 1, |_| {});
    assert_eq!(base_of(&file), applied);
    let new = imported(&file);
    assert_eq!(new.digest(2), file.offer.digest);
}

/// R7.5: without these two locks a cluster begins with a state that is none.
#[cfg(feature = "mutate")]
#[test]
fn without_its_rules_a_cluster_begins_with_what_is_no_state() {
    use super::world::MUTANT;
    use crate::Mutant;
    let (mut file, _) = export(&mut with_a_state(), 2, |_| {});
    MUTANT.set(Some(Mutant::LeftoversIgnored));
    let mut new = World::blank_with(millis(100));
    put(
        &mut new,
        1,
        part(0, PUT_BEGIN),
        bytemuck::bytes_of(&file.offer),
    );
    put(&mut new, 1, part(0, PUT_CHUNK), &file.chunks[0]);
    assert_eq!(
        init_outcomes(&mut new, None),
        [None; 3],
        "R1 agrees all the same"
    );
    MUTANT.set(Some(Mutant::ImportUnverified));
    let last = file.chunks.len() - 1;
    file.chunks[last][3] ^= 1;
    let mut new = World::blank_with(millis(100));
    assert_eq!(bring(&mut new, 0, &file), PutOutcome::Verified, "it is not");
    MUTANT.set(None);
}

/// R7.5: who has agreed to begin with nothing takes no image, and the other way round.
#[test]
fn no_image_comes_between_agreement_and_word() {
    let (file, _) = export(&mut with_a_state(), 2, |_| {});
    let offer = bytemuck::bytes_of(&file.offer);
    let mut new = World::blank_with(millis(100));
    let other = |chunk, kind| PutImage {
        token: vsr_types::Nonce::new(77),
        ..part(chunk, kind)
    };
    for at in 0..3 {
        let announced = put(&mut new, at, other(0, PUT_BEGIN), offer);
        assert_eq!(outcome(announced), PutOutcome::Taken);
    }
    let mut nonces: body::BootNonces = bytemuck::Zeroable::zeroed();
    for (at, answer) in new.propose(None).iter().enumerate() {
        let frame = Frame::parse(answer, ClusterId::ZERO).expect("sound");
        let ack: &vsr_types::message::InitAck = frame.fields().expect("an ack");
        nonces.nonces[at] = ack.boot_nonce;
    }
    for at in 0..3 {
        let refused = put(&mut new, at, other(0, PUT_CHUNK), &file.chunks[0]);
        assert_eq!(outcome(refused), PutOutcome::OtherProposal);
    }
    new.tell_all(&nonces);
    new.newcomer();
    new.write(3, 3);
    new.settle_all();
    new.assert_equal();
}

/// What the operator's file says of time is not believed either: every later prepare would go beyond it.
#[test]
fn an_image_from_the_end_of_time_is_refused() {
    let (mut file, _) = export(&mut with_a_state(), 2, |_| {});
    let last = *file.offer.header.fields::<Prepare>().expect("a prepare");
    file.offer.header = Header::new(Prepare {
        timestamp: vsr_types::Timestamp::from_nanos(u64::MAX),
        ..last
    });
    file.offer.header.seal(&[]);
    let mut new = World::blank_with(millis(100));
    let offer = bytemuck::bytes_of(&file.offer);
    let refused = put(&mut new, 0, part(0, PUT_BEGIN), offer);
    assert_eq!(outcome(refused), PutOutcome::Malformed);
}
