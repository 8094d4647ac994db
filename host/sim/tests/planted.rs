//! Planted bugs are caught.
