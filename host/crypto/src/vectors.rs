//! Reading test vectors; where they come from is in `vectors/README.md`.

/// Bytes of hex digits, with `0x` before them or not.
pub(crate) fn bytes(text: &str) -> Vec<u8> {
    hex::decode(text.trim_start_matches("0x")).expect("hex digits")
}

/// So many bytes of hex digits.
pub(crate) fn fixed<const N: usize>(text: &str) -> [u8; N] {
    bytes(text).try_into().expect("the length of the vector")
}
