use super::*;

/// Returns a history of these terms, from index 0 on. The payload of each entry is its term and index, except at the
/// indexes in `others`.
fn history(terms: &[u64], others: &[u64]) -> History {
    let history = History::default();
    for (index, term) in (0..).zip(terms) {
        let text = match others.contains(&index) {
            true => format!("another {index}"),
            false => format!("{term} {index}"),
        };
        history.append(log_id(*term, index), text.as_bytes());
    }
    history
}

fn mark(history: &History, id: LogId) -> Option<Mark> {
    mark_in(
        &HeaderMap::from_iter([(HISTORY_HEADER, history.header(Some(id))?)]),
        id,
    )
}

#[test]
fn equal_logs_agree_at_every_entry_and_a_different_past_shows_at_every_later_one() {
    let terms = [1, 1, 1, 2, 2];
    let (one, same, other) = (
        history(&terms, &[]),
        history(&terms, &[]),
        history(&terms, &[2]),
    );
    for (index, term) in (0..).zip(terms) {
        let id = log_id(term, index);
        let theirs = mark(&one, id);
        assert!(theirs.is_some());
        assert_eq!(same.compare(id, theirs, None), None);
        let conflict = other.compare(id, theirs, None);
        assert_eq!(conflict.is_some(), index >= 2, "entry {index}");
    }
}

#[test]
fn another_term_contradicts_only_what_is_committed() {
    let own = history(&[1, 1, 1, 1], &[]);
    let theirs = log_id(2, 2);
    assert_eq!(own.compare(theirs, None, Some(1)), None);
    let conflict = own.compare(theirs, None, Some(2)).unwrap();
    assert_eq!(
        (conflict.own, conflict.theirs),
        (Some(log_id(1, 2)), theirs)
    );
    assert_eq!(
        own.compare(log_id(2, 4), None, Some(3)),
        None,
        "a later entry"
    );
}

#[test]
fn committed_entries_have_one_log_in_which_terms_never_fall() {
    let own = history(&[1, 1, 1, 3], &[]);
    let contradicts = |term, index, committed| {
        own.compare_committed(log_id(term, index), Some(committed))
            .is_some()
    };
    assert!(!contradicts(1, 2, 3));
    assert!(!contradicts(3, 9, 3), "the log is only behind");
    assert!(contradicts(2, 9, 3), "what is committed went on without it");
    assert!(contradicts(2, 2, 2), "its place is committed otherwise");
    assert!(contradicts(1, 3, 3), "its place is committed otherwise");
    assert!(!contradicts(2, 2, 1), "an uncommitted tail is replaced");
    // A leader of term 4 may commit an entry of term 1 or 2 that the leader of term 3 did not have.
    assert!(!contradicts(2, 9, 2), "the tail of term 3 is not committed");
    assert!(!contradicts(1, 3, 2), "the tail of term 3 is not committed");
    assert_eq!(own.compare_committed(log_id(9, 0), None), None);
}

#[test]
fn a_truncated_log_continues_like_one_that_never_had_the_tail() {
    let own = history(&[1, 1, 1, 1], &[3]);
    own.truncate_from(2);
    assert_eq!(own.last(), Some(log_id(1, 1)));
    let fresh = history(&[1, 1], &[]);
    for history in [&own, &fresh] {
        history.append(log_id(5, 2), b"new");
    }
    assert_eq!(own.header(own.last()), fresh.header(fresh.last()));
    assert_eq!(own.holds(log_id(1, 2)), Some(false));
    assert_eq!(own.holds(log_id(5, 2)), Some(true));
}

#[test]
fn a_log_after_a_snapshot_continues_the_chain_of_its_anchor() {
    let full = history(&[1, 1, 2, 2, 2], &[]);
    let at = log_id(2, 3);
    let anchor = full.anchor_at(at).unwrap();
    for anchor_first in [true, false] {
        let joined = History::default();
        if anchor_first {
            joined.set_anchor(at, anchor.clone());
            joined.purge(at);
        } else {
            joined.purge(at);
            joined.set_anchor(at, anchor.clone());
        }
        joined.append(log_id(2, 4), b"2 4");
        let id = log_id(2, 4);
        assert_eq!(mark(&joined, id), mark(&full, id));
        assert_eq!(joined.anchor_at(at), Some(anchor.clone()));
        // The terms of what the snapshot covers are known too.
        assert!(joined.compare_committed(log_id(1, 2), Some(4)).is_some());
        assert!(joined.compare_committed(log_id(1, 1), Some(4)).is_none());
    }
}

#[test]
fn a_log_without_an_anchor_compares_entries_and_learns_the_chain() {
    let full = history(&[1, 1, 1, 1], &[]);
    let joined = History::default();
    joined.purge(log_id(1, 1));
    joined.append(log_id(1, 2), b"1 2");
    let id = log_id(1, 2);
    let different = Some(Mark {
        entry: 7,
        chain: None,
    });
    assert!(joined.compare(id, different, None).is_some());
    let theirs = mark(&full, id);
    assert_eq!(joined.compare(id, theirs, None), None);
    assert_eq!(
        mark(&joined, id).unwrap().chain,
        None,
        "a message is no proof"
    );
    assert_eq!(joined.compare_mark(2, theirs.unwrap()), None);
    assert_eq!(mark(&joined, id), theirs);
    joined.append(log_id(1, 3), b"1 3");
    assert_eq!(mark(&joined, log_id(1, 3)), mark(&full, log_id(1, 3)));
}

#[test]
fn old_entries_are_forgotten_and_the_chain_goes_on() {
    let own = History::default();
    let end = MARKS_MAX as u64 + 10;
    for index in 0..end {
        own.append(log_id(1, index), b"x");
    }
    assert_eq!(own.header(Some(log_id(1, 9))), None);
    assert!(mark(&own, log_id(1, 10)).unwrap().chain.is_some());
    assert_eq!(own.last(), Some(log_id(1, end - 1)));
    assert_eq!(own.holds(log_id(1, 5)), Some(true));
}

#[test]
fn committed_entries_at_one_index_are_compared_whatever_their_terms() {
    let own = history(&[1, 1, 1], &[]);
    let theirs = |terms: &[u64], others: &[u64]| {
        let header = history(terms, others).header_at(2).unwrap();
        let headers = HeaderMap::from_iter([(HISTORY_HEADER, header)]);
        let (index, mark) = read_mark(&headers).unwrap();
        own.compare_mark(index, mark).is_some()
    };
    assert!(!theirs(&[1, 1, 1, 1], &[]));
    assert!(theirs(&[1, 1, 1], &[2]), "another entry");
    assert!(theirs(&[1, 1, 1], &[1]), "another past");
    assert!(theirs(&[1, 2, 2], &[]), "another term");
    assert_eq!(own.header_at(3), None);
}

#[test]
fn a_snapshot_takes_the_place_of_a_longer_log_of_an_earlier_term() {
    let own = history(&[1, 1, 1, 1, 1], &[]);
    own.purge(log_id(3, 2));
    assert_eq!(own.last(), Some(log_id(3, 2)));
    assert_eq!(own.reached(), Some(log_id(3, 2)));
    let own = history(&[1, 1, 1], &[]);
    own.purge(log_id(1, 1));
    assert_eq!(
        own.last(),
        Some(log_id(1, 2)),
        "a purge keeps what is after it"
    );
}

#[test]
fn an_entry_that_a_leader_replaced_was_reached() {
    let own = history(&[1, 1, 2, 2], &[]);
    own.truncate_from(1);
    assert_eq!(
        (own.last(), own.reached()),
        (Some(log_id(1, 0)), Some(log_id(2, 3)))
    );
    own.append(log_id(3, 1), b"new");
    assert_eq!(own.reached(), Some(log_id(3, 1)));
}

#[test]
fn entries_that_each_node_encodes_itself_are_compared_by_their_ids() {
    let id = log_id(1, 3);
    for kind in [0, 2] {
        assert_eq!(
            entry_checksum(id, &[kind, 1]),
            entry_checksum(id, &[kind, 2, 3])
        );
    }
    for kind in [1, 3] {
        assert_ne!(
            entry_checksum(id, &[kind, 1]),
            entry_checksum(id, &[kind, 2])
        );
    }
    assert_ne!(entry_checksum(id, &[0]), entry_checksum(log_id(2, 3), &[0]));
}

#[test]
fn the_checksums_of_all_versions_are_equal() {
    let own = history(&[1, 1, 2], &[]);
    let header = own.header(own.last()).unwrap();
    assert_eq!(
        header.to_str().unwrap(),
        "2-d6640211a56b80c-af54888355e2e8d0"
    );
}

#[test]
fn headers_that_are_no_checksums_are_not_used() {
    let id = log_id(1, 2);
    for text in [
        "",
        "2",
        "3-1-1",
        "2-x",
        "2-1-x",
        "2-11111111111111111",
        "-2-1",
    ] {
        let headers = HeaderMap::from_iter([(HISTORY_HEADER, HeaderValue::from_static(text))]);
        assert_eq!(mark_in(&headers, id), None, "{text}");
    }
}
