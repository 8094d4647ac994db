//! Runs of whole committees, scenarios of the paper, and messages that must be refused.
