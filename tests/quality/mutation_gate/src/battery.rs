//! The tests that run against one mutation, and their results.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::builds::{Check, Cost};
use crate::program::{Failed, TestRun, TestSelection, run};
use triarch_mutation::Mutation;

/// A test that fails under a mutation and passes without it.
#[derive(Debug, Clone)]
pub struct Caught {
    /// The test program.
    pub check: String,
    /// The test in the program.
    pub test: String,
}

/// Result of one mutation.
#[derive(Debug)]
pub struct MutationResult {
    /// TestSelection one.
    pub mutation: Mutation,
    /// Tests that detected it, the cheapest first. If there are none, the mutation survived.
    pub caught: Vec<Caught>,
    /// Tests that failed under it once and not again. They do not count.
    pub unsteady: Vec<Caught>,
    /// Duration of all tests.
    pub took: Duration,
}

/// Cheap tests that have passed without any mutation. Their results are stable, so they run once without a mutation.
pub type Steady = HashSet<(String, String)>;

/// Runs all tests against one mutation.
pub fn against(
    mutation: Mutation,
    checks: &[Check],
    steady: &mut Steady,
) -> std::io::Result<MutationResult> {
    let begun = Instant::now();
    let mut result = MutationResult {
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
        let run_result = run(check, TestSelection::All, Some(mutation), &mut |_| false)?;
        // One confirmed test is enough for a program of cheap tests, because their results are stable.
        if let Some(first) = run_result.failed.first() {
            let name = (check.name.clone(), first.test.clone());
            let sure = match steady.contains(&name) {
                true => fails(check, first, mutation)?,
                false => is_caught(check, first, mutation)?,
            };
            if sure {
                steady.insert(name);
            }
            let found = run_result.failed.iter().map(|failed| named(check, failed));
            match sure {
                true => result.caught.extend(found),
                false => result.unsteady.extend(found),
            }
        }
    }
    let held_by = mutation.held_by();
    let turns = match held_by.is_empty() {
        true => vec![TestSelection::All],
        false => vec![
            TestSelection::Named(held_by),
            TestSelection::Others(held_by),
        ],
    };
    for selection in turns {
        for check in able().filter(|check| check.cost == Cost::Costly) {
            if result.caught.is_empty() {
                ask(check, selection, &mut result)?;
            }
        }
    }
    result.took = begun.elapsed();
    Ok(result)
}

/// Runs a costly check until it has detected the mutation.
fn ask(
    check: &Check,
    selection: TestSelection<'_>,
    result: &mut MutationResult,
) -> std::io::Result<()> {
    let mutation = result.mutation;
    let mut asked = Ok(());
    let MutationResult {
        caught, unsteady, ..
    } = result;
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
    let run_result = run(check, selection, Some(mutation), &mut judge)?;
    // An end without the name of a test is not confirmed yet.
    if let [only] = run_result.failed.as_slice()
        && only.test.starts_with('(')
    {
        judge(only);
    }
    asked
}

/// Returns whether the test, alone, passes without the mutation and fails with it.
fn is_caught(check: &Check, failed: &Failed, mutation: Mutation) -> std::io::Result<bool> {
    let without = alone(check, failed, None)?;
    if !without.failed.is_empty() || without.passed == 0 {
        return Ok(false);
    }
    fails(check, failed, mutation)
}

/// Returns whether the test fails, alone.
fn fails(check: &Check, failed: &Failed, mutation: Mutation) -> std::io::Result<bool> {
    Ok(!alone(check, failed, Some(mutation))?.failed.is_empty())
}

/// Runs the test alone, or the whole program if the name of the test is not known.
fn alone(check: &Check, failed: &Failed, mutation: Option<Mutation>) -> std::io::Result<TestRun> {
    let selection = match failed.test.starts_with('(') {
        true => TestSelection::All,
        false => TestSelection::Exactly(&failed.test),
    };
    run(check, selection, mutation, &mut |_| true)
}

fn named(check: &Check, failed: &Failed) -> Caught {
    Caught {
        check: check.name.clone(),
        test: failed.test.clone(),
    }
}

/// Returns the tests that fail without any mutation. A test that fails once and not again was slowed by a busy machine.
pub fn unmutated(checks: &[Check]) -> std::io::Result<Vec<Caught>> {
    let mut failed = Vec::new();
    for check in checks {
        let run_result = run(check, TestSelection::All, None, &mut |_| false)?;
        for one in &run_result.failed {
            let again = run(check, TestSelection::Exactly(&one.test), None, &mut |_| {
                true
            })?;
            if !again.failed.is_empty() || again.passed == 0 {
                failed.push(named(check, one));
            }
        }
    }
    Ok(failed)
}
