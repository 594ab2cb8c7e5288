//! The HTTP interface as any client sees it: redirects are not followed, nothing is retried, and JSON is untyped.

use std::sync::Arc;
use std::time::Duration;

pub use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::Value;

use crate::history::HistoryWriter;

/// Prefix of the error of a request without a connection. The request was not sent.
pub const NOT_SENT: &str = "not sent: ";
/// Timeout of an answer of a healthy cluster. Waits request less.
const TIMEOUT: Duration = Duration::from_secs(40);
/// For one node to say whether it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(1);

/// A client of one base URL.
#[derive(Debug, Clone)]
pub struct Api {
    client: reqwest::Client,
    base: String,
    node: u64,
    history_writer: Option<Arc<HistoryWriter>>,
}

/// A response.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub text: String,
}

/// A request that is not sent yet.
#[derive(Debug)]
pub struct Call {
    what: String,
    builder: reqwest::RequestBuilder,
}

/// Creates a client that follows no redirects and keeps no connections, so that requests are independent.
pub fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .connect_timeout(Duration::from_secs(2))
        .timeout(TIMEOUT)
        .no_proxy()
        .build()
        .expect("a plain HTTP client can be made")
}

impl Api {
    /// Creates a client of `base`, such as `http://127.0.0.1:7101`.
    pub fn new(client: reqwest::Client, base: impl Into<String>) -> Self {
        Self {
            client,
            base: base.into(),
            node: 0,
            history_writer: None,
        }
    }

    /// As above, for a known node, with a writer that records the requests.
    pub fn of_node(self, node: u64, history_writer: Option<Arc<HistoryWriter>>) -> Self {
        Self {
            node,
            history_writer,
            ..self
        }
    }

    /// Returns the id of the node, or 0 if it is not known.
    pub fn node(&self) -> u64 {
        self.node
    }

    /// Returns the writer that records the requests, if any.
    pub fn history_writer(&self) -> Option<&Arc<HistoryWriter>> {
        self.history_writer.as_ref()
    }

    /// Returns the base URL.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Returns the same client for another base URL.
    pub fn at(&self, base: impl Into<String>) -> Self {
        Self {
            history_writer: self.history_writer.clone(),
            ..Self::new(self.client.clone(), base)
        }
    }

    /// Returns a request with this method and path.
    pub fn call(&self, method: Method, path: &str) -> Call {
        let url = format!("{}{path}", self.base);
        Call {
            what: format!("{method} {url}"),
            builder: self.client.request(method, url),
        }
    }

    /// Sends a `GET`. Panics without an answer.
    pub async fn get(&self, path: &str) -> Reply {
        self.call(Method::GET, path).answer().await
    }

    /// Sends a `POST` with JSON. Panics without an answer.
    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.call(Method::POST, path).json(body).answer().await
    }

    /// Sends a `PUT` with JSON. Panics without an answer.
    pub async fn put(&self, path: &str, body: &Value) -> Reply {
        self.call(Method::PUT, path).json(body).answer().await
    }

    /// Sends a `DELETE`. Panics without an answer.
    pub async fn delete(&self, path: &str) -> Reply {
        self.call(Method::DELETE, path).answer().await
    }

    /// Returns all rows of a list, over all pages. `path` contains the filters.
    pub async fn all(&self, path: &str, rows: &str) -> Vec<Value> {
        let mut found = Vec::new();
        let mut after = String::new();
        let mark = if path.contains('?') { '&' } else { '?' };
        loop {
            let path = format!("{path}{mark}limit=1000{after}");
            let page = self.get(&path).await.expect(200);
            found.extend(page[rows].as_array().expect("rows").iter().cloned());
            let Some(next) = page["next"].as_str() else {
                return found;
            };
            after = format!("&after={next}");
        }
    }

    /// Returns the term and the leader as this master reports them, if it is ready.
    pub async fn believed_leader(&self) -> Option<(u64, u64)> {
        let call = self.call(Method::GET, "/readyz").timeout(READY_TIMEOUT);
        let reply = call.send().await.ok()?;
        let body = (reply.status == 200).then(|| reply.json())?;
        Some((body["term"].as_u64()?, body["leader"].as_u64()?))
    }

    /// Submits a job. Panics unless it is accepted.
    pub async fn submit(&self, job: &Value) -> Value {
        self.post("/v1/jobs", job).await.expect(201)
    }
}

impl Call {
    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.builder = self.builder.header(name, value.to_string());
        self
    }

    /// Sets the body, as JSON.
    pub fn json(mut self, body: &Value) -> Self {
        self.builder = self.builder.json(body);
        self
    }

    /// Sets the raw body, with the media type of JSON.
    pub fn raw(mut self, body: impl Into<reqwest::Body>) -> Self {
        self.builder = self
            .builder
            .header("content-type", "application/json")
            .body(body);
        self
    }

    /// Sets the raw body, with this media type.
    pub fn body(mut self, media_type: &str, body: impl Into<reqwest::Body>) -> Self {
        self.builder = self.builder.header("content-type", media_type).body(body);
        self
    }

    /// Sets the timeout of the answer.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.builder = self.builder.timeout(timeout);
        self
    }

    /// Sends the request. The error states why there is no complete answer.
    pub async fn send(self) -> Result<Reply, String> {
        let describe = |error: reqwest::Error| {
            let unsent = if error.is_connect() { NOT_SENT } else { "" };
            let mut text = format!("{unsent}{}: {error}", self.what);
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                text.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            text
        };
        let response = self.builder.send().await.map_err(describe)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.map_err(describe)?;
        Ok(Reply {
            status,
            headers,
            text,
        })
    }

    /// Sends the request. Panics without an answer.
    pub async fn answer(self) -> Reply {
        self.send().await.unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Reply {
    /// Returns the body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// Returns the text of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Returns the log index that the answer reflects.
    #[track_caller]
    pub fn index(&self) -> u64 {
        let index = self
            .header("triarch-index")
            .and_then(|text| text.parse().ok());
        index.unwrap_or_else(|| panic!("no triarch-index: {self:?}"))
    }

    /// Returns the body. Panics unless the status is this one.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.json()
    }

    /// Returns the body of a refusal with this code. Panics unless it is a valid problem.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        let problem = self.problem();
        assert_eq!(problem["code"], code, "{self:?}");
        problem
    }

    /// Returns the body. Panics unless it is a problem with all its fields.
    #[track_caller]
    pub fn problem(&self) -> Value {
        let kind = self.header("content-type").unwrap_or_default();
        assert!(
            kind.starts_with("application/problem+json"),
            "content-type {kind:?}: {self:?}"
        );
        let problem = self.json();
        for part in ["type", "title", "code", "detail"] {
            let text = problem[part].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "no {part}: {self:?}");
        }
        assert_eq!(problem["status"], self.status, "{self:?}");
        problem
    }

    /// Returns the `code` of a refusal; empty for any other answer.
    pub fn code(&self) -> String {
        let body: Value = serde_json::from_str(&self.text).unwrap_or_default();
        body["code"].as_str().unwrap_or_default().to_owned()
    }
}
