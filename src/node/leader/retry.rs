//! Retry delay of the leader's loops after a proposal that consensus did not take.

use std::time::Duration;

use triarch_raft::ProposeError;

use super::term::LeaderTerm;

/// Delay before a loop reads the table and proposes again.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// Logs the error and waits; the caller then decides from scratch.
pub async fn delay_after(lead: &LeaderTerm, what: &str, error: ProposeError) {
    tracing::debug!(term = lead.term, %error, "{what}: not committed, retrying");
    tokio::time::sleep(RETRY_DELAY).await;
}
