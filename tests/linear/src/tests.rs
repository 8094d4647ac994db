//! Known histories, random small ones against an exhaustive search, and mutations.

#![cfg(test)]

use super::*;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

fn entry(called: u64, returned: u64, request: Request, outcome: Outcome) -> Entry {
    Entry { who: "c".into(), called, returned, request, outcome }
}

fn write(called: u64, returned: u64, value: u64) -> Entry {
    entry(called, returned, Request::Write(Some(value)), Outcome::Applied)
}

fn read(called: u64, returned: u64, value: Option<u64>) -> Entry {
    entry(called, returned, Request::Read, Outcome::Value(value))
}

fn lost(called: u64, request: Request) -> Entry {
    entry(called, 0, request, Outcome::Unknown)
}

fn fits(entries: &[Entry]) -> bool {
    let mut history = History::default();
    entries.iter().for_each(|e| history.push("k", e.clone()));
    check(&history).is_ok()
}

#[test]
fn known_linearizable_histories_pass() {
    assert!(fits(&[]));
    assert!(fits(&[read(0, 1, None)]));
    assert!(fits(&[write(0, 1, 7), read(2, 3, Some(7))]));
    // Concurrent with the write, a read may see either.
    assert!(fits(&[write(0, 9, 7), read(1, 2, None), read(3, 4, Some(7))]));
    assert!(fits(&[write(0, 9, 1), write(0, 9, 2), read(10, 11, Some(1))]));
    assert!(fits(&[write(0, 9, 1), write(0, 9, 2), read(10, 11, Some(2))]));
    // A delete, then a swap from nothing.
    let swap = Request::Swap { expect: None, value: Some(3) };
    assert!(fits(&[
        write(0, 1, 1),
        entry(2, 3, Request::Write(None), Outcome::Applied),
        entry(4, 5, swap, Outcome::Applied),
        entry(6, 7, swap, Outcome::Mismatch),
        read(8, 9, Some(3)),
    ]));
}

#[test]
fn known_violations_are_found() {
    // A stale read.
    assert!(!fits(&[write(0, 1, 1), write(2, 3, 2), read(4, 5, Some(1))]));
    // A lost write.
    assert!(!fits(&[write(0, 1, 1), read(2, 3, None)]));
    // A value from nowhere.
    assert!(!fits(&[read(0, 1, Some(9))]));
    // Two reads that saw the order differently.
    assert!(!fits(&[write(0, 9, 1), write(0, 9, 2), read(10, 11, Some(1)), read(12, 13, Some(2))]));
    // Back and forth during one write.
    assert!(!fits(&[write(0, 20, 1), read(1, 2, Some(1)), read(3, 4, None)]));
    // Applied twice: the second swap cannot find the expected value again.
    let swap = Request::Swap { expect: None, value: Some(3) };
    assert!(!fits(&[entry(0, 1, swap, Outcome::Applied), entry(2, 3, swap, Outcome::Applied)]));
    // A mismatch, although the expected value was there all the time.
    assert!(!fits(&[entry(0, 1, swap, Outcome::Mismatch)]));
    // A write of an older call that takes effect after its return.
    assert!(!fits(&[write(0, 1, 1), write(2, 3, 2), read(4, 5, Some(2)), read(6, 7, Some(1))]));
}

#[test]
fn an_unknown_outcome_may_take_effect_late_or_never() {
    let open = lost(0, Request::Write(Some(5)));
    assert!(fits(&[open.clone(), read(10, 11, None)]));
    assert!(fits(&[open.clone(), read(10, 11, Some(5))]));
    assert!(fits(&[open.clone(), read(10, 11, None), read(100, 110, Some(5))]));
    // But not before its call, and not twice.
    assert!(!fits(&[read(0, 1, Some(5)), lost(2, Request::Write(Some(5)))]));
    assert!(!fits(&[open, read(10, 11, Some(5)), write(12, 13, 6), read(14, 15, Some(5))]));
    let swap = lost(0, Request::Swap { expect: Some(1), value: Some(2) });
    assert!(fits(&[swap.clone(), write(1, 2, 1), read(3, 4, Some(2))]));
    assert!(!fits(&[swap, write(1, 2, 3), read(3, 4, Some(2))]));
}

#[test]
fn keys_are_independent() {
    let mut history = History::default();
    history.push("a", write(0, 1, 1));
    history.push("b", read(2, 3, None));
    assert!(check(&history).is_ok());
    history.push("b", read(4, 5, Some(1)));
    let error = check(&history).expect_err("b was never written");
    assert_eq!((error.key.as_str(), error.order.len(), error.stuck.len()), ("b", 1, 1));
    assert!(error.to_string().contains("stuck"), "{error}");
}

/// Every order that respects time, one by one.
fn fits_exhaustively(entries: &[Entry], taken: &mut Vec<bool>, value: Option<u64>) -> bool {
    let end = |e: &Entry| if e.outcome == Outcome::Unknown { u64::MAX } else { e.returned };
    let open: Vec<usize> = (0..entries.len()).filter(|&i| !taken[i]).collect();
    if open.iter().all(|&i| entries[i].outcome == Outcome::Unknown) {
        return true;
    }
    open.iter().any(|&i| {
        let e = &entries[i];
        if open.iter().any(|&j| end(&entries[j]) < e.called) {
            return false;
        }
        let after = match (e.request, e.outcome) {
            (Request::Read, Outcome::Value(read)) if read == value => value,
            (Request::Write(new), Outcome::Applied | Outcome::Unknown) => new,
            (Request::Swap { expect, value: new }, Outcome::Applied | Outcome::Unknown)
                if expect == value =>
            {
                new
            }
            (Request::Swap { expect, .. }, Outcome::Mismatch) if expect != value => value,
            (Request::Read | Request::Swap { .. }, Outcome::Unknown) => value,
            _ => return false,
        };
        taken[i] = true;
        let fits = fits_exhaustively(entries, taken, after);
        taken[i] = false;
        fits
    })
}

fn random_entry(rng: &mut Rng) -> Entry {
    let value = |rng: &mut Rng| [None, Some(1), Some(2)][rng.below(3) as usize];
    let called = rng.below(12);
    let returned = called + 1 + rng.below(6);
    let (request, outcome) = match rng.below(4) {
        0 | 1 => (Request::Read, Outcome::Value(value(rng))),
        2 => (Request::Write(value(rng)), Outcome::Applied),
        _ => {
            let swap = Request::Swap { expect: value(rng), value: value(rng) };
            (swap, if rng.below(2) == 0 { Outcome::Applied } else { Outcome::Mismatch })
        }
    };
    let outcome = if rng.below(8) == 0 { Outcome::Unknown } else { outcome };
    entry(called, returned, request, outcome)
}

#[test]
fn the_search_agrees_with_an_exhaustive_one() {
    let mut rng = Rng::new(1);
    let mut verdicts = [0, 0];
    for round in 0..30_000 {
        let entries: Vec<Entry> = (0..1 + rng.below(6)).map(|_| random_entry(&mut rng)).collect();
        let expected = fits_exhaustively(&entries, &mut vec![false; entries.len()], None);
        assert_eq!(fits(&entries), expected, "round {round}: {entries:#?}");
        verdicts[usize::from(expected)] += 1;
    }
    assert!(verdicts.iter().all(|&count| count > 3_000), "{verdicts:?}");
}

/// A history of a true register: each operation has its effect at one instant in between.
fn true_history(rng: &mut Rng, operations: u64, clients: usize) -> Vec<Entry> {
    let mut value = None;
    let mut free_from = vec![0; clients];
    let mut entries = Vec::new();
    for n in 0..operations {
        let (now, client) = (n * 10, rng.below(clients as u64) as usize);
        let called = now.saturating_sub(rng.below(60)).max(free_from[client]);
        let returned = now + rng.below(60);
        if called > now {
            continue;
        }
        free_from[client] = returned + 1;
        let (request, outcome) = match rng.below(5) {
            0 | 1 => (Request::Read, Outcome::Value(value)),
            2 => (Request::Write(Some(n + 1)), Outcome::Applied),
            3 => (Request::Write(None), Outcome::Applied),
            _ => {
                let expect = if rng.below(2) == 0 { value } else { Some(0) };
                let outcome = if expect == value { Outcome::Applied } else { Outcome::Mismatch };
                (Request::Swap { expect, value: Some(n + 1) }, outcome)
            }
        };
        value = match (request, outcome) {
            (Request::Write(new) | Request::Swap { value: new, .. }, Outcome::Applied) => new,
            _ => value,
        };
        // Some clients never hear of what they did.
        let outcome = if rng.below(100) == 0 { Outcome::Unknown } else { outcome };
        entries.push(entry(called, returned, request, outcome));
    }
    entries
}

#[test]
fn true_histories_pass_and_their_mutations_are_found() {
    let mut rng = Rng::new(2);
    for _ in 0..40 {
        let entries = true_history(&mut rng, 300, 6);
        assert!(fits(&entries));
        // A value that nobody wrote.
        let reads: Vec<usize> =
            (0..entries.len()).filter(|&i| matches!(entries[i].outcome, Outcome::Value(_))).collect();
        let victim = reads[rng.below(reads.len() as u64) as usize];
        let mut mutated = entries.clone();
        mutated[victim].outcome = Outcome::Value(Some(u64::MAX));
        assert!(!fits(&mutated));
        // A write that was read, and that the log has lost.
        let seen = |value: u64| reads.iter().any(|&i| entries[i].outcome == Outcome::Value(Some(value)));
        let lost = entries.iter().position(|e| matches!(e.request, Request::Write(Some(v)) if seen(v)));
        let mut mutated = entries.clone();
        mutated.remove(lost.expect("some write was read"));
        assert!(!fits(&mutated));
        // A read that is answered from long ago.
        let old = reads.iter().find(|&&i| matches!(entries[i].outcome, Outcome::Value(Some(_)))).copied();
        let mut stale = entries[old.expect("some read saw a value")].clone();
        (stale.called, stale.returned) = (100_000, 100_001);
        let mut mutated = entries.clone();
        mutated.push(write(90_000, 90_001, 1 << 40));
        mutated.push(stale);
        assert!(!fits(&mutated));
    }
}

#[test]
fn a_search_that_takes_too_long_is_given_up_and_counted() {
    let mut history = History::default();
    history.push("k", write(0, 1, 7));
    assert_eq!(decide(&history, 0).unwrap(), 1);
    assert_eq!(decide(&history, 10).unwrap(), 0);
}
