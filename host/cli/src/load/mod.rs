//! A load on a cluster: its pace, its writers, and what is measured.

mod blocks;
mod pace;
mod recorder;
mod streamer;
mod swap;
mod usage;
mod writer;

pub(crate) use blocks::{BlockTimes, block_times};
pub(crate) use pace::{Pace, Random};
pub(crate) use recorder::{Recorder, Summary};
pub(crate) use streamer::Streamer;
pub(crate) use swap::{Swap, swap_to};
pub(crate) use usage::{Usage, Watching};
pub(crate) use writer::{Answer, Writer};
