//! The files of a record.
//!
//! A record is a folder of parts, `00000.rec` and so on. A part is a header and frames:
//!
//! ```text
//! header: "moultrec", format (u32), record (32 bytes), part (u32), checksum of the part before (8), checksum (8)
//! frame:  length (u32), checksum (8), an encoded `Entry`
//! ```
//! Numbers are little-endian. A checksum is the beginning of SHA-256 over the checksum before it
//! and the bytes: a part or a frame that was cut out, changed or moved is noticed.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use moult_types::codec::sha256;

/// The newest format that this program reads, and the one that it writes.
pub(crate) const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"moultrec";
pub(crate) const HEADER_BYTES: usize = 8 + 4 + 32 + 4 + 8 + 8;
pub(crate) const FRAME_BYTES: usize = 4 + 8;

/// See the module.
pub(crate) type Checksum = [u8; 8];

/// What a part begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) record: [u8; 32],
    pub(crate) part: u32,
    pub(crate) before: Checksum,
}

/// What is wrong with the bytes of a header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    NoRecord,
    Newer(u32),
    Checksum,
}

pub(crate) fn checksum(before: Checksum, bytes: &[u8]) -> Checksum {
    let hash = sha256(&[&before, bytes].concat()).0;
    let [a, b, c, d, e, f, g, h, ..] = hash;
    [a, b, c, d, e, f, g, h]
}

impl Header {
    /// The header and the checksum that the first frame follows.
    pub(crate) fn encode(&self) -> (Vec<u8>, Checksum) {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(FORMAT.to_le_bytes());
        bytes.extend(self.record);
        bytes.extend(self.part.to_le_bytes());
        bytes.extend(self.before);
        let sum = checksum(self.before, &bytes);
        bytes.extend(sum);
        (bytes, sum)
    }

    /// The inverse of [`Header::encode`].
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<(Self, Checksum), BadHeader> {
        let (magic, rest) = split::<8>(bytes);
        if magic != MAGIC {
            return Err(BadHeader::NoRecord);
        }
        let (format, rest) = split::<4>(rest);
        let format = u32::from_le_bytes(format);
        if format != FORMAT {
            return Err(BadHeader::Newer(format));
        }
        let (record, rest) = split::<32>(rest);
        let (part, rest) = split::<4>(rest);
        let (before, rest) = split::<8>(rest);
        let (sum, _) = split::<8>(rest);
        let header = Self { record, part: u32::from_le_bytes(part), before };
        if header.encode().1 != sum {
            return Err(BadHeader::Checksum);
        }
        Ok((header, sum))
    }
}

/// The first `N` bytes, which are there: headers have one length.
fn split<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    bytes.split_first_chunk::<N>().map_or(([0; N], &[]), |(first, rest)| (*first, rest))
}

pub(crate) fn part_path(folder: &Path, part: u32) -> PathBuf {
    folder.join(format!("{part:05}.rec"))
}

/// Writes the parts of one record.
pub(crate) struct PartWriter {
    folder: PathBuf,
    record: [u8; 32],
    part_bytes_max: u64,
    part: u32,
    file: BufWriter<File>,
    sum: Checksum,
    part_bytes: u64,
    /// Of all parts.
    pub(crate) bytes: u64,
}

impl PartWriter {
    /// Makes the folder and its first part.
    pub(crate) fn create(folder: &Path, record: [u8; 32], part_bytes_max: u64) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let (file, sum) = open_part(folder, &Header { record, part: 0, before: [0; 8] })?;
        let bytes = HEADER_BYTES as u64;
        let folder = folder.to_owned();
        Ok(Self { folder, record, part_bytes_max, part: 0, file, sum, part_bytes: bytes, bytes })
    }

    /// What the next entry adds, at most.
    pub(crate) fn size_of(payload: &[u8]) -> u64 {
        (HEADER_BYTES + FRAME_BYTES + payload.len()) as u64
    }

    /// Appends an entry; whether a new part was begun for it.
    pub(crate) fn append(&mut self, payload: &[u8]) -> io::Result<bool> {
        let length = u32::try_from(payload.len()).map_err(|_| io::Error::other("an entry beyond 4 GiB"))?;
        let frame_bytes = (FRAME_BYTES + payload.len()) as u64;
        let is_new =
            self.part_bytes > HEADER_BYTES as u64 && self.part_bytes + frame_bytes > self.part_bytes_max;
        if is_new {
            self.file.flush()?;
            self.part += 1;
            let header = Header { record: self.record, part: self.part, before: self.sum };
            (self.file, self.sum) = open_part(&self.folder, &header)?;
            self.part_bytes = HEADER_BYTES as u64;
            self.bytes += self.part_bytes;
        }
        self.sum = checksum(self.sum, payload);
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(&self.sum)?;
        self.file.write_all(payload)?;
        self.part_bytes += frame_bytes;
        self.bytes += frame_bytes;
        Ok(is_new)
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn open_part(folder: &Path, header: &Header) -> io::Result<(BufWriter<File>, Checksum)> {
    // A file that is there is somebody else's.
    let mut file = BufWriter::with_capacity(256 << 10, File::create_new(part_path(folder, header.part))?);
    let (bytes, sum) = header.encode();
    file.write_all(&bytes)?;
    Ok((file, sum))
}
