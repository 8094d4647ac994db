//! The engine's configuration, as pinned in the epoch.
//!
//! Empty bytes mean the defaults. Otherwise UTF-8 lines `key=value`, each key at most
//! once, values in plain decimal (`preset` is a name); nothing else is accepted, so that
//! two nodes never read one configuration differently. Keys override the preset, wherever
//! it stands.

/// Times and bounds; the same on every node of an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Milliseconds between two heartbeats of a leader (`heartbeat_ms`), 10 to 30 % of
    /// `lease_ms`: several may be lost before the lease runs out.
    pub heartbeat_ms: u64,
    /// A leader that has not heard from a quorum for this many milliseconds steps down, and
    /// who has heard from a leader within them votes for nobody else (`lease_ms`); below
    /// `election_timeout_ms`, so that whoever gives a leader up finds the others ready.
    pub lease_ms: u64,
    /// Milliseconds of silence after which a leader is given up (`election_timeout_ms`), 1
    /// to 3,600,000; up to half of it is added, so that nodes do not rise together.
    pub election_timeout_ms: u64,
    /// Milliseconds without an answer after which entries are sent again
    /// (`send_timeout_ms`), from `heartbeat_ms` to `election_timeout_ms`. Has to be more
    /// than twice the round trip; half of the lease by default.
    pub send_timeout_ms: u64,
    /// The round trip as measured before this configuration was proposed, in milliseconds
    /// (`round_trip_ms`); 0 if nobody did. A send timeout of at most twice that is refused.
    pub round_trip_ms: u64,
    /// Entries of the leader that are not committed yet (`pipeline`), 1 to `window`. Small,
    /// so that batches gather into larger entries under load.
    pub pipeline: u64,
    /// While an entry is not committed, the leader gathers batches for this many milliseconds
    /// before the next (`pace_ms`), at most 60,000, unless there is enough for a full one:
    /// each entry costs every node syncs and signatures, however small it is. 0: it never
    /// waits for more.
    pub pace_ms: u64,
    /// Entries above the last final one, and entries on their way to one follower
    /// (`window`), 8 to 4,096.
    pub window: u64,
    /// Final entries that stay in the log (`retained`), 0 to 4,096: for followers that are a
    /// little behind (the others wait for their hosts to catch up), and since after a loss of
    /// power the host may not know any more that they are final.
    pub retained: u64,
    /// A bug planted for the tests (`planted`).
    #[cfg(feature = "planted")]
    pub planted: Option<Planted>,
}

/// Bugs that the tests must catch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(
    not(feature = "planted"),
    allow(dead_code, unreachable_pub, reason = "only asked for, never there")
)]
pub enum Planted {
    /// Votes for whoever asks, also twice in a term.
    VoteTwice,
    /// Entries are committed one unit of stake short of a quorum.
    QuorumMinusOne,
    /// Entries of earlier terms are committed by counting (figure 8 of the paper).
    CountOldTerms,
    /// The vote is not in the record of the term.
    ForgetVote,
    /// Votes are given without a look at the candidate's log.
    SkipLogCheck,
    /// Entries are acknowledged whose batches are not held.
    AckUnheld,
    /// Entries are acknowledged and not made durable.
    AckVolatile,
    /// Every append cuts off what lies behind it, conflict or not.
    CutAlways,
    /// What is written anew when records are dropped leaves out the entries.
    CompactLosesEntries,
    /// Pre-votes are given in spite of a live leader, and votes follow.
    IgnoreLease,
    /// What was final when the node stopped is committed again.
    CommitFinalAgain,
    /// Batches in the log are proposed again by the next leader.
    ProposeTwice,
}

#[cfg(feature = "planted")]
const PLANTED: [(&str, Planted); 12] = [
    ("vote-twice", Planted::VoteTwice),
    ("quorum-minus-one", Planted::QuorumMinusOne),
    ("count-old-terms", Planted::CountOldTerms),
    ("forget-vote", Planted::ForgetVote),
    ("skip-log-check", Planted::SkipLogCheck),
    ("ack-unheld", Planted::AckUnheld),
    ("ack-volatile", Planted::AckVolatile),
    ("cut-always", Planted::CutAlways),
    ("compact-loses-entries", Planted::CompactLosesEntries),
    ("ignore-lease", Planted::IgnoreLease),
    ("commit-final-again", Planted::CommitFinalAgain),
    ("propose-twice", Planted::ProposeTwice),
];

/// Times that fit together, by block time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preset {
    /// Block times under 1 s (`subsecond`): heartbeat 50 ms, election timeout 250 ms.
    Subsecond,
    /// Block times from 1 s (`second`): heartbeat 100 ms, election timeout 500 ms.
    Second,
    /// Block times over 5 s (`slow`): heartbeat 1 s, election timeout 5 s.
    Slow,
}

impl Preset {
    fn parse(name: &str) -> Result<Self, String> {
        match name {
            "subsecond" => Ok(Self::Subsecond),
            "second" => Ok(Self::Second),
            "slow" => Ok(Self::Slow),
            _ => Err(format!("`preset` must be subsecond, second or slow, found `{name}`")),
        }
    }

    /// The preset's configuration: a lease of four heartbeats, an election timeout of five.
    pub fn config(self) -> Config {
        let heartbeat_ms = match self {
            Self::Subsecond => 50,
            Self::Second => 100,
            Self::Slow => 1_000,
        };
        Config {
            heartbeat_ms,
            lease_ms: 4 * heartbeat_ms,
            election_timeout_ms: 5 * heartbeat_ms,
            send_timeout_ms: 2 * heartbeat_ms,
            round_trip_ms: 0,
            pipeline: 8,
            pace_ms: 10,
            window: 1_024,
            retained: 256,
            #[cfg(feature = "planted")]
            planted: None,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Preset::Subsecond.config()
    }
}

impl Config {
    /// Reads the text form.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "the configuration is not UTF-8".to_owned())?;
        let mut lines: Vec<(&str, &str)> = Vec::new();
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n').filter(|_| !text.is_empty()) {
            let Some((key, value)) = line.split_once('=') else {
                return Err(format!("expected `key=value`, found `{line}`"));
            };
            if lines.iter().any(|(known, _)| *known == key) {
                return Err(format!("`{key}` is given twice"));
            }
            lines.push((key, value));
        }
        let value_of = |name: &str| lines.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let mut config =
            value_of("preset").map(Preset::parse).transpose()?.unwrap_or(Preset::Subsecond).config();
        for (key, value) in &lines {
            config.set(key, value)?;
        }
        if value_of("send_timeout_ms").is_none() {
            config.send_timeout_ms = (config.lease_ms / 2).max(config.heartbeat_ms);
        }
        config.check()?;
        Ok(config)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "preset" => {}
            "heartbeat_ms" => self.heartbeat_ms = number(key, value, 1, 3_600_000)?,
            "lease_ms" => self.lease_ms = number(key, value, 1, 3_600_000)?,
            "election_timeout_ms" => self.election_timeout_ms = number(key, value, 1, 3_600_000)?,
            "send_timeout_ms" => self.send_timeout_ms = number(key, value, 1, 3_600_000)?,
            "round_trip_ms" => self.round_trip_ms = number(key, value, 0, 3_600_000)?,
            "pipeline" => self.pipeline = number(key, value, 1, 4_096)?,
            "pace_ms" => self.pace_ms = number(key, value, 0, 60_000)?,
            "window" => self.window = number(key, value, 8, 4_096)?,
            "retained" => self.retained = number(key, value, 0, 4_096)?,
            #[cfg(feature = "planted")]
            "planted" => {
                let known = PLANTED.iter().find(|(name, _)| *name == value);
                let (_, bug) = known.ok_or_else(|| format!("no such planted bug: `{value}`"))?;
                self.planted = Some(*bug);
            }
            _ => {
                return Err(format!(
                    "unknown key `{key}`; known: preset, heartbeat_ms, lease_ms, election_timeout_ms, \
                     send_timeout_ms, round_trip_ms, pipeline, pace_ms, window, retained"
                ));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let (heartbeat, lease, election) = (self.heartbeat_ms, self.lease_ms, self.election_timeout_ms);
        if heartbeat * 10 < lease || heartbeat * 10 > lease * 3 {
            return Err(format!(
                "`heartbeat_ms` ({heartbeat}) must be 10 to 30 % of `lease_ms` ({lease}): {} to {}",
                lease.div_ceil(10),
                lease * 3 / 10
            ));
        }
        if lease >= election {
            return Err(format!("`lease_ms` ({lease}) must be below `election_timeout_ms` ({election})"));
        }
        let (send, round_trip) = (self.send_timeout_ms, self.round_trip_ms);
        if send < heartbeat || send > election {
            return Err(format!(
                "`send_timeout_ms` ({send}) must lie between `heartbeat_ms` ({heartbeat}) and \
                 `election_timeout_ms` ({election})"
            ));
        }
        if self.is_too_tight(round_trip * 1_000) {
            return Err(format!(
                "`send_timeout_ms` ({send}) must be above twice `round_trip_ms` ({round_trip}): what was sent \
                 would be sent again before it can be answered"
            ));
        }
        if self.pipeline > self.window {
            return Err(format!("`pipeline` ({}) exceeds `window` ({})", self.pipeline, self.window));
        }
        Ok(())
    }

    /// Whether entries would be sent again before they can be answered, at this round trip.
    pub fn is_too_tight(&self, round_trip_us: u64) -> bool {
        round_trip_us > 0 && self.send_timeout_ms.saturating_mul(1_000) <= round_trip_us.saturating_mul(2)
    }

    /// Whether this build has that bug and the configuration asks for it.
    #[cfg_attr(not(feature = "planted"), allow(clippy::unused_self, reason = "there is none to ask for"))]
    pub(crate) fn has(&self, bug: Planted) -> bool {
        #[cfg(feature = "planted")]
        return self.planted == Some(bug);
        #[cfg(not(feature = "planted"))]
        {
            let _ = bug;
            false
        }
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
    use super::{Config, Preset};

    #[test]
    fn empty_means_the_defaults_and_keys_override_them() {
        assert_eq!(Config::parse(b""), Ok(Config::default()));
        let config = Config::parse(b"pipeline=2\nelection_timeout_ms=300\n").unwrap();
        assert_eq!((config.pipeline, config.election_timeout_ms, config.heartbeat_ms), (2, 300, 50));
    }

    #[test]
    fn presets_fit_their_block_times_and_give_way_to_keys() {
        for (name, preset, heartbeat_ms, election_timeout_ms) in [
            ("subsecond", Preset::Subsecond, 50, 250),
            ("second", Preset::Second, 100, 500),
            ("slow", Preset::Slow, 1_000, 5_000),
        ] {
            let config = Config::parse(format!("preset={name}").as_bytes()).unwrap();
            assert_eq!(config, preset.config());
            assert_eq!(
                (config.heartbeat_ms, config.election_timeout_ms),
                (heartbeat_ms, election_timeout_ms)
            );
            let ratio = config.heartbeat_ms * 100 / config.lease_ms;
            assert!((10..=30).contains(&ratio) && config.lease_ms < config.election_timeout_ms);
        }
        let config = Config::parse(b"lease_ms=600\npreset=second\nelection_timeout_ms=700").unwrap();
        assert_eq!((config.heartbeat_ms, config.lease_ms, config.send_timeout_ms), (100, 600, 300));
    }

    #[test]
    fn everything_else_is_refused_with_the_rule_and_the_numbers() {
        for (text, reason) in [
            ("pipelines=2", "unknown key"),
            ("pipeline", "key=value"),
            ("pipeline=2\npipeline=3", "twice"),
            ("preset=second\npreset=second", "twice"),
            ("preset=fast", "subsecond, second or slow"),
            ("pipeline=02", "whole number"),
            ("pipeline=+2", "whole number"),
            ("pipeline=", "whole number"),
            ("pipeline=99999999999999999999999", "whole number"),
            ("pipeline=0", "whole number"),
            ("\n", "key=value"),
            ("pipeline=2\n\n", "key=value"),
            ("heartbeat_ms=19", "`heartbeat_ms` (19) must be 10 to 30 % of `lease_ms` (200): 20 to 60"),
            ("heartbeat_ms=61", "10 to 30 %"),
            ("lease_ms=250\nheartbeat_ms=50", "`lease_ms` (250) must be below `election_timeout_ms` (250)"),
            ("send_timeout_ms=49", "between `heartbeat_ms` (50)"),
            ("send_timeout_ms=251", "between `heartbeat_ms` (50)"),
            ("round_trip_ms=50", "`send_timeout_ms` (100) must be above twice `round_trip_ms` (50)"),
            ("pipeline=9\nwindow=8", "exceeds"),
            ("planted=nonsense", if cfg!(feature = "planted") { "no such" } else { "unknown key" }),
        ] {
            let error = Config::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
        assert!(Config::parse(&[0xff]).is_err());
        assert!(Config::parse(b"round_trip_ms=49").is_ok());
    }
}
