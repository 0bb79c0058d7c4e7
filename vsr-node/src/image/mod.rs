//! State images as files: an export, an archive at the end of an epoch, what a new cluster begins with
//! (N22, N26).
//!
//! A file holds the state after one op, byte for byte as replicas hold it, and what there is to know about
//! it. Everything in it is covered by a checksum, twice: each record by its own, and all of them, in their
//! order, by the trailer's. A file that was not finished has no header, so it is never taken for a whole one.
//!
//! ```text
//! 0         4096                                                                       end
//! | header | chunk 0 | chunk 1 | ...            | log entry | log entry | ... | trailer |
//!            '- 32 bytes about it, then `slot` bytes: what a chunk does not fill is zero
//! ```
//!
//! Chunks are of one size in the file, so that an export can write them in place, again and again, while
//! the state that they are part of goes on changing. The log entries are the last ones before the op, if
//! the writer had them: a record of what happened, not needed to begin with the state.
//!
//! - [`ImageWriter`]: writes to a temporary name, reads back what it wrote, and only then renames it.
//! - [`ImageReader`]: from front to back in bounded memory; nothing is believed before it is verified.
//! - [`archive`]: the image of a node's own replica, while its loop goes on turning.
//!
//! **Architecture invariants.** No byte of a file is a reason to panic, and none makes a reader allocate
//! more than one record of the largest size.

pub mod archive;
mod format;
mod ports;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::{Path, PathBuf};

use vsr_types::message::{ImageOffer, Prepare};
use vsr_types::{ClusterId, Digest, Op, OpMax, OpName, Timestamp, View};

pub use format::{FILE_HEADER_SIZE, FORMAT};
pub use ports::FileSink;
pub use reader::{ImageReader, Item};
pub use writer::ImageWriter;

/// What a file says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What the chunks are the state of, and what they fit.
    pub offer: ImageOffer,
    /// The name of the cluster that it was taken from.
    pub cluster_name: String,
    /// How that cluster names its ops.
    pub op_max: u64,
    /// Which replica gave it.
    pub replica: u8,
    /// When it was written, in nanoseconds since the Unix epoch, by the writer's clock.
    pub written_ns: u64,
}

impl Facts {
    /// The cluster that it was taken from.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.offer.header.cluster()
    }

    fn last(&self) -> Prepare {
        let last = self.offer.header.fields::<Prepare>();
        *last.expect("facts are of a prepare")
    }

    /// The op that it is the state after.
    #[must_use]
    pub fn op(&self) -> Op {
        self.last().op
    }

    /// That op's name there.
    #[must_use]
    pub fn name(&self) -> OpName {
        OpMax::new(self.op_max).map_or_else(OpName::default, |op_max| op_max.name(self.op()))
    }

    /// The replicated time after that op.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.last().timestamp
    }

    /// The view in which that op was prepared.
    #[must_use]
    pub const fn view(&self) -> View {
        self.offer.header.view()
    }

    /// The digest of machine and sessions.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.offer.digest
    }

    /// The machine's format, for people.
    #[must_use]
    pub fn machine(&self) -> String {
        let name = &self.offer.layout.name;
        let end = name
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(name.len());
        String::from_utf8_lossy(&name[..end]).into_owned()
    }
}

/// What is in a file that was written, or read to its end, and is sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Where it is.
    pub path: PathBuf,
    /// What it says about itself.
    pub facts: Facts,
    /// Its size in bytes.
    pub size: u64,
    /// How many entries of the log it holds.
    pub log_entries: u64,
    /// The checksum over everything.
    pub checksum: u32,
}

/// Why a file was not written, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageFileError {
    /// The system refuses.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error("{path} is no image of a cluster's state; images are made by `vsr-cli export`", path = .path.display())]
    NotAnImage {
        /// Which file.
        path: PathBuf,
    },
    /// Its writer did not come to its end.
    #[error("{path} was not finished: its writer was interrupted; use another image", path = .path.display())]
    Unfinished {
        /// Which file.
        path: PathBuf,
    },
    /// It was written by another version.
    #[error(
        "{path} has format {found}, this build reads format {FORMAT}; use the version of vsr that \
         wrote it",
        path = .path.display()
    )]
    Format {
        /// Which file.
        path: PathBuf,
        /// What it has.
        found: u32,
    },
    /// It is shorter or longer than it says.
    #[error(
        "{path} has {found} bytes and should have {expected}: it was cut off or added to; copy it \
         again, or use another image",
        path = .path.display()
    )]
    Length {
        /// Which file.
        path: PathBuf,
        /// What its header says.
        expected: u64,
        /// What it has.
        found: u64,
    },
    /// Bytes are not what was written.
    #[error(
        "{path} is damaged: {what} at byte {at} is not what was written; copy it again, or use \
         another image",
        path = .path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
        /// Where that begins.
        at: u64,
    },
    /// The state is not the one that is to be written any more, or there is none.
    #[error("the state of this replica went on, or is being repaired: nothing was written")]
    Moved,
    /// There is a file of that name already, of another cluster.
    #[error(
        "{path} is an image of another cluster ({cluster}); move it away, or choose another folder",
        path = .path.display()
    )]
    Taken {
        /// Which file.
        path: PathBuf,
        /// Whose image it is.
        cluster: ClusterId,
    },
}

impl ImageFileError {
    fn io(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}
