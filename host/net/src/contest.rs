//! Which of two connections between the same keys stays, and when two of them mean that a
//! key is in use at two places. Pure: the time is an argument.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Decides between a live connection and a new one.
///
/// `new_by_smaller`, `old_by_smaller`: whether the smaller of the two keys dialled.
pub(crate) fn new_one_stays(
    new_by_smaller: bool,
    old_by_smaller: bool,
    old_age: Duration,
    settle: Duration,
) -> bool {
    new_by_smaller || !old_by_smaller || old_age >= settle
}

/// Remembers from where a peer's live connections were taken over.
///
/// A restart moves a peer from one address to another once. Only when it goes back to an
/// address that it left within the window, while the connection it leaves is alive, are two
/// processes taking turns.
#[derive(Debug, Default)]
pub(crate) struct Takeovers(VecDeque<(Instant, SocketAddr)>);

impl Takeovers {
    /// Upon a live connection at `from` replaced by one at `to`: the addresses of an alarm.
    pub(crate) fn note(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        now: Instant,
        window: Duration,
    ) -> Option<Vec<SocketAddr>> {
        while self.0.front().is_some_and(|(at, _)| now.duration_since(*at) > window) {
            self.0.pop_front();
        }
        if from == to {
            return None;
        }
        let returns = self.0.iter().any(|(_, left)| *left == to);
        if returns {
            self.0.clear();
            return Some(vec![from, to]);
        }
        self.0.push_back((now, from));
        if self.0.len() > REMEMBERED_MAX {
            self.0.pop_front();
        }
        None
    }
}

const REMEMBERED_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(5);

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn both_ends_of_a_race_choose_the_smaller_keys_connection_in_either_order() {
        let young = Duration::from_millis(20);
        assert!(new_one_stays(true, false, young, SETTLE));
        assert!(!new_one_stays(false, true, young, SETTLE));
    }

    #[test]
    fn a_restarted_peer_takes_over() {
        assert!(new_one_stays(false, true, SETTLE, SETTLE));
        assert!(new_one_stays(true, true, Duration::ZERO, SETTLE));
        assert!(new_one_stays(false, false, Duration::ZERO, SETTLE));
    }

    #[test]
    fn a_restart_from_another_port_is_no_alarm_and_taking_turns_is() {
        let (start, window) = (Instant::now(), Duration::from_secs(30));
        let mut takeovers = Takeovers::default();
        assert_eq!(takeovers.note(at(1), at(2), start, window), None);
        assert_eq!(takeovers.note(at(2), at(3), start, window), None);
        assert_eq!(takeovers.note(at(3), at(3), start, window), None);
        assert_eq!(takeovers.note(at(3), at(2), start, window), Some(vec![at(3), at(2)]));
        // Forgotten afterwards, and after the window.
        assert_eq!(takeovers.note(at(2), at(3), start, window), None);
        assert_eq!(takeovers.note(at(3), at(2), start + window * 2, window), None);
    }
}
