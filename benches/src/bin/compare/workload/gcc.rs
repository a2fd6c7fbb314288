//! Compiling C files, as many at a time as there are CPUs.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::{Place, Plain, Result, Samples, Session, Unit, Workload, one, timed, unknown};
use crate::fault::{Doing, Fault, check};
use crate::fixture::Fixture;
use crate::scale::Scale;

/// See the module.
pub struct Gcc;

impl Workload for Gcc {
    fn name(&self) -> &'static str {
        "gcc"
    }

    fn about(&self, scale: &Scale) -> String {
        format!("gcc -O0 -c of {} small C files in the union, one a CPU", scale.sources)
    }

    fn measures(&self, scale: &Scale) -> Vec<(String, String, Unit)> {
        vec![("compile".into(), format!("gcc, {} files", scale.sources), Unit::Seconds)]
    }

    fn fixture(&self) -> Fixture {
        Fixture::Sources
    }

    fn programs(&self) -> &'static [&'static str] {
        &["gcc"]
    }

    fn plain(&self) -> Plain {
        Plain::Copy
    }

    fn drive(&self, session: &mut Session<'_>) -> Result<()> {
        session.mount()?;
        session.measure("compile")?;
        session.check("verify")
    }

    fn step(&self, step: &str, place: &Place) -> Result<Samples> {
        let files = place.store.scale.sources;
        match step {
            "compile" => {
                let next = AtomicUsize::new(0);
                let compile = || -> Result<()> {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= files {
                            return Ok(());
                        }
                        let mut gcc = Command::new("gcc");
                        gcc.current_dir(&place.root)
                            .args(["-O0", "-c"])
                            .arg(format!("s{number}.c"));
                        timed(gcc, "gcc")?;
                    }
                };
                let jobs = std::thread::available_parallelism().map_or(1, usize::from);
                let start = Instant::now();
                std::thread::scope(|scope| -> Result<()> {
                    let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(compile)).collect();
                    for thread in threads {
                        thread.join().map_err(|_| Fault("a thread failed".into()))??;
                    }
                    Ok(())
                })?;
                Ok(one(step, start.elapsed().as_secs_f64()))
            }
            "verify" => {
                for number in 0..files {
                    let path = place.root.join(format!("s{number}.o"));
                    let object =
                        std::fs::read(&path).doing(|| format!("read {}", path.display()))?;
                    check(object.starts_with(b"\x7fELF"), || {
                        format!("{} is no object file", path.display())
                    })?;
                }
                Ok(Vec::new())
            }
            _ => unknown(step),
        }
    }
}
