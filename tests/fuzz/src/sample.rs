//! A committee of four with its keys, and real values of every kind: what corpora begin with.

use std::sync::OnceLock;

use moult_core::governance::Ledger;
use moult_core::guard::GuardState;
use moult_core::io::{GuardUpdate, PhaseProof};
use moult_crypto::{KeyPair, Keyring, Signer, possession};
use moult_types::block::{link, vote_statement};
use moult_types::governance::{Decision, ReadyNotice, Vote, Withdrawal};
use moult_types::message::{Blocks, Prepared, Status};
use moult_types::phase::{Abort, AbortedPhase, Bundle, Claim, FinalityProof, Point};
use moult_types::*;

pub(crate) const CHAIN: ChainId = ChainId([9; 32]);
pub(crate) const AUTHORITIES: u8 = 4;
const NO_SIGNATURE: Signature = Signature([0; 64]);

/// The key of an authority; those beyond the committee are strangers.
pub(crate) fn keys(n: u8) -> &'static KeyPair {
    static KEYS: OnceLock<Vec<KeyPair>> = OnceLock::new();
    let keys = KEYS.get_or_init(|| (0..=AUTHORITIES).map(|n| KeyPair::from_seed(&[n + 1; 32])).collect());
    &keys[usize::from(n.min(AUTHORITIES))]
}

pub(crate) fn member(n: u8) -> Member {
    let keys = keys(n);
    let id = AuthorityId::of(&keys.public_key());
    Member {
        id,
        key: keys.public_key(),
        possession: possession(keys, id),
        stake: 1,
        address: format!("n{n}:1"),
    }
}

pub(crate) fn manifest() -> Manifest {
    static MANIFEST: OnceLock<Manifest> = OnceLock::new();
    let make = || {
        let pin = |n: u8| ModulePin { hash: ModuleHash([n; 32]), config: Vec::new() };
        Manifest {
            number: EpochNumber(0),
            members: (0..AUTHORITIES).map(member).collect(),
            fault_model: FaultModel::Byzantine,
            modules: World::ALL.into_iter().zip(1..).map(|(world, n)| (world, pin(n))).collect(),
            fallbacks: Vec::new(),
            finality: Finality::Certified,
            limits: EpochLimits { window_blocks: 4, barrier_distance_blocks: 5, ..EpochLimits::default() },
            follows: None,
        }
    };
    MANIFEST.get_or_init(make).clone()
}

pub(crate) fn identity() -> EpochIdentity {
    static IDENTITY: OnceLock<EpochIdentity> = OnceLock::new();
    *IDENTITY.get_or_init(|| manifest().identity())
}

pub(crate) fn committee() -> &'static Committee {
    static COMMITTEE: OnceLock<Committee> = OnceLock::new();
    COMMITTEE.get_or_init(|| manifest().committee().expect("a committee"))
}

pub(crate) fn keyring() -> &'static Keyring {
    static KEYRING: OnceLock<Keyring> = OnceLock::new();
    KEYRING.get_or_init(|| Keyring::new(CHAIN, committee()).expect("good keys"))
}

/// Signed by the authority that it names, in the scope of the epoch.
pub(crate) fn signed(statement: Statement) -> Signed {
    let author = u8::try_from(statement.author.0).unwrap_or(u8::MAX);
    let signature = keys(author).sign_statement(CHAIN, Scope::Epoch(identity()), &statement);
    Signed { statement, signature }
}

fn in_number(author: u8, statement: &Statement) -> Signature {
    keys(author).sign_statement(CHAIN, Scope::Number(EpochNumber(0)), statement)
}

pub(crate) fn vote_for(round: Round, author: u8, index: u64, hash: Digest) -> Signed {
    signed(vote_statement(round, AuthorityIndex(author.into()), CommitIndex(index), hash))
}

pub(crate) fn batch(author: u8, seq: u64, time_ms: u64, transactions: Vec<Transaction>) -> SignedBatch {
    let author_index = AuthorityIndex(author.into());
    let batch = Batch { number: EpochNumber(0), author: author_index, start: 1, seq, time_ms, transactions };
    let signature = in_number(author, &batch.statement(batch.digest()));
    SignedBatch { batch, signature }
}

pub(crate) fn client(seq: u64, payload: &[u8]) -> ClientTransaction {
    let client = ClientId { ingress: member(1).id, name: b"client".to_vec() };
    ClientTransaction { client, seq, payload: payload.to_vec() }
}

/// What a certifier says of the engine.
pub(crate) fn report() -> SignedReport {
    let report = CertificationReport {
        module: ModuleHash([1; 32]),
        world: World::Engine,
        name: "engine 1.0.0".into(),
        host_version: "0.1.0".into(),
        plan: "short".into(),
        setting: TraceHash([2; 32]),
        faults: vec![("crash".into(), 7)],
        invariants: vec!["agreement".into()],
        first_seed: 5,
        seeds: 300,
        failed_seeds: 1,
        failures: vec![6],
        suite_seeds: 300,
        cases: 400,
        failed_cases: 1,
        case_failures: vec!["calm".into()],
        worst_stall_ms: 900,
        commits: 10,
        fuel_per_commit: 100,
        traces: vec![TraceHash([3; 32])],
    };
    moult_crypto::sign_report(keys(AUTHORITIES), report)
}

pub(crate) fn proposal(author: u8, time_ms: u64, deadline: u64) -> SignedProposal {
    let manifest = manifest();
    let proposal = EpochChangeProposal {
        new_epoch: EpochNumber(1),
        new_committee: manifest.members,
        new_epoch_timestamp_ms: time_ms,
        proposal_commit_index: CommitIndex(0),
        modules: manifest.modules,
        fallbacks: manifest.fallbacks,
        fault_model: FaultModel::Byzantine,
        limits: manifest.limits,
        activation: Activation::AsSoonAsReady,
        deadline: CommitIndex(deadline),
        proposer: member(author).id,
        readmit_failed: false,
        reports: vec![report()],
    };
    let author_index = AuthorityIndex(author.into());
    let signature = in_number(author, &proposal.statement(author_index));
    SignedProposal { proposal, author: author_index, signature }
}

pub(crate) fn vote(author: u8, proposal: u64, hash: Digest, decision: Decision) -> SystemTransaction {
    let author_index = AuthorityIndex(author.into());
    let proposal = ProposalId(proposal);
    let mut vote = Vote { proposal, hash, decision, author: author_index, signature: NO_SIGNATURE };
    vote.signature = in_number(author, &vote.statement());
    SystemTransaction::Vote(vote)
}

pub(crate) fn ready(author: u8, proposal: u64, hash: Digest, window: u64) -> SystemTransaction {
    let author_index = AuthorityIndex(author.into());
    let proposal = ProposalId(proposal);
    let mut notice = ReadyNotice { proposal, hash, window, author: author_index, signature: NO_SIGNATURE };
    let scope = Scope::Number(EpochNumber(1));
    notice.signature = keys(author).sign_statement(CHAIN, scope, &notice.statement());
    SystemTransaction::Ready(notice)
}

pub(crate) fn withdraw(author: u8, proposal: u64, hash: Digest) -> SystemTransaction {
    let author_index = AuthorityIndex(author.into());
    let proposal = ProposalId(proposal);
    let mut withdrawal = Withdrawal { proposal, hash, author: author_index, signature: NO_SIGNATURE };
    withdrawal.signature = in_number(author, &withdrawal.statement());
    SystemTransaction::Withdraw(withdrawal)
}

pub(crate) fn transactions() -> Vec<Transaction> {
    let proposal = proposal(1, 2000, 100);
    let hash = proposal.proposal.hash();
    let systems = [
        SystemTransaction::Propose(Box::new(proposal)),
        vote(2, 1, hash, Decision::Approve),
        vote(3, 1, hash, Decision::Reject("too soon".into())),
        ready(1, 1, hash, 0),
        withdraw(1, 1, hash),
        SystemTransaction::Open(Box::new(bundle())),
    ];
    let client = Transaction::Client(client(1, b"payload"));
    [client].into_iter().chain(systems.into_iter().map(Transaction::System)).collect()
}

/// A final stretch: blocks of one tick each, from the beginning of the epoch.
pub(crate) fn blocks(count: u64) -> Blocks {
    let identity = identity();
    let (mut parent, mut blocks, mut batches) = (identity.digest(), Vec::new(), Vec::new());
    for index in 1..=count {
        let tick = batch(1, index, 1000 + index, Vec::new());
        let block = Block {
            index: CommitIndex(index),
            time_ms: 1000 + index,
            batches: vec![tick.batch.digest()],
            state_root: None,
            resumed: None,
        };
        let hash = link(parent, block.body());
        let (epoch, global) = (EpochNumber(0), GlobalIndex(index));
        blocks.push(BlockRecord { epoch, identity, global, parent, hash, block });
        batches.push(tick);
        parent = hash;
    }
    let proof = FinalityProof::Committed(certificate(Round::Commit, count, parent, &[]));
    Blocks { blocks, batches, proof }
}

/// By authorities 1 to 3, each at the end of the bodies.
pub(crate) fn certificate(round: Round, index: u64, hash: Digest, bodies: &[Digest]) -> Certificate {
    let top = bodies.iter().fold(hash, |hash, body| link(hash, *body));
    let at = index + bodies.len() as u64;
    let votes = (1..AUTHORITIES).map(|author| {
        let signed = vote_for(round, author, at, top);
        CertificateVote {
            author: signed.statement.author,
            index: CommitIndex(at),
            signature: signed.signature,
        }
    });
    let (votes, bodies) = (votes.collect(), bodies.to_vec());
    Certificate { round, identity: identity(), index: CommitIndex(index), hash, votes, bodies }
}

/// A certificate of the first round for the first block.
pub(crate) fn claim() -> Claim {
    let block = &blocks(1).blocks[0];
    Claim { certificate: certificate(Round::Prepare, 1, block.hash, &[]), block: None }
}

/// An abort that claims it.
pub(crate) fn abort(author: u8) -> Abort {
    let claim = (CommitIndex(1), blocks(1).blocks[0].hash);
    let author_index = AuthorityIndex(author.into());
    let mut abort = Abort { author: author_index, claim, signature: NO_SIGNATURE };
    abort.signature = signed(abort.statement()).signature;
    abort
}

/// By authorities 1 to 3.
pub(crate) fn bundle() -> Bundle {
    let aborts = (1..AUTHORITIES).map(abort).collect();
    Bundle { aborted: vec![AbortedPhase { identity: identity(), aborts, claim: Some(claim()) }] }
}

pub(crate) fn point() -> Point {
    let block = &blocks(1).blocks[0];
    Point { identity: identity(), index: CommitIndex(1), hash: block.hash, global: GlobalIndex(1) }
}

pub(crate) fn prepared() -> Prepared {
    let Blocks { blocks, batches, .. } = blocks(1);
    Prepared { blocks, batches, bodies: vec![Digest([1; 32])] }
}

pub(crate) fn status() -> Status {
    Status {
        epoch: EpochNumber(0),
        phase: 0,
        last_final: GlobalIndex(1),
        hash: Digest([1; 32]),
        executed: GlobalIndex(1),
        state_root: Digest([2; 32]),
    }
}

pub(crate) fn state_root() -> StateRoot {
    let (epoch, global, root) = (EpochNumber(0), GlobalIndex(100), Digest([2; 32]));
    let mut said = StateRoot { epoch, global, root, author: AuthorityIndex(1), signature: NO_SIGNATURE };
    said.signature = in_number(1, &said.statement());
    said
}

/// One of each kind.
pub(crate) fn messages() -> Vec<Message> {
    let identity = identity();
    let slot = Slot { kind: 2, a: 0, b: 1 };
    let statement = Statement { author: AuthorityIndex(1), slot, digest: Digest([1; 32]) };
    let hash = ModuleHash([1; 32]);
    vec![
        Message::Engine { identity, payload: Some(b"payload".to_vec()), statements: vec![signed(statement)] },
        Message::Engine { identity, payload: None, statements: Vec::new() },
        Message::Batches(vec![batch(1, 1, 1000, vec![Transaction::Client(client(1, b"x"))])]),
        Message::Votes {
            identity,
            votes: Round::ALL.map(|round| vote_for(round, 1, 1, Digest([1; 32]))).into(),
            certificate: Some(Box::new(certificate(Round::Prepare, 1, Digest([1; 32]), &[]))),
        },
        Message::Status(status()),
        Message::System(vote(2, 1, Digest([1; 32]), Decision::Approve)),
        Message::FetchBatches(vec![Digest([1; 32]), Digest([2; 32])]),
        Message::FetchBlocks { from: GlobalIndex(1), epoch: EpochNumber(0), phase: 0 },
        Message::Waiting { identity, batch: Digest([1; 32]), is_question: true },
        Message::Suspect { identity },
        Message::Abort { identity, abort: abort(1), claim: Some(Box::new(claim())) },
        Message::Opening { epoch: EpochNumber(0), phase: 1, bundle: bundle() },
        Message::FetchPrepared { from: CommitIndex(1), to: point() },
        Message::Prepared(Box::new(prepared())),
        Message::Blocks(Box::new(blocks(1))),
        Message::ReadQuery { nonce: 1 },
        Message::ReadReply { nonce: 1, epoch: EpochNumber(0), phase: 0, index: CommitIndex(2) },
        Message::FetchModule { hash, offset: 0 },
        Message::ModulePart { hash, total_bytes: 3, offset: 0, bytes: b"abc".to_vec() },
        Message::StateRoot(state_root()),
    ]
}

pub(crate) fn ledger() -> Ledger {
    Ledger::at_start(&manifest(), GlobalIndex(0), 1000, ProposalId(1))
}

pub(crate) fn guard_state() -> GuardState {
    let mut state = GuardState::new(CHAIN, keys(0).public_key(), identity());
    guard_updates().iter().for_each(|update| state.apply(update));
    state
}

/// One of each kind.
pub(crate) fn guard_updates() -> Vec<GuardUpdate> {
    let (slot, digest) = (Slot { kind: 2, a: 0, b: 5 }, Digest([5; 32]));
    vec![
        GuardUpdate::Started { count: 1 },
        GuardUpdate::Signed { scope: Scope::Epoch(identity()), slot, digest },
        GuardUpdate::Signed { scope: Scope::Number(EpochNumber(0)), slot, digest },
        GuardUpdate::Prepared { index: CommitIndex(1), hash: digest },
        GuardUpdate::Committed(Box::new(claim())),
        GuardUpdate::Aborted { index: CommitIndex(1), hash: digest },
        GuardUpdate::Phase {
            phase: 1,
            identity: phase::fallback_identity(identity(), 0),
            proof: Box::new(PhaseProof::Aborted(bundle())),
        },
        GuardUpdate::Released(Slot { kind: 2, a: 0, b: 3 }),
        GuardUpdate::FinalMark { global: GlobalIndex(1), hash: digest },
        GuardUpdate::Stated { global: GlobalIndex(100), root: digest },
        GuardUpdate::Epoch { number: 1, identity: EpochIdentity([7; 32]) },
    ]
}
