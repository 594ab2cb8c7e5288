//! The client with masters that redirect, refuse, hang up, hang, or send nonsense.

mod scripted;

use std::time::Duration;

use axum::http::Method;
use scripted::{Scripted, json, nobody, problem, redirect, refuse};
use serde_json::json;
use triarch_sdk::wire::{Problem, ProblemCode, SubmitJob, TaskSpec};
use triarch_sdk::{Client, ClientOptions, Error};
use url::Url;

fn impatient(masters: &[Url]) -> Client {
    let options = ClientOptions {
        deadline: Duration::from_millis(1500),
        unreachable_deadline: Duration::from_millis(300),
        answer_timeout: Duration::from_millis(300),
        ..ClientOptions::default()
    };
    Client::with_options(masters, options).expect("valid masters")
}

fn patient(masters: &[Url]) -> Client {
    let options = ClientOptions {
        answer_timeout: Duration::from_millis(500),
        ..ClientOptions::default()
    };
    Client::with_options(masters, options).expect("valid masters")
}

fn job() -> SubmitJob {
    SubmitJob::new([TaskSpec::exec(["true"])])
}

fn submitted() -> axum::response::Response {
    json(
        201,
        &json!({"id": "j4-0", "tasks": ["t4-0"], "duplicate": false}),
    )
}

fn shown(state: &str) -> axum::response::Response {
    json(
        200,
        &json!({"id": "j4-0", "state": state, "created_at": "2026-11-23T10:00:00.000Z"}),
    )
}

#[tokio::test]
async fn a_redirect_keeps_the_request_whole_and_the_leader_is_remembered() {
    let leader = Scripted::start(|_| async { submitted() }).await;
    let to = leader.url.clone();
    let follower = Scripted::start(move |seen| {
        let to = to.clone();
        async move { redirect(&to, &seen) }
    })
    .await;
    let client = patient(std::slice::from_ref(&follower.url));
    client.submit(&job()).await.expect("submitted");
    client.submit(&job()).await.expect("submitted");

    let (asked, led) = (follower.seen(), leader.seen());
    assert_eq!(
        (asked.len(), led.len()),
        (1, 2),
        "the second goes straight to the leader"
    );
    assert_eq!(led[0].method, Method::POST);
    assert_eq!(led[0].body, asked[0].body);
    assert_eq!(led[0].body["tasks"][0]["payload"]["argv"], json!(["true"]));
    let ids: Vec<_> = [&asked[0], &led[0], &led[1]]
        .map(|seen| seen.header("triarch-request-id").expect("given").to_owned())
        .into();
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[1], ids[2], "another call is another change");
    assert_eq!(client.leader(), Some(leader.url.clone()));
}

#[tokio::test]
async fn a_master_that_is_down_is_passed_over() {
    let up = Scripted::start(|_| async { submitted() }).await;
    let client = patient(&[nobody().await, up.url.clone()]);
    client.submit(&job()).await.expect("submitted");
}

#[tokio::test]
async fn an_unreachable_cluster_is_reported_soon_with_the_error_of_each_master() {
    let masters = [nobody().await, nobody().await];
    let error = impatient(&masters)
        .submit(&job())
        .await
        .expect_err("nobody");
    match &error {
        Error::NoCluster { tried } => assert_eq!(tried.len(), 2),
        other => panic!("{other}"),
    }
    let port = masters[1].port().expect("given").to_string();
    assert!(error.to_string().contains(&port), "{error}");
}

#[tokio::test]
async fn an_election_is_waited_for_under_one_request_id() {
    let master = Scripted::start(|seen| async move {
        if seen.nth < 3 {
            refuse(ProblemCode::NoLeader)
        } else {
            submitted()
        }
    })
    .await;
    patient(std::slice::from_ref(&master.url))
        .submit(&job())
        .await
        .expect("submitted");
    let seen = master.seen();
    let ids: Vec<_> = seen
        .iter()
        .map(|seen| seen.header("triarch-request-id"))
        .collect();
    assert_eq!(ids.len(), 4);
    assert!(
        ids.iter().all(|id| id.is_some() && *id == ids[0]),
        "{ids:?}"
    );
}

#[tokio::test]
async fn an_election_without_end_is_no_cluster() {
    let master = Scripted::start(|_| async { refuse(ProblemCode::NoLeader) }).await;
    match impatient(std::slice::from_ref(&master.url))
        .submit(&job())
        .await
        .expect_err("no leader")
    {
        Error::NoCluster { tried } => assert!(tried[0].message.contains("no_leader"), "{tried:?}"),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_full_queue_is_waited_for_and_then_reported() {
    let full = || problem(&Problem::new(ProblemCode::QueueFull, "full").with_retry_after_ms(20));
    let short =
        Scripted::start(move |seen| async move { if seen.nth < 2 { full() } else { submitted() } })
            .await;
    patient(std::slice::from_ref(&short.url))
        .submit(&job())
        .await
        .expect("submitted");

    let long = Scripted::start(move |_| async move { full() }).await;
    match impatient(std::slice::from_ref(&long.url))
        .submit(&job())
        .await
        .expect_err("full")
    {
        Error::Api(problem) => assert!(problem.is(ProblemCode::QueueFull)),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_unknown_outcome_is_reported_with_the_request_id_for_a_retry() {
    // It takes the request and hangs up without an answer.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url =
        Url::parse(&format!("http://{}", listener.local_addr().expect("bound"))).expect("valid");
    let hanging_up = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut head).await;
        }
    });
    match impatient(&[url])
        .submit_as("key-1", &job())
        .await
        .expect_err("unknown")
    {
        Error::Timeout { request_id, .. } => assert_eq!(request_id.as_deref(), Some("key-1")),
        other => panic!("{other}"),
    }
    hanging_up.abort();
}

#[tokio::test]
async fn a_silent_master_is_passed_over_with_the_same_request_id() {
    let silent = Scripted::start(|_| std::future::pending()).await;
    let up = Scripted::start(|_| async { submitted() }).await;
    let client = patient(&[silent.url.clone(), up.url.clone()]);
    client.submit(&job()).await.expect("submitted");
    let id = |seen: &[scripted::Seen]| seen[0].header("triarch-request-id").map(str::to_owned);
    assert_eq!(id(&silent.seen()), id(&up.seen()));
    client.submit(&job()).await.expect("submitted");
    assert_eq!(silent.seen().len(), 1, "it is not asked first again");
}

#[tokio::test]
async fn a_refusal_is_returned_and_not_retried() {
    let master = Scripted::start(|_| async {
        problem(&Problem::new(ProblemCode::Conflict, "taken").with_extra("task", "t1-0"))
    })
    .await;
    match patient(std::slice::from_ref(&master.url))
        .submit(&job())
        .await
        .expect_err("refused")
    {
        Error::Api(problem) => {
            assert_eq!(
                (problem.status, problem.extra["task"].as_str()),
                (409, Some("t1-0"))
            );
        }
        other => panic!("{other}"),
    }
    assert_eq!(master.seen().len(), 1);
}

#[tokio::test]
async fn redirects_in_circles_end() {
    let master = Scripted::start(|seen| async move {
        let to = format!("http://{}", seen.header("host").expect("given"));
        redirect(&Url::parse(&to).expect("valid"), &seen)
    })
    .await;
    match impatient(std::slice::from_ref(&master.url))
        .submit(&job())
        .await
        .expect_err("in circles")
    {
        Error::NoCluster { tried } => {
            assert!(tried[0].message.contains("too many redirects"), "{tried:?}")
        }
        other => panic!("{other}"),
    }
    assert!(
        master.seen().len() < 200,
        "it is paced: {}",
        master.seen().len()
    );
}

#[tokio::test]
async fn a_leader_that_cannot_be_reached_is_reached_through_a_follower() {
    let hidden = nobody().await;
    let follower = Scripted::start(move |seen| {
        let hidden = hidden.clone();
        async move {
            match seen.header("triarch-forward") {
                Some("never") => redirect(&hidden, &seen),
                _ => submitted(),
            }
        }
    })
    .await;
    patient(std::slice::from_ref(&follower.url))
        .submit(&job())
        .await
        .expect("submitted");
}

#[tokio::test]
async fn a_malformed_answer_is_reported_as_a_protocol_error() {
    let master = Scripted::start(|_| async { json(200, &json!({"hello": "world"})) }).await;
    match patient(std::slice::from_ref(&master.url))
        .submit(&job())
        .await
        .expect_err("nonsense")
    {
        Error::Protocol { message, .. } => assert!(message.contains("hello"), "{message}"),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_answer_without_end_is_not_read() {
    let master = Scripted::start(|_| async { json(200, &json!({"id": "x".repeat(5000)})) }).await;
    let options = ClientOptions {
        answer_bytes_max: 1000,
        ..ClientOptions::default()
    };
    let client =
        Client::with_options(std::slice::from_ref(&master.url), options).expect("valid masters");
    assert!(matches!(
        client.job("j4-0").await,
        Err(Error::Protocol { .. })
    ));
}

#[tokio::test]
async fn a_wait_is_asked_anew_until_the_end() {
    let master = Scripted::start(|seen| async move {
        match seen.nth {
            0 => shown("running"),
            1 => refuse(ProblemCode::NoLeader),
            2 => shown("running"),
            _ => shown("succeeded"),
        }
    })
    .await;
    let job = patient(std::slice::from_ref(&master.url))
        .wait_job("j4-0", None)
        .await
        .expect("waited");
    assert!(job.state.is_terminal());
    assert!(
        master
            .seen()
            .iter()
            .all(|seen| seen.query.contains("wait_ms="))
    );
}

#[tokio::test]
async fn a_wait_with_a_limit_gives_what_there_is() {
    let master = Scripted::start(|_| async { shown("running") }).await;
    let client = patient(std::slice::from_ref(&master.url));
    let job = client
        .wait_job("j4-0", Some(Duration::from_millis(50)))
        .await
        .expect("as it is");
    assert!(!job.state.is_terminal());
}

#[tokio::test]
async fn ids_are_not_paths() {
    let master = Scripted::start(|_| async { refuse(ProblemCode::NotFound) }).await;
    let client = patient(std::slice::from_ref(&master.url));
    for odd in ["", ".", ".."] {
        let error = client.job(odd).await.expect_err("not an id");
        assert!(
            error
                .problem()
                .is_some_and(|problem| problem.is(ProblemCode::NotFound)),
            "{error}"
        );
    }
    assert_eq!(master.seen().len(), 0);
    let _ = client.job("a/../b?c").await;
    assert_eq!(master.seen()[0].path, "/v1/jobs/a%2F..%2Fb%3Fc");
}
