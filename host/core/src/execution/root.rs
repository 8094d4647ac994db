use std::sync::LazyLock;

use blake3::hazmat::{ContextKey, HasherExt as _, hash_derive_key_context};
use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use moult_sdk::Digest;
use moult_types::codec::hash_of;

const LANES: usize = 1024;
/// Size of a written accumulator.
const BYTES: usize = 2 * LANES;

/// A hash of the whole replicated map that is updated in time proportional to the change,
/// whatever the map's size and the order of the changes: LtHash16 (Bellare and Micciancio,
/// "A new paradigm for collision-free hashing", 1997; the parameters are those of Lewi et
/// al., "Securing update propagation with homomorphic hashing", 2019). Each pair is hashed
/// by BLAKE3, the hash is expanded by ChaCha20 (RFC 8439, as its key; nonce and counter from
/// zero) into 1,024 lanes of 16 bits, and the lanes are summed. It shows that two maps are
/// equal; it gives no proof for a single key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateAccumulator(Box<[u16; LANES]>);

impl Default for StateAccumulator {
    /// Of the empty map.
    fn default() -> Self {
        Self(Box::new([0; LANES]))
    }
}

impl StateAccumulator {
    /// Replaces the value under a key (`None`: no value).
    pub fn replace(&mut self, key: &[u8], former: Option<&[u8]>, value: Option<&[u8]>) {
        if let Some(former) = former {
            self.combine(&expand(key, former), u16::wrapping_sub);
        }
        if let Some(value) = value {
            self.combine(&expand(key, value), u16::wrapping_add);
        }
    }

    /// Over arrays of a known size, so that the compiler takes many lanes at once.
    fn combine(&mut self, element: &[u8; BYTES], with: impl Fn(u16, u16) -> u16) {
        for (lane, chunk) in self.0.iter_mut().zip(element.as_chunks::<2>().0) {
            *lane = with(*lane, u16::from_le_bytes(*chunk));
        }
    }

    /// The state root: a hash of the lanes.
    pub fn root(&self) -> Digest {
        hash_of("moult state root", &self.to_bytes())
    }

    /// For the store: 2,048 bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|lane| lane.to_le_bytes()).collect()
    }

    /// The inverse of [`StateAccumulator::to_bytes`]; `None` for bytes of another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut accumulator = Self::default();
        if bytes.len() != BYTES {
            return None;
        }
        for (lane, chunk) in accumulator.0.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *lane = u16::from_le_bytes(*chunk);
        }
        Some(accumulator)
    }
}

fn expand(key: &[u8], value: &[u8]) -> [u8; BYTES] {
    // What BLAKE3 makes of the context once for all elements.
    static CONTEXT: LazyLock<ContextKey> =
        LazyLock::new(|| hash_derive_key_context("moult 2026 state element"));
    let mut hasher = blake3::Hasher::new_from_context_key(&CONTEXT);
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    let mut bytes = [0; BYTES];
    ChaCha20Rng::from_seed(*hasher.finalize().as_bytes()).fill_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8439, appendix A.1, test vectors 1 and 2: what expands is the cipher as published.
    #[test]
    fn the_expansion_is_the_key_stream_of_the_rfc() {
        let mut bytes = [0; 80];
        ChaCha20Rng::from_seed([0; 32]).fill_bytes(&mut bytes);
        assert!(hex::encode(bytes).starts_with("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1a"));
        assert!(hex::encode(&bytes[64..]).starts_with("9f07e7be5551387a98ba977c732d080d"));
    }

    /// As `Hasher::new_derive_key` does it.
    #[test]
    fn an_element_is_hashed_in_its_context() {
        let mut hasher = blake3::Hasher::new_derive_key("moult 2026 state element");
        hasher.update(&[1, 0, 0, 0, 0, 0, 0, 0]).update(b"kv");
        let mut expected = [0; BYTES];
        ChaCha20Rng::from_seed(*hasher.finalize().as_bytes()).fill_bytes(&mut expected);
        assert_eq!(expand(b"k", b"v"), expected);
    }

    #[test]
    fn the_root_depends_on_the_map_and_not_on_its_history() {
        let (mut one, mut other) = (StateAccumulator::default(), StateAccumulator::default());
        one.replace(b"a", None, Some(b"1"));
        one.replace(b"b", None, Some(b"2"));
        one.replace(b"a", Some(b"1"), Some(b"3"));
        other.replace(b"b", None, Some(b"2"));
        other.replace(b"a", None, Some(b"3"));
        assert_eq!(one.root(), other.root());
        let stored = StateAccumulator::from_bytes(&one.to_bytes()).expect("2,048 bytes");
        assert_eq!(stored, one);
        other.replace(b"b", Some(b"2"), None);
        assert_ne!(one.root(), other.root());
        other.replace(b"a", Some(b"3"), None);
        assert_eq!(other, StateAccumulator::default());
        // The boundary between key and value is part of the element.
        let (mut ab, mut a) = (StateAccumulator::default(), StateAccumulator::default());
        ab.replace(b"ab", None, Some(b"c"));
        a.replace(b"a", None, Some(b"bc"));
        assert_ne!(ab.root(), a.root());
    }
}
