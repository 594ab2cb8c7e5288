//! The rules of the architecture, read off the manifests and the sources: which crate and which folder may import which,
//! no circles, small folders, the field's words in file names, and no test doubles in the product.
//!
//! `TRIARCH_ARCHITECTURE_ROOT` names another checkout to judge.

mod circles;
mod imports;
mod source;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use circles::{between_neighbours, circles};
use imports::Crate;

/// Each crate's folder, and the crates of this project that it may name.
const MAY_USE: [(&str, &[&str]); 6] = [
    ("table", &[]),
    ("storage", &[]),
    ("raft", &["triarch-storage"]),
    ("sdk/rust", &[]),
    ("tests/support/history_checker", &[]),
    (
        ".",
        &[
            "triarch-table",
            "triarch-storage",
            "triarch-raft",
            "triarch-sdk",
        ],
    ),
];

/// Deliberate bugs for the mutation gate: every crate of the product may name them, if it is built without them unless a
/// test asks for the feature `mutations`.
const MUTATIONS: &str = "triarch-mutation";

/// Libraries that only one crate may name, so that another can take their place.
const ONLY_IN: [(&str, &str); 2] = [("sled", "storage"), ("openraft", "raft")];

/// Words that have no place in the table: replicas would differ.
const IMPURE: [&str; 10] = [
    "SystemTime",
    "Instant",
    "HashMap",
    "HashSet",
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
    "tokio",
    "rand::",
];

/// The crates of the product: the folder of their sources and their name in `use`.
const CRATES: [(&str, &str); 5] = [
    ("table/src", "triarch_table"),
    ("storage/src", "triarch_storage"),
    ("raft/src", "triarch_raft"),
    ("sdk/rust/src", "triarch_sdk"),
    ("src", "triarch"),
];

/// What lies in the binary's folders, from the top down. A file imports only from the lines below its own.
const LAYERS: [(&str, &[&[&str]]); 2] = [
    (
        "",
        &[
            &["main"],
            &["cli"],
            &["server", "worker"],
            &["leader"],
            &["state_machine"],
            &["feed", "waiters", "leader_counters"],
            &["cron", "backup_format", "panic_exit", "mutated"],
            &["log_writer"],
        ],
    ),
    (
        "server",
        &[
            &["run"],
            &["router"],
            &["routes"],
            &["leader_proxy"],
            &["app"],
            &["options"],
            &["http"],
            &["protocol"],
        ],
    ),
];

/// What `src/leader` must not name: the leader decides, and others speak HTTP for it.
const NO_HTTP_IN_LEADER: [&str; 9] = [
    "axum",
    "http",
    "http_body_util",
    "hyper",
    "hyper_util",
    "reqwest",
    "tower",
    "utoipa",
    "wire",
];

/// The most source files that may lie in one folder.
const MAX_FILES_IN_FOLDER: usize = 20;

/// Folders that may hold more: one file per command.
const LARGE_FOLDERS: [&str; 1] = ["table/src/apply"];

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

/// The checkout that is judged.
fn root() -> PathBuf {
    match std::env::var_os("TRIARCH_ARCHITECTURE_ROOT") {
        Some(root) => PathBuf::from(root),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")),
    }
}

/// Fails with all findings, one a line.
fn assert_none(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n{}", findings.join("\n"));
}

/// The names in a manifest's `[dependencies]`, or in its table for tests too.
fn dependencies(manifest: &Path, with_tests: bool) -> Vec<String> {
    let text = std::fs::read_to_string(manifest).expect("a manifest");
    let mut names = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]" || (with_tests && line == "[dev-dependencies]");
        } else if inside && let Some((name, _)) = line.split_once(['.', ' ', '=']) {
            names.push(name.to_string());
        }
    }
    names
}

/// All files below a folder with one of these endings, in order.
fn sources(folder: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                sources(&path, endings, found);
            }
        } else if endings
            .iter()
            .any(|ending| path.extension().is_some_and(|it| it == *ending))
        {
            found.push(path);
        }
    }
}

/// A path as it is written in this repository.
fn shown(path: &Path) -> String {
    let path = path.strip_prefix(root()).unwrap_or(path);
    path.display().to_string()
}

#[test]
fn crates_depend_only_on_the_crates_they_may() {
    for (folder, allowed) in MAY_USE {
        let named = dependencies(&root().join(folder).join("Cargo.toml"), false);
        assert!(!named.is_empty(), "{folder}: no dependencies were read");
        let ours = |name: &&String| name.starts_with("triarch-") && *name != MUTATIONS;
        for name in named.iter().filter(ours) {
            assert!(
                allowed.contains(&name.as_str()),
                "{folder}/Cargo.toml uses {name}; it may use {allowed:?} of this project"
            );
        }
    }
}

#[test]
fn deliberate_bugs_are_not_in_the_product() {
    let optional = format!("{MUTATIONS} = {{ workspace = true, optional = true }}");
    for (folder, _) in MAY_USE {
        let path = root().join(folder).join("Cargo.toml");
        let text = std::fs::read_to_string(&path).expect("a manifest");
        let is_package = |line: &&str| line.starts_with(MUTATIONS) && !line.contains("path =");
        for line in text.lines().filter(is_package) {
            assert_eq!(line, optional, "{}", path.display());
        }
        assert!(
            !text.lines().any(|line| line.starts_with("default =")),
            "{}: features that are on by themselves could bring deliberate bugs with them",
            path.display()
        );
    }
}

#[test]
fn each_engine_is_a_dependency_of_one_crate() {
    for (library, home) in ONLY_IN {
        for (folder, _) in MAY_USE.iter().filter(|(folder, _)| *folder != home) {
            let named = dependencies(&root().join(folder).join("Cargo.toml"), true);
            assert!(
                !named.iter().any(|name| name == library),
                "{folder}/Cargo.toml uses {library}, which belongs to {home}/"
            );
        }
    }
}

#[test]
fn the_table_is_pure() {
    let mut files = Vec::new();
    sources(&root().join("table/src"), &["rs"], &mut files);
    assert!(files.len() > 5, "the table's sources were not found");
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source");
        for (number, line) in text.lines().enumerate() {
            // Tests at the end of a file may do what they like.
            if line.trim() == "#[cfg(test)]" {
                break;
            }
            let code = line.split("//").next().unwrap_or_default();
            for word in IMPURE {
                assert!(
                    !code.contains(word),
                    "{}:{}: the table must not use {word}: replicas would differ",
                    file.display(),
                    number + 1
                );
            }
        }
    }
}

#[test]
fn files_of_a_crate_import_one_another_in_no_circle() {
    let mut findings = Vec::new();
    for (folder, name) in CRATES {
        let read = Crate::read(&root().join(folder), name);
        assert!(
            read.files().len() > 5,
            "{folder}: the sources were not found"
        );
        let arrows = read.arrows();
        assert!(arrows.len() > 10, "{folder}: hardly any import was found");
        for circle in circles(&arrows) {
            let ways = circle.iter().map(|arrow| arrow.shown.as_str());
            findings.push(format!("{folder}: {}", ways.collect::<Vec<_>>().join(", ")));
        }
    }
    assert_none("circles of files", &findings);
}

#[test]
fn neighbours_in_a_folder_import_one_another_in_no_circle() {
    let mut findings = Vec::new();
    for (folder, name) in CRATES {
        let read = Crate::read(&root().join(folder), name);
        for (within, arrows) in between_neighbours(&read.arrows()) {
            for circle in circles(&arrows) {
                let ways = circle
                    .iter()
                    .map(|arrow| format!("{} → {} ({})", arrow.from, arrow.to, arrow.shown));
                let ways = ways.collect::<Vec<_>>().join(", ");
                findings.push(format!("{folder}/{within}: {ways}"));
            }
        }
    }
    assert_none("circles of folders", &findings);
}

#[test]
fn folders_of_the_binary_import_downwards() {
    let read = Crate::read(&root().join("src"), "triarch");
    let between = between_neighbours(&read.arrows());
    let mut findings = Vec::new();
    for (folder, layers) in LAYERS {
        let layer_of = |name: &str| layers.iter().position(|layer| layer.contains(&name));
        for arrow in between.get(folder).into_iter().flatten() {
            match (layer_of(&arrow.from), layer_of(&arrow.to)) {
                (Some(from), Some(to)) if from < to => {}
                (Some(_), Some(_)) => findings.push(format!(
                    "src/{folder}: {} is not above {}, but {}",
                    arrow.from, arrow.to, arrow.shown
                )),
                _ => findings.push(format!(
                    "src/{folder}: {} or {} has no layer; {}",
                    arrow.from, arrow.to, arrow.shown
                )),
            }
        }
    }
    assert_none("imports upwards", &findings);
}

#[test]
fn the_leader_knows_no_http() {
    let mut findings = Vec::new();
    let mut files = Vec::new();
    sources(&root().join("src/leader"), &["rs"], &mut files);
    assert!(files.len() > 3, "the leader's sources were not found");
    for file in files {
        let module = source::read(&std::fs::read_to_string(&file).expect("a source"));
        let imported = module.imports.iter().map(|import| &import.path);
        for path in imported.chain(&module.paths) {
            for word in NO_HTTP_IN_LEADER {
                if path.segments.iter().take(2).any(|segment| segment == word) {
                    findings.push(format!(
                        "{}:{} names {}",
                        shown(&file),
                        path.line,
                        path.segments.join("::")
                    ));
                }
            }
        }
    }
    assert_none("HTTP in the leader", &findings);
}

#[test]
fn no_folder_holds_more_files_than_can_be_overlooked() {
    let mut findings = Vec::new();
    for (folder, _) in CRATES {
        let mut files = Vec::new();
        sources(&root().join(folder), &["rs"], &mut files);
        let folders = files.iter().filter_map(|file| file.parent());
        for within in folders.clone().collect::<BTreeSet<_>>() {
            let count = folders.clone().filter(|one| *one == within).count();
            if count > MAX_FILES_IN_FOLDER && !LARGE_FOLDERS.contains(&shown(within).as_str()) {
                findings.push(format!("{}: {count} files", shown(within)));
            }
        }
    }
    assert_none("large folders", &findings);
}

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

#[test]
fn test_doubles_are_not_in_the_product() {
    let mut findings = Vec::new();
    for (folder, name) in CRATES {
        let read = Crate::read(&root().join(folder), name);
        for file in read.files() {
            let doubles = file
                .split('/')
                .any(|part| ["testing", "testing.rs", "tests", "tests.rs"].contains(&part));
            if doubles {
                findings.push(format!("{folder}/{file} is compiled into the product"));
            }
        }
        // What a feature adds for tests must not come with a dependency of the product.
        for (file, child, predicate) in read.conditions() {
            for feature in predicate.split("feature=\"").skip(1) {
                let feature = feature.split('"').next().unwrap_or_default();
                let package = name.replace('_', "-");
                for manifest in ["table", "storage", "raft", "sdk/rust", "."] {
                    let path = root().join(manifest).join("Cargo.toml");
                    let text = std::fs::read_to_string(&path).expect("a manifest");
                    if product_enables(&text, &package, feature)
                        && !source::PRODUCT_FEATURES.contains(&feature)
                    {
                        findings.push(format!(
                            "{} enables `{feature}` of {package}, which adds {child} of {folder}/{file}",
                            shown(&path)
                        ));
                    }
                }
            }
        }
    }
    assert_none("test doubles in the product", &findings);
}

/// Whether the dependencies that a manifest has outside of tests ask for a feature of a package.
fn product_enables(manifest: &str, package: &str, feature: &str) -> bool {
    let mut inside = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]" || line == "[workspace.dependencies]";
        } else if inside && line.starts_with(package) && line.contains(&format!("\"{feature}\"")) {
            return true;
        }
    }
    false
}

/// A crate of files that are written here.
fn crate_of(files: &'static [(&'static str, &'static str)]) -> Crate {
    Crate::from_sources("product", &|path| {
        let found = files.iter().find(|(name, _)| *name == path);
        found.map(|(_, text)| (*text).to_owned())
    })
}

fn arrows_of(files: &'static [(&'static str, &'static str)]) -> Vec<String> {
    let arrows = crate_of(files).arrows();
    arrows
        .into_iter()
        .map(|arrow| format!("{} > {}", arrow.from, arrow.to))
        .collect()
}

#[test]
fn a_circle_of_two_files_is_found_and_shown_with_its_lines() {
    let read = crate_of(&[
        ("lib.rs", "mod a;\nmod b;\n"),
        ("a.rs", "use crate::b::Two;\npub struct One(Two);\n"),
        (
            "b.rs",
            "pub struct Two;\nimpl Two { fn one() { super::a::One::new() } }\n",
        ),
    ]);
    let found = circles(&read.arrows());
    assert_eq!(found.len(), 1);
    let ways: Vec<&str> = found[0].iter().map(|arrow| arrow.shown.as_str()).collect();
    assert_eq!(ways, ["a.rs:1 imports b.rs", "b.rs:2 imports a.rs"]);
}

#[test]
fn a_circle_of_folders_is_found_though_its_files_form_none() {
    let read = crate_of(&[
        ("lib.rs", "mod left; mod right;"),
        ("left/mod.rs", "mod high; pub mod low;"),
        ("left/high.rs", "use crate::right::middle::M; struct H(M);"),
        ("left/low.rs", "pub struct L;"),
        ("right/mod.rs", "pub mod middle;"),
        (
            "right/middle.rs",
            "use crate::left::low::L; pub struct M(L);",
        ),
    ]);
    assert!(circles(&read.arrows()).is_empty());
    let between = between_neighbours(&read.arrows());
    assert_eq!(circles(&between[""]).len(), 1);
}

#[test]
fn a_circle_of_many_files_is_found_once() {
    let read = crate_of(&[
        ("lib.rs", "mod a; mod b; mod c; mod d;"),
        ("a.rs", "use crate::b; fn x() { b::y() }"),
        ("b.rs", "use crate::c::*; pub fn y() {}"),
        ("c.rs", "pub fn z() { crate::a::x(); crate::d::w() }"),
        ("d.rs", "pub fn w() {}"),
    ]);
    let found = circles(&read.arrows());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].len(), 3);
}

#[test]
fn a_re_export_stands_for_the_file_that_defines_the_item() {
    let files = &[
        ("lib.rs", "mod face; mod user; pub use face::Thing;"),
        (
            "face/mod.rs",
            "mod thing; mod other; pub use thing::Thing; pub use other::*;",
        ),
        (
            "face/thing.rs",
            "use super::Other; pub struct Thing(Other);",
        ),
        ("face/other.rs", "pub struct Other;"),
        (
            "user.rs",
            "use crate::Thing; fn f(_: Thing, _: crate::face::Other) {}",
        ),
    ];
    assert_eq!(
        arrows_of(files),
        [
            "face/thing.rs > face/other.rs",
            "user.rs > face/thing.rs",
            "user.rs > face/other.rs"
        ]
    );
}

#[test]
fn what_tests_alone_compile_draws_no_arrow() {
    let files = &[
        ("lib.rs", "mod a; mod b; #[cfg(test)] mod tests;"),
        (
            "a.rs",
            "pub struct A;
             #[cfg(test)] use crate::b::B;
             #[cfg(any(test, feature = \"fuzzing\"))] impl A { fn b() -> crate::b::B { crate::b::B } }
             impl A { #[cfg(test)] fn c() { crate::b::d(); } fn e() {} }
             #[cfg(test)] mod tests { use crate::b::B; }",
        ),
        ("b.rs", "use crate::a::A; pub struct B(A);"),
        ("tests.rs", "use crate::a::A; use crate::b::B;"),
    ];
    assert_eq!(arrows_of(files), ["b.rs > a.rs"]);
}

#[test]
fn comments_strings_and_other_crates_draw_no_arrow() {
    let files = &[
        ("lib.rs", "mod a; mod b;"),
        (
            "a.rs",
            "//! [`crate::b::B`]
             use std::fmt::{self, Debug}; use ::b::B;
             /// crate::b::B
             pub fn f(x: &impl Debug) -> fmt::Result { /* crate::b::B */ let _ = \"crate::b::B\"; Ok(()) }",
        ),
        ("b.rs", "pub struct B;"),
    ];
    assert!(arrows_of(files).is_empty());
}

#[test]
fn paths_in_macros_and_nested_use_trees_draw_arrows() {
    let files = &[
        ("lib.rs", "mod a; mod b; mod c;"),
        (
            "a.rs",
            "use crate::{b::{self, B}, c as other}; fn f(_: B) { println!(\"{}\", b::g(other::h())) }",
        ),
        ("b.rs", "pub struct B; pub fn g() { vec![crate::c::h()]; }"),
        ("c.rs", "pub fn h() {}"),
    ];
    assert_eq!(
        arrows_of(files),
        ["a.rs > b.rs", "a.rs > c.rs", "b.rs > c.rs"]
    );
}
