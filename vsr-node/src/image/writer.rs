//! Writes an image file: chunks in any order, again and again, and at the end what they are.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use vsr_types::{Hasher, Header, checksum};

use super::format::{CHUNK_MAGIC, FileHeader, LOG_MAGIC, Record, SLOT_MAX, chunk_at};
use super::{Facts, ImageFileError, ImageReader, Summary};

/// A file that is being written, under a temporary name: gone when dropped before [`Self::finish`].
#[derive(Debug)]
pub struct ImageWriter {
    target: PathBuf,
    temporary: PathBuf,
    file: File,
    slot_size: u64,
    zeros: Box<[u8]>,
    /// Where the next log entry goes, and how many there are.
    log: Option<(u64, u64)>,
    is_finished: bool,
}

impl ImageWriter {
    /// Begins a file that will be called `target`, for chunks of at most `chunk_size` bytes.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn create(target: &Path, chunk_size: u64) -> Result<Self, ImageFileError> {
        let slot_size = chunk_size
            .clamp(1, SLOT_MAX)
            .next_multiple_of(8)
            .min(SLOT_MAX);
        let temporary = temporary_name(target);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)
            .map_err(ImageFileError::io(&temporary))?;
        Ok(Self {
            target: target.to_owned(),
            temporary,
            file,
            slot_size,
            zeros: vec![0; slot_size as usize].into_boxed_slice(),
            log: None,
            is_finished: false,
        })
    }

    /// Writes a chunk, perhaps once more: the last one counts.
    ///
    /// # Errors
    /// When the system refuses, or the chunk is larger than was said.
    pub fn put(&mut self, chunk: u64, bytes: &[u8]) -> Result<(), ImageFileError> {
        let rest = self.zeros.len().checked_sub(bytes.len());
        let (Some(rest), Some(at)) = (rest, chunk_at(chunk, self.slot_size)) else {
            return Err(self.broken("a chunk is larger than its announcement"));
        };
        let content = Hasher::new().update(bytes).update(&self.zeros[..rest]);
        let record = Record::new(CHUNK_MAGIC, chunk, bytes.len(), content.finish());
        let head = bytemuck::bytes_of(&record);
        let write = |bytes: &[u8], at| self.file.write_all_at(bytes, at);
        write(head, at)
            .and_then(|()| write(bytes, at + head.len() as u64))
            // What an earlier, longer one left there goes.
            .and_then(|()| write(&self.zeros[..rest], at + (head.len() + bytes.len()) as u64))
            .map_err(ImageFileError::io(&self.temporary))
    }

    /// Writes an entry of the log behind the `chunks` chunks, and behind the entries before it. No chunk
    /// comes after it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn put_entry(
        &mut self,
        chunks: u64,
        header: &Header,
        body: &[u8],
    ) -> Result<(), ImageFileError> {
        let begin =
            chunk_at(chunks, self.slot_size).ok_or_else(|| self.broken("too many chunks"))?;
        let (at, count) = self.log.unwrap_or((begin, 0));
        let bytes = [bytemuck::bytes_of(header), body].concat();
        let op = header.fields::<vsr_types::message::Prepare>();
        let record = Record::new(
            LOG_MAGIC,
            op.map_or(0, |prepare| prepare.op.raw()),
            bytes.len(),
            checksum(&bytes),
        );
        let whole = [bytemuck::bytes_of(&record), &bytes].concat();
        self.file
            .write_all_at(&whole, at)
            .map_err(ImageFileError::io(&self.temporary))?;
        self.log = Some((at + whole.len() as u64, count + 1));
        Ok(())
    }

    /// Everything was put: writes the header, reads all of it back, writes the trailer, makes it durable and
    /// gives it its name.
    ///
    /// # Errors
    /// When the system refuses, a chunk is missing, or what is read is not what was written.
    pub fn finish(mut self, facts: &Facts) -> Result<Summary, ImageFileError> {
        let io = ImageFileError::io(&self.temporary);
        let begin = chunk_at(facts.offer.chunks, self.slot_size)
            .ok_or_else(|| self.broken("too many chunks"))?;
        let (end, entries) = self.log.unwrap_or((begin, 0));
        let header = FileHeader::new(facts, self.slot_size, entries, end - begin);
        let page = header.sealed();
        self.file.set_len(end).map_err(&io)?;
        // The chunks are there for good before the header says so.
        self.file.sync_data().map_err(&io)?;
        self.file.write_all_at(&page, 0).map_err(&io)?;
        let mut reader = ImageReader::open_with(&self.temporary, false)?;
        while reader.next_item()?.is_some() {}
        let trailer = reader.expected_trailer()?;
        self.file.seek(SeekFrom::Start(end)).map_err(&io)?;
        self.file
            .write_all(bytemuck::bytes_of(&trailer))
            .map_err(&io)?;
        self.file.sync_all().map_err(&io)?;
        fs::rename(&self.temporary, &self.target).map_err(&io)?;
        self.is_finished = true;
        sync_folder(&self.target)?;
        Ok(Summary {
            path: self.target.clone(),
            facts: facts.clone(),
            size: end + size_of_val(&trailer) as u64,
            log_entries: entries,
            checksum: trailer.all.raw(),
        })
    }

    fn broken(&self, what: &'static str) -> ImageFileError {
        ImageFileError::Damaged {
            path: self.temporary.clone(),
            what,
            at: 0,
        }
    }
}

impl Drop for ImageWriter {
    fn drop(&mut self) {
        if !self.is_finished {
            // Nobody else will want what is there of it; if it cannot be removed it does no harm.
            drop(fs::remove_file(&self.temporary));
        }
    }
}

/// In the same folder, so that renaming does not copy; one for each process.
fn temporary_name(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{}.partial", std::process::id()))
}

/// A new name is durable when its folder is.
fn sync_folder(target: &Path) -> Result<(), ImageFileError> {
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(ImageFileError::io(folder))
}
