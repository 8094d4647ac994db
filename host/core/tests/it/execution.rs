//! Execution of blocks: retries, traps, windows, roots.

use std::sync::Arc;

use moult_core::execution::{Executed, Outcome, StateAccumulator, execute_block, receipt, upgrade};
use moult_core::ports::{ApplicationInstance, Fault};
use moult_sdk::application::{self, Receipt, State as _};
use moult_types::state::{Overlay, StateReader};
use moult_types::*;

use crate::support::*;

/// Writes each transaction under itself; `trap` traps, `budget` runs out of fuel.
struct Echo;

impl ApplicationInstance for Echo {
    fn describe(&self) -> Result<application::Info, Fault> {
        Ok(application::Info { name: "echo".into(), version: "1".into(), interfaces: Vec::new() })
    }

    fn execute(
        &self,
        mut overlay: Overlay,
        _: &[u8],
        block: application::Block,
        transactions: &[Vec<u8>],
    ) -> (Overlay, Result<Vec<Receipt>, Fault>) {
        let mut receipts = Vec::new();
        for transaction in transactions {
            overlay.put(transaction, &block.global_index.to_be_bytes());
            match transaction.as_slice() {
                b"trap" => return (overlay, Err(Fault::Trap("as asked".into()))),
                b"budget" => return (overlay, Err(Fault::Budget { fuel: 1 })),
                output => receipts.push(Receipt { code: 0, output: output.to_vec() }),
            }
        }
        (overlay, Ok(receipts))
    }

    fn query(&self, _: Overlay, _: &[u8], _: &[u8]) -> Result<Result<Vec<u8>, String>, Fault> {
        Ok(Err("nothing to ask".into()))
    }

    fn upgrade(
        &self,
        mut overlay: Overlay,
        config: &[u8],
        _: Option<&application::Info>,
    ) -> (Overlay, Result<Result<(), String>, Fault>) {
        overlay.put(b"upgraded", config);
        let refused = config == b"no";
        (overlay, Ok(if refused { Err("not from here".into()) } else { Ok(()) }))
    }
}

/// A state that takes blocks.
struct Machine {
    state: State,
    accumulator: StateAccumulator,
    global: u64,
    limits: EpochLimits,
}

impl Machine {
    fn new(limits: EpochLimits) -> Self {
        Self { state: State::new(), accumulator: StateAccumulator::default(), global: 0, limits }
    }

    fn base(&self) -> Arc<dyn StateReader> {
        Arc::new(self.state.clone())
    }

    fn try_block(&self, batches: &[&[(u64, &str)]]) -> Result<Executed, moult_core::execution::LocalStop> {
        let manifest = manifest(&[1, 1, 1, 1]);
        let transaction = |(seq, payload): &(u64, &str)| {
            let client = ClientId { ingress: AuthorityId([1; 32]), name: b"client".to_vec() };
            Transaction::Client(ClientTransaction { client, seq: *seq, payload: payload.as_bytes().to_vec() })
        };
        let held: Vec<_> = batches
            .iter()
            .zip(0..)
            .map(|(list, i)| {
                batch(&manifest, 0, 100 * self.global + i, 5, list.iter().map(transaction).collect())
            })
            .collect();
        let digests = held.iter().map(|held| held.digest).collect();
        let block = Block {
            index: CommitIndex(self.global + 1),
            time_ms: 5,
            batches: digests,
            state_root: None,
            resumed: None,
        };
        let record = record(&manifest, Digest::ZERO, block);
        execute_block(&Echo, b"", &self.limits, &self.base(), &self.accumulator, &record, &held)
    }

    fn block(&mut self, batches: &[&[(u64, &str)]]) -> Vec<(u64, GlobalIndex, Outcome)> {
        let done = self.try_block(batches).expect("no local limit");
        self.global += 1;
        self.write(&done);
        done.receipts.into_iter().map(|(id, receipt)| (id.seq, receipt.global, receipt.outcome)).collect()
    }

    fn write(&mut self, done: &Executed) {
        for (key, value) in &done.writes {
            match value {
                Some(value) => self.state.insert(key.clone(), value.clone()),
                None => self.state.remove(key),
            };
        }
        self.accumulator = done.accumulator.clone();
        // The root is that of the map, however it came about.
        let mut whole = StateAccumulator::default();
        self.state.iter().for_each(|(key, value)| whole.replace(key, None, Some(value)));
        assert_eq!(whole.root(), self.accumulator.root());
    }

    fn value(&self, key: &str) -> Option<u64> {
        let full = [&[moult_core::execution::APPLICATION_PREFIX], key.as_bytes()].concat();
        Some(u64::from_be_bytes(self.state.get(&full)?.as_slice().try_into().ok()?))
    }
}

fn done(output: &str) -> Outcome {
    Outcome::Executed { code: 0, output: output.as_bytes().to_vec() }
}

#[test]
fn a_retry_runs_once_in_a_block_in_another_and_in_another_batch() {
    let mut machine = Machine::new(limits());
    let first = machine.block(&[&[(1, "a"), (1, "a")], &[(1, "a"), (2, "b")]]);
    let at = |g| GlobalIndex(g);
    assert_eq!(
        first,
        [(1, at(1), done("a")), (1, at(1), done("a")), (1, at(1), done("a")), (2, at(1), done("b"))]
    );
    // The first content under a number counts, also against another one.
    let second = machine.block(&[&[(2, "other"), (3, "c")]]);
    assert_eq!(second, [(2, at(1), done("b")), (3, at(2), done("c"))]);
    assert_eq!((machine.value("b"), machine.value("other"), machine.value("c")), (Some(1), None, Some(2)));
    let id = TransactionId {
        client: ClientId { ingress: AuthorityId([1; 32]), name: b"client".to_vec() },
        seq: 3,
    };
    assert_eq!(receipt(&machine.base(), &id).map(|receipt| receipt.global), Some(at(2)));
}

#[test]
fn only_the_transaction_that_traps_is_rolled_back() {
    let mut machine = Machine::new(limits());
    let receipts = machine.block(&[&[(1, "a"), (2, "trap"), (3, "c")]]);
    let outcomes: Vec<_> = receipts.into_iter().map(|(_, _, outcome)| outcome).collect();
    assert_eq!(outcomes, [done("a"), Outcome::Trapped, done("c")]);
    assert_eq!((machine.value("a"), machine.value("trap"), machine.value("c")), (Some(1), None, Some(1)));
    // It is not tried again.
    assert_eq!(machine.block(&[&[(2, "d")]]), [(2, GlobalIndex(1), Outcome::Trapped)]);
    assert_eq!(machine.value("d"), None);
}

#[test]
fn a_local_limit_stops_the_node_and_decides_nothing() {
    let machine = Machine::new(limits());
    let stopped = machine.try_block(&[&[(1, "a"), (2, "budget")]]).err().expect("the fuel is used up");
    assert_eq!((stopped.global, stopped.fault), (GlobalIndex(1), Fault::Budget { fuel: 1 }));
}

#[test]
fn numbers_behind_the_window_are_stale_and_those_within_it_are_not() {
    let mut machine = Machine::new(EpochLimits { client_window: 4, ..limits() });
    machine.block(&[&[(1, "a"), (2, "b"), (9, "i")]]);
    // 5 lies behind 9, and so does 1; 6 and 7 have not been seen.
    let receipts = machine.block(&[&[(5, "stale"), (6, "f"), (1, "a"), (9, "i"), (7, "g"), (3, "late")]]);
    let outcomes: Vec<_> = receipts.into_iter().map(|(_, _, outcome)| outcome).collect();
    assert_eq!(outcomes, [Outcome::Stale, done("f"), Outcome::Stale, done("i"), done("g"), Outcome::Stale]);
    assert_eq!((machine.value("stale"), machine.value("f")), (None, Some(2)));
    // Within a block the higher number takes the place whatever the order.
    let outcomes = machine.block(&[&[(14, "n"), (10, "j"), (11, "k"), (15, "o"), (11, "k")]]);
    let outcomes: Vec<_> = outcomes.into_iter().map(|(_, _, outcome)| outcome).collect();
    assert_eq!(outcomes, [done("n"), Outcome::Stale, done("k"), done("o"), done("k")]);
    assert_eq!(machine.block(&[&[(11, "k"), (15, "o")]])[0].2, Outcome::Stale);
    // A client never takes more places than its window has: they fit into one page.
    (0..50).for_each(|i| drop(machine.block(&[&[(1_000 + 7 * i, "z")]])));
    let receipts = machine.state.keys().filter(|key| key.starts_with(&[2, b'p'])).count();
    assert_eq!(receipts, 1);
    // The highest number there is works, too.
    assert_eq!(machine.block(&[&[(u64::MAX, "end")]])[0].2, done("end"));
}

#[test]
fn long_outputs_are_repeated_whole_and_go_with_their_slot() {
    let mut machine = Machine::new(EpochLimits { client_window: 4, client_idle_blocks: 3, ..limits() });
    let (long, other) = ("l".repeat(1_000), "m".repeat(65));
    machine.block(&[&[(1, &long), (2, "b"), (3, &other)]]);
    let again = machine.block(&[&[(1, "x"), (2, "x"), (3, "x")]]);
    let again: Vec<_> = again.into_iter().map(|(_, _, outcome)| outcome).collect();
    assert_eq!(again, [done(&long), done("b"), done(&other)]);
    let id = |seq| {
        let client = ClientId { ingress: AuthorityId([1; 32]), name: b"client".to_vec() };
        TransactionId { client, seq }
    };
    assert_eq!(receipt(&machine.base(), &id(1)).map(|receipt| receipt.outcome), Some(done(&long)));
    let apart = |machine: &Machine| machine.state.keys().filter(|key| key.starts_with(&[2, b'o'])).count();
    assert_eq!(apart(&machine), 2);
    machine.block(&[&[(5, "short")]]);
    assert_eq!(apart(&machine), 1);
    assert_eq!(machine.block(&[&[(5, "x"), (3, "x")]])[0].2, done("short"));
    (0..5).for_each(|_| drop(machine.block(&[&[]])));
    assert_eq!(apart(&machine), 0, "it is forgotten with the client");
}

#[test]
fn a_client_keeps_its_window_when_the_limit_changes() {
    let mut machine = Machine::new(EpochLimits { client_window: 4, ..limits() });
    machine.block(&[&[(1, "a"), (2, "b"), (3, "c")]]);
    machine.limits.client_window = 3;
    let outcomes = machine.block(&[&[(1, "again"), (3, "again"), (4, "d")]]);
    let outcomes: Vec<_> = outcomes.into_iter().map(|(_, _, outcome)| outcome).collect();
    assert_eq!(outcomes, [done("a"), done("c"), done("d")]);
    assert_eq!(machine.value("again"), None);
}

#[test]
fn an_idle_client_is_forgotten_with_all_it_left() {
    let mut machine = Machine::new(EpochLimits { client_idle_blocks: 3, ..limits() });
    machine.block(&[&[(1, "a"), (2, "b")]]);
    let sessions = |machine: &Machine| machine.state.keys().filter(|key| key.starts_with(&[2])).count();
    assert!(sessions(&machine) > 0);
    (0..5).for_each(|_| drop(machine.block(&[&[]])));
    assert_eq!(sessions(&machine), 0);
    // To a client that comes back everything is new.
    assert_eq!(machine.block(&[&[(1, "again")]])[0].2, done("again"));
}

#[test]
fn an_upgrade_writes_all_or_nothing() {
    let mut machine = Machine::new(limits());
    let refused = upgrade(&Echo, b"no", &machine.base(), &machine.accumulator, None).expect("no fault");
    assert_eq!(refused.err().as_deref(), Some("not from here"));
    let done = upgrade(&Echo, b"yes", &machine.base(), &machine.accumulator, None)
        .expect("no fault")
        .expect("taken");
    machine.write(&done);
    assert_eq!(machine.state.values().next().map(Vec::as_slice), Some(b"yes".as_slice()));
}
