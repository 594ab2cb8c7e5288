//! `triarch-mutation-gate`, which `scripts/mutation.sh` runs after the build: every test and drill against every
//! mutation.
//!
//! A mutation is detected when a test fails with it and passes without it, run alone both times, in direct succession.
//! This is necessary because tests also fail on a busy machine. For cheap tests, whose results are stable, the run
//! without mutations is done once. All cheap tests run, so that the table shows how many detect a bug. The costly ones
//! run until one detects it, first those for the violated guarantee.
//!
//! The gate does not contain the mutations themselves. They are in the product, one line each.
//!
//! ```text
//! triarch-mutation-gate --list
//! triarch-mutation-gate --builds FILE [--table FILE] [--skip-unmutated] [NAME…]
//! ```
//!
//! `FILE` contains the messages of cargo from the build of the tests with the feature `mutations`.

mod battery;
mod builds;
mod program;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use triarch_mutation::Mutation;

/// Exit code if a mutation survived, or tests fail without any.
const FAILED: u8 = 1;
/// Exit code if the run was not possible.
const UNUSABLE: u8 = 2;

struct Wanted {
    builds: PathBuf,
    table: Option<PathBuf>,
    unmutated: bool,
    mutations: Vec<Mutation>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["--list"] {
        for mutation in Mutation::ALL {
            println!("{:32} {}", mutation.name(), mutation.breaks());
        }
        return ExitCode::SUCCESS;
    }
    let tried = read(arguments).and_then(|wanted| run(&wanted));
    match tried {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(UNUSABLE)
        }
    }
}

fn read(arguments: Vec<String>) -> Result<Wanted, String> {
    let (mut builds, mut table, mut unmutated, mut mutations) = (None, None, true, Vec::new());
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let mut file = || {
            let given = arguments.next().map(PathBuf::from);
            given.ok_or_else(|| format!("{argument} wants a file"))
        };
        match argument.as_str() {
            "--builds" => builds = Some(file()?),
            "--table" => table = Some(file()?),
            "--skip-unmutated" => unmutated = false,
            name => mutations
                .push(Mutation::named(name).ok_or_else(|| {
                    format!("there is no mutation {name}; --list names them all")
                })?),
        }
    }
    if mutations.is_empty() {
        mutations = Mutation::ALL.to_vec();
    }
    let builds = builds.ok_or("--builds FILE is missing; scripts/mutation.sh makes it")?;
    Ok(Wanted {
        builds,
        table,
        unmutated,
        mutations,
    })
}

fn run(wanted: &Wanted) -> Result<bool, String> {
    let messages = std::fs::read_to_string(&wanted.builds)
        .map_err(|error| format!("cannot read {}: {error}", wanted.builds.display()))?;
    let checks = builds::checks(&messages)?;
    let stuck = |error: std::io::Error| format!("a test program could not be run: {error}");
    let begun = Instant::now();
    if wanted.unmutated {
        let failed = battery::unmutated(&checks).map_err(stuck)?;
        for one in &failed {
            println!("{} {} fails without any mutation", one.check, one.test);
        }
        if !failed.is_empty() {
            return Ok(false);
        }
        println!(
            "{:32} {:>4} s  all pass",
            "(none)",
            begun.elapsed().as_secs()
        );
    }
    let mut outcomes = Vec::new();
    let mut steady = battery::Steady::new();
    for mutation in &wanted.mutations {
        let result = battery::against(*mutation, &checks, &mut steady).map_err(stuck)?;
        println!("{}", report::line(&result));
        outcomes.push(result);
    }
    if let Some(path) = &wanted.table {
        std::fs::write(path, report::table(&outcomes))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    let survived = outcomes.iter().filter(|one| one.caught.is_empty()).count();
    println!(
        "{} mutations, {} caught, {survived} survived, {} s",
        outcomes.len(),
        outcomes.len() - survived,
        begun.elapsed().as_secs()
    );
    Ok(survived == 0)
}
