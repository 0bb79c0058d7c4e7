//! Files as what an export writes to and an import reads from.

use std::io;
use std::path::{Path, PathBuf};

use vsr_net::export::ImageSink;
use vsr_net::init::ImageSource;
use vsr_types::message::ImageOffer;

use super::{Facts, ImageFileError, ImageReader, ImageWriter, Item, Summary};

/// The file that an export's chunks go to.
#[derive(Debug)]
pub struct FileSink {
    path: PathBuf,
    writer: Option<ImageWriter>,
    failed: Option<ImageFileError>,
}

impl FileSink {
    /// Begins with the first chunk; nothing is there before.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            writer: None,
            failed: None,
        }
    }

    /// Why it could not be written.
    pub const fn take_error(&mut self) -> Option<ImageFileError> {
        self.failed.take()
    }

    /// Everything has come.
    ///
    /// # Errors
    /// See [`ImageWriter::finish`].
    pub fn finish(self, facts: &Facts) -> Result<Summary, ImageFileError> {
        match self.writer {
            Some(writer) => writer.finish(facts),
            None => Err(ImageFileError::Moved),
        }
    }

    fn keep<T>(&mut self, result: Result<T, ImageFileError>) -> io::Result<T> {
        result.map_err(|error| {
            let text = error.to_string();
            self.failed = Some(error);
            io::Error::other(text)
        })
    }
}

impl ImageSink for FileSink {
    fn begin(&mut self, offer: &ImageOffer) -> io::Result<()> {
        let created = ImageWriter::create(&self.path, offer.chunk_size);
        self.writer = Some(self.keep(created)?);
        Ok(())
    }

    fn put(&mut self, chunk: u64, bytes: &[u8]) -> io::Result<()> {
        let Some(writer) = &mut self.writer else {
            return Err(io::Error::other("a chunk before its announcement"));
        };
        let put = writer.put(chunk, bytes);
        self.keep(put)
    }
}

impl ImageSource for ImageReader {
    fn offer(&self) -> ImageOffer {
        self.facts().offer
    }

    fn next_chunk(&mut self) -> io::Result<Option<(u64, &[u8])>> {
        let item = self.next_item();
        match item.map_err(|error| io::Error::other(error.to_string()))? {
            Some(Item::Chunk(chunk, bytes)) => Ok(Some((chunk, bytes))),
            // The end of the log is for people.
            Some(Item::Entry(..)) | None => Ok(None),
        }
    }
}
