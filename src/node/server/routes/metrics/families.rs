//! Metric families of one scrape: collected as plain values, encoded by the Prometheus library.

use std::fmt;

use axum::http::HeaderValue;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use triarch_raft::HistogramSnapshot;

/// Names and values of labels.
pub type Labels = Vec<(&'static str, String)>;

/// Unit of a histogram's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Nanoseconds, exposed as seconds.
    Time,
    /// The values themselves.
    Plain,
}

#[derive(Debug)]
enum Samples {
    Gauge(Vec<(Labels, f64)>),
    Counter(Vec<(Labels, f64)>),
    Histogram(Scale, Vec<(Labels, HistogramSnapshot)>),
}

#[derive(Debug)]
struct MetricFamily {
    name: &'static str,
    help: &'static str,
    samples: Samples,
}

/// All metric families of one scrape. A family without samples is present too.
#[derive(Debug, Default)]
pub struct MetricFamilies(Vec<MetricFamily>);

/// Exposition formats of Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text format that every scraper reads.
    Prometheus,
    /// Format that newer scrapers ask for.
    OpenMetrics,
}

impl Format {
    /// Negotiates the format by `Accept`.
    pub fn negotiate(accept: Option<&HeaderValue>) -> Self {
        let text = accept.and_then(|accept| accept.to_str().ok());
        if text.is_some_and(|text| text.contains("application/openmetrics-text")) {
            Format::OpenMetrics
        } else {
            Format::Prometheus
        }
    }

    /// Returns the media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl MetricFamilies {
    fn push(&mut self, name: &'static str, help: &'static str, samples: Samples) {
        self.0.push(MetricFamily {
            name,
            help,
            samples,
        });
    }

    /// Adds a gauge: a value that goes up and down.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.gauges(name, help, vec![(Labels::new(), value)]);
    }

    /// Adds gauges like [`MetricFamilies::gauge`], one for each set of labels.
    pub fn gauges(&mut self, name: &'static str, help: &'static str, values: Vec<(Labels, f64)>) {
        self.push(name, help, Samples::Gauge(values));
    }

    /// Adds a counter: a value that only grows. It is exposed with the suffix `_total`.
    pub fn counter(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.counters(name, help, vec![(Labels::new(), value)]);
    }

    /// Adds counters like [`MetricFamilies::counter`], one for each set of labels.
    pub fn counters(&mut self, name: &'static str, help: &'static str, values: Vec<(Labels, f64)>) {
        self.push(name, help, Samples::Counter(values));
    }

    /// Adds a histogram: the distribution of values.
    pub fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        scale: Scale,
        reading: HistogramSnapshot,
    ) {
        self.histograms(name, help, scale, vec![(Labels::new(), reading)]);
    }

    /// Adds histograms like [`MetricFamilies::histogram`], one for each set of labels.
    pub fn histograms(
        &mut self,
        name: &'static str,
        help: &'static str,
        scale: Scale,
        readings: Vec<(Labels, HistogramSnapshot)>,
    ) {
        self.push(name, help, Samples::Histogram(scale, readings));
    }

    /// Encodes the exposition text.
    pub fn encode_text(self, format: Format) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut written = String::new();
        text::encode(&mut written, &registry)?;
        Ok(match format {
            Format::OpenMetrics => written,
            Format::Prometheus => prometheus_text(&written),
        })
    }
}

impl Collector for MetricFamilies {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for family in &self.0 {
            let kind = match &family.samples {
                Samples::Gauge(_) => MetricType::Gauge,
                Samples::Counter(_) => MetricType::Counter,
                Samples::Histogram(..) => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            match &family.samples {
                Samples::Gauge(values) => {
                    for (labels, value) in values {
                        labelled(&mut metric, labels, |metric| metric.encode_gauge(value))?;
                    }
                }
                Samples::Counter(values) => {
                    for (labels, value) in values {
                        labelled(&mut metric, labels, |metric| {
                            metric.encode_counter::<NoLabelSet, _, f64>(value, None)
                        })?;
                    }
                }
                Samples::Histogram(scale, readings) => {
                    for (labels, reading) in readings {
                        labelled(&mut metric, labels, |metric| {
                            histogram(metric, *scale, reading)
                        })?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn labelled(
    metric: &mut MetricEncoder<'_>,
    labels: &Labels,
    encode: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    if labels.is_empty() {
        encode(metric)
    } else {
        encode(&mut metric.encode_family(labels)?)
    }
}

fn histogram(
    metric: &mut MetricEncoder<'_>,
    scale: Scale,
    reading: &HistogramSnapshot,
) -> fmt::Result {
    let scaled = |value: u64| match scale {
        Scale::Time => value as f64 / 1e9,
        Scale::Plain => value as f64,
    };
    let bounds = reading.bounds.iter().map(|bound| scaled(*bound));
    let buckets: Vec<(f64, u64)> = bounds
        .chain([f64::INFINITY])
        .zip(reading.counts.iter().copied())
        .collect();
    metric.encode_histogram::<NoLabelSet>(scaled(reading.sum), reading.count(), &buckets, None)
}

/// Converts OpenMetrics to the older Prometheus text: counters get their full names, and there is no end marker.
fn prometheus_text(openmetrics: &str) -> String {
    let mut written = String::with_capacity(openmetrics.len());
    let mut help: Option<&str> = None;
    for line in openmetrics.lines() {
        if let Some(text) = line.strip_prefix("# HELP ") {
            help = Some(text);
            continue;
        }
        let Some(family) = line.strip_prefix("# TYPE ") else {
            if !line.starts_with("# EOF") {
                written.push_str(line);
                written.push('\n');
            }
            continue;
        };
        let (name, kind) = family.split_once(' ').unwrap_or((family, "untyped"));
        let total = if kind == "counter" { "_total" } else { "" };
        if let Some((_, words)) = help.take().and_then(|help| help.split_once(' ')) {
            written.push_str(&format!("# HELP {name}{total} {words}\n"));
        }
        written.push_str(&format!("# TYPE {name}{total} {kind}\n"));
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use triarch_raft::Histogram;

    fn families() -> MetricFamilies {
        let histogram = Histogram::new(&[1_000_000, 2_000_000]);
        for value in [500_000, 2_000_000, 9_000_000] {
            histogram.observe(value);
        }
        let mut families = MetricFamilies::default();
        families.gauge("a_bytes", "What it is.", 5.0);
        families.counters(
            "b",
            "How often.",
            vec![(vec![("queue", "a \"b\"\n\\".to_owned())], 3.0)],
        );
        families.histogram("c_seconds", "How long.", Scale::Time, histogram.read());
        families.gauges("d", "Nothing at present.", Vec::new());
        families
    }

    #[test]
    fn both_formats_have_the_lines_that_scrapers_expect() {
        let plain = families().encode_text(Format::Prometheus).expect("written");
        for line in [
            "# HELP a_bytes What it is.",
            "# TYPE a_bytes gauge",
            "a_bytes 5.0",
            "# HELP b_total How often.",
            "# TYPE b_total counter",
            "b_total{queue=\"a \\\"b\\\"\\n\\\\\"} 3.0",
            "c_seconds_bucket{le=\"0.001\"} 1",
            "c_seconds_bucket{le=\"0.002\"} 2",
            "c_seconds_bucket{le=\"+Inf\"} 3",
            "c_seconds_count 3",
            "# TYPE d gauge",
        ] {
            assert!(
                plain.lines().any(|one| one == line),
                "no {line} in\n{plain}"
            );
        }
        assert!(!plain.contains("EOF"));
        let open = families()
            .encode_text(Format::OpenMetrics)
            .expect("written");
        assert!(
            open.contains("# TYPE b counter\n") && open.ends_with("# EOF\n"),
            "{open}"
        );
    }

    #[test]
    fn a_scraper_that_accepts_openmetrics_gets_it() {
        let asked = |text| Format::negotiate(Some(&HeaderValue::from_static(text)));
        assert_eq!(Format::negotiate(None), Format::Prometheus);
        assert_eq!(asked("*/*"), Format::Prometheus);
        let prometheus =
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
        assert_eq!(asked(prometheus), Format::OpenMetrics);
    }
}
