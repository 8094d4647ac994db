//! moult-tests
