//! The words of file names.

use crate::checkout::{assert_none, root, shown, sources};

/// File names of a vocabulary that was given up, because the field has other words for these things: where, and which.
const FORMER_NAMES: [(&str, &[&str]); 6] = [
    (
        "",
        &[
            "agreement",
            "bonds",
            "book",
            "callers",
            "crew",
            "desk",
            "ends",
            "exercised",
            "gate",
            "ground",
            "hand",
            "hands",
            "happened",
            "intake",
            "introduction",
            "keeper",
            "look",
            "looks",
            "mix",
            "nowhere",
            "paced",
            "place",
            "player",
            "rider",
            "roll",
            "room",
            "rooms",
            "roster",
            "sequel",
            "standing",
            "story",
            "sweeps",
            "tally",
            "tell",
            "traffic",
            "turns",
            "twice",
            "verdicts",
            "visits",
            "wall",
            "wave",
            "wiring",
        ],
    ),
    (
        "raft/src",
        &[
            "background",
            "cause",
            "change",
            "engine",
            "failure",
            "finish",
            "formation",
            "growth",
            "machine",
            "measures",
            "measuring",
            "observe",
            "overlap",
            "propose",
            "read",
            "report",
            "suite",
            "watch",
            "wire",
            "write",
        ],
    ),
    (
        "storage/src",
        &[
            "disk", "headroom", "mark", "marker", "measure", "reserve", "sequence", "shared",
            "space", "view",
        ],
    ),
    (
        "table/src",
        &[
            "flow",
            "line",
            "lease",
            "many",
            "set_worker",
            "shape",
            "shares",
            "worker_end",
        ],
    ),
    (
        "src",
        &[
            "answer", "calls", "guard", "listen", "members", "outcome", "session", "waiting",
            "watching", "when",
        ],
    ),
    ("tests", &["link", "parts", "poison"]),
];

#[test]
fn files_are_named_in_the_words_of_the_field() {
    let mut findings = Vec::new();
    for (folder, former) in FORMER_NAMES {
        let mut files = Vec::new();
        sources(&root().join(folder), &["rs", "py"], &mut files);
        for path in files.iter().map(|path| shown(path)) {
            let below = path.strip_prefix(folder).unwrap_or(&path);
            let stems = below
                .split('/')
                .map(|part| part.split('.').next().unwrap_or_default());
            findings.extend(
                stems
                    .filter(|stem| former.contains(&stem.trim_start_matches('_')))
                    .map(|stem| format!("{path}: `{stem}`")),
            );
        }
    }
    assert_none("former names", &findings);
}
