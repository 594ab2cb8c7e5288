//! Words in names of files and in identifiers.

use crate::checkout::{assert_none, root, shown, sources};
use crate::source::{self, Module};

/// File names of an old vocabulary that was replaced by standard terms: the folder, and the name.
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
            "wires",
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

/// Identifiers of the old vocabulary, and the folder in which they are standard terms.
const FORMER_IDENTIFIERS: [(&str, Option<&str>); 17] = [
    ("Agreement", None),
    ("Ask", None),
    ("Asking", None),
    ("Bell", None),
    ("Bonds", None),
    ("Desk", None),
    ("Hand", None),
    ("Happened", None),
    ("Keeper", None),
    ("Manner", None),
    ("Rider", None),
    ("Ruling", None),
    ("Sequel", None),
    ("Story", None),
    ("Verdict", Some("tests/support/history_checker")),
    ("Way", None),
    ("Wires", None),
];

/// Words that must not occur in any identifier.
const FORMER_WORDS: [&str; 9] = [
    "blame", "crew", "desk", "rider", "tally", "tell", "tells", "told", "whoever",
];

/// Folders with Rust sources.
const RUST_FOLDERS: [&str; 7] = [
    "src", "table", "storage", "raft", "sdk/rust", "tests", "fuzz",
];

/// Returns every name that a module defines or uses, without the tests in the same file.
fn names(module: &Module) -> Vec<String> {
    let own = module.definitions.iter().chain(&module.names).cloned();
    let below = module
        .inline_children
        .iter()
        .flat_map(|(_, child)| names(child));
    own.chain(below).collect()
}

/// Returns the words of an identifier, in lower case: `lease` and `end` for both `LeaseEnd` and `lease_end`.
fn words(identifier: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut after_lower = false;
    for sign in identifier.chars() {
        if sign == '_' || (sign.is_uppercase() && after_lower) {
            words.push(String::new());
        }
        if sign != '_' {
            let word = words.last_mut().expect("one at least");
            word.extend(sign.to_lowercase());
        }
        after_lower = sign.is_lowercase();
    }
    words
}

#[test]
fn identifiers_are_in_the_words_of_the_field() {
    let mut findings = Vec::new();
    for folder in RUST_FOLDERS {
        let mut files = Vec::new();
        sources(&root().join(folder), &["rs"], &mut files);
        for file in files {
            let path = shown(&file);
            let module = source::read(&std::fs::read_to_string(&file).expect("a source"));
            let mut found = names(&module);
            found.sort();
            found.dedup();
            findings.extend(
                found
                    .into_iter()
                    .filter(|name| {
                        let former = FORMER_IDENTIFIERS.iter().any(|(former, home)| {
                            name == former && !home.is_some_and(|home| path.starts_with(home))
                        });
                        former
                            || words(name)
                                .iter()
                                .any(|word| FORMER_WORDS.contains(&word.as_str()))
                    })
                    .map(|name| format!("{path}: `{name}`")),
            );
        }
    }
    assert_none("former identifiers", &findings);
}

#[test]
fn an_identifier_is_split_into_its_words() {
    assert_eq!(words("LeaseEnd"), ["lease", "end"]);
    assert_eq!(words("LEASE_END"), ["lease", "end"]);
    assert_eq!(words("lease_end2"), ["lease", "end2"]);
}

#[test]
fn files_are_named_in_the_words_of_the_field() {
    let mut findings = Vec::new();
    for (folder, former) in FORMER_NAMES {
        let mut files = Vec::new();
        sources(&root().join(folder), &["rs", "py", "sh"], &mut files);
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
