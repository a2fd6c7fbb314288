//! Layers to measure on: what the benchmarks in `benches/benches/` have in common.
//!
//! They measure the overlay core as a library, without a mount, so that what the kernel and a round
//! trip cost is left out; the side-by-side comparison of mounts is another program.

use std::fs;
use std::io;
use std::path::Path;

use cowl_fs::options::Options;
use cowl_fs::overlay::Overlay;

/// How many files the merged directory has, whatever the number of layers.
pub const NAMES: usize = 2_000;

/// Size of the large file in the lowest layer.
pub const LARGE: usize = 4 << 20;

/// A union of host directories, in a directory of its own.
#[derive(Debug)]
pub struct Tree {
    directory: tempfile::TempDir,
    layers: usize,
}

impl Tree {
    /// [`NAMES`] files spread evenly over this many layers; each layer also repeats a tenth of the
    /// names of the one below, as image layers do.
    ///
    /// # Errors
    /// When the files cannot be made.
    pub fn new(layers: usize) -> io::Result<Tree> {
        let directory = tempfile::tempdir()?;
        for layer in 0..layers {
            let path = directory.path().join(format!("lower{layer}"));
            fs::create_dir(&path)?;
            let own = (layer * NAMES / layers)..((layer + 1) * NAMES / layers);
            let repeated = own.start.saturating_sub(own.len() / 10)..own.start;
            for number in repeated.chain(own) {
                fs::write(path.join(name(number)), "content\n")?;
            }
        }
        fs::write(directory.path().join("lower0/large"), vec![7; LARGE])?;
        Ok(Tree { directory, layers })
    }

    /// Opens the union anew, with an empty upper.
    ///
    /// # Errors
    /// When the directories cannot be made or the union cannot be opened.
    pub fn open(&self) -> Result<Overlay, Box<dyn std::error::Error>> {
        let at = self.directory.path();
        for part in ["upper", "work"] {
            remove(&at.join(part))?;
            fs::create_dir(at.join(part))?;
        }
        let lowers: Vec<String> = (0..self.layers)
            .rev()
            .map(|n| at.join(format!("lower{n}")).display().to_string())
            .collect();
        let mut options = Options::default();
        let at = at.display();
        options.add(
            format!("lowerdir={},upperdir={at}/upper,workdir={at}/work", lowers.join(":"))
                .as_bytes(),
        )?;
        Ok(cowl_fs::start::open_union(&options, None)?)
    }
}

/// Name of the file with this number.
pub fn name(number: usize) -> String {
    format!("file-{number:05}.so")
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
