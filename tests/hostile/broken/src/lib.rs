//! An engine that is wrong on purpose, for tests: PBFT for its first commits, and from then on
//! one of seven things that no engine may do ([`Kind`]).
//!
//! Every node of an epoch runs it, so a quorum has to give it up: that nothing forks, nothing
//! acknowledged is lost and the fallback goes on is what tests show. Its configuration is
//! `broken=KIND`, `after=N` (commits that are still right), and below that PBFT's own lines.
//! It is built as a component like every other engine and never shipped with the program. Bugs
//! that a check of the simulator must catch are elsewhere (feature `planted` of the engines).

use moult_pbft::Pbft;
use moult_sdk::engine::{
    Action, Choice, Commit, Engine, Event, Info, InitError, Outcome, Recovered, Settings,
};
use moult_sdk::{AuthorityIndex, Batch, CommitIndex, Committee, Digest, NowMs};

#[cfg(all(target_arch = "wasm32", feature = "component"))]
moult_sdk::export_engine!(Broken);

/// What it does once it is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Commits different orders on different nodes: each third of the places has its own.
    Orders,
    /// Commits what it holds as it comes in, before anybody else was asked.
    BeforeQuorum,
    /// Commits nothing.
    Never,
    /// Traps at a commit, again at each start.
    Trap,
    /// Keeps 32 MiB for each commit, without bound, also over a start.
    Grow,
    /// Commits batches that nobody has, the same on all nodes.
    Phantom,
    /// Asks the signer for two digests of each slot, the lie first.
    Equivocate,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Orders,
        Self::BeforeQuorum,
        Self::Never,
        Self::Trap,
        Self::Grow,
        Self::Phantom,
        Self::Equivocate,
    ];

    /// As a configuration names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::BeforeQuorum => "before-quorum",
            Self::Never => "never",
            Self::Trap => "trap",
            Self::Grow => "grow",
            Self::Phantom => "phantom",
            Self::Equivocate => "equivocate",
        }
    }

    /// The kind of a name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What it keeps for each commit, in bytes.
const HOARD_BYTES: usize = 32 << 20;
/// Natively nobody bounds its memory: it ends where a module host would end it.
#[cfg(not(target_arch = "wasm32"))]
const HOARD_BYTES_MAX: usize = 256 << 20;

/// PBFT with its faults around it.
pub struct Broken {
    inner: Pbft,
    kind: Kind,
    /// The last commit that is right.
    after: u64,
    me: Option<AuthorityIndex>,
    batches_max: usize,
    /// The highest commit that was made here or is final.
    last: u64,
    /// `Orders`: the first commit of a pair, until the second comes.
    first: Option<Commit>,
    /// `BeforeQuorum`: what came in and is not committed.
    held: Vec<Digest>,
    hoard: Hoard,
}

impl Engine for Broken {
    fn describe() -> Info {
        Info { name: "broken".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned(), ..Pbft::describe() }
    }

    fn init(settings: Settings, recovered: Option<Recovered>) -> Result<(Self, Outcome), InitError> {
        let (kind, after, config) = parse(&settings.config).map_err(InitError::BadConfig)?;
        let (me, batches_max) = (settings.committee.me, settings.max_batches_in_commit as usize);
        let (last, held) = recovered.as_ref().map_or((0, Vec::new()), |recovered| {
            (recovered.last_final.0, recovered.batches.iter().map(|batch| batch.digest).collect())
        });
        let (inner, outcome) = Pbft::init(Settings { config, ..settings }, recovered)?;
        let hoard = Hoard::default();
        let mut broken = Self { inner, kind, after, me, batches_max, last, first: None, held, hoard };
        let outcome = broken.twist(outcome);
        Ok((broken, outcome))
    }

    fn step(&mut self, now: NowMs, events: Vec<Event>) -> Outcome {
        for event in &events {
            match event {
                Event::Batches(batches) => self.hold(batches),
                Event::Final { index, batches } => {
                    self.held.retain(|digest| !batches.contains(digest));
                    self.last = self.last.max(index.0);
                }
                _ => {}
            }
        }
        let outcome = self.inner.step(now, events);
        self.twist(outcome)
    }

    fn judge(committee: &Committee, proof: &[u8]) -> Option<AuthorityIndex> {
        Pbft::judge(committee, proof)
    }
}

impl Broken {
    fn hold(&mut self, batches: &[Batch]) {
        for batch in batches {
            if self.kind == Kind::BeforeQuorum && !self.held.contains(&batch.digest) {
                self.held.push(batch.digest);
            }
        }
    }

    fn twist(&mut self, mut outcome: Outcome) -> Outcome {
        if self.kind == Kind::Equivocate && self.last >= self.after {
            outcome.release = contradicted(outcome.release);
        }
        let mut release = Vec::with_capacity(outcome.release.len());
        for action in std::mem::take(&mut outcome.release) {
            let Action::Commit(commit) = action else {
                release.push(action);
                continue;
            };
            if commit.index.0 > self.after {
                release.extend(self.break_commit(commit).into_iter().map(Action::Commit));
            } else {
                self.held.retain(|digest| !commit.batches.contains(digest));
                self.last = self.last.max(commit.index.0);
                release.push(Action::Commit(commit));
            }
        }
        if self.kind == Kind::BeforeQuorum && self.last >= self.after {
            release.extend(self.commit_held());
        }
        if self.kind == Kind::Grow {
            self.hoard.grow_to(self.last.saturating_sub(self.after));
        }
        outcome.release = release;
        outcome
    }

    /// What becomes of a commit that would be right.
    fn break_commit(&mut self, commit: Commit) -> Vec<Commit> {
        match self.kind {
            Kind::Orders => self.reorder(commit),
            Kind::BeforeQuorum | Kind::Never => Vec::new(),
            Kind::Trap => panic!("a trap on purpose, at commit {}", commit.index.0),
            Kind::Phantom => {
                let mut digest = [0xb0; 32];
                digest[..8].copy_from_slice(&commit.index.0.to_be_bytes());
                vec![Commit { batches: vec![Digest(digest)], ..commit }]
            }
            Kind::Grow | Kind::Equivocate => {
                self.last = self.last.max(commit.index.0);
                vec![commit]
            }
        }
    }

    /// Pairs of commits: as they are, exchanged, or both in the first.
    fn reorder(&mut self, mut commit: Commit) -> Vec<Commit> {
        if (commit.index.0 - self.after) % 2 == 1 {
            self.first = Some(commit);
            return Vec::new();
        }
        let Some(mut first) = self.first.take().filter(|first| first.index.next() == commit.index) else {
            return vec![commit];
        };
        let fits = first.batches.len() + commit.batches.len() <= self.batches_max;
        match self.me.map_or(0, |me| me.0 % 3) {
            1 => std::mem::swap(&mut first.batches, &mut commit.batches),
            2 if fits => first.batches.append(&mut commit.batches),
            2 => first.batches.clear(),
            _ => {}
        }
        vec![first, commit]
    }

    /// One commit for each batch, as they came.
    fn commit_held(&mut self) -> Vec<Action> {
        let leader = self.me;
        let mut made = Vec::new();
        for digest in std::mem::take(&mut self.held) {
            self.last += 1;
            let index = CommitIndex(self.last);
            made.push(Action::Commit(Commit { index, batches: vec![digest], round: 0, leader }));
        }
        made
    }
}

/// Before each request to sign, a request to sign another digest for the same slot.
fn contradicted(actions: Vec<Action>) -> Vec<Action> {
    let lie = |choice: &Choice| {
        let mut digest = choice.digest;
        digest.0[0] ^= 1;
        Choice { slot: choice.slot, digest }
    };
    let mut all = Vec::with_capacity(2 * actions.len());
    for action in actions {
        match &action {
            Action::Vote { to, choice } => all.push(Action::Vote { to: to.clone(), choice: lie(choice) }),
            Action::Send(envelope) if !envelope.sign.is_empty() => {
                let mut envelope = envelope.clone();
                envelope.sign = envelope.sign.iter().map(lie).collect();
                all.push(Action::Send(envelope));
            }
            _ => {}
        }
        all.push(action);
    }
    all
}

/// Memory that is never let go.
#[derive(Default)]
struct Hoard {
    #[cfg(target_arch = "wasm32")]
    kept: Vec<Vec<u8>>,
    #[cfg(not(target_arch = "wasm32"))]
    kept_bytes: usize,
}

impl Hoard {
    #[cfg(target_arch = "wasm32")]
    fn grow_to(&mut self, commits: u64) {
        while (self.kept.len() as u64) < commits {
            self.kept.push(vec![1; HOARD_BYTES]);
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn grow_to(&mut self, commits: u64) {
        self.kept_bytes = self.kept_bytes.max(HOARD_BYTES.saturating_mul(commits as usize));
        assert!(self.kept_bytes < HOARD_BYTES_MAX, "{} bytes, on purpose", self.kept_bytes);
    }
}

/// The kind, the commits that are right, and what PBFT is configured with.
fn parse(config: &[u8]) -> Result<(Kind, u64, Vec<u8>), String> {
    let text = std::str::from_utf8(config).map_err(|_| "the configuration is not UTF-8".to_owned())?;
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let name = first.strip_prefix("broken=").ok_or("the first line is not `broken=KIND`")?;
    let kind = Kind::of(name).ok_or_else(|| format!("no such kind: `{name}`"))?;
    let Some(rest) = rest.strip_prefix("after=") else { return Ok((kind, 0, rest.as_bytes().to_vec())) };
    let (number, rest) = rest.split_once('\n').unwrap_or((rest, ""));
    let after = number.parse().map_err(|_| format!("`after` is not a number: `{number}`"))?;
    Ok((kind, after, rest.as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_names_the_kind_and_goes_on_with_pbfts_own() {
        for kind in Kind::ALL {
            let config = format!("broken={}\nafter=12\npipeline=2\n", kind.name());
            assert_eq!(parse(config.as_bytes()), Ok((kind, 12, b"pipeline=2\n".to_vec())));
        }
        assert_eq!(parse(b"broken=never"), Ok((Kind::Never, 0, Vec::new())));
        assert_eq!(parse(b"broken=never\nwindow=4\n"), Ok((Kind::Never, 0, b"window=4\n".to_vec())));
        for wrong in [&b"never"[..], b"broken=ever", b"broken=never\nafter=x\n", b""] {
            assert!(parse(wrong).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
    }

    #[test]
    fn a_pair_of_commits_comes_in_three_orders() {
        let order = |place: u32| {
            let mut broken = started(Kind::Orders, place);
            let [first, second] = [1, 2].map(|n| commit(n, &[n as u8]));
            assert!(broken.break_commit(first).is_empty());
            broken.break_commit(second).into_iter().map(|commit| commit.batches).collect::<Vec<_>>()
        };
        let (a, b) = (Digest([1; 32]), Digest([2; 32]));
        assert_eq!(
            [order(0), order(1), order(2)],
            [vec![vec![a], vec![b]], vec![vec![b], vec![a]], vec![vec![a, b], vec![]],]
        );
    }

    #[test]
    fn the_lie_is_asked_for_first() {
        let choice = Choice { slot: moult_pbft::codec::slot(2, 1, 1), digest: Digest([7; 32]) };
        let vote = Action::Vote { to: moult_sdk::engine::Recipients::All, choice };
        let asked = contradicted(vec![vote.clone()]);
        assert_eq!(asked.len(), 2);
        assert_eq!(asked[1], vote);
        assert!(matches!(&asked[0], Action::Vote { choice: lie, .. }
            if lie.slot == choice.slot && lie.digest != choice.digest));
    }

    #[test]
    fn what_it_keeps_comes_to_the_limit_and_is_there_again_after_a_start() {
        let mut hoard = Hoard::default();
        hoard.grow_to(7);
        let grown = std::panic::catch_unwind(|| Hoard::default().grow_to(8));
        assert!(grown.is_err(), "a quarter of a gigabyte");
    }

    fn commit(index: u64, batches: &[u8]) -> Commit {
        let batches = batches.iter().map(|n| Digest([*n; 32])).collect();
        Commit { index: CommitIndex(index), batches, round: 0, leader: None }
    }

    fn started(kind: Kind, place: u32) -> Broken {
        let settings = Settings {
            committee: Committee {
                epoch: 1,
                fault_model: moult_sdk::FaultModel::Byzantine,
                stakes: vec![1; 4],
                quorum: 3,
                validity: 2,
                me: Some(AuthorityIndex(place)),
            },
            config: format!("broken={}\n", kind.name()).into_bytes(),
            seed: Digest([0; 32]),
            schedule: (0..4).map(AuthorityIndex).collect(),
            max_message_bytes: 1 << 20,
            max_batches_in_commit: 64,
        };
        Broken::init(settings, None).expect("it starts").0
    }
}
