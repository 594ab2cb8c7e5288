use super::facts::MEMBERS_MAX;
use super::*;
use crate::types::log_id;

mod healthy_cluster;

/// Returns what a node with a log of these terms knows.
fn node(id: u64, terms: &[u64]) -> Acknowledged {
    let history = Arc::new(History::default());
    for (index, term) in (0..).zip(terms) {
        history.append(log_id(*term, index), b"entry");
    }
    Acknowledged::new(id, history, Facts::default())
}

fn headers(text: &str) -> HeaderMap {
    HeaderMap::from_iter([(ACKNOWLEDGED_HEADER, HeaderValue::from_str(text).unwrap())])
}

fn contradiction(node: &Acknowledged) -> Option<String> {
    node.contradiction.borrow().clone()
}

/// Lets a node hear an answer with this text.
fn answer(node: &Acknowledged, from: u64, text: &str) {
    node.record_answer(from, node.acknowledged_by(from), &headers(text));
}

/// Returns the headers of an answer of `from` to a question of `to`.
fn answer_headers(from: &Acknowledged, to: &Acknowledged) -> HeaderMap {
    let headers = HeaderMap::from_iter(to.header().map(|value| (ACKNOWLEDGED_HEADER, value)));
    from.answer_headers(&question(&headers))
}

#[test]
fn facts_read_back_from_headers_and_files() {
    let text = "c=3.7 l=3.9 v=3.2 1=3.9 2=3.7";
    let (facts, last) = Facts::from_text(&format!("{text} later=1.1")).unwrap();
    assert_eq!(
        (facts.committed, last),
        (Some(log_id(3, 7)), Some(log_id(3, 9)))
    );
    assert_eq!(facts.to_text(last), text);
    let file = "c=3.7 1=3.9 2=3.7 r=2.8 2c=3.6";
    let (kept, _) = Facts::from_text(file).unwrap();
    assert_eq!(kept.to_file(), file);
    assert_eq!(kept.replaced, Some(log_id(2, 8)));
    for text in ["x", "c=3", "c=3.x", "c", "1=.", "1=-1.2"] {
        assert_eq!(Facts::from_text(text), None, "{text}");
    }
    assert_eq!(Facts::from_text("").unwrap(), (Facts::default(), None));
}

#[test]
fn a_node_that_lost_entries_votes_only_for_logs_that_have_them() {
    let own = node(1, &[1, 2, 2]);
    assert!(!own.refuses_vote(3, Some(log_id(2, 2))));
    answer(&own, 2, "c=2.4 l=3.6 1=2.5 2=2.5");
    assert!(
        own.refuses_vote(4, Some(log_id(2, 5))),
        "the loss is not on disk"
    );
    let unsaved = own.take_unsaved().unwrap();
    assert!(
        unsaved.durable && unsaved.text.contains("1=2.5") && unsaved.text.contains("2c=2.4"),
        "{unsaved:?}"
    );
    own.record_saved();
    assert!(
        own.refuses_vote(4, Some(log_id(2, 3))),
        "the candidate lacks what is committed"
    );
    assert!(!own.refuses_vote(4, Some(log_id(2, 4))));
    assert!(own.refuses_vote(3, Some(log_id(2, 5))), "it may have voted");
    assert!(own.refuses_campaign().is_some());
    answer(&own, 2, "c=2.4 1=2.5");
    assert_eq!(own.take_unsaved(), None, "nothing of it is new");
    for index in 3..=5 {
        own.history.append(log_id(2, index), b"entry");
    }
    answer(&own, 2, "c=2.4 1=2.5");
    assert_eq!(own.refuses_campaign(), None);
    assert!(!own.refuses_vote(2, Some(log_id(2, 5))));
    assert_eq!(contradiction(&own), None);
}

#[test]
fn a_node_that_is_only_behind_votes_for_logs_that_have_what_is_committed() {
    let own = node(3, &[1, 1]);
    answer(&own, 2, "c=1.4 1=1.4 2=1.4");
    assert!(own.refuses_vote(2, Some(log_id(1, 3))));
    assert!(!own.refuses_vote(2, Some(log_id(1, 4))));
    assert_eq!(contradiction(&own), None);
}

/// An acknowledged entry that was never committed may be replaced, and may then be on no disk.
#[test]
fn an_acknowledged_entry_that_a_leader_replaced_is_no_loss_and_no_floor() {
    let own = node(5, &[1, 1, 2]);
    own.history.truncate_from(1);
    answer(&own, 4, "c=1.0 l=3.1 5=2.2");
    assert!(!own.state.lock().lost);
    assert!(!own.refuses_vote(4, Some(log_id(1, 0))));
    assert_eq!(own.refuses_campaign(), None);
    // Peers see the same in its answers, also after a restart.
    let (facts, _) = Facts::from_text(&own.take_unsaved().unwrap().text).unwrap();
    let restarted = Acknowledged::new(5, Arc::new(History::default()), facts);
    for node in [&own, &restarted] {
        let (_, last) = read(&answer_headers(node, node)).unwrap();
        assert_eq!(last, Some(log_id(2, 2)));
    }
}

#[test]
fn an_answer_that_another_one_overtook_reports_no_loss() {
    let own = node(1, &[1, 1, 1]);
    let at_question = own.acknowledged_by(3);
    own.record_members([(3, log_id(1, 2))].into_iter());
    own.record_answer(3, at_question, &headers("c=1.0 l=1.1"));
    assert!(own.state.lock().reported.is_empty());
    answer(&own, 3, "c=1.0 l=1.1");
    assert!(own.state.lock().reported.contains(&3));
}

#[test]
fn two_committed_histories_stop_both_and_name_the_disk() {
    // Nodes 1 and 2 acknowledged entry 4 of term 1. Node 1 lost it, and wrote another history with node 3.
    let truth = node(2, &[1, 1, 1, 1, 1]);
    truth.record_applied(log_id(1, 4));
    truth.record_members([(1, log_id(1, 4)), (2, log_id(1, 4))].into_iter());
    let false_history = node(1, &[1, 1, 2, 2]);
    false_history.record_applied(log_id(2, 3));
    let said = answer_headers(&truth, &false_history);
    assert!(false_history.contradicted_by(&said).is_some());
    assert_eq!(contradiction(&false_history), None, "a message is no proof");
    false_history.record_answer(2, None, &said);
    let why = contradiction(&false_history).unwrap();
    assert!(
        why.contains("The disk of this node (it acknowledged entry 4)"),
        "{why}"
    );
    assert!(false_history.refuses_vote(9, Some(log_id(9, 9))));
    truth.record_answer(1, None, &answer_headers(&false_history, &truth));
    let why = contradiction(&truth).unwrap();
    assert!(
        why.contains("The disk of node 1 (it acknowledged entry 4)"),
        "{why}"
    );
}

#[test]
fn two_histories_of_one_term_show_in_the_checksums_of_committed_entries_only() {
    let own = node(2, &[1, 1, 1]);
    let other = node(1, &[1, 1]);
    other.history.append(log_id(1, 2), b"another entry");
    own.record_applied(log_id(1, 1));
    other.record_applied(log_id(1, 1));
    own.record_answer(1, None, &answer_headers(&other, &own));
    assert_eq!(contradiction(&own), None);
    other.record_applied(log_id(1, 2));
    own.record_answer(1, None, &answer_headers(&other, &own));
    assert_eq!(contradiction(&own), None, "it is not committed here");
    own.record_applied(log_id(1, 2));
    own.record_answer(1, None, &answer_headers(&other, &own));
    assert!(contradiction(&own).is_some());
}

#[test]
fn a_leader_of_the_other_history_that_acknowledged_this_one_is_named() {
    let own = node(2, &[1, 1, 1]);
    own.record_applied(log_id(1, 2));
    own.record_members([(1, log_id(1, 2))].into_iter());
    let other = node(3, &[1, 1, 2]);
    other.record_applied(log_id(2, 2));
    other.record_leader_of_term(2, 1);
    own.record_answer(3, None, &answer_headers(&other, &own));
    let why = contradiction(&own).unwrap();
    assert!(
        why.contains("The disk of node 1 (it acknowledged entry 2) is older"),
        "{why}"
    );
}

#[test]
fn two_histories_show_in_the_terms_of_entries_that_one_side_has_purged() {
    let own = node(2, &[1, 1, 1]);
    own.record_applied(log_id(1, 2));
    let other = node(1, &[1, 2, 2, 2, 2]);
    other
        .history
        .begin_after(log_id(2, 4), other.history.anchor_at(log_id(2, 4)));
    other.record_applied(log_id(2, 4));
    own.record_answer(1, None, &answer_headers(&other, &own));
    let why = contradiction(&own).unwrap();
    assert!(
        why.contains("entry 2 is of term 1 here and of term 2 there"),
        "{why}"
    );
}

#[test]
fn what_a_member_says_replaces_a_wrong_floor_that_it_gave_before() {
    let own = node(1, &[1, 1]);
    let candidate = Some(log_id(1, 1));
    answer(&own, 2, "c=9.1000000");
    assert!(own.refuses_vote(2, candidate));
    assert!(own.refuses_campaign().is_some());
    answer(&own, 2, "c=1.1");
    assert!(!own.refuses_vote(2, candidate));
    assert_eq!(own.refuses_campaign(), None);
}

#[test]
fn messages_raise_no_floor_and_stop_no_node() {
    let own = node(1, &[1, 1, 1]);
    own.record_applied(log_id(1, 2));
    let _ = own.take_unsaved();
    for text in ["c=2.1 1=9.9 2=9.9", "c=9.100 9=1.9", "c=1.0", "c=1.2"] {
        let forged = headers(text);
        let contradicts = own.contradicted_by(&forged);
        assert_eq!(contradicts.is_some(), text.starts_with("c=2.1"), "{text}");
        own.record_leader(&forged);
        assert_eq!(own.take_unsaved(), None, "{text}");
        assert!(!own.refuses_vote(2, Some(log_id(1, 2))), "{text}");
        assert_eq!(contradiction(&own), None, "{text}");
    }
}

#[test]
fn absurd_terms_and_broken_headers_change_nothing() {
    let own = node(1, &[1, 1]);
    for text in ["c=9999999999.1", "1=9999999999.1", "l=9999999999.1", "1=1"] {
        answer(&own, 2, text);
        assert_eq!(own.take_unsaved(), None, "{text}");
    }
    let all: String = (1..=200).map(|id| format!("{id}=1.1 ")).collect();
    answer(&own, 2, &all);
    let unsaved = own.take_unsaved().unwrap().text;
    assert_eq!(unsaved.split(' ').count(), MEMBERS_MAX);
    answer(&own, 2, "300=1.2");
    let (kept, _) = Facts::from_text(&own.take_unsaved().unwrap().text).unwrap();
    assert_eq!(kept.members.len(), MEMBERS_MAX);
    assert_eq!(kept.members.get(&300), Some(&log_id(1, 2)));
}

#[test]
fn a_committed_entry_of_the_last_life_counts_if_the_log_holds_it() {
    let history = Arc::new(History::default());
    for index in 0..5 {
        history.append(log_id(1, index), b"entry");
    }
    let known = |text| {
        let facts = Facts::from_text(text).unwrap().0;
        Acknowledged::new(1, Arc::clone(&history), facts).committed_index()
    };
    assert_eq!(known("c=1.3"), Some(3));
    assert_eq!(known("c=1.7"), None);
    assert_eq!(known("c=2.3"), None);
    assert_eq!(known("c=1.1 2c=1.3 3c=2.4"), Some(3));
}
