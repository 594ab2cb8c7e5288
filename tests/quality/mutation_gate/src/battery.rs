//! What is run against one mutation.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::builds::{Check, Cost};
use crate::program::{Failed, Ran, Which, run};
use triarch_mutation::Mutation;

/// A test that fails under a mutation and passes without it.
#[derive(Debug, Clone)]
pub struct Caught {
    /// The program of tests.
    pub check: String,
    /// The test in it.
    pub test: String,
}

/// What came of one mutation.
#[derive(Debug)]
pub struct Outcome {
    /// Which one.
    pub mutation: Mutation,
    /// By whom it was noticed, the cheapest first. Nobody: it survived.
    pub caught: Vec<Caught>,
    /// Tests that failed under it and then did not say the same again; they do not count.
    pub unsteady: Vec<Caught>,
    /// How long it took.
    pub took: Duration,
}

/// Cheap tests that have passed without any mutation. They are steady, so that is asked once.
pub type Steady = HashSet<(String, String)>;

/// Runs the battery against one mutation.
pub fn against(
    mutation: Mutation,
    checks: &[Check],
    steady: &mut Steady,
) -> std::io::Result<Outcome> {
    let begun = Instant::now();
    let mut outcome = Outcome {
        mutation,
        caught: Vec::new(),
        unsteady: Vec::new(),
        took: Duration::ZERO,
    };
    let able = || {
        let home = mutation.home();
        checks.iter().filter(move |check| check.has_code_of(home))
    };
    for check in able().filter(|check| check.cost == Cost::Cheap) {
        let ran = run(check, Which::All, Some(mutation), &mut |_| false)?;
        // One of a program is enough to be sure of all of it: the cheap ones are steady.
        if let Some(first) = ran.failed.first() {
            let name = (check.name.clone(), first.test.clone());
            let sure = match steady.contains(&name) {
                true => fails(check, first, mutation)?,
                false => is_caught(check, first, mutation)?,
            };
            if sure {
                steady.insert(name);
            }
            let found = ran.failed.iter().map(|failed| named(check, failed));
            match sure {
                true => outcome.caught.extend(found),
                false => outcome.unsteady.extend(found),
            }
        }
    }
    let held_by = mutation.held_by();
    let turns = match held_by.is_empty() {
        true => vec![Which::All],
        false => vec![Which::Named(held_by), Which::Others(held_by)],
    };
    for which in turns {
        for check in able().filter(|check| check.cost == Cost::Costly) {
            if outcome.caught.is_empty() {
                ask(check, which, &mut outcome)?;
            }
        }
    }
    outcome.took = begun.elapsed();
    Ok(outcome)
}

/// Runs a costly check until it has caught the mutation.
fn ask(check: &Check, which: Which<'_>, outcome: &mut Outcome) -> std::io::Result<()> {
    let mutation = outcome.mutation;
    let mut asked = Ok(());
    let Outcome {
        caught, unsteady, ..
    } = outcome;
    let mut judge = |failed: &Failed| match is_caught(check, failed, mutation) {
        Ok(true) => {
            caught.push(named(check, failed));
            true
        }
        Ok(false) => {
            unsteady.push(named(check, failed));
            false
        }
        Err(error) => {
            asked = Err(error);
            true
        }
    };
    let ran = run(check, which, Some(mutation), &mut judge)?;
    // What ended without a test's name was not judged yet.
    if let [only] = ran.failed.as_slice()
        && only.test.starts_with('(')
    {
        judge(only);
    }
    asked
}

/// Whether the test, alone, passes without the mutation and fails with it.
fn is_caught(check: &Check, failed: &Failed, mutation: Mutation) -> std::io::Result<bool> {
    let without = alone(check, failed, None)?;
    if !without.failed.is_empty() || without.passed == 0 {
        return Ok(false);
    }
    fails(check, failed, mutation)
}

/// Whether the test fails, alone.
fn fails(check: &Check, failed: &Failed, mutation: Mutation) -> std::io::Result<bool> {
    Ok(!alone(check, failed, Some(mutation))?.failed.is_empty())
}

/// Runs the test alone; the whole program if it cannot be told which test it was.
fn alone(check: &Check, failed: &Failed, mutation: Option<Mutation>) -> std::io::Result<Ran> {
    let which = match failed.test.starts_with('(') {
        true => Which::All,
        false => Which::Exactly(&failed.test),
    };
    run(check, which, mutation, &mut |_| true)
}

fn named(check: &Check, failed: &Failed) -> Caught {
    Caught {
        check: check.name.clone(),
        test: failed.test.clone(),
    }
}

/// What fails without any mutation. One that fails once and not again is only busy.
pub fn unmutated(checks: &[Check]) -> std::io::Result<Vec<Caught>> {
    let mut failed = Vec::new();
    for check in checks {
        let ran = run(check, Which::All, None, &mut |_| false)?;
        for one in &ran.failed {
            let again = run(check, Which::Exactly(&one.test), None, &mut |_| true)?;
            if !again.failed.is_empty() || again.passed == 0 {
                failed.push(named(check, one));
            }
        }
    }
    Ok(failed)
}
