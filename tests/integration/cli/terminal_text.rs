//! Texts of users on the reader's terminal: escaped in everything but JSON and the output of tasks.

use serde_json::{Value, json};
use triarch_harness::{Cli, Cluster, FakeWorker, Ran, eventually, fake_worker};

/// As a name may be: reordered, and with a character that is not seen.
const NAME: &str = "a\u{202e}b\u{200b}c";
/// As an error, a note or a result may be: it clears the screen, sets the title, and makes a line of its own.
const TEXT: &str = "x\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\rtriarch: forged\u{202e}";

fn is_unsafe(c: char) -> bool {
    (c.is_control() && c != '\n') || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
}

fn assert_safe(ran: &Ran) {
    for text in [&ran.stdout, &ran.stderr] {
        assert!(!text.contains(is_unsafe), "{}: {text:?}", ran.line);
    }
}

/// Runs the command with tables as its output: it shows the text, escaped.
async fn shows_escaped(cli: &Cli, args: &[&str]) -> Ran {
    let ran = cli.run(args).await;
    assert_safe(&ran);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains("\\u{202e}"), "{}: {said:?}", ran.line);
    ran
}

#[tokio::test]
async fn texts_of_users_are_escaped_by_every_command_and_exact_in_json() {
    let cluster = Cluster::start(1).await;
    let (cli, api) = (cluster.cli(), cluster.api(1));
    let worker = FakeWorker::register_as(
        &cluster,
        &json!({"name": NAME, "slots": 4, "kinds": [fake_worker::KIND], "queues": [NAME], "labels": {NAME: NAME}}),
    )
    .await;
    let mut tasks = Vec::new();
    for payload in [json!(TEXT), json!("fails"), json!("runs")] {
        let job = json!({"name": NAME, "tasks": [{
            "kind": fake_worker::KIND, "queue": NAME, "key": NAME, "payload": payload, "max_attempts": 1,
        }]});
        let submitted = api.submit(&job).await;
        let id = |value: &Value| value.as_str().expect("an id").to_owned();
        tasks.push((id(&submitted["id"]), id(&submitted["tasks"][0])));
    }
    let leases = worker.take_many(3).await;
    let lease_of = |task: &str| {
        leases
            .iter()
            .find(|lease| lease.task == task)
            .expect("leased")
    };
    let [(job, done), (_, failed), (_, running)] = &tasks[..] else {
        panic!("three")
    };
    let error = json!({"type": "E", "message": TEXT, "traceback": TEXT});
    worker
        .report_all(&[
            lease_of(done).succeeded(json!(TEXT)),
            json!({"task": failed, "token": lease_of(failed).token, "status": "failed", "error": error, "retryable": false}),
        ])
        .await;
    let note =
        json!({"running": [{"task": running, "token": lease_of(running).token, "note": TEXT}]});
    worker.worker_call("heartbeat", &note).await.expect(200);
    let queued = json!({"name": NAME, "tasks": [{"kind": NAME, "queue": format!("{NAME}2")}]});
    let queued = api.submit(&queued).await;
    let queued = queued["tasks"][0].as_str().expect("an id");
    let schedule = json!({"cron": "0 0 1 1 *", "job": {"name": NAME, "tasks": [{"kind": NAME}]}});
    let path = "/v1/schedules/a%E2%80%AEb%E2%80%8Bc";
    api.put(path, &schedule).await.expect(201);
    eventually(crate::WAIT_TIMEOUT, "the note is there", async || {
        let task = api.get(&format!("/v1/tasks/{running}")).await.json();
        task["note"].is_string().then_some(())
    })
    .await;

    for args in [
        &["job", "list"][..],
        &["job", "show", job],
        &["task", "list"],
        &["task", "show", done],
        &["task", "show", failed],
        &["task", "show", running],
        &["task", "wait", failed],
        &["task", "explain", queued],
        &["queue", "list"],
        &["queue", "pause", NAME],
        &["queue", "resume", NAME],
        &["worker", "list"],
        &["worker", "show", &worker.id],
        &["worker", "show", NAME],
        &["schedule", "list"],
        &["schedule", "show", NAME],
        &["schedule", "delete", NAME],
        &["events", "--after", "0", "--limit", "12"],
        // Messages quote what they refuse.
        &["job", "show", NAME],
        &["worker", "show", "nobody\u{202e}"],
    ] {
        shows_escaped(&cli, args).await;
    }
    shows_escaped(&cli, &["task", "show", failed])
        .await
        .shows("\\u{1b}[2J");

    // For programs, and as the task wrote it.
    let shown = cli.run(&["task", "show", failed, "--output", "json"]).await;
    assert_eq!(shown.expect(0).json()["error"]["message"], TEXT);
    let exact = cli.run(&["task", "wait", done]).await.expect(0).stdout;
    assert_eq!(
        serde_json::from_str::<Value>(&exact).expect("JSON"),
        json!(TEXT)
    );
}

#[tokio::test]
async fn the_output_of_a_task_is_exact_in_a_pipe_and_escaped_in_its_details() {
    let cluster = crate::with_worker(1).await;
    let cli = cluster.cli();
    let script = r"printf '\033[31mred\033]0;owned\007\n'; exit 3";
    let submit = [
        "submit",
        "--wait",
        "--max-attempts",
        "1",
        "--output",
        "json",
        "--",
        "sh",
        "-c",
        script,
    ];
    let ran = cli.run(&submit).await.expect(1).json();
    let task = ran["tasks"][0]["id"].as_str().expect("an id").to_owned();
    let written = "\u{1b}[31mred\u{1b}]0;owned\u{7}\n";
    for args in [["task", "wait", &task], ["task", "logs", &task]] {
        assert_eq!(cli.run(&args).await.stdout, written, "{args:?}");
    }
    let details = cli.run(&["task", "show", &task]).await.expect(0);
    assert_safe(&details);
    details.shows("\\u{1b}[31mred\\u{1b}]0;owned\\u{7}");
}
