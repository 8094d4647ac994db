//! The world at its beginning, drawn from the seed.

use std::collections::{BTreeMap, BTreeSet};

use moult_core::guard::GuardState;
use moult_crypto::{KeyPair, Signer, possession};
use moult_types::{
    AuthorityId, EpochLimits, EpochNumber, FaultModel, Finality, Genesis, Manifest, Member, ModuleHash,
    ModulePin, World as Role,
};

use crate::check::Checks;
use crate::clients::Clients;
use crate::disk::Disk;
use crate::modules::{EngineFactory, module_hash};
use crate::network::Network;
use crate::node::{Node, WALL_START_MS};
use crate::plan::Plan;
use crate::queue::Queue;
use crate::report::Report;
use crate::rng::Rng;
use crate::trace::Trace;
use crate::world::{Tuning, World};

/// What a node's key and authority are drawn from.
struct Identity {
    keys: KeyPair,
    authority: AuthorityId,
    byzantine: bool,
}

/// Every module there is.
pub(crate) fn all_modules() -> BTreeSet<ModuleHash> {
    ["pbft", "pbft-reverse", "silent", "fading", "trapping", "kv", "kv2", "approve-valid"]
        .map(module_hash)
        .into()
}

impl World {
    pub(crate) fn new(seed: u64, plan: Plan, engines: EngineFactory, trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let mut report = Report::default();
        let members = rng.range(4, plan.members_max.max(4)) as usize;
        let others = rng.range(0, plan.others_max) as usize;
        let identities = identities(&mut rng, &plan, members, others, &mut report);
        let genesis = genesis(&mut rng, &plan, &identities[..members]);
        let chain = genesis.chain();
        let identity = genesis.manifest.identity();
        let mut nodes: Vec<Node> = Vec::new();
        for drawn in identities {
            let public = drawn.keys.public_key();
            let skewed = plan.bad_links && rng.chance(200);
            if skewed {
                report.fault("clock-skew");
            }
            nodes.push(Node {
                disk: Disk::new(GuardState::new(chain, public, identity)),
                public,
                keys: drawn.keys,
                authority: drawn.authority,
                byzantine: drawn.byzantine,
                life: 0,
                process: None,
                skew_ms: if skewed {
                    rng.range(0, 7_200_000) as i64 - 3_600_000
                } else {
                    rng.range(0, 20) as i64
                },
                paused_until_us: 0,
                slow_factor: 1,
                sync_us: (100, 100 + rng.below(4_000)),
                modules: all_modules(),
                sleeps_until_us: 0,
                groups: 0,
            });
        }
        let clients = Clients::new(&mut rng, &nodes, members, plan.clients_max);
        Self {
            seed,
            now_us: 0,
            queue: Queue::default(),
            checks: Checks::new(&genesis, &nodes),
            network: Network::new(&mut rng, plan.bad_links),
            tuning: Tuning {
                batch_delay_ms: rng.range(1, 20),
                batches_in_flight_max: rng.range(1, 16) as usize,
            },
            traps_left: if plan.between_faults_ms > 0 { rng.below(3) } else { 0 },
            clients,
            genesis,
            chain,
            nodes,
            engines,
            report,
            trace: Trace::new(trace),
            verified: Default::default(),
            is_calm: false,
            goal: None,
            crash_point_hit: false,
            crash_in_sync: None,
            proposals: 0,
            waiting_for: String::new(),
            plan,
            rng,
        }
    }
}

/// Keys of members, then of others; some others are new keys of members, and one member may
/// be Byzantine, with a twin that shares its key.
fn identities(
    rng: &mut Rng,
    plan: &Plan,
    members: usize,
    others: usize,
    report: &mut Report,
) -> Vec<Identity> {
    let mut key = 0_u8;
    let mut keys = |rng: &mut Rng| {
        key += 1;
        let mut seed = [key; 32];
        seed[..8].copy_from_slice(&rng.number().to_le_bytes());
        KeyPair::from_seed(&seed)
    };
    let mut list: Vec<Identity> = Vec::new();
    for i in 0..members + others {
        let keys = keys(rng);
        let former = (i >= members && rng.chance(250)).then(|| rng.below(members as u64) as usize);
        let authority = former.map_or_else(|| AuthorityId::of(&keys.public_key()), |of| list[of].authority);
        list.push(Identity { keys, authority, byzantine: false });
    }
    if rng.chance(plan.byzantine_per_mille) {
        let bad = rng.below(members as u64) as usize;
        list[bad].byzantine = true;
        let Identity { keys, authority, .. } = &list[bad];
        // A new key of a Byzantine authority would double what it holds.
        let (keys, authority) = (keys.clone(), *authority);
        for other in list.iter_mut().skip(members).filter(|other| other.authority == authority) {
            other.authority = AuthorityId::of(&other.keys.public_key());
        }
        if rng.chance(700) {
            report.fault("twin");
            list.push(Identity { keys, authority, byzantine: true });
        }
    }
    list
}

/// A node as a member of a committee.
pub(crate) fn member(keys: &KeyPair, authority: AuthorityId, stake: u64, place: usize) -> Member {
    Member {
        id: authority,
        key: keys.public_key(),
        possession: possession(keys, authority),
        stake,
        address: format!("node{place}:7000"),
    }
}

fn genesis(rng: &mut Rng, plan: &Plan, members: &[Identity]) -> Genesis {
    let equal = rng.chance(500);
    let has_byzantine = plan.hostile.is_some() || members.iter().any(|member| member.byzantine);
    let members = members.iter().enumerate().map(|(place, it)| {
        let stake = if equal || has_byzantine { 1 } else { rng.range(1, 4) };
        member(&it.keys, it.authority, stake, place)
    });
    let members = members.collect();
    let pin = |name: &str, config: Vec<u8>| ModulePin { hash: module_hash(name), config };
    let fallbacks = fallbacks(rng, plan);
    let engine = if fallbacks.is_empty() { "pbft" } else { engine_that_may_fail(rng, plan) };
    let modules = BTreeMap::from([
        (Role::Engine, pin(engine, engine_config(rng, plan))),
        (Role::Approval, pin("approve-valid", Vec::new())),
        (Role::Application, pin("kv", Vec::new())),
    ]);
    Genesis {
        name: "simulation".into(),
        time_ms: WALL_START_MS,
        manifest: Manifest {
            number: EpochNumber(0),
            members,
            fault_model: if has_byzantine || rng.chance(700) {
                FaultModel::Byzantine
            } else {
                FaultModel::Crash
            },
            modules,
            fallbacks,
            finality: Finality::Certified,
            limits: limits(rng, plan, module_hash(engine)),
            follows: None,
        },
    }
}

pub(crate) fn engine_config(rng: &mut Rng, plan: &Plan) -> Vec<u8> {
    let interval = rng.range(2, 12);
    let window = interval * rng.range(2, 4);
    let (pipeline, timeout_ms, resend_ms) =
        (rng.range(1, window.min(8)), rng.range(150, 600), rng.range(50, 200));
    let text = format!(
        "checkpoint_interval={interval}\nwindow={window}\npipeline={pipeline}\nview_timeout_ms={timeout_ms}\nretransmit_ms={resend_ms}\n"
    );
    #[cfg(feature = "planted")]
    let text = text + crate::planted::engine_config(plan.planted);
    #[cfg(not(feature = "planted"))]
    let _ = plan;
    text.into_bytes()
}

/// Engines to fall back to: one that works, before it perhaps one that does not.
fn fallbacks(rng: &mut Rng, plan: &Plan) -> Vec<ModulePin> {
    if !plan.trusts_engines() || !rng.chance(plan.failing_per_mille) {
        return Vec::new();
    }
    let mut names = vec![if rng.chance(500) { "pbft-reverse" } else { "pbft" }];
    if rng.chance(400) {
        names.insert(0, if rng.chance(500) { "silent" } else { "fading" });
    }
    let pins =
        names.into_iter().map(|name| ModulePin { hash: module_hash(name), config: engine_config(rng, plan) });
    pins.collect()
}

/// Mostly one that works.
pub(crate) fn engine_that_may_fail(rng: &mut Rng, plan: &Plan) -> &'static str {
    let range = if plan.failing_per_mille == 1000 { 5 } else { 10 };
    match rng.below(range) {
        0 => "silent",
        1 | 2 => "fading",
        3 => "trapping",
        _ => "pbft",
    }
}

/// Whether an engine works for good, so that an epoch may graduate on its word.
fn is_sound(engine: ModuleHash) -> bool {
    ["pbft", "pbft-reverse"].map(module_hash).contains(&engine)
}

pub(crate) fn limits(rng: &mut Rng, plan: &Plan, engine: ModuleHash) -> EpochLimits {
    let may_graduate = rng.chance(400) && plan.trusts_engines() && is_sound(engine);
    let window_blocks = rng.range(1, 16);
    EpochLimits {
        window_blocks,
        barrier_distance_blocks: window_blocks + rng.below(10),
        graduate_after_blocks: may_graduate.then(|| rng.range(1, 40)),
        stall_timeout_ms: rng.range(400, 3_000),
        readiness_window_blocks: rng.range(10, 100),
        batches_in_block_max: rng.range(1, 16) as u32,
        client_window: 256,
        ..EpochLimits::default()
    }
}
