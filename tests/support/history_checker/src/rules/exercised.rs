//! A run that did not do what it was for has shown nothing.

use std::collections::BTreeMap;

use crate::Bounds;
use crate::book::Book;
use crate::record::Op;
use crate::verdict::Findings;

/// See [`super::RULES`].
pub fn judge(book: &Book<'_>, _: Bounds, findings: &mut Findings) {
    if book.jobs.is_empty() && book.ticked.is_empty() {
        findings.not_exercised("no job was acknowledged");
    }
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    for record in &book.history.records {
        if let Op::Expect { kind, count } = &record.op {
            *expected.entry(kind).or_default() += count;
        }
    }
    for (kind, count) in expected {
        let effective = book.counts.faults.get(kind).copied().unwrap_or(0);
        if effective < count {
            findings.not_exercised(format!(
                "{count} faults of kind {kind} were to take effect, {effective} were shown to"
            ));
        }
    }
}
