//! `verify --deep`: the replicas' memory compared chunk by chunk, while they work.
//!
//! A digest covers what the state machine means; this compares every byte by which it means it. Each
//! replica is asked for a few chunks at a time, and with each comes the span of ops over which the
//! replica held just that: from the chunk's last change to the op executed last. Where the spans of two
//! replicas overlap they were at one op, and the bytes must be equal. Chunks that change all the time
//! are looked at again a few times; those that never stood still long enough are counted and said.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use vsr_net::Tool;
use vsr_node::inspect::Chunks;
use vsr_types::message::InspectTopic;

use crate::args::Global;
use crate::ask::{self, Answer};
use crate::failure::{Exit, Failure};
use crate::output::Block;
use crate::table::{Cell, Table, Tone};
use crate::units;

/// How often a chunk that changes is looked at before giving up.
const ROUNDS: u32 = 8;
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(50);
/// So many of the chunks that differ are listed.
const LISTED_MAX: usize = 20;

/// What a replica held over a span of ops.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sample {
    first: u64,
    last: u64,
    /// None: its state has no such chunk.
    digest: Option<String>,
}

impl Sample {
    const fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// What is known of one replica.
#[derive(Clone, Debug, Default)]
struct Survey {
    /// The op of the last answer, and how many chunks there were.
    op: u64,
    count: u64,
    chunk_bytes: u64,
    damaged: bool,
    samples: BTreeMap<u64, Vec<Sample>>,
}

impl Survey {
    fn note(&mut self, answer: Chunks) {
        (self.op, self.count) = (answer.op, answer.count);
        (self.chunk_bytes, self.damaged) = (answer.chunk_bytes, answer.damaged);
        for (chunk, told) in (answer.from..).zip(answer.chunks) {
            // A change that was begun and not finished is of no op.
            if told.changed_at <= answer.op {
                self.samples.entry(chunk).or_default().push(Sample {
                    first: told.changed_at,
                    last: answer.op,
                    digest: Some(told.digest),
                });
            }
        }
    }

    fn note_absent(&mut self, chunk: u64) {
        let sample = Sample {
            first: self.op,
            last: self.op,
            digest: None,
        };
        self.samples.entry(chunk).or_default().push(sample);
    }

    fn of(&self, chunk: u64) -> &[Sample] {
        self.samples.get(&chunk).map_or(&[], Vec::as_slice)
    }
}

/// What became of a chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// Pairs of replicas that were never at one op for it.
    unknown: usize,
    /// Pairs that differ.
    differ: Vec<(usize, usize)>,
}

/// Compares a chunk among all pairs.
fn compare(surveys: &[&Survey], chunk: u64) -> Outcome {
    let mut outcome = Outcome::default();
    for (a, left) in surveys.iter().enumerate() {
        for (b, right) in surveys.iter().enumerate().skip(a + 1) {
            let mut met = false;
            let mut differ = false;
            for one in left.of(chunk) {
                for other in right.of(chunk).iter().filter(|other| one.overlaps(other)) {
                    met = true;
                    differ |= one.digest != other.digest;
                }
            }
            if differ {
                outcome.differ.push((a, b));
            } else if !met {
                outcome.unknown += 1;
            }
        }
    }
    outcome
}

/// The result of the whole comparison.
#[derive(Debug, Default)]
pub(super) struct Deep {
    endpoints: Vec<Answer<Survey>>,
    chunks: u64,
    chunk_bytes: u64,
    differ: BTreeMap<u64, Vec<(usize, usize)>>,
    undecided: u64,
}

/// Asks all replicas for all chunks, and again for those that changed meanwhile.
///
/// # Errors
/// Only when a task of ours stops.
pub(super) async fn run(global: &Global) -> Result<Deep, Failure> {
    let mut answers: Vec<Answer<Survey>> = Vec::new();
    let mut wanted: Option<Vec<u64>> = None;
    for round in 0..ROUNDS {
        if round > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        answers = ask_all(global, answers, wanted.as_deref()).await?;
        let surveys: Vec<&Survey> = answers.iter().filter_map(Answer::get).collect();
        let count = surveys.iter().map(|survey| survey.count).max();
        let undecided: Vec<u64> = (0..count.unwrap_or(0))
            .filter(|chunk| compare(&surveys, *chunk).unknown > 0)
            .collect();
        if undecided.is_empty() || surveys.len() < 2 {
            break;
        }
        wanted = Some(undecided);
    }
    Ok(judge(answers))
}

async fn ask_all(
    global: &Global,
    known: Vec<Answer<Survey>>,
    wanted: Option<&[u64]>,
) -> Result<Vec<Answer<Survey>>, Failure> {
    let mut known = known.into_iter();
    ask::each(global, |global, endpoint| {
        let survey = match known.next() {
            None => Ok(Survey::default()),
            Some(answer) => answer.result,
        };
        let wanted = wanted.map(<[u64]>::to_vec);
        async move { look(&global, &endpoint, survey?, wanted).await }
    })
    .await
}

/// Asks one replica for the chunks of `wanted`, or for all of them.
async fn look(
    global: &Global,
    endpoint: &str,
    mut survey: Survey,
    wanted: Option<Vec<u64>>,
) -> Result<Survey, String> {
    let mut tool = ask::connect(global, endpoint).await?;
    match wanted {
        None => {
            let mut from = 0;
            loop {
                let told = ask_for(&mut tool, from, &mut survey).await?;
                from += told;
                // An empty answer: the state has shrunk meanwhile.
                if told == 0 || from >= survey.count {
                    return Ok(survey);
                }
            }
        }
        Some(wanted) => {
            let mut behind = 0;
            for chunk in wanted {
                if chunk < behind {
                    continue;
                }
                let told = ask_for(&mut tool, chunk, &mut survey).await?;
                if told == 0 {
                    survey.note_absent(chunk);
                }
                behind = chunk + told;
            }
            Ok(survey)
        }
    }
}

/// Notes the chunks from `from` on, as many as one answer holds, and returns how many.
async fn ask_for(tool: &mut Tool, from: u64, survey: &mut Survey) -> Result<u64, String> {
    let text = tool
        .inspect(InspectTopic::Chunks, from)
        .await
        .map_err(|error| ask::words_of(error, ""))?;
    let answer: Chunks = serde_json::from_str(&text)
        .map_err(|error| format!("its answer is not what was asked for: {error}"))?;
    let told = answer.chunks.len() as u64;
    survey.note(answer);
    Ok(told)
}

fn judge(endpoints: Vec<Answer<Survey>>) -> Deep {
    let surveys: Vec<&Survey> = endpoints.iter().filter_map(Answer::get).collect();
    let chunks = surveys.iter().map(|survey| survey.count).max().unwrap_or(0);
    let chunk_bytes = surveys.iter().map(|survey| survey.chunk_bytes).max();
    let mut deep = Deep {
        chunks,
        chunk_bytes: chunk_bytes.unwrap_or(0),
        ..Deep::default()
    };
    for chunk in 0..chunks {
        let outcome = compare(&surveys, chunk);
        if !outcome.differ.is_empty() {
            deep.differ.insert(chunk, outcome.differ);
        } else if outcome.unknown > 0 {
            deep.undecided += 1;
        }
    }
    deep.endpoints = endpoints;
    deep
}

impl Deep {
    fn answered(&self) -> Vec<(&str, &Survey)> {
        let known = |answer: &'_ Answer<Survey>| answer.get().is_some();
        let answers = self.endpoints.iter().filter(|answer| known(answer));
        answers
            .filter_map(|answer| Some((answer.endpoint.as_str(), answer.get()?)))
            .collect()
    }

    fn word(&self) -> &'static str {
        if !self.differ.is_empty() {
            "different"
        } else if self.answered().len() < self.endpoints.len() || self.undecided > 0 {
            "incomplete"
        } else {
            "equal"
        }
    }

    /// In how many chunks the replica differs from most of the others.
    fn blame(&self, replica: usize) -> usize {
        let others = self.answered().len().saturating_sub(1);
        let is_odd = |pairs: &&Vec<(usize, usize)>| {
            let with = |pair: &&(usize, usize)| pair.0 == replica || pair.1 == replica;
            2 * pairs.iter().filter(with).count() > others
        };
        self.differ.values().filter(is_odd).count()
    }

    /// # Errors
    /// When something differs (exit code 4), or not everything could be compared (exit code 1).
    pub(super) fn into_result(self) -> Result<(), Failure> {
        let (compared, chunks) = (self.compared(), self.chunks);
        match self.word() {
            "equal" => Ok(()),
            "different" => Err(Failure::with(
                Exit::Divergence,
                format!("{} of {chunks} chunks differ", self.differ.len()),
            )
            .next(
                "keep the logs; stop the replica that differs and start it again, blank: it \
                 recovers from the others",
            )),
            _ if self.undecided > 0 => Err(Failure::new(format!(
                "{compared} of {chunks} chunks could be compared; {} changed whenever they were \
                 looked at",
                self.undecided
            ))
            .next("nothing differs; verify again while fewer writes come in")),
            _ => {
                let (answered, asked) = (self.answered().len(), self.endpoints.len());
                Err(
                    Failure::new(format!("only {answered} of {asked} could be compared"))
                        .next("bring the others back, then verify again; see `vsr-cli status`"),
                )
            }
        }
    }

    const fn compared(&self) -> u64 {
        self.chunks - self.undecided
    }

    pub(super) fn json(&self) -> serde_json::Value {
        let answered = self.answered();
        let digests = |chunk: u64| -> serde_json::Map<String, serde_json::Value> {
            let newest = |survey: &Survey| survey.of(chunk).last().cloned();
            answered
                .iter()
                .map(|(endpoint, survey)| {
                    let digest = newest(survey).and_then(|sample| sample.digest);
                    ((*endpoint).to_owned(), json!(digest))
                })
                .collect()
        };
        let differ: Vec<_> = self.differ.keys().take(LISTED_MAX).collect();
        json!({
            "verdict": self.word(),
            "chunks": self.chunks,
            "chunk_bytes": self.chunk_bytes,
            "compared": self.compared(),
            "different": self.differ.len(),
            "kept_changing": self.undecided,
            "first_different": differ
                .into_iter()
                .map(|chunk| json!({"chunk": chunk, "digests": digests(*chunk)}))
                .collect::<Vec<_>>(),
            "replicas": self.endpoints.iter().map(|answer| match &answer.result {
                Ok(survey) => json!({
                    "endpoint": answer.endpoint, "op": survey.op, "chunks": survey.count,
                    "damaged": survey.damaged,
                }),
                Err(why) => json!({"endpoint": answer.endpoint, "error": why}),
            }).collect::<Vec<_>>(),
        })
    }

    pub(super) fn blocks(&self) -> Vec<Block> {
        let mut table = Table::new(&["endpoint", ">op", ">chunks", ">differs in", "verdict"]);
        let mut replica = 0;
        for answer in &self.endpoints {
            let endpoint = answer.endpoint.as_str();
            match &answer.result {
                Ok(survey) => {
                    let blame = self.blame(replica);
                    replica += 1;
                    let (word, tone) = match (blame, survey.damaged) {
                        (0, false) => ("as the others", Tone::Good),
                        (_, true) => ("has met damage and waits for its repair", Tone::Warn),
                        (_, false) => ("different", Tone::Bad),
                    };
                    table.row(vec![
                        endpoint.into(),
                        Cell::number(survey.op),
                        Cell::number(survey.count),
                        Cell::number(blame as u64),
                        Cell::toned(word, tone),
                    ]);
                }
                Err(why) => table.row(vec![
                    endpoint.into(),
                    "-".into(),
                    "-".into(),
                    "-".into(),
                    Cell::toned(why, Tone::Bad),
                ]),
            }
        }
        let mut blocks = vec![
            Block::Title("chunk by chunk".into()),
            Block::Table(table),
            self.summary(),
        ];
        if !self.differ.is_empty() {
            blocks.push(Block::Title("chunks that differ".into()));
            blocks.push(Block::Table(self.differing()));
        }
        blocks
    }

    fn summary(&self) -> Block {
        let size = units::bytes((self.compared() * self.chunk_bytes) as f64);
        let mut line = format!(
            "{} of {} chunks compared ({size}), {} different",
            self.compared(),
            self.chunks,
            self.differ.len()
        );
        if self.undecided > 0 {
            line.push_str(&format!(
                "; {} changed whenever they were looked at and could not be compared",
                self.undecided
            ));
        }
        let tone = match self.word() {
            "equal" => Tone::Good,
            "different" => Tone::Bad,
            _ => Tone::Warn,
        };
        Block::Line(line, tone)
    }

    /// One row per chunk, one column per replica.
    fn differing(&self) -> Table {
        let answered = self.answered();
        let mut titles = vec![">chunk", ">from byte"];
        titles.extend(answered.iter().map(|(endpoint, _)| *endpoint));
        let mut table = Table::new(&titles);
        for chunk in self.differ.keys().take(LISTED_MAX) {
            let mut row = vec![Cell::number(*chunk), Cell::number(chunk * self.chunk_bytes)];
            for (_, survey) in &answered {
                let newest = survey.of(*chunk).last();
                let digest = newest.and_then(|sample| sample.digest.as_deref());
                row.push(digest.unwrap_or("none").into());
            }
            table.row(row);
        }
        table
    }
}

#[cfg(test)]
mod tests;
