//! Encodings of commands, replies and queries: strict, canonical, little-endian.
//!
//! `bytes` is a u32 length and the bytes; `option` is 0, or 1 and `bytes`.
//!
//! | what | layout |
//! |---|---|
//! | put | 1, bytes key, bytes value |
//! | delete | 2, bytes key |
//! | compare-and-swap | 3, bytes key, option expect, option value |
//! | query get | 1, bytes key; answered by an option |
//! | query count (kv/2) | 2; answered by a big-endian u64 |
//!
//! Every value has one encoding, and nothing may follow it.

use moult_sdk::application::Receipt;
use std::fmt;

/// Longest key, in bytes; a key has at least one.
pub const KEY_BYTES_MAX: usize = 1024;

/// Longest value, in bytes: 1 MiB less 4 KiB, so that a command and a reply with it stay
/// under the 1 MiB of a transaction and of an output.
pub const VALUE_BYTES_MAX: usize = (1 << 20) - 4096;

/// What a transaction asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Sets a value.
    Put {
        /// 1 to [`KEY_BYTES_MAX`] bytes.
        key: Vec<u8>,
        /// At most [`VALUE_BYTES_MAX`] bytes.
        value: Vec<u8>,
    },
    /// Removes a key; applied also where there is none.
    Delete {
        /// 1 to [`KEY_BYTES_MAX`] bytes.
        key: Vec<u8>,
    },
    /// Sets or removes a key if its present value is the expected one.
    CompareAndSwap {
        /// 1 to [`KEY_BYTES_MAX`] bytes.
        key: Vec<u8>,
        /// What must be there; `None`: nothing.
        expect: Option<Vec<u8>>,
        /// What is put there; `None`: nothing.
        value: Option<Vec<u8>>,
    },
}

/// What a read asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Query {
    /// The value under a key; see [`decode_value`].
    Get {
        /// 1 to [`KEY_BYTES_MAX`] bytes.
        key: Vec<u8>,
    },
    /// The number of keys (kv/2 only); see [`decode_count`].
    Count,
}

/// What became of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Code 0.
    Applied,
    /// Code 1: compare-and-swap found something else; nothing changed.
    Mismatch {
        /// What is there.
        present: Option<Vec<u8>>,
    },
    /// Code 2: the transaction is not a command.
    Malformed,
    /// Code 3: the key or a value is too large.
    TooLarge,
}

/// Why bytes are not a command or query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// They do not follow the layout.
    Malformed,
    /// A key or a value is longer than allowed.
    TooLarge,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "key or value too large",
        })
    }
}

impl std::error::Error for DecodeError {}

impl Command {
    /// The bytes of a transaction.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Put { key, value } => {
                out.push(1);
                put_bytes(&mut out, key);
                put_bytes(&mut out, value);
            }
            Self::Delete { key } => {
                out.push(2);
                put_bytes(&mut out, key);
            }
            Self::CompareAndSwap { key, expect, value } => {
                out.push(3);
                put_bytes(&mut out, key);
                put_option(&mut out, expect.as_deref());
                put_option(&mut out, value.as_deref());
            }
        }
        out
    }

    /// The inverse of [`Command::encode`].
    ///
    /// # Errors
    /// The bytes are not exactly one command within the limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Input(bytes);
        let command = match input.byte()? {
            1 => Self::Put { key: input.key()?, value: input.value()? },
            2 => Self::Delete { key: input.key()? },
            3 => Self::CompareAndSwap { key: input.key()?, expect: input.option()?, value: input.option()? },
            _ => return Err(DecodeError::Malformed),
        };
        input.end()?;
        Ok(command)
    }
}

impl Query {
    /// The bytes of a request.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Get { key } => {
                out.push(1);
                put_bytes(&mut out, key);
            }
            Self::Count => out.push(2),
        }
        out
    }

    /// The inverse of [`Query::encode`].
    ///
    /// # Errors
    /// The bytes are not exactly one query within the limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Input(bytes);
        let query = match input.byte()? {
            1 => Self::Get { key: input.key()? },
            2 => Self::Count,
            _ => return Err(DecodeError::Malformed),
        };
        input.end()?;
        Ok(query)
    }
}

impl Reply {
    /// Reads a receipt of this application; `None` if it is not one.
    pub fn from_receipt(receipt: &Receipt) -> Option<Self> {
        match (receipt.code, receipt.output.as_slice()) {
            (0, []) => Some(Self::Applied),
            (1, output) => Some(Self::Mismatch { present: decode_value(output).ok()? }),
            (2, []) => Some(Self::Malformed),
            (3, []) => Some(Self::TooLarge),
            _ => None,
        }
    }
}

impl From<Reply> for Receipt {
    fn from(reply: Reply) -> Self {
        let (code, output) = match reply {
            Reply::Applied => (0, Vec::new()),
            Reply::Mismatch { present } => (1, encode_value(present.as_deref())),
            Reply::Malformed => (2, Vec::new()),
            Reply::TooLarge => (3, Vec::new()),
        };
        Self { code, output }
    }
}

/// An optional value, as in the answer to [`Query::Get`].
pub fn encode_value(value: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.map_or(1, |value| value.len() + 5));
    put_option(&mut out, value);
    out
}

/// The inverse of [`encode_value`].
///
/// # Errors
/// The bytes are not exactly one optional value.
pub fn decode_value(bytes: &[u8]) -> Result<Option<Vec<u8>>, DecodeError> {
    let mut input = Input(bytes);
    let value = input.option()?;
    input.end()?;
    Ok(value)
}

/// Reads the answer to [`Query::Count`].
///
/// # Errors
/// The bytes are not eight.
pub fn decode_count(bytes: &[u8]) -> Result<u64, DecodeError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| DecodeError::Malformed)
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    // Longer than a u32 can say is longer than any transaction: refused by every decoder.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_option(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    out.push(u8::from(bytes.is_some()));
    if let Some(bytes) = bytes {
        put_bytes(out, bytes);
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(DecodeError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }

    fn bytes(&mut self, max: usize) -> Result<Vec<u8>, DecodeError> {
        let length: [u8; 4] = self.take(4)?.try_into().map_err(|_| DecodeError::Malformed)?;
        let bytes = self.take(u32::from_le_bytes(length) as usize)?;
        if bytes.len() > max {
            return Err(DecodeError::TooLarge);
        }
        Ok(bytes.to_vec())
    }

    fn key(&mut self) -> Result<Vec<u8>, DecodeError> {
        let key = self.bytes(KEY_BYTES_MAX)?;
        if key.is_empty() { Err(DecodeError::Malformed) } else { Ok(key) }
    }

    fn value(&mut self) -> Result<Vec<u8>, DecodeError> {
        self.bytes(VALUE_BYTES_MAX)
    }

    fn option(&mut self) -> Result<Option<Vec<u8>>, DecodeError> {
        match self.byte()? {
            0 => Ok(None),
            1 => self.value().map(Some),
            _ => Err(DecodeError::Malformed),
        }
    }

    fn end(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Malformed) }
    }
}
