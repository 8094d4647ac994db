//! What a shadow run shows of engines that are the same, other, or broken.

use moult_core::ports::{EngineInstance, Fault};
use moult_module::{Limits, NativeEngine};
use moult_pbft_reverse::PbftReverse;
use moult_replay::{Beside, RecordLimits, RecordReader, Recorder, ShadowEnd, ShadowReport, Start, replay};
use moult_sdk::engine::{Action, Commit, Event, Info, InitError, Outcome, Recovered, Settings};
use moult_sdk::{AuthorityIndex, CommitIndex, Committee, NowMs};
use moult_types::{ChainId, EpochIdentity, EpochNumber, ModuleHash, ModulePin};

use crate::net::{Net, pbft};

/// An engine that fails at a call, counted from `init`.
pub(crate) struct Faulty {
    pub(crate) engine: Box<dyn EngineInstance>,
    pub(crate) left: u32,
}

impl EngineInstance for Faulty {
    fn describe(&mut self) -> Result<Info, Fault> {
        self.engine.describe()
    }

    fn init(
        &mut self,
        settings: &Settings,
        recovered: Option<&Recovered>,
    ) -> Result<Result<Outcome, InitError>, Fault> {
        self.engine.init(settings, recovered)
    }

    fn step(&mut self, now: NowMs, events: Vec<Event>) -> Result<Outcome, Fault> {
        self.left = self.left.checked_sub(1).ok_or_else(|| Fault::Trap("unreachable".into()))?;
        self.engine.step(now, events)
    }

    fn judge(&mut self, _: &Committee, _: &[u8]) -> Result<Option<AuthorityIndex>, Fault> {
        Ok(None)
    }
}

/// Feeds a candidate what a follower of a cluster was fed, over a record.
fn shadowed(candidate: impl Fn() -> Box<dyn EngineInstance>, config: &[u8]) -> ShadowReport {
    let dir = tempfile::TempDir::new().expect("a folder");
    let limits = RecordLimits {
        dir: dir.path().to_owned(),
        file_bytes_max: 1 << 20,
        total_bytes_max: 64 << 20,
        queue_bytes_max: 64 << 20,
        whole_outcomes: false,
    };
    let recorder = Recorder::new(limits).expect("a folder");
    let start = Start {
        chain: ChainId([1; 32]),
        epoch: EpochNumber(3),
        identity: EpochIdentity([2; 32]),
        engine: ModulePin { hash: ModuleHash([3; 32]), config: Vec::new() },
        name: "pbft 0.1.0".into(),
        limits: (&Limits::default().engine).into(),
        started_ms: 1,
        program: "0.1.0".into(),
    };
    let recording = recorder.record(start, pbft()).map_err(|(e, _)| e).expect("a record");
    let mut net = Net::new(Box::new(recording));
    assert_eq!(net.order(40), 40);
    drop(net);
    recorder.finish();
    let record = std::fs::read_dir(dir.path()).expect("a folder").next().expect("one").expect("one").path();

    let mut reader = RecordReader::open(&record).expect("a record");
    let make = Box::new(|| Ok((candidate(), None)));
    let mut beside = Beside { make, config: Some(config.to_vec()), pinned: None, shadow: None };
    let done = replay(&mut reader, pbft().as_mut(), Some(&mut beside), &mut |_, _, _| {}).expect("a record");
    assert_eq!(done.difference, None, "what is beside it changes nothing");
    beside.shadow.expect("started").expect("an instance").report()
}

#[test]
fn an_engine_beside_itself_does_the_same() {
    let report = shadowed(pbft, b"");
    let commits = &report.commits;
    assert_eq!((commits.live, commits.candidate, commits.equal), (40, 40, 40), "{report:?}");
    assert_eq!((commits.other, commits.missed, commits.behind_max_ms), (0, 0, 0));
    assert_eq!(report.live_asked, {
        // `init` is not a step: what it asks for counts for the candidate alone.
        let mut own = report.candidate_asked;
        own.records = report.live_asked.records;
        own.record_bytes = report.live_asked.record_bytes;
        own
    });
    assert_eq!(report.end, None);
    assert_eq!(report.candidate.calls, report.steps + 1, "the same calls, and `init`");
}

#[test]
fn another_engine_is_told_apart_and_is_not_blamed() {
    // It leads in another order, so that what it hears is not for its ears.
    let report = shadowed(|| Box::new(NativeEngine::<PbftReverse>::new()), b"");
    assert_eq!(report.end, None, "{report:?}");
    assert_eq!(report.commits.live, 40);
    assert_eq!(report.commits.other, 0, "it orders nothing else");
    assert!(report.commits.missed > 0 && report.commits.equal < 40, "{report:?}");
}

/// An engine that hears nothing but what is final, and commits so many blocks above it at once.
struct Follower {
    above: u64,
}

impl EngineInstance for Follower {
    fn describe(&mut self) -> Result<Info, Fault> {
        pbft().describe()
    }

    fn init(&mut self, _: &Settings, _: Option<&Recovered>) -> Result<Result<Outcome, InitError>, Fault> {
        Ok(Ok(Outcome::default()))
    }

    fn step(&mut self, _: NowMs, events: Vec<Event>) -> Result<Outcome, Fault> {
        let mut outcome = Outcome::default();
        for event in &events {
            if let Event::Final { index, .. } = event {
                let index = CommitIndex(index.0 + self.above);
                let commit = Commit { index, batches: Vec::new(), round: 0, leader: None };
                outcome.release.push(Action::Commit(commit));
            }
        }
        Ok(outcome)
    }

    fn judge(&mut self, _: &Committee, _: &[u8]) -> Result<Option<AuthorityIndex>, Fault> {
        Ok(None)
    }
}

#[test]
fn what_became_final_without_it_is_no_gap_in_its_commits() {
    let report = shadowed(|| Box::new(Follower { above: 1 }), b"");
    assert_eq!(report.end, None, "{report:?}");
    assert!(report.commits.candidate > 10, "{report:?}");
    let report = shadowed(|| Box::new(Follower { above: 2 }), b"");
    let Some(ShadowEnd::Failed(reason)) = &report.end else { panic!("{report:?}") };
    assert!(reason.contains("after commit"), "{reason}");
}

#[test]
fn faults_and_refusals_end_the_run_by_name() {
    let report = shadowed(|| Box::new(Faulty { engine: pbft(), left: 9 }), b"");
    assert_eq!(report.end, Some(ShadowEnd::Failed("the module trapped: unreachable".into())));
    assert_eq!(report.candidate.calls, 11, "`init`, nine steps and the last");
    let report = shadowed(pbft, b"nonsense");
    let Some(ShadowEnd::Refused(reason)) = report.end else { panic!("{report:?}") };
    assert!(reason.contains("nonsense"), "{reason}");
}
