//! Flags about how much of the machine the container may use.

use clap::Args;

use super::engine;
use crate::cli::Failure;
use crate::container::config::{Limits, Ulimit};
use crate::spec::quantity;

/// Docker's least memory limit.
const LEAST_MEMORY: u64 = 6 << 20;

/// The flags that `update` has too.
#[derive(Debug, Default, Args)]
#[group(skip)]
pub struct Changeable {
    /// Memory limit
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,
    /// Limit of memory and swap together; -1 for as much swap as there is
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// What memory is pressed back to when the machine is short of it
    #[arg(long, value_name = "BYTES")]
    memory_reservation: Option<String>,
    /// Number of processors
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// Length of a period of the processor quota, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,
    /// Processor time in a period, in microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// Weight of its processor time; the usual is 1024
    #[arg(short, long, value_name = "WEIGHT")]
    cpu_shares: Option<u64>,
    /// Processors it may use, as in 0-2,4
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes it may use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Processes and threads it may have; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// Weight of its disk traffic, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
}

/// The flags.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    changeable: Changeable,
    /// The control group below which the container's is made
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES")]
    shm_size: Option<String>,
    /// A limit of its processes, as in nofile=1024:2048
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// How likely it is killed when memory ends, -1000 to 1000
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    oom_score_adj: Option<i32>,
    /// Do not kill its processes when its own memory limit is reached
    #[arg(long)]
    oom_kill_disable: bool,
}

fn bytes(text: Option<&str>) -> Result<Option<u64>, Failure> {
    let value = text.map(quantity::bytes).transpose().map_err(engine)?;
    Ok(value.filter(|value| *value > 0)) // 0 is no limit, as in Docker
}

/// Whether a text is a list of numbers and ranges.
fn is_list(text: &str) -> bool {
    text.split(',').all(|part| {
        let number = |text: &str| text.parse::<u32>().ok();
        match part.split_once('-') {
            Some((first, last)) => {
                matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last)
            }
            None => number(part).is_some(),
        }
    })
}

impl Changeable {
    /// Puts what was given over `limits`, and checks that all goes together.
    pub fn over(&self, mut limits: Limits) -> Result<Limits, Failure> {
        limits.memory = bytes(self.memory.as_deref())?.or(limits.memory);
        limits.memory_reservation =
            bytes(self.memory_reservation.as_deref())?.or(limits.memory_reservation);
        if let Some(text) = self.memory_swap.as_deref() {
            limits.memory_swap = match text {
                "-1" => Some(-1),
                text => bytes(Some(text))?.map(|value| i64::try_from(value).unwrap_or(i64::MAX)),
            };
        }
        if let Some(text) = &self.cpus {
            limits.nano_cpus = Some(quantity::nano_cpus(text).map_err(engine)?).filter(|n| *n > 0);
        }
        limits.cpu_period = self.cpu_period.or(limits.cpu_period);
        limits.cpu_quota = self.cpu_quota.or(limits.cpu_quota);
        limits.cpu_shares = self.cpu_shares.or(limits.cpu_shares);
        limits.cpuset_cpus = self.cpuset_cpus.clone().or(limits.cpuset_cpus);
        limits.cpuset_mems = self.cpuset_mems.clone().or(limits.cpuset_mems);
        limits.pids = self.pids_limit.or(limits.pids);
        limits.blkio_weight = self.blkio_weight.or(limits.blkio_weight);
        check(&limits).map_err(engine)?;
        Ok(limits)
    }
}

/// Docker's rules, and its sentences.
fn check(limits: &Limits) -> Result<(), String> {
    if limits.memory.is_some_and(|memory| memory < LEAST_MEMORY) {
        return Err("Minimum memory limit allowed is 6MB".to_owned());
    }
    let swap = limits.memory_swap.and_then(|swap| u64::try_from(swap).ok());
    match (limits.memory, swap) {
        (None, Some(_)) => {
            return Err("You should always set the Memory limit when using Memoryswap limit, see \
                        usage"
                .to_owned());
        }
        (Some(memory), Some(swap)) if swap < memory => {
            return Err(
                "Minimum memoryswap limit should be larger than memory limit, see usage".to_owned()
            );
        }
        _ => {}
    }
    if let (Some(memory), Some(reservation)) = (limits.memory, limits.memory_reservation)
        && memory < reservation
    {
        return Err(
            "Minimum memory limit can not be less than memory reservation limit, see usage"
                .to_owned(),
        );
    }
    if let Some(cpus) = limits.nano_cpus {
        let there = std::thread::available_parallelism().map_or(1, usize::from);
        if cpus < 10_000_000 || cpus > there as u64 * 1_000_000_000 {
            return Err(format!(
                "range of CPUs is from 0.01 to {there}.00, as there are only {there} CPUs available"
            ));
        }
        if limits.cpu_period.is_some() || limits.cpu_quota.is_some() {
            return Err(
                "conflicting options: Nano CPUs and CPU Period or Quota cannot both be set"
                    .to_owned(),
            );
        }
    }
    for (list, name) in [(&limits.cpuset_cpus, "cpus"), (&limits.cpuset_mems, "mems")] {
        if let Some(list) = list.as_deref().filter(|list| !list.is_empty() && !is_list(list)) {
            return Err(format!("invalid value {list} for cpuset {name}"));
        }
    }
    if limits.blkio_weight.is_some_and(|weight| weight != 0 && !(10..=1000).contains(&weight)) {
        return Err("range of blkio weight is from 10 to 1000".to_owned());
    }
    Ok(())
}

impl Options {
    /// Reads the flags.
    pub fn read(self) -> Result<Limits, Failure> {
        if let Some(score) = self.oom_score_adj
            && !(-1000..=1000).contains(&score)
        {
            return Err(engine(format!(
                "invalid value {score}, range for oom score adj is [-1000, 1000]"
            )));
        }
        let mut limits = Limits {
            cgroup_parent: self.cgroup_parent.filter(|parent| !parent.is_empty()),
            shm_size: bytes(self.shm_size.as_deref())?,
            oom_score_adj: self.oom_score_adj,
            oom_kill_disable: self.oom_kill_disable,
            ..Limits::default()
        };
        for text in &self.ulimit {
            let (name, soft, hard) = quantity::ulimit(text).map_err(engine)?;
            limits.ulimits.insert(name, Ulimit { soft, hard });
        }
        if let Some(parent) = &limits.cgroup_parent
            && parent.split('/').any(|part| part == "..")
        {
            return Err(engine(format!("invalid --cgroup-parent {parent}: it may not hold '..'")));
        }
        self.changeable.over(limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(change: Changeable) -> Result<Limits, Failure> {
        change.over(Limits::default())
    }

    #[test]
    fn limits_go_together() {
        let text = |text: &str| Some(text.to_owned());
        let memory =
            |memory, memory_swap| Changeable { memory, memory_swap, ..Changeable::default() };
        let read_memory = |m, s| read(memory(m, s));
        assert_eq!(read_memory(text("64m"), None).unwrap().memory, Some(64 << 20));
        assert_eq!(read_memory(text("64m"), text("-1")).unwrap().memory_swap, Some(-1));
        assert!(read_memory(text("1m"), None).is_err());
        assert!(read_memory(None, text("64m")).is_err());
        assert!(read_memory(text("64m"), text("32m")).is_err());
        assert!(read(Changeable { cpus: text("0.001"), ..Changeable::default() }).is_err());
        assert!(read(Changeable { cpus: text("9999"), ..Changeable::default() }).is_err());
        assert!(read(Changeable { cpuset_cpus: text("0-x"), ..Changeable::default() }).is_err());
        assert!(read(Changeable { cpuset_cpus: text("0-2,4"), ..Changeable::default() }).is_ok());
        assert!(read(Changeable { blkio_weight: Some(5), ..Changeable::default() }).is_err());
    }
}
