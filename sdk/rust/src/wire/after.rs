//! Dependencies between the tasks of a job.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

/// Task of the same job that must end first: its key, or an object that says how it must end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum After {
    /// Key of a task that must succeed.
    Key(String),
    /// Key of a task, and how it must end.
    When(AfterWhen),
}

/// Task of the same job that must end in some way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AfterWhen {
    /// Key of the task.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
    pub key: String,
    /// How the task must end. Default: `succeeded`.
    #[serde(default)]
    pub when: EndCondition,
}

/// Condition on an end: `succeeded`; `failed`, which includes expired tasks, and tasks that were cancelled because another
/// one failed; or `ended` in any way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EndCondition {
    /// It succeeded.
    #[default]
    Succeeded,
    /// It failed.
    Failed,
    /// It ended in any way.
    Ended,
}

/// Job that must end before another one may start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AfterJob {
    /// Id of the job.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
    pub job: String,
    /// How the job must end. Default: `succeeded`.
    #[serde(default)]
    pub when: EndCondition,
}

/// Job that another one comes after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct JobBefore {
    /// Id of the job.
    pub job: String,
    /// How the job must end.
    pub when: EndCondition,
    /// Whether it has ended so; `null` while it is unfinished.
    #[serde(default)]
    pub met: Option<bool>,
}

impl EndCondition {
    /// All conditions.
    pub const ALL: [EndCondition; 3] = [
        EndCondition::Succeeded,
        EndCondition::Failed,
        EndCondition::Ended,
    ];

    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            EndCondition::Succeeded => "succeeded",
            EndCondition::Failed => "failed",
            EndCondition::Ended => "ended",
        }
    }
}

impl After {
    /// Returns a dependency on the end of a task in some way.
    pub fn when(key: impl Into<String>, when: EndCondition) -> Self {
        let key = key.into();
        match when {
            EndCondition::Succeeded => After::Key(key),
            EndCondition::Failed | EndCondition::Ended => After::When(AfterWhen { key, when }),
        }
    }

    /// Returns the key of the task.
    pub fn key(&self) -> &str {
        match self {
            After::Key(key) => key,
            After::When(after) => &after.key,
        }
    }

    /// Returns how the task must end.
    pub fn condition(&self) -> EndCondition {
        match self {
            After::Key(_) => EndCondition::Succeeded,
            After::When(after) => after.when,
        }
    }
}

impl From<&str> for After {
    fn from(key: &str) -> Self {
        After::Key(key.to_owned())
    }
}

impl From<String> for After {
    fn from(key: String) -> Self {
        After::Key(key)
    }
}

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.condition() {
            EndCondition::Succeeded => f.write_str(self.key()),
            when => write!(f, "{} ({})", self.key(), when.as_str()),
        }
    }
}

impl<'de> Deserialize<'de> for After {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AfterVisitor;

        impl<'de> Visitor<'de> for AfterVisitor {
            type Value = After;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key, or an object with key and when")
            }

            fn visit_str<E: de::Error>(self, key: &str) -> Result<After, E> {
                Ok(After::Key(key.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<After, A::Error> {
                AfterWhen::deserialize(MapAccessDeserializer::new(map)).map(After::When)
            }
        }

        deserializer.deserialize_any(AfterVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_is_a_key_or_an_object_and_stays_what_it_was() {
        for (text, key, when) in [
            (r#""a""#, "a", EndCondition::Succeeded),
            (
                r#"{"key":"a","when":"succeeded"}"#,
                "a",
                EndCondition::Succeeded,
            ),
            (r#"{"key":"b","when":"failed"}"#, "b", EndCondition::Failed),
            (r#"{"key":"c","when":"ended"}"#, "c", EndCondition::Ended),
        ] {
            let after: After = serde_json::from_str(text).expect("valid");
            assert_eq!((after.key(), after.condition()), (key, when));
            // The digest of a submission counts on it.
            assert_eq!(serde_json::to_string(&after).expect("valid"), text);
        }
        let short: After = serde_json::from_str(r#"{"key":"a"}"#).expect("valid");
        assert_eq!(short.condition(), EndCondition::Succeeded);
        for wrong in [
            "7",
            "null",
            "{}",
            r#"{"when":"failed"}"#,
            r#"{"key":"a","when":"soon"}"#,
            r#"{"key":"a","if":"failed"}"#,
            r#"["a"]"#,
        ] {
            assert!(serde_json::from_str::<After>(wrong).is_err(), "{wrong}");
        }
    }
}
