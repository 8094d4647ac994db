//! The model of a data folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::image::{Change, Image, files_below};
use super::trace::{
    Call, Line, Outcome, Part, below, descriptor, head, line, number, path, renamed, strings,
};

/// What one node lost, and how it had synced.
#[derive(Clone, Default, Debug)]
pub struct Loss {
    /// Bytes that were written and not synced, by files below the data folder.
    pub bytes: BTreeMap<PathBuf, u64>,
    /// The files below the data folder that were synced, in order.
    pub syncs: Vec<PathBuf>,
}

/// Files below a folder, as calls change them.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    /// How the root is written in a trace.
    mark: String,
    files: BTreeMap<PathBuf, FileId>,
    contents: BTreeMap<FileId, Content>,
    /// Where the next write goes, by descriptors; none: to the end.
    positions: BTreeMap<u32, Option<u64>>,
    /// The calls that have begun, by their threads.
    begun: BTreeMap<u32, Begun>,
    /// Calls in which the node died.
    cut: Vec<String>,
    syncs: Vec<PathBuf>,
}

type FileId = u64;

const NOT_OPENED: &str = "it was not seen how this was opened";
const NOT_CREATED: &str = "it was not seen how this was created";

#[derive(Default, Debug)]
struct Content {
    synced: Image,
    /// Number of changes that are synced.
    past: u64,
    /// What was changed since.
    unsynced: Vec<Change>,
    /// With all changes.
    length: u64,
    /// A call that changes the file has begun.
    is_busy: bool,
}

impl Loss {
    /// Of all files with this end of their names.
    pub fn bytes_of(&self, end: &str) -> u64 {
        let named = self
            .bytes
            .iter()
            .filter(|(path, _)| path.as_os_str().as_encoded_bytes().ends_with(end.as_bytes()));
        named.map(|(_, bytes)| bytes).sum()
    }
}

#[derive(Debug)]
struct Begun {
    text: String,
    effect: Effect,
}

/// What a call does from its beginning on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Effect {
    Sync { file: FileId, covers: u64 },
    Change(FileId),
    Other,
}

impl Content {
    fn current(&self) -> Image {
        let mut image = self.synced.clone();
        self.unsynced.iter().for_each(|change| image.apply(change));
        image
    }

    fn change(&mut self, change: Change) {
        self.length = match &change {
            Change::Write { at, bytes } => self.length.max(at + bytes.len() as u64),
            Change::Length(length) => *length,
        };
        self.unsynced.push(change);
    }

    fn sync(&mut self, covers: u64) {
        // A sync that began earlier may end later.
        let count = covers.saturating_sub(self.past) as usize;
        self.unsynced.drain(..count).for_each(|change| self.synced.apply(&change));
        self.past += count as u64;
    }
}

impl Disk {
    /// A folder in which everything is synced; it may not exist yet.
    ///
    /// # Panics
    /// It cannot be read.
    pub fn read(root: &Path) -> Self {
        let mut disk = Self {
            root: root.to_owned(),
            mark: root.as_os_str().as_encoded_bytes().iter().fold(String::new(), |mut mark, byte| {
                let _ = write!(mark, "\\x{byte:02x}");
                mark
            }),
            files: BTreeMap::new(),
            contents: BTreeMap::new(),
            positions: BTreeMap::new(),
            begun: BTreeMap::new(),
            cut: Vec::new(),
            syncs: Vec::new(),
        };
        for path in files_below(root) {
            let synced = Image::read(&path);
            disk.insert(path, Content { length: synced.length(), synced, ..Content::default() });
        }
        disk
    }

    fn insert(&mut self, path: PathBuf, content: Content) {
        let id = self.contents.last_key_value().map_or(0, |(last, _)| last + 1);
        self.contents.insert(id, content);
        self.files.insert(path, id);
    }

    /// Takes a line of a trace up.
    ///
    /// # Errors
    /// It says what the model does not know.
    pub fn take(&mut self, text: &str) -> Result<(), String> {
        let Line { thread, part } = line(text)?;
        match part {
            Part::Note => Ok(()),
            Part::Whole(text) => {
                let effect = self.begin(text)?;
                self.end(text, effect)
            }
            Part::Begun(text) => {
                let effect = self.begin(text)?;
                match self.begun.insert(thread, Begun { text: text.to_owned(), effect }) {
                    None => Ok(()),
                    Some(before) => Err(format!("{thread} has not ended {:.40}", before.text)),
                }
            }
            Part::Resumed { name, rest } => {
                let Some(Begun { mut text, effect }) = self.begun.remove(&thread) else {
                    return Err(format!("{name} was not begun"));
                };
                if head(&text)?.0 != name {
                    return Err(format!("{name} was begun as {text:.40}"));
                }
                text.push_str(rest);
                self.end(&text, effect)
            }
        }
    }

    fn name(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).unwrap_or(path).to_owned()
    }

    fn begin(&mut self, text: &str) -> Result<Effect, String> {
        let (name, arguments) = head(text)?;
        if ["sync", "syncfs", "io_uring_setup"].contains(&name) {
            return Err(format!("the model does not know {name}"));
        }
        let is_sync = ["fsync", "fdatasync"].contains(&name);
        let changes = ["write", "writev", "pwrite64", "pwritev", "ftruncate"].contains(&name);
        if !(is_sync || changes) || !text.contains(&self.mark) {
            return Ok(Effect::Other);
        }
        let (fd, rest) = arguments.split_once('>').ok_or("no descriptor")?;
        if rest.starts_with("(deleted)") {
            return Ok(Effect::Other);
        }
        let Some(file) = self.file(&format!("{fd}>"))? else { return Ok(Effect::Other) };
        let content = self.contents.get_mut(&file).expect("a file has content");
        if is_sync {
            return Ok(Effect::Sync { file, covers: content.past + content.unsynced.len() as u64 });
        }
        if content.is_busy {
            return Err("two calls change one file at a time: their order is not known".into());
        }
        content.is_busy = true;
        Ok(Effect::Change(file))
    }

    /// The file of a descriptor; none for one that is removed, a folder, or outside.
    fn file(&self, text: &str) -> Result<Option<FileId>, String> {
        Ok(descriptor(text)?.1.and_then(|path| self.files.get(&path).copied()))
    }

    fn end(&mut self, text: &str, effect: Effect) -> Result<(), String> {
        if !text.contains(&self.mark) {
            return Ok(());
        }
        let call = Call::parse(text)?;
        match call.outcome {
            Outcome::Failed => {}
            Outcome::Unknown => self.cut.push(text.to_owned()),
            Outcome::Done(result) => match effect {
                Effect::Sync { file, covers } => self.synced(&call, file, covers)?,
                Effect::Change(file) => self.changed(&call, result, file)?,
                Effect::Other => self.other(&call, result)?,
            },
        }
        if let (Effect::Change(file), false) = (effect, call.outcome == Outcome::Unknown) {
            // It may have been replaced in the meantime.
            self.contents.get_mut(&file).into_iter().for_each(|content| content.is_busy = false);
        }
        Ok(())
    }

    fn synced(&mut self, call: &Call<'_>, file: FileId, covers: u64) -> Result<(), String> {
        self.contents.get_mut(&file).into_iter().for_each(|content| content.sync(covers));
        if let Some(path) = descriptor(call.argument(0)?)?.1 {
            self.syncs.push(self.name(&path));
        }
        Ok(())
    }

    fn changed(&mut self, call: &Call<'_>, result: &str, file: FileId) -> Result<(), String> {
        let Some(content) = self.contents.get_mut(&file) else { return Ok(()) };
        let fd: u32 = number(descriptor(call.argument(0)?)?.0)?;
        let change = match call.name {
            "ftruncate" => Change::Length(call.number(1)?),
            name => {
                let mut bytes = strings(call.argument(1)?)?;
                bytes.truncate(number(result)?);
                let at = if name.starts_with('p') {
                    call.number(3)?
                } else {
                    let position = self.positions.get_mut(&fd).ok_or(NOT_OPENED)?;
                    let at = position.unwrap_or(content.length);
                    *position = position.map(|_| at + bytes.len() as u64);
                    at
                };
                Change::Write { at, bytes }
            }
        };
        content.change(change);
        Ok(())
    }

    fn other(&mut self, call: &Call<'_>, result: &str) -> Result<(), String> {
        match call.name {
            "openat" => self.opened(call, result),
            "lseek" => {
                let fd = number(descriptor(call.argument(0)?)?.0)?;
                let position = self.positions.get_mut(&fd).ok_or(NOT_OPENED)?;
                *position = position.map(|_| number(result)).transpose()?;
                Ok(())
            }
            // Of a folder, or of a file without a name.
            "fsync" | "fdatasync" if self.file(call.argument(0)?)?.is_none() => Ok(()),
            "write" | "writev" | "pwrite64" | "pwritev" | "ftruncate"
                if descriptor(call.argument(0)?)?.1.is_none() =>
            {
                Ok(())
            }
            // It promises nothing.
            "sync_file_range" => Ok(()),
            "rename" | "renameat" | "renameat2" => {
                let (from, to) = renamed(call)?;
                self.rename(&from, &to)
            }
            "unlink" => self.unlink(&path(call.argument(0)?)?),
            "unlinkat" if call.has(2, "AT_REMOVEDIR")? => Ok(()),
            "unlinkat" => self.unlink(&below(call.argument(0)?, call.argument(1)?)?),
            "mmap" if !call.argument(3)?.contains("MAP_SHARED") => Ok(()),
            "fcntl" if call.argument(1)?.starts_with("F_GET") => Ok(()),
            name => Err(format!("the model does not know this {name} of a data file")),
        }
    }

    fn opened(&mut self, call: &Call<'_>, result: &str) -> Result<(), String> {
        let (fd, path) = descriptor(result)?;
        let Some(path) = path else { return Err("removed while it was opened".into()) };
        if !path.starts_with(&self.root) {
            return Ok(());
        }
        if !call.has(2, "O_CLOEXEC")? {
            return Err("a child process would have this descriptor, too".into());
        }
        if ["O_SYNC", "O_DSYNC", "O_TMPFILE"].iter().any(|flag| call.has(2, flag) != Ok(false)) {
            return Err("the model does not know this way to open".into());
        }
        match self.files.get(&path) {
            Some(file) if call.has(2, "O_TRUNC")? => {
                let content = self.contents.get_mut(file).expect("a file has content");
                content.change(Change::Length(0));
            }
            Some(_) => {}
            None if call.has(2, "O_CREAT")? => self.insert(path, Content::default()),
            // A folder: it cannot be opened for writing.
            None if !call.has(2, "O_WRONLY")? && !call.has(2, "O_RDWR")? => {}
            None => return Err(NOT_CREATED.into()),
        }
        self.positions.insert(number(fd)?, (!call.has(2, "O_APPEND")?).then_some(0));
        Ok(())
    }

    /// Of a file, or of a folder with all below it.
    fn rename(&mut self, from: &Path, to: &Path) -> Result<(), String> {
        let moved: Vec<PathBuf> = self.files.keys().filter(|path| path.starts_with(from)).cloned().collect();
        if moved.is_empty() {
            return Err(NOT_CREATED.into());
        }
        for path in moved {
            let rest = path.strip_prefix(from).expect("it starts so");
            let name = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            let file = self.files.remove(&path).expect("it was listed");
            if let Some(replaced) = self.files.insert(name, file) {
                self.contents.remove(&replaced);
            }
        }
        Ok(())
    }

    fn unlink(&mut self, path: &Path) -> Result<(), String> {
        let file = self.files.remove(path).ok_or(NOT_CREATED)?;
        self.contents.remove(&file);
        Ok(())
    }

    /// Compares with the disk, and takes from it what was not synced.
    ///
    /// # Panics
    /// They differ by more than calls that the node died in.
    pub fn lose(mut self) -> Loss {
        let mut cut = std::mem::take(&mut self.cut);
        cut.extend(std::mem::take(&mut self.begun).into_values().map(|begun| begun.text));
        cut.retain(|text| text.contains(&self.mark));
        let mut touched = BTreeSet::new();
        for text in &cut {
            self.cut_off(text, &mut touched).unwrap_or_else(|problem| panic!("{problem}: {text:.300}"));
        }
        let found: Vec<PathBuf> = files_below(&self.root);
        let known: Vec<PathBuf> = self.files.keys().cloned().collect();
        assert_eq!(found, known, "the files on the disk, and those that the model knows");
        let mut loss = Loss { bytes: BTreeMap::new(), syncs: std::mem::take(&mut self.syncs) };
        for (path, id) in &self.files {
            let content = &self.contents[id];
            if !touched.contains(path) {
                let same = content.current() == Image::read(path);
                assert!(same, "{} holds something else than the model says", path.display());
            }
            let bytes = content.unsynced.iter().map(Change::bytes).sum();
            loss.bytes.insert(self.name(path), bytes);
            content.synced.write(path);
        }
        loss
    }

    /// A call that the node died in has happened or not; the disk tells.
    fn cut_off(&mut self, text: &str, touched: &mut BTreeSet<PathBuf>) -> Result<(), String> {
        let (name, arguments) = head(text)?;
        let (arguments, _) = arguments.rsplit_once(" = ?").unwrap_or((arguments, ""));
        let arguments = arguments.trim_end().trim_end_matches(')');
        let whole = format!("{name}({arguments}) = 0");
        let call = Call::parse(&whole)?;
        match name {
            "openat" => {
                let path = below(call.argument(0)?, call.argument(1)?)?;
                touched.insert(path.clone());
                if path.is_file() && !self.files.contains_key(&path) {
                    self.insert(path, Content::default());
                }
            }
            "rename" | "renameat" | "renameat2" => {
                let (from, to) = renamed(&call)?;
                if !from.exists() {
                    self.rename(&from, &to)?;
                }
            }
            "unlink" | "unlinkat" => {
                let at = usize::from(name == "unlinkat");
                let path = if at == 0 {
                    path(call.argument(0)?)?
                } else {
                    below(call.argument(0)?, call.argument(1)?)?
                };
                if self.files.contains_key(&path) && !path.exists() {
                    self.unlink(&path)?;
                }
            }
            _ => touched.extend(call.arguments.iter().filter_map(|text| descriptor(text).ok()?.1)),
        }
        Ok(())
    }
}
