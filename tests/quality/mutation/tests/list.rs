//! The list of mutations agrees with the `mutated!(…)` of the product.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use triarch_mutation::{Home, Mutation};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// Returns the names in `mutated!(…)` below a folder.
fn used_in(folder: &str) -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let mut files = Vec::new();
    sources(&root.join(folder), &mut files);
    let mut used = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source");
        for after in text.split("mutated!(").skip(1) {
            let name = after.split(')').next().unwrap_or_default();
            used.insert(name.to_owned());
        }
    }
    used
}

#[test]
fn every_mutation_is_in_the_product_and_no_other() {
    for (home, folder) in [
        (Home::Table, "table/src"),
        (Home::Storage, "storage/src"),
        (Home::Raft, "raft/src"),
        (Home::Program, "src"),
    ] {
        let there = Mutation::ALL.iter().filter(|one| one.home() == home);
        let listed: BTreeSet<String> = there.map(|one| one.variant().to_owned()).collect();
        assert_eq!(listed, used_in(folder), "in {folder}");
    }
}

#[test]
fn names_are_those_of_the_variants() {
    for mutation in Mutation::ALL {
        let mut name = String::new();
        for letter in mutation.variant().chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.extend(letter.to_lowercase());
        }
        assert_eq!(mutation.name(), name);
        assert_eq!(Mutation::named(&name), Some(*mutation));
        assert!(!mutation.breaks().is_empty());
    }
}

#[test]
fn every_check_that_is_named_first_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let mut files = Vec::new();
    for folder in ["table", "storage", "raft", "src", "tests/integration"] {
        sources(&root.join(folder), &mut files);
    }
    let texts: Vec<String> = files
        .iter()
        .map(|file| std::fs::read_to_string(file).expect("a source"))
        .collect();
    let mut names = texts.iter().flat_map(|text| text.split("fn ").skip(1));
    for mutation in Mutation::ALL {
        for part in mutation.held_by() {
            let is_it = |after: &str| {
                after
                    .split('(')
                    .next()
                    .is_some_and(|name| name.contains(part))
            };
            assert!(
                names.clone().any(is_it),
                "{mutation:?}: no test is named {part}"
            );
        }
    }
    assert!(names.next().is_some(), "the sources were not found");
}
