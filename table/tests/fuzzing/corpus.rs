//! The committed corpus through the targets, without a fuzzer. Outside `src`, whose every file is pure: this one reads files.

use std::path::Path;

fn corpus(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let files = std::fs::read_dir(folder.join(target)).expect("the target's corpus");
    let mut inputs = 0;
    for file in files.flatten() {
        run(&std::fs::read(file.path()).expect("an input"));
        inputs += 1;
    }
    assert!(inputs > 0, "the corpus of {target} is empty");
}

#[test]
fn the_corpus_of_commands_passes() {
    corpus("commands", super::command);
}

#[test]
fn the_corpus_of_commands_applied_passes() {
    corpus("commands_applied", super::commands_applied);
}

#[test]
fn the_corpus_of_table_snapshots_passes() {
    corpus("table_snapshots", super::snapshot);
}
