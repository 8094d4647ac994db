//! moult-net
