//! Aborts, bundles and fallbacks: what they prove, and how one replica goes through them.

use moult_core::Recovery;
use moult_core::io::{Effect, GuardUpdate, Input, Persist, PhaseRecord, Step};
use moult_core::kernel::{PhaseError, Phases};
use moult_crypto::{Keyring, Signer};
use moult_sdk::engine::{self, Action};
use moult_types::block::{link, vote_statement};
use moult_types::message::{Blocks, Status};
use moult_types::phase::*;
use moult_types::*;

use crate::replica::{Node, Scripted, batches, recovery, votes};
use crate::support::*;

/// What the kernel judges by: a committee, and the first identity.
pub(crate) struct Epoch {
    manifest: Manifest,
    committee: Committee,
    keyring: Keyring,
}

impl Epoch {
    fn new(stakes: &[u64]) -> Self {
        Self::of(manifest(stakes))
    }

    pub(crate) fn of(manifest: Manifest) -> Self {
        let committee = manifest.committee().expect("valid");
        let keyring = keyring(&manifest);
        Self { manifest, committee, keyring }
    }

    fn phases(&self) -> Phases<'_> {
        Phases {
            first: self.manifest.identity(),
            base: GlobalIndex(100),
            committee: &self.committee,
            keyring: &self.keyring,
            window_blocks: 4,
            #[cfg(feature = "planted")]
            planted: None,
        }
    }

    fn identity(&self, phase: Phase) -> EpochIdentity {
        self.phases().identity(phase).expect("few")
    }

    fn abort(&self, phase: Phase, author: u8, claim: (CommitIndex, Digest)) -> Abort {
        let mut abort = Abort { author: AuthorityIndex(author.into()), claim, signature: Signature([0; 64]) };
        let scope = Scope::Epoch(self.identity(phase));
        abort.signature = keys(author).sign_statement(CHAIN, scope, &abort.statement());
        abort
    }

    fn nothing(&self, phase: Phase) -> (CommitIndex, Digest) {
        (CommitIndex(0), self.identity(phase).digest())
    }

    pub(crate) fn certificate(
        &self,
        round: Round,
        phase: Phase,
        voters: &[u8],
        index: u64,
        hash: Digest,
    ) -> Certificate {
        let (identity, index) = (self.identity(phase), CommitIndex(index));
        let vote = |author: &u8| {
            let author_index = AuthorityIndex(u32::from(*author));
            let statement = vote_statement(round, author_index, index, hash);
            let signature = keys(*author).sign_statement(CHAIN, Scope::Epoch(identity), &statement);
            CertificateVote { author: author_index, index, signature }
        };
        Certificate {
            round,
            identity,
            index,
            hash,
            votes: voters.iter().map(vote).collect(),
            bodies: Vec::new(),
        }
    }

    /// A block of a phase with its certificate of the first round.
    fn claim(&self, phase: Phase, index: u64, resumed: Option<Resumed>) -> Claim {
        let index = CommitIndex(index);
        let block = Block { index, time_ms: 0, batches: Vec::new(), state_root: None, resumed };
        let parent = Digest([7; 32]);
        let (hash, identity) = (link(parent, block.body()), self.identity(phase));
        let epoch = self.manifest.number;
        let record = BlockRecord { epoch, identity, global: GlobalIndex(0), parent, hash, block };
        let certificate = self.certificate(Round::Prepare, phase, &[0, 1, 2], index.0, hash);
        Claim { certificate, block: (phase > 0).then(|| Box::new(record)) }
    }

    /// Aborts by these authors, the first of which makes the claim.
    fn aborted(&self, phase: Phase, authors: &[u8], claim: Option<Claim>) -> AbortedPhase {
        let highest = claim.as_ref().map(|claim| (claim.certificate.index, claim.certificate.hash));
        let claims = authors.iter().enumerate().map(|(place, author)| {
            let claim = highest.filter(|_| place == 0).unwrap_or_else(|| self.nothing(phase));
            self.abort(phase, *author, claim)
        });
        AbortedPhase { identity: self.identity(phase), aborts: claims.collect(), claim }
    }
}

fn bundle(aborted: Vec<AbortedPhase>) -> Bundle {
    Bundle { aborted }
}

#[test]
fn a_bundle_names_the_highest_block_that_may_be_final() {
    let epoch = Epoch::new(&[1, 1, 1, 1]);
    let claim = epoch.claim(0, 3, None);
    let hash = claim.certificate.hash;
    let good = bundle(vec![epoch.aborted(0, &[0, 1, 2], Some(claim.clone()))]);
    let point = epoch.phases().check_bundle(1, &good).expect("three of four");
    let expected =
        Point { identity: epoch.identity(0), index: CommitIndex(3), hash, global: GlobalIndex(103) };
    assert_eq!(point, expected);
    let none = bundle(vec![epoch.aborted(0, &[1, 2, 3], None)]);
    let first = epoch.identity(0);
    let start =
        Point { identity: first, index: CommitIndex(0), hash: first.digest(), global: GlobalIndex(100) };
    assert_eq!(epoch.phases().check_bundle(1, &none), Ok(start));
}

/// Stake that is not 3f + 1: six of stake 1 and 2 need five, and four are not enough although
/// they are more than two thirds of the authorities.
#[test]
fn a_quorum_is_counted_in_stake() {
    let epoch = Epoch::new(&[2, 1, 1, 1, 1]);
    let check =
        |authors: &[u8]| epoch.phases().check_bundle(1, &bundle(vec![epoch.aborted(0, authors, None)]));
    assert_eq!(check(&[1, 2, 3, 4]), Err(PhaseError::Quorum { have: 4, need: 5 }));
    assert!(check(&[0, 1, 2, 3]).is_ok());
}

#[test]
fn forged_bundles_open_nothing() {
    let epoch = Epoch::new(&[1, 1, 1, 1]);
    let claim = epoch.claim(0, 3, None);
    let good = epoch.aborted(0, &[0, 1, 2], Some(claim));
    let check = |change: &dyn Fn(&mut AbortedPhase)| {
        let mut forged = good.clone();
        change(&mut forged);
        epoch.phases().check_bundle(1, &bundle(vec![forged])).expect_err("forged")
    };
    let author = |n| PhaseError::Abort(AuthorityIndex(n));
    assert_eq!(check(&|a| a.aborts.truncate(2)), PhaseError::Quorum { have: 2, need: 3 });
    assert_eq!(check(&|a| a.aborts.push(a.aborts[2])), PhaseError::Authors);
    assert_eq!(check(&|a| a.aborts.swap(0, 1)), PhaseError::Authors);
    // An abort that claims more than is proven, and a proof of more than is claimed.
    assert_eq!(check(&|a| a.aborts[1].claim.0 = CommitIndex(9)), author(1));
    assert_eq!(check(&|a| a.claim = None), PhaseError::Claim);
    assert_eq!(check(&|a| a.claim = Some(epoch.claim(0, 4, None))), PhaseError::Claim);
    assert_eq!(check(&|a| a.identity = epoch.identity(1)), PhaseError::OtherPhase);
    assert!(matches!(
        check(&|a| a.claim.as_mut().expect("there").certificate.votes.truncate(2)),
        PhaseError::Certificate(_)
    ));
    // A certificate of the second round is none of the first, and of another phase none of this.
    let committed = epoch.certificate(Round::Commit, 0, &[0, 1, 2], 3, good.aborts[0].claim.1);
    assert!(matches!(
        check(&|a| a.claim.as_mut().expect("there").certificate = committed.clone()),
        PhaseError::Certificate(_)
    ));
    let of_number = |phase| epoch.phases().check_bundle(phase, &bundle(vec![good.clone()]));
    assert_eq!(of_number(0), Err(PhaseError::NoPoint));
    assert_eq!(of_number(2), Err(PhaseError::OtherPhase), "it opens phase 1, whoever says otherwise");
    assert_eq!(of_number(PHASES_MAX), Err(PhaseError::TooMany));
}

#[test]
fn an_abort_counts_only_with_a_certificate_for_its_claim() {
    let epoch = Epoch::new(&[1, 1, 1, 1]);
    let claim = epoch.claim(0, 3, None);
    let abort = epoch.abort(0, 1, (CommitIndex(3), claim.certificate.hash));
    let check = |abort: &Abort, claim: Option<&Claim>| epoch.phases().check_abort(0, abort, claim);
    assert_eq!(check(&abort, Some(&claim)), Ok(()));
    assert_eq!(check(&abort, None), Err(PhaseError::Claim));
    assert_eq!(check(&epoch.abort(0, 1, epoch.nothing(0)), None), Ok(()));
    assert_eq!(check(&epoch.abort(0, 1, epoch.nothing(0)), Some(&claim)), Err(PhaseError::Claim));
    assert_eq!(check(&epoch.abort(1, 1, epoch.nothing(1)), None), Err(PhaseError::Abort(AuthorityIndex(1))));
    // In a fallback the claim shows the block: whether the chain had resumed decides.
    let of_fallback = epoch.claim(1, 2, None);
    let hash = of_fallback.certificate.hash;
    let abort = epoch.abort(1, 1, (CommitIndex(2), hash));
    assert_eq!(epoch.phases().check_abort(1, &abort, Some(&of_fallback)), Ok(()));
    let bare = Claim { block: None, ..of_fallback };
    assert_eq!(epoch.phases().check_abort(1, &abort, Some(&bare)), Err(PhaseError::Claim));
}

/// K10: a fallback that did not resume decides nothing; the phase before does.
#[test]
fn nested_aborts_go_down_to_the_phase_that_resumed() {
    let epoch = Epoch::new(&[1, 1, 1, 1]);
    let all = [0, 1, 2];
    let below = epoch.aborted(0, &all, Some(epoch.claim(0, 5, None)));
    let point = epoch.phases().check_bundle(1, &bundle(vec![below.clone()])).expect("holds");
    let check = |aborted: Vec<AbortedPhase>| epoch.phases().check_bundle(2, &bundle(aborted));
    // Nothing certified in phase 1, or void blocks only.
    for void in [None, Some(epoch.claim(1, 2, None))] {
        let top = epoch.aborted(1, &all, void);
        assert_eq!(check(vec![top.clone(), below.clone()]), Ok(point));
        assert_eq!(check(vec![top]), Err(PhaseError::NoPoint), "the bundle below is missing");
    }
    // Its resume block was certified, and perhaps final: what it resumed from is inherited.
    let resumed = Resumed { at: CommitIndex(2), point };
    let at_resume = epoch.aborted(1, &all, Some(epoch.claim(1, 2, Some(resumed))));
    assert_eq!(check(vec![at_resume.clone()]), Ok(point));
    assert_eq!(check(vec![at_resume, below.clone()]), Err(PhaseError::Surplus));
    // Blocks past it were executed.
    let claim = epoch.claim(1, 4, Some(resumed));
    let expected = Point {
        identity: epoch.identity(1),
        index: CommitIndex(4),
        hash: claim.certificate.hash,
        global: GlobalIndex(107),
    };
    assert_eq!(check(vec![epoch.aborted(1, &all, Some(claim))]), Ok(expected));
    // Another bundle for phase 0, of other aborts, does as well: both lie on one chain.
    let other = epoch.aborted(0, &[1, 2, 3], Some(epoch.claim(0, 5, None)));
    assert_eq!(check(vec![epoch.aborted(1, &all, None), other]), Ok(point));
}

// One replica, authority 0 of four.

const TIMEOUT_MS: u64 = 1000;

pub(crate) fn with_fallback() -> Manifest {
    let mut manifest = manifest(&[1, 1, 1, 1]);
    manifest.fallbacks = vec![ModulePin { hash: ModuleHash([9; 32]), config: Vec::new() }];
    manifest.limits.stall_timeout_ms = TIMEOUT_MS;
    manifest
}

fn node() -> Node {
    let manifest = with_fallback();
    Node::recovered(recovery(&manifest), manifest, |_| {})
}

pub(crate) fn sent(step: &Step) -> impl Iterator<Item = &Message> {
    step.release.iter().filter_map(|effect| match effect {
        Effect::Send { message, .. } => Some(message.as_ref()),
        _ => None,
    })
}

fn status() -> Message {
    let (zero, hash) = (GlobalIndex(0), Digest::ZERO);
    Message::Status(Status {
        epoch: EpochNumber(0),
        phase: 0,
        last_final: zero,
        hash,
        executed: zero,
        state_root: hash,
    })
}

/// Time passes; `heard` say every now and then that they are there, and that a batch they are
/// asked about waits with them too. All that the node did.
pub(crate) fn elapse(node: &mut Node, ms: u64, heard: &[u8], hold: bool) -> Vec<Step> {
    let (until_ms, mut steps) = (node.now_ms + ms, Vec::new());
    while node.now_ms < until_ms {
        node.now_ms += 50;
        steps.push(node.steps(vec![Input::Wake]));
        let asked: Vec<_> = steps
            .last()
            .into_iter()
            .flat_map(sent)
            .filter_map(|message| match message {
                Message::Waiting { identity, batch, is_question: true } => Some((*identity, *batch)),
                _ => None,
            })
            .collect();
        for peer in heard {
            steps.push(node.hear(*peer, status()));
            for (identity, batch) in asked.iter().filter(|_| hold) {
                let (identity, batch) = (*identity, *batch);
                steps.push(node.hear(*peer, Message::Waiting { identity, batch, is_question: false }));
            }
        }
    }
    steps
}

fn suspects(steps: &[Step]) -> bool {
    steps.iter().flat_map(sent).any(|message| matches!(message, Message::Suspect { .. }))
}

pub(crate) fn aborts(steps: &[Step]) -> bool {
    let aborted = |write: &Persist| matches!(write, Persist::Guard(GuardUpdate::Aborted { .. }));
    steps.iter().any(|step| step.durable.iter().any(aborted))
}

#[test]
fn a_batch_that_a_quorum_holds_and_nobody_orders_raises_suspicion() {
    let mut node = node();
    node.submit(1);
    let steps = elapse(&mut node, TIMEOUT_MS - 100, &[1, 2, 3], true);
    assert!(!suspects(&steps), "not yet");
    let steps = elapse(&mut node, 300, &[1, 2, 3], true);
    assert!(suspects(&steps));
    assert!(!aborts(&steps), "one node alone gives nothing up");
}

/// f + 1 nodes are gone for a minute: that is no fault of the engine.
#[test]
fn an_outage_does_not_burn_a_good_engine() {
    let mut node = node();
    node.submit(1);
    assert!(!suspects(&elapse(&mut node, 60_000, &[1], true)));
    // They come back; the engine gets as long as ever.
    assert!(!suspects(&elapse(&mut node, TIMEOUT_MS - 200, &[1, 2, 3], true)));
    assert!(suspects(&elapse(&mut node, 500, &[1, 2, 3], true)));
}

#[test]
fn what_others_do_not_wait_for_raises_no_suspicion() {
    let mut node = node();
    node.submit(1);
    // They hold it as final, or not at all: this node is behind, or its link is.
    assert!(!suspects(&elapse(&mut node, 10 * TIMEOUT_MS, &[1, 2, 3], false)));
    // Nothing waits: an idle engine is no stalled one. (A node begins with a tick.)
    let mut idle = self::node();
    let steps = elapse(&mut idle, 600, &[1, 2, 3], true);
    let tick = steps.iter().flat_map(batches).next().expect("a tick");
    idle.commit(1, vec![tick.digest]);
    assert!(!suspects(&elapse(&mut idle, 10 * TIMEOUT_MS, &[1, 2, 3], true)));
}

/// Blocks of others become final at any rate: one batch that is left out is a stall all the same.
#[test]
fn censorship_and_blocks_just_in_time_are_stalls() {
    let mut node = node();
    node.submit(1);
    let mut all = Vec::new();
    for index in 1..=4 {
        let other = batch(&node.manifest, 1, index, index, Vec::new());
        node.hear(1, Message::Batches(vec![other.signed.clone()]));
        node.commit(index, vec![other.digest]);
        all.extend(elapse(&mut node, TIMEOUT_MS / 3, &[1, 2, 3], true));
    }
    assert!(suspects(&all));
}

#[test]
fn without_a_fallback_nothing_is_given_up() {
    let mut manifest = with_fallback();
    manifest.fallbacks.clear();
    let mut node = Node::recovered(recovery(&manifest), manifest, |_| {});
    node.submit(1);
    let identity = node.manifest.identity();
    for peer in 1..=3 {
        node.hear(peer, Message::Suspect { identity });
    }
    let steps = elapse(&mut node, 3 * TIMEOUT_MS, &[1, 2, 3], true);
    assert!(!suspects(&steps) && !aborts(&steps));
}

/// K16: a graduated epoch trusts its engine.
#[test]
fn a_graduated_epoch_is_never_aborted() {
    let manifest = Manifest { finality: Finality::Graduated, ..with_fallback() };
    let mut node = Node::recovered(recovery(&manifest), manifest, |_| {});
    node.submit(1);
    let identity = node.manifest.identity();
    for peer in 1..=3 {
        node.hear(peer, Message::Suspect { identity });
        node.hear(peer, abort_of(&node, peer, None));
    }
    let steps = elapse(&mut node, 3 * TIMEOUT_MS, &[1, 2, 3], true);
    assert!(!suspects(&steps) && !aborts(&steps));
}

/// An abort of phase 0 as a peer sends it.
pub(crate) fn abort_of(node: &Node, author: u8, claim: Option<Claim>) -> Message {
    let identity = node.manifest.identity();
    let claimed = claim.as_ref().map(|claim| (claim.certificate.index, claim.certificate.hash));
    let claimed = claimed.unwrap_or((CommitIndex(0), identity.digest()));
    let mut abort =
        Abort { author: AuthorityIndex(author.into()), claim: claimed, signature: Signature([0; 64]) };
    abort.signature = keys(author).sign_statement(CHAIN, Scope::Epoch(identity), &abort.statement());
    Message::Abort { identity, abort, claim: claim.map(Box::new) }
}

#[test]
fn suspicion_is_taken_back_by_silence_and_one_honest_abort_is_enough() {
    let mut node = node();
    let identity = node.manifest.identity();
    for peer in [1, 2] {
        node.hear(peer, Message::Suspect { identity });
    }
    assert!(!aborts(&elapse(&mut node, 2000, &[1, 2, 3], false)), "two of four are no quorum");
    node.hear(3, Message::Suspect { identity });
    assert!(!aborts(&elapse(&mut node, 300, &[1, 2, 3], false)), "the first two do not suspect any more");
    // One may be the liar of four, two are not.
    node.hear(1, abort_of(&node, 1, None));
    assert!(!aborts(&elapse(&mut node, 300, &[1, 2, 3], false)));
    node.hear(2, abort_of(&node, 2, None));
    assert!(aborts(&elapse(&mut node, 300, &[1, 2, 3], false)));
}

/// Commits block 1, orders block 2, and goes into the fallback with the aborts of others; the
/// record of the phase, and the bundle's batch.
fn into_fallback(node: &mut Node) -> (PhaseRecord, Digest) {
    let first = batch(&node.manifest, 1, 1, 1, Vec::new());
    node.hear(1, Message::Batches(vec![first.signed.clone()]));
    node.commit(1, vec![first.digest]);
    let second = batch(&node.manifest, 1, 2, 2, Vec::new());
    node.hear(1, Message::Batches(vec![second.signed.clone()]));
    let commit =
        engine::Commit { index: CommitIndex(2), batches: vec![second.digest], round: 0, leader: None };
    node.engine.will(vec![Action::Commit(commit)]);
    node.give(Input::Peer { key: keys(1).public_key(), up: true, rtt_us: 0 });
    // Others know nothing of a certificate; this node has that of block 1.
    abort_with_others(node)
}

/// Others abort and claim nothing, this node does, too; into the fallback with the three aborts.
pub(crate) fn abort_with_others(node: &mut Node) -> (PhaseRecord, Digest) {
    for peer in [1, 2] {
        node.hear(peer, abort_of(node, peer, None));
    }
    let steps = elapse(node, 300, &[1, 2, 3], false);
    let opened = steps.iter().flat_map(|step| &step.durable).find_map(|write| match write {
        Persist::PhaseOpened(record) => Some(record.as_ref().clone()),
        _ => None,
    });
    let opened = opened.expect("the aborts of three open phase 1");
    let made = steps.iter().flat_map(batches).find(|batch| batch.batch().bundles().next().is_some());
    let made = made.expect("the bundle is proposed");
    let wanted = steps
        .iter()
        .flat_map(|step| &step.release)
        .any(|effect| matches!(effect, Effect::StartEngine { pin, .. } if pin.hash == ModuleHash([9; 32])));
    assert!(wanted, "the fallback engine is asked for");
    node.engine = Scripted::default();
    let (identity, engine) = (opened.identity, Box::new(node.engine.clone()));
    node.give(Input::Engine { identity, engine, records: Vec::new() });
    (opened, made.digest)
}

/// The fallback's engine commits a block; what the node made of it.
pub(crate) fn order(node: &mut Node, index: u64, batches: Vec<Digest>) -> Step {
    let commit = engine::Commit { index: CommitIndex(index), batches, round: 0, leader: None };
    node.engine.will(vec![Action::Commit(commit)]);
    node.give(Input::Peer { key: keys(3).public_key(), up: true, rtt_us: 0 })
}

pub(crate) fn votes_in(identity: EpochIdentity, author: u8, index: u64, hash: Digest) -> Message {
    let vote = |round| {
        let statement = vote_statement(round, AuthorityIndex(author.into()), CommitIndex(index), hash);
        let signature = keys(author).sign_statement(CHAIN, Scope::Epoch(identity), &statement);
        Signed { statement, signature }
    };
    Message::Votes { identity, votes: Round::ALL.map(vote).into(), certificate: None }
}

pub(crate) fn side_block(step: &Step) -> std::sync::Arc<BlockRecord> {
    let found = step.durable.iter().find_map(|write| match write {
        Persist::SideBlock(record) => Some(record.clone()),
        _ => None,
    });
    found.expect("a block of the fallback")
}

/// What the step prepares for the first time.
pub(crate) fn prepares(step: &Step) -> Vec<u64> {
    let signed = step.durable.iter().filter_map(|write| match write {
        Persist::Guard(GuardUpdate::Prepared { index, .. }) => Some(index.0),
        _ => None,
    });
    signed.collect()
}

#[test]
fn an_aborted_epoch_goes_on_with_its_fallback_from_the_highest_certificate() {
    let mut node = node();
    let (opened, bundle) = into_fallback(&mut node);
    let first = node.executed[0].clone();
    // A block without a bundle is void, whatever else it names; it is not executed.
    let tick = batch(&node.manifest, 2, 1, 5, Vec::new());
    node.hear(2, Message::Batches(vec![tick.signed.clone()]));
    let step = order(&mut node, 1, vec![tick.digest]);
    let void = side_block(&step);
    assert_eq!((void.block.resumed, void.block.time_ms, prepares(&step)), (None, 0, vec![1]));
    // The first that holds the bundle resumes from what was certified: block 1.
    let step = order(&mut node, 2, vec![bundle]);
    let block = side_block(&step);
    let point = Point {
        identity: node.manifest.identity(),
        index: CommitIndex(1),
        hash: first.hash,
        global: GlobalIndex(1),
    };
    assert_eq!(block.block.resumed, Some(Resumed { at: CommitIndex(2), point }));
    assert_eq!(prepares(&step), [2]);
    let other = batch(&node.manifest, 2, 2, 6, Vec::new());
    node.hear(2, Message::Batches(vec![other.signed.clone()]));
    assert_eq!(prepares(&order(&mut node, 3, vec![other.digest])), [], "nothing past it before it is final");
    for peer in [1, 2] {
        node.hear(peer, votes_in(opened.identity, peer, 2, block.hash));
    }
    assert_eq!(node.replica.phase(), (1, 1));
    assert_eq!(node.executed.len(), 1, "void and resume blocks are not executed");
    // The batch of block 2 of the aborted phase was never final, and is ordered again.
    let again = batch(&node.manifest, 1, 2, 2, Vec::new());
    let step = order(&mut node, 4, vec![again.digest]);
    let goes_on = step.durable.iter().find_map(|write| match write {
        Persist::Block(record) if record.block.index == CommitIndex(4) => Some(record.clone()),
        _ => None,
    });
    let goes_on = goes_on.expect("block 4 of the fallback");
    for peer in [1, 2] {
        node.hear(peer, votes_in(opened.identity, peer, 4, goes_on.hash));
    }
    let globals: Vec<_> =
        node.executed.iter().map(|record| (record.global.0, record.block.index.0)).collect();
    assert_eq!(globals, [(1, 1), (2, 3), (3, 4)]);
    assert_eq!(node.executed[2].identity, opened.identity);
}

/// A crash after the abort, and one within the fallback: the node goes on where its disk is.
#[test]
fn a_restart_keeps_the_abort_and_the_phase() {
    let mut node = node();
    node.submit(1);
    for peer in [1, 2] {
        node.hear(peer, abort_of(&node, peer, None));
    }
    let mut guard = recovery(&node.manifest).guard;
    let mut record = None;
    let identity = node.manifest.identity();
    for step in elapse(&mut node, 300, &[1, 2], false) {
        for write in &step.durable {
            match write {
                Persist::Guard(update) => guard.apply(update),
                Persist::PhaseOpened(opened) => record = Some(opened.as_ref().clone()),
                _ => {}
            }
        }
        // Between the abort and the phase that it opens.
        if record.is_none() && guard.aborted.is_some() {
            let found = Recovery { fresh: false, guard: guard.clone(), ..recovery(&node.manifest) };
            let mut again = Node::recovered(found, node.manifest.clone(), |_| {});
            let said = elapse(&mut again, 200, &[1, 2], false);
            let repeats =
                |message: &Message| matches!(message, Message::Abort { identity: of, .. } if *of == identity);
            assert!(said.iter().flat_map(sent).any(repeats), "it is said again");
            assert!(!aborts(&said), "and was durable before");
        }
    }
    let record = record.expect("phase 1");
    assert_eq!((guard.phase, guard.identity, guard.aborted), (1, record.identity, None));
    // A guard that was not synced when the store was is given what it missed.
    let missed = Recovery { fresh: false, phases: vec![record.clone()], ..recovery(&node.manifest) };
    let late = Node::recovered(missed, node.manifest.clone(), |_| {});
    let state = late.replica.guard_state();
    assert_eq!((state.phase, state.identity, &state.opened), (1, record.identity, &guard.opened));
    let found = Recovery {
        fresh: false,
        guard,
        phases: vec![record.clone()],
        prepared_on_chain: Some(record.identity.digest()),
        ..recovery(&node.manifest)
    };
    let again = Node::recovered(found, node.manifest.clone(), |_| {});
    assert_eq!((again.replica.phase(), again.replica.identity()), ((1, 0), record.identity));
    assert!(again.replica.guard_state().start_count > 0);
}

/// A node that followed the resumption of a phase into it writes that the phase opened and that it
/// resumed; a crash may leave the first of these alone, with the guard in the phase before.
#[test]
fn an_opening_that_was_torn_off_its_proof_is_as_good_as_none() {
    let manifest = with_fallback();
    let (first, identity) = (manifest.identity(), fallback_identity(manifest.identity(), 0));
    let torn = PhaseRecord {
        number: EpochNumber(0),
        phase: 1,
        identity,
        failed: ModuleHash([0; 32]),
        reason: String::new(),
        opened: None,
        resumption: None,
        entered_at_ms: 0,
    };
    let found = Recovery { fresh: false, phases: vec![torn.clone()], ..recovery(&manifest) };
    let guard = found.guard.clone();
    let node = Node::recovered(found, manifest.clone(), |_| {});
    assert_eq!((node.replica.phase(), node.replica.identity()), ((0, 0), first));
    assert_eq!(node.replica.guard_state().identity, first);
    assert!(node.replica.guard_state().start_count > 0, "it signs");

    // Where the guard is in the phase, it was shown what opened it, and the node goes on in it.
    let guard = moult_core::guard::GuardState { phase: 1, identity, ..guard };
    let prepared_on_chain = Some(identity.digest());
    let found =
        Recovery { fresh: false, guard, phases: vec![torn], prepared_on_chain, ..recovery(&manifest) };
    let node = Node::recovered(found, manifest, |_| {});
    assert_eq!((node.replica.phase(), node.replica.identity()), ((1, 0), identity));
}

/// The node is behind when it hears of the fallback: it follows what is final, and no engine.
#[test]
fn a_node_that_was_away_follows_the_resumption() {
    let epoch = Epoch::new(&[1, 1, 1, 1]);
    let mut node = Node::recovered(recovery(&with_fallback()), with_fallback(), |_| {});
    let manifest = node.manifest.clone();
    let first = manifest.identity();
    let identity = fallback_identity(first, 0);
    let point =
        Point { identity: first, index: CommitIndex(0), hash: first.digest(), global: GlobalIndex(0) };
    let resumed = Some(Resumed { at: CommitIndex(1), point });
    let block = Block { index: CommitIndex(1), time_ms: 0, batches: Vec::new(), state_root: None, resumed };
    let hash = link(identity.digest(), block.body());
    let record = BlockRecord {
        epoch: EpochNumber(0),
        identity,
        global: GlobalIndex(0),
        parent: identity.digest(),
        hash,
        block,
    };
    let certificate = |round| {
        let vote = |author: u8| {
            let statement = vote_statement(round, AuthorityIndex(author.into()), CommitIndex(1), hash);
            let signature = keys(author).sign_statement(CHAIN, Scope::Epoch(identity), &statement);
            CertificateVote { author: AuthorityIndex(author.into()), index: CommitIndex(1), signature }
        };
        let votes = [1, 2, 3].map(vote).into();
        Certificate { round, identity, index: CommitIndex(1), hash, votes, bodies: Vec::new() }
    };
    let proof = |round| FinalityProof::Resumed {
        bodies: Vec::new(),
        resumption: Box::new(Resumption { phase: 1, block: record.clone(), certificate: certificate(round) }),
    };
    let blocks = |round| {
        Message::Blocks(Box::new(Blocks { blocks: Vec::new(), batches: Vec::new(), proof: proof(round) }))
    };
    // Certified is not final: it may still be dropped.
    node.hear(1, blocks(Round::Prepare));
    assert_eq!(node.replica.phase(), (0, 0));
    let step = node.hear(1, blocks(Round::Commit));
    assert_eq!(node.replica.phase(), (1, 1));
    let entered = |write: &Persist| matches!(write, Persist::Guard(GuardUpdate::Phase { phase: 1, .. }));
    assert!(step.durable.iter().any(entered), "the guard is closed for phase 0");
    // What it signed in phase 0 it never signs again.
    assert!(node.replica.guard_state().identity == identity && epoch.identity(1) != identity);
}

/// K12: a schedule behind the point of resumption is void, and so is what pins the failed engine.
#[test]
fn a_schedule_behind_the_point_is_cancelled() {
    let mut chain = Chain::new(&[1, 1, 1, 1]);
    chain.manifest = with_fallback();
    let keeps = chain.propose(2, |p| {
        p.modules.insert(World::Engine, ModulePin { hash: ModuleHash([77; 32]), config: Vec::new() });
    });
    let same = chain.propose(1, |_| {});
    let mut aborted = chain.ledger.clone();
    let cancelled: Vec<_> = aborted.resume(&chain.manifest, 1).iter().map(|record| record.id).collect();
    assert_eq!(cancelled, [same.id], "it pins the engine that was given up");
    assert!(aborted.open.contains_key(&keeps.id));
    chain.block((0..3).map(|voter| approve(&keeps, voter)).collect());
    let window = chain.ledger.index.next().0 / 10;
    chain.block((0..3).map(|place| ready(&keeps, place, place, window)).collect());
    assert!(chain.ledger.barrier().is_some());
    let cancelled = chain.ledger.resume(&chain.manifest, 1);
    assert_eq!(chain.ledger.barrier(), None);
    assert!(cancelled.iter().all(|r| r.state == moult_core::governance::ProposalState::Cancelled));
    // And a graduation.
    let mut chain = Chain::new(&[1, 1, 1, 1]);
    chain.manifest = with_fallback();
    chain.manifest.limits.graduate_after_blocks = Some(1);
    chain.idle(2);
    assert!(chain.ledger.barrier().is_some());
    chain.ledger.resume(&chain.manifest, 1);
    chain.idle(10);
    assert_eq!(chain.ledger.barrier(), None, "a fallback does not graduate");
}

/// K6: an honest node whose engine ordered another chain follows certificates, and still commits.
#[test]
fn a_node_on_a_private_chain_prepares_no_more_and_commits_what_is_certified() {
    let mut node = node();
    let (mine, theirs) =
        (batch(&node.manifest, 1, 1, 1, Vec::new()), batch(&node.manifest, 2, 1, 1, Vec::new()));
    for held in [&mine, &theirs] {
        node.hear(1, Message::Batches(vec![held.signed.clone()]));
    }
    let step = order(&mut node, 1, vec![mine.digest]);
    assert_eq!(prepares(&step), [1]);
    let epoch = Epoch::of(node.manifest.clone());
    let hash = Digest([5; 32]);
    let certificate = epoch.certificate(Round::Prepare, 0, &[1, 2, 3], 1, hash);
    let identity = node.manifest.identity();
    let Message::Votes { votes, .. } = votes(&node.manifest, 1, 1, hash) else { panic!("votes") };
    let message = Message::Votes { identity, votes, certificate: Some(Box::new(certificate.clone())) };
    let step = node.hear(1, message);
    let diverged = |effect: &Effect| matches!(effect, Effect::Event(moult_core::Event::Diverged { .. }));
    assert!(step.release.iter().any(diverged));
    let committed = step.durable.iter().find_map(|write| match write {
        Persist::Guard(GuardUpdate::Committed(claim)) => Some(claim.certificate.clone()),
        _ => None,
    });
    assert_eq!(committed, Some(certificate), "the certificate is durable with the commit");
    assert_eq!(prepares(&order(&mut node, 2, vec![theirs.digest])), []);
}
