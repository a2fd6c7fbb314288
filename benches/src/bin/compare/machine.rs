//! What a run's figures hold for: the machine, its kernel, the day.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The machine of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Short, for file names: `vm-2cpu`, `metal-16cpu`.
    pub kind: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// As /proc/cpuinfo names it.
    pub processor: String,
    /// MiB of memory.
    pub memory: u64,
    /// Kernel release.
    pub kernel: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let value = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_once(':')).map(|(_, v)| v.trim().to_owned())
        };
        let virtual_ = value(&cpuinfo, "flags").is_some_and(|f| f.contains(" hypervisor"));
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let memory = value(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let memory = memory.trim_end_matches(" kB").parse::<u64>().unwrap_or_default() / 1024;
        Machine {
            kind: format!("{}-{cpus}cpu", if virtual_ { "vm" } else { "metal" }),
            cpus,
            processor: value(&cpuinfo, "model name").unwrap_or_else(|| "unknown".into()),
            memory,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// Today in UTC, `2026-01-31`.
pub fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    date(seconds / 86_400)
}

/// The day this many days after 1 January 1970, in the Gregorian calendar; years begin in March
/// here, so that the leap day is the last (Howard Hinnant's `civil_from_days`).
fn date(days: u64) -> String {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_of_the_calendar() {
        for (days, want) in [
            (0, "1970-01-01"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (19_722, "2023-12-31"),
            (20_453, "2025-12-31"),
            (20_454, "2026-01-01"),
        ] {
            assert_eq!(date(days), want);
        }
    }

    #[test]
    fn this_machine_has_a_kind() {
        let m = Machine::here();
        assert!(m.kind.ends_with("cpu") && m.cpus > 0 && m.memory > 0 && !m.kernel.is_empty());
    }
}
