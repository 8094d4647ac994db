//! The engine's configuration, as pinned in the epoch.
//!
//! Empty bytes mean the defaults. Otherwise UTF-8 lines `key=value`, each key at most
//! once, values in plain decimal; nothing else is accepted, so that two nodes never read
//! one configuration differently.

/// Bounds and times; the same on every node of an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Commits between two checkpoints (`checkpoint_interval`), 1 to 2,048.
    pub checkpoint_interval: u64,
    /// Sequence numbers above the stable checkpoint that may be in use (`window`), at
    /// least two intervals, so that one checkpoint may be missed; at most 4,096.
    pub window: u64,
    /// Proposals of the leader that are not executed yet (`pipeline`), 1 to `window`.
    pub pipeline: u64,
    /// While one of its proposals is not executed, the leader waits so many milliseconds
    /// before the next (`pace_ms`), at most 60,000, unless there is enough for a full one:
    /// under load batches gather, and signatures and syncs are paid for once for many.
    pub pace_ms: u64,
    /// Milliseconds without progress after which a leader is given up
    /// (`view_timeout_ms`), 1 to 3,600,000; doubles up to 32-fold.
    pub view_timeout_ms: u64,
    /// Milliseconds after which what is outstanding is sent again (`retransmit_ms`), 1 to
    /// 3,600,000.
    pub retransmit_ms: u64,
    /// A bug planted for the tests (`planted`).
    #[cfg(feature = "planted")]
    pub planted: Option<Planted>,
}

/// Bugs that the tests must catch.
#[cfg(feature = "planted")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    /// Certificates are accepted one unit of stake short of a quorum.
    QuorumMinusOne,
    /// View changes leave out what was prepared.
    LosePrepared,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            checkpoint_interval: 100,
            window: 256,
            pipeline: 8,
            pace_ms: 20,
            view_timeout_ms: 1_000,
            retransmit_ms: 300,
            #[cfg(feature = "planted")]
            planted: None,
        }
    }
}

impl Config {
    /// Reads the text form.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut config = Self::default();
        let text = std::str::from_utf8(bytes).map_err(|_| "the configuration is not UTF-8".to_owned())?;
        let mut seen: Vec<&str> = Vec::new();
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n').filter(|_| !text.is_empty()) {
            let Some((key, value)) = line.split_once('=') else {
                return Err(format!("expected `key=value`, found `{line}`"));
            };
            if seen.contains(&key) {
                return Err(format!("`{key}` is given twice"));
            }
            seen.push(key);
            config.set(key, value)?;
        }
        config.check()?;
        Ok(config)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "checkpoint_interval" => self.checkpoint_interval = number(key, value, 1, 2_048)?,
            "window" => self.window = number(key, value, 2, 4_096)?,
            "pipeline" => self.pipeline = number(key, value, 1, 4_096)?,
            "pace_ms" => self.pace_ms = number(key, value, 0, 60_000)?,
            "view_timeout_ms" => self.view_timeout_ms = number(key, value, 1, 3_600_000)?,
            "retransmit_ms" => self.retransmit_ms = number(key, value, 1, 3_600_000)?,
            #[cfg(feature = "planted")]
            "planted" => {
                self.planted = match value {
                    "quorum-minus-one" => Some(Planted::QuorumMinusOne),
                    "lose-prepared" => Some(Planted::LosePrepared),
                    _ => return Err(format!("no such planted bug: `{value}`")),
                }
            }
            _ => {
                return Err(format!(
                    "unknown key `{key}`; known: checkpoint_interval, window, pipeline, pace_ms, view_timeout_ms, retransmit_ms"
                ));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        if self.window < self.checkpoint_interval * 2 {
            return Err(format!(
                "`window` ({}) must be at least twice `checkpoint_interval` ({})",
                self.window, self.checkpoint_interval
            ));
        }
        if self.pipeline > self.window {
            return Err(format!("`pipeline` ({}) exceeds `window` ({})", self.pipeline, self.window));
        }
        Ok(())
    }

    /// Whether view changes leave out what was prepared.
    pub(crate) fn loses_prepared(&self) -> bool {
        #[cfg(feature = "planted")]
        return self.planted == Some(Planted::LosePrepared);
        #[cfg(not(feature = "planted"))]
        false
    }

    /// Stake that makes a certificate of prepares or commits.
    pub(crate) fn certificate_stake(&self, quorum: u64) -> u64 {
        #[cfg(feature = "planted")]
        if self.planted == Some(Planted::QuorumMinusOne) {
            return quorum.saturating_sub(1).max(1);
        }
        quorum
    }
}

fn number(key: &str, value: &str, min: u64, max: u64) -> Result<u64, String> {
    let plain = !value.is_empty()
        && value.len() <= 10
        && value.bytes().all(|b| b.is_ascii_digit())
        && (value.len() == 1 || !value.starts_with('0'));
    match value.parse::<u64>() {
        Ok(n) if plain && (min..=max).contains(&n) => Ok(n),
        _ => Err(format!("`{key}` must be a whole number from {min} to {max}, found `{value}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn empty_means_the_defaults_and_keys_override_them() {
        assert_eq!(Config::parse(b""), Ok(Config::default()));
        let config = Config::parse(b"pipeline=2\nview_timeout_ms=50\n").unwrap();
        assert_eq!((config.pipeline, config.view_timeout_ms, config.window), (2, 50, 256));
    }

    #[test]
    fn everything_else_is_refused_with_a_reason() {
        for (text, reason) in [
            ("pipelines=2", "unknown key"),
            ("pipeline", "key=value"),
            ("pipeline=2\npipeline=3", "twice"),
            ("pipeline=02", "whole number"),
            ("pipeline=+2", "whole number"),
            ("pipeline=", "whole number"),
            ("pipeline=99999999999999999999999", "whole number"),
            ("pipeline=0", "whole number"),
            ("\n", "key=value"),
            ("pipeline=2\n\n", "key=value"),
            ("window=150", "twice"),
            ("pipeline=300", "exceeds"),
        ] {
            let error = Config::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
        assert!(Config::parse(&[0xff]).is_err());
    }
}
