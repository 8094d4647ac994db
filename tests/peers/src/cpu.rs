//! CPU time of processes, as the system accounts for it.

use std::time::Duration;

/// The system's unit of CPU time for programs, on every Linux.
const TICKS_IN_SECOND: u64 = 100;

/// User and system time of a process so far, in steps of 10 ms; nothing if it has ended.
pub fn used(pid: u32) -> Option<Duration> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in parentheses may hold spaces. Behind it: the state, and as fields 14 and 15 the
/// times.
fn parse(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let user: u64 = fields.nth(10)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system).saturating_mul(1000 / TICKS_IN_SECOND)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_the_ended_are_seen() {
        assert_eq!(parse("7 (a ) b) S 1 1 1 0 -1 4 1 0 0 0 150 50 0 0"), Some(Duration::from_secs(2)));
        assert_eq!(parse("7 (etcd) Z 1 1 1 0 -1 4 1 0 0 0 150 50 0 0"), None);
        assert_eq!(parse("7 (etcd) S 1"), None);
        let before = used(std::process::id()).expect("this process runs");
        let mut sum = 0_u64;
        while used(std::process::id()).expect("this process runs") <= before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }
}
