//! moult-pbft
