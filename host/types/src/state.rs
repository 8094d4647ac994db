//! The replicated ordered map: what reads it, and writes that are not applied yet.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use moult_sdk::application::{ReadState, State};

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 4096;
/// Longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Most entries that one scan returns.
pub const SCAN_ENTRIES_MAX: u32 = 1024;

/// A consistent view of the map at one global index.
pub trait StateReader: Send + Sync {
    /// The value under a key.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>>;

    /// Up to `limit` pairs with `start <= key < end`, rising.
    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)>;
}

/// Pairs by key; the reader of tests and of the simulator.
impl StateReader for BTreeMap<Vec<u8>, Vec<u8>> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        Self::get(self, key).cloned()
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        if end.is_some_and(|end| end <= start) {
            return Vec::new();
        }
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        self.range::<[u8], _>((Bound::Included(start), upper))
            .take(limit)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }
}

/// Writes over a view: what one block changes. Every key is stored under a prefix, so that
/// the application and the host's own records (sessions, receipts) share one map unseen by
/// each other.
#[derive(Clone)]
pub struct Overlay {
    base: Arc<dyn StateReader>,
    prefix: u8,
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Overlay {
    /// An empty overlay for the keys under `prefix`.
    pub fn new(base: Arc<dyn StateReader>, prefix: u8) -> Self {
        Self { base, prefix, writes: BTreeMap::new() }
    }

    /// The writes by full key (prefix included); `None` is a removal.
    pub fn writes(&self) -> &BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        &self.writes
    }

    /// The writes by full key; see [`Overlay::writes`].
    pub fn into_writes(self) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        self.writes
    }

    fn full(&self, key: &[u8]) -> Vec<u8> {
        let mut full = Vec::with_capacity(key.len() + 1);
        full.push(self.prefix);
        full.extend_from_slice(key);
        full
    }
}

impl ReadState for Overlay {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let full = self.full(key);
        match self.writes.get(&full) {
            Some(written) => written.clone(),
            None => self.base.get(&full),
        }
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: u32) -> Vec<(Vec<u8>, Vec<u8>)> {
        let limit = limit.min(SCAN_ENTRIES_MAX) as usize;
        let start = self.full(start);
        let end = end.map_or_else(|| vec![self.prefix.saturating_add(1)], |end| self.full(end));
        let mut found = scan_merged(self.base.as_ref(), &self.writes, &start, Some(&end), limit);
        for (key, _) in &mut found {
            key.remove(0);
        }
        found
    }
}

/// What [`StateReader::scan`] of `base` would give after `writes` (`None` removes).
pub fn scan_merged<K: Borrow<[u8]> + Ord, V: AsRef<[u8]>>(
    base: &dyn StateReader,
    writes: &BTreeMap<K, Option<V>>,
    start: &[u8],
    end: Option<&[u8]>,
    limit: usize,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    if end.is_some_and(|end| end <= start) || limit == 0 {
        return Vec::new();
    }
    let mut written = writes
        .range::<[u8], _>((Bound::Included(start), end.map_or(Bound::Unbounded, Bound::Excluded)))
        .peekable();
    let mut found = Vec::new();
    let mut from = start.to_vec();
    // Merges pages of the base with the writes; a removal may empty a page, hence the loop.
    loop {
        let page = base.scan(&from, end, limit);
        let last_page = page.len() < limit;
        let next = page.last().map(|(key, _)| [key.as_slice(), &[0]].concat());
        for (key, value) in page {
            while let Some((written_key, change)) = written.next_if(|(k, _)| (*k).borrow() < key.as_slice()) {
                found.extend(written_pair(written_key, change));
            }
            match written.next_if(|(k, _)| (*k).borrow() == key.as_slice()) {
                Some((_, change)) => found.extend(written_pair(&key, change)),
                None => found.push((key, value)),
            }
            if found.len() >= limit {
                found.truncate(limit);
                return found;
            }
        }
        match next {
            Some(next) if !last_page => from = next,
            _ => break,
        }
    }
    for (key, change) in written {
        found.extend(written_pair(key, change));
    }
    found.truncate(limit);
    found
}

fn written_pair(key: &impl Borrow<[u8]>, change: &Option<impl AsRef<[u8]>>) -> Option<(Vec<u8>, Vec<u8>)> {
    change.as_ref().map(|value| (key.borrow().to_vec(), value.as_ref().to_vec()))
}

impl State for Overlay {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        let full = self.full(key);
        self.writes.insert(full, Some(value.to_vec()));
    }

    fn delete(&mut self, key: &[u8]) {
        let full = self.full(key);
        self.writes.insert(full, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_sees_writes_removals_and_only_its_own_prefix() {
        let mut base = BTreeMap::new();
        for key in ["b", "d", "f"] {
            base.insert([&[1], key.as_bytes()].concat(), key.as_bytes().to_vec());
        }
        base.insert(vec![2, b'a'], b"other".to_vec());
        let mut overlay = Overlay::new(Arc::new(base), 1);
        overlay.put(b"c", b"new");
        overlay.put(b"f", b"changed");
        overlay.delete(b"b");
        overlay.put(b"z", b"last");
        let keys = |limit| -> Vec<String> {
            let found = overlay.scan(b"", None, limit);
            found.into_iter().map(|(k, _)| String::from_utf8(k).expect("ascii")).collect()
        };
        assert_eq!(keys(10), ["c", "d", "f", "z"]);
        assert_eq!(keys(1), ["c"]);
        assert_eq!(keys(3), ["c", "d", "f"]);
        assert_eq!(overlay.get(b"f"), Some(b"changed".to_vec()));
        assert_eq!(overlay.get(b"b"), None);
        assert!(overlay.scan(b"d", Some(b"d"), 5).is_empty());
    }
}
