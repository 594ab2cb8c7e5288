//! The retry policy, without sockets and without clocks.

use reqwest::header::HeaderValue;

use super::*;
use crate::client::masters::parse_masters;

const MS: Duration = Duration::from_millis(1);

fn masters(count: usize) -> (Vec<Url>, Masters) {
    let urls = parse_masters("a:1,b:2,c:3").expect("valid");
    let masters = Masters::new(&urls[..count]).expect("not empty");
    (urls, masters)
}

fn policy() -> RetryPolicy {
    RetryPolicy {
        deadline: 30_000 * MS,
        unreachable_deadline: Some(5_000 * MS),
        answer_timeout: 3_000 * MS,
        hold: Duration::ZERO,
        mutating: true,
        once: false,
        request_id: Some("key-1".to_owned()),
    }
}

fn answer(status: u16, headers: &[(&'static str, &str)], body: &[u8]) -> AttemptOutcome {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, HeaderValue::from_str(value).expect("valid"));
    }
    AttemptOutcome::Answered {
        url: Url::parse("http://a:1/v1/jobs?x=1").expect("valid"),
        status: StatusCode::from_u16(status).expect("valid"),
        headers: map,
        body: Bytes::copy_from_slice(body),
    }
}

fn problem(problem: &Problem) -> AttemptOutcome {
    let body = serde_json::to_vec(problem).expect("serializable");
    answer(problem.status, &[("retry-after", "1")], &body)
}

fn send(attempts: &mut CallAttempts<'_>, elapsed: Duration) -> Attempt {
    match attempts.next(elapsed) {
        NextStep::Send(attempt) => attempt,
        step => panic!("{step:?}"),
    }
}

fn wait(attempts: &mut CallAttempts<'_>, elapsed: Duration) -> Duration {
    match attempts.next(elapsed) {
        NextStep::Wait(wait) => wait,
        step => panic!("{step:?}"),
    }
}

fn failure(attempts: &mut CallAttempts<'_>, elapsed: Duration) -> Error {
    match attempts.next(elapsed) {
        NextStep::Fail(error) => error,
        step => panic!("{step:?}"),
    }
}

fn retry(attempts: &mut CallAttempts<'_>, outcome: AttemptOutcome) {
    let progress = attempts.record(outcome);
    assert!(matches!(progress, Progress::Retry), "{progress:?}");
}

#[test]
fn only_the_first_attempt_forbids_forwarding() {
    let (urls, masters) = masters(2);
    let mut attempts = CallAttempts::new(&masters, policy());
    let first = send(&mut attempts, Duration::ZERO);
    assert_eq!((first.master, first.direct), (urls[0].clone(), true));
    retry(&mut attempts, AttemptOutcome::Unreachable("refused".into()));
    let second = send(&mut attempts, MS);
    assert_eq!((second.master, second.direct), (urls[1].clone(), false));
    let done = attempts.record(answer(200, &[], b"{}"));
    assert!(matches!(done, Progress::Done(master, _) if master == urls[1]));
    assert_eq!(masters.preferred(), Some(urls[1].clone()));
}

#[test]
fn a_redirect_is_followed_at_once_but_not_without_end() {
    let (urls, masters) = masters(1);
    let mut attempts = CallAttempts::new(&masters, policy());
    for _ in 0..REDIRECTS_MAX {
        send(&mut attempts, Duration::ZERO);
        let to = answer(307, &[("location", "http://b:2/v1/jobs")], b"");
        assert!(matches!(attempts.record(to), Progress::Redirected));
    }
    let redirected = send(&mut attempts, Duration::ZERO);
    assert_eq!(
        (redirected.master, redirected.direct),
        (urls[1].clone(), true)
    );
    retry(
        &mut attempts,
        answer(308, &[("location", "http://a:1/")], b""),
    );
    wait(&mut attempts, MS);
    let error = failure(&mut attempts, policy().deadline);
    assert!(error.to_string().contains("too many redirects"), "{error}");
}

#[test]
fn attempts_end_at_the_deadline_and_double_their_timeout_after_silence() {
    let (_, masters) = masters(3);
    let mut attempts = CallAttempts::new(&masters, policy());
    for (elapsed, timeout) in [(0, 3_000), (3_000, 6_000), (9_000, 12_000)] {
        let attempt = send(&mut attempts, elapsed * MS);
        assert_eq!(attempt.timeout, timeout * MS);
        retry(&mut attempts, AttemptOutcome::NoAnswer("silent".into()));
    }
    assert!(wait(&mut attempts, 21_000 * MS) <= ROUND_DELAY_MIN);
    assert_eq!(send(&mut attempts, 21_000 * MS).timeout, 9_000 * MS);
    retry(&mut attempts, AttemptOutcome::NoAnswer("silent".into()));
    match failure(&mut attempts, 30_000 * MS) {
        Error::Timeout {
            request_id, tried, ..
        } => assert_eq!((request_id.as_deref(), tried.len()), (Some("key-1"), 3)),
        other => panic!("{other}"),
    }
}

#[test]
fn a_call_that_is_sent_once_ends_with_its_first_unknown_outcome() {
    let (_, masters) = masters(3);
    let once = || RetryPolicy {
        once: true,
        request_id: None,
        ..policy()
    };
    let lost = AttemptOutcome::NoAnswer("silent".into());
    let timeout = problem(&Problem::new(ProblemCode::Timeout, "unknown"));
    for outcome in [lost, timeout] {
        let mut attempts = CallAttempts::new(&masters, once());
        let attempt = send(&mut attempts, Duration::ZERO);
        assert_eq!(attempt.timeout, policy().deadline);
        match attempts.record(outcome) {
            Progress::Failed(Error::Timeout { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    // Where it was certainly not executed, it is sent again.
    let mut attempts = CallAttempts::new(&masters, once());
    send(&mut attempts, Duration::ZERO);
    retry(&mut attempts, AttemptOutcome::Unreachable("refused".into()));
    let refused = problem(&Problem::new(ProblemCode::NoLeader, "none"));
    retry(&mut attempts, refused);
}

#[test]
fn the_hold_extends_the_timeout_of_every_attempt() {
    let (_, masters) = masters(1);
    let held = RetryPolicy {
        hold: 10_000 * MS,
        ..policy()
    };
    let mut attempts = CallAttempts::new(&masters, held);
    assert_eq!(send(&mut attempts, Duration::ZERO).timeout, 13_000 * MS);
}

#[test]
fn a_round_over_the_masters_ends_with_a_growing_wait() {
    let (_, masters) = masters(2);
    let mut attempts = CallAttempts::new(&masters, policy());
    let mut longest = ROUND_DELAY_MIN;
    for _ in 0..8 {
        for _ in 0..2 {
            send(&mut attempts, MS);
            retry(&mut attempts, AttemptOutcome::Unreachable("refused".into()));
        }
        let waited = wait(&mut attempts, MS);
        assert!(waited >= longest / 2 && waited <= longest, "{waited:?}");
        longest = (longest * 2).min(ROUND_DELAY_MAX);
    }
    assert!(
        wait_after_failures(&mut attempts, policy().deadline - MS) <= MS,
        "no wait extends beyond the deadline"
    );
}

fn wait_after_failures(attempts: &mut CallAttempts<'_>, elapsed: Duration) -> Duration {
    send(attempts, MS);
    retry(attempts, AttemptOutcome::NoAnswer("silent".into()));
    send(attempts, MS);
    retry(attempts, AttemptOutcome::NoAnswer("silent".into()));
    wait(attempts, elapsed)
}

#[test]
fn a_cluster_that_cannot_be_reached_fails_early_unless_the_call_is_patient() {
    let (_, masters) = masters(1);
    let limit = policy().unreachable_deadline.expect("given");
    let mut attempts = CallAttempts::new(&masters, policy());
    send(&mut attempts, Duration::ZERO);
    retry(&mut attempts, AttemptOutcome::Unreachable("refused".into()));
    let error = failure(&mut attempts, limit);
    assert!(matches!(error, Error::NoCluster { .. }), "{error}");

    let patient = RetryPolicy {
        unreachable_deadline: None,
        ..policy()
    };
    let mut attempts = CallAttempts::new(&masters, patient);
    send(&mut attempts, Duration::ZERO);
    retry(&mut attempts, AttemptOutcome::Unreachable("refused".into()));
    wait(&mut attempts, limit);
    send(&mut attempts, limit);
}

#[test]
fn a_busy_cluster_is_asked_again_at_the_same_master_after_the_wait_it_asks_for() {
    let (urls, masters) = masters(3);
    let mut attempts = CallAttempts::new(&masters, policy());
    send(&mut attempts, Duration::ZERO);
    let full = Problem::new(ProblemCode::QueueFull, "full").with_retry_after_ms(700);
    retry(&mut attempts, problem(&full));
    assert_eq!(wait(&mut attempts, MS), 700 * MS);
    assert_eq!(send(&mut attempts, MS).master, urls[0]);
    let long = Problem::new(ProblemCode::QueueFull, "full").with_retry_after_ms(3_600_000);
    retry(&mut attempts, problem(&long));
    assert_eq!(wait(&mut attempts, MS), RETRY_AFTER_MAX);
    let error = failure(&mut attempts, policy().deadline);
    assert!(
        error
            .problem()
            .is_some_and(|one| one.is(ProblemCode::QueueFull)),
        "{error}"
    );
}

#[test]
fn an_election_is_waited_for_at_the_clients_own_pace() {
    let (_, masters) = masters(1);
    let mut attempts = CallAttempts::new(&masters, policy());
    send(&mut attempts, Duration::ZERO);
    retry(
        &mut attempts,
        problem(&Problem::new(ProblemCode::NoLeader, "electing")),
    );
    assert!(wait(&mut attempts, MS) <= ROUND_DELAY_MIN);
    let error = failure(&mut attempts, policy().deadline);
    assert!(matches!(error, Error::NoCluster { .. }), "{error}");
}

#[test]
fn a_refusal_after_silence_settles_a_read_but_not_a_change() {
    for mutating in [true, false] {
        let (_, masters) = masters(2);
        let policy = RetryPolicy {
            mutating,
            ..policy()
        };
        let deadline = policy.deadline;
        let mut attempts = CallAttempts::new(&masters, policy);
        send(&mut attempts, Duration::ZERO);
        retry(&mut attempts, AttemptOutcome::NoAnswer("silent".into()));
        send(&mut attempts, MS);
        let full = Problem::new(ProblemCode::QueueFull, "full");
        retry(&mut attempts, problem(&full));
        wait(&mut attempts, deadline);
        let error = failure(&mut attempts, deadline);
        let unknown = matches!(error, Error::Timeout { .. });
        assert_eq!(unknown, mutating, "{error}");
    }
}

#[test]
fn a_final_refusal_and_an_unreadable_answer_end_the_call() {
    let (urls, masters) = masters(2);
    let mut attempts = CallAttempts::new(&masters, policy());
    send(&mut attempts, Duration::ZERO);
    let taken = problem(&Problem::new(ProblemCode::Conflict, "taken"));
    assert!(matches!(
        attempts.record(taken),
        Progress::Failed(Error::Api(_))
    ));
    assert_eq!(masters.preferred(), Some(urls[0].clone()));
    for odd in [
        answer(404, &[], b"<html>"),
        answer(307, &[], b""),
        AttemptOutcome::Unreadable("too long".into()),
    ] {
        let mut attempts = CallAttempts::new(&masters, policy());
        send(&mut attempts, Duration::ZERO);
        assert!(matches!(
            attempts.record(odd),
            Progress::Failed(Error::Protocol { .. })
        ));
    }
}

#[test]
fn a_gateway_error_leaves_the_outcome_unknown() {
    let (_, masters) = masters(1);
    let mut attempts = CallAttempts::new(&masters, policy());
    send(&mut attempts, Duration::ZERO);
    retry(&mut attempts, answer(504, &[], b"timed out"));
    wait(&mut attempts, policy().deadline);
    let error = failure(&mut attempts, policy().deadline);
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
}

#[test]
fn opening_a_stream_goes_round_the_masters_and_gives_up_after_whole_rounds() {
    let (urls, masters) = masters(2);
    let policy = StreamPolicy {
        deadline: 1_000 * MS,
        unreachable_deadline: 100 * MS,
        open_timeout: 8_000 * MS,
        round_delay: 50 * MS,
        round_delay_max: 80 * MS,
    };
    let mut attempts = StreamAttempts::new(&masters, urls[1].clone(), policy);
    let mut longest = 50 * MS;
    for _ in 0..3 {
        for master in [&urls[1], &urls[0]] {
            match attempts.next(5_000 * MS) {
                NextStep::Send(attempt) => assert_eq!(attempt.master, *master),
                step => panic!("{step:?}"),
            }
            attempts.unreachable("refused".into());
        }
        match attempts.next(99 * MS) {
            NextStep::Wait(waited) => assert!(waited >= longest / 2 && waited <= longest),
            step => panic!("{step:?}"),
        }
        longest = 80 * MS;
    }
    attempts.refused("electing".into());
    attempts.refused("electing".into());
    assert!(matches!(attempts.next(500 * MS), NextStep::Wait(_)));
    attempts.unreachable("refused".into());
    attempts.unreachable("refused".into());
    match attempts.next(1_000 * MS) {
        NextStep::Fail(Error::NoCluster { tried }) => assert_eq!(tried.len(), 2),
        step => panic!("{step:?}"),
    }
    // A cluster that answers with a reason is no cluster that cannot be reached.
    let problem = |code: &str| {
        let json = format!(r#"{{"status":503,"code":"{code}","title":"t","detail":"d"}}"#);
        Box::new(serde_json::from_str::<Problem>(&json).expect("a problem"))
    };
    for (codes, expected) in [
        (["unavailable", "no_leader"], Some("unavailable")),
        (["no_leader", "no_leader"], None),
    ] {
        for code in codes {
            attempts.refused_with(problem(code));
        }
        match (attempts.next(1_000 * MS), expected) {
            (NextStep::Fail(Error::Api(problem)), Some(code)) => assert_eq!(problem.code, code),
            (NextStep::Fail(Error::NoCluster { .. }), None) => {}
            (step, _) => panic!("{codes:?}: {step:?}"),
        }
    }
}
