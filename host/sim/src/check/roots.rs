//! The same state root after the same block, on every node, however often it is executed.

use std::collections::BTreeMap;

use moult_types::{Digest, GlobalIndex, StateRoot};

use crate::report::Violation;

#[derive(Default)]
pub(crate) struct Roots(BTreeMap<GlobalIndex, Digest>);

impl Roots {
    pub(crate) fn executed(
        &mut self,
        node: usize,
        global: GlobalIndex,
        root: Digest,
    ) -> Result<(), Violation> {
        let known = *self.0.entry(global).or_insert(root);
        if known != root {
            return Err(Violation::new(
                "state root",
                format!("node {node}, block {global}: {root:?}, others {known:?}"),
            ));
        }
        Ok(())
    }

    /// An honest node states a root: the one that a block has.
    pub(crate) fn stated(&self, node: usize, said: &StateRoot) -> Result<(), Violation> {
        let known = self.0.get(&said.global);
        if known != Some(&said.root) {
            let what = format!("node {node} states {said:?}, executed was {known:?}");
            return Err(Violation::new("state root", what));
        }
        Ok(())
    }
}
