//! The layouts of an image file, all little endian.

use bytemuck::{Pod, Zeroable};
use vsr_types::message::{ImageOffer, Prepare};
use vsr_types::{Checksum, HEADER_SIZE, checksum, limits};

use super::Facts;

/// What every image file begins with.
pub(super) const MAGIC: [u8; 8] = *b"vsr-img\n";
/// And what its trailer begins with.
pub(super) const END_MAGIC: [u8; 8] = *b"vsr-end\n";
/// The version of this format.
pub const FORMAT: u32 = 1;
/// The size of the header, in bytes: a page, so that chunks begin on one.
pub const FILE_HEADER_SIZE: usize = 4096;

/// In front of a chunk.
pub(super) const CHUNK_MAGIC: u32 = u32::from_le_bytes(*b"CHNK");
/// In front of a log entry.
pub(super) const LOG_MAGIC: u32 = u32::from_le_bytes(*b"LOGE");

/// The largest slot.
pub(super) const SLOT_MAX: u64 = limits::BODY_SIZE_MAX as u64;
/// The largest log entry: a frame.
pub(super) const ENTRY_MAX: usize = limits::FRAME_SIZE_MAX;
/// The smallest: a header.
pub(super) const ENTRY_MIN: usize = HEADER_SIZE;
/// No image has more chunks.
pub(super) const CHUNKS_MAX: u64 = 1 << 32;

/// The beginning of the header; what follows it up to [`FILE_HEADER_SIZE`] is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct FileHeader {
    pub(super) magic: [u8; 8],
    pub(super) format: u32,
    /// Of everything behind it, zeros included.
    pub(super) checksum: Checksum,
    pub(super) written_ns: u64,
    pub(super) op_max: u64,
    pub(super) slot_size: u64,
    pub(super) log_entries: u64,
    pub(super) log_bytes: u64,
    pub(super) replica: u64,
    pub(super) name_size: u64,
    pub(super) name: [u8; limits::CLUSTER_NAME_MAX],
    pub(super) offer: ImageOffer,
}

/// Where what the header's checksum covers begins.
const COVERED_FROM: usize = 16;

const _: () = assert!(size_of::<FileHeader>() <= FILE_HEADER_SIZE);
const _: () = assert!(core::mem::offset_of!(FileHeader, written_ns) == COVERED_FROM);

impl FileHeader {
    pub(super) fn new(facts: &Facts, slot_size: u64, log_entries: u64, log_bytes: u64) -> Self {
        let mut name = [0; limits::CLUSTER_NAME_MAX];
        let size = facts.cluster_name.len().min(name.len());
        name[..size].copy_from_slice(&facts.cluster_name.as_bytes()[..size]);
        Self {
            magic: MAGIC,
            format: FORMAT,
            checksum: Checksum::new(0),
            written_ns: facts.written_ns,
            op_max: facts.op_max,
            slot_size,
            log_entries,
            log_bytes,
            replica: u64::from(facts.replica),
            name_size: size as u64,
            name,
            offer: facts.offer,
        }
    }

    /// As it stands in the file.
    pub(super) fn sealed(mut self) -> Box<[u8]> {
        let mut page = vec![0; FILE_HEADER_SIZE].into_boxed_slice();
        page[..size_of::<Self>()].copy_from_slice(bytemuck::bytes_of(&self));
        self.checksum = checksum(&page[COVERED_FROM..]);
        page[..size_of::<Self>()].copy_from_slice(bytemuck::bytes_of(&self));
        page
    }

    /// Whether the page in which it stands is what was written.
    pub(super) fn is_intact(&self, page: &[u8]) -> bool {
        self.checksum == checksum(&page[COVERED_FROM..])
    }

    /// What it says, if it does not contradict itself.
    pub(super) fn facts(&self) -> Option<Facts> {
        let name = self.name.get(..usize::try_from(self.name_size).ok()?)?;
        let offer = self.offer;
        let is_sound = (1..=SLOT_MAX).contains(&self.slot_size)
            && self.slot_size.is_multiple_of(8)
            && offer.chunk_size <= self.slot_size
            && offer.chunks <= CHUNKS_MAX
            && offer.session_chunks <= offer.chunks
            && offer.header.is_intact()
            && offer.header.fields::<Prepare>().is_some()
            && self.op_max > 0;
        is_sound.then_some(Facts {
            offer,
            cluster_name: core::str::from_utf8(name).ok()?.to_owned(),
            op_max: self.op_max,
            replica: u8::try_from(self.replica).ok()?,
            written_ns: self.written_ns,
        })
    }

    /// Where the log entries begin; none when the numbers are absurd.
    pub(super) fn log_at(&self) -> Option<u64> {
        chunk_at(self.offer.chunks, self.slot_size)
    }

    /// How long the file is.
    pub(super) fn length(&self) -> Option<u64> {
        let trailer = self.log_at()?.checked_add(self.log_bytes)?;
        trailer.checked_add(size_of::<Trailer>() as u64)
    }
}

/// Where a chunk's record begins.
pub(super) fn chunk_at(chunk: u64, slot_size: u64) -> Option<u64> {
    let pitch = slot_size.checked_add(size_of::<Record>() as u64)?;
    chunk
        .checked_mul(pitch)?
        .checked_add(FILE_HEADER_SIZE as u64)
}

/// In front of a chunk or a log entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Record {
    pub(super) magic: u32,
    /// Of the rest of this record.
    checksum: Checksum,
    /// Which chunk, or which op.
    pub(super) number: u64,
    /// How many bytes of what follows count.
    pub(super) size: u32,
    /// The checksum of everything that follows up to the next record.
    pub(super) content: Checksum,
    reserved: u64,
}

impl Record {
    pub(super) fn new(magic: u32, number: u64, size: usize, content: Checksum) -> Self {
        let mut record = Self {
            magic,
            checksum: Checksum::new(0),
            number,
            size: size as u32,
            content,
            reserved: 0,
        };
        record.checksum = record.computed();
        record
    }

    fn computed(&self) -> Checksum {
        checksum(&bytemuck::bytes_of(self)[8..])
    }

    pub(super) fn is_intact(&self, magic: u32) -> bool {
        self.magic == magic && self.checksum == self.computed()
    }
}

/// The end of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Trailer {
    magic: [u8; 8],
    /// Of the rest of the trailer.
    checksum: Checksum,
    /// Of the header's page and of every record, in their order; the records cover what follows them.
    pub(super) all: Checksum,
    chunks: u64,
    log_entries: u64,
    reserved: [u64; 4],
}

impl Trailer {
    pub(super) fn new(header: &FileHeader, all: Checksum) -> Self {
        let mut trailer = Self {
            magic: END_MAGIC,
            checksum: Checksum::new(0),
            all,
            chunks: header.offer.chunks,
            log_entries: header.log_entries,
            reserved: [0; 4],
        };
        trailer.checksum = checksum(&bytemuck::bytes_of(&trailer)[12..]);
        trailer
    }
}
