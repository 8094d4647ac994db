//! Counts what a thread allocates, so that a decoder that believes a length is noticed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes held now and at most, since the last reset; below zero where what is freed is older.
    static HELD: Cell<(i64, i64)> = const { Cell::new((0, 0)) };
}

/// Runs `work` and tells how many bytes more than before it held at most.
pub(crate) fn peak_bytes<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    HELD.set((0, 0));
    let value = work();
    let (held, peak) = HELD.get();
    HELD.set((before.0 + held, before.1.max(before.0 + peak)));
    (value, usize::try_from(peak).unwrap_or(0))
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn note(change: i64) {
    let (held, peak) = HELD.get();
    HELD.set((held + change, peak.max(held + change)));
}

// SAFETY: every call is handed to the system's allocator as it is; the counters are plain
// cells of the thread that neither allocate nor are dropped.
#[allow(unsafe_code, reason = "there is no other way to count what a decoder allocates")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as i64);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note(-(layout.size() as i64));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        note(bytes as i64 - layout.size() as i64);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(at, layout, bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::peak_bytes;

    #[test]
    fn the_peak_of_a_call_is_counted_and_nested_calls_add_up() {
        let ((inner, kept), outer) = peak_bytes(|| {
            let kept = vec![1_u8; 1000];
            let ((), inner) = peak_bytes(|| drop(vec![1_u8; 50_000]));
            (inner, kept)
        });
        assert_eq!((inner, kept.len()), (50_000, 1000));
        assert_eq!(outer, 51_000);
    }
}
