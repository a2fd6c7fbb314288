//! The comparison program keeps working: every workload, in tiny sizes, on a plain directory and
//! on cowlfs. The figures are not looked at.

// Helpers outside of test functions stop the test too.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn compare(arguments: &[&str]) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_compare"));
    let cowlfs = program.with_file_name("cowlfs");
    let known = std::env::var_os("COWLFS").is_some() || cowlfs.is_file();
    assert!(known, "no cowlfs: run `cargo build -p cowl-fs` first, or set COWLFS");
    Command::new(program).args(arguments).output().expect("start compare")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A directory that the user of the `@u` systems may enter.
fn place() -> tempfile::TempDir {
    let place = tempfile::Builder::new().prefix("cowl-compare-test-").tempdir().unwrap();
    fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
    place
}

fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn every_workload_runs_and_is_recorded() {
    let place = place();
    let at = |name: &str| place.path().join(name).display().to_string();
    let systems = if root() { "native,cowlfs,cowlfs@u" } else { "native,cowlfs" };
    let (json, record, dir) = (at("all.json"), at("record"), at("dir"));
    fs::create_dir(&dir).unwrap();
    let out = compare(&[
        "--tiny",
        "--warm",
        "--systems",
        systems,
        "--dir",
        &dir,
        "--json",
        &json,
        "--record",
        &record,
    ]);
    assert!(out.status.success(), "{}\n{}", text(&out.stdout), text(&out.stderr));
    let table = text(&out.stdout);
    assert!(table.contains("copy-up: 1-byte write into 1 MiB"), "{table}");
    assert!(!table.contains("failed") && !table.contains("FAILED"), "{table}");

    let report: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let systems: Vec<&str> = systems.split(',').collect();
    assert_eq!(report["systems"].as_array().unwrap().len(), systems.len(), "{report}");
    for measure in report["measures"].as_array().unwrap() {
        let id = measure["id"].as_str().unwrap();
        // Cold ones were not wanted; CPU time is there for steps of mount programs only.
        if id.ends_with("/cold") || id.starts_with("cpu:") {
            continue;
        }
        for system in &systems {
            let plain = *system == "native";
            let no_part = ["copyup", "chmod", "mount", "beside-copyup"];
            let own = id.split('/').next().unwrap();
            if plain && (no_part.contains(&own) || id.ends_with("memory")) {
                continue;
            }
            let samples = report["samples"][id][system].as_array();
            let good = |v: &Value| v.as_f64().is_some_and(|v| v > 0.0);
            assert!(samples.is_some_and(|s| s.len() == 1 && s.iter().all(good)), "{id} {system}");
        }
    }
    assert!(report["samples"]["cpu:untar/unpack"]["cowlfs"][0].as_f64().unwrap() > 0.0);

    let mut kept: Vec<String> = fs::read_dir(&record)
        .unwrap()
        .map(|e| e.unwrap().path().extension().unwrap().to_string_lossy().into_owned())
        .collect();
    kept.sort();
    assert_eq!(kept, ["json", "md", "svg", "svg", "svg"]);

    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&dir), "mounts are left:\n{mounts}");
    assert!(!Path::new(&dir).join("cowl-compare/run").exists(), "a union is left");

    let out = compare(&["--merge", &json, &json]);
    assert!(out.status.success() && text(&out.stdout).contains("up to 2 repetitions"));
}

/// A mount program that shows an empty directory: fast, and wrong.
#[test]
fn a_system_that_does_nothing_fails() {
    let place = place();
    let program = place.path().join("nothing");
    let script = "#!/bin/sh\nfor point; do :; done\nmount -t tmpfs none \"$point\" || exit 1\n\
                  while mountpoint -q \"$point\"; do sleep 0.02; done\n";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let json = place.path().join("r.json").display().to_string();
    let works = "stat,missing,open,walk10,read,rm-lower,git,gcc,copyup,chmod,mount,beside-copyup";
    let out = compare(&[
        "--tiny",
        "--warm",
        "--systems",
        "native",
        "--add",
        &format!("nothing={}", program.display()),
        "--workloads",
        works,
        "--dir",
        &place.path().display().to_string(),
        "--json",
        &json,
    ]);
    assert_eq!(out.status.code(), Some(1), "{}\n{}", text(&out.stdout), text(&out.stderr));
    let report: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let failed: Vec<&str> = report["failures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["workload"].as_str().unwrap())
        .collect();
    assert_eq!(failed, works.split(',').collect::<Vec<_>>(), "{report}");
    for cells in report["samples"].as_object().unwrap().values() {
        assert!(cells.get("nothing").is_none(), "it has figures: {report}");
    }
}

#[test]
fn what_cannot_be_done_is_said() {
    for (arguments, sentence) in [
        (&["--workloads", "nothing"][..], "no workload 'nothing'"),
        (&["--systems", "nothing"], "no system 'nothing'"),
        (&["--add", "x=/no/such/program"], "there is no program /no/such/program"),
        (&["--merge", "/no/such/file"], "read /no/such/file"),
    ] {
        let out = compare(arguments);
        assert_eq!(out.status.code(), Some(1), "{arguments:?}");
        let said = text(&out.stderr);
        assert!(said.starts_with("compare: ") && said.contains(sentence), "{said}");
    }
    let out = compare(&["--list"]);
    assert!(text(&out.stdout).lines().count() > 20);
}
