//! What the system says of this process; nothing where it says nothing.

/// Numbers from `/proc/self`.
#[derive(Default)]
pub(super) struct Process {
    pub(super) resident_bytes: i64,
    pub(super) open_fds: i64,
    pub(super) max_fds: i64,
    pub(super) cpu_seconds: f64,
    pub(super) threads: i64,
}

/// The system's unit of CPU time for programs, on every Linux.
const TICKS_IN_SECOND: f64 = 100.0;

impl Process {
    pub(super) fn take() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let status = read("/proc/self/status");
        Self {
            resident_bytes: after(&status, "VmRSS:").map_or(0, |kib| kib.saturating_mul(1024)),
            threads: after(&status, "Threads:").unwrap_or(0),
            open_fds: std::fs::read_dir("/proc/self/fd")
                .map_or(0, |entries| i64::try_from(entries.count()).unwrap_or(i64::MAX)),
            max_fds: after(&read("/proc/self/limits"), "Max open files").unwrap_or(0),
            cpu_seconds: cpu_seconds(&read("/proc/self/stat")),
        }
    }
}

/// The number behind the name that a line begins with.
fn after(text: &str, name: &str) -> Option<i64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// User and system time: fields 14 and 15; the name in parentheses may hold spaces.
fn cpu_seconds(stat: &str) -> f64 {
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
    ticks.sum::<u64>() as f64 / TICKS_IN_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen() {
        let process = Process::take();
        assert!(
            process.resident_bytes > 0 && process.open_fds > 2 && process.max_fds > 2 && process.threads > 0
        );
        assert_eq!(cpu_seconds("7 (a ) b) S 1 1 1 0 -1 4 1 0 0 0 150 50 0 0"), 2.0);
    }
}
