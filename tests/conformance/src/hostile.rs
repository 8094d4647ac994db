//! Damage to bytes.

use crate::rng::Rng;

/// Changes bytes here and there, cuts some off, or adds some.
pub(crate) fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    match rng.range(0, 5) {
        0 => bytes.truncate(rng.index(bytes.len() + 1)),
        1 => (0..rng.range(1, 40)).for_each(|_| bytes.push(rng.number() as u8)),
        2 => *bytes = (0..rng.range(0, 300)).map(|_| rng.number() as u8).collect(),
        3 if bytes.len() >= 8 => {
            // A length or a number at its edges.
            let at = rng.index(bytes.len() - 7);
            let edge = rng.pick(&[0, 1, u64::MAX, 1 << 63, u64::from(u32::MAX), 1 << 40]);
            bytes[at..at + 8].copy_from_slice(&edge.to_be_bytes());
        }
        _ => {
            for _ in 0..rng.range(1, 4) {
                let at = rng.index(bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= rng.range(1, 255) as u8;
                }
            }
        }
    }
}
