//! The command line.

use std::path::PathBuf;

use clap::{ArgAction, Parser};

use crate::scale::Scale;

/// Compares union filesystems on the workloads of containers: medians, spread and ratios to kernel
/// overlayfs and to a plain directory.
///
/// Systems are interleaved in each repetition, in a random order. It works on a filesystem of its own in a loop
/// image (as root) or in a directory, and leaves nothing behind. Every workload checks its effect.
#[derive(Debug, Parser)]
#[command(name = "compare", version, max_term_width = 100)]
pub struct Args {
    /// What to compare: native, overlay, cowlfs, fuse-overlayfs (every version found); with @u
    /// behind it in a user namespace
    #[arg(long, value_delimiter = ',', default_value = "native,overlay,cowlfs,fuse-overlayfs")]
    pub systems: Vec<String>,
    /// Another system: a mount program with fuse-overlayfs's command line, or one of the above,
    /// with further mount options. Examples: mine=/path/to/program,
    /// block=cowlfs:copyup=block, mc=overlay:metacopy=on
    #[arg(long, value_name = "NAME=PROGRAM[:OPTIONS]", action = ArgAction::Append)]
    pub add: Vec<String>,
    /// Run all of them in a user namespace
    #[arg(long)]
    pub user: bool,
    /// Whose user namespace, when started as root
    #[arg(long, value_name = "UID", default_value_t = 4000)]
    pub uid: u32,
    /// What to measure; all if not given
    #[arg(long, value_delimiter = ',')]
    pub workloads: Vec<String>,
    /// List the workloads, a sentence each
    #[arg(long)]
    pub list: bool,
    /// How often [default: 5, with --quick 3, with --tiny 1]
    #[arg(long)]
    pub reps: Option<usize>,
    /// Smaller sizes: two to three minutes
    #[arg(long, conflicts_with = "tiny")]
    pub quick: bool,
    /// Tiny sizes, to see that everything works; the figures mean nothing
    #[arg(long)]
    pub tiny: bool,
    /// Never empty the kernel's caches: no cold figures
    #[arg(long)]
    pub warm: bool,
    /// Seed of the order of systems
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Longest time of one step, seconds
    #[arg(long, default_value_t = 180)]
    pub timeout: u64,
    /// Work in this directory instead of a loop image
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "image")]
    pub dir: Option<PathBuf>,
    /// Work in this loop image, made if missing, and keep it with its fixtures for the next run
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Filesystem of a new image: ext4 or xfs
    #[arg(long, value_name = "TYPE", default_value = "ext4")]
    pub fs: String,
    /// Only make the fixtures of the workloads (with --image or --dir)
    #[arg(long)]
    pub prepare: bool,
    /// Write every sample to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the table as Markdown
    #[arg(long, value_name = "FILE")]
    pub md: Option<PathBuf>,
    /// Write plots into this directory: copyup.svg, walk.svg, ratios.svg
    #[arg(long, value_name = "DIRECTORY")]
    pub svg: Option<PathBuf>,
    /// Write JSON, table and plots into this directory as DATE-MACHINE.*
    #[arg(long, value_name = "DIRECTORY")]
    pub record: Option<PathBuf>,
    /// Write the main rows and a plot into this file, between its marks, with links to what
    /// --record wrote
    #[arg(long, value_name = "FILE", requires = "record")]
    pub readme: Option<PathBuf>,
    /// Do not measure: show kept runs, several merged into one
    #[arg(long, value_name = "JSON", num_args = 1..)]
    pub merge: Vec<PathBuf>,
    /// Compare two of the systems with each other, and fail if the first became slower
    #[arg(long, value_name = "NOW,BEFORE")]
    pub guard: Option<String>,
}

impl Args {
    /// The sizes asked for.
    pub fn scale(&self) -> Scale {
        match (self.quick, self.tiny) {
            (true, _) => Scale::quick(),
            (_, true) => Scale::tiny(),
            _ => Scale::full(),
        }
    }

    /// The repetitions asked for.
    pub fn repetitions(&self) -> usize {
        let default = match (self.quick, self.tiny) {
            (true, _) => 3,
            (_, true) => 1,
            _ => 5,
        };
        self.reps.unwrap_or(default).max(1)
    }
}
