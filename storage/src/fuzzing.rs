//! What a fuzzer gives to the decoders of this crate. Built for tests and with the feature `fuzzing`; `fuzz/` has the
//! targets and the corpus, on which the tests below run too.

pub use crate::sled_log::fuzzing::log_chunks;
pub use crate::snapshot::fuzzing::snapshot_file;

#[cfg(test)]
mod tests {
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
    fn the_corpus_of_log_chunks_passes() {
        corpus("log_chunks", super::log_chunks);
    }

    #[test]
    fn the_corpus_of_snapshot_files_passes() {
        corpus("snapshot_files", super::snapshot_file);
    }
}
