//! Fuzz targets: the parsers of client input, fed with arbitrary bytes. Built for tests and with the feature `fuzzing`.
//! `fuzz/` has the targets' entry points and the corpus, on which the tests below run too.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use triarch_sdk::wire;

use crate::cron::CronSchedule;
use crate::server::protocol::json;
use crate::server::protocol::query::Query;

/// Parses bytes as the body of every request that takes one. Values that are written are read back unchanged.
pub fn api_body(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    read_again::<wire::SubmitJob>(&body);
    read_again::<wire::PutSchedule>(&body);
    read_again::<wire::QueueSettings>(&body);
    read::<wire::TransferLeader>(&body);
    read::<wire::AddNode>(&body);
    read::<wire::UpgradeCluster>(&body);
    read::<wire::SendOutput>(&body);
    read::<wire::Purge>(&body);
    read::<wire::TaskSelection>(&body);
    read::<wire::Register>(&body);
    read::<wire::Poll>(&body);
    read::<wire::Heartbeat>(&body);
    read::<wire::Report>(&body);
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Option<T> {
    json::parse(body).ok()
}

fn read_again<T: DeserializeOwned + Serialize>(body: &Bytes) {
    let Some(value) = read::<T>(body) else {
        return;
    };
    let written = serde_json::to_vec(&value).expect("what was read can be written");
    let again: Option<T> = read(&Bytes::from(written.clone()));
    let again = again.expect("what was written can be read");
    let written_again = serde_json::to_vec(&again).expect("what was read can be written");
    assert_eq!(written, written_again);
}

/// Parses bytes as a query string.
pub fn query_string(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let known = ["limit", "after", "state", "queue", "wait_ms"];
    let (any, Ok(query)) = (
        Query::parse_any(Some(text)),
        Query::parse(Some(text), &known),
    ) else {
        return;
    };
    let any = any.expect("any query is read");
    for name in known {
        assert_eq!(query.text(name), any.text(name));
    }
    let _ = query.limit();
    let _ = query.parsed::<u64>("wait_ms", "a number");
}

/// Parses bytes as a cron expression, with the name of a time zone on the next line. Ticks of a valid one increase.
pub fn cron(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (cron, timezone) = text.split_once('\n').unwrap_or((text, "UTC"));
    let Ok(schedule) = CronSchedule::parse(cron, timezone) else {
        return;
    };
    let mut at_ms = 1_760_000_000_000;
    for _ in 0..4 {
        let Some(next_ms) = schedule.next_after(at_ms) else {
            return;
        };
        assert!(next_ms > at_ms, "{next_ms} after {at_ms}");
        assert!(schedule.local_time(next_ms).is_some());
        at_ms = next_ms;
    }
}

#[cfg(test)]
#[path = "../../fuzz/corpus.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use super::corpus::passes;

    #[test]
    fn every_body_of_the_corpus_is_refused_or_read() {
        passes("api_bodies", super::api_body);
    }

    #[test]
    fn every_query_string_of_the_corpus_is_refused_or_read() {
        passes("query_strings", super::query_string);
    }

    #[test]
    fn every_cron_expression_of_the_corpus_is_refused_or_ticks() {
        passes("cron", super::cron);
    }
}
