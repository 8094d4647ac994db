//! Lines of `strace -f -q -y -xx`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line<'a> {
    /// The thread that called.
    pub thread: u32,
    /// What it says.
    pub part: Part<'a>,
}

/// The part of a call that a line holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part<'a> {
    /// All of it: name, arguments, result.
    Whole(&'a str),
    /// Up to where another thread's line came between.
    Begun(&'a str),
    /// What was missing.
    Resumed {
        /// Of the call.
        name: &'a str,
        /// Arguments that were not printed yet, and the result.
        rest: &'a str,
    },
    /// A signal, or the end of a thread.
    Note,
}

/// Takes a line apart.
///
/// # Errors
/// It is none of strace's.
pub fn line(text: &str) -> Result<Line<'_>, String> {
    let (thread, rest) = text.split_once(' ').ok_or("no thread")?;
    let thread = thread.parse().map_err(|_| format!("no thread: {thread:.20}"))?;
    let rest = rest.trim_start();
    let part = if rest.starts_with("+++ ") || rest.starts_with("--- ") {
        Part::Note
    } else if let Some(resumed) = rest.strip_prefix("<... ") {
        let (name, rest) = resumed.split_once(" resumed>").ok_or("resumed without its mark")?;
        Part::Resumed { name, rest }
    } else if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
        Part::Begun(begun)
    } else {
        Part::Whole(rest)
    };
    Ok(Line { thread, part })
}

/// A call with its result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call<'a> {
    /// Of the system's interface.
    pub name: &'a str,
    /// As printed.
    pub arguments: Vec<&'a str>,
    /// How it ended.
    pub outcome: Outcome<'a>,
}

/// How a call ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome<'a> {
    /// With a result, as printed.
    Done(&'a str),
    /// It did nothing.
    Failed,
    /// The process died in it.
    Unknown,
}

impl<'a> Call<'a> {
    /// Reads a whole call.
    ///
    /// # Errors
    /// It does not have the form `name(arguments) = result`.
    pub fn parse(text: &'a str) -> Result<Self, String> {
        let (name, arguments) = head(text)?;
        let (arguments, result) = arguments.rsplit_once(" = ").ok_or("no result")?;
        let arguments = arguments.trim_end().strip_suffix(')').ok_or("no end of the arguments")?;
        let outcome = match result.trim() {
            unknown if unknown.starts_with('?') => Outcome::Unknown,
            failed if failed.starts_with('-') => Outcome::Failed,
            done => Outcome::Done(done),
        };
        Ok(Self { name, arguments: split(arguments)?, outcome })
    }

    /// An argument.
    ///
    /// # Errors
    /// There is none.
    pub fn argument(&self, index: usize) -> Result<&'a str, String> {
        self.arguments.get(index).copied().ok_or_else(|| format!("{} has no argument {index}", self.name))
    }

    /// An argument that is a number.
    ///
    /// # Errors
    /// It is none.
    pub fn number(&self, index: usize) -> Result<u64, String> {
        self.argument(index).and_then(number)
    }

    /// Whether an argument of flags has this one.
    ///
    /// # Errors
    /// There is no such argument.
    pub fn has(&self, index: usize, flag: &str) -> Result<bool, String> {
        Ok(self.argument(index)?.split('|').any(|one| one == flag))
    }
}

/// Name and the rest of a call that may be incomplete.
///
/// # Errors
/// There is no name.
pub fn head(text: &str) -> Result<(&str, &str), String> {
    text.split_once('(').ok_or_else(|| "no call".into())
}

/// A number in decimals.
///
/// # Errors
/// It is none.
pub fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("not a number: {text:.40}"))
}

/// Splits at the commas that stand in no bracket. Strings hold none: `-xx` writes them in hex.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' | b'[' | b'{' | b'<' => depth += 1,
            b')' | b']' | b'}' | b'>' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if depth != 0 {
        return Err("brackets without their counterparts".into());
    }
    parts.push(text[start..].trim());
    Ok(parts)
}

/// A descriptor, `9<path>`: its number as printed, and its path; none if its file is removed.
///
/// # Errors
/// It has no such form.
pub fn descriptor(text: &str) -> Result<(&str, Option<PathBuf>), String> {
    let (number, rest) = text.split_once('<').ok_or("a descriptor without its path")?;
    let (path, rest) = rest.split_once('>').ok_or("a path without its end")?;
    match rest {
        "" => Ok((number, Some(OsString::from_vec(unescape(path)?).into()))),
        "(deleted)" => Ok((number, None)),
        _ => Err(format!("what follows a path: {rest:.40}")),
    }
}

/// A path in an argument.
///
/// # Errors
/// It is no string.
pub fn path(text: &str) -> Result<PathBuf, String> {
    strings(text).map(|bytes| OsString::from_vec(bytes).into())
}

/// Both paths of a call that renames.
///
/// # Errors
/// It does not have this form, or does more than renaming.
pub fn renamed(call: &Call<'_>) -> Result<(PathBuf, PathBuf), String> {
    if call.name == "rename" {
        return Ok((path(call.argument(0)?)?, path(call.argument(1)?)?));
    }
    if call.name == "renameat2" && !["0", "RENAME_NOREPLACE"].contains(&call.argument(4)?) {
        return Err("the model does not know this way to rename".into());
    }
    Ok((below(call.argument(0)?, call.argument(1)?)?, below(call.argument(2)?, call.argument(3)?)?))
}

/// A path behind the folder that it is relative to.
///
/// # Errors
/// They do not have this form.
pub fn below(folder: &str, name: &str) -> Result<PathBuf, String> {
    let folder = descriptor(folder)?.1.ok_or("a folder that is removed")?;
    Ok(folder.join(path(name)?))
}

/// The bytes of a string, or of all strings of an array of buffers.
///
/// # Errors
/// There is none, or one that was cut off.
pub fn strings(text: &str) -> Result<Vec<u8>, String> {
    let pieces: Vec<&str> = text.split('"').collect();
    if pieces.len() < 3 || pieces.len().is_multiple_of(2) {
        return Err("no string".into());
    }
    let mut bytes = Vec::new();
    for (between, piece) in pieces.iter().enumerate() {
        if between % 2 == 1 {
            bytes.append(&mut unescape(piece)?);
        } else if piece.starts_with("...") {
            return Err("a string that was cut off".into());
        }
    }
    Ok(bytes)
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let bad = || format!("not in hex: {text:.40}");
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8).ok_or_else(bad);
    let (escapes, []) = text.as_bytes().as_chunks::<4>() else { return Err(bad()) };
    let byte = |escape: &[u8; 4]| match *escape {
        [b'\\', b'x', high, low] => Ok(digit(high)? << 4 | digit(low)?),
        _ => Err(bad()),
    };
    escapes.iter().map(byte).collect()
}
