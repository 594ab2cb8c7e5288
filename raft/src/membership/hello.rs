//! Hello: the question for the identity of a node, and its answer. Sent to and by nodes in no cluster too.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::level::{Level, NodeVersion};
use crate::network::transport::{CallError, Lane, Route, Target, Transport};
use crate::protocol::messages;
use crate::protocol::messages::Refusal;
use crate::types::Member;

/// Route of a hello.
pub(crate) const HELLO_PATH: &str = "/raft/hello";
/// Maximum number of nodes found at one address before it is given up.
const HELLO_TRIES_MAX: usize = 8;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub addr: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HelloReply {
    pub id: u64,
    pub incarnation: Uuid,
    pub cluster: Option<Uuid>,
    /// Empty until the first entry of the log has arrived.
    pub members: BTreeMap<u64, Member>,
    /// List that the node was started with. `None` for a node that waits to be added.
    pub founding: Option<BTreeMap<u64, String>>,
}

/// Asks the node that listens at `addr` for its identity and its version.
pub(crate) async fn hello(
    transport: &Transport,
    id: u64,
    addr: &str,
) -> Result<(HelloReply, NodeVersion), CallError> {
    let target = Target {
        id,
        addr: addr.to_owned(),
        incarnation: Uuid::nil(),
    };
    hello_to(transport, &target).await
}

/// Asks whichever node listens at `addr` for its identity. Returns also its id.
pub(crate) async fn hello_at(
    transport: &Transport,
    addr: &str,
) -> Result<(u64, HelloReply), CallError> {
    // No node has id 0, so the node that listens there refuses and names its own id. Behind a load balancer, the next
    // message may reach another node.
    let mut id = 0;
    let mut asked = 0;
    loop {
        match hello(transport, id, addr).await {
            Ok((reply, _)) => return Ok((id, reply)),
            Err(CallError::Refused {
                refusal: Refusal::OtherNode { id: other, .. },
                ..
            }) if asked < HELLO_TRIES_MAX => id = other,
            Err(e) => return Err(e),
        }
        asked += 1;
    }
}

/// Asks a node for its identity and its version. Nodes of every level understand the question.
pub(crate) async fn hello_to(
    transport: &Transport,
    target: &Target,
) -> Result<(HelloReply, NodeVersion), CallError> {
    let body = Hello {
        addr: transport.identity.addr.clone(),
    };
    let route = Route {
        level: Level::ONE,
        lane: Lane::Control,
        path: HELLO_PATH,
        deadline: Duration::from_millis(transport.timing.connect_ms * 5),
        history: None,
    };
    let put = |out: &mut bytes::BytesMut| messages::put(out, &body);
    let (answer, version) = transport.call_by(route, target, put, 64).await?;
    match messages::decode("the answer to a hello", &answer) {
        Ok(reply) => Ok((reply, version)),
        Err(e) => Err(CallError::Broken {
            id: target.id,
            addr: target.addr.clone(),
            why: e.to_string(),
        }),
    }
}

/// Sends a peer a message that it writes to its disk before it answers.
pub(crate) async fn post(
    transport: &Transport,
    target: &Target,
    path: &str,
    body: &impl Serialize,
) -> Result<(), CallError> {
    let deadline = Duration::from_millis(transport.timing.append_ms);
    transport
        .call(
            Lane::Control,
            target,
            path,
            |out| messages::put(out, body),
            256,
            deadline,
        )
        .await?;
    Ok(())
}
