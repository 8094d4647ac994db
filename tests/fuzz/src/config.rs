//! Configurations of engines: text that an epoch pins, read by every node alike.

use moult_pbft::Config as Pbft;
use moult_raft::Config as Raft;

/// The whole input is the text, for each engine.
pub(crate) fn run(data: &[u8]) {
    let pbft = Pbft::parse(data);
    assert_eq!(Pbft::parse(data), pbft);
    match pbft {
        Ok(config) => {
            assert!(config.window >= 2 * config.checkpoint_interval && config.pipeline <= config.window);
            assert!(config.pipeline > 0 && config.checkpoint_interval > 0 && config.window <= 4_096);
            assert_eq!(Pbft::parse(pbft_text(&config).as_bytes()), Ok(config));
        }
        Err(reason) => is_short(&reason, data),
    }
    let raft = Raft::parse(data);
    assert_eq!(Raft::parse(data), raft);
    match raft {
        Ok(config) => {
            assert!(config.heartbeat_ms < config.lease_ms && config.lease_ms < config.election_timeout_ms);
            assert!(config.heartbeat_ms > 0 && (1..=config.window).contains(&config.pipeline));
            assert!((8..=4_096).contains(&config.window) && config.retained <= 4_096);
            assert_eq!(Raft::parse(raft_text(&config).as_bytes()), Ok(config));
        }
        Err(reason) => is_short(&reason, data),
    }
}

/// A reason says what is wrong, and repeats little of the input.
fn is_short(reason: &str, data: &[u8]) {
    assert!(!reason.is_empty() && reason.len() <= 512 + data.len(), "{} bytes", reason.len());
}

fn pbft_text(c: &Pbft) -> String {
    format!(
        "checkpoint_interval={}\nwindow={}\npipeline={}\npace_ms={}\nview_timeout_ms={}\nretransmit_ms={}\n",
        c.checkpoint_interval, c.window, c.pipeline, c.pace_ms, c.view_timeout_ms, c.retransmit_ms
    )
}

fn raft_text(c: &Raft) -> String {
    format!(
        "heartbeat_ms={}\nlease_ms={}\nelection_timeout_ms={}\nsend_timeout_ms={}\nround_trip_ms={}\n\
         pipeline={}\nwindow={}\nretained={}\n",
        c.heartbeat_ms,
        c.lease_ms,
        c.election_timeout_ms,
        c.send_timeout_ms,
        c.round_trip_ms,
        c.pipeline,
        c.window,
        c.retained
    )
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let lines = [
        "",
        "preset=slow",
        "preset=second\nwindow=16",
        "round_trip_ms=10\nsend_timeout_ms=100",
        "window=300\n",
    ];
    let wrong = [
        "pipeline=0",
        "window=08",
        "a=b",
        "=",
        "\n",
        "window=16\nwindow=16",
        "retained=99999999999999999999",
    ];
    let texts = [pbft_text(&Pbft::default()), raft_text(&Raft::default())];
    lines
        .iter()
        .chain(&wrong)
        .map(|text| text.as_bytes().to_vec())
        .chain(texts.map(String::into_bytes))
        .collect()
}
