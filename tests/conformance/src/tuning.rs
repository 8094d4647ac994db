//! The configurations that an engine is run with.
//!
//! An engine that is not known by name runs with the empty configuration, which every
//! engine takes to mean its defaults. For the others there are files in `tuning/`: short
//! timeouts and small bounds, so that a short run reaches what a long one would.

/// Configurations of one engine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tuning {
    /// What scenarios run with.
    pub plain: Vec<u8>,
    /// What seeds pick from, besides `plain`.
    pub variants: Vec<Vec<u8>>,
    /// What the engine must refuse with `bad-config`.
    pub malformed: Vec<Vec<u8>>,
}

/// By name of the engine. Blocks are separated by lines `[plain]`, `[variant]`, `[malformed]`.
const KNOWN: &[(&str, &str)] = &[
    ("pbft", include_str!("../tuning/pbft.txt")),
    ("pbft-reverse", include_str!("../tuning/pbft.txt")),
    ("raft", include_str!("../tuning/raft.txt")),
];

impl Tuning {
    /// The configurations that go with a name.
    pub fn of(name: &str) -> Self {
        KNOWN.iter().find(|(known, _)| *known == name).map(|(_, text)| Self::parse(text)).unwrap_or_default()
    }

    /// The same, with a line in front of every configuration that must be accepted.
    #[must_use]
    pub fn with_line(mut self, line: &str) -> Self {
        for config in std::iter::once(&mut self.plain).chain(&mut self.variants) {
            config.splice(0..0, format!("{line}\n").into_bytes());
        }
        self
    }

    /// The configuration of a draw; 0 is the plain one.
    pub fn draw(&self, number: u64) -> &[u8] {
        let place = number % (self.variants.len() as u64 + 1);
        match place.checked_sub(1) {
            Some(variant) => &self.variants[variant as usize],
            None => &self.plain,
        }
    }

    fn parse(text: &str) -> Self {
        let mut tuning = Self::default();
        for block in text.split("\n[").map(|block| block.trim_start_matches('[')) {
            let Some((kind, body)) = block.split_once(']') else { continue };
            let mut body = body.trim_matches('\n').to_owned();
            if !body.is_empty() {
                body.push('\n');
            }
            match kind {
                "plain" => tuning.plain = body.into_bytes(),
                "variant" => tuning.variants.push(body.into_bytes()),
                _ => tuning.malformed.push(body.into_bytes()),
            }
        }
        tuning
    }
}

#[cfg(test)]
mod tests {
    use super::Tuning;

    #[test]
    fn the_files_hold_what_their_blocks_say() {
        let tuning = Tuning::of("pbft");
        assert!(tuning.plain.starts_with(b"checkpoint_interval="));
        assert!(tuning.variants.len() >= 4 && tuning.variants.contains(&Vec::new()));
        assert!(tuning.malformed.contains(&b"pipeline=02\n".to_vec()));
        assert_eq!(tuning.draw(0), tuning.plain);
        assert_eq!(Tuning::of("unheard of"), Tuning::default());
    }
}
