//! What a group has used, from the files of either version.

use std::fs;
use std::path::Path;

use super::Group;

/// A reading. What a hierarchy does not say is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time, in nanoseconds.
    pub cpu_nanos: Option<u64>,
    /// Memory in use without what the page cache can give back, in bytes: as `docker stats`.
    pub memory: Option<u64>,
    /// The limit of memory; none where there is no limit.
    pub memory_limit: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// The limit of them; none where there is no limit.
    pub pids_limit: Option<u64>,
    /// Read from disks, in bytes.
    pub read: Option<u64>,
    /// Written to disks, in bytes.
    pub written: Option<u64>,
    /// How many processes were killed because the limit of memory was reached.
    pub out_of_memory: Option<u64>,
}

/// Version 1 says "no limit" with a number of pages close to this.
const NO_LIMIT: u64 = 1 << 62;

fn text(place: &Path, file: &str) -> Option<String> {
    fs::read_to_string(place.join(file)).ok()
}

fn number(place: &Path, file: &str) -> Option<u64> {
    text(place, file)?.trim().parse().ok()
}

/// The value of a line `NAME VALUE`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(' ')?;
        if found == name { value.trim().parse().ok() } else { None }
    })
}

/// The sum of a key over the lines of `io.stat`.
fn sum_of(text: &str, key: &str) -> u64 {
    text.split_whitespace()
        .filter_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse::<u64>().ok())
        .fold(0, u64::saturating_add)
}

/// The sum of an operation over the lines of `blkio.throttle.io_service_bytes`.
fn sum_of_operation(text: &str, operation: &str) -> u64 {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            (words.next()? == operation).then(|| words.next()?.parse::<u64>().ok())?
        })
        .fold(0, u64::saturating_add)
}

/// Reads everything.
pub fn read(group: &Group) -> Stats {
    let mut stats = Stats::default();
    match group.with("memory") {
        Some((true, place)) => {
            let cache = text(place, "memory.stat").and_then(|text| field(&text, "inactive_file"));
            let used = number(place, "memory.current");
            stats.memory = used.map(|used| used.saturating_sub(cache.unwrap_or(0)));
            stats.memory_limit = number(place, "memory.max");
            stats.out_of_memory =
                text(place, "memory.events").and_then(|text| field(&text, "oom_kill"));
        }
        Some((false, place)) => {
            let cache =
                text(place, "memory.stat").and_then(|text| field(&text, "total_inactive_file"));
            let used = number(place, "memory.usage_in_bytes");
            stats.memory = used.map(|used| used.saturating_sub(cache.unwrap_or(0)));
            stats.memory_limit =
                number(place, "memory.limit_in_bytes").filter(|limit| *limit < NO_LIMIT);
            stats.out_of_memory =
                text(place, "memory.oom_control").and_then(|text| field(&text, "oom_kill"));
        }
        None => {}
    }
    if let Some((false, place)) = group.with("cpuacct") {
        stats.cpu_nanos = number(place, "cpuacct.usage");
    } else if let Some(place) = group.unified() {
        stats.cpu_nanos = text(place, "cpu.stat")
            .and_then(|text| field(&text, "usage_usec"))
            .map(|micros| micros.saturating_mul(1000));
    }
    if let Some((_, place)) = group.with("pids") {
        stats.pids = number(place, "pids.current");
        stats.pids_limit = number(place, "pids.max");
    }
    if let Some((true, place)) = group.with("io") {
        let said = text(place, "io.stat");
        stats.read = said.as_deref().map(|said| sum_of(said, "rbytes"));
        stats.written = said.as_deref().map(|said| sum_of(said, "wbytes"));
    } else if let Some((false, place)) = group.with("blkio") {
        let said = text(place, "blkio.throttle.io_service_bytes");
        stats.read = said.as_deref().map(|said| sum_of_operation(said, "Read"));
        stats.written = said.as_deref().map(|said| sum_of_operation(said, "Write"));
    }
    stats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read() {
        assert_eq!(field("a 1\ninactive_file 7\n", "inactive_file"), Some(7));
        assert_eq!(sum_of("8:0 rbytes=5 wbytes=6\n8:1 rbytes=2 wbytes=0\n", "rbytes"), 7);
        assert_eq!(sum_of_operation("8:0 Read 5\n8:0 Write 6\n8:1 Read 2\nTotal 13\n", "Read"), 7);
    }
}
