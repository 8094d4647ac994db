//! What every consensus engine must pass.
