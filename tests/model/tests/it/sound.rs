//! The rules as they are.

use moult_model::mistakes::Planted;
use moult_model::model::Kernel;
use stateright::{Checker, Model};

use crate::worlds::{BARRIER, CLOSING, FALLBACKS};

fn search(name: &str, kernel: Kernel) {
    let blocks = kernel.world().blocks.len();
    let checker = kernel.checker().spawn_bfs().join();
    println!(
        "{name}: {} states, depth {}, {blocks} blocks",
        checker.unique_state_count(),
        checker.max_depth()
    );
    for (name, path) in checker.discoveries() {
        println!("  {name}: {} steps {:?}", path.clone().into_actions().len(), path.into_actions());
    }
}

#[test]
fn barrier() {
    search("barrier", Kernel::byzantine(BARRIER, Planted::Nothing));
}
#[test]
fn barrier_crash() {
    search("barrier crash", Kernel::crash(BARRIER, Planted::Nothing));
}
#[test]
fn fallbacks() {
    search("fallbacks", Kernel::byzantine(FALLBACKS, Planted::Nothing));
}
#[test]
fn closing() {
    search("closing", Kernel::byzantine(CLOSING, Planted::Nothing));
}
#[test]
fn closing_crash() {
    search("closing", Kernel::crash(CLOSING, Planted::Nothing));
}
