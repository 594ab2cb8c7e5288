//! Coverage: a run without acknowledged work, or whose faults took no effect, proves nothing.

use std::collections::BTreeMap;

use crate::Bounds;
use crate::index::HistoryIndex;
use crate::record::Op;
use crate::verdict::Findings;

/// The rule, as listed in [`super::RULES`].
pub fn judge(indexed: &HistoryIndex<'_>, _: Bounds, findings: &mut Findings) {
    if indexed.jobs.is_empty() && indexed.ticked.is_empty() {
        findings.not_exercised("no job was acknowledged");
    }
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    for record in &indexed.history.records {
        if let Op::Expect { kind, count } = &record.op {
            *expected.entry(kind).or_default() += count;
        }
    }
    for (kind, count) in expected {
        let effective = indexed.counts.faults.get(kind).copied().unwrap_or(0);
        if effective < count {
            findings.not_exercised(format!(
                "{count} faults of kind {kind} were to take effect, {effective} were shown to"
            ));
        }
    }
}
