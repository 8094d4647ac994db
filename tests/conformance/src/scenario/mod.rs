//! Scenarios: what is done to a committee, and what is expected of it, as text.
//!
//! The files are in `scenarios/`; the format is described in the README of this crate.
//! [`parse`] is strict and names the line of an error; [`run`] drives a world by what it
//! read and names the line that failed. No scenario knows a particular engine.

mod files;
mod parse;
mod run;

use moult_sdk::FaultModel;

pub use files::builtin;
pub use parse::{ParseError, parse};
pub use run::{Case, Failure, cases};

use crate::world::{Drop, Kind, Point};

/// Which engines a scenario is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Model {
    /// Every fault model that the engine is made for.
    Any,
    /// One.
    One(FaultModel),
}

/// A scenario as written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scenario {
    /// Its name; that of its file, too.
    pub name: String,
    /// What it is about, in a sentence.
    pub about: String,
    /// Where it comes from, if it was published.
    pub source: Option<String>,
    /// Under which fault models it runs.
    pub model: Model,
    /// Committees, by stakes.
    pub stakes: Vec<Vec<u64>>,
    /// Who lies, and how.
    pub liar: Option<(u32, LieName)>,
    /// Who never starts.
    pub dead: Vec<u32>,
    /// How long a node may be behind before its host carries it on.
    pub catch_up_ms: u64,
    /// Most batches in a commit.
    pub commit_max: u32,
    /// The steps, once for every choice of the `each` lines.
    pub variants: Vec<Variant>,
}

/// The steps under one choice of what `each` line offers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variant {
    /// The choice, such as `step=3 point=guard`; empty where there is none to make.
    pub label: String,
    /// The steps with their lines.
    pub steps: Vec<Line>,
}

/// A step and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// From 1.
    pub number: usize,
    /// As written, after the choice was filled in.
    pub text: String,
    /// What it says.
    pub step: Step,
}

/// A lie that a scenario can ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "see `Lie`")]
pub enum LieName {
    Silent,
    Twins,
    Garble,
    Flip,
    Replay,
    Amnesia,
}

/// Some nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nodes {
    /// All but those named.
    pub not: bool,
    /// Those named.
    pub atoms: Vec<Atom>,
}

/// One or more nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Atom {
    /// By index.
    Index(u32),
    /// Everyone.
    All,
    /// Leader of the last commit.
    Leader,
    /// The n-th that is not that leader, by rising index, from 1.
    Follower(u32),
    /// Those that are up.
    Up,
    /// Those that are down.
    Down,
    /// What a `name` line named.
    Name(String),
}

/// Something to do or to expect.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the README says what each does")]
pub enum Step {
    Batches { count: u64, at: Option<Nodes>, private: bool, over_ms: u64 },
    Run(u64),
    Crash(Nodes),
    Restart(Nodes),
    CrashAt { nodes: Nodes, nth: u64, point: Point, back_ms: Option<u64> },
    CrashOften(u64),
    Partition(Vec<Nodes>),
    Cut(Nodes, Nodes),
    Mend(Nodes, Nodes),
    Heal,
    Drop { kind: Kind, percent: u64, between: Option<(Nodes, Nodes)> },
    Links(Links),
    Pause(Nodes, u64),
    Drain(Nodes),
    Shun(Nodes),
    Name(String, Nodes),
    Mark,
    Expect(Expect),
    Until(Expect, u64),
    Settle(u64),
}

/// A change to what links do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "see `Quality`")]
pub enum Links {
    Delay(u64, u64),
    Loss(u64),
    Duplicates(u64),
    LateBatches(u64),
    LateTimers(u64),
}

/// What may be expected.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the README says what each means")]
pub enum Expect {
    Committed { compare: Compare, count: u64, on: Nodes },
    Final { compare: Compare, count: u64, on: Nodes },
    Progress { on: Nodes },
    NoProgress { on: Nodes },
    LeaderIn(Nodes),
    LeaderNotIn(Nodes),
    Same { on: Nodes },
    EmptyCommits { compare: Compare, count: u64 },
    AllFinal,
    Happened(String),
}

/// How a number compares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "they are what they are called")]
pub enum Compare {
    AtLeast,
    AtMost,
    Equal,
}

impl Compare {
    fn holds(self, has: u64, wanted: u64) -> bool {
        match self {
            Self::AtLeast => has >= wanted,
            Self::AtMost => has <= wanted,
            Self::Equal => has == wanted,
        }
    }
}

impl Nodes {
    /// Everyone.
    pub fn all() -> Self {
        Self { not: false, atoms: vec![Atom::All] }
    }
}

/// A rule that loses messages, with its nodes found.
fn drop_rule(kind: Kind, percent: u64, from: &[u32], to: &[u32]) -> Drop {
    Drop { kind, percent, from: from.iter().copied().collect(), to: to.iter().copied().collect() }
}
