/// What a frame is for; each class has its own stream and its own queue, so that bulk does
/// not hold up what is urgent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Class {
    /// Votes and engine messages: small and urgent. A full queue drops its oldest frames,
    /// because of two votes the newer one matters.
    Consensus = 1,
    /// Batches: bulk. A full queue refuses the new frame.
    Batches = 2,
    /// Requests, answers, modules. A full queue refuses the new frame.
    Sync = 3,
}

impl Class {
    /// Every class, most urgent first.
    pub const ALL: [Self; 3] = [Self::Consensus, Self::Batches, Self::Sync];

    /// A short name for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Consensus => "consensus",
            Self::Batches => "batches",
            Self::Sync => "sync",
        }
    }

    pub(crate) fn from_wire(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|c| *c as u8 == byte)
    }

    /// Higher goes first.
    pub(crate) fn priority(self) -> i32 {
        match self {
            Self::Consensus => 2,
            Self::Batches => 1,
            Self::Sync => 0,
        }
    }
}

/// One value for each [`Class`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PerClass<T> {
    /// For [`Class::Consensus`].
    pub consensus: T,
    /// For [`Class::Batches`].
    pub batches: T,
    /// For [`Class::Sync`].
    pub sync: T,
}

impl<T> PerClass<T> {
    /// Makes the three values.
    pub fn from_fn(mut make: impl FnMut(Class) -> T) -> Self {
        Self { consensus: make(Class::Consensus), batches: make(Class::Batches), sync: make(Class::Sync) }
    }

    /// The value of a class.
    pub fn of(&self, class: Class) -> &T {
        match class {
            Class::Consensus => &self.consensus,
            Class::Batches => &self.batches,
            Class::Sync => &self.sync,
        }
    }
}

impl PerClass<usize> {
    pub(crate) fn sum(&self) -> usize {
        self.consensus.saturating_add(self.batches).saturating_add(self.sync)
    }
}
