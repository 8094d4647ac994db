//! No honest key signs two digests for one slot, whatever happens to its node.

use std::collections::{BTreeMap, BTreeSet};

use moult_types::{
    Digest, EpochIdentity, EpochNumber, Manifest, Message, PublicKey, Scope, SignedBatch, Statement,
    SystemTransaction, Transaction,
};

use super::Epochs;
use crate::node::Node;
use crate::report::Violation;

pub(crate) struct Signatures {
    honest: BTreeSet<PublicKey>,
    signed: BTreeMap<(PublicKey, Scope, u16, u64, u64), Digest>,
}

impl Signatures {
    pub(crate) fn new(nodes: &[Node]) -> Self {
        let honest = nodes.iter().filter(|node| !node.byzantine).map(|node| node.public).collect();
        Self { honest, signed: BTreeMap::new() }
    }

    /// An honest node sent a message: what stands in it was verified.
    pub(crate) fn sent(&mut self, node: usize, message: &Message, epochs: &Epochs) -> Result<(), Violation> {
        match message {
            Message::Engine { identity, statements, .. } => statements
                .iter()
                .try_for_each(|signed| self.of_epoch(node, *identity, &signed.statement, epochs)),
            Message::Votes { identity, votes, .. } => {
                votes.iter().try_for_each(|vote| self.of_epoch(node, *identity, &vote.statement, epochs))
            }
            Message::Abort { identity, abort, .. } => {
                self.of_epoch(node, *identity, &abort.statement(), epochs)
            }
            Message::StateRoot(said) => {
                self.note(node, said.scope(), &said.statement(), epochs.get(said.epoch))
            }
            Message::Batches(batches) => {
                for signed in batches {
                    let batch = &signed.batch;
                    let manifest = epochs.get(batch.number);
                    self.note(node, Scope::Number(batch.number), &batch.statement(batch.digest()), manifest)?;
                    for transaction in &batch.transactions {
                        if let Transaction::System(system) = transaction {
                            self.system(node, batch.number, system, manifest)?;
                        }
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether a batch among these was made with a key and not sent by anybody before.
    pub(crate) fn has_new(&self, key: &PublicKey, batches: &[SignedBatch], epochs: &Epochs) -> bool {
        batches.iter().any(|signed| {
            let batch = &signed.batch;
            let author = epochs.get(batch.number).and_then(|m| m.members.get(batch.author.as_usize()));
            let slot = batch.statement(batch.digest()).slot;
            let made = (*key, Scope::Number(batch.number), slot.kind, slot.a, slot.b);
            author.is_some_and(|member| member.key == *key) && !self.signed.contains_key(&made)
        })
    }

    fn system(
        &mut self,
        node: usize,
        number: EpochNumber,
        system: &SystemTransaction,
        manifest: Option<&Manifest>,
    ) -> Result<(), Violation> {
        let statement = match system {
            SystemTransaction::Vote(vote) => vote.statement(),
            SystemTransaction::Propose(signed) => signed.proposal.statement(signed.author),
            SystemTransaction::Withdraw(withdrawal) => withdrawal.statement(),
            // Signed with a key of a committee that may never come to be.
            SystemTransaction::Ready(_) | SystemTransaction::Open(_) => return Ok(()),
        };
        self.note(node, Scope::Number(number), &statement, manifest)
    }

    fn of_epoch(
        &mut self,
        node: usize,
        identity: EpochIdentity,
        statement: &Statement,
        epochs: &Epochs,
    ) -> Result<(), Violation> {
        self.note(node, Scope::Epoch(identity), statement, epochs.of(identity))
    }

    fn note(
        &mut self,
        node: usize,
        scope: Scope,
        statement: &Statement,
        manifest: Option<&Manifest>,
    ) -> Result<(), Violation> {
        let member = manifest.and_then(|manifest| manifest.members.get(statement.author.as_usize()));
        let Some(member) = member else {
            return Err(Violation::new(
                "signatures",
                format!("node {node} signs for nobody: {scope:?} {statement:?}"),
            ));
        };
        if !self.honest.contains(&member.key) {
            return Ok(());
        }
        let slot = statement.slot;
        let key = (member.key, scope, slot.kind, slot.a, slot.b);
        let first = *self.signed.entry(key).or_insert(statement.digest);
        if first != statement.digest {
            let what = format!("node {node} sends {statement:?} in {scope:?}, another digest was {first:?}");
            return Err(Violation::new("one digest a slot", what));
        }
        Ok(())
    }
}
