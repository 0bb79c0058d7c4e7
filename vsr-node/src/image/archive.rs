//! The image of a node's own replica, while the node's loop goes on turning (R10.4).
//!
//! The state must stand still meanwhile, which the end of an epoch gives for nothing: the primary appends
//! nothing before the archive exists. The loop reads a piece of the state into a buffer, another thread
//! writes it; in between everybody else gets a turn.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use vsr_consensus::{Replica, StateMachine};
use vsr_types::message::ImageOffer;
use vsr_types::{ClusterId, Epoch, Header, Op};

use super::{Facts, ImageFileError, ImageReader, ImageWriter, Summary};
use crate::server::Server;

/// How many bytes of state the loop copies at a time: a tenth of a millisecond's work.
const SLICE: usize = 1 << 20;
/// How many bytes of the log's end are kept with the state.
const LOG_BYTES_MAX: usize = 16 << 20;

/// The name of the archive of an epoch's end. The cluster's id is part of it: one that was begun with an
/// archive of another has that one's name and epochs, and may have its folder.
#[must_use]
pub fn path_of(folder: &Path, cluster_name: &str, cluster: ClusterId, epoch: Epoch) -> PathBuf {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = cluster_name
        .chars()
        .map(|c| if is_plain(c) { c } else { '_' })
        .collect();
    let id = cluster.to_string();
    let short = id.get(..8).unwrap_or(&id);
    folder.join(format!("{name}-{short}-epoch{}.vsr", epoch.raw()))
}

/// Writes the state of `server`'s replica, which must stand still meanwhile, and the end of its log to the
/// archive of `epoch` in `folder`. An archive of the same cluster that is there already is replaced.
///
/// # Errors
/// When the state moves, or the system refuses: then nothing but what was there before is there.
pub async fn write<S: StateMachine + 'static>(
    server: &Server<S>,
    folder: &Path,
    cluster_name: &str,
    epoch: Epoch,
) -> Result<Summary, ImageFileError> {
    let facts = server
        .with_replica(|replica| facts_of(replica, cluster_name))
        .ok_or(ImageFileError::Moved)?;
    let (offer, cluster) = (facts.offer, facts.cluster());
    let path = path_of(folder, cluster_name, cluster, epoch);
    let mut writer = on_another_thread(move || {
        look_before(&path, cluster)?;
        ImageWriter::create(&path, offer.chunk_size)
    })
    .await?;
    let mut next = 0;
    while next < offer.chunks {
        let piece = server
            .with_replica(|replica| read_piece(replica, &offer, next))
            .ok_or(ImageFileError::Moved)?;
        next += piece.sizes.len() as u64;
        writer = on_another_thread(move || {
            piece.write(&mut writer)?;
            Ok(writer)
        })
        .await?;
    }
    let mut op = server.with_replica(first_entry);
    while op <= facts.op() {
        let (entries, after) = server.with_replica(|replica| read_entries(replica, op, facts.op()));
        op = after;
        writer = on_another_thread(move || {
            for (header, body) in &entries {
                writer.put_entry(offer.chunks, header, body)?;
            }
            Ok(writer)
        })
        .await?;
    }
    on_another_thread(move || writer.finish(&facts)).await
}

async fn on_another_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageFileError> + Send + 'static,
) -> Result<T, ImageFileError> {
    let done = tokio::task::spawn_blocking(work).await;
    // It was not cancelled, so it has panicked, and so do we.
    done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// What a file of the present state says about itself.
fn facts_of<S: StateMachine>(replica: &Replica<S>, cluster_name: &str) -> Option<Facts> {
    let written = SystemTime::now().duration_since(UNIX_EPOCH);
    let written = written.unwrap_or_default().as_nanos();
    Some(Facts {
        offer: replica.image_offer()?,
        cluster_name: cluster_name.to_owned(),
        op_max: replica.op_max().raw(),
        replica: replica.report().replica.raw(),
        written_ns: u64::try_from(written).unwrap_or(u64::MAX),
    })
}

/// Only an archive of the same cluster is replaced: the folder may be another cluster's as well.
fn look_before(path: &Path, cluster: ClusterId) -> Result<(), ImageFileError> {
    if !path.exists() {
        return Ok(());
    }
    match ImageReader::open(path) {
        Ok(there) if there.facts().cluster() != cluster => Err(ImageFileError::Taken {
            path: path.to_owned(),
            cluster: there.facts().cluster(),
        }),
        // What cannot be read is no loss.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Some chunks in a row.
struct Piece {
    first: u64,
    bytes: Vec<u8>,
    sizes: Vec<usize>,
}

impl Piece {
    fn write(&self, writer: &mut ImageWriter) -> Result<(), ImageFileError> {
        let mut at = 0;
        for (chunk, &size) in (self.first..).zip(&self.sizes) {
            writer.put(chunk, &self.bytes[at..at + size])?;
            at += size;
        }
        Ok(())
    }
}

/// Reads chunks from `first` on; none when the state is not the one of `offer` any more.
fn read_piece<S: StateMachine>(
    replica: &Replica<S>,
    offer: &ImageOffer,
    first: u64,
) -> Option<Piece> {
    if replica.image_offer().as_ref() != Some(offer) {
        return None;
    }
    let mut piece = Piece {
        first,
        bytes: Vec::with_capacity(SLICE + offer.chunk_size as usize),
        sizes: Vec::new(),
    };
    for chunk in first..offer.chunks {
        let at = piece.bytes.len();
        if at >= SLICE {
            break;
        }
        piece.bytes.resize(at + offer.chunk_size as usize, 0);
        let size = replica.image_chunk(chunk, &mut piece.bytes[at..])?;
        piece.bytes.truncate(at + size);
        piece.sizes.push(size);
    }
    Some(piece)
}

/// The first entry of the log's end that is kept.
fn first_entry<S: StateMachine>(replica: &Replica<S>) -> Op {
    let report = replica.report();
    let (mut op, mut bytes) = (report.applied, 0);
    while op >= report.tail && bytes < LOG_BYTES_MAX {
        let Some(header) = replica.log_header(op) else {
            break;
        };
        bytes += header.size();
        op = op.minus(1);
    }
    op.next()
}

type Entries = Vec<(Box<Header>, Box<[u8]>)>;

/// Reads entries from `op` up to `last`, and says which one comes next. What cannot be read is left out: the
/// state is whole without it.
fn read_entries<S: StateMachine>(replica: &Replica<S>, op: Op, last: Op) -> (Entries, Op) {
    let (mut entries, mut bytes, mut op) = (Entries::new(), 0, op);
    while op <= last && bytes < SLICE {
        if let (Some(header), Some(body)) = (replica.log_header(op), replica.log_body(op)) {
            bytes += header.size();
            entries.push((Box::new(header), body.into()));
        }
        op = op.next();
    }
    (entries, op)
}
