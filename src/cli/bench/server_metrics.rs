//! Metrics of the masters, scraped from `/metrics` before and after a run. They show where the time went on the server
//! side.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::context::CommandContext;
use crate::error::CommandError;

/// Maximum wait for one master's answer.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(5);

/// Metrics of every master that answered, by its address.
#[derive(Debug, Clone)]
pub struct MetricsSnapshot {
    at: Instant,
    masters: BTreeMap<String, NodeMetrics>,
}

/// Samples of one master: by name, then by labels as they are spelled.
#[derive(Debug, Clone, Default)]
pub struct NodeMetrics(BTreeMap<String, BTreeMap<String, f64>>);

impl MetricsSnapshot {
    /// Scrapes every master of the cluster that can be reached.
    pub async fn take(context: &CommandContext) -> Result<Self, CommandError> {
        let cluster = context.client.cluster(&Default::default()).await?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(SCRAPE_TIMEOUT)
            .build()
            .map_err(|error| CommandError::Failed(format!("cannot set up a client: {error}")))?;
        let mut readings = BTreeMap::new();
        for node in cluster.nodes {
            let asked = async {
                let url = format!("http://{}/metrics", node.addr);
                http.get(url).send().await?.error_for_status()?.text().await
            };
            // A master that is down is left out, because the run may test exactly that.
            if let Ok(text) = asked.await {
                readings.insert(node.addr, NodeMetrics::read(&text));
            }
        }
        Ok(Self {
            at: Instant::now(),
            masters: readings,
        })
    }

    /// Returns the master that leads.
    fn leader(&self) -> Option<(&str, &NodeMetrics)> {
        let leads = |reading: &NodeMetrics| reading.sum("triarch_is_leader") > 0.0;
        let found = self.masters.iter().find(|(_, reading)| leads(reading));
        found.map(|(address, reading)| (address.as_str(), reading))
    }

    /// Returns the number of held polls, over all masters.
    pub fn polls_held(&self) -> u64 {
        let of = |reading: &NodeMetrics| reading.of("triarch_http_held", "kind=\"poll\"");
        self.masters.values().map(of).sum::<f64>() as u64
    }

    /// Returns each master's use of its machine between two snapshots.
    pub fn usage(&self, later: &Self) -> Vec<ResourceUsage> {
        let time = later.at.saturating_duration_since(self.at);
        let leader = later.leader().map(|(address, _)| address.to_owned());
        let both = later
            .masters
            .iter()
            .filter_map(|(address, after)| Some((address, self.masters.get(address)?, after)));
        both.map(|(address, before, after)| {
            let grown = |name| after.sum(name) - before.sum(name);
            ResourceUsage {
                master: address.clone(),
                leads: leader.as_ref() == Some(address),
                cpu_seconds: grown("process_cpu_seconds_total"),
                cpu_share: grown("process_cpu_seconds_total") / time.as_secs_f64().max(1e-9),
                resident_bytes: after.sum("process_resident_memory_bytes") as u64,
                resident_bytes_grown: grown("process_resident_memory_bytes") as i64,
            }
        })
        .collect()
    }

    /// Returns where the leader's time went between two snapshots. `None` if leadership changed in between.
    pub fn breakdown(&self, later: &Self) -> Option<CommitBreakdown> {
        let ((address, before), (after_address, after)) = (self.leader()?, later.leader()?);
        if address != after_address || before.sum("triarch_term") != after.sum("triarch_term") {
            return None;
        }
        let time = |name| HistogramDelta::between(before, after, name, 1e3);
        let plain = |name| HistogramDelta::between(before, after, name, 1.0);
        Some(CommitBreakdown {
            leader: address.to_owned(),
            queueing_ms: time("triarch_proposal_wait_seconds"),
            commit_ms: time("triarch_commit_seconds"),
            log_append_ms: time("triarch_log_append_seconds"),
            log_sync_ms: time("triarch_log_sync_seconds"),
            apply_ms: time("triarch_apply_seconds"),
            entry_commands: plain("triarch_entry_commands"),
            entry_bytes: plain("triarch_entry_bytes"),
        })
    }
}

impl NodeMetrics {
    fn read(text: &str) -> Self {
        let mut samples: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let Ok(value) = value.parse() else { continue };
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.trim_end_matches('}')),
                None => (series, ""),
            };
            let of_name = samples.entry(name.to_owned()).or_default();
            of_name.insert(labels.to_owned(), value);
        }
        Self(samples)
    }

    /// Returns the sum of all samples of a name.
    fn sum(&self, name: &str) -> f64 {
        self.0.get(name).map_or(0.0, |of| of.values().sum())
    }

    fn of(&self, name: &str, labels: &str) -> f64 {
        let sample = self.0.get(name).and_then(|of| of.get(labels));
        sample.copied().unwrap_or_default()
    }

    /// Returns a histogram's buckets: upper bounds, and the count at or below each.
    fn buckets(&self, name: &str) -> Vec<(f64, f64)> {
        let samples = self.0.get(&format!("{name}_bucket"));
        let mut buckets: Vec<(f64, f64)> = samples
            .into_iter()
            .flatten()
            .filter_map(|(labels, count)| {
                let bound = labels.strip_prefix("le=\"")?.strip_suffix('"')?;
                match bound {
                    "+Inf" => Some((f64::INFINITY, *count)),
                    bound => Some((bound.parse().ok()?, *count)),
                }
            })
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        buckets
    }
}

/// Use of its machine by one master.
#[derive(Debug, Clone, Serialize)]
pub struct ResourceUsage {
    pub master: String,
    pub leads: bool,
    pub cpu_seconds: f64,
    /// Share of one processor.
    pub cpu_share: f64,
    pub resident_bytes: u64,
    pub resident_bytes_grown: i64,
}

/// Breakdown of the leader's time.
#[derive(Debug, Clone, Serialize)]
pub struct CommitBreakdown {
    pub leader: String,
    /// Time of commands from their proposal until their entry was sent.
    pub queueing_ms: Option<HistogramDelta>,
    /// Time of entries until they were committed and applied.
    pub commit_ms: Option<HistogramDelta>,
    /// Part of `commit_ms` for the leader's own log, which includes the sync.
    pub log_append_ms: Option<HistogramDelta>,
    pub log_sync_ms: Option<HistogramDelta>,
    /// Part of `commit_ms` for applying entries to the table.
    pub apply_ms: Option<HistogramDelta>,
    pub entry_commands: Option<HistogramDelta>,
    pub entry_bytes: Option<HistogramDelta>,
}

/// Growth of a histogram. Quantiles lie between the bounds of a bucket, so they are estimates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct HistogramDelta {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p99: f64,
}

impl HistogramDelta {
    fn between(before: &NodeMetrics, after: &NodeMetrics, name: &str, scale: f64) -> Option<Self> {
        let grown = |part: &str| {
            let name = format!("{name}_{part}");
            after.sum(&name) - before.sum(&name)
        };
        let count = grown("count");
        if count < 1.0 {
            return None;
        }
        let older: Vec<f64> = before.buckets(name).into_iter().map(|(_, n)| n).collect();
        let buckets: Vec<(f64, f64)> = after
            .buckets(name)
            .into_iter()
            .enumerate()
            .map(|(at, (bound, n))| (bound, n - older.get(at).copied().unwrap_or_default()))
            .collect();
        Some(Self {
            count: count as u64,
            mean: grown("sum") / count * scale,
            p50: quantile(&buckets, 0.5) * scale,
            p99: quantile(&buckets, 0.99) * scale,
        })
    }
}

/// Estimates a quantile as Prometheus does: evenly spread within a bucket. Above the last bound, it returns that bound.
fn quantile(buckets: &[(f64, f64)], quantile: f64) -> f64 {
    let total = buckets.last().map_or(0.0, |(_, count)| *count);
    let rank = total * quantile;
    let (mut below, mut count_below) = (0.0, 0.0);
    for (bound, count) in buckets {
        if *count >= rank && *count > count_below {
            if bound.is_infinite() {
                return below;
            }
            return below + (bound - below) * (rank - count_below) / (count - count_below);
        }
        (below, count_below) = (*bound, *count);
    }
    below
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "\
# HELP triarch_commit_seconds From an entry's proposal.
# TYPE triarch_commit_seconds histogram
triarch_commit_seconds_bucket{le=\"0.001\"} 1
triarch_commit_seconds_bucket{le=\"0.002\"} 1
triarch_commit_seconds_bucket{le=\"+Inf\"} 1
triarch_commit_seconds_sum 0.0005
triarch_commit_seconds_count 1
triarch_is_leader 1
triarch_term 3
triarch_http_held{kind=\"poll\"} 7
";

    fn readings(text: &str) -> MetricsSnapshot {
        MetricsSnapshot {
            at: Instant::now(),
            masters: BTreeMap::from([("a:1".to_owned(), NodeMetrics::read(text))]),
        }
    }

    #[test]
    fn a_breakdown_covers_what_grew_between_two_snapshots() {
        let later = BEFORE
            .replace("0.001\"} 1", "0.001\"} 51")
            .replace("0.002\"} 1", "0.002\"} 101")
            .replace("+Inf\"} 1", "+Inf\"} 101")
            .replace("sum 0.0005", "sum 0.1005")
            .replace("count 1", "count 101");
        let (before, later) = (readings(BEFORE), readings(&later));
        assert_eq!(before.polls_held(), 7);
        let breakdown = before.breakdown(&later).expect("the leader stayed");
        let commit = breakdown.commit_ms.expect("it grew");
        assert_eq!((commit.count, commit.p50), (100, 1.0));
        assert!((commit.mean - 1.0).abs() < 1e-9, "{commit:?}");
        assert!((commit.p99 - 1.98).abs() < 1e-9, "{commit:?}");
        assert_eq!(breakdown.log_sync_ms, None);
    }

    #[test]
    fn there_is_no_breakdown_over_an_election() {
        let later = readings(&BEFORE.replace("triarch_term 3", "triarch_term 4"));
        assert!(readings(BEFORE).breakdown(&later).is_none());
    }
}
