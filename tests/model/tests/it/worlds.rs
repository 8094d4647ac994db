//! The worlds that are searched.

use moult_model::blocks::{Body, Size};

/// One fallback. The barrier lies one block above the decision, so that a resume point may be between the two.
pub(crate) const BARRIER: Size = Size {
    lengths: [2, 2, 0],
    first: &[Body::Plain(1), Body::Decide(1)],
    later: &[Body::Plain(1), Body::Plain(2)],
    distance: 1,
    second_epoch: 1,
};

/// Two fallbacks, no epoch change: resume points that are inherited, or looked for one phase further down.
pub(crate) const FALLBACKS: Size = Size {
    lengths: [1, 2, 1],
    first: &[Body::Plain(1), Body::Plain(2)],
    later: &[Body::Plain(1), Body::Plain(2)],
    distance: 0,
    second_epoch: 0,
};

/// Two fallbacks that may both have to close the epoch; two decisions that lead to different epochs. The decision is
/// the barrier.
pub(crate) const CLOSING: Size = Size {
    lengths: [2, 2, 1],
    first: &[Body::Decide(1), Body::Decide(2)],
    later: &[Body::Plain(1)],
    distance: 0,
    second_epoch: 1,
};

/// As short as can be with something past the barrier.
pub(crate) const PAST_BARRIER: Size = Size {
    lengths: [2, 0, 0],
    first: &[Body::Decide(1)],
    later: &[Body::Plain(1)],
    distance: 0,
    second_epoch: 1,
};

/// Two fallbacks and an epoch change in one: resume points before, between and at decision and barrier, each of which
/// may be inherited.
pub(crate) const WHOLE: Size = Size {
    lengths: [2, 1, 1],
    first: &[Body::Plain(1), Body::Decide(1)],
    later: &[Body::Plain(1)],
    distance: 1,
    second_epoch: 1,
};
