//! What clients asked for, what they were told, and when.

use std::collections::BTreeMap;

/// A value; each write of a history should have its own. `None`: the key is not there.
pub type Value = Option<u64>;

/// What was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Give the value.
    Read,
    /// Set or remove it.
    Write(Value),
    /// Set or remove it if it is the expected one.
    Swap {
        /// What must be there.
        expect: Value,
        /// What is put there.
        value: Value,
    },
}

/// What the client was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A read gave this.
    Value(Value),
    /// It was applied.
    Applied,
    /// The expected value was not there.
    Mismatch,
    /// Nothing, or that nobody knows.
    Unknown,
}

/// One operation. Times are nanoseconds since the beginning of the history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Which client, and where, for people.
    pub who: String,
    /// Before the request was sent first.
    pub called: u64,
    /// After the answer was read; of no meaning for an unknown outcome.
    pub returned: u64,
    /// What was asked for.
    pub request: Request,
    /// What the client was told.
    pub outcome: Outcome,
}

/// Operations by key.
#[derive(Clone, Default, Debug)]
pub struct History {
    /// In any order.
    pub keys: BTreeMap<String, Vec<Entry>>,
}

impl History {
    /// Adds an operation.
    pub fn push(&mut self, key: &str, entry: Entry) {
        self.keys.entry(key.to_owned()).or_default().push(entry);
    }

    /// Adds all operations of another history of the same beginning.
    pub fn extend(&mut self, other: Self) {
        for (key, entries) in other.keys {
            self.keys.entry(key).or_default().extend(entries);
        }
    }

    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.keys.values().map(Vec::len).sum()
    }

    /// Whether nothing was asked.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Changes that were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.count(|e| e.outcome == Outcome::Applied)
    }

    /// Operations without an outcome, one line each.
    pub fn unknown(&self) -> Vec<String> {
        let all = self.keys.iter().flat_map(|(key, entries)| entries.iter().map(move |e| (key, e)));
        all.filter(|(_, e)| e.outcome == Outcome::Unknown)
            .map(|(key, e)| {
                format!("{} {key} {:?}, called at {:.3} s", e.who, e.request, e.called as f64 / 1e9)
            })
            .collect()
    }

    /// Operations that fit a description.
    pub fn count(&self, fits: impl Fn(&Entry) -> bool) -> usize {
        self.keys.values().flatten().filter(|e| fits(e)).count()
    }
}
