//! The checker against its corpus of hand-written histories. The name of each history gives the required verdict.
//!
//! `<rule>-….jsonl` must violate that rule; `kept-…`, `undecided-…` and `not_exercised-…` must give that judgement.

use std::path::{Path, PathBuf};

use triarch_check::{Bounds, History, Judgement, check, check_within, rules, summarize};

fn corpus() -> Vec<(String, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("histories");
    let files = std::fs::read_dir(folder).expect("the corpus");
    let mut found: Vec<(String, PathBuf)> = files
        .map(|file| file.expect("a file").path())
        .map(|path| {
            let name = path.file_stem().expect("a name").to_string_lossy();
            let said = name.split('-').next().expect("a word").to_owned();
            (said, path)
        })
        .collect();
    found.sort();
    found
}

#[test]
fn each_history_is_judged_as_its_name_says() {
    for (said, path) in corpus() {
        let history =
            History::read(std::slice::from_ref(&path)).unwrap_or_else(|error| panic!("{error}"));
        let verdict = check(&history);
        let text = format!("{}:\n{}", path.display(), summarize(&verdict, &history));
        let expected = match said.as_str() {
            "kept" => Judgement::Kept,
            "undecided" => Judgement::Undecided,
            "not_exercised" => Judgement::NotExercised,
            rule => {
                assert!(verdict.broken_by(rule) > 0, "not by {rule}: {text}");
                Judgement::Broken
            }
        };
        assert_eq!(verdict.judgement, expected, "{text}");
    }
}

#[test]
fn every_rule_has_a_history_that_breaks_it() {
    let said: Vec<String> = corpus().into_iter().map(|(said, _)| said).collect();
    for rule in rules::RULES {
        let name = match rule.name {
            "exercised" => "not_exercised",
            name => name,
        };
        assert!(said.iter().any(|one| one == name), "none for {name}");
    }
    assert!(said.iter().filter(|one| *one == "kept").count() >= 10);
}

#[test]
fn a_search_past_its_bound_is_undecided() {
    let (_, path) = corpus()
        .into_iter()
        .find(|(said, _)| said == "kept")
        .expect("a good one");
    let history = History::read(&[path]).expect("a history");
    let usual = Bounds::default();
    for bounds in [
        Bounds {
            steps_max: 2,
            ..usual
        },
        Bounds {
            steps_total_max: 2,
            ..usual
        },
    ] {
        let verdict = check_within(&history, bounds);
        assert_eq!(verdict.judgement, Judgement::Undecided);
    }
}

#[test]
fn misspelt_records_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("history.jsonl");
    let header = r#"{"history":1}"#;
    let cases = [
        ("", "empty"),
        (r#"{"history":9}"#, "version 9"),
        (
            r#"{"client":"a","invoke_ns":1,"return_ns":2,"outcome":"ok","op":{"settled":{}}}"#,
            "no header",
        ),
        (
            r#"{"client":"a","invoke_ns":1,"return_ns":2,"outcome":"ok","indx":1,"op":{"settled":{}}}"#,
            ":2: unknown field `indx`",
        ),
        (
            r#"{"client":"a","invoke_ns":3,"return_ns":2,"outcome":"ok","op":{"settled":{}}}"#,
            "ends before it begins",
        ),
        (
            r#"{"client":"a","invoke_ns":1,"return_ns":2,"outcome":"ok","op":{"settle":{}}}"#,
            "unknown variant `settle`",
        ),
    ];
    for (text, expected) in cases {
        let whole = match expected {
            "empty" | "version 9" | "no header" => text.to_owned(),
            _ => format!("{header}\n{text}\n"),
        };
        std::fs::write(&path, whole).expect("written");
        let error = History::read(std::slice::from_ref(&path)).expect_err("refused");
        assert!(error.to_string().contains(expected), "{error}");
    }
}
