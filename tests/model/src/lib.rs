//! An exhaustive small model of the finality kernel's rules K1-K19: every state that a few nodes can reach.
//!
//! [`blocks`] lists all the blocks that engines may order in a world of bounded size, and what the rules say of each
//! from its chain alone; [`model`] lets nodes sign in all possible ways; [`mistakes`] are put in on purpose. The
//! specification in `tests/spec` says the same in longer chains and visits a sample of the states.
//!
//! Not here: time and liveness, the window K (a barrier is taken to be known to who prepares on its chain, which is
//! what the window is for), graduated epochs, governance, links between votes, stake, payloads.

pub mod blocks;
pub mod mistakes;
pub mod model;
