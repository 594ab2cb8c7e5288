//! Query strings, and the parameters that several routes read.

use std::str::FromStr;

use super::problem::Problem;

/// Maximum time that a request may ask to wait, in ms.
pub const WAIT_MS_MAX: u64 = 120_000;

/// Parsed query string. Unknown and repeated names are refused.
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses the query. It may contain `allowed` and the parameters that every read takes.
    pub fn parse(raw: Option<&str>, allowed: &[&str]) -> Result<Self, Problem> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in url::form_urlencoded::parse(raw.unwrap_or_default().as_bytes()) {
            if name != "consistency" && !allowed.contains(&name.as_ref()) {
                let known = if allowed.is_empty() {
                    "none".to_string()
                } else {
                    allowed.join(", ")
                };
                return Err(Problem::invalid(
                    &name,
                    format!("unknown query parameter; this route knows: {known}"),
                ));
            }
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(Problem::invalid(&name, "is given twice"));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(pairs))
    }

    /// Parses any query without validation.
    pub fn parse_any(raw: Option<&str>) -> Option<Self> {
        raw.map(|raw| {
            Self(
                url::form_urlencoded::parse(raw.as_bytes())
                    .into_owned()
                    .collect(),
            )
        })
    }

    /// Returns the text of `name`, if given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Returns the value of `name`, if given.
    pub fn parsed<T: FromStr>(&self, name: &str, expected: &str) -> Result<Option<T>, Problem> {
        self.text(name)
            .map(|text| {
                text.parse()
                    .map_err(|_| Problem::invalid(name, format!("must be {expected}")))
            })
            .transpose()
    }

    /// Returns whether the client asks for a stale read: the state of this node, whatever the others have.
    pub fn asks_for_stale(&self) -> Result<bool, Problem> {
        match self.text("consistency") {
            Some("stale") => Ok(true),
            Some("linearizable") | None => Ok(false),
            Some(_) => Err(Problem::invalid(
                "consistency",
                "must be \"linearizable\" (the default) or \"stale\"",
            )),
        }
    }

    /// Returns `limit`, from 1 to 1000. Default: 100.
    pub fn limit(&self) -> Result<usize, Problem> {
        match self.parsed::<usize>("limit", "a number from 1 to 1000")? {
            None => Ok(100),
            Some(limit) if (1..=1_000).contains(&limit) => Ok(limit),
            Some(_) => Err(Problem::invalid("limit", "must be a number from 1 to 1000")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_refuses_unknown_and_repeated_names() {
        assert!(Query::parse(Some("wait_ms=5"), &["wait_ms"]).is_ok());
        assert!(Query::parse(Some("wiat_ms=5"), &["wait_ms"]).is_err());
        assert!(Query::parse(Some("wait_ms=5&wait_ms=6"), &["wait_ms"]).is_err());
    }
}
