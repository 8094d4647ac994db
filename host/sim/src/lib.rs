//! moult-sim
