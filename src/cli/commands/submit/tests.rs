//! Options of `triarch submit`, and the tasks that they make.

use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    args: SubmitArgs,
}

fn parsed(words: &[&str]) -> SubmitArgs {
    let parsed = Command::try_parse_from([&["submit"], words].concat());
    parsed.expect("valid").args
}

fn specs(words: &[&str]) -> Vec<TaskSpec> {
    let args = parsed(words);
    let specs = args
        .work
        .task
        .specs(&args.work.argv, &Input::None, Some("k"));
    specs.expect("valid")
}

fn payload(spec: &TaskSpec) -> ExecPayload {
    serde_json::from_str(spec.payload.as_ref().expect("exec has one").get()).expect("our own words")
}

#[test]
fn unset_options_are_left_to_the_cluster() {
    let specs = specs(&["--", "echo", "--wait"]);
    assert_eq!(specs.len(), 1);
    let text = serde_json::to_string(&specs[0]).expect("plain");
    assert_eq!(
        text,
        r#"{"kind":"exec","payload":{"argv":["echo","--wait"]}}"#
    );
}

#[test]
fn retries_count_without_the_first_attempt_and_max_attempts_with_it() {
    let attempts = |option, count| specs(&[option, count, "--", "x"])[0].max_attempts;
    assert_eq!(attempts("--retries", "0"), Some(1));
    assert_eq!(attempts("--retries", "4"), Some(5));
    assert_eq!(attempts("--max-attempts", "1"), Some(1));
    assert_eq!(attempts("--max-attempts", "5"), Some(5));
    let refused = |words: &[&str]| Command::try_parse_from([&["submit"], words].concat());
    let both = refused(&["--retries", "1", "--max-attempts", "2", "--", "x"]);
    let error = both.expect_err("they contradict each other");
    assert_eq!(error.exit_code(), 2, "a usage error");
    assert!(refused(&["--max-attempts", "0", "--", "x"]).is_err());
}

#[test]
fn both_spellings_of_the_idempotency_key_are_accepted() {
    for option in ["--idempotency-key", "--key"] {
        let parsed = Command::try_parse_from(["submit", option, "k", "--", "x"]);
        let args = parsed.expect("valid").args;
        assert_eq!(args.idempotency_key.as_deref(), Some("k"), "{option}");
    }
}

#[test]
fn options_become_fields_in_the_units_of_the_wire() {
    let line =
        "--queue q --priority 9 --delay 1.5s --timeout 2m --env A=b=c --env E= --cwd /tmp -- x";
    let specs = specs(&line.split(' ').collect::<Vec<_>>());
    let spec = &specs[0];
    assert_eq!(spec.queue.as_deref(), Some("q"));
    assert_eq!(
        (spec.priority, spec.delay_ms, spec.timeout_ms),
        (Some(9), Some(1_500), Some(120_000))
    );
    let payload = payload(spec);
    assert_eq!(payload.cwd.as_deref(), Some("/tmp"));
    assert_eq!(payload.env.get("A").map(String::as_str), Some("b=c"));
    assert_eq!(payload.env.get("E").map(String::as_str), Some(""));
}

#[test]
fn an_array_has_one_task_for_each_number() {
    let specs = specs(&["--array", "9-11%2", "--", "x"]);
    let indexes: Vec<String> = specs
        .iter()
        .map(|spec| payload(spec).env[ARRAY_INDEX].clone())
        .collect();
    assert_eq!(indexes, ["9", "10", "11"]);
    assert_eq!(specs[2].key.as_deref(), Some("11"));
    let limits = specs
        .iter()
        .map(|spec| (spec.concurrency_key.clone(), spec.concurrency_limit));
    assert!(
        limits
            .into_iter()
            .all(|limit| limit == (Some("submit:k".to_owned()), Some(2)))
    );
}

#[test]
fn each_line_of_standard_input_is_a_task() {
    let args = parsed(&["--each-line", "--concurrency", "3", "--", "echo", "<{}>"]);
    let input = Input::Lines(["a b", "c"].map(str::to_owned).to_vec());
    let specs = args
        .work
        .task
        .specs(&args.work.argv, &input, Some("k"))
        .expect("valid");
    let argvs: Vec<Vec<String>> = specs.iter().map(|spec| payload(spec).argv).collect();
    assert_eq!(argvs, [["echo", "<a b>"], ["echo", "<c>"]]);
    assert_eq!(specs[1].concurrency_limit, Some(3));
    for conflict in [&["--array", "1-2"][..], &["--stdin"], &["--no-stdin"]] {
        let words = [&["submit", "--each-line"], conflict, &["--", "x"]].concat();
        assert!(Command::try_parse_from(words).is_err(), "{conflict:?}");
    }
}

#[test]
fn forwarded_input_is_the_stdin_of_each_task() {
    let args = parsed(&["--array", "1-2", "--", "cat"]);
    let input = Input::Forwarded("data\n".to_owned());
    let specs = args
        .work
        .task
        .specs(&args.work.argv, &input, None)
        .expect("valid");
    assert!(
        specs
            .iter()
            .all(|spec| payload(spec).stdin.as_deref() == Some("data\n"))
    );
}

#[test]
fn labels_resources_and_tags_reach_the_task() {
    let specs = specs(&[
        "--label",
        "zone=eu",
        "--label",
        "gpu=",
        "--resource",
        "mem_mb=512",
        "--tag",
        "nightly",
        "--tag",
        "x",
        "--",
        "x",
    ]);
    let requires = specs[0].requires.as_ref().expect("some");
    assert_eq!(requires.labels.get("zone").map(String::as_str), Some("eu"));
    assert_eq!(requires.labels.get("gpu").map(String::as_str), Some(""));
    assert_eq!(requires.resources.get("mem_mb"), Some(&512));
    assert_eq!(
        specs[0].tags.as_deref(),
        Some(&["nightly".to_owned(), "x".to_owned()][..])
    );
}

#[test]
fn a_variable_without_a_value_is_that_of_this_process() {
    let specs = specs(&[
        "-e",
        "CARGO_PKG_NAME",
        "-e",
        "TRIARCH_NO_SUCH_VARIABLE",
        "-e",
        "A=",
        "--",
        "x",
    ]);
    let env = payload(&specs[0]).env;
    assert_eq!(
        env.get("CARGO_PKG_NAME").map(String::as_str),
        Some("triarch-cli")
    );
    assert_eq!(env.get("A").map(String::as_str), Some(""));
    assert_eq!(env.len(), 2);
    assert!(variable("=x").is_err() && variable("").is_err());
}

#[test]
fn retries_that_nobody_asked_for_are_noted() {
    let note = |words: &[&str]| parsed(words).work.retries_note();
    assert!(
        note(&["--", "x"])
            .is_some_and(|note| note.contains("2 times") && note.contains("--retries 0"))
    );
    assert_eq!(note(&["--retries", "2", "--", "x"]), None);
    assert_eq!(note(&["--max-attempts", "1", "--", "x"]), None);
    assert_eq!(note(&["--file", "job.json"]), None);
}

#[test]
fn a_long_idempotency_key_makes_a_short_concurrency_key() {
    assert_eq!(concurrency_key("k"), "submit:k");
    assert_eq!(
        concurrency_key(&"k".repeat(200)).len(),
        "submit:".len() + 64
    );
}
