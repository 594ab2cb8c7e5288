//! Elections, as the masters count them.

use anyhow::Context;
use triarch_harness::{Cluster, Exposition};

/// Metrics that show elections, summed over the masters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Elections {
    /// The highest term.
    pub term: f64,
    /// Number of terms in which a master campaigned.
    pub campaigns: f64,
}

impl Elections {
    /// Asks all masters of the cluster.
    ///
    /// # Errors
    ///
    /// Fails if a master does not report its term and its campaigns.
    pub async fn read(cluster: &Cluster) -> anyhow::Result<Self> {
        let mut all = Elections {
            term: 0.0,
            campaigns: 0.0,
        };
        for api in cluster.apis() {
            let exposition =
                Exposition::read(&api.get("/metrics").await.text).map_err(anyhow::Error::msg)?;
            let term = exposition.sum("triarch_term", &[]);
            let campaigns = exposition.sum("triarch_campaigns_total", &[]);
            all.term = all
                .term
                .max(term.context("a master does not report its term")?);
            all.campaigns += campaigns.context("a master does not report its campaigns")?;
        }
        Ok(all)
    }
}
