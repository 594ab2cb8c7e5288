//! The context that all actors of a run share, and the simulated client with its retries.

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use serde_json::Value;
use triarch_check::record::Op;
use triarch_check::{Call, Recorder};

use crate::actors::Sim;
use crate::history::History;
use crate::http::{Answer, Request, Response, send};
use crate::process::Ns;
use crate::random::Random;
use crate::record;
use crate::world::{Host, MS, SECOND};

#[derive(Clone)]
pub struct SimContext {
    pub sim: Sim,
    history: Rc<RefCell<History>>,
    /// The history in the format of `triarch-check`, request by request.
    pub recorder: Rc<Recorder>,
    /// The masters that clients know.
    pub masters: Rc<RefCell<Vec<Host>>>,
    /// Whether the run is ending, so that no new work starts.
    pub closing: Rc<Cell<bool>>,
    /// Number of clients with an operation in progress.
    pub busy: Rc<Cell<u32>>,
    /// Whether workers must stop at once.
    pub over: Rc<Cell<bool>>,
}

/// Final result of an operation for a client.
#[derive(Debug)]
pub enum RequestOutcome {
    Done(Response),
    /// Refused: nothing was done.
    Refused(Response),
    /// All tries failed.
    Unknown,
}

/// One client: its address and its random stream.
pub struct Client {
    pub context: SimContext,
    pub host: Host,
    pub random: Random,
    /// Master that answered last. The client stays with it.
    pub master: Host,
}

impl SimContext {
    pub fn new(sim: Sim) -> Self {
        let clock = sim.world().clock.clone();
        SimContext {
            sim,
            recorder: Rc::new(Recorder::in_memory_by(move || {
                clock.load(Ordering::Relaxed)
            })),
            history: Rc::default(),
            masters: Rc::new(RefCell::new(vec![1, 2, 3])),
            closing: Rc::default(),
            busy: Rc::default(),
            over: Rc::default(),
        }
    }

    pub fn history(&self) -> RefMut<'_, History> {
        self.history.borrow_mut()
    }

    pub fn client(&self, host: Host) -> Client {
        Client {
            random: self.sim.branch(),
            context: self.clone(),
            host,
            master: 1,
        }
    }
}

/// One request.
pub struct RequestSpec<'a> {
    pub method: &'static str,
    pub path: &'a str,
    pub request_id: Option<&'a str>,
    pub body: Option<&'a Value>,
    pub timeout: Ns,
    pub tries: u32,
    /// The request in the recorded history: a suffix for the client's name, and the operation.
    pub ops: Vec<(&'static str, Op)>,
}

impl Client {
    pub fn another_master(&mut self) {
        let masters = self.context.masters.borrow().clone();
        self.master = *self.random.one_of(&masters);
    }

    /// Sends the request to one master, once.
    pub async fn once(&mut self, spec: &RequestSpec<'_>) -> Answer {
        let name = format!("client-{}", self.host);
        let calls: Vec<Call> = spec
            .ops
            .iter()
            .map(|(added, op)| {
                let name = format!("{name}{added}");
                self.context
                    .recorder
                    .invoke(&name, u64::from(self.master), op.clone())
            })
            .collect();
        let answer = send(
            &self.context.sim,
            Request {
                from: self.host,
                to: self.master,
                method: spec.method,
                path: spec.path,
                request_id: spec.request_id,
                body: spec.body,
                timeout: spec.timeout,
            },
        )
        .await;
        for mut call in calls {
            match record::end(call.op(), &answer) {
                None => call.forget(),
                Some(Ok(index)) => call.ok(index),
                Some(Err((true, why))) => call.fail(&why),
                Some(Err((false, why))) => call.unknown(&why),
            }
        }
        if let Answer::Received(response) = &answer
            && response.status >= 500
            && !matches!(response.status, 503 | 504 | 507)
        {
            let text = String::from_utf8_lossy(&response.body).into_owned();
            self.context.sim.world().violated(
                "a master answers as documented",
                format!(
                    "{} {} gave {}: {text}",
                    spec.method, spec.path, response.status
                ),
            );
        }
        answer
    }

    /// Sends the request to one master after another, until one accepts or refuses it or the tries are used up.
    pub async fn send(&mut self, spec: RequestSpec<'_>) -> RequestOutcome {
        for _ in 0..spec.tries {
            let answer = self.once(&spec).await;
            let pause = match answer {
                Answer::Received(response) if response.ok() => {
                    return RequestOutcome::Done(response);
                }
                Answer::Received(response) if response.status == 307 => {
                    let leader = response
                        .header("triarch-leader")
                        .and_then(|id| id.parse().ok());
                    if let Some(leader) = leader {
                        self.master = leader;
                        continue;
                    }
                    self.another_master();
                    50 * MS
                }
                Answer::Received(response) if matches!(response.status, 429 | 503 | 504 | 507) => {
                    self.another_master();
                    self.random.between(50 * MS, 500 * MS)
                }
                Answer::Received(response) => return RequestOutcome::Refused(response),
                Answer::NotSent => {
                    self.another_master();
                    self.random.between(10 * MS, 200 * MS)
                }
                Answer::Unknown => {
                    self.context.sim.world().stats.unknown += 1;
                    self.another_master();
                    self.random.between(10 * MS, 300 * MS)
                }
            };
            self.context.sim.sleep(pause).await;
        }
        RequestOutcome::Unknown
    }

    /// Reads one master's own state, without the other masters.
    pub async fn read_from(&mut self, master: Host, path: &str) -> Option<Value> {
        self.master = master;
        let spec = RequestSpec {
            method: "GET",
            path,
            request_id: None,
            body: None,
            timeout: 2 * SECOND,
            tries: 1,
            ops: Vec::new(),
        };
        match self.once(&spec).await {
            Answer::Received(response) if response.ok() => Some(response.json()),
            Answer::Received(_) | Answer::NotSent | Answer::Unknown => None,
        }
    }
}
