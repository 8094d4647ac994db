//! Scenarios over a real cluster; each reads as a story.

mod abuse;
mod application;
mod basics;
mod broken;
mod certified;
mod change;
mod committee;
mod crash;
mod graduated;
mod hostile;
mod input;
mod moving;
mod partition;
mod power;
mod proposals;
mod raft;
mod recover;
mod refusal;
mod revert;
mod sleeper;
mod stop;
mod storm;
mod swap;
mod watch;
