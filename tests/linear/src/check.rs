//! The search.

use std::collections::BTreeSet;
use std::fmt;

use super::history::{Entry, History, Outcome, Request, Value};

/// A key whose operations fit no order.
#[derive(Clone, Debug)]
pub struct NotLinearizable {
    /// Which key.
    pub key: String,
    /// The longest order that was found.
    pub order: Vec<Entry>,
    /// What could come next, and does not fit.
    pub stuck: Vec<Entry>,
}

impl fmt::Display for NotLinearizable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "key `{}` is not linearizable; an order was found for {} operations",
            self.key,
            self.order.len()
        )?;
        for entry in self.order.iter().rev().take(SHOWN).rev() {
            writeln!(f, "  fits   {}", Line(entry))?;
        }
        for entry in &self.stuck {
            writeln!(f, "  stuck  {}", Line(entry))?;
        }
        Ok(())
    }
}

struct Line<'a>(&'a Entry);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Entry { who, called, returned, request, outcome } = self.0;
        write!(f, "{:>9.3} ms .. ", *called as f64 / 1e6)?;
        if *outcome == Outcome::Unknown {
            write!(f, "{:>12}", "open")?;
        } else {
            write!(f, "{:>9.3} ms", *returned as f64 / 1e6)?;
        }
        write!(f, "  {who:10} {request:?} -> {outcome:?}")
    }
}

/// Checks every key.
///
/// # Errors
/// The first key that is not linearizable.
///
/// # Panics
/// A key's history is too entangled to be decided.
pub fn check(history: &History) -> Result<(), NotLinearizable> {
    let undecided = decide(history, TRIED_MAX)?;
    assert!(undecided == 0, "the history is too entangled to be decided: fewer clients a key");
    Ok(())
}

/// Checks every key, and gives one up after so many states of its search, each of some 200 bytes;
/// answers with how many were given up.
///
/// # Errors
/// The first key that is not linearizable.
pub fn decide(history: &History, tried_max: usize) -> Result<usize, NotLinearizable> {
    let mut undecided = 0;
    for (key, entries) in &history.keys {
        match Search::new(entries).run(tried_max) {
            Found::Order => {}
            Found::TooMany => undecided += 1,
            Found::None(order, stuck) => {
                return Err(NotLinearizable {
                    key: key.clone(),
                    order: order.iter().map(|&i| entries[i].clone()).collect(),
                    stuck: stuck.iter().map(|&i| entries[i].clone()).collect(),
                });
            }
        }
    }
    Ok(undecided)
}

/// What a search came to.
enum Found {
    Order,
    /// The longest order, and what could come next and does not fit.
    None(Vec<usize>, Vec<usize>),
    /// It was given up.
    TooMany,
}

/// The value after an operation, if its outcome fits the value before it.
fn apply(value: Value, request: Request, outcome: Outcome) -> Option<Value> {
    match (request, outcome) {
        (Request::Read, Outcome::Value(read)) => (read == value).then_some(value),
        (Request::Read, Outcome::Unknown) => Some(value),
        (Request::Write(new), Outcome::Applied | Outcome::Unknown) => Some(new),
        (Request::Swap { expect, value: new }, Outcome::Applied) => (expect == value).then_some(new),
        (Request::Swap { expect, .. }, Outcome::Mismatch) => (expect != value).then_some(value),
        (Request::Swap { expect, value: new }, Outcome::Unknown) => {
            Some(if expect == value { new } else { value })
        }
        _ => None,
    }
}

/// A set of operations, by their order of call: all up to the last one taken, but a few.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
struct Taken {
    /// After the last one.
    end: usize,
    /// Those before it that are not taken.
    missing: BTreeSet<usize>,
}

impl Taken {
    /// All that are not taken, rising.
    fn others(&self, count: usize) -> impl Iterator<Item = usize> + '_ {
        self.missing.iter().copied().chain(self.end..count)
    }

    fn insert(&mut self, index: usize) {
        if index >= self.end {
            self.missing.extend(self.end..index);
            self.end = index + 1;
        } else {
            self.missing.remove(&index);
        }
    }

    fn remove(&mut self, index: usize) {
        if index + 1 < self.end {
            self.missing.insert(index);
            return;
        }
        self.end = index;
        while self.end > 0 && self.missing.remove(&(self.end - 1)) {
            self.end -= 1;
        }
    }

    fn len(&self) -> usize {
        self.end - self.missing.len()
    }
}

/// One key's search.
struct Search<'a> {
    entries: &'a [Entry],
    /// Operations by time of call.
    calls: Vec<usize>,
    taken: Taken,
    value: Value,
    /// What was taken.
    path: Vec<Taking>,
    tried: BTreeSet<(Taken, Value)>,
    longest: (Vec<usize>, Vec<usize>),
}

/// One operation of the order, with the value before it.
struct Taking {
    place: usize,
    before: Value,
    /// Taking another one instead cannot help.
    is_only: bool,
}

impl<'a> Search<'a> {
    fn new(entries: &'a [Entry]) -> Self {
        let mut calls: Vec<usize> = (0..entries.len()).collect();
        calls.sort_by_key(|&i| (entries[i].called, i));
        Self {
            entries,
            calls,
            taken: Taken::default(),
            value: None,
            path: Vec::new(),
            tried: BTreeSet::new(),
            longest: (Vec::new(), Vec::new()),
        }
    }

    fn run(mut self, tried_max: usize) -> Found {
        // The next place to try, at each depth.
        let mut from = 0;
        loop {
            if self.taken.len() == self.entries.len() {
                return Found::Order;
            }
            if self.tried.len() >= tried_max {
                return Found::TooMany;
            }
            if let Some(place) = self.without_effect().filter(|_| from == 0) {
                self.take(place, true);
                continue;
            }
            if let Some(place) = self.next_fit(from) {
                self.take(place, false);
                from = 0;
                continue;
            }
            self.note_longest();
            loop {
                let Some(last) = self.path.pop() else {
                    let (order, stuck) = self.longest;
                    return Found::None(order, stuck);
                };
                self.taken.remove(last.place);
                self.value = last.before;
                if !last.is_only {
                    from = last.place + 1;
                    break;
                }
            }
        }
    }

    /// An operation that may be next and never changes a value: wherever it stands in an
    /// order, it can as well stand here.
    fn without_effect(&self) -> Option<usize> {
        self.candidates().find(|&place| {
            let entry = &self.entries[self.calls[place]];
            matches!(entry.outcome, Outcome::Value(_) | Outcome::Mismatch)
                && apply(self.value, entry.request, entry.outcome).is_some()
        })
    }

    /// The first place from `from` on that may be next in the order: called before any open
    /// operation returned, with a fitting outcome, and not tried with this past.
    fn next_fit(&mut self, from: usize) -> Option<usize> {
        let candidates: Vec<usize> = self.candidates().filter(|&place| place >= from).collect();
        candidates.into_iter().find(|&place| {
            let entry = &self.entries[self.calls[place]];
            let Some(value) = apply(self.value, entry.request, entry.outcome) else { return false };
            self.taken.insert(place);
            let fresh = self.tried.insert((self.taken.clone(), value));
            self.taken.remove(place);
            fresh
        })
    }

    /// Operations that no untaken operation precedes in time.
    fn candidates(&self) -> impl Iterator<Item = usize> + '_ {
        let mut earliest_return = u64::MAX;
        self.taken
            .others(self.calls.len())
            .map(|place| (place, &self.entries[self.calls[place]]))
            .take_while(move |(_, entry)| {
                let possible = entry.called <= earliest_return;
                if entry.outcome != Outcome::Unknown {
                    earliest_return = earliest_return.min(entry.returned);
                }
                possible
            })
            .map(|(place, _)| place)
    }

    fn take(&mut self, place: usize, is_only: bool) {
        let entry = &self.entries[self.calls[place]];
        let after = apply(self.value, entry.request, entry.outcome).unwrap_or(self.value);
        self.path.push(Taking { place, before: self.value, is_only });
        self.taken.insert(place);
        self.value = after;
    }

    fn note_longest(&mut self) {
        if self.path.len() >= self.longest.0.len() {
            let order = self.path.iter().map(|taking| self.calls[taking.place]).collect();
            let stuck = self.candidates().map(|place| self.calls[place]).collect();
            self.longest = (order, stuck);
        }
    }
}

/// Operations of the found order that a message shows.
const SHOWN: usize = 12;
/// States of one key's search.
const TRIED_MAX: usize = 4_000_000;
