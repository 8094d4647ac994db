//! What is written, and by which node: the same for every system.

use bytes::Bytes;

/// Keys are so long.
pub const KEY_BYTES: usize = 20;

/// The puts of one client: distinct keys in no order, values that do not compress.
#[derive(Debug)]
pub struct Work {
    /// Phase and client, so that no two clients of a run share a key.
    base: u64,
    next: u64,
    value_bytes: usize,
}

impl Work {
    /// Client `client` of phase `phase`; each may have 2^32 puts.
    pub fn new(phase: u16, client: u16, value_bytes: usize) -> Self {
        Self { base: u64::from(phase) << 48 | u64::from(client) << 32, next: 0, value_bytes }
    }

    /// Key and value of the next put, and its number with this client.
    pub fn put(&mut self) -> (Vec<u8>, Bytes, u64) {
        let number = self.next;
        self.next += 1;
        let mut state = mix(self.base | number & 0xffff_ffff);
        let key = format!("put/{state:016x}").into_bytes();
        let mut value = Vec::with_capacity(self.value_bytes + 8);
        while value.len() < self.value_bytes {
            state = mix(state);
            value.extend_from_slice(&state.to_le_bytes());
        }
        value.truncate(self.value_bytes);
        (key, value.into(), number)
    }
}

/// Which node gets a client's put: each client goes through all nodes in turn, and clients
/// begin at different ones. So a third of the load is at the leader, whoever that is.
pub fn node_of(client: u16, number: u64, nodes: usize) -> usize {
    ((u64::from(client) + number) % nodes as u64) as usize
}

/// Spreads numbers over all of 64 bits, none twice (splitmix64).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_key_comes_twice_and_sizes_are_as_asked() {
        let mut keys = BTreeSet::new();
        for (phase, client) in [(0, 0), (0, 1), (1, 0), (u16::MAX, u16::MAX)] {
            let mut work = Work::new(phase, client, 250);
            for expected in 0..1000 {
                let (key, value, number) = work.put();
                assert_eq!((key.len(), value.len(), number), (KEY_BYTES, 250, expected));
                assert!(keys.insert(key));
            }
        }
    }

    #[test]
    fn values_do_not_repeat_themselves() {
        let (_, value, _) = Work::new(3, 4, 256).put();
        let words: BTreeSet<&[u8]> = value.chunks(8).collect();
        assert_eq!(words.len(), 32);
        let distinct: BTreeSet<u8> = value.iter().copied().collect();
        assert!(distinct.len() > 128, "{} different bytes", distinct.len());
    }

    #[test]
    fn every_client_goes_through_all_nodes_and_every_node_gets_the_same() {
        for clients in [1, 64, 256] {
            let mut puts = [0; 3];
            for client in 0..clients {
                let nodes: BTreeSet<usize> = (7..10).map(|number| node_of(client, number, 3)).collect();
                assert_eq!(nodes.len(), 3, "client {client}");
                (0..30).for_each(|number| puts[node_of(client, number, 3)] += 1);
            }
            assert_eq!(puts, [puts[0]; 3], "{clients} clients");
        }
        let first: BTreeSet<usize> = (0..3).map(|client| node_of(client, 0, 3)).collect();
        assert_eq!(first.len(), 3, "they do not all begin at one node");
    }
}
