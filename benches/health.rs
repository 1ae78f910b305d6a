//! A health run as cron starts it, in a process of its own, quick and of every byte, against SQLite's
//! `PRAGMA integrity_check` of the same content: `cargo bench --bench health`.

#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use memento_kv::Result;
use memento_kv::health::{RunOptions, Status, run};
use memento_kv::home::{HomeInputs, locate};
use support::{Args, fill, median, sqlite};

const HELP: &str = "\
The same memories in a store and in SQLite's table of the original. A first health run publishes memory.db and makes a
backup; then quick runs and runs of every byte, each in a fresh process, in turns with SQLite's integrity check.

  --memories N  memories with vectors of 384 dimensions (100000)
  --rounds N    runs of each kind (9)
  --dir DIR     where the files are made; about 14 KB a memory";

fn main() -> Result<()> {
    if let (Some(home), depth) = (std::env::var_os("HEALTH_HOME"), std::env::var("HEALTH_DEPTH")) {
        return one_run(Path::new(&home), depth.is_ok_and(|depth| depth == "deep"));
    }
    let args = Args::parse(HELP);
    let folder = args.folder();
    let rounds = args.number("--rounds", 9, 1);
    let memories = args.number("--memories", 100_000, 500);
    let (home, database) = (folder.path().join("home"), folder.path().join("memory.db"));
    fill(&home, memories)?;
    sqlite::fill(&database, memories);
    std::fs::write(home.join("config.yaml"), "embed:\n  model: builtin:none\n").expect("written");
    let first = child(&home, "deep");
    println!("first run of {memories} memories, with memory.db and a backup: {:.2} s", first.seconds);
    let (mut quick, mut deep, mut check, mut integrity) = (vec![], vec![], vec![], vec![]);
    let (mut quick_mib, mut deep_mib) = (0.0_f64, 0.0_f64);
    for _ in 0..rounds {
        let ran = child(&home, "quick");
        quick.push(ran.seconds);
        quick_mib = quick_mib.max(ran.mib);
        let ran = child(&home, "deep");
        deep.push(ran.seconds);
        check.push(ran.check_seconds);
        deep_mib = deep_mib.max(ran.mib);
        let start = Instant::now();
        assert!(sqlite::is_ok(&database));
        integrity.push(start.elapsed().as_secs_f64());
    }
    let [quick, deep, check, integrity] = [quick, deep, check, integrity].map(median);
    println!("quick run: {quick:.3} s, at most {quick_mib:.0} MiB resident");
    println!(
        "run of every byte: {deep:.3} s, of which the check took {check:.3} s, at most {deep_mib:.0} MiB resident; \
         SQLite's integrity_check {integrity:.3} s: {:.2} of it",
        deep / integrity
    );
    Ok(())
}

/// What a run in a process of its own took.
struct Ran {
    seconds: f64,
    check_seconds: f64,
    mib: f64,
}

fn child(home: &Path, depth: &str) -> Ran {
    let exe = std::env::current_exe().expect("this program");
    let start = Instant::now();
    let output =
        Command::new(exe).env("HEALTH_HOME", home).env("HEALTH_DEPTH", depth).output().expect("it starts");
    let seconds = start.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said} {}", String::from_utf8_lossy(&output.stderr));
    let mut figures = said.split_whitespace().map(|figure| figure.parse::<f64>().expect("a number"));
    let mut next = || figures.next().expect("two figures");
    Ran { seconds, check_seconds: next() / 1000.0, mib: next() / 1024.0 }
}

/// In the child: one run; prints what its check took, in milliseconds, and the most memory that was resident, in KiB.
fn one_run(home: &Path, deep: bool) -> Result<()> {
    let home = locate(&HomeInputs::of_process(Some(home.to_owned())))?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    let options = RunOptions { deep, ..RunOptions::default() };
    let report = run(&home, &options, now.as_millis() as i64, &mut |_, _| {})?;
    assert_eq!(report.status, Status::Ok, "{report:?}");
    let check = report.steps.iter().find(|step| step.step == "check").map_or(0, |step| step.took_ms);
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux system");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the most memory");
    println!("{check} {}", peak.trim().trim_end_matches(" kB"));
    Ok(())
}
