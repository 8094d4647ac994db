//! moult-store
