//! The file of a snapshot that is not complete yet.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::StorageError;
use crate::durable;

/// A file that is removed on drop unless it is kept.
#[derive(Debug)]
pub(super) struct UnfinishedFile {
    path: PathBuf,
    kept: bool,
}

impl UnfinishedFile {
    pub(super) fn create(path: PathBuf) -> Result<(Self, File), StorageError> {
        let file = durable::create_file(&path)
            .map_err(|error| StorageError::io("create", &path, &error))?;
        Ok((UnfinishedFile { path, kept: false }, file))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            // The next open removes it.
            tracing::warn!(path = %self.path.display(), %error, "could not remove an unfinished snapshot");
        }
    }
}
