//! Wrong parts of worker requests next to right ones.

use super::*;

fn bytes(text: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref())
}

fn fields(problems: PartProblems) -> Vec<String> {
    let problems = problems.into_list().into_iter();
    problems.map(|problem| problem.field).collect()
}

/// Attempt `t1-0` with this second field, followed by attempt `t2-0`.
fn running_with(member: &str) -> String {
    format!(
        r#"[{{"task":"t1-0","token":5{member}}},{{"task":"t2-0","token":6,"progress":0.5,"note":"fine"}}]"#
    )
}

#[test]
fn a_wrong_part_of_a_running_attempt_is_dropped_and_named_and_all_leases_are_confirmed() {
    let long = format!(",\"note\":\"{}\"", "é".repeat(501));
    let cases: [(&str, &str); 15] = [
        (",\"progress\":7", "progress"),
        (",\"progress\":-0.1", "progress"),
        (",\"progress\":NaN", "progress"),
        (",\"progress\":1e999", "progress"),
        (",\"progress\":\"half\"", "progress"),
        (",\"progress\":0.1,\"progress\":0.2", "progress"),
        (&long, "note"),
        (",\"note\":\"a\\ud800b\"", "note"),
        (",\"note\":\"a\u{0}b\"", "note"),
        (",\"note\":\"a\\xb\"", "note"),
        (",\"note\":7", "note"),
        (",\"note\":[[1]]", "note"),
        (",\"nota\":\"x\"", "nota"),
        (",\"progress\":Infinity,\"note\":\"kept\"", "progress"),
        (",\"deep\":[[[[]]]]", "deep"),
    ];
    for (member, field) in cases {
        let running = running_with(member);
        let beat = heartbeat(&bytes(format!("{{\"running\":{running}}}"))).expect(member);
        let tokens: Vec<u64> = beat.running.iter().map(|one| one.token.0).collect();
        assert_eq!(tokens, [5, 6], "{member}");
        let other = beat.running[1].progress.as_ref().expect("untouched");
        assert_eq!(other.note.as_deref(), Some("fine"), "{member}");
        assert_eq!(
            fields(beat.problems),
            [format!("running[0].{field}")],
            "{member}"
        );

        let polled = poll(&bytes(format!("{{\"max\":3,\"running\":{running}}}"))).expect(member);
        assert_eq!(
            (polled.max, polled.running.map(|all| all.len())),
            (3, Some(2))
        );
        assert_eq!(
            fields(polled.problems),
            [format!("running[0].{field}")],
            "{member}"
        );
    }
}

#[test]
fn a_note_is_cut_and_repaired_instead_of_lost() {
    let note = |member: &str| {
        let beat =
            heartbeat(&bytes(format!("{{\"running\":{}}}", running_with(member)))).expect("taken");
        beat.running[0]
            .progress
            .clone()
            .and_then(|progress| progress.note)
    };
    let long = note(&format!(",\"note\":\"{}\"", "中".repeat(500)));
    assert_eq!(long, Some("中".repeat(333)));
    assert_eq!(
        note(",\"note\":\"a\\ud800b\""),
        Some("a\u{fffd}b".to_owned())
    );
    let mut raw = b"{\"running\":[{\"task\":\"t1-0\",\"token\":5,\"note\":\"a\xffb\"}]}".to_vec();
    raw.push(b'\n');
    let beat = heartbeat(&bytes(raw)).expect("taken");
    let note = beat.running[0]
        .progress
        .clone()
        .and_then(|progress| progress.note);
    assert_eq!(note, Some("a\u{fffd}b".to_owned()));
}

#[test]
fn an_attempt_without_a_readable_lease_is_dropped_and_named() {
    for wrong in [
        r#"{"task":"t1-0"}"#,
        r#"{"task":"t1-0","token":-1}"#,
        r#"{"task":"t1-0","token":18446744073709551616}"#,
        r#"{"task":7,"token":1}"#,
        r#"{"task":"t1-0","token":1,"token":2}"#,
        "7",
        "null",
        "[]",
    ] {
        let body = format!(r#"{{"running":[{wrong},{{"task":"t2-0","token":6}}]}}"#);
        let beat = heartbeat(&bytes(&body)).expect(wrong);
        let named = fields(beat.problems);
        match wrong.contains("\"token\":2") {
            true => assert_eq!(beat.running.len(), 2, "the first token counts"),
            false => assert_eq!(beat.running[0].spelled, "t2-0", "{wrong}"),
        }
        assert!(
            named.iter().any(|field| field.starts_with("running[0]")),
            "{wrong}: {named:?}"
        );
    }
}

#[test]
fn a_wrong_load_is_dropped_and_the_leases_are_confirmed() {
    for (load, field) in [
        (r#"{"cpu":1.5}"#, "load.cpu"),
        (r#"{"cpu":"high"}"#, "load.cpu"),
        (r#"{"cpu":NaN}"#, "load.cpu"),
        (r#"{"gpu":1}"#, "load.gpu"),
        ("7", "load"),
    ] {
        let body = format!(r#"{{"load":{load},"running":[{{"task":"t2-0","token":6}}]}}"#);
        let beat = heartbeat(&bytes(&body)).expect(load);
        assert_eq!(beat.running.len(), 1, "{load}");
        assert_eq!(beat.load.and_then(|load| load.cpu), None, "{load}");
        let named = fields(beat.problems);
        assert!(
            named[0].starts_with("load") && field.starts_with(&named[0]),
            "{load}: {named:?}"
        );
    }
}

#[test]
fn a_wrong_envelope_is_refused_as_a_whole() {
    for (body, field) in [
        (r#"{"max":-1,"running":[]}"#, "max"),
        (r#"{"max":1,"wait":5}"#, "wait"),
        (r#"{"max":1,"load":{}}"#, "load"),
        (r#"{"running":7}"#, "running"),
        (r#"{"running":[],"running":[]}"#, "running"),
        (r#"{"running":[{"task":"t1-0"]}"#, ""),
        ("[]", ""),
        ("{", ""),
    ] {
        let problem = poll(&bytes(body)).map(drop).expect_err(body);
        assert!(problem.field().starts_with(field), "{body}: {problem:?}");
    }
    for body in [
        "{}",
        r#"{"results":[]}"#,
        r#"{"results":7}"#,
        r#"{"results":[],"more":1}"#,
    ] {
        report(&bytes(body)).map(drop).expect_err(body);
    }
}

#[test]
fn a_wrong_result_is_refused_alone_and_named() {
    let deep = format!(
        r#""status":"succeeded","result":{}{}"#,
        "[".repeat(70),
        "]".repeat(70)
    );
    for (members, field) in [
        (r#""status":"succeeded","result":NaN"#, "result"),
        (
            r#""status":"succeeded","result":{"a":[1,Infinity]}"#,
            "result",
        ),
        (deep.as_str(), ""),
        (r#""status":"done""#, "status"),
        (r#""result":1"#, ""),
        (r#""status":"succeeded","reslut":1"#, "reslut"),
        (
            r#""status":"failed","retryable":"no","error":{}"#,
            "retryable",
        ),
        (r#""status":"succeeded","result":1,"result":2"#, ""),
    ] {
        let body = format!(
            r#"{{"results":[{{"task":"t1-0","token":5,{members}}},{{"task":"t2-0","token":6,"status":"succeeded","result":{{"n":{}}}}}]}}"#,
            "9".repeat(5000)
        );
        let taken = report(&bytes(&body)).expect(members);
        let [wrong, right] = &taken.results[..] else {
            panic!("{members}: {taken:?}");
        };
        let ReportedResult::Refused {
            task,
            token,
            problem,
        } = wrong
        else {
            panic!("{members}: taken");
        };
        assert_eq!((task.as_str(), *token), ("t1-0", Some(5)), "{members}");
        let at = format!(
            "results[0]{}{field}",
            if field.is_empty() { "" } else { "." }
        );
        assert!(problem.field().starts_with(&at), "{members}: {problem:?}");
        assert_eq!(problem.code(), Code::InvalidRequest);
        assert!(
            matches!(right, ReportedResult::Valid(result) if result.token == 6),
            "{members}"
        );
    }
}

#[test]
fn a_failure_counts_although_its_error_cannot_be_read() {
    let deep = format!("{}{}", "[".repeat(70), "]".repeat(70));
    let nested = format!(r#"{{"type":"E","message":"why","traceback":{deep}}}"#);
    for (error, kind, message) in [
        (r#"{"type":"E","message":"why","x":NaN}"#, "E", "why"),
        (
            r#"{"type":"E","message":"a\ud800","x":NaN}"#,
            "E",
            "a\u{fffd}",
        ),
        (nested.as_str(), "E", "why"),
        (
            "NaN",
            "unreadable_error",
            "the worker reported a failure whose error could not be read",
        ),
        (
            deep.as_str(),
            "unreadable_error",
            "the worker reported a failure whose error could not be read",
        ),
    ] {
        let body = format!(
            r#"{{"results":[{{"task":"t1-0","token":5,"status":"failed","retryable":false,"error":{error}}}]}}"#
        );
        let taken = report(&bytes(&body)).expect(error);
        let ReportedResult::Valid(failure) = &taken.results[0] else {
            panic!("{error}: {taken:?}");
        };
        assert_eq!(failure.retryable, Some(false));
        let shown: serde_json::Value =
            serde_json::from_str(failure.error.as_ref().expect("an error").get()).expect("JSON");
        assert_eq!(
            (shown["type"].as_str(), shown["message"].as_str()),
            (Some(kind), Some(message))
        );
        assert_eq!(fields(taken.problems), ["results[0].error"], "{error}");
    }
}

#[test]
fn oddities_that_are_valid_json_are_kept_as_they_are() {
    for odd in [
        r#""\ud800""#,
        "1e400",
        &"9".repeat(5000),
        "-0",
        r#"{"a":1,"a":2}"#,
    ] {
        let body = format!(
            r#"{{"results":[{{"task":"t1-0","token":5,"status":"succeeded","result":{odd}}}]}}"#
        );
        let taken = report(&bytes(&body)).expect(odd);
        assert!(
            matches!(&taken.results[0], ReportedResult::Valid(result) if result.result.as_ref().is_some_and(|kept| kept.get() == odd)),
            "{odd}"
        );
    }
}

#[test]
fn a_wrong_chunk_of_output_costs_only_itself() {
    let chunk = |text: &str| {
        format!(r#"{{"task":"t1-0","token":5,"stream":"stdout","offset":0,"text":{text}}}"#)
    };
    let body = format!(
        r#"{{"chunks":[{},{},{}]}}"#,
        chunk("7"),
        chunk(r#""a\udc00""#),
        chunk("\"fine\"")
    );
    let (output, problems) = output(&bytes(&body)).expect("taken");
    let texts: Vec<&str> = output
        .chunks
        .iter()
        .map(|chunk| chunk.text.as_str())
        .collect();
    assert_eq!(texts, ["a\u{fffd}", "fine"]);
    assert_eq!(fields(problems), ["chunks[0].text", "chunks[1]"]);
}

#[test]
fn a_long_error_is_shortened_between_characters() {
    let long = "é".repeat(ERROR_MESSAGE_BYTES_MAX);
    let error = format!(r#"{{"type":"{long}","message":"{long}","traceback":"{long}"}}"#);
    let short: serde_json::Value =
        serde_json::from_str(shortened_error(error.as_bytes()).get()).expect("JSON");
    let message = short["message"].as_str().expect("text");
    assert!(message.len() <= ERROR_MESSAGE_BYTES_MAX + 3 && message.ends_with("é…"));
    assert_eq!(short.get("traceback"), None);
}
