//! The scenarios that come with this crate.

use super::{Scenario, parse};

/// Every file of `scenarios/`, by name; a test compares the two.
pub(crate) const FILES: &[(&str, &str)] = &[];

/// All scenarios of this crate.
///
/// # Panics
/// If one of them does not parse; a test shows that all do.
pub fn builtin() -> Vec<Scenario> {
    let read =
        |(name, text): &(&str, &str)| parse(text).unwrap_or_else(|error| panic!("{name}.scn: {error}"));
    FILES.iter().map(read).collect()
}
