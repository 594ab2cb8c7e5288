//! Fuzzing entry points for the decoders of this crate. Built for tests and with the feature `fuzzing`. The targets and
//! the corpus are in `fuzz/`; the tests below run on that corpus too.

pub use crate::sled_log::fuzzing::log_chunks;
pub use crate::snapshot::fuzzing::snapshot_file;

#[cfg(test)]
#[path = "../../fuzz/corpus.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use super::corpus::passes;

    #[test]
    fn the_corpus_of_log_chunks_passes() {
        passes("log_chunks", super::log_chunks);
    }

    #[test]
    fn the_corpus_of_snapshot_files_passes() {
        passes("snapshot_files", super::snapshot_file);
    }
}
