//! Reads an image file from front to back, one record at a time.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use vsr_types::{HEADER_SIZE, Hasher, Header, checksum};

use super::format::{
    CHUNK_MAGIC, ENTRY_MAX, ENTRY_MIN, FILE_HEADER_SIZE, FORMAT, FileHeader, LOG_MAGIC, MAGIC,
    Record, Trailer,
};
use super::{Facts, ImageFileError, Summary};

/// What follows in a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A chunk of the image, and its bytes.
    Chunk(u64, &'a [u8]),
    /// An entry of the log: its header, and its body.
    Entry(Box<Header>, &'a [u8]),
}

/// A file that is being read. What it has handed out is what was written; whether the whole is, says
/// [`Self::finish`].
#[derive(Debug)]
pub struct ImageReader {
    path: PathBuf,
    file: BufReader<File>,
    header: FileHeader,
    facts: Facts,
    /// How many chunks and entries were read.
    chunks: u64,
    entries: u64,
    at: u64,
    log_end: u64,
    all: Hasher,
    buffer: Vec<u8>,
}

impl ImageReader {
    /// Opens a file and verifies its header and its length.
    ///
    /// # Errors
    /// See [`ImageFileError`].
    pub fn open(path: &Path) -> Result<Self, ImageFileError> {
        Self::open_with(path, true)
    }

    /// As [`Self::open`]; a file that is being finished has no trailer yet.
    pub(super) fn open_with(path: &Path, has_trailer: bool) -> Result<Self, ImageFileError> {
        let file = File::open(path).map_err(ImageFileError::io(path))?;
        let found = file.metadata().map_err(ImageFileError::io(path))?.len();
        let mut file = BufReader::with_capacity(256 << 10, file);
        let path = path.to_owned();
        if found < FILE_HEADER_SIZE as u64 {
            return Err(ImageFileError::NotAnImage { path });
        }
        let mut page = vec![0; FILE_HEADER_SIZE];
        file.read_exact(&mut page)
            .map_err(ImageFileError::io(&path))?;
        let header: FileHeader = bytemuck::pod_read_unaligned(&page[..size_of::<FileHeader>()]);
        if page.iter().all(|&byte| byte == 0) {
            return Err(ImageFileError::Unfinished { path });
        }
        if header.magic != MAGIC {
            return Err(ImageFileError::NotAnImage { path });
        }
        if header.format != FORMAT {
            return Err(ImageFileError::Format {
                path,
                found: header.format,
            });
        }
        let damaged = |what| ImageFileError::Damaged {
            path: path.clone(),
            what,
            at: 0,
        };
        if !header.is_intact(&page) {
            return Err(damaged("the header"));
        }
        let facts = header.facts().ok_or_else(|| damaged("the header"))?;
        let length = header.length().ok_or_else(|| damaged("the header"))?;
        let trailer = if has_trailer {
            0
        } else {
            size_of::<Trailer>() as u64
        };
        if found != length - trailer {
            return Err(ImageFileError::Length {
                path,
                expected: length,
                found,
            });
        }
        Ok(Self {
            path,
            file,
            facts,
            chunks: 0,
            entries: 0,
            at: FILE_HEADER_SIZE as u64,
            log_end: length - size_of::<Trailer>() as u64,
            all: Hasher::new().update(&page),
            buffer: Vec::new(),
            header,
        })
    }

    /// What the file says about itself.
    #[must_use]
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Its size in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.log_end + size_of::<Trailer>() as u64
    }

    /// How many bytes were read and verified.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.at
    }

    /// What comes next, verified; none after the last.
    ///
    /// # Errors
    /// When it is not what was written.
    pub fn next_item(&mut self) -> Result<Option<Item<'_>>, ImageFileError> {
        if self.chunks < self.header.offer.chunks {
            return self.next_chunk().map(Some);
        }
        if self.entries < self.header.log_entries {
            return self.next_entry().map(Some);
        }
        Ok(None)
    }

    fn next_chunk(&mut self) -> Result<Item<'_>, ImageFileError> {
        let chunk = self.chunks;
        let record = self.record(CHUNK_MAGIC)?;
        let slot = self.header.slot_size as usize;
        let size = record.size as usize;
        if record.number != chunk || size > slot || size == 0 {
            return Err(self.damaged("a chunk"));
        }
        self.content(&record, slot, "a chunk")?;
        self.chunks += 1;
        Ok(Item::Chunk(chunk, &self.buffer[..size]))
    }

    fn next_entry(&mut self) -> Result<Item<'_>, ImageFileError> {
        let record = self.record(LOG_MAGIC)?;
        let size = record.size as usize;
        let fits = (ENTRY_MIN..=ENTRY_MAX).contains(&size) && self.at + size as u64 <= self.log_end;
        if !fits {
            return Err(self.damaged("a log entry"));
        }
        self.content(&record, size, "a log entry")?;
        self.entries += 1;
        let (head, body) = self.buffer.split_at(HEADER_SIZE);
        let header = Box::new(bytemuck::pod_read_unaligned::<Header>(head));
        Ok(Item::Entry(header, body))
    }

    fn record(&mut self, magic: u32) -> Result<Record, ImageFileError> {
        let mut bytes = [0; size_of::<Record>()];
        self.read(&mut bytes)?;
        let record: Record = bytemuck::pod_read_unaligned(&bytes);
        if !record.is_intact(magic) {
            return Err(self.damaged("what precedes a chunk or an entry"));
        }
        self.at += bytes.len() as u64;
        self.all = self.all.update(&bytes);
        Ok(record)
    }

    /// Reads what follows a record, which is bounded by now.
    fn content(
        &mut self,
        record: &Record,
        size: usize,
        what: &'static str,
    ) -> Result<(), ImageFileError> {
        let mut buffer = core::mem::take(&mut self.buffer);
        buffer.resize(size, 0);
        let read = self.read(&mut buffer);
        self.buffer = buffer;
        read?;
        let tail = self.buffer.get(record.size as usize..).unwrap_or_default();
        if checksum(&self.buffer) != record.content || tail.iter().any(|&byte| byte != 0) {
            return Err(self.damaged(what));
        }
        self.at += size as u64;
        Ok(())
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), ImageFileError> {
        self.file
            .read_exact(into)
            .map_err(ImageFileError::io(&self.path))
    }

    fn damaged(&self, what: &'static str) -> ImageFileError {
        ImageFileError::Damaged {
            path: self.path.clone(),
            what,
            at: self.at,
        }
    }

    /// Reads whatever was not read yet, and says whether the file as a whole is what was written.
    ///
    /// # Errors
    /// When it is not.
    pub fn finish(mut self) -> Result<Summary, ImageFileError> {
        while self.next_item()?.is_some() {}
        let trailer = self.expected_trailer()?;
        let mut bytes = [0; size_of::<Trailer>()];
        self.read(&mut bytes)?;
        if bytes != bytemuck::bytes_of(&trailer) {
            return Err(self.damaged("the trailer"));
        }
        Ok(Summary {
            size: self.size(),
            path: self.path,
            facts: self.facts,
            log_entries: self.header.log_entries,
            checksum: trailer.all.raw(),
        })
    }

    /// The trailer that belongs to what was read.
    pub(super) fn expected_trailer(&self) -> Result<Trailer, ImageFileError> {
        if self.at != self.log_end {
            return Err(self.damaged("the log"));
        }
        Ok(Trailer::new(&self.header, self.all.finish()))
    }
}
