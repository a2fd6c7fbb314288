//! Numbers of system calls by name, for the architectures that programs in a container may have.

use std::collections::HashMap;

/// Facts of the kernel's headers: a line for each name, a column for each architecture.
const TABLE: &str = include_str!("numbers.tsv");

/// An architecture of programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86.
    X86,
    /// 64-bit ARM.
    Aarch64,
}

impl Arch {
    /// This program's.
    pub const NATIVE: Self =
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// libseccomp's name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "SCMP_ARCH_X86_64" => Some(Self::X86_64),
            "SCMP_ARCH_X86" => Some(Self::X86),
            "SCMP_ARCH_AARCH64" => Some(Self::Aarch64),
            _ => None,
        }
    }

    /// The name in a profile's conditions, which is Go's.
    pub fn go_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::X86 => "x86",
            Self::Aarch64 => "arm64",
        }
    }

    /// AUDIT_ARCH_…, what a filter sees (linux/audit.h).
    pub fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    fn column(self) -> usize {
        match self {
            Self::X86_64 => 1,
            Self::X86 => 2,
            Self::Aarch64 => 3,
        }
    }
}

/// The numbers of all calls that an architecture has.
pub fn of(arch: Arch) -> HashMap<&'static str, u32> {
    TABLE
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let number = line.split('\t').nth(arch.column())?.parse().ok()?;
            Some((line.split('\t').next()?, number))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_agrees_with_this_architecture() {
        let native = of(Arch::NATIVE);
        for (name, number) in [
            ("read", libc_numbers::SYS_read),
            ("openat2", libc_numbers::SYS_openat2),
            ("clone3", libc_numbers::SYS_clone3),
            ("mount", libc_numbers::SYS_mount),
            ("ptrace", libc_numbers::SYS_ptrace),
            ("newfstatat", libc_numbers::SYS_newfstatat),
        ] {
            assert_eq!(native.get(name).copied(), u32::try_from(number).ok(), "{name}");
        }
        assert_eq!(of(Arch::X86).get("socketcall"), Some(&102));
        assert_eq!(of(Arch::X86_64).get("socketcall"), None);
        assert_eq!(of(Arch::Aarch64).get("openat"), Some(&56));
    }

    use nix::libc as libc_numbers;
}
