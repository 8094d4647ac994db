//! The new chain's genesis and state, from what survivors have.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use moult_audit::{AuditError, Auditor};
use moult_core::governance::ProposalError;
use moult_module::ModuleHost;
use moult_node::genesis::{GenesisFile, OriginFile, PinFile};
use moult_node::{OWN_KEY, Own};
use moult_store::{Backup, BackupProgress, Store, StoreOptions};
use moult_types::{
    AuthorityId, Committee, Digest, Finality, Genesis, Member, ModuleHash, Origin, PublicKey, World, encode,
};
use serde::Serialize;

use crate::decide::{Point, decide};
use crate::error::{Computed, RecoveryError};
use crate::execute::{StateAt, state_at};
use crate::survivor::Survivor;

/// Bytes of blocks that are audited at once.
const STRETCH_BYTES: usize = 8 << 20;
/// The state's file in a plan's folder.
const STATE_FILE: &str = "state.backup";

/// What a plan is made from.
pub struct Request<'a> {
    /// The former chain.
    pub genesis: &'a Genesis,
    /// What is left of its nodes.
    pub survivors: Vec<Survivor>,
    /// Authorities of its present committee that are gone for good.
    pub lost: &'a [AuthorityId],
    /// Members of the new committee beside the survivors.
    pub replacements: &'a [Member],
    /// Wall clock, milliseconds since 1970.
    pub now_ms: u64,
}

/// What is told before anything is done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    /// The former chain.
    pub former_chain: String,
    /// The epoch that it is in.
    pub epoch: u64,
    /// `certified` or `graduated`.
    pub finality: &'static str,
    /// Its last final block that a survivor knows of.
    pub last_final: u64,
    /// The last block that is carried on; above `last_final` where a quorum holds it.
    pub carried_to: u64,
    /// That block's hash: the head of the audited chain.
    pub hash: String,
    /// The root of the state after it.
    pub state_root: String,
    /// On how many survivors that state was computed.
    pub computed_by: usize,
    /// What is left.
    pub survivors: Vec<SurvivorReport>,
    /// Authorities that were declared lost.
    pub lost: Vec<AuthorityId>,
    /// Authorities that were neither declared lost nor given: they may be alive.
    pub unaccounted: Vec<AuthorityId>,
    /// Whether those that are not declared lost may be a quorum: the chain may still go on.
    pub quorum_may_be_there: bool,
    /// Why acknowledged writes may be missing; none: every acknowledged write is kept.
    pub doubts: Vec<String>,
    /// The new chain.
    pub chain: String,
    /// Its committee.
    pub committee: Vec<Member>,
    /// Pinned modules that no survivor has: to be brought to the new nodes by hand.
    pub modules_missing: Vec<ModuleHash>,
}

/// What is left of a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SurvivorReport {
    /// Its data folder or backup.
    pub path: PathBuf,
    /// Its key.
    pub key: PublicKey,
    /// Its authority in the present committee.
    pub authority: Option<AuthorityId>,
    /// Its last final block.
    pub last_final: u64,
    /// Why it is not known what it signed.
    pub guard_problem: Option<String>,
    /// Why the state was not computed on it.
    pub state_problem: Option<String>,
}

/// A new chain that carries on a former one. Nothing is written yet.
pub struct Plan {
    /// Its genesis.
    pub file: GenesisFile,
    /// What there is to tell.
    pub report: Report,
    genesis: Genesis,
    survivors: Vec<Survivor>,
    state: StateAt,
}

impl Plan {
    /// Makes a plan: the chain of the furthest survivor is audited from its genesis, the last block
    /// chosen, and the state after it computed on every survivor that can.
    ///
    /// # Errors
    /// What is wrong with what was given.
    pub fn new(request: Request<'_>, host: &ModuleHost) -> Result<Self, RecoveryError> {
        let Request { genesis, survivors, lost, replacements, now_ms } = request;
        let point = decide(&survivors)?;
        let best = survivors.get(point.best).ok_or(RecoveryError::Nobody)?;
        audit(genesis, best)?;
        let committee = point.epoch.manifest.committee().map_err(ProposalError::from)?;
        let who = Who::new(&committee, &survivors, lost)?;
        let (state, computed_by, state_problems) = agreed_state(&survivors, &point, host)?;
        let origin = Origin {
            chain: genesis.chain(),
            epoch: point.epoch.manifest.number,
            global: point.global,
            hash: point.hash,
            state_root: state.root(),
        };
        let file = new_genesis(genesis, &point, &origin, &who.surviving, replacements, now_ms)?;
        let new = file.to_genesis()?;
        let survivor_reports = survivors.iter().zip(state_problems).map(|(survivor, state_problem)| {
            let last = survivor.loaded.last_final.as_ref();
            SurvivorReport {
                path: survivor.path.clone(),
                key: survivor.node,
                authority: who.authority(&committee, survivor.node),
                last_final: last.map_or(0, |(block, _)| block.global.0),
                guard_problem: survivor.guard.as_ref().err().cloned(),
                state_problem,
            }
        });
        let report = Report {
            former_chain: origin.chain.to_string(),
            epoch: origin.epoch.0,
            finality: match point.epoch.manifest.finality {
                Finality::Certified => "certified",
                Finality::Graduated => "graduated",
            },
            last_final: point.last_final.0,
            carried_to: origin.global.0,
            hash: origin.hash.to_string(),
            state_root: origin.state_root.to_string(),
            computed_by,
            survivors: survivor_reports.collect(),
            lost: lost.to_vec(),
            unaccounted: who.unaccounted,
            quorum_may_be_there: who.quorum_may_be_there,
            doubts: point.doubts.clone(),
            chain: new.chain().to_string(),
            committee: file.committee.clone(),
            modules_missing: modules(&new).filter(|hash| module_of(&survivors, *hash).is_none()).collect(),
        };
        Ok(Self { file, report, genesis: new, survivors, state })
    }

    /// Writes the genesis and the state into a folder that is made.
    ///
    /// # Errors
    /// The folder exists; the disk.
    pub fn write(&self, folder: &Path, now_ms: u64) -> Result<(PathBuf, Backup), RecoveryError> {
        if folder.exists() {
            return Err(RecoveryError::Exists(folder.to_owned()));
        }
        std::fs::create_dir_all(folder).map_err(|e| RecoveryError::io(folder, "make", e))?;
        let unfinished = folder.join("unfinished");
        let store = Store::create(&unfinished, &self.genesis, PublicKey([0; 32]), StoreOptions::default())?;
        store.carry_state(self.state.state.as_ref(), &self.state.accumulator, own_record(&self.genesis))?;
        for bytes in modules(&self.genesis).filter_map(|hash| module_of(&self.survivors, hash)) {
            store.modules().put(&bytes)?;
        }
        let mut backup = store.back_up(folder, now_ms, u64::MAX, &BackupProgress::default())?;
        drop(store);
        let path = folder.join(STATE_FILE);
        std::fs::rename(&backup.path, &path).map_err(|e| RecoveryError::io(&path, "rename", e))?;
        backup.path = path;
        std::fs::remove_dir_all(&unfinished).map_err(|e| RecoveryError::io(&unfinished, "remove", e))?;
        let genesis = folder.join("genesis.json");
        self.file.save(&genesis)?;
        Ok((genesis, backup))
    }
}

/// What the executor of a node of the new chain finds: the state is of the block carried on, and
/// the first epoch's application has it already.
pub(crate) fn own_record(genesis: &Genesis) -> (&'static [u8], Vec<u8>) {
    let (root, hash) =
        genesis.origin.map_or((Digest::ZERO, Digest::ZERO), |origin| (origin.state_root, origin.hash));
    (OWN_KEY, encode::<Own>(&(genesis.manifest.number.0, root, hash)))
}

/// Who of a committee is what.
struct Who {
    surviving: Vec<Member>,
    unaccounted: Vec<AuthorityId>,
    quorum_may_be_there: bool,
}

impl Who {
    fn new(
        committee: &Committee,
        survivors: &[Survivor],
        lost: &[AuthorityId],
    ) -> Result<Self, RecoveryError> {
        let lost: BTreeSet<AuthorityId> = lost.iter().copied().collect();
        if let Some(stranger) = lost.iter().find(|id| committee.index_of(**id).is_none()) {
            return Err(RecoveryError::NotAMember(*stranger));
        }
        // A backup alone is what a node left behind, not a node.
        let there: BTreeSet<PublicKey> =
            survivors.iter().filter(|survivor| !survivor.is_backup()).map(|survivor| survivor.node).collect();
        let (mut surviving, mut unaccounted, mut not_lost) = (Vec::new(), Vec::new(), BTreeSet::new());
        for index in committee.indices() {
            let Some(member) = committee.member(index) else { continue };
            match (there.contains(&member.key), lost.contains(&member.id)) {
                (true, true) => return Err(RecoveryError::LostAndThere(member.id)),
                (true, false) => surviving.push(member.clone()),
                (false, false) => unaccounted.push(member.id),
                (false, true) => continue,
            }
            not_lost.insert(index);
        }
        Ok(Self { surviving, unaccounted, quorum_may_be_there: committee.is_quorum(&not_lost) })
    }

    fn authority(&self, committee: &Committee, key: PublicKey) -> Option<AuthorityId> {
        Some(committee.member(committee.index_of_key(&key)?)?.id)
    }
}

/// Follows a survivor's whole chain from its genesis.
fn audit(genesis: &Genesis, survivor: &Survivor) -> Result<(), RecoveryError> {
    let wrong = |problem| RecoveryError::Audit { path: survivor.path.clone(), problem: Box::new(problem) };
    let (store, mut auditor) = (&survivor.store, Auditor::new(genesis).map_err(wrong)?);
    while let Some(stretch) = store.certified_stretch(auditor.next(), auditor.phase(), STRETCH_BYTES)? {
        auditor.feed(&stretch).map_err(wrong)?;
    }
    let (expected, found) = (auditor.next(), store.last_final()?);
    if expected <= found {
        return Err(wrong(AuditError::Missing { expected, found }));
    }
    auditor.check_stored_epoch(&survivor.loaded.epoch).map_err(wrong)
}

/// The state after the block, the same on all survivors on which it can be computed; with how many
/// these are, and why the others cannot.
#[allow(clippy::type_complexity, reason = "three results of one walk")]
fn agreed_state(
    survivors: &[Survivor],
    point: &Point,
    host: &ModuleHost,
) -> Result<(StateAt, usize, Vec<Option<String>>), RecoveryError> {
    let computed =
        |state: &StateAt, path: &Path| Box::new(Computed { root: state.root(), path: path.to_owned() });
    let (mut agreed, mut count, mut problems) = (None::<(StateAt, &Path)>, 0, Vec::new());
    for survivor in survivors {
        match state_at(survivor, point, host) {
            Err(problem) => problems.push(Some(problem)),
            Ok(state) => {
                problems.push(None);
                count += 1;
                let Some((first, path)) = &agreed else {
                    agreed = Some((state, &survivor.path));
                    continue;
                };
                if first.root() != state.root() {
                    let (first, other) = (computed(first, path), computed(&state, &survivor.path));
                    return Err(RecoveryError::StateDiffers { global: point.global, first, other });
                }
            }
        }
    }
    match agreed {
        Some((state, _)) => Ok((state, count, problems)),
        None => {
            let reason = problems.into_iter().flatten().next().unwrap_or_default();
            Err(RecoveryError::NoState { global: point.global, reason })
        }
    }
}

/// The same modules, fault model and limits; of the engine, the one that ran last.
fn new_genesis(
    former: &Genesis,
    point: &Point,
    origin: &Origin,
    surviving: &[Member],
    replacements: &[Member],
    now_ms: u64,
) -> Result<GenesisFile, RecoveryError> {
    let manifest = &point.epoch.manifest;
    let mut pins = manifest.modules.clone();
    pins.extend(manifest.engine(point.phase).map(|engine| (World::Engine, engine.clone())));
    let file = GenesisFile {
        name: former.name.clone(),
        time_ms: now_ms.max(point.time_ms.saturating_add(1)),
        origin: Some(OriginFile::from(origin)),
        fault_model: manifest.fault_model,
        committee: surviving.iter().chain(replacements).cloned().collect(),
        modules: pins.iter().map(|(world, pin)| (*world, PinFile::from(pin))).collect(),
        fallbacks: manifest.fallbacks.iter().map(PinFile::from).collect(),
        limits: manifest.limits.clone(),
    };
    file.to_genesis()?;
    Ok(file)
}

fn modules(genesis: &Genesis) -> impl Iterator<Item = ModuleHash> {
    let pins = genesis.manifest.modules.values().chain(&genesis.manifest.fallbacks);
    pins.map(|pin| pin.hash).collect::<BTreeSet<_>>().into_iter()
}

/// A damaged one is as good as none.
fn module_of(survivors: &[Survivor], hash: ModuleHash) -> Option<Vec<u8>> {
    survivors.iter().find_map(|survivor| survivor.store.modules().get(hash).ok().flatten())
}
