//! Determinism and sensitivity of the simulation. The same seed gives the same run: every frame of every process is
//! equal, to the nanosecond. A run fails when a basic guarantee is removed.

use std::path::PathBuf;
use std::process::Command;

/// Returns the path of the masters' program: `TRIARCH_BIN`, or the program of the workspace.
fn program() -> PathBuf {
    if let Some(given) = std::env::var_os("TRIARCH_BIN") {
        return given.into();
    }
    let built = PathBuf::from(env!("CARGO_BIN_EXE_triarch-sim")).with_file_name("triarch");
    assert!(
        built.is_file(),
        "{} is not there: build it first, or say with TRIARCH_BIN where it is",
        built.display()
    );
    built
}

fn run(seed: u64) -> (String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_triarch-sim"))
        .args(["--seed", &seed.to_string(), "--program"])
        .arg(program())
        .output()
        .expect("the simulation starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    let mut words = text.split_whitespace().skip_while(|word| *word != "trace");
    let trace = words.nth(1).unwrap_or_else(|| panic!("no trace in {text}"));
    (trace.to_string(), text)
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [1, 2, 3] {
        let (first, report) = run(seed);
        let (second, second_report) = run(seed);
        assert_eq!(
            first, second,
            "seed {seed}: {report}\nand again: {second_report}"
        );
    }
}

#[test]
fn another_seed_gives_another_run() {
    assert_ne!(run(4).0, run(5).0);
}

/// Returns the first of some seeds that fails without this guarantee, and its message.
fn fails_without(what: &str) -> (u64, String) {
    for seed in 1..=40 {
        let output = Command::new(env!("CARGO_BIN_EXE_triarch-sim"))
            .args(["--seed", &seed.to_string(), "--weaken", what, "--program"])
            .arg(program())
            .output()
            .expect("the simulation starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.code() {
            Some(0) => {}
            Some(1) => return (seed, text),
            other => panic!("seed {seed} could not run ({other:?}): {text}"),
        }
    }
    panic!("40 seeds without {what}, and no rule was broken");
}

#[test]
fn disks_that_lie_about_syncs_are_found_out() {
    let (seed, report) = fails_without("syncs");
    println!("seed {seed}: {report}");
}

#[test]
fn reads_that_are_old_are_found_out() {
    let (seed, report) = fails_without("reads");
    // The violation is found by an invariant of the simulation or by a rule of the history checker.
    let noticed = ["reads are current", "recency"].map(|rule| report.contains(rule));
    assert!(noticed.contains(&true), "seed {seed}: {report}");
}
