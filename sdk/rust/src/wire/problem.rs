//! Error responses in the format `application/problem+json` (RFC 9457), and the stable codes of all errors.

use serde::{Deserialize, Serialize};

/// Media type of a [`Problem`].
pub const CONTENT_TYPE: &str = "application/problem+json";

/// Error response by RFC 9457. Programs decide by `code`; `detail` is for readers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// URI of the problem type.
    #[serde(rename = "type", default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub kind: String,
    /// Title of the problem type; the same for every problem of the type.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// Stable code in snake_case. It is a string, because newer servers may have further codes.
    pub code: String,
    /// Description of this occurrence: what is wrong with the request.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub detail: String,
    /// Name of the invalid field of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Id of the leader. Present where the client can continue with it, such as with `not_leader`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<u64>,
    /// Time in ms to wait before a retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Further fields, depending on the code.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Problem {
    /// Returns a problem with this code, and with the title and the HTTP status of the code.
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:triarch:problem:{}", code.as_str()),
            title: code.title().to_owned(),
            status: code.status(),
            code: code.as_str().to_owned(),
            detail: detail.into(),
            field: None,
            leader: None,
            retry_after_ms: None,
            extra: serde_json::Map::new(),
        }
    }

    /// Returns the problem with the name of the invalid field of the request.
    pub fn with_field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Returns the problem with the time in ms to wait before a retry.
    pub fn with_retry_after_ms(mut self, retry_after_ms: u64) -> Self {
        self.retry_after_ms = Some(retry_after_ms);
        self
    }

    /// Returns the problem with a further field, which depends on the code.
    pub fn with_extra(
        mut self,
        name: impl Into<String>,
        value: impl Into<serde_json::Value>,
    ) -> Self {
        self.extra.insert(name.into(), value.into());
        self
    }

    /// Returns whether the problem has this code.
    pub fn is(&self, code: ProblemCode) -> bool {
        self.code == code.as_str()
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = if self.detail.is_empty() {
            &self.title
        } else {
            &self.detail
        };
        write!(f, "{text} ({}, HTTP {})", self.code, self.status)?;
        if let Some(field) = &self.field {
            write!(f, ", field {field}")?;
        }
        Ok(())
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $word:literal, $status:literal, $title:literal;)*) => {
        /// Codes of problems. Each has a stable name on the wire, an HTTP status and a title.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ProblemCode {
            $($(#[$doc])* $variant,)*
        }

        impl ProblemCode {
            /// All codes.
            pub const ALL: &[ProblemCode] = &[$(ProblemCode::$variant),*];

            /// Returns the name of the code on the wire, which never changes.
            pub fn as_str(self) -> &'static str {
                match self { $(ProblemCode::$variant => $word,)* }
            }

            /// Returns the HTTP status of a response with the code.
            pub fn status(self) -> u16 {
                match self { $(ProblemCode::$variant => $status,)* }
            }

            /// Returns the title of the code.
            pub fn title(self) -> &'static str {
                match self { $(ProblemCode::$variant => $title,)* }
            }
        }
    };
}

codes! {
    /// No node leads at the moment.
    NoLeader = "no_leader", 503, "No leader is known";
    /// Another node leads, and the request excluded forwarding.
    NotLeader = "not_leader", 307, "Another node leads";
    /// The node is too busy, not yet ready, or stopping.
    Unavailable = "unavailable", 503, "The node cannot take the request now";
    /// The object does not exist, or no longer exists.
    NotFound = "not_found", 404, "Not found";
    /// The route exists, but does not accept the method.
    MethodNotAllowed = "method_not_allowed", 405, "Method not allowed";
    /// The request breaks a rule. `field` names the invalid field.
    InvalidRequest = "invalid_request", 400, "The request is invalid";
    /// The `Host` header holds a name that the cluster does not accept.
    MisdirectedRequest = "misdirected_request", 421, "Host name not served here";
    /// The `content-type` is not JSON, or a browser could have sent the request for a page of another site.
    UnsupportedMediaType = "unsupported_media_type", 415, "The body must be JSON";
    /// The requested events are no longer kept. `oldest` is the first position that is.
    PositionGone = "position_gone", 410, "Not kept any more";
    /// The body, or a part of it, exceeds its limit.
    PayloadTooLarge = "payload_too_large", 413, "Too large";
    /// The queue, or the table as a whole, has reached its bound.
    QueueFull = "queue_full", 429, "The queue is full";
    /// Too many requests.
    RateLimited = "rate_limited", 429, "Too many requests";
    /// The lease is not the current lease of the task.
    StaleToken = "stale_token", 409, "The lease is no longer current";
    /// The task or job is terminal already.
    AlreadyFinished = "already_finished", 409, "Already finished";
    /// The program of a node is older than the cluster's formats need; `node` gives its id.
    NodeTooOld = "node_too_old", 409, "A node is too old";
    /// The request contradicts the current state.
    Conflict = "conflict", 409, "Conflict";
    /// The client is not authenticated.
    Unauthorized = "unauthorized", 401, "Unauthorized";
    /// The client is not allowed to make the request.
    Forbidden = "forbidden", 403, "Forbidden";
    /// The worker is not registered, or was lost: it must register again.
    UnknownWorker = "unknown_worker", 404, "The worker is not registered";
    /// The disk failed or is full.
    StorageFailed = "storage_failed", 507, "The storage failed";
    /// The outcome is unknown. A retry with the same request id is safe.
    Timeout = "timeout", 504, "Not answered in time";
    /// A bug of the server.
    Internal = "internal", 500, "Internal error";
}

#[cfg(test)]
mod tests {
    use super::{Problem, ProblemCode};

    #[test]
    fn extra_fields_of_a_problem_survive_encoding() {
        let problem = Problem::new(ProblemCode::Conflict, "taken").with_extra("task", "t4-0");
        let text = serde_json::to_string(&problem).expect("plain");
        assert!(text.contains(r#""task":"t4-0""#), "{text}");
        let back: Problem = serde_json::from_str(&text).expect("own words");
        assert_eq!(back, problem);
    }
}
