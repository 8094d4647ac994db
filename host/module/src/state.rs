//! The replicated map as an application sees it, with the rules of its contract.

use std::cell::Cell;

use moult_sdk::application::{ReadState, State as _};
use moult_types::state::{KEY_BYTES_MAX, Overlay, SCAN_ENTRIES_MAX, VALUE_BYTES_MAX};
use thiserror::Error;

/// Most bytes of keys and values that one scan may return.
pub(crate) const SCAN_BYTES_MAX: usize = 16 << 20;

const OPERATION_WORK: u64 = 1_000;
const ENTRY_WORK: u64 = 100;
/// Entries read at once in a scan: bounds what is read beyond [`SCAN_BYTES_MAX`].
const PAGE_ENTRIES: u32 = 16;

/// Pairs of keys and values, rising.
pub(crate) type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// Why an access ends the call.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(crate) enum StateFault {
    #[error("state: a key of {0} bytes; 1 to {KEY_BYTES_MAX} are allowed")]
    Key(usize),
    #[error("state: a value of {0} bytes; at most {VALUE_BYTES_MAX} are allowed")]
    Value(usize),
    #[error("state: a write in `query`")]
    ReadOnly,
    #[error("state: a scan of more than {SCAN_BYTES_MAX} bytes")]
    Scan,
    #[error("state: more work than {0} in one call")]
    Work(u64),
    #[error("state: there is none in this call")]
    Absent,
}

/// An overlay with the limits of one call.
pub(crate) struct GuestState {
    overlay: Overlay,
    writable: bool,
    work_limit: u64,
    work: Cell<u64>,
}

impl GuestState {
    pub(crate) fn new(overlay: Overlay, writable: bool, work_limit: u64) -> Self {
        Self { overlay, writable, work_limit, work: Cell::new(0) }
    }

    pub(crate) fn into_overlay(self) -> Overlay {
        self.overlay
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateFault> {
        check_key(key)?;
        self.spend(OPERATION_WORK + key.len() as u64)?;
        let value = self.overlay.get(key);
        self.spend(value.as_ref().map_or(0, Vec::len) as u64)?;
        Ok(value)
    }

    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateFault> {
        self.check_write(key)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(StateFault::Value(value.len()));
        }
        self.spend(OPERATION_WORK + (key.len() + value.len()) as u64)?;
        self.overlay.put(key, value);
        Ok(())
    }

    pub(crate) fn delete(&mut self, key: &[u8]) -> Result<(), StateFault> {
        self.check_write(key)?;
        self.spend(OPERATION_WORK + key.len() as u64)?;
        self.overlay.delete(key);
        Ok(())
    }

    pub(crate) fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: u32) -> Result<Entries, StateFault> {
        for bound in [Some(start), end].into_iter().flatten() {
            if bound.len() > KEY_BYTES_MAX {
                return Err(StateFault::Key(bound.len()));
            }
        }
        self.spend(OPERATION_WORK)?;
        let limit = limit.min(SCAN_ENTRIES_MAX) as usize;
        let mut found = Vec::new();
        let mut found_bytes = 0;
        let mut from = start.to_vec();
        while found.len() < limit {
            let page = PAGE_ENTRIES.min((limit - found.len()) as u32);
            let entries = self.overlay.scan(&from, end, page);
            let last_page = entries.len() < page as usize;
            for (key, value) in entries {
                let bytes = key.len() + value.len();
                self.spend(ENTRY_WORK + bytes as u64)?;
                found_bytes += bytes;
                if found_bytes > SCAN_BYTES_MAX {
                    return Err(StateFault::Scan);
                }
                found.push((key, value));
            }
            match found.last() {
                Some((key, _)) if !last_page => from = [key.as_slice(), &[0]].concat(),
                _ => break,
            }
        }
        Ok(found)
    }

    fn check_write(&self, key: &[u8]) -> Result<(), StateFault> {
        if !self.writable {
            return Err(StateFault::ReadOnly);
        }
        check_key(key)
    }

    fn spend(&self, work: u64) -> Result<(), StateFault> {
        let spent = self.work.get().saturating_add(work);
        self.work.set(spent);
        if spent > self.work_limit { Err(StateFault::Work(self.work_limit)) } else { Ok(()) }
    }
}

fn check_key(key: &[u8]) -> Result<(), StateFault> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX { Err(StateFault::Key(key.len())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn state(writable: bool, work: u64) -> GuestState {
        let map: BTreeMap<Vec<u8>, Vec<u8>> = (0..100u8).map(|n| (vec![1, n], vec![n])).collect();
        GuestState::new(Overlay::new(Arc::new(map), 1), writable, work)
    }

    #[test]
    fn rules_of_the_contract() {
        let mut guest = state(true, u64::MAX);
        assert_eq!(guest.get(b""), Err(StateFault::Key(0)));
        assert_eq!(guest.get(&[0; KEY_BYTES_MAX + 1]), Err(StateFault::Key(KEY_BYTES_MAX + 1)));
        assert_eq!(guest.put(&[0; KEY_BYTES_MAX], &[0; VALUE_BYTES_MAX]), Ok(()));
        assert_eq!(guest.put(&[7], &[0; VALUE_BYTES_MAX + 1]), Err(StateFault::Value(VALUE_BYTES_MAX + 1)));
        assert_eq!(state(false, u64::MAX).put(&[7], &[]), Err(StateFault::ReadOnly));
        assert_eq!(state(false, u64::MAX).delete(&[7]), Err(StateFault::ReadOnly));
        assert_eq!(state(true, 1_500).get(&[7]).map(|v| v.is_some()), Ok(true));
        assert_eq!(state(true, 900).get(&[7]), Err(StateFault::Work(900)));
    }

    #[test]
    fn a_scan_of_several_pages_is_one_scan() {
        let mut guest = state(true, u64::MAX);
        guest.delete(&[20]).expect("writable");
        let found = guest.scan(&[10], Some(&[90]), 1000).expect("a scan");
        let expected: Vec<_> = (10..90u8).filter(|n| *n != 20).map(|n| (vec![n], vec![n])).collect();
        assert_eq!(found, expected);
        assert_eq!(guest.scan(&[10], None, 17).expect("a scan").len(), 17);
        assert_eq!(guest.scan(&[90], Some(&[10]), 17), Ok(Vec::new()));
        for n in 0..20u8 {
            guest.put(&[200, n], &[0; VALUE_BYTES_MAX]).expect("writable");
        }
        assert_eq!(guest.scan(&[200], None, 1000), Err(StateFault::Scan));
    }
}
