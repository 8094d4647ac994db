//! Values off the front of a fuzzer's bytes. Where they are used up, zeros follow, so that
//! every input means something.

use moult_types::Digest;

pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// At most so many bytes.
    pub(crate) fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        head
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Below `end`, which is 1 to 256.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from(self.byte()) | u16::from(self.byte()) << 8
    }

    /// A small number, or one at an edge.
    pub(crate) fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=0xdf => small.into(),
            0xe0..=0xef => self.u16().into(),
            0xf0..=0xf7 => (1 << 62) - u64::from(self.byte()),
            _ => u64::MAX - u64::from(self.byte()),
        }
    }

    /// One of few, so that two of them may be equal.
    pub(crate) fn digest(&mut self) -> Digest {
        Digest([self.byte() % 16; 32])
    }
}
