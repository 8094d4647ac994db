//! Reads a record, part by part and entry by entry.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use moult_types::decode;

use crate::entry::{EndReason, Entry, Start};
use crate::error::RecordError;
use crate::log::{BadHeader, Checksum, FORMAT, FRAME_BYTES, HEADER_BYTES, Header, checksum, part_path};

/// How a record ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// With an entry that says why.
    Closed(EndReason),
    /// Without one: the node stopped without warning, or it is still being written.
    Open,
    /// Within an entry, which is lost with what may have followed.
    Torn {
        /// Which file.
        path: PathBuf,
        /// Where the good part of it ends.
        offset: u64,
        /// How many bytes come after that.
        bytes: u64,
    },
}

/// A record that is being read; holds one entry in memory.
pub struct RecordReader {
    start: Start,
    cursor: Cursor,
}

/// Where in a record we are.
struct Cursor {
    folder: PathBuf,
    record: [u8; 32],
    part: u32,
    parts: u32,
    file: Part,
    sum: Checksum,
    bytes_read: u64,
    bytes_total: u64,
    ending: Option<Ending>,
}

/// One file, and where in it we are.
struct Part {
    path: PathBuf,
    file: BufReader<File>,
    length: u64,
    offset: u64,
}

impl Part {
    fn open(folder: &Path, part: u32) -> Result<Self, RecordError> {
        let path = part_path(folder, part);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(RecordError::MissingPart { folder: folder.to_owned(), part });
            }
            Err(e) => return Err(RecordError::io("open", &path, e)),
        };
        let length = file.metadata().map_err(|e| RecordError::io("read", &path, e))?.len();
        Ok(Self { path, file: BufReader::with_capacity(256 << 10, file), length, offset: 0 })
    }

    fn left(&self) -> u64 {
        self.length.saturating_sub(self.offset)
    }

    fn read(&mut self, to: &mut [u8]) -> Result<(), RecordError> {
        self.file.read_exact(to).map_err(|e| RecordError::io("read", &self.path, e))?;
        self.offset += to.len() as u64;
        Ok(())
    }

    fn damaged(&self, offset: u64, reason: impl Into<String>) -> RecordError {
        RecordError::Damaged { path: self.path.clone(), offset, reason: reason.into() }
    }
}

/// What stands at a place in a part.
enum Frame {
    Whole(Vec<u8>),
    End,
    Torn,
}

impl RecordReader {
    /// Opens a record by its folder or any file in it, and reads what it begins with.
    ///
    /// # Errors
    /// It is no record, of a newer format, damaged, or without its first part.
    pub fn open(path: &Path) -> Result<Self, RecordError> {
        let folder = if path.is_file() { path.parent().unwrap_or(Path::new(".")) } else { path };
        let (parts, bytes_total) = parts(folder)?;
        let mut file = Part::open(folder, 0)?;
        let (header, sum) =
            read_header(&mut file)?.ok_or_else(|| RecordError::NotARecord { path: file.path.clone() })?;
        if header.part != 0 {
            return Err(RecordError::OtherPart { path: file.path.clone() });
        }
        let mut cursor = Cursor {
            folder: folder.to_owned(),
            record: header.record,
            part: 0,
            parts,
            file,
            sum,
            bytes_read: HEADER_BYTES as u64,
            bytes_total,
            ending: None,
        };
        match cursor.next()? {
            Some(Entry::Start(start)) => Ok(Self { start: *start, cursor }),
            Some(_) => Err(cursor.order("another entry", "the start")),
            None => Err(RecordError::NotARecord { path: cursor.file.path.clone() }),
        }
    }

    /// What the record is of.
    pub fn start(&self) -> &Start {
        &self.start
    }

    /// Bytes read so far, and bytes of all parts.
    pub fn progress(&self) -> (u64, u64) {
        (self.cursor.bytes_read, self.cursor.bytes_total)
    }

    /// How the record ends; known once [`RecordReader::next`] has given nothing.
    pub fn ending(&self) -> Option<&Ending> {
        self.cursor.ending.as_ref()
    }

    /// The next entry; nothing at the end.
    ///
    /// # Errors
    /// The disk; bytes that are not what was written, other than a torn tail.
    #[allow(clippy::should_implement_trait, reason = "an iterator cannot fail between its items")]
    pub fn next(&mut self) -> Result<Option<Entry>, RecordError> {
        self.cursor.next()
    }

    pub(crate) fn order(&self, what: &'static str, expected: &'static str) -> RecordError {
        self.cursor.order(what, expected)
    }
}

impl Cursor {
    fn next(&mut self) -> Result<Option<Entry>, RecordError> {
        while self.ending.is_none() {
            let offset = self.file.offset;
            match self.frame()? {
                Frame::Whole(bytes) => {
                    let entry =
                        decode::<Entry>(&bytes).map_err(|e| self.file.damaged(offset, e.to_string()))?;
                    self.bytes_read += (FRAME_BYTES + bytes.len()) as u64;
                    if let Entry::End(reason) = &entry {
                        self.ending = Some(Ending::Closed(reason.clone()));
                        if self.part + 1 < self.parts || !self.is_blank()? {
                            return Err(self.order("more", "nothing behind the end"));
                        }
                        return Ok(None);
                    }
                    return Ok(Some(entry));
                }
                Frame::End if self.part + 1 < self.parts => self.next_part()?,
                Frame::End => self.ending = Some(Ending::Open),
                Frame::Torn if self.part + 1 < self.parts => {
                    return Err(self.file.damaged(offset, "an entry is cut, and other parts follow"));
                }
                Frame::Torn => {
                    let bytes = self.file.length.saturating_sub(offset);
                    self.ending = Some(Ending::Torn { path: self.file.path.clone(), offset, bytes });
                }
            }
        }
        Ok(None)
    }

    fn frame(&mut self) -> Result<Frame, RecordError> {
        let (offset, left) = (self.file.offset, self.file.left());
        if left == 0 {
            return Ok(Frame::End);
        }
        if left < FRAME_BYTES as u64 {
            return Ok(Frame::Torn);
        }
        let (mut length, mut sum) = ([0; 4], [0; 8]);
        self.file.read(&mut length)?;
        self.file.read(&mut sum)?;
        let length = u64::from(u32::from_le_bytes(length));
        if length > self.file.left() {
            return Ok(Frame::Torn);
        }
        // Not more than the file has.
        let mut bytes = vec![0; length as usize];
        self.file.read(&mut bytes)?;
        let expected = checksum(self.sum, &bytes);
        if expected == sum {
            self.sum = sum;
            return Ok(Frame::Whole(bytes));
        }
        // A file may be longer than what of it was written: then nothing follows but zeros.
        if self.is_blank()? {
            return Ok(Frame::Torn);
        }
        Err(self.file.damaged(offset, "the checksum of an entry does not match"))
    }

    /// Whether the rest of the part is zeros.
    fn is_blank(&mut self) -> Result<bool, RecordError> {
        let mut chunk = vec![0; 64 << 10];
        while self.file.left() > 0 {
            let length = self.file.left().min(chunk.len() as u64) as usize;
            self.file.read(&mut chunk[..length])?;
            if chunk[..length].iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn next_part(&mut self) -> Result<(), RecordError> {
        let mut file = Part::open(&self.folder, self.part + 1)?;
        let Some((header, sum)) = read_header(&mut file)? else {
            if self.part + 2 < self.parts {
                return Err(file.damaged(0, "its header is cut, and other parts follow"));
            }
            let (path, bytes) = (file.path.clone(), file.length);
            self.ending = Some(Ending::Torn { path, offset: 0, bytes });
            return Ok(());
        };
        let follows = Header { record: self.record, part: self.part + 1, before: self.sum };
        if header != follows {
            return Err(RecordError::OtherPart { path: file.path });
        }
        self.part += 1;
        self.bytes_read += HEADER_BYTES as u64;
        (self.file, self.sum) = (file, sum);
        Ok(())
    }

    fn order(&self, what: &'static str, expected: &'static str) -> RecordError {
        RecordError::Order { path: self.file.path.clone(), offset: self.file.offset, what, expected }
    }
}

/// Nothing where the file ends within its header.
fn read_header(part: &mut Part) -> Result<Option<(Header, Checksum)>, RecordError> {
    if part.left() < HEADER_BYTES as u64 {
        return Ok(None);
    }
    let mut bytes = [0; HEADER_BYTES];
    part.read(&mut bytes)?;
    let path = part.path.clone();
    match Header::decode(&bytes) {
        Ok(header) => Ok(Some(header)),
        Err(BadHeader::NoRecord) => Err(RecordError::NotARecord { path }),
        Err(BadHeader::Newer(found)) => Err(RecordError::NewerFormat { path, found, supported: FORMAT }),
        Err(BadHeader::Checksum) => Err(part.damaged(0, "the checksum of the header does not match")),
    }
}

/// How many parts there are up to the highest, and how many bytes they have.
fn parts(folder: &Path) -> Result<(u32, u64), RecordError> {
    let (mut parts, mut bytes) = (0, 0);
    let entries = std::fs::read_dir(folder).map_err(|e| RecordError::io("list", folder, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| RecordError::io("list", folder, e))?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_suffix(".rec"))
            .and_then(|name| name.parse::<u32>().ok());
        if let Some(number) = number {
            parts = parts.max(number.saturating_add(1));
            bytes += entry.metadata().map_err(|e| RecordError::io("read", &entry.path(), e))?.len();
        }
    }
    Ok((parts, bytes))
}
