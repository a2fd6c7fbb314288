//! The kernel's filter programs (classic BPF over `struct seccomp_data`).

use super::numbers::Arch;
use super::profile::{Argument, Error};

/// One instruction, as the kernel reads it (`struct sock_filter`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How many instructions to skip when a comparison holds.
    pub jt: u8,
    /// How many when it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// A filter program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its instructions.
    pub instructions: Vec<Instruction>,
    /// Whether actions other than to allow are written into the kernel's log.
    pub log: bool,
}

// linux/bpf_common.h: BPF_LD|BPF_W|BPF_ABS, BPF_JMP|…|BPF_K, BPF_ALU|BPF_AND|BPF_K, BPF_RET|BPF_K.
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const GREATER: u16 = 0x25;
const GREATER_OR_EQUAL: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Set in the numbers of x32 calls.
const X32: u32 = 0x4000_0000;

/// SECCOMP_RET_ERRNO with ENOSYS.
const ENOSYS: u32 = 0x0005_0000 | 38;

/// BPF_MAXINSNS.
const MOST: usize = 4096;

fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
    MaskedEqual,
}

/// Reads a comparison.
pub fn comparison(argument: &Argument) -> Result<Comparison, Error> {
    if argument.index > 5 {
        return Err(Error::Comparison(format!("argument {}", argument.index)));
    }
    Ok(match argument.op.as_str() {
        "SCMP_CMP_NE" => Comparison::NotEqual,
        "SCMP_CMP_LT" => Comparison::Less,
        "SCMP_CMP_LE" => Comparison::LessOrEqual,
        "SCMP_CMP_EQ" => Comparison::Equal,
        "SCMP_CMP_GE" => Comparison::GreaterOrEqual,
        "SCMP_CMP_GT" => Comparison::Greater,
        "SCMP_CMP_MASKED_EQ" => Comparison::MaskedEqual,
        other => return Err(Error::Comparison(other.to_owned())),
    })
}

/// Where a comparison leads; `Fail` is behind the rule it belongs to, `Hold` the next comparison.
#[derive(Clone, Copy)]
enum To {
    Next,
    Hold,
    Fail,
}

/// Instructions of one comparison, with places instead of distances.
fn compare(argument: &Argument) -> Result<Vec<(u16, u32, To, To)>, Error> {
    let low = ARGUMENTS + 8 * argument.index;
    let high = low + 4; // the machines that we know are little-endian
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let (first, second) = halves(argument.value);
    let load = |offset| (LOAD, offset, To::Next, To::Next);
    let ordered = |code: u16, holds: bool| {
        // The high half decides unless it is equal.
        let (yes, no) = if holds { (To::Hold, To::Fail) } else { (To::Fail, To::Hold) };
        vec![
            load(high),
            (GREATER, first, yes, To::Next),
            (EQUAL, first, To::Next, no),
            load(low),
            (code, second, yes, no),
        ]
    };
    Ok(match comparison(argument)? {
        Comparison::Equal => vec![
            load(high),
            (EQUAL, first, To::Next, To::Fail),
            load(low),
            (EQUAL, second, To::Hold, To::Fail),
        ],
        Comparison::NotEqual => vec![
            load(high),
            (EQUAL, first, To::Next, To::Hold),
            load(low),
            (EQUAL, second, To::Fail, To::Hold),
        ],
        Comparison::MaskedEqual => {
            let (wanted_high, wanted_low) = halves(argument.value_two);
            vec![
                load(high),
                (AND, first, To::Next, To::Next),
                (EQUAL, wanted_high, To::Next, To::Fail),
                load(low),
                (AND, second, To::Next, To::Next),
                (EQUAL, wanted_low, To::Hold, To::Fail),
            ]
        }
        Comparison::Greater => ordered(GREATER, true),
        Comparison::GreaterOrEqual => ordered(GREATER_OR_EQUAL, true),
        Comparison::LessOrEqual => ordered(GREATER, false),
        Comparison::Less => ordered(GREATER_OR_EQUAL, false),
    })
}

/// The code of one rule: when all comparisons hold it ends with `action`, else it goes on behind.
fn conditional(arguments: &[Argument], action: u32) -> Result<Vec<Instruction>, Error> {
    let parts = arguments.iter().map(compare).collect::<Result<Vec<_>, _>>()?;
    let total: usize = parts.iter().map(Vec::len).sum();
    let mut code = Vec::with_capacity(total.saturating_add(1));
    for part in &parts {
        let hold = code.len().saturating_add(part.len());
        for (operation, k, yes, no) in part {
            let after = code.len().saturating_add(1);
            let skip = |to: &To| {
                let to = match to {
                    To::Next => after,
                    To::Hold => hold,
                    To::Fail => total.saturating_add(1), // behind the action
                };
                // Six comparisons of six instructions at most.
                u8::try_from(to.saturating_sub(after)).map_err(|_| Error::TooLong(total))
            };
            let (jt, jf) = (skip(yes)?, skip(no)?);
            code.push(Instruction { code: *operation, jt, jf, k: *k });
        }
    }
    code.push(plain(RETURN, action));
    Ok(code)
}

/// What happens for numbers from `first` up to the next leaf's.
struct Leaf {
    first: u32,
    code: Vec<Instruction>,
}

/// A rule that applies to one number.
pub type Applied<'a> = (u32, u32, &'a [Argument]);

/// All numbers of an architecture, in order, neighbours with the same code joined.
fn leaves(rules: &[Applied<'_>], default: u32) -> Result<Vec<Leaf>, Error> {
    let mut numbers: Vec<u32> = rules.iter().map(|(number, ..)| *number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let otherwise = vec![plain(RETURN, default)];
    let mut all: Vec<Leaf> = vec![Leaf { first: 0, code: otherwise.clone() }];
    let mut push = |first: u32, code: Vec<Instruction>| {
        if let Some(last) = all.last_mut() {
            if last.code == code {
                return;
            }
            if last.first == first {
                last.code = code;
                return;
            }
        }
        all.push(Leaf { first, code });
    };
    for (at, number) in numbers.iter().enumerate() {
        let mut code = Vec::new();
        let mut last = default;
        // In the order of the profile, until one without comparisons ends it.
        for (_, action, arguments) in rules.iter().filter(|(found, ..)| found == number) {
            if arguments.is_empty() {
                last = *action;
                break;
            }
            code.extend(conditional(arguments, *action)?);
        }
        code.push(plain(RETURN, last));
        push(*number, code);
        let after = number.saturating_add(1);
        if numbers.get(at.saturating_add(1)) != Some(&after) {
            push(after, otherwise.clone());
        }
    }
    Ok(all)
}

/// A binary search over leaves; the number is in the accumulator.
fn search(leaves: &[Leaf]) -> Vec<Instruction> {
    let (left, right) = leaves.split_at(leaves.len() / 2);
    let (Some(_), Some(middle)) = (left.first(), right.first()) else {
        return leaves.first().map(|leaf| leaf.code.clone()).unwrap_or_default();
    };
    let (below, above) = (search(left), search(right));
    let mut code = Vec::with_capacity(below.len().saturating_add(above.len()).saturating_add(2));
    match u8::try_from(below.len()) {
        Ok(skip) => {
            code.push(Instruction { code: GREATER_OR_EQUAL, jt: skip, jf: 0, k: middle.first });
        }
        Err(_) => {
            code.push(Instruction { code: GREATER_OR_EQUAL, jt: 0, jf: 1, k: middle.first });
            code.push(plain(JUMP, u32::try_from(below.len()).unwrap_or(u32::MAX)));
        }
    }
    code.extend(below);
    code.extend(above);
    code
}

/// The whole program: a section for each architecture, the default action for all others.
pub fn program(sections: &[(Arch, Vec<Applied<'_>>)], default: u32) -> Result<Program, Error> {
    let mut instructions = vec![plain(LOAD, ARCH)];
    for (arch, rules) in sections {
        let mut section = vec![plain(LOAD, NUMBER)];
        if *arch == Arch::X86_64 {
            section.push(Instruction { code: GREATER_OR_EQUAL, jt: 0, jf: 1, k: X32 });
            section.push(plain(RETURN, ENOSYS));
        }
        section.extend(search(&leaves(rules, default)?));
        instructions.push(Instruction { code: EQUAL, jt: 1, jf: 0, k: arch.audit() });
        instructions.push(plain(JUMP, u32::try_from(section.len()).unwrap_or(u32::MAX)));
        instructions.extend(section);
    }
    instructions.push(plain(RETURN, default));
    if instructions.len() > MOST {
        return Err(Error::TooLong(instructions.len()));
    }
    Ok(Program { instructions, log: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::{Profile, default};
    use crate::spec::capability;

    /// Runs a program as the kernel does.
    fn run(program: &Program, arch: Arch, number: u32, arguments: [u64; 6]) -> u32 {
        let (mut at, mut value) = (0usize, 0u32);
        for _ in 0..10_000 {
            let Instruction { code, jt, jf, k } = program.instructions[at];
            at += 1;
            let jump = |holds: bool| usize::from(if holds { jt } else { jf });
            match code {
                LOAD if k == NUMBER => value = number,
                LOAD if k == ARCH => value = arch.audit(),
                LOAD => {
                    let argument = arguments[((k - ARGUMENTS) / 8) as usize];
                    value = if k % 8 == 0 { argument as u32 } else { (argument >> 32) as u32 };
                }
                AND => value &= k,
                JUMP => at += k as usize,
                EQUAL => at += jump(value == k),
                GREATER => at += jump(value > k),
                GREATER_OR_EQUAL => at += jump(value >= k),
                RETURN => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
        panic!("does not end");
    }

    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;

    #[test]
    fn the_default_profile_allows_what_dockers_does() {
        let usual = capability::granted(false, &[], &[]).unwrap();
        let program = default().unwrap().compile(usual).unwrap();
        assert!(program.instructions.len() < MOST / 2, "{}", program.instructions.len());
        for arch in [Arch::NATIVE, Arch::X86] {
            let numbers = super::super::numbers::of(arch);
            let on =
                |name: &str, first: u64| run(&program, arch, numbers[name], [first, 0, 0, 0, 0, 0]);
            for name in
                ["read", "openat", "execve", "ptrace", "mknod", "chroot", "prctl", "seccomp"]
            {
                assert_eq!(on(name, 0), ALLOW, "{name}");
            }
            for name in [
                "mount",
                "umount2",
                "unshare",
                "setns",
                "bpf",
                "keyctl",
                "add_key",
                "reboot",
                "init_module",
                "swapon",
                "pivot_root",
                "io_uring_setup",
                "userfaultfd",
                "open_by_handle_at",
                "fsopen",
                "move_mount",
                "kexec_load",
                "perf_event_open",
            ] {
                assert_eq!(on(name, 0), EPERM, "{name}");
            }
            assert_eq!(on("clone3", 0), ENOSYS);
            assert_eq!(on("clone", 0x11), ALLOW);
            assert_eq!(on("clone", 0x1000_0011), EPERM, "a user namespace");
            assert_eq!(on("personality", 0xffff_ffff), ALLOW);
            assert_eq!(on("personality", 0x0004_0000), EPERM);
            assert_eq!(on("socket", 2), ALLOW);
            assert_eq!(on("socket", 40), EPERM);
            assert_eq!(run(&program, arch, 100_000, [0; 6]), EPERM);
        }
        assert_eq!(run(&program, Arch::X86_64, X32 | 1, [0; 6]), ENOSYS);
        assert_eq!(run(&program, Arch::Aarch64, 0, [0; 6]), EPERM);
    }

    #[test]
    fn capabilities_open_calls() {
        let all = capability::granted(false, &["ALL".to_owned()], &[]).unwrap();
        let program = default().unwrap().compile(all).unwrap();
        let numbers = super::super::numbers::of(Arch::NATIVE);
        for name in ["mount", "unshare", "clone3", "reboot", "init_module", "open_by_handle_at"] {
            assert_eq!(run(&program, Arch::NATIVE, numbers[name], [0; 6]), ALLOW, "{name}");
        }
        assert_eq!(run(&program, Arch::NATIVE, numbers["keyctl"], [0; 6]), EPERM);
    }

    #[test]
    fn every_comparison_at_its_edges() {
        let wide = 0x1_0000_0005u64;
        for (op, holds) in [
            ("SCMP_CMP_EQ", [false, false, true, false, false]),
            ("SCMP_CMP_NE", [true, true, false, true, true]),
            ("SCMP_CMP_LT", [true, true, false, false, false]),
            ("SCMP_CMP_LE", [true, true, true, false, false]),
            ("SCMP_CMP_GT", [false, false, false, true, true]),
            ("SCMP_CMP_GE", [false, false, true, true, true]),
        ] {
            let text = format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["read"],
                "action":"SCMP_ACT_KILL_PROCESS",
                "args":[{{"index":2,"value":{wide},"op":"{op}"}}]}}]}}"#
            );
            let none = crate::sys::capability::CapabilitySet(0);
            let program = Profile::parse(&text).unwrap().compile(none).unwrap();
            let number = super::super::numbers::of(Arch::NATIVE)["read"];
            let values = [5, wide - 1, wide, wide + 1, 0x2_0000_0000];
            for (value, holds) in values.into_iter().zip(holds) {
                let got = run(&program, Arch::NATIVE, number, [0, 0, value, 0, 0, 0]);
                assert_eq!(got == 0x8000_0000, holds, "{op} {value:#x}");
            }
        }
    }

    #[test]
    fn bad_profiles_are_refused() {
        let none = crate::sys::capability::CapabilitySet(0);
        for text in ["", "{}", "[]", r#"{"defaultAction": 5}"#] {
            assert!(Profile::parse(text).is_err(), "{text}");
        }
        for rule in [
            r#"{"names":["read"],"action":"SCMP_ACT_NOPE"}"#,
            r#"{"names":["read"],"action":"SCMP_ACT_NOTIFY"}"#,
            r#"{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":9,"value":1,"op":"SCMP_CMP_EQ"}]}"#,
            r#"{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"X"}]}"#,
        ] {
            let text = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#);
            assert!(Profile::parse(&text).unwrap().compile(none).is_err(), "{rule}");
        }
    }
}
