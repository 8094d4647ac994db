//! moult-core
