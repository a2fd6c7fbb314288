//! The record of a run: every sample, and what is needed to read them. It is what `--json` writes,
//! and tables and plots are made from it alone, so that any kept run can be shown again.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::fault::{Doing, Fault, Result};
use crate::machine::Machine;
use crate::scale::Scale;
use crate::stats;
use crate::system::{NATIVE, OVERLAY, System};
use crate::workload::{Measure, Unit};

/// Version of the JSON below; a reader refuses others.
pub const FORMAT: u32 = 1;

/// One run, or several merged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// UTC day.
    pub date: String,
    /// Sizes of the workloads.
    pub scale: Scale,
    /// Where it ran.
    pub machine: Machine,
    /// The filesystem below.
    pub filesystem: String,
    /// Columns.
    pub systems: Vec<System>,
    /// Rows, in the order of the table.
    pub measures: Vec<Measure>,
    /// Measure, system, one number for each repetition.
    pub samples: BTreeMap<String, BTreeMap<String, Vec<f64>>>,
    /// Runs that failed.
    pub failures: Vec<Failure>,
    /// What was left out, a sentence each.
    pub left_out: Vec<String>,
}

/// A run that failed, or had not the effect it should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Name of the workload.
    pub workload: String,
    /// Name of the system.
    pub system: String,
    /// The sentence.
    pub reason: String,
}

impl Report {
    /// The samples of one cell; empty where there are none.
    pub fn cell(&self, measure: &str, system: &str) -> &[f64] {
        let row = self.samples.get(measure);
        row.and_then(|row| row.get(system)).map_or(&[], Vec::as_slice)
    }

    /// Adds a sample.
    pub fn add(&mut self, measure: &str, system: &str, value: f64) {
        let row = self.samples.entry(measure.to_owned()).or_default();
        row.entry(system.to_owned()).or_default().push(value);
    }

    /// Whether any run of this workload on this system failed.
    pub fn failed(&self, workload: &str, system: &str) -> bool {
        self.failures.iter().any(|f| f.workload == workload && f.system == system)
    }

    /// The rows that have samples, of CPU time or of everything else.
    pub fn rows(&self, cpu: bool) -> impl Iterator<Item = &Measure> {
        self.measures
            .iter()
            .filter(move |m| (m.unit == Unit::CpuSeconds) == cpu)
            .filter(|m| self.samples.contains_key(&m.id) || self.any_failed(&m.id))
    }

    fn any_failed(&self, measure: &str) -> bool {
        let workload = measure.split('/').next().unwrap_or_default();
        self.failures.iter().any(|f| f.workload == workload)
    }

    /// The system that ratios are to: kernel overlayfs, or what is nearest to it.
    pub fn reference(&self) -> Option<&System> {
        let named = |name: &str| self.systems.iter().find(|s| s.name == name);
        named(OVERLAY).or_else(|| named("overlay@u")).or_else(|| named(NATIVE))
    }

    /// Ratio of the medians of two systems.
    pub fn ratio(&self, measure: &str, of: &str, to: &str) -> Option<f64> {
        stats::ratio(self.cell(measure, of), self.cell(measure, to))
    }

    /// What its files are called: day and kind of machine.
    pub fn name(&self) -> String {
        format!("{}-{}", self.date, self.machine.kind)
    }

    /// Reads what [`Report::write`] wrote.
    ///
    /// # Errors
    /// When it is no such file.
    pub fn read(path: &Path) -> Result<Report> {
        let text = std::fs::read_to_string(path).doing(|| format!("read {}", path.display()))?;
        let format = serde_json::from_str::<Format>(&text);
        let format = format.doing(|| format!("{} is no kept run", path.display()))?.format;
        if format != FORMAT {
            return Err(Fault(format!(
                "{} has format {format}; this program reads format {FORMAT}",
                path.display()
            )));
        }
        serde_json::from_str(&text).doing(|| format!("read {}", path.display()))
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = self.json().doing(|| "write JSON")?;
        std::fs::write(path, text).doing(|| format!("write {}", path.display()))
    }

    /// JSON with one line for each system and each cell, so that kept runs can be compared.
    fn json(&self) -> serde_json::Result<String> {
        let mut rows = Vec::new();
        for (measure, cells) in &self.samples {
            let mut lines = Vec::new();
            for (system, values) in cells {
                let values: Vec<f64> = values.iter().map(|v| significant(*v)).collect();
                let (name, values) =
                    (serde_json::to_string(system)?, serde_json::to_string(&values)?);
                lines.push(format!("   {name}: {values}"));
            }
            let measure = serde_json::to_string(measure)?;
            rows.push(format!("  {measure}: {{\n{}\n  }}", lines.join(",\n")));
        }
        let list = |items: Vec<String>| match items.len() {
            0 => "[]".to_owned(),
            _ => format!("[\n  {}\n ]", items.join(",\n  ")),
        };
        let each = |items: &[_]| items.iter().map(serde_json::to_string::<System>).collect();
        let systems: serde_json::Result<Vec<String>> = each(&self.systems);
        let measures: serde_json::Result<Vec<String>> =
            self.measures.iter().map(serde_json::to_string).collect();
        let failures: serde_json::Result<Vec<String>> =
            self.failures.iter().map(serde_json::to_string).collect();
        let left_out: serde_json::Result<Vec<String>> =
            self.left_out.iter().map(serde_json::to_string).collect();
        Ok(format!(
            "{{\n \"format\": {FORMAT},\n \"date\": {},\n \"scale\": {},\n \"machine\": {},\n \
             \"filesystem\": {},\n \"systems\": {},\n \"measures\": {},\n \"samples\": {{\n{}\n \
             }},\n \"failures\": {},\n \"left_out\": {}\n}}\n",
            serde_json::to_string(&self.date)?,
            serde_json::to_string(&self.scale)?,
            serde_json::to_string(&self.machine)?,
            serde_json::to_string(&self.filesystem)?,
            list(systems?),
            list(measures?),
            rows.join(",\n"),
            list(failures?),
            list(left_out?),
        ))
    }

    /// Takes in another run of the same kind: its samples come after the ones here; a workload that
    /// both have gains repetitions.
    ///
    /// # Errors
    /// When the runs were of different sizes or on different machines.
    pub fn merge(&mut self, other: Report) -> Result<()> {
        let differs = |what: &str| Err(Fault(format!("the runs differ in {what}: not merged")));
        if self.scale != other.scale {
            return differs("the sizes of their workloads");
        }
        if self.machine.kind != other.machine.kind || self.machine.kernel != other.machine.kernel {
            return differs("machine or kernel");
        }
        if self.filesystem != other.filesystem {
            return differs("the filesystem below");
        }
        for system in other.systems {
            match self.systems.iter().find(|s| s.name == system.name) {
                None => self.systems.push(system),
                Some(same) if same.options == system.options && same.version == system.version => {}
                Some(_) => return differs(&format!("what '{}' is", system.name)),
            }
        }
        for measure in other.measures {
            if self.measures.iter().all(|m| m.id != measure.id) {
                self.measures.push(measure);
            }
        }
        for (measure, cells) in other.samples {
            for (system, values) in cells {
                for value in values {
                    self.add(&measure, &system, value);
                }
            }
        }
        self.failures.extend(other.failures);
        for sentence in other.left_out {
            if !self.left_out.contains(&sentence) {
                self.left_out.push(sentence);
            }
        }
        self.date = self.date.clone().max(other.date);
        Ok(())
    }

    /// Orders rows and columns: rows as given, columns with the references first and then by name
    /// as given.
    pub fn order(&mut self, rows: &[String], columns: &[&str]) {
        let place = |list: &[String], id: &str| list.iter().position(|r| r == id);
        self.measures.sort_by_key(|m| place(rows, &m.id).unwrap_or(rows.len()));
        self.systems
            .sort_by_key(|s| columns.iter().position(|c| *c == s.name).unwrap_or(columns.len()));
    }
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// Five significant digits: more is noise, and kept runs would be twice as long.
fn significant(value: f64) -> f64 {
    format!("{value:.4e}").parse().unwrap_or(value)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::system::Kind;

    /// A small run with all that can be in one.
    pub fn example() -> Report {
        let system = |name: &str, kind| System {
            name: name.into(),
            kind,
            options: String::new(),
            user: name.ends_with("@u"),
            version: format!("{name} 1.0"),
        };
        let fuse = || Kind::Fuse("/usr/bin/x".into());
        let measure =
            |id: &str, label: &str, unit| Measure { id: id.into(), label: label.into(), unit };
        let mut report = Report {
            format: FORMAT,
            date: "2026-01-31".into(),
            scale: Scale::full(),
            machine: Machine {
                kind: "vm-2cpu".into(),
                cpus: 2,
                processor: "A processor".into(),
                memory: 1024,
                kernel: "6.18".into(),
            },
            filesystem: "ext4 in a loop image".into(),
            systems: vec![
                system("native", Kind::Native),
                system("overlay", Kind::Overlay),
                system("cowlfs", fuse()),
                system("cowlfs@u", fuse()),
            ],
            measures: vec![
                measure("stat/cached", "stat, cached", Unit::Seconds),
                measure("copyup/4096", "copy-up: 1-byte write into 4 KiB", Unit::Seconds),
                measure("copyup/1073741824", "copy-up: 1-byte write into 1 GiB", Unit::Seconds),
                measure("walk1/memory", "memory after walking", Unit::Bytes),
                measure("cpu:stat/cached", "stat, cached", Unit::CpuSeconds),
            ],
            samples: BTreeMap::new(),
            failures: vec![Failure {
                workload: "copyup".into(),
                system: "cowlfs@u".into(),
                reason: "it ended <too> early & left | nothing".into(),
            }],
            left_out: vec!["cold caches: not allowed here".into()],
        };
        for (measure, system, values) in [
            ("stat/cached", "native", [1.0e-6, 1.1e-6, 1.2e-6]),
            ("stat/cached", "overlay", [2.0e-6, 2.0e-6, 2.4e-6]),
            ("stat/cached", "cowlfs", [1.0e-6, 1.0e-6, 1.0e-6]),
            ("copyup/4096", "overlay", [1e-3, 1e-3, 1e-3]),
            ("copyup/4096", "cowlfs", [2.5e-4, 2.5e-4, 2.5e-4]),
            ("copyup/1073741824", "overlay", [0.7, 0.7, 0.8]),
            ("copyup/1073741824", "cowlfs", [5e-4, 5e-4, 5e-4]),
            ("walk1/memory", "cowlfs", [15e6, 15e6, 15e6]),
            ("cpu:stat/cached", "cowlfs", [0.01, 0.01, 0.02]),
        ] {
            for value in values {
                report.add(measure, system, value);
            }
        }
        report
    }

    #[test]
    fn json_reads_back_what_was_written() {
        let at = tempfile::tempdir().unwrap();
        let path = at.path().join("r.json");
        let report = example();
        report.write(&path).unwrap();
        assert_eq!(Report::read(&path).unwrap(), report);
        let mut empty = example();
        empty.samples.clear();
        empty.failures.clear();
        empty.left_out.clear();
        empty.write(&path).unwrap();
        assert_eq!(Report::read(&path).unwrap(), empty);
    }

    #[test]
    fn another_format_is_refused() {
        let at = tempfile::tempdir().unwrap();
        let path = at.path().join("r.json");
        std::fs::write(&path, "{\"format\": 2, \"new\": 1}").unwrap();
        assert!(Report::read(&path).unwrap_err().0.contains("format 2"));
        std::fs::write(&path, "[]").unwrap();
        assert!(Report::read(&path).unwrap_err().0.contains("no kept run"));
    }

    #[test]
    fn merged_runs_have_all_samples() {
        let mut a = example();
        let mut b = example();
        b.samples.remove("stat/cached");
        b.measures.retain(|m| m.id != "stat/cached");
        a.samples.remove("copyup/4096");
        a.merge(b.clone()).unwrap();
        assert_eq!(a.cell("stat/cached", "native").len(), 3);
        assert_eq!(a.cell("copyup/4096", "cowlfs").len(), 3);
        assert_eq!(a.cell("walk1/memory", "cowlfs").len(), 6);
        assert_eq!(a.left_out.len(), 1);
        b.machine.kernel = "6.19".into();
        assert!(a.merge(b.clone()).unwrap_err().0.contains("kernel"));
        b.machine.kernel = a.machine.kernel.clone();
        b.scale = Scale::quick();
        assert!(a.merge(b.clone()).unwrap_err().0.contains("sizes"));
        b.scale = Scale::full();
        b.systems[2].version = "cowlfs 2.0".into();
        assert!(a.merge(b).unwrap_err().0.contains("'cowlfs'"));
    }

    #[test]
    fn ratios_are_to_the_kernels_overlayfs() {
        let mut r = example();
        assert_eq!(r.reference().unwrap().name, "overlay");
        assert_eq!(r.ratio("stat/cached", "cowlfs", "overlay"), Some(0.5));
        assert_eq!(r.ratio("stat/cached", "cowlfs@u", "overlay"), None);
        r.systems.remove(1);
        assert_eq!(r.reference().unwrap().name, "native");
    }
}
