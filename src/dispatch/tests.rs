use clap::error::ErrorKind;

use super::*;

fn parsed(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("triarch").chain(line.split_whitespace()))
}

#[test]
fn the_command_line_passes_the_checks_of_clap() {
    Cli::command().debug_assert();
}

#[test]
fn global_options_are_accepted_anywhere() {
    for line in [
        "--masters http://a:1,http://b:2 --output json job list",
        "job --masters http://a:1,http://b:2 --output json list",
        "job list --masters http://a:1,http://b:2 -o json",
        "worker list --masters http://a:1,http://b:2 -o json",
        "--masters http://a:1,http://b:2 worker list -o json",
        "submit --masters http://a:1,http://b:2 -o json -- true",
    ] {
        let cli = parsed(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(cli.global.masters, ["http://a:1", "http://b:2"], "{line}");
        assert_eq!(format!("{:?}", cli.global.output), "Json", "{line}");
    }
}

#[test]
fn worker_without_a_subcommand_runs_a_worker() {
    let run = |line: &str| match parsed(line).unwrap().command {
        Command::Worker(args) => args.administration.command.is_none(),
        other => panic!("{other:?}"),
    };
    assert!(run(
        "worker --slots 3 --label zone=eu --resource mem_mb=512"
    ));
    assert!(!run("worker list"));
    assert!(!run("worker drain w1-0"));
}

#[test]
fn old_spellings_of_worker_options_are_still_accepted() {
    for option in ["--shutdown-timeout", "--drain"] {
        let Command::Worker(args) = parsed(&format!("worker {option} 7s")).unwrap().command else {
            panic!("not a worker")
        };
        let timeout = args.run.shutdown_timeout;
        assert_eq!(timeout, std::time::Duration::from_secs(7), "{option}");
    }
}

#[test]
fn help_shows_new_spellings_only() {
    let help = |line: &str| parsed(line).unwrap_err().to_string();
    for (line, new, old) in [
        ("server --help", "--digest-interval", "--check-every"),
        ("server --help", "--max-body-memory-mib", "--bodies-mib"),
        ("server --help", "--max-requests", "--requests-max"),
        ("server --help", "--max-connections", "--connections-max"),
        ("server --help", "--event-history", "--events-kept"),
        ("server --help", "--min-free-disk-mib", "--disk-low-mib"),
        ("submit --help", "--idempotency-key", "--key "),
        ("worker --help", "--shutdown-timeout", "--drain"),
        ("bench --help", "lifecycle", "whole:"),
    ] {
        let text = help(line);
        assert!(text.contains(new) && !text.contains(old), "{line}: {text}");
    }
}

#[test]
fn arguments_after_the_double_dash_belong_to_the_task() {
    let Command::Client(ClientCommand::Submit(_)) =
        parsed("submit --wait -- sh -c --retries --wait")
            .unwrap()
            .command
    else {
        panic!("not a submission")
    };
    for line in [
        "submit",
        "submit --wait",
        "submit --file a -- true",
        "submit --file a --retries 1",
        "submit echo hi",
    ] {
        assert!(parsed(line).is_err(), "{line}");
    }
    for line in [
        "submit -",
        "submit --file -",
        "submit -f job.json --wait --key k --name n",
    ] {
        assert!(parsed(line).is_ok(), "{line}");
    }
}

#[test]
fn an_invalid_command_line_exits_with_the_usage_code() {
    for line in [
        "job list --state done",
        "job list --limit 0",
        "submit --priority 10 -- true",
        "frobnicate",
        "job",
    ] {
        let error = parsed(line).unwrap_err();
        assert_eq!(error.exit_code(), i32::from(EXIT_USAGE), "{line}: {error}");
        assert_ne!(error.kind(), ErrorKind::DisplayHelp, "{line}");
    }
}

#[test]
fn a_refused_command_line_gets_a_hint_at_what_was_meant() {
    let hint = |line: &str| {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let all = std::iter::once("triarch".to_owned()).chain(words.iter().cloned());
        let error = Cli::try_parse_from(all).err()?;
        triarch_cli::hint(&Cli::command(), &words, &error)
    };
    for (line, said) in [
        ("submit --wait echo hi", "submit --wait -- echo hi"),
        ("submit echo", "submit -- echo"),
        (
            "submit --retries 0 echo hi there",
            "submit --retries 0 -- echo hi there",
        ),
        ("status", "cluster status"),
        ("cancel t5-0", "job cancel"),
        ("logs t5-0", "task logs"),
        ("ps", "task list --state running"),
        ("task t4-0", "task show t4-0"),
        ("task j4-0", "job show j4-0"),
        ("job j4-0", "job show j4-0"),
        ("worker w4-0", "worker show w4-0"),
        ("t4-0", "task show t4-0"),
    ] {
        let hint = hint(line).unwrap_or_default();
        assert!(hint.contains(said), "{line}: {hint}");
    }
    for line in [
        "frobnicate",
        "submit --priority 10 -- true",
        "submit --colour -- true",
        "submit --queue",
        "job frobnicate",
        "task 4-0",
    ] {
        assert_eq!(hint(line), None, "{line}");
    }
}
