//! moult-module
