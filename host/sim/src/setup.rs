//! The world at its beginning, drawn from the seed.

use std::collections::{BTreeMap, BTreeSet};

use moult_core::guard::GuardState;
use moult_crypto::{KeyPair, Signer, possession};
use moult_types::{
    AuthorityId, EpochLimits, EpochNumber, FaultModel, Finality, Genesis, Manifest, Member, ModuleHash,
    ModulePin, World as Role,
};

use crate::byzantine::Vices;
use crate::check::Checks;
use crate::clients::Clients;
use crate::disk::Disk;
use crate::modules::{EngineModule, Modules};
use crate::network::{Network, Noise};
use crate::node::{Node, WALL_START_MS};
use crate::plan::Plan;
use crate::queue::Queue;
use crate::report::{FAULT_KINDS, Report};
use crate::rng::Rng;
use crate::signing::Scheme;
use crate::trace::Trace;
use crate::world::{Tuning, World};

/// An engine that is wrong on purpose makes fewer commits than this that are right.
const COMMITS_BEFORE_BROKEN: u64 = 12;

/// What a node's key and authority are drawn from.
struct Identity {
    keys: KeyPair,
    authority: AuthorityId,
    byzantine: bool,
}

/// Leaves a fault kind out of a run: each for itself, so that runs differ in character.
const LEFT_OUT_PER_MILLE: u64 = 330;

impl World {
    pub(crate) fn new(seed: u64, plan: Plan, modules: Modules, trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let mut nemesis = Rng::new(seed ^ 0x6e65_6d65_7369_7321);
        let drawn_out: Vec<_> =
            FAULT_KINDS.into_iter().filter(|_| nemesis.chance(LEFT_OUT_PER_MILLE)).collect();
        let off: BTreeSet<_> = plan.without.iter().copied().chain(drawn_out).collect();
        let mut report = Report::default();
        let members = rng.range(4, plan.members_max.max(4)) as usize;
        let others = rng.range(0, plan.others_max) as usize;
        let identities = identities(&mut rng, &plan, &modules, (members, others), &off, &mut report);
        let genesis = genesis(&mut rng, &plan, &modules, &identities[..members]);
        let chain = genesis.chain();
        let identity = genesis.manifest.identity();
        let keys: Vec<KeyPair> = identities.iter().map(|drawn| drawn.keys.clone()).collect();
        let is_real = plan.real_signatures.unwrap_or(seed.is_multiple_of(10));
        let scheme = Scheme::new(is_real, &keys);
        #[cfg(feature = "planted")]
        let scheme = if plan.has_bug(crate::Bug::SignaturesUnchecked) {
            Scheme::that_checks_nothing()
        } else {
            scheme
        };
        let mut nodes: Vec<Node> = Vec::new();
        for drawn in identities {
            let public = drawn.keys.public_key();
            let skewed = plan.bad_links && rng.chance(200) && !off.contains("clock-skew");
            if skewed {
                report.fault("clock-skew");
            }
            let vices = if drawn.byzantine {
                Vices::draw(&mut rng, keys.len(), |kind| !off.contains(kind))
            } else {
                Vices::default()
            };
            nodes.push(Node {
                disk: Disk::new(GuardState::new(chain, public, identity)),
                public,
                keys: drawn.keys,
                authority: drawn.authority,
                byzantine: drawn.byzantine,
                is_spoilt: plan.spoilt == Some(nodes.len()),
                life: 0,
                process: None,
                skew_ms: if skewed {
                    rng.range(0, 7_200_000) as i64 - 3_600_000
                } else {
                    rng.range(0, 20) as i64
                },
                drift_ppm: 0,
                frozen: None,
                paused_until_us: 0,
                slow_factor: 1,
                sync_us: (100, 100 + rng.below(4_000)),
                disk_stalls_until_us: 0,
                disk_full_until_us: 0,
                next_write_fails: false,
                reads_fail_until_us: 0,
                is_left_out: false,
                modules: modules.hashes().collect(),
                sleeps_until_us: 0,
                groups: Vec::new(),
                #[cfg(feature = "planted")]
                backup: None,
                vices,
            });
        }
        let clients = Clients::new(&mut rng, &nodes, members, plan.clients_max);
        let noise = Noise {
            lost: !off.contains("message-lost"),
            repeated: !off.contains("message-repeated"),
            late: !off.contains("message-late"),
        };
        Self {
            seed,
            now_us: 0,
            queue: Queue::default(),
            checks: Checks::new(&genesis, &nodes, scheme.clone()),
            network: Network::new(&mut rng, plan.bad_links, &noise),
            tuning: Tuning {
                batch_delay_ms: rng.range(1, 20),
                batches_in_flight_max: rng.range(1, 16) as usize,
            },
            traps_left: if plan.between_faults_ms > 0 && !off.contains("engine-trap") {
                rng.below(3)
            } else {
                0
            },
            clients,
            genesis,
            chain,
            nodes,
            modules,
            scheme,
            report,
            trace: Trace::new(trace),
            verified: Default::default(),
            is_calm: false,
            core_until_us: None,
            deferred: Vec::new(),
            rest_until_us: (plan.faults_ms + plan.calm_ms) * 1000,
            goal: None,
            crash_point_hit: false,
            crash_in_sync: None,
            rotten_node: None,
            faults_drawn: 0,
            proposals: 0,
            healed_us: 0,
            broken: Default::default(),
            waiting_for: String::new(),
            operator: Rng::new(seed ^ 0x6f70_6572_6174_6f72),
            nemesis,
            off,
            plan,
            rng,
        }
    }
}

/// Keys of members, then of others; some others are new keys of members. Some members may be
/// Byzantine, with a twin that shares the key: as many as are tolerated at most.
fn identities(
    rng: &mut Rng,
    plan: &Plan,
    modules: &Modules,
    (members, others): (usize, usize),
    off: &BTreeSet<&'static str>,
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
    if !plan.has_lies(modules) || !rng.chance(plan.byzantine_per_mille) {
        return list;
    }
    for _ in 0..(members - 1) / 3 {
        let bad = rng.below(members as u64) as usize;
        if list[bad].byzantine {
            continue;
        }
        list[bad].byzantine = true;
        let Identity { keys, authority, .. } = &list[bad];
        // A new key of a Byzantine authority would double what it holds.
        let (keys, authority) = (keys.clone(), *authority);
        for other in list.iter_mut().skip(members).filter(|other| other.authority == authority) {
            other.authority = AuthorityId::of(&other.keys.public_key());
        }
        if rng.chance(500) && !off.contains("twin") {
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

fn genesis(rng: &mut Rng, plan: &Plan, modules: &Modules, members: &[Identity]) -> Genesis {
    let equal = rng.chance(500);
    let has_byzantine =
        plan.hostile.is_some() || plan.spoilt.is_some() || members.iter().any(|member| member.byzantine);
    let members = members.iter().enumerate().map(|(place, it)| {
        let stake = if equal || has_byzantine { 1 } else { rng.range(1, 4) };
        member(&it.keys, it.authority, stake, place)
    });
    let members = members.collect();
    let engine = modules.engines().first();
    let bears_lies = engine.is_some_and(EngineModule::bears_lies);
    let pin = |hash: ModuleHash, config: Vec<u8>| ModulePin { hash, config };
    let fallbacks = fallbacks(rng, plan, modules);
    // One that is wrong on purpose comes by a proposal.
    let may_fail = !fallbacks.is_empty() && modules.broken().is_none();
    let engine = if may_fail { engine_that_may_fail(rng, plan, modules) } else { engine };
    let limits = limits(rng, plan, engine.is_some_and(EngineModule::is_sound));
    let engine = engine.map_or(ModulePin { hash: ModuleHash([0; 32]), config: Vec::new() }, |engine| {
        pin(engine.hash, engine_config(rng, plan, engine))
    });
    let pins = BTreeMap::from([
        (Role::Engine, engine),
        (Role::Approval, pin(modules.approval_hash(), Vec::new())),
        (Role::Application, pin(modules.application_hashes()[0], Vec::new())),
    ]);
    let lies_count = has_byzantine || rng.chance(700);
    Genesis {
        name: "simulation".into(),
        time_ms: WALL_START_MS,
        origin: None,
        manifest: Manifest {
            number: EpochNumber(0),
            members,
            fault_model: if bears_lies && lies_count { FaultModel::Byzantine } else { FaultModel::Crash },
            modules: pins,
            fallbacks,
            finality: Finality::Certified,
            limits,
            follows: None,
        },
    }
}

/// Timers far below production's, so that a run of seconds sees many of them; none for an
/// engine that is not one of this repository's.
pub(crate) fn engine_config(rng: &mut Rng, plan: &Plan, engine: &EngineModule) -> Vec<u8> {
    let text = match engine.kind() {
        "pbft" | "pbft-reverse" | "broken" => {
            let interval = rng.range(2, 12);
            let window = interval * rng.range(2, 4);
            let (pipeline, timeout_ms, resend_ms) =
                (rng.range(1, window.min(8)), rng.range(150, 600), rng.range(50, 200));
            format!(
                "checkpoint_interval={interval}\nwindow={window}\npipeline={pipeline}\n\
                 view_timeout_ms={timeout_ms}\nretransmit_ms={resend_ms}\n"
            )
        }
        "raft" => {
            let (election_ms, pipeline, retained) = (rng.range(200, 600), rng.range(1, 8), rng.range(0, 40));
            let lease_ms = election_ms * 8 / 10;
            let (heartbeat_ms, send_ms) = (lease_ms * 2 / 10, lease_ms / 2);
            format!(
                "election_timeout_ms={election_ms}\nlease_ms={lease_ms}\nheartbeat_ms={heartbeat_ms}\n\
                 send_timeout_ms={send_ms}\npipeline={pipeline}\nretained={retained}\n"
            )
        }
        _ => String::new(),
    };
    let text = match engine.config() {
        "" => text,
        first => format!("{first}after={}\n{text}", rng.below(COMMITS_BEFORE_BROKEN)),
    };
    #[cfg(feature = "planted")]
    let text = crate::planted::engine_config(plan.planted, engine.kind(), text);
    #[cfg(not(feature = "planted"))]
    let _ = plan;
    text.into_bytes()
}

/// Engines to fall back to: one that works whatever the fault model, before it perhaps one that does not.
fn fallbacks(rng: &mut Rng, plan: &Plan, modules: &Modules) -> Vec<ModulePin> {
    if !plan.trusts_engines() || !rng.chance(plan.failing_per_mille) {
        return Vec::new();
    }
    let sound: Vec<_> = modules.engines().iter().filter(|engine| engine.bears_lies()).collect();
    let mut engines: Vec<_> = rng.pick(&sound).into_iter().collect();
    if let [silent, fading, ..] = modules.failing()
        && silent.bears_lies()
        && rng.chance(400)
    {
        engines.insert(0, if rng.chance(500) { silent } else { fading });
    }
    engines
        .into_iter()
        .map(|engine| ModulePin { hash: engine.hash, config: engine_config(rng, plan, engine) })
        .collect()
}

/// Mostly one that works.
pub(crate) fn engine_that_may_fail<'a>(
    rng: &mut Rng,
    plan: &Plan,
    modules: &'a Modules,
) -> Option<&'a EngineModule> {
    let range = if plan.failing_per_mille == 1000 { 5 } else { 10 };
    let failing = modules.failing();
    match rng.below(range) {
        0 => failing.first(),
        1 | 2 => failing.get(1),
        3 => failing.get(2),
        _ => modules.engines().first(),
    }
}

pub(crate) fn limits(rng: &mut Rng, plan: &Plan, is_sound: bool) -> EpochLimits {
    let may_graduate = rng.chance(400) && plan.trusts_engines() && is_sound;
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
