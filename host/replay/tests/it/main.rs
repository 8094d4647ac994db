//! Records, replays and shadow runs over real engines.

mod live;
mod net;
mod records;
mod shadows;
