//! A master that follows a script: behaviour that the protocol allows and a healthy cluster seldom shows.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use serde_json::Value;
use triarch_sdk::wire::{Problem, ProblemCode};
use url::Url;

/// Maximum time of every wait here.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// One received request.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: Value,
    /// The number of the request at this master, from 0.
    pub nth: usize,
}

impl Seen {
    pub fn is(&self, method: &Method, suffix: &str) -> bool {
        self.method == method && self.path.ends_with(suffix)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

type Answering = Pin<Box<dyn Future<Output = Response> + Send>>;

/// A running master.
pub struct Scripted {
    pub url: Url,
    seen: Arc<Mutex<Vec<Seen>>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Scripted {
    /// Starts a master that answers by `script`.
    pub async fn start<F, A>(script: F) -> Self
    where
        F: Fn(Seen) -> A + Send + Sync + 'static,
        A: Future<Output = Response> + Send + 'static,
    {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let script: Arc<dyn Fn(Seen) -> Answering + Send + Sync> =
            Arc::new(move |seen| Box::pin(script(seen)));
        let log = seen.clone();
        let router = Router::new().fallback(move |request: Request| {
            let (log, script) = (log.clone(), script.clone());
            async move {
                let seen = read(request, &log).await;
                script(seen).await
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let addr = listener.local_addr().expect("bound");
        let serving = tokio::spawn(async move {
            axum::serve(listener, router)
                .await
                .expect("serves until dropped");
        });
        let url = Url::parse(&format!("http://{addr}")).expect("valid");
        Self { url, seen, serving }
    }

    /// Returns the requests received so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic under it").clone()
    }

    /// Returns how many requests of this kind were received.
    pub fn count(&self, method: &Method, suffix: &str) -> usize {
        self.seen()
            .iter()
            .filter(|seen| seen.is(method, suffix))
            .count()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn read(request: Request, log: &Mutex<Vec<Seen>>) -> Seen {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 64 << 20)
        .await
        .unwrap_or_else(|_| Bytes::new());
    let mut log = log.lock().expect("no panic under it");
    let seen = Seen {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        nth: log.len(),
    };
    log.push(seen.clone());
    seen
}

/// Returns an answer with a JSON body.
pub fn json(status: u16, body: &Value) -> Response {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_string()))
        .expect("valid")
}

/// Returns a refusal.
pub fn problem(problem: &Problem) -> Response {
    let body = serde_json::to_value(problem).expect("plain");
    let mut response = json(problem.status, &body);
    if problem.status == 503 {
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    response
}

/// Returns a refusal with this code.
pub fn refuse(code: ProblemCode) -> Response {
    problem(&Problem::new(code, "by the script"))
}

/// Returns a `307` to the same path on another master.
pub fn redirect(to: &Url, seen: &Seen) -> Response {
    let location = to.join(&seen.path).expect("valid");
    Response::builder()
        .status(StatusCode::TEMPORARY_REDIRECT)
        .header(header::LOCATION, location.as_str())
        .header("triarch-leader", "1")
        .body(Body::from("{}"))
        .expect("valid")
}

/// Returns an address without a listener.
pub async fn nobody() -> Url {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let addr = listener.local_addr().expect("bound");
    Url::parse(&format!("http://{addr}")).expect("valid")
}

/// Waits until `holds` does.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < DEADLINE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
