//! Compares union filesystems side by side: see [`cli::Args`] and benches/README.md.
//!
//! `cli` says what is wanted; `system` finds who takes part; `scratch` and `fixture` make the place
//! and what lies in it; `run` takes `workload`s through `mount`ed systems, repetition by
//! repetition, into a `report`; `table`, `plot` and `guard` show that.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

mod child;
mod cli;
mod content;
mod fault;
mod fixture;
mod guard;
mod host;
mod interrupt;
mod machine;
mod mount;
mod plot;
mod process;
mod progress;
mod readme;
mod report;
mod run;
mod scale;
mod scratch;
mod stats;
mod svg;
mod sys;
mod system;
mod table;
mod workload;

use cli::Args;
use fault::{Doing, Fault, Result};
use host::Caller;
use machine::Machine;
use report::{FORMAT, Report};

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    if let Some(code) = child::run(&arguments) {
        return code;
    }
    match start(&Args::parse()) {
        Ok(code) => code,
        Err(_) if interrupt::asked() => ExitCode::from(130),
        Err(fault) => {
            eprintln!("compare: {fault}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args) -> Result<ExitCode> {
    if args.list {
        for work in workload::all() {
            println!("{:<14} {}", work.name(), work.about(&args.scale()));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let report = if args.merge.is_empty() { measured(args)? } else { Some(merged(args)?) };
    let Some(report) = report else { return Ok(ExitCode::SUCCESS) };
    show(args, &report)?;
    if let Some(guard) = &args.guard {
        let (now, before) = guard
            .split_once(',')
            .ok_or_else(|| Fault("--guard takes two systems: NOW,BEFORE".into()))?;
        let (text, slower) = guard::compare(&report, now, before);
        print!("\n{text}");
        return Ok(ExitCode::from(u8::from(slower > 0 || !report.failures.is_empty())));
    }
    Ok(ExitCode::from(u8::from(!report.failures.is_empty())))
}

fn merged(args: &Args) -> Result<Report> {
    let mut all: Option<Report> = None;
    for path in &args.merge {
        let next = Report::read(path)?;
        match &mut all {
            None => all = Some(next),
            Some(report) => {
                report.merge(next).doing(|| format!("merge {}", path.display()))?;
            }
        }
    }
    let mut report = all.ok_or_else(|| Fault("nothing to merge".into()))?;
    order(&mut report);
    Ok(report)
}

/// `None` when only fixtures were wanted.
fn measured(args: &Args) -> Result<Option<Report>> {
    let caller = host::enter()?;
    // After the namespaces, which a process with threads cannot enter.
    interrupt::watch().doing(|| "watch for Ctrl-C")?;
    let root = caller == Caller::Root;
    let wish =
        system::Wish { systems: args.systems.clone(), added: args.add.clone(), user: args.user };
    let (systems, mut left_out) = system::find(&wish, caller)?;
    let (works, without) = run::choose(&args.workloads)?;
    left_out.extend(without);
    let scale = args.scale();
    let wish = scratch::Wish {
        directory: args.dir.clone(),
        image: args.image.clone(),
        filesystem: args.fs.clone(),
    };
    let scratch = scratch::Scratch::new(&wish, &scale, root)?;
    if let Some(warning) = &scratch.warning {
        eprintln!("compare: {warning}");
    }
    let store = fixture::Store {
        directory: run::store_directory(&scratch.path)?,
        scale: scale.clone(),
        owner: root.then_some(args.uid),
    };
    if args.prepare {
        for work in works {
            eprintln!("compare: fixtures of {}", work.name());
            run::prepare(&store, work)?;
        }
        return Ok(None);
    }
    let run = run::Run {
        store: &store,
        directory: &scratch.path,
        uid: args.uid,
        limit: Duration::from_secs(args.timeout),
        cold: !args.warm && host::drop_caches(),
        repetitions: args.repetitions(),
        seed: args.seed,
    };
    let (systems, unusable) = run.usable(systems)?;
    left_out.extend(unusable);
    if args.warm {
        left_out.push("everything cold: --warm".into());
    } else if !run.cold {
        left_out.push("everything cold: only root may empty the kernel's caches".into());
    }
    if !root {
        left_out.push("systems as root: everything ran in a user namespace of the caller".into());
    }
    for sentence in &left_out {
        eprintln!("compare: left out: {sentence}");
    }
    if systems.is_empty() {
        return Err(Fault("no system is left to measure".into()));
    }
    let mut report = Report {
        format: FORMAT,
        date: machine::today(),
        scale,
        machine: Machine::here(),
        filesystem: scratch.description.clone(),
        systems,
        measures: works.iter().flat_map(|work| workload::rows(*work, &store.scale)).collect(),
        samples: std::collections::BTreeMap::new(),
        failures: Vec::new(),
        left_out,
    };
    let keep = |report: &Report| args.json.as_ref().map_or(Ok(()), |path| report.write(path));
    run.measure(&works, &mut report, keep)?;
    order(&mut report);
    Ok(Some(report))
}

/// Rows in the order of the list of workloads; the references first among the columns.
fn order(report: &mut Report) {
    let rows: Vec<String> = workload::all()
        .into_iter()
        .flat_map(|work| workload::rows(work, &report.scale))
        .map(|row| row.id)
        .collect();
    report.order(&rows, &[system::NATIVE, system::OVERLAY]);
}

fn show(args: &Args, report: &Report) -> Result<()> {
    if args.guard.is_none() {
        print!("{}", table::text(report));
    }
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    if let Some(path) = &args.md {
        write(path, &table::markdown(report))?;
    }
    if let Some(directory) = &args.svg {
        plots(report, directory, "")?;
    }
    if let Some(directory) = &args.record {
        let name = report.name();
        std::fs::create_dir_all(directory).doing(|| format!("make {}", directory.display()))?;
        report.write(&directory.join(format!("{name}.json")))?;
        write(&directory.join(format!("{name}.md")), &table::markdown(report))?;
        plots(report, directory, &format!("{name}-"))?;
        if let Some(path) = &args.readme {
            readme::update(path, report, directory)?;
        }
    }
    Ok(())
}

fn plots(report: &Report, directory: &Path, prefix: &str) -> Result<()> {
    std::fs::create_dir_all(directory).doing(|| format!("make {}", directory.display()))?;
    let pictures = [
        ("copyup", plot::copyup(report)),
        ("walk", plot::walk(report)),
        ("ratios", plot::bars(report)),
    ];
    for (name, picture) in pictures {
        if let Some(picture) = picture {
            write(&directory.join(format!("{prefix}{name}.svg")), &picture)?;
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).doing(|| format!("write {}", path.display()))
}
