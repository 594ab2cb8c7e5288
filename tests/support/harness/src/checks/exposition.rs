//! Strict parser of the text of `/metrics`: a defect that Prometheus or its linter would report fails the test.

use std::collections::{BTreeMap, BTreeSet};

/// All samples of one scrape.
#[derive(Debug, Clone, Default)]
pub struct Exposition {
    /// Type of each family, by its name.
    pub families: BTreeMap<String, String>,
    samples: BTreeMap<Series, f64>,
}

/// Name and labels of a sample.
type Series = (String, BTreeMap<String, String>);

impl Exposition {
    /// Parses the older of the two text formats.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut read = Self::default();
        let mut helped: Option<String> = None;
        let mut family: Option<(String, String)> = None;
        if !text.ends_with('\n') {
            return Err("the last line does not end".into());
        }
        for line in text.lines() {
            let wrong = |what: &str| Err(format!("{what}: {line}"));
            if let Some(help) = line.strip_prefix("# HELP ") {
                let Some((name, words)) = help.split_once(' ') else {
                    return wrong("help without words");
                };
                if words.trim().is_empty() || !is_name(name) {
                    return wrong("help of nothing");
                }
                helped = Some(name.to_owned());
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let Some((name, kind)) = kind.split_once(' ') else {
                    return wrong("a type of nothing");
                };
                if helped.take().as_deref() != Some(name) {
                    return wrong("a family without help right before");
                }
                if !["counter", "gauge", "histogram"].contains(&kind) {
                    return wrong("an unknown type");
                }
                if (kind == "counter") != name.ends_with("_total") {
                    return wrong("counters, and nothing else, end with _total");
                }
                if read
                    .families
                    .insert(name.to_owned(), kind.to_owned())
                    .is_some()
                {
                    return wrong("a family that was there before");
                }
                family = Some((name.to_owned(), kind.to_owned()));
            } else if line.starts_with('#') || line.is_empty() {
                return wrong("a line that says nothing");
            } else {
                let (series, value) = sample(line).map_err(|why| format!("{why}: {line}"))?;
                let Some((of, kind)) = &family else {
                    return wrong("a sample without a family");
                };
                let suffixes: &[&str] = match kind.as_str() {
                    "histogram" => &["_bucket", "_sum", "_count"],
                    _ => &[""],
                };
                if !suffixes
                    .iter()
                    .any(|suffix| format!("{of}{suffix}") == series.0)
                {
                    return wrong("a sample among those of another family");
                }
                if kind == "counter" && (value < 0.0 || value.is_nan()) {
                    return wrong("a counter that is no count");
                }
                if read.samples.insert(series, value).is_some() {
                    return wrong("a sample that was there before");
                }
            }
        }
        read.check_histograms()?;
        Ok(read)
    }

    fn check_histograms(&self) -> Result<(), String> {
        type Buckets = Vec<(f64, f64)>;
        let mut buckets: BTreeMap<Series, Buckets> = BTreeMap::new();
        for ((name, labels), value) in &self.samples {
            let Some(family) = name.strip_suffix("_bucket") else {
                continue;
            };
            let mut labels = labels.clone();
            let bound = labels
                .remove("le")
                .ok_or_else(|| format!("{name} without le"))?;
            let bound = match bound.as_str() {
                "+Inf" => f64::INFINITY,
                text => text.parse().map_err(|_| format!("{name} has le={text}"))?,
            };
            let series = (family.to_owned(), labels);
            buckets.entry(series).or_default().push((bound, *value));
        }
        for ((family, labels), mut found) in buckets {
            found.sort_by(|a, b| a.0.total_cmp(&b.0));
            let grows = found.windows(2).all(|pair| pair[0].1 <= pair[1].1);
            let last = found.last().copied().unwrap_or_default();
            let count = self
                .samples
                .get(&(format!("{family}_count"), labels.clone()));
            let sum = self.samples.get(&(format!("{family}_sum"), labels.clone()));
            if !grows || last.0 != f64::INFINITY || count != Some(&last.1) || sum.is_none() {
                return Err(format!(
                    "{family}{labels:?} does not add up: {found:?}, {count:?}"
                ));
            }
        }
        Ok(())
    }

    /// Returns the sum of all samples of this name that have at least these labels, or `None` without such samples.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self
            .samples
            .iter()
            .filter(|((known, has), _)| {
                let fits =
                    |(label, value): &(&str, &str)| has.get(*label).is_some_and(|has| has == value);
                known == name && labels.iter().all(fits)
            })
            .map(|(_, value)| *value)
            .peekable();
        found.peek().is_some().then_some(())?;
        Some(found.sum())
    }

    /// As [`Exposition::sum`], but panics without such samples.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.sum(name, labels)
            .unwrap_or_else(|| panic!("no {name} with {labels:?}"))
    }

    /// Returns the names of the labels of a family's samples, without the bounds of buckets.
    pub fn labels(&self, family: &str) -> BTreeSet<String> {
        let names = [family.to_owned(), format!("{family}_count")];
        let of = self.samples.keys().filter(|(name, _)| names.contains(name));
        of.flat_map(|(_, labels)| labels.keys().cloned()).collect()
    }

    /// Returns the number of samples.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Returns whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|first: char| first.is_ascii_digit())
        && text
            .chars()
            .all(|one| one.is_ascii_alphanumeric() || one == '_')
}

fn sample(line: &str) -> Result<(Series, f64), String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name) {
        return Err("not a name".into());
    }
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"").ok_or("a label without value")?;
            if !is_name(label) {
                return Err(format!("a label called {label:?}"));
            }
            let (value, after) = quoted(after)?;
            if labels.insert(label.to_owned(), value).is_some() {
                return Err(format!("{label} is there twice"));
            }
            match after.strip_prefix(',') {
                Some(more) => rest = more,
                None => {
                    rest = after.strip_prefix('}').ok_or("labels without end")?;
                    break;
                }
            }
        }
    }
    let value = rest.strip_prefix(' ').ok_or("no blank before the value")?;
    let value: f64 = value
        .parse()
        .map_err(|_| format!("{value:?} is no number"))?;
    Ok(((name.to_owned(), labels), value))
}

/// Returns the text up to the closing quote, and the rest.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut places = text.char_indices();
    while let Some((place, one)) = places.next() {
        match one {
            '"' => return Ok((value, &text[place + 1..])),
            '\\' => match places.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped @ ('"' | '\\'))) => value.push(escaped),
                Some(_) | None => return Err("a wrong escape".into()),
            },
            plain => value.push(plain),
        }
    }
    Err("a value without end".into())
}

#[cfg(test)]
mod tests {
    use super::Exposition;

    #[test]
    fn malformed_expositions_are_refused() {
        let good = "# HELP a_total How often.\n# TYPE a_total counter\na_total{b=\"x\\\"y\"} 3\n";
        let read = Exposition::read(good).expect("good");
        assert_eq!(read.value("a_total", &[("b", "x\"y")]), 3.0);
        for bad in [
            "a_total 3\n",
            "# TYPE a_total counter\na_total 3\n",
            "# HELP a How.\n# TYPE a counter\na 3\n",
            "# HELP a How.\n# TYPE a gauge\na 3\na 3\n",
            "# HELP a How.\n# TYPE a gauge\nb 3\n",
            "# HELP a How.\n# TYPE a gauge\na{b=\"c} 3\n",
            "# HELP a How.\n# TYPE a histogram\na_bucket{le=\"1\"} 3\na_count 3\na_sum 1\n",
            "# HELP a How.\n# TYPE a gauge\na three\n",
        ] {
            assert!(Exposition::read(bad).is_err(), "{bad}");
        }
    }
}
