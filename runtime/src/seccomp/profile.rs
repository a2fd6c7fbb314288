//! Profiles as text, and the decisions that are made before a program is written.

use serde::Deserialize;

use super::assemble::{self, Program};
use super::numbers::{self, Arch};
use crate::spec::capability;
use crate::sys::capability::CapabilitySet;

/// Why a profile is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not JSON of the right shape.
    #[error("decoding seccomp profile failed: {0}")]
    Text(#[from] serde_json::Error),
    /// An action of no known name.
    #[error("the seccomp profile has the action {0}, which is unknown")]
    Action(String),
    /// An action that needs a program outside that decides.
    #[error(
        "the seccomp profile has the action {0}, which needs a supervisor: this is not supported"
    )]
    Supervisor(String),
    /// A comparison of no known name, or of an argument that no call has.
    #[error(
        "the seccomp profile compares with {0}: give one of SCMP_CMP_NE, LT, LE, EQ, GE, GT, MASKED_EQ, and an index up to 5"
    )]
    Comparison(String),
    /// More instructions than the kernel takes.
    #[error(
        "the seccomp profile is too long: its program would have {0} instructions, and the kernel takes 4096"
    )]
    TooLong(usize),
}

/// A comparison of one argument.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Argument {
    /// Which, from 0.
    pub index: u32,
    /// With what; the mask of `SCMP_CMP_MASKED_EQ`.
    pub value: u64,
    /// What the masked argument must be.
    #[serde(default)]
    pub value_two: u64,
    /// How.
    pub op: String,
}

/// When a rule counts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conditions {
    /// Capabilities of the container, all of them.
    pub caps: Vec<String>,
    /// Architectures, by Go's names, any of them.
    pub arches: Vec<String>,
    /// The oldest kernel, as `4.8`.
    pub min_kernel: String,
}

/// What happens to some calls.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// One name, in older profiles.
    #[serde(default)]
    name: String,
    /// The calls.
    #[serde(default)]
    names: Vec<String>,
    /// What happens.
    action: String,
    /// The error of `SCMP_ACT_ERRNO`.
    #[serde(default)]
    errno_ret: Option<u32>,
    /// Comparisons, which must all hold.
    #[serde(default)]
    args: Option<Vec<Argument>>,
    /// When it counts.
    #[serde(default)]
    includes: Option<Conditions>,
    /// When it does not.
    #[serde(default)]
    excludes: Option<Conditions>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

/// A profile.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

/// The error number when none is given: EPERM.
const EPERM: u32 = 1;

/// A return value of a filter (linux/seccomp.h).
fn action(name: &str, errno: Option<u32>) -> Result<u32, Error> {
    let data = errno.unwrap_or(EPERM) & 0xffff;
    Ok(match name {
        "SCMP_ACT_ALLOW" => 0x7fff_0000,
        "SCMP_ACT_ERRNO" => 0x0005_0000 | data,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | data,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_NOTIFY" => return Err(Error::Supervisor(name.to_owned())),
        _ => return Err(Error::Action(name.to_owned())),
    })
}

/// Whether this kernel is at least as new as `wanted` (`4.8`).
fn kernel_is(wanted: &str) -> bool {
    let pair = |text: &str| {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
            _ => None,
        }
    };
    let release = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    pair(&release) >= pair(wanted)
}

impl Profile {
    /// Reads a profile: Docker's format, or the `seccomp` object of an OCI configuration.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Ok(serde_json::from_str(text)?)
    }

    /// The architectures it is for: those it names with this machine's, or this machine's alone.
    fn arches(&self) -> Vec<Arch> {
        let mut all = vec![Arch::NATIVE];
        let mapped = self
            .arch_map
            .iter()
            .flatten()
            .filter(|map| Arch::parse(&map.architecture) == Some(Arch::NATIVE));
        let named = mapped
            .flat_map(|map| map.sub_architectures.iter().flatten())
            .chain(self.architectures.iter().flatten());
        for arch in named.filter_map(|name| Arch::parse(name)) {
            // Programs for another machine cannot run here.
            let foreign = (arch == Arch::Aarch64) != (Arch::NATIVE == Arch::Aarch64);
            if !foreign && !all.contains(&arch) {
                all.push(arch);
            }
        }
        all
    }

    /// The program for a container with these capabilities.
    pub fn compile(&self, granted: CapabilitySet) -> Result<Program, Error> {
        let has =
            |name: &String| capability::number(name).is_some_and(|number| granted.contains(number));
        let native = Arch::NATIVE.go_name();
        let mut rules = Vec::new();
        for rule in self.syscalls.iter().flatten() {
            let (mut counts, includes) = (true, rule.includes.clone().unwrap_or_default());
            counts &= includes.caps.iter().all(has);
            counts &= includes.arches.is_empty() || includes.arches.iter().any(|a| a == native);
            counts &= includes.min_kernel.is_empty() || kernel_is(&includes.min_kernel);
            let excludes = rule.excludes.clone().unwrap_or_default();
            counts &= !excludes.caps.iter().any(has);
            counts &= !excludes.arches.iter().any(|arch| arch == native);
            counts &= excludes.min_kernel.is_empty() || !kernel_is(&excludes.min_kernel);
            let action = action(&rule.action, rule.errno_ret)?;
            let arguments = rule.args.clone().unwrap_or_default();
            for argument in &arguments {
                assemble::comparison(argument)?;
            }
            if counts {
                let single = Some(&rule.name).filter(|name| !name.is_empty());
                for name in rule.names.iter().chain(single) {
                    rules.push((name.clone(), action, arguments.clone()));
                }
            }
        }
        let default = action(&self.default_action, self.default_errno_ret)?;
        let mut sections = Vec::new();
        for arch in self.arches() {
            let numbers = numbers::of(arch);
            let known = rules.iter().filter_map(|(name, action, arguments)| {
                Some((*numbers.get(name.as_str())?, *action, arguments.as_slice()))
            });
            sections.push((arch, known.collect::<Vec<_>>()));
        }
        let mut program = assemble::program(&sections, default)?;
        program.log = self.flags.iter().flatten().any(|flag| flag == "SECCOMP_FILTER_FLAG_LOG");
        Ok(program)
    }
}
