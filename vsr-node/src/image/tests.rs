//! What is read is what was written, or it is refused; no byte of a file harms its reader.

use std::fs;
use std::path::{Path, PathBuf};

use bytemuck::Zeroable;
use vsr_types::message::{ImageOffer, Prepare};
use vsr_types::{ClusterId, Digest, Header, Identity, Op, Timestamp};

use super::format::{FileHeader, Record, Trailer};
use super::*;

const CHUNK: usize = 64;

/// A folder that is gone with its test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vsr-image-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn entry(op: u64, body: &[u8]) -> Header {
    let mut header = Header::new(Prepare {
        op: Op::new(op),
        commit: Op::new(op - 1),
        timestamp: Timestamp::from_nanos(op * 1000),
        parent: Identity::default(),
    });
    header.set_cluster(ClusterId::new(0xC1));
    header.seal(body);
    header
}

fn facts(chunks: u64) -> Facts {
    Facts {
        offer: ImageOffer {
            header: entry(1007, b"last"),
            digest: Digest::new(0xD16),
            chunks,
            session_chunks: 2,
            sessions: 16,
            reply_bytes: 4096,
            chunk_size: CHUNK as u64,
            ..ImageOffer::zeroed()
        },
        cluster_name: "a cluster".to_owned(),
        op_max: 500,
        replica: 2,
        written_ns: 77,
    }
}

fn chunk(index: u64) -> Vec<u8> {
    let size = if index == 3 { 20 } else { CHUNK };
    (0..size)
        .map(|at| (at as u64 * 7 + index * 31) as u8 | 1)
        .collect()
}

/// Five chunks, the fourth of which is short, and two entries of the log.
fn write(path: &Path) -> Summary {
    let mut writer = ImageWriter::create(path, CHUNK as u64).expect("a file");
    for index in [4, 0, 3, 1, 2] {
        // What came first was longer, or other.
        writer.put(index, &[0xEE; CHUNK]).expect("written");
        writer.put(index, &chunk(index)).expect("written");
    }
    // It had more chunks once.
    writer.put(5, &[0xEE; CHUNK]).expect("written");
    for op in [1006, 1007] {
        let body = b"a batch of some bytes";
        writer
            .put_entry(5, &entry(op, body), body)
            .expect("written");
    }
    writer.finish(&facts(5)).expect("finished")
}

fn read(path: &Path) -> Result<Summary, ImageFileError> {
    let mut reader = ImageReader::open(path)?;
    let (mut chunks, mut entries) = (0, 0);
    while let Some(item) = reader.next_item()? {
        match item {
            Item::Chunk(index, bytes) => {
                assert_eq!(
                    (index, bytes),
                    (chunks, &chunk(chunks)[..]),
                    "never another chunk"
                );
                chunks += 1;
            }
            Item::Entry(header, body) => {
                assert!(header.covers(body) && header.is_intact());
                entries += 1;
            }
        }
    }
    assert_eq!((chunks, entries), (5, 2));
    reader.finish()
}

#[test]
fn what_is_read_is_what_was_written() {
    let folder = Folder::new("round");
    let path = folder.file("state.vsr");
    let written = write(&path);
    assert_eq!(
        fs::read_dir(&folder.0).expect("it is there").count(),
        1,
        "nothing else is left"
    );
    let read = read(&path).expect("sound");
    assert_eq!(read, written);
    assert_eq!(read.size, fs::metadata(&path).expect("a file").len());
    assert_eq!(read.facts.name().to_string(), "2/7");
    assert_eq!(read.facts.op(), Op::new(1007));
    assert_eq!(read.facts.cluster(), ClusterId::new(0xC1));
    // The same again, in place of the first.
    assert_eq!(write(&path).checksum, written.checksum);
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let folder = Folder::new("flip");
    let path = folder.file("state.vsr");
    write(&path);
    let sound = fs::read(&path).expect("a file");
    for at in 0..sound.len() {
        let mut damaged = sound.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&path, &damaged).expect("written");
        let error = read(&path).expect_err(&format!("byte {at}"));
        let text = error.to_string();
        assert!(text.contains("state.vsr"), "{text}");
        assert!(
            ["another image", "no image", "version of vsr"]
                .iter()
                .any(|advice| text.contains(advice)),
            "it says what to do: {text}"
        );
    }
}

#[test]
fn a_file_of_another_length_is_refused() {
    let folder = Folder::new("length");
    let path = folder.file("state.vsr");
    let size = write(&path).size as usize;
    let sound = fs::read(&path).expect("a file");
    for length in (0..size).step_by(7).chain([size - 1]) {
        fs::write(&path, &sound[..length]).expect("written");
        let error = read(&path).expect_err("cut off");
        let is_right = match length {
            0..FILE_HEADER_SIZE => matches!(error, ImageFileError::NotAnImage { .. }),
            _ => matches!(error, ImageFileError::Length { .. }),
        };
        assert!(is_right, "{length}: {error}");
    }
    fs::write(&path, [&sound[..], &[0]].concat()).expect("written");
    assert!(matches!(read(&path), Err(ImageFileError::Length { .. })));
}

#[test]
fn other_formats_and_unfinished_files_are_named() {
    let folder = Folder::new("format");
    let path = folder.file("state.vsr");
    write(&path);
    let sound = fs::read(&path).expect("a file");
    let mut newer = sound.clone();
    newer[8] = 2;
    fs::write(&path, &newer).expect("written");
    assert!(matches!(
        read(&path),
        Err(ImageFileError::Format { found: 2, .. })
    ));
    let mut unfinished = sound;
    unfinished[..FILE_HEADER_SIZE].fill(0);
    fs::write(&path, &unfinished).expect("written");
    assert!(matches!(
        read(&path),
        Err(ImageFileError::Unfinished { .. })
    ));
    fs::write(&path, vec![b'x'; 5000]).expect("written");
    assert!(matches!(
        read(&path),
        Err(ImageFileError::NotAnImage { .. })
    ));
    assert!(matches!(
        read(&folder.file("none")),
        Err(ImageFileError::Io { .. })
    ));
}

/// The header of a file, changed and sealed again: it lies, and no checksum says so.
fn forged(sound: &[u8], change: impl Fn(&mut FileHeader)) -> Vec<u8> {
    let mut header: FileHeader = bytemuck::pod_read_unaligned(&sound[..size_of::<FileHeader>()]);
    change(&mut header);
    let mut file = sound.to_vec();
    file[..FILE_HEADER_SIZE].copy_from_slice(&header.sealed());
    file
}

#[test]
fn a_header_that_asks_for_too_much_is_refused_before_it_gets_it() {
    type Change = fn(&mut FileHeader);
    let folder = Folder::new("forged");
    let path = folder.file("state.vsr");
    write(&path);
    let sound = fs::read(&path).expect("a file");
    let changes: [Change; 14] = [
        |h| h.slot_size = !7,
        |h| h.slot_size = 0,
        |h| h.slot_size = 1 << 21,
        |h| h.slot_size -= 4,
        |h| h.offer.chunks = u64::MAX,
        |h| h.offer.chunks = 1 << 32,
        |h| h.offer.chunks = 4,
        |h| h.offer.session_chunks = 6,
        |h| h.offer.chunk_size = 1 << 40,
        |h| h.log_bytes = u64::MAX,
        |h| h.log_entries = u64::MAX,
        |h| h.name_size = 65,
        |h| h.op_max = 0,
        |h| h.offer.header.set_view(View::new(1)),
    ];
    for (number, change) in changes.iter().enumerate() {
        fs::write(&path, forged(&sound, change)).expect("written");
        let counted = allocation_counter::measure(|| {
            assert!(
                ImageReader::open(&path)
                    .and_then(ImageReader::finish)
                    .is_err(),
                "{number}"
            );
        });
        assert!(
            counted.bytes_max < 3 << 20,
            "{number}: {} bytes",
            counted.bytes_max
        );
    }
}

#[test]
fn chunks_in_another_order_are_refused() {
    let folder = Folder::new("order");
    let path = folder.file("state.vsr");
    write(&path);
    let mut file = fs::read(&path).expect("a file");
    let pitch = size_of::<Record>() + CHUNK;
    let (first, second) = file[FILE_HEADER_SIZE..].split_at_mut(pitch);
    first.swap_with_slice(&mut second[..pitch]);
    fs::write(&path, &file).expect("written");
    assert!(matches!(
        read(&path),
        Err(ImageFileError::Damaged {
            what: "a chunk",
            ..
        })
    ));
}

/// A chunk and its record from another, sound, file: every record is right, the whole is not.
#[test]
fn a_part_of_another_file_is_noticed_by_the_trailer() {
    let folder = Folder::new("mixed");
    let (path, other) = (folder.file("state.vsr"), folder.file("other.vsr"));
    write(&path);
    let mut writer = ImageWriter::create(&other, CHUNK as u64).expect("a file");
    for index in 0..5 {
        writer
            .put(index, &[index as u8 + 1; CHUNK])
            .expect("written");
    }
    writer.finish(&facts(5)).expect("finished");
    let pitch = size_of::<Record>() + CHUNK;
    let range = FILE_HEADER_SIZE + 2 * pitch..FILE_HEADER_SIZE + 3 * pitch;
    let mut file = fs::read(&path).expect("a file");
    file[range.clone()].copy_from_slice(&fs::read(&other).expect("a file")[range]);
    fs::write(&path, &file).expect("written");
    let error = ImageReader::open(&path).and_then(ImageReader::finish);
    assert!(matches!(
        error,
        Err(ImageFileError::Damaged {
            what: "the trailer",
            ..
        })
    ));
}

#[test]
fn random_damage_is_found_and_does_no_harm() {
    let folder = Folder::new("random");
    let path = folder.file("state.vsr");
    write(&path);
    let sound = fs::read(&path).expect("a file");
    let mut random = vsr_net::Random::new(20_261_123);
    for round in 0..3000 {
        let mut file = sound.clone();
        for _ in 0..=random.below(6) {
            let at = random.below(file.len() as u64) as usize;
            let length = 1 + random.below(80) as usize;
            let end = file.len().min(at + length);
            match random.below(4) {
                0 => file[at..end].fill(random.number() as u8),
                1 => file[at..end]
                    .iter_mut()
                    .for_each(|byte| *byte = random.number() as u8),
                2 => drop(file.drain(at..end)),
                _ => {
                    let from = random.below((sound.len() - length) as u64) as usize;
                    let size = end - at;
                    file[at..end].copy_from_slice(&sound[from..from + size]);
                }
            }
            if file.is_empty() {
                break;
            }
        }
        // Half of them with a header that is sealed again, so that what is behind it is looked at.
        if round % 2 == 0 && file.len() >= FILE_HEADER_SIZE {
            let length = file.len() as u64;
            file = forged(&file, |header| {
                header.magic = *b"vsr-img\n";
                header.format = FORMAT;
                let behind = FILE_HEADER_SIZE as u64 + size_of::<Trailer>() as u64;
                let pitch = header.slot_size.saturating_add(32).max(1);
                let chunks = header.offer.chunks.saturating_mul(pitch);
                header.log_bytes = length.saturating_sub(behind.saturating_add(chunks));
            });
        }
        if file == sound {
            continue;
        }
        fs::write(&path, &file).expect("written");
        let counted = allocation_counter::measure(|| {
            let read = ImageReader::open(&path).and_then(ImageReader::finish);
            assert!(read.is_err(), "round {round}");
        });
        assert!(
            counted.bytes_max < 4 << 20,
            "round {round}: {}",
            counted.bytes_max
        );
    }
}

#[test]
fn a_file_with_a_missing_chunk_is_not_finished() {
    let folder = Folder::new("missing");
    let path = folder.file("state.vsr");
    let mut writer = ImageWriter::create(&path, CHUNK as u64).expect("a file");
    for index in [0, 1, 3, 4] {
        writer.put(index, &chunk(index)).expect("written");
    }
    assert!(matches!(
        writer.finish(&facts(5)),
        Err(ImageFileError::Damaged { .. })
    ));
    assert_eq!(
        fs::read_dir(&folder.0).expect("it is there").count(),
        0,
        "nothing is left of it"
    );
    let mut writer = ImageWriter::create(&path, CHUNK as u64).expect("a file");
    assert!(
        writer.put(0, &[1; CHUNK + 1]).is_err(),
        "larger than announced"
    );
}

#[test]
fn names_of_archives_are_plain() {
    let cluster = ClusterId::new(0xdada_beef << 96);
    let epoch = vsr_types::Epoch::new(3);
    let path = archive::path_of(Path::new("/a"), "my/cluster 1", cluster, epoch);
    assert_eq!(path, Path::new("/a/my_cluster_1-dadabeef-epoch3.vsr"));
}
