//! Searches of the whole model, sound and with mistakes put in.

mod planted;
mod sound;
mod worlds;
