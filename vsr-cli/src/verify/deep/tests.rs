//! Made-up replicas, compared.

use super::*;
use vsr_node::inspect::Chunk;

/// At `op`, with a chunk for each (last change, digest).
fn answer(op: u64, chunks: &[(u64, &str)]) -> Chunks {
    Chunks {
        op,
        count: chunks.len() as u64,
        chunk_bytes: 65536,
        from: 0,
        damaged: false,
        chunks: chunks
            .iter()
            .map(|(changed_at, digest)| Chunk {
                changed_at: *changed_at,
                digest: (*digest).to_owned(),
            })
            .collect(),
    }
}

fn replica(endpoint: &str, answers: &[Chunks]) -> Answer<Survey> {
    let mut survey = Survey::default();
    for answer in answers {
        survey.note(answer.clone());
    }
    Answer {
        endpoint: endpoint.to_owned(),
        result: Ok(survey),
    }
}

fn exit(deep: Deep) -> Option<Exit> {
    deep.into_result().err().map(|failure| failure.exit())
}

#[test]
fn replicas_at_different_ops_are_compared_where_their_spans_meet() {
    let deep = judge(vec![
        replica("a:1", &[answer(100, &[(100, "x"), (50, "y")])]),
        replica("b:2", &[answer(100, &[(100, "x"), (50, "y")])]),
        // It is behind, and knows nothing of the last change of chunk 0.
        replica("c:3", &[answer(90, &[(90, "w"), (50, "y")])]),
    ]);
    assert_eq!(
        (deep.compared(), deep.undecided, deep.word()),
        (1, 1, "incomplete")
    );
    assert_eq!(exit(deep), Some(Exit::Failed));
    // Once it has caught up it can be compared.
    let deep = judge(vec![
        replica("a:1", &[answer(100, &[(100, "x"), (50, "y")])]),
        replica(
            "c:3",
            &[
                answer(90, &[(90, "w"), (50, "y")]),
                answer(103, &[(100, "x"), (50, "y")]),
            ],
        ),
    ]);
    assert_eq!((deep.compared(), deep.word()), (2, "equal"));
    assert_eq!(exit(deep), None);
}

#[test]
fn the_odd_one_out_is_named_with_its_chunks() {
    let good = [(7, "x"), (9, "y"), (3, "z")];
    let deep = judge(vec![
        replica("a:1", &[answer(10, &good)]),
        replica("b:2", &[answer(12, &[(7, "x"), (9, "Y"), (3, "z")])]),
        replica("c:3", &[answer(11, &good)]),
    ]);
    assert_eq!(deep.differ.keys().collect::<Vec<_>>(), [&1]);
    assert_eq!([0, 1, 2].map(|replica| deep.blame(replica)), [0, 1, 0]);
    let json = deep.json();
    assert_eq!(json["verdict"], "different");
    assert_eq!(json["first_different"][0]["chunk"], 1);
    assert_eq!(json["first_different"][0]["digests"]["b:2"], "Y");
    assert!(
        matches!(&deep.blocks()[2], Block::Line(line, Tone::Bad) if line.contains("1 different"))
    );
    assert_eq!(exit(deep), Some(Exit::Divergence));
}

#[test]
fn a_difference_is_not_hidden_by_silence_or_by_chunks_that_change() {
    let silent = Answer {
        endpoint: "c:3".to_owned(),
        result: Err("connection refused".to_owned()),
    };
    let deep = judge(vec![
        replica("a:1", &[answer(10, &[(10, "x"), (9, "y")])]),
        replica("b:2", &[answer(12, &[(12, "v"), (9, "Y")])]),
        silent.clone(),
    ]);
    assert_eq!((deep.differ.len(), deep.undecided), (1, 1));
    assert_eq!(exit(deep), Some(Exit::Divergence));
    let deep = judge(vec![
        replica("a:1", &[answer(10, &[(9, "y")])]),
        replica("b:2", &[answer(12, &[(9, "y")])]),
        silent,
    ]);
    assert_eq!(deep.word(), "incomplete");
    assert_eq!(exit(deep), Some(Exit::Failed));
}

#[test]
fn a_chunk_that_one_lacks_at_the_same_op_is_a_difference() {
    let mut shorter = Survey::default();
    shorter.note(answer(10, &[(4, "x")]));
    shorter.note_absent(1);
    let deep = judge(vec![
        replica("a:1", &[answer(10, &[(4, "x"), (5, "y")])]),
        Answer {
            endpoint: "b:2".to_owned(),
            result: Ok(shorter),
        },
    ]);
    assert_eq!(deep.differ.len(), 1);
}

#[test]
fn what_an_unfinished_operation_left_is_not_compared() {
    let deep = judge(vec![
        replica("a:1", &[answer(10, &[(11, "half")])]),
        replica("b:2", &[answer(11, &[(11, "x")])]),
    ]);
    assert_eq!((deep.undecided, deep.differ.len()), (1, 0));
}
