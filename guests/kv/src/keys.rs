//! Where the store keeps what in the replicated map.

/// First byte of every user's key.
pub const USER: u8 = b'k';

/// Version of the layout, one byte.
pub const SCHEMA: &[u8] = b"mschema";

/// Number of user keys as a big-endian u64; only in layout 2.
pub const COUNT: &[u8] = b"mcount";

/// The key of the map for a user's key.
pub fn user(key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(key.len() + 1);
    full.push(USER);
    full.extend_from_slice(key);
    full
}
