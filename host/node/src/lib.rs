//! moult-node
