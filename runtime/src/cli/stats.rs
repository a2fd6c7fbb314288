//! `cowl stats`: what containers use of the machine, from their control groups.
//!
//! Where a container has no group (an ordinary user without delegation), and for what its groups
//! do not count, `--` stands in the columns.

use std::collections::HashMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::table::Format;
use super::{Context, Failure, print, size};
use crate::cgroup::{Group, Stats};
use crate::container::Container;

/// `cowl stats`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also containers that do not run
    #[arg(short, long)]
    all: bool,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Print once, and end
    #[arg(long)]
    no_stream: bool,
    /// Print ids in full
    #[arg(long)]
    no_trunc: bool,
    /// Names or ids; all that run when there is none
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// How long is measured, and how often is printed: as Docker does.
const PERIOD: Duration = Duration::from_secs(1);

/// What clears a terminal and goes to its beginning (ECMA-48).
const CLEAR: &str = "\x1b[2J\x1b[H";

const NOTHING: &str = "--";

const TABLE: &str = "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t\
                     {{.BlockIO}}\t{{.PIDs}}";

const TITLES: [(&str, &str); 9] = [
    ("ID", "CONTAINER ID"),
    ("Container", "CONTAINER"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

/// Bytes in powers of 1024, as `docker stats` shows memory.
fn binary(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 || unit == "TiB" {
            let decimals = match value {
                _ if unit == "B" => 0,
                value if value < 10.0 => 3,
                value if value < 100.0 => 2,
                _ => 1,
            };
            let text = format!("{value:.decimals$}");
            let text = match text.contains('.') {
                true => text.trim_end_matches('0').trim_end_matches('.'),
                false => &text,
            };
            return format!("{text}{unit}");
        }
        value /= 1024.0;
    }
    NOTHING.to_owned()
}

/// Bytes that arrived and left over all interfaces but the loopback, from a `net/dev` file
/// (proc(5)).
fn traffic(text: &str) -> (u64, u64) {
    let mut sums = (0u64, 0u64);
    for line in text.lines() {
        let Some((name, counts)) = line.split_once(':') else { continue };
        if name.trim() == "lo" {
            continue;
        }
        let mut counts = counts.split_whitespace().map(|count| count.parse::<u64>().unwrap_or(0));
        sums.0 = sums.0.saturating_add(counts.next().unwrap_or(0));
        sums.1 = sums.1.saturating_add(counts.nth(7).unwrap_or(0));
    }
    sums
}

/// The machine's memory, in bytes, which is the limit where there is none.
fn machine_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A measurement.
type Sample = (Instant, Option<u64>);

fn row(container: &Container, before: Option<&Sample>, now: &Stats, no_trunc: bool) -> Value {
    let config = &container.config;
    let live = container.state.status.live();
    let cpu = before.and_then(|(since, cpu)| {
        let spent = now.cpu_nanos?.checked_sub((*cpu)?)?;
        Some(spent as f64 / since.elapsed().as_nanos().max(1) as f64 * 100.0)
    });
    let limit = now.memory_limit.or_else(machine_memory);
    let percent =
        now.memory.zip(limit).map(|(used, limit)| used as f64 / limit.max(1) as f64 * 100.0);
    let pair = |one: Option<String>, other: Option<String>| {
        let text = |part: Option<String>| part.unwrap_or_else(|| NOTHING.to_owned());
        format!("{} / {}", text(one), text(other))
    };
    let share = |value: Option<f64>| value.map_or(NOTHING.to_owned(), |v| format!("{v:.2}%"));
    let net = live
        .and_then(|live| fs::read_to_string(format!("/proc/{}/net/dev", live.init.pid)).ok())
        .map(|text| traffic(&text));
    json!({
        "BlockIO": pair(now.read.map(size::short), now.written.map(size::short)),
        "CPUPerc": share(cpu),
        "Container": config.name,
        "ID": if no_trunc { config.id.as_str() } else { config.id.short() },
        "MemPerc": share(percent),
        "MemUsage": pair(now.memory.map(binary), now.memory.and(limit).map(binary)),
        "Name": config.name,
        "NetIO": pair(net.map(|net| size::short(net.0)), net.map(|net| size::short(net.1))),
        "PIDs": now.pids.map_or(NOTHING.to_owned(), |pids| pids.to_string()),
    })
}

/// Those that are asked for, as they are now.
fn chosen(args: &Args, context: &Context) -> Result<Vec<Container>, Failure> {
    let containers = context.containers()?;
    if args.containers.is_empty() {
        let mut all = containers.list()?;
        all.retain(|container| args.all || container.state.status.live().is_some());
        return Ok(all);
    }
    Ok(args.containers.iter().map(|name| containers.find(name)).collect::<Result<_, _>>()?)
}

/// Prints what they use, once or again and again.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let format = Format::parse(args.format.as_deref(), TABLE)?;
    let on_terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    let mut samples: HashMap<String, Sample> = HashMap::new();
    let measure = |container: &Container| {
        let stats = match container.state.status.live() {
            Some(_) => Group::open(&container.config).stats(),
            None => Stats::default(),
        };
        ((Instant::now(), stats.cpu_nanos), stats)
    };
    for container in chosen(args, context)? {
        let (sample, _) = measure(&container);
        samples.insert(container.config.id.as_str().to_owned(), sample);
    }
    loop {
        thread::sleep(PERIOD);
        let mut rows = Vec::new();
        for container in chosen(args, context)? {
            let id = container.config.id.as_str().to_owned();
            let (sample, stats) = measure(&container);
            rows.push(row(&container, samples.get(&id), &stats, args.no_trunc));
            samples.insert(id, sample);
        }
        let text = format.render(&TITLES, &rows)?;
        if on_terminal && !args.no_stream {
            print(CLEAR.as_bytes())?;
        }
        print(text.as_bytes())?;
        if args.no_stream {
            return Ok(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_shown_in_powers_of_1024() {
        for (bytes, shown) in
            [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (1 << 20, "1MiB"), (25 << 30, "25GiB")]
        {
            assert_eq!(binary(bytes), shown);
        }
        assert_eq!(binary(123_456_789), "117.7MiB");
    }

    #[test]
    fn traffic_leaves_the_loopback_out() {
        let text = "Inter-|   Receive                            |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes\n    \
                    lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n  \
                    eth0: 100 2 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n  eth1:1 2 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n";
        assert_eq!(traffic(text), (101, 9));
        assert_eq!(traffic(""), (0, 0));
    }
}
