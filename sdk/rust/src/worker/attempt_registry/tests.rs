//! The registry of attempts.

use super::*;
use crate::wire::{Problem, ProblemCode, ReportStatus, ResultAcknowledgement};

fn key(task: &str, token: u64) -> LeaseKey {
    LeaseKey {
        task: task.to_owned(),
        token,
    }
}

fn accepted(task: &str) -> ResultAcknowledgement {
    ResultAcknowledgement {
        task: task.to_owned(),
        accepted: true,
        code: None,
        field: None,
        detail: None,
    }
}

fn ended(attempts: &AttemptRegistry, task: &str, token: u64) {
    attempts.begin(key(task, token)).expect("not held yet");
    attempts.end(&key(task, token), Outcome::Succeeded(None));
}

#[test]
fn a_result_stays_until_it_is_acknowledged() {
    let attempts = Arc::new(AttemptRegistry::new(2));
    ended(&attempts, "t1-0", 7);
    assert_eq!((attempts.free(), attempts.is_idle()), (2, false));
    assert_eq!(attempts.held_leases().len(), 1);

    let mut taken = attempts.take_results(BatchKind::Report);
    assert_eq!(taken.results().len(), 1);
    assert!(!attempts.has_results());
    drop(taken);
    assert!(attempts.has_results(), "an unsettled result is there again");

    attempts
        .take_results(BatchKind::Report)
        .settle(&[accepted("t1-0")]);
    assert!(attempts.is_idle());
}

#[test]
fn word_about_an_old_lease_does_not_touch_a_new_one() {
    let attempts = Arc::new(AttemptRegistry::new(2));
    let old = attempts.begin(key("t1-0", 7)).expect("new");
    let sent = attempts.held_leases();
    attempts.end(&key("t1-0", 7), Outcome::failed("x", "y"));
    attempts
        .take_results(BatchKind::Report)
        .settle(&[accepted("t1-0")]);
    let new = attempts.begin(key("t1-0", 9)).expect("new");

    attempts.disown(&["t1-0".to_owned()], &sent, StopReason::Lost);
    assert_eq!((old.stop_reason(), new.stop_reason()), (None, None));

    let sent = attempts.held_leases();
    attempts.disown(&["t1-0".to_owned()], &sent, StopReason::Cancelled);
    assert_eq!(new.stop_reason(), Some(StopReason::Cancelled));
    attempts.end(&key("t1-0", 9), Outcome::Succeeded(None));
    assert!(
        attempts.is_idle(),
        "nothing of a cancelled attempt is reported"
    );
}

#[test]
fn a_newer_lease_of_the_same_task_ends_the_older() {
    let attempts = Arc::new(AttemptRegistry::new(2));
    let old = attempts.begin(key("t1-0", 7)).expect("new");
    attempts.begin(key("t1-0", 9)).expect("new");
    assert_eq!(old.stop_reason(), Some(StopReason::Lost));
    assert!(
        attempts.begin(key("t1-0", 9)).is_none(),
        "the same lease twice is one attempt"
    );
}

#[test]
fn a_refused_report_is_taken_apart_and_never_repeated_for_ever() {
    let attempts = Arc::new(AttemptRegistry::new(4));
    ended(&attempts, "t1-0", 7);
    ended(&attempts, "t2-0", 8);
    let problem = Problem::new(ProblemCode::PayloadTooLarge, "1 MiB");
    attempts.take_results(BatchKind::Report).refused(&problem);
    assert!(
        attempts.take_results(BatchKind::Poll).is_empty(),
        "work is not held up by it"
    );

    let mut taken = attempts.take_results(BatchKind::Report);
    assert_eq!(taken.results().len(), 1);
    taken.refused(&problem);
    let mut taken = attempts.take_results(BatchKind::Report);
    let replaced = taken.results();
    assert_eq!(replaced[0].status, ReportStatus::Failed);
    taken.refused(&problem);

    let mut taken = attempts.take_results(BatchKind::Report);
    assert_eq!(taken.results()[0].task, "t2-0");
    taken.settle(&[accepted("t2-0")]);
    assert!(attempts.is_idle());
}

#[test]
fn an_attempt_stopped_because_of_its_worker_is_no_failure() {
    let attempts = Arc::new(AttemptRegistry::new(4));
    for (task, outcome) in [
        ("t1-0", Outcome::failed("signal", "SIGTERM")),
        ("t2-0", Outcome::Stopped),
        ("t3-0", Outcome::Succeeded(None)),
    ] {
        attempts.begin(key(task, 1)).expect("new");
        attempts.stop_running(StopReason::ShuttingDown);
        attempts.end(&key(task, 1), outcome);
    }
    let results = attempts.take_results(BatchKind::Report).results();
    assert_eq!(
        results
            .iter()
            .map(|one| one.task.as_str())
            .collect::<Vec<_>>(),
        ["t3-0"]
    );
}

#[test]
fn a_time_limit_without_an_outcome_is_a_failure() {
    let attempts = Arc::new(AttemptRegistry::new(1));
    attempts.begin(key("t1-0", 1)).expect("new");
    attempts.stop_running(StopReason::TimedOut);
    attempts.end(&key("t1-0", 1), Outcome::Stopped);
    let results = attempts.take_results(BatchKind::Report).results();
    let error = results[0].error.as_ref().expect("failed");
    assert!(error.get().contains("\"timeout\""), "{error}");
}

#[test]
fn an_unknown_worker_holds_nothing() {
    let attempts = Arc::new(AttemptRegistry::new(2));
    ended(&attempts, "t1-0", 7);
    let context = attempts.begin(key("t2-0", 8)).expect("new");
    attempts.disown_all();
    assert_eq!(context.stop_reason(), Some(StopReason::Lost));
    attempts.end(&key("t2-0", 8), Outcome::Succeeded(None));
    assert!(attempts.is_idle());
}

fn refused(task: &str, code: &str, detail: &str) -> ResultAcknowledgement {
    ResultAcknowledgement {
        accepted: false,
        code: Some(code.to_owned()),
        detail: Some(detail.to_owned()),
        ..accepted(task)
    }
}

#[test]
fn a_refused_poll_blames_no_result() {
    let attempts = Arc::new(AttemptRegistry::new(2));
    ended(&attempts, "t1-0", 7);
    let mut taken = attempts.take_results(BatchKind::Poll);
    assert_eq!(taken.results().len(), 1);
    taken.refused_with_poll();
    assert!(attempts.take_results(BatchKind::Poll).is_empty());
    let mut taken = attempts.take_results(BatchKind::Report);
    assert_eq!(taken.results()[0].status, ReportStatus::Succeeded);
    taken.settle(&[accepted("t1-0")]);
    assert!(attempts.is_idle());
}

#[test]
fn a_refusal_that_is_not_about_the_report_keeps_the_results() {
    let attempts = Arc::new(AttemptRegistry::new(2));
    ended(&attempts, "t1-0", 7);
    let codes = [ProblemCode::Forbidden, ProblemCode::NotFound];
    for code in codes.into_iter().cycle().take(4) {
        let problem = Problem::new(code, "not now");
        attempts.take_results(BatchKind::Report).refused(&problem);
    }
    let mut taken = attempts.take_results(BatchKind::Report);
    assert_eq!(taken.results()[0].status, ReportStatus::Succeeded);
}

#[test]
fn a_result_that_the_cluster_cannot_take_becomes_a_failure_with_the_reason() {
    let attempts = Arc::new(AttemptRegistry::new(2));
    for (code, kind) in [
        ("invalid_request", "result_refused"),
        ("payload_too_large", "result_too_large"),
    ] {
        ended(&attempts, "t1-0", 7);
        ended(&attempts, "t2-0", 8);
        let verdicts = [
            refused("t1-0", code, "nested deeper than 64"),
            accepted("t2-0"),
        ];
        attempts.take_results(BatchKind::Report).settle(&verdicts);
        let mut taken = attempts.take_results(BatchKind::Report);
        let results = taken.results();
        assert_eq!(
            (results.len(), results[0].status),
            (1, ReportStatus::Failed)
        );
        let error = results[0].error.as_ref().expect("a reason").get();
        assert!(error.contains(kind), "{error}");
        assert!(
            code != "invalid_request" || error.contains("nested deeper"),
            "{error}"
        );
        taken.settle(&[refused("t1-0", code, "again")]);
        assert!(attempts.is_idle(), "never reported for ever");
    }
}

#[test]
fn an_attempt_that_could_not_begin_is_returned_and_pauses_the_polls() {
    let attempts = Arc::new(AttemptRegistry::new(2));
    assert_eq!(attempts.paused_until(), None);
    attempts.begin(key("t1-0", 7)).expect("new");
    let reason = "too many open files".to_owned();
    attempts.end(&key("t1-0", 7), Outcome::Returned { reason });
    assert!(attempts.paused_until().is_some());
    let mut taken = attempts.take_results(BatchKind::Report);
    let results = taken.results();
    assert_eq!(
        (results[0].status, results[0].token),
        (ReportStatus::Returned, 7)
    );
    // A cluster that does not know of returns: the lease ends by itself, and the task does not fail.
    taken.refused(&Problem::new(
        ProblemCode::InvalidRequest,
        "unknown variant",
    ));
    assert!(attempts.is_idle());
}
