//! The HTTP interface as any client sees it: no redirects followed, nothing retried, JSON untyped.

use std::sync::Arc;
use std::time::Duration;

pub use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::Value;

use crate::history::HistoryWriter;

/// An error that begins so: there was no connection, so nothing was asked.
pub const NOT_SENT: &str = "not sent: ";
/// No single answer of a healthy cluster takes longer; waits ask for less.
const TIMEOUT: Duration = Duration::from_secs(40);

/// One base URL to ask.
#[derive(Debug, Clone)]
pub struct Api {
    client: reqwest::Client,
    base: String,
    node: u64,
    history_writer: Option<Arc<HistoryWriter>>,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as it came.
    pub text: String,
}

/// A request in the making.
#[derive(Debug)]
pub struct Call {
    what: String,
    builder: reqwest::RequestBuilder,
}

/// A client that follows no redirects and keeps no connections: each request stands for itself.
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
    /// Asks at `base`, such as `http://127.0.0.1:7101`.
    pub fn new(client: reqwest::Client, base: impl Into<String>) -> Self {
        Self {
            client,
            base: base.into(),
            node: 0,
            history_writer: None,
        }
    }

    /// The same, known to ask this node, and with somebody who writes down what is asked.
    pub fn of_node(self, node: u64, history_writer: Option<Arc<HistoryWriter>>) -> Self {
        Self {
            node,
            history_writer,
            ..self
        }
    }

    /// The node it asks, 0 if that is not known.
    pub fn node(&self) -> u64 {
        self.node
    }

    /// Who writes down what is asked.
    pub fn history_writer(&self) -> Option<&Arc<HistoryWriter>> {
        self.history_writer.as_ref()
    }

    /// Where it asks.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The same client, asking elsewhere.
    pub fn at(&self, base: impl Into<String>) -> Self {
        Self {
            history_writer: self.history_writer.clone(),
            ..Self::new(self.client.clone(), base)
        }
    }

    /// Any request.
    pub fn call(&self, method: Method, path: &str) -> Call {
        let url = format!("{}{path}", self.base);
        Call {
            what: format!("{method} {url}"),
            builder: self.client.request(method, url),
        }
    }

    /// `GET`, which must be answered.
    pub async fn get(&self, path: &str) -> Reply {
        self.call(Method::GET, path).answer().await
    }

    /// `POST` of JSON, which must be answered.
    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.call(Method::POST, path).json(body).answer().await
    }

    /// `PUT` of JSON, which must be answered.
    pub async fn put(&self, path: &str, body: &Value) -> Reply {
        self.call(Method::PUT, path).json(body).answer().await
    }

    /// `DELETE`, which must be answered.
    pub async fn delete(&self, path: &str) -> Reply {
        self.call(Method::DELETE, path).answer().await
    }

    /// All rows of a list, page after page; `path` has its filters already.
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

    /// Submits a job, which must be accepted.
    pub async fn submit(&self, job: &Value) -> Value {
        self.post("/v1/jobs", job).await.expect(201)
    }
}

impl Call {
    /// With this header.
    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.builder = self.builder.header(name, value.to_string());
        self
    }

    /// With this body, as JSON.
    pub fn json(mut self, body: &Value) -> Self {
        self.builder = self.builder.json(body);
        self
    }

    /// With this body as it is, said to be JSON.
    pub fn raw(mut self, body: impl Into<reqwest::Body>) -> Self {
        self.builder = self
            .builder
            .header("content-type", "application/json")
            .body(body);
        self
    }

    /// With this body as it is, of this media type.
    pub fn body(mut self, media_type: &str, body: impl Into<reqwest::Body>) -> Self {
        self.builder = self.builder.header("content-type", media_type).body(body);
        self
    }

    /// Answered within this, or not at all.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.builder = self.builder.timeout(timeout);
        self
    }

    /// Sends it. The error says that there was no whole answer, and why.
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

    /// Sends it; there must be an answer.
    pub async fn answer(self) -> Reply {
        self.send().await.unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Reply {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The log index the answer stands for.
    #[track_caller]
    pub fn index(&self) -> u64 {
        let index = self
            .header("triarch-index")
            .and_then(|text| text.parse().ok());
        index.unwrap_or_else(|| panic!("no triarch-index: {self:?}"))
    }

    /// The body, if the status is this one.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.json()
    }

    /// The body of a refusal of this kind, which must be a proper problem.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        let problem = self.problem();
        assert_eq!(problem["code"], code, "{self:?}");
        problem
    }

    /// The body, which must be a problem with all its parts.
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

    /// The `code` of a refusal; empty for anything else.
    pub fn code(&self) -> String {
        let body: Value = serde_json::from_str(&self.text).unwrap_or_default();
        body["code"].as_str().unwrap_or_default().to_owned()
    }
}
