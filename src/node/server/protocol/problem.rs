//! Problem details (RFC 9457) with a stable `code`, for every error on every route.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use triarch_table::command::reply::Refusal;

/// Media type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";
/// `Retry-After` in seconds of a cluster whose disks are nearly full.
const DISK_LOW_RETRY_S: u64 = 2;
/// Maximum length in bytes of a framework error that is kept.
const REFUSAL_BYTES_MAX: usize = 10_000;

/// Problem details of one error.
#[derive(Debug, Clone)]
pub struct Problem {
    code: Code,
    detail: String,
    fields: Vec<(&'static str, serde_json::Value)>,
    retry_after_s: Option<u64>,
}

/// Stable codes. Programs match on them; their text never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// No leader is known, or it could not confirm that it leads.
    NoLeader,
    /// Another node leads; the problem names it.
    NotLeader,
    /// The object does not exist (any more), or the route does not.
    NotFound,
    /// The route exists, the method does not.
    MethodNotAllowed,
    /// The request breaks a rule. `field` names the invalid field.
    InvalidRequest,
    /// A body, payload or batch is over its bound.
    PayloadTooLarge,
    /// A queue or the table is at its bound.
    QueueFull,
    /// More requests than this node accepts.
    RateLimited,
    /// A bound of this node is reached; another node may have capacity.
    Unavailable,
    /// The requested history is no longer kept.
    PositionGone,
    /// A web page of another site sent the request.
    Forbidden,
    /// A browser could have sent the request for a page of another site.
    UnsupportedMediaType,
    /// The request is for a host name that is not one of this cluster's.
    MisdirectedRequest,
    /// The request contradicts the current state.
    Conflict,
    /// The program of a node is older than the cluster's formats need.
    NodeTooOld,
    /// The object is terminal already.
    AlreadyFinished,
    /// The worker is not registered, or was lost.
    UnknownWorker,
    /// This node's disk failed, or disks are nearly full.
    StorageFailed,
    /// The deadline passed; the outcome is unknown.
    Timeout,
}

impl Code {
    /// All codes.
    pub const ALL: &[Code] = &[
        Code::NoLeader,
        Code::NotLeader,
        Code::NotFound,
        Code::MethodNotAllowed,
        Code::InvalidRequest,
        Code::PayloadTooLarge,
        Code::QueueFull,
        Code::RateLimited,
        Code::Unavailable,
        Code::PositionGone,
        Code::Forbidden,
        Code::UnsupportedMediaType,
        Code::MisdirectedRequest,
        Code::Conflict,
        Code::NodeTooOld,
        Code::AlreadyFinished,
        Code::UnknownWorker,
        Code::StorageFailed,
        Code::Timeout,
    ];

    /// Returns the stable spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::NoLeader => "no_leader",
            Code::NotLeader => "not_leader",
            Code::NotFound => "not_found",
            Code::MethodNotAllowed => "method_not_allowed",
            Code::InvalidRequest => "invalid_request",
            Code::PayloadTooLarge => "payload_too_large",
            Code::QueueFull => "queue_full",
            Code::RateLimited => "rate_limited",
            Code::Unavailable => "unavailable",
            Code::PositionGone => "position_gone",
            Code::Forbidden => "forbidden",
            Code::UnsupportedMediaType => "unsupported_media_type",
            Code::MisdirectedRequest => "misdirected_request",
            Code::Conflict => "conflict",
            Code::NodeTooOld => "node_too_old",
            Code::AlreadyFinished => "already_finished",
            Code::UnknownWorker => "unknown_worker",
            Code::StorageFailed => "storage_failed",
            Code::Timeout => "timeout",
        }
    }

    /// Returns the title, which is the same for every problem of this code.
    pub fn title(self) -> &'static str {
        match self {
            Code::NoLeader => "No leader is known",
            Code::NotLeader => "Another node leads",
            Code::NotFound => "Not found",
            Code::MethodNotAllowed => "Method not allowed",
            Code::InvalidRequest => "Invalid request",
            Code::PayloadTooLarge => "Payload too large",
            Code::QueueFull => "Queue full",
            Code::RateLimited => "Too many requests",
            Code::Unavailable => "No room on this node",
            Code::PositionGone => "Not kept any more",
            Code::Forbidden => "Forbidden",
            Code::UnsupportedMediaType => "Unsupported media type",
            Code::MisdirectedRequest => "Host name not served here",
            Code::Conflict => "Conflict",
            Code::NodeTooOld => "A node is too old",
            Code::AlreadyFinished => "Already finished",
            Code::UnknownWorker => "Unknown worker",
            Code::StorageFailed => "Storage failed",
            Code::Timeout => "Outcome unknown",
        }
    }

    /// Returns the HTTP status of the code.
    pub fn status(self) -> StatusCode {
        match self {
            Code::NoLeader | Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::PositionGone => StatusCode::GONE,
            Code::NotLeader => StatusCode::TEMPORARY_REDIRECT,
            Code::NotFound | Code::UnknownWorker => StatusCode::NOT_FOUND,
            Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Code::InvalidRequest => StatusCode::BAD_REQUEST,
            Code::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Code::QueueFull | Code::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Code::Forbidden => StatusCode::FORBIDDEN,
            Code::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Code::MisdirectedRequest => StatusCode::MISDIRECTED_REQUEST,
            Code::Conflict | Code::NodeTooOld | Code::AlreadyFinished => StatusCode::CONFLICT,
            Code::StorageFailed => StatusCode::INSUFFICIENT_STORAGE,
            Code::Timeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

impl Problem {
    /// Creates a problem with its detail.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let retry_after_s = match code {
            Code::NoLeader | Code::QueueFull | Code::RateLimited | Code::Unavailable => Some(1),
            Code::NotLeader
            | Code::NotFound
            | Code::MethodNotAllowed
            | Code::InvalidRequest
            | Code::PayloadTooLarge
            | Code::PositionGone
            | Code::Forbidden
            | Code::UnsupportedMediaType
            | Code::MisdirectedRequest
            | Code::Conflict
            | Code::NodeTooOld
            | Code::AlreadyFinished
            | Code::UnknownWorker
            | Code::StorageFailed
            | Code::Timeout => None,
        };
        Self {
            code,
            detail: detail.into(),
            fields: Vec::new(),
            retry_after_s,
        }
    }

    /// Creates a problem for a request that breaks a rule at `field`.
    pub fn invalid(field: &str, detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, detail).with("field", field)
    }

    /// Creates a problem for a node that knows no leader.
    pub fn no_leader(detail: impl Into<String>) -> Self {
        Self::new(Code::NoLeader, detail)
    }

    /// Creates a problem for a change that was not done because a disk is nearly full. Its `Retry-After` distinguishes
    /// it from a failed disk, and the leader proxy relies on that.
    pub fn disk_low(detail: impl Into<String>) -> Self {
        Self {
            retry_after_s: Some(DISK_LOW_RETRY_S),
            ..Self::new(Code::StorageFailed, detail)
        }
    }

    /// Adds an extension field.
    pub fn with(mut self, name: &'static str, value: impl Into<serde_json::Value>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// Prefixes the field name for a value that was nested in an outer field: `tasks[0].kind` becomes
    /// `job.tasks[0].kind`.
    pub fn within(mut self, outer: &str) -> Self {
        for (name, value) in &mut self.fields {
            if let ("field", serde_json::Value::String(field)) = (*name, value) {
                *field = match field.as_str() {
                    "" => outer.to_owned(),
                    inner => format!("{outer}.{inner}"),
                };
            }
        }
        self
    }

    /// Returns the invalid field of the request, or an empty text.
    pub fn field(&self) -> &str {
        let field = self.fields.iter().find(|(name, _)| *name == "field");
        field
            .and_then(|(_, value)| value.as_str())
            .unwrap_or_default()
    }

    /// Returns the description for readers.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Returns the code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Returns the JSON document.
    pub fn to_json(&self) -> serde_json::Value {
        let mut body = serde_json::Map::new();
        body.insert(
            "type".into(),
            format!("urn:triarch:problem:{}", self.code.as_str()).into(),
        );
        body.insert("title".into(), self.code.title().into());
        body.insert("status".into(), self.code.status().as_u16().into());
        body.insert("code".into(), self.code.as_str().into());
        body.insert("detail".into(), self.detail.clone().into());
        for (name, value) in &self.fields {
            body.insert((*name).into(), value.clone());
        }
        body.into()
    }

    /// Builds the HTTP response.
    pub fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.to_json().to_string()));
        // The request metrics read the code from here.
        response.extensions_mut().insert(self.code);
        *response.status_mut() = self.code.status();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = self.retry_after_s {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl axum::response::IntoResponse for Problem {
    fn into_response(self) -> axum::response::Response {
        Problem::into_response(self)
    }
}

/// Middleware that converts errors of the HTTP framework (a path that is not UTF-8, for example) into problem details.
pub async fn convert_framework_errors(response: Response<Body>) -> Response<Body> {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let ours = kind.is_some_and(|kind| kind == PROBLEM_JSON);
    if ours || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let code = match status {
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
        StatusCode::PAYLOAD_TOO_LARGE => Code::PayloadTooLarge,
        _ => Code::InvalidRequest,
    };
    let detail = match axum::body::to_bytes(response.into_body(), REFUSAL_BYTES_MAX).await {
        Ok(words) => String::from_utf8_lossy(&words).into_owned(),
        Err(_) => status.to_string(),
    };
    Problem::new(code, detail).into_response()
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            Refusal::JobNotFound(_) | Refusal::TaskNotFound(_) | Refusal::ScheduleNotFound(_) => {
                Problem::new(Code::NotFound, detail)
            }
            Refusal::ScheduleReplaced(_) => Problem::new(Code::Conflict, detail),
            Refusal::UnknownWorker(_) => Problem::new(Code::UnknownWorker, detail),
            Refusal::WorkerDraining(worker) => {
                Problem::new(Code::Conflict, detail).with("worker", worker.to_string())
            }
            Refusal::KeyConflict { job } => {
                Problem::new(Code::Conflict, detail).with("job", job.to_string())
            }
            Refusal::PartConflict { key } => {
                Problem::new(Code::Conflict, detail).with("idempotency_key", key)
            }
            Refusal::WorkerNameTaken { worker } => Problem::new(Code::Conflict, detail)
                .with("field", "name")
                .with("worker", worker.to_string()),
            Refusal::WrongState { task, state } => Problem::new(Code::AlreadyFinished, detail)
                .with("task", task.to_string())
                .with("state", state),
            Refusal::UniqueKeyTaken { key, task } => Problem::new(Code::Conflict, detail)
                .with("field", "unique_key")
                .with("unique_key", key)
                .with("task", task.to_string()),
            Refusal::DependencyEnded {
                task,
                dependency,
                state,
            } => Problem::new(Code::Conflict, detail)
                .with("task", task.to_string())
                .with("dependency", dependency.to_string())
                .with("state", state),
            Refusal::NotNeeded {
                task,
                dependency,
                state,
            } => Problem::new(Code::Conflict, detail)
                .with("task", task.to_string())
                .with("dependency", dependency.to_string())
                .with("state", state),
            Refusal::HandlerUnfinished {
                task,
                handler,
                state,
            } => Problem::new(Code::Conflict, detail)
                .with("task", task.to_string())
                .with("handler", handler.to_string())
                .with("state", state),
            Refusal::ResultPromised { task } => {
                Problem::new(Code::Conflict, detail).with("task", task.to_string())
            }
            Refusal::JobFinished { job, state } => Problem::new(Code::AlreadyFinished, detail)
                .with("job", job.to_string())
                .with("state", state),
            Refusal::QueueFull {
                queue,
                depth,
                max_depth,
            } => Problem::new(Code::QueueFull, detail)
                .with("queue", queue)
                .with("depth", depth)
                .with("max_depth", max_depth),
            Refusal::TableFull { bound, .. } => {
                Problem::new(Code::QueueFull, detail).with("bound", bound)
            }
            Refusal::NotEmpty { .. } | Refusal::NotAhead => Problem::new(Code::Conflict, detail),
            Refusal::BackupDamaged { .. } => Problem::invalid("", detail),
            Refusal::Invalid { field, problem } => Problem::invalid(&field, problem),
        }
    }
}
