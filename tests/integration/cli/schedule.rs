//! `triarch schedule`: schedules are created, shown, paused, triggered and deleted, with table and JSON output.

use serde_json::Value;
use triarch_harness::cluster::WAIT_TIMEOUT;
use triarch_harness::{eventually, until};

use crate::with_worker;

#[tokio::test]
async fn schedule_commands_cover_the_whole_life_of_a_schedule() {
    let cluster = with_worker(3).await;
    let cli = cluster.cli();
    let set = [
        "schedule",
        "set",
        "beat",
        "--cron",
        "* * * * * *",
        "--timezone",
        "Europe/Paris",
        "--queue",
        "default",
        "--retries",
        "0",
        "--",
        "echo",
        "tick",
    ];
    let made = cli.run(&set).await.expect(0);
    made.shows("* * * * * *")
        .shows("Europe/Paris")
        .shows("next runs");
    let last_job = eventually(WAIT_TIMEOUT, "a tick has made a job", async || {
        let shown = cli
            .run(&["schedule", "show", "beat", "-o", "json"])
            .await
            .expect(0)
            .json();
        shown["last_job"].as_str().map(str::to_owned)
    })
    .await;
    let output = ["job", "output", last_job.as_str()];
    cli.run(&["job", "wait", &last_job]).await.expect(0);
    cli.run(&output).await.expect(0).shows("tick");
    let job = cli
        .run(&["job", "show", &last_job, "-o", "json"])
        .await
        .expect(0)
        .json();
    assert_eq!(job["name"], "beat", "its jobs are known by its name");
    let key = job["idempotency_key"].as_str().expect("a key");
    assert!(
        key.starts_with("schedule:beat:20") && key.ends_with('Z'),
        "{key}"
    );

    cli.run(&["schedule", "pause", "beat"])
        .await
        .expect(0)
        .shows("paused");
    let listed = cli.run(&["schedule", "list"]).await.expect(0);
    listed.shows("beat").shows("paused").shows("FIRED");
    let id = cli
        .run(&["schedule", "trigger", "beat"])
        .await
        .expect(0)
        .stdout;
    cli.run(&["job", "wait", id.trim()]).await.expect(0);
    let resumed = cli
        .run(&["schedule", "resume", "beat", "-o", "json"])
        .await
        .expect(0)
        .json();
    let fired = resumed["fired"].as_u64().expect("a number");
    until(WAIT_TIMEOUT, "it ticks again", async || {
        let shown = cli
            .run(&["schedule", "list", "-o", "json"])
            .await
            .expect(0)
            .json();
        shown["schedules"][0]["fired"].as_u64() > Some(fired)
    })
    .await;

    cli.run(&["schedule", "delete", "beat"]).await.expect(0);
    for verb in ["show", "pause", "resume", "trigger", "delete"] {
        let ran = cli.run(&["schedule", verb, "beat"]).await.expect(1);
        ran.says("there is no schedule \"beat\"");
    }
}

#[tokio::test]
async fn a_schedule_file_sets_what_options_cannot() {
    let cluster = with_worker(1).await;
    let cli = cluster.cli();
    let job = r#"{"name": "two", "tasks": [{"kind": "exec", "key": "a", "payload": {"argv": ["true"]}},
                  {"kind": "exec", "after": ["a"], "payload": {"argv": ["true"]}}]}"#;
    let set = |cron: &'static str, more: &[&'static str]| {
        let words = ["schedule", "set", "two", "--cron", cron, "-o", "json"];
        [&words[..], more, &["-"]].concat()
    };
    let policies = ["--overlap", "forbid", "--catch-up", "none", "--paused"];
    let made = cli
        .run_with_input(&set("0 9 * * MON-FRI", &policies), job)
        .await
        .expect(0)
        .json();
    let expected: Value = serde_json::from_str(job).expect("valid");
    assert_eq!(made["job"], expected);
    let said = ["overlap", "catch_up", "timezone"].map(|field| made[field].as_str());
    assert_eq!(said, [Some("forbid"), Some("none"), Some("UTC")]);
    assert_eq!(
        (&made["paused"], &made["next_tick_at"]),
        (&Value::from(true), &Value::Null)
    );

    // A refusal by the cluster names the invalid field. Arguments that are invalid without a cluster are a usage error.
    cli.run_with_input(&set("0 9 * * MOON", &[]), job)
        .await
        .expect(1)
        .says("day of the week \"MOON\"");
    cli.run_with_input(&set("0 9 * * *", &["--overlap", "maybe"]), job)
        .await
        .expect(2);
    let keyed = r#"{"idempotency_key": "k", "tasks": [{"kind": "exec"}]}"#;
    cli.run_with_input(&set("0 9 * * *", &[]), keyed)
        .await
        .expect(2)
        .says("idempotency_key");
    cli.run(&["schedule", "set", "two", "--cron", "0 9 * * *"])
        .await
        .expect(2);
    // An interval, instead of a cron expression and never with one.
    let every = |more: &[&'static str]| {
        let words = ["schedule", "set", "often"];
        [&words[..], more, &["--", "true"]].concat()
    };
    cli.run(&every(&["--every", "90s"]))
        .await
        .expect(0)
        .shows("1m30s");
    let listed = cli.run(&["schedule", "list"]).await.expect(0);
    listed.shows("every 1m30s");
    cli.run(&every(&["--every", "1500ms"]))
        .await
        .expect(1)
        .says("multiple of 1000");
    for wrong in [
        &[][..],
        &["--every", "90s", "--cron", "0 9 * * *"],
        &["--every", "90s", "--timezone", "UTC"],
        &["--every", "often"],
    ] {
        cli.run(&every(wrong)).await.expect(2);
    }
}
