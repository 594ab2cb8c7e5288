//! Memory budget for answers that are being written: bounds the memory held by clients that do not read their answers.
//!
//! An answer counts from the moment it is complete in memory. It counts until the kernel has accepted its last byte or
//! its connection has ended. Streams are not counted, because they hold one piece at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;

use super::client_address::ClientAddress;
use super::shared_pool::{PoolFull, Share, SharedPool};
use crate::server::protocol::problem::{Code, Problem};

/// Answers up to this size are not counted. Their number is bounded by that of connections.
const UNCOUNTED_BYTES_MAX: u64 = 16 << 10;
/// Share of the budget that one client may hold: 1 divided by this.
const CLIENT_DIVISOR: usize = 4;

/// Budget for answers of one node.
#[derive(Debug, Clone)]
pub struct AnswerBudget {
    pool: SharedPool,
    shed: Arc<AtomicU64>,
}

/// Bytes that hold a share of the budget for as long as any part of them lives.
struct Counted {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AnswerBudget {
    /// Creates a budget of this many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            pool: SharedPool::new(bytes_max, bytes_max / CLIENT_DIVISOR),
            shed: Arc::default(),
        }
    }

    /// Counts an answer. The answer to a read is replaced by a refusal if the budget is used up. The answer to a change is
    /// sent all the same, because the change is done.
    pub async fn count(
        &self,
        response: Response,
        client: ClientAddress,
        is_read: bool,
    ) -> Response {
        let Some(size) = response.body().size_hint().exact() else {
            return response;
        };
        if size <= UNCOUNTED_BYTES_MAX {
            return response;
        }
        let amount = usize::try_from(size).unwrap_or(usize::MAX);
        let share = match self.pool.take(client, amount) {
            Ok(share) => share,
            Err(_) if !is_read => self.pool.take_anyway(client, amount),
            Err(full) => {
                self.shed.fetch_add(1, Ordering::Relaxed);
                return self.refusal(full, amount).into_response();
            }
        };
        let (parts, body) = response.into_parts();
        // A body of known size is in memory, so this does not wait.
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => return Response::from_parts(parts, Body::empty()),
        };
        let counted = Bytes::from_owner(Counted {
            bytes: body,
            _share: share,
        });
        Response::from_parts(parts, Body::from(counted))
    }

    fn refusal(&self, full: PoolFull, amount: usize) -> Problem {
        let detail = match full {
            PoolFull::All => {
                "answers that clients have not read yet fill the memory that this node has for them"
            }
            PoolFull::Client => {
                "answers that your address has not read yet fill its share of the memory that this node has for them"
            }
        };
        Problem::new(
            Code::RateLimited,
            format!(
                "{detail} (the answer would have {amount} bytes); read the answers that were sent, ask for smaller pages, or \
                 retry after a moment"
            ),
        )
    }

    /// Returns the bytes of the answers that are being written.
    pub fn used_bytes(&self) -> usize {
        self.pool.used()
    }

    /// Returns the number of answers that were refused.
    pub fn shed_count(&self) -> u64 {
        self.shed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_counted_until_its_last_byte_is_dropped() {
        let client = ClientAddress::of_peer(([10, 0, 0, 1], 1).into());
        let budget = AnswerBudget::new(400 << 10);
        let answer = || Response::new(Body::from(vec![b'x'; 60 << 10]));
        let first = budget.count(answer(), client, true).await;
        assert_eq!(budget.used_bytes(), 60 << 10);
        let refused = budget.count(answer(), client, true).await;
        assert_eq!(refused.status(), Code::RateLimited.status());
        assert_eq!(budget.shed_count(), 1);
        let change = budget.count(answer(), client, false).await;
        assert_eq!(change.status(), 200);
        let frame = first.into_body().collect().await.expect("whole").to_bytes();
        assert_eq!((frame.len(), budget.used_bytes()), (60 << 10, 120 << 10));
        let tail = frame.slice(1..2);
        drop(frame);
        assert_eq!(budget.used_bytes(), 120 << 10);
        drop((tail, change));
        assert_eq!(budget.used_bytes(), 0);
    }
}
