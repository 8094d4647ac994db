//! Calls into a module that nobody trusts, with arguments from a seed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moult_core::ports::Fault;
use moult_module::Prepared;
use moult_sdk::application::Block;
use moult_sdk::approval::{Context, Epoch, Proposal};
use moult_sdk::engine::{Event, Message, Recovered, Settings};
use moult_sdk::{AuthorityIndex, Batch, CommitIndex, Committee, Digest, FaultModel, Slot, Statement};
use moult_sim::Rng;
use moult_types::World;
use moult_types::state::Overlay;

use crate::fuzz::Tally;

/// A call ends long before this with the fuel that it has, also on a busy machine.
const CALL_MAX: Duration = Duration::from_secs(5);

/// Makes one instance and calls it until it faults; what it answered, as text.
pub(crate) fn calls(
    prepared: &Prepared,
    world: World,
    rng: &mut Rng,
    tally: &mut Tally,
) -> Result<Vec<String>, String> {
    match world {
        World::Engine => engine(prepared, rng, tally),
        World::Approval => approval(prepared, rng, tally),
        World::Application => application(prepared, rng, tally),
    }
}

/// Times a call and counts how it ended; whether it ended well.
fn call<T: std::fmt::Debug>(
    tally: &mut Tally,
    answers: &mut Vec<String>,
    call: impl FnOnce() -> Result<T, Fault>,
) -> Result<bool, String> {
    let started = Instant::now();
    let result = call();
    let took = started.elapsed();
    if took > CALL_MAX {
        return Err(format!("a call took {took:?}: {result:?}"));
    }
    tally.count(match &result {
        Ok(_) => "call: answered",
        Err(Fault::Trap(_)) => "call: trap",
        Err(Fault::Budget { .. }) => "call: budget",
        Err(Fault::Output(_)) => "call: bad answer",
        Err(fault @ Fault::Watchdog { .. }) => return Err(format!("a call ended with {fault}")),
    });
    answers.push(format!("{result:?}"));
    Ok(result.is_ok())
}

fn engine(prepared: &Prepared, rng: &mut Rng, tally: &mut Tally) -> Result<Vec<String>, String> {
    let mut answers = Vec::new();
    let mut engine = prepared.engine().map_err(|error| format!("no instance: {error}"))?;
    let settings = settings(rng);
    let recovered = rng.chance(300).then(Recovered::default);
    let mut lives = call(tally, &mut answers, || engine.init(&settings, recovered.as_ref()))?;
    let mut now_ms = 0;
    for _ in 0..12 {
        if !lives {
            break;
        }
        now_ms += rng.below(200);
        let events = (0..rng.range(1, 6)).map(|_| event(rng)).collect();
        lives = call(tally, &mut answers, || engine.step(now_ms, events))?;
    }
    if lives {
        let proof = bytes(rng, 300);
        call(tally, &mut answers, || engine.judge(&settings.committee, &proof))?;
    }
    Ok(answers)
}

fn settings(rng: &mut Rng) -> Settings {
    Settings {
        committee: Committee {
            epoch: 1,
            fault_model: if rng.chance(500) { FaultModel::Byzantine } else { FaultModel::Crash },
            stakes: vec![1; 4],
            quorum: 3,
            validity: 2,
            me: Some(AuthorityIndex(rng.below(4) as u32)),
        },
        config: if rng.chance(200) { bytes(rng, 60) } else { Vec::new() },
        seed: Digest([3; 32]),
        schedule: (0..4).map(AuthorityIndex).collect(),
        max_message_bytes: 1 << 20,
        max_batches_in_commit: 64,
    }
}

fn event(rng: &mut Rng) -> Event {
    let statement = Statement {
        author: AuthorityIndex(rng.below(4) as u32),
        slot: Slot { kind: rng.below(6) as u16, a: rng.below(9), b: rng.below(9) },
        digest: Digest([rng.below(4) as u8; 32]),
    };
    let (sender, payload) = (AuthorityIndex(rng.below(4) as u32), bytes(rng, 400));
    match rng.below(9) {
        0 => Event::Vote(statement),
        1 => Event::Message(Message { sender, payload, statements: vec![statement] }),
        2 => Event::Timer(rng.below(8)),
        3 | 4 => {
            let digest = Digest([rng.below(20) as u8; 32]);
            Event::Batches(vec![Batch { digest, author: AuthorityIndex(0), bytes: 100 }])
        }
        5 => Event::Final { index: CommitIndex(rng.below(4)), batches: Vec::new() },
        6 => Event::Refused(statement.slot),
        7 => Event::Peer { peer: AuthorityIndex(rng.below(4) as u32), up: rng.chance(500), rtt_us: 900 },
        _ => Event::Draining,
    }
}

fn approval(prepared: &Prepared, rng: &mut Rng, tally: &mut Tally) -> Result<Vec<String>, String> {
    let mut answers = Vec::new();
    let mut policy = prepared.approval().map_err(|error| format!("no instance: {error}"))?;
    let epoch =
        Epoch { number: 1, fault_model: FaultModel::Byzantine, committee: Vec::new(), modules: Vec::new() };
    let proposal = Proposal {
        id: rng.number(),
        hash: Digest([1; 32]),
        proposer: Digest([2; 32]),
        next: epoch.clone(),
        deadline: CommitIndex(9),
        not_before_ms: None,
        proposed_index: CommitIndex(2),
        proposed_ms: 4,
        readmit_failed: false,
    };
    let context = Context {
        present: epoch,
        index: CommitIndex(1),
        block_time_ms: 1,
        checks: Vec::new(),
        operator: None,
        shadow: None,
        certifications: Vec::new(),
    };
    for _ in 0..3 {
        let config = bytes(rng, 100);
        call(tally, &mut answers, || policy.evaluate(&config, &proposal, &context))?;
    }
    Ok(answers)
}

fn application(prepared: &Prepared, rng: &mut Rng, tally: &mut Tally) -> Result<Vec<String>, String> {
    let mut answers = Vec::new();
    let application = prepared.application().map_err(|error| format!("no instance: {error}"))?;
    let state = || Overlay::new(Arc::new(BTreeMap::new()), 1);
    for number in 1..5 {
        let transactions: Vec<_> = (0..rng.below(5)).map(|_| bytes(rng, 200)).collect();
        let block = Block { global_index: number, epoch: 1, time_ms: number };
        call(tally, &mut answers, || {
            let (overlay, receipts) = application.execute(state(), &[], block, &transactions);
            receipts.map(|receipts| (receipts, overlay.into_writes()))
        })?;
        let request = bytes(rng, 100);
        call(tally, &mut answers, || application.query(state(), &[], &request))?;
    }
    call(tally, &mut answers, || {
        let (overlay, result) = application.upgrade(state(), &[], None);
        result.map(|result| (result, overlay.into_writes()))
    })?;
    Ok(answers)
}

fn bytes(rng: &mut Rng, most: u64) -> Vec<u8> {
    (0..rng.below(most)).map(|_| rng.number() as u8).collect()
}
