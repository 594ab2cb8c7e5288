use triarch_table::WorkerId;

use super::{EventRecord, Feed, Position, PositionGone};

fn records(count: u64) -> Vec<EventRecord> {
    (0..count)
        .map(|number| EventRecord::WorkerLeft {
            worker: WorkerId(number),
            name: None,
        })
        .collect()
}

/// Reads all records after `after`.
fn all(feed: &Feed, after: Position) -> Result<Vec<String>, PositionGone> {
    let (mut after, mut found) = (after, Vec::new());
    loop {
        let page = feed.read(after)?;
        for chunk in &page.chunks {
            let new = chunk.records().filter(|(position, _)| *position > after);
            found.extend(new.map(|(position, _)| position.to_string()));
        }
        assert!(page.end >= after, "it never goes back");
        after = page.end;
        if page.is_last {
            return Ok(found);
        }
    }
}

fn from(text: &str) -> Position {
    text.parse().expect("a position")
}

#[test]
fn reading_resumes_after_any_position() {
    let feed = Feed::new(100);
    feed.append(3, 0, records(2));
    feed.append(4, 0, records(0));
    feed.append(7, 0, records(3));
    assert_eq!(
        all(&feed, from("0")),
        Ok(["3.0", "3.1", "7.0", "7.1", "7.2"].map(String::from).into())
    );
    assert_eq!(
        all(&feed, from("3.1")),
        Ok(["7.0", "7.1", "7.2"].map(String::from).into())
    );
    assert_eq!(
        all(&feed, from("5")),
        all(&feed, from("3")),
        "an index without events is a position too"
    );
    assert_eq!(all(&feed, from("7.1")), Ok(vec!["7.2".into()]));
    assert_eq!(all(&feed, from("7.2")), Ok(vec![]));
    assert_eq!(all(&feed, from("7")), Ok(vec![]));
    assert_eq!(all(&feed, from("9")), Ok(vec![]), "nothing yet");
}

#[test]
fn the_last_page_ends_with_the_end_of_the_last_entry() {
    let feed = Feed::new(100);
    feed.append(3, 0, records(2));
    feed.append(4, 0, records(0));
    let page = feed.read(from("3.1")).expect("there");
    assert!(page.is_last && page.chunks.is_empty());
    assert_eq!(page.end, from("4"));
    let ahead = feed.read(from("9")).expect("there");
    assert_eq!(ahead.end, from("9"), "never back behind what was asked for");
}

#[test]
fn a_position_past_the_bound_is_reported_as_gone() {
    let feed = Feed::new(10);
    for index in 1..=5 {
        feed.append(index, 0, records(4));
    }
    let oldest = from("3.3");
    assert_eq!(
        all(&feed, oldest).map(|events| events.len()),
        Ok(8),
        "the oldest position is good"
    );
    for gone in ["0", "2", "3.0", "3.2"] {
        assert_eq!(
            all(&feed, from(gone)),
            Err(PositionGone { oldest }),
            "{gone}"
        );
    }
}

#[test]
fn an_entry_larger_than_the_bound_loses_its_beginning() {
    let feed = Feed::new(600);
    feed.append(8, 0, records(5_000));
    let Err(PositionGone { oldest }) = all(&feed, from("8.100")) else {
        panic!("gone")
    };
    let kept = all(&feed, oldest).expect("there");
    assert!((300..=600).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept.last().map(String::as_str), Some("8.4999"));
    assert_eq!(kept.len(), {
        let first = from(&kept[0]);
        (0..5_000)
            .filter(|offset| Position::record(8, *offset) >= first)
            .count()
    });
}

#[test]
fn positions_before_an_installed_snapshot_are_gone() {
    let feed = Feed::new(100);
    feed.append(3, 0, records(2));
    feed.restart(50);
    assert_eq!(
        all(&feed, from("3.1")),
        Err(PositionGone { oldest: from("50") })
    );
    feed.append(51, 0, records(1));
    assert_eq!(all(&feed, from("50")), Ok(vec!["51.0".into()]));
}

#[test]
fn every_position_of_a_long_history_resumes_without_gap_or_duplicate() {
    let feed = Feed::new(5_000);
    let mut expected = Vec::new();
    for index in 1..=60 {
        // Some entries have no events, some more than a page.
        let count = (index * 37) % 11 * if index % 20 == 0 { 80 } else { 1 };
        feed.append(index, 0, records(count));
        expected.extend((0..count).map(|offset| format!("{index}.{offset}")));
    }
    assert_eq!(all(&feed, from("0")), Ok(expected.clone()));
    for (seen, position) in expected.iter().enumerate() {
        assert_eq!(
            all(&feed, from(position)).as_deref(),
            Ok(&expected[seen + 1..]),
            "after {position}"
        );
    }
}
