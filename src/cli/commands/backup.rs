//! `triarch cluster backup` and `restore`: write the whole table of a cluster to a file, and load it into another
//! cluster.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use triarch_areas::backup_format::{BackupError, Header, Reader};
use triarch_areas::state;
use triarch_sdk::wire::{Consistency, ReadQuery, RestoreProgress, RestoreQuery};

use crate::context::CommandContext;
use crate::error::CommandError;
use crate::output::{self, details};

/// Bytes of the table in one request.
const PART_BYTES: usize = 4 << 20;
/// Maximum attempts to download. If the master that sends the backup fails, another starts over.
const ATTEMPTS_MAX: u32 = 3;

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// File to write the backup to
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replaces FILE if it exists
    #[arg(long)]
    force: bool,
    /// Backs up the state of the first master that answers, even without a majority; the backup lacks writes that only
    /// other masters have
    #[arg(long)]
    stale: bool,
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Backup file that `triarch cluster backup` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Summary of a backup.
#[derive(Debug, Serialize)]
struct BackupSummary {
    file: String,
    backup: String,
    cluster_id: String,
    index: u64,
    jobs: u64,
    tasks: u64,
    bytes: u64,
    taken_at: String,
}

fn summary(file: &Path, header: &Header, bytes: u64) -> BackupSummary {
    let taken = i64::try_from(header.table_ms)
        .ok()
        .and_then(DateTime::from_timestamp_millis);
    BackupSummary {
        file: file.display().to_string(),
        backup: header.backup.clone(),
        cluster_id: header.cluster_id.clone(),
        index: header.index,
        jobs: header.jobs,
        tasks: header.tasks,
        bytes,
        taken_at: taken.map_or_else(
            || "-".to_owned(),
            |taken| taken.to_rfc3339_opts(SecondsFormat::Secs, true),
        ),
    }
}

fn render(summary: &BackupSummary) -> String {
    details([
        ("file", Some(summary.file.clone())),
        ("bytes", Some(summary.bytes.to_string())),
        ("of cluster", Some(summary.cluster_id.clone())),
        ("up to entry", Some(summary.index.to_string())),
        ("last change", Some(summary.taken_at.clone())),
        ("jobs", Some(summary.jobs.to_string())),
        ("tasks", Some(summary.tasks.to_string())),
    ])
}

/// Writes a backup to a temporary file, verifies every byte of it, and only then renames it.
pub async fn backup(context: &CommandContext, args: BackupArgs) -> Result<ExitCode, CommandError> {
    let BackupArgs { file, force, stale } = args;
    if !force && file.exists() {
        return Err(CommandError::Usage(format!(
            "{} exists already: choose another file, or add --force to replace it",
            file.display()
        )));
    }
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let local = |error: io::Error| {
        CommandError::Failed(format!("cannot write into {}: {error}", folder.display()))
    };
    let mut attempt = 0;
    let partial = loop {
        attempt += 1;
        let mut partial = tempfile::Builder::new()
            .prefix(".triarch-backup-")
            .tempfile_in(folder)
            .map_err(local)?;
        match download(context, stale, partial.as_file_mut()).await? {
            Ok(()) => break partial,
            Err(why) if attempt < ATTEMPTS_MAX => {
                output::print_note(&format!("{why}; starting over"))
            }
            Err(why) => return Err(CommandError::Failed(why)),
        }
    };
    let (header, _) = verify(partial.path())?;
    partial.as_file().sync_all().map_err(local)?;
    let bytes = partial.as_file().metadata().map_err(local)?.len();
    // The file is replaced completely or not at all. Without `force`, a file created since the check stays.
    let named = if force {
        partial.persist(&file).map(drop)
    } else {
        partial.persist_noclobber(&file).map(drop)
    };
    named.map_err(|error| local(error.error))?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(local)?;
    output::print(context.format, &summary(&file, &header, bytes), render)?;
    Ok(ExitCode::SUCCESS)
}

/// Downloads a backup. The inner error is one that another master may not have.
async fn download(
    context: &CommandContext,
    stale: bool,
    into: &mut File,
) -> Result<Result<(), String>, CommandError> {
    let progress = progress(None, "downloading");
    let query = ReadQuery {
        consistency: stale.then_some(Consistency::Stale),
    };
    let opened = context.client.backup_with(&query).await;
    let mut download = opened.map_err(|error| match CommandError::from(error) {
        CommandError::Unreachable(message) if !stale => CommandError::Unreachable(format!(
            "{message}\nIf the majority is lost for good, add --stale: it saves what one master that is left has."
        )),
        other => other,
    })?;
    loop {
        match download.next().await {
            Ok(Some(bytes)) => {
                into.write_all(&bytes)?;
                progress.inc(bytes.len() as u64);
            }
            Ok(None) => break,
            Err(error) => return Ok(Err(error.to_string())),
        }
    }
    progress.finish_and_clear();
    into.flush()?;
    Ok(Ok(()))
}

/// Verifies every byte. Returns the header and the number of bytes of the table.
fn verify(file: &Path) -> Result<(Header, u64), CommandError> {
    let whole = || -> Result<Header, BackupError> {
        let (header, mut reader) = open(file)?;
        while reader.next_block()?.is_some() {}
        Ok(header)
    };
    let header = whole().map_err(|error| unreadable(file, &error))?;
    // The file is as it was written. Whether this version knows all that is in it is another question.
    let (_, mut table) = open_table(file)?;
    let bytes = io::copy(&mut table, &mut io::sink())
        .map_err(|error| CommandError::Failed(format!("{}: {error}", file.display())))?;
    Ok((header, bytes))
}

fn open(file: &Path) -> Result<(Header, Reader<BufReader<File>>), BackupError> {
    Reader::begin(BufReader::with_capacity(1 << 20, File::open(file)?))
}

/// Opens the part of a backup that is the table.
fn open_table(file: &Path) -> Result<(Header, impl Read), CommandError> {
    let (header, reader) = open(file).map_err(|error| unreadable(file, &error))?;
    let contents = Contents {
        reader,
        block: io::Cursor::default(),
    };
    let table = state::table_bytes(contents)
        .map_err(|error| CommandError::Failed(format!("{}: {error}", file.display())))?;
    Ok((header, table))
}

fn unreadable(file: &Path, error: &BackupError) -> CommandError {
    let advice = match error {
        BackupError::Io(_) | BackupError::NotABackup | BackupError::UnknownVersion(_) => "",
        BackupError::CutShort(_) | BackupError::Damaged { .. } => {
            "\nIt cannot be restored: use another backup."
        }
    };
    CommandError::Failed(format!("{}: {error}{advice}", file.display()))
}

/// Verifies the whole file, then sends the table part by part. May be run again after any failure.
pub async fn restore(
    context: &CommandContext,
    args: RestoreArgs,
) -> Result<ExitCode, CommandError> {
    let RestoreArgs { file } = args;
    let (header, bytes) = verify(&file)?;
    let parts = u32::try_from(bytes.div_ceil(PART_BYTES as u64))
        .map_err(|_| CommandError::Failed(format!("{} is too large", file.display())))?;
    let begun = Instant::now();
    let (_, mut table) = open_table(&file)?;
    let progress = progress(Some(bytes), "restoring");
    let mut last: Option<RestoreProgress> = None;
    for part in 1..=parts {
        let mut piece = Vec::with_capacity(PART_BYTES);
        (&mut table)
            .take(PART_BYTES as u64)
            .read_to_end(&mut piece)?;
        let query = RestoreQuery {
            backup: header.backup.clone(),
            part,
            parts,
        };
        progress.inc(piece.len() as u64);
        let answer = context
            .client
            .restore_part(&query, Bytes::from(piece))
            .await?;
        let over = answer.restored.is_some();
        last = Some(answer);
        if over {
            break;
        }
    }
    progress.finish_and_clear();
    let restored = last.and_then(|last| last.restored);
    let Some(restored) = restored else {
        return Err(CommandError::Failed(
            "the cluster lost parts of the backup during the restore: run the command again"
                .to_owned(),
        ));
    };
    output::print(context.format, &summary(&file, &header, bytes), |summary| {
        let done = match restored.repeated {
            true => format!(
                "was restored before: nothing is changed; the cluster holds {} jobs and {} tasks now",
                restored.jobs, restored.tasks
            ),
            false => format!(
                "restored {} jobs and {} tasks in {:.1} s",
                restored.jobs,
                restored.tasks,
                begun.elapsed().as_secs_f64()
            ),
        };
        format!("{}\n\n{done}", render(summary))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn progress(bytes: Option<u64>, what: &'static str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(bytes.unwrap_or_default());
    let template = if bytes.is_some() {
        "{msg} {wide_bar} {bytes}/{total_bytes}"
    } else {
        "{msg} {spinner} {bytes}"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}

/// Stream of what a backup contains, without its frame.
struct Contents<R: Read> {
    reader: Reader<R>,
    block: io::Cursor<Vec<u8>>,
}

impl<R: Read> Read for Contents<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.block.read(into)?;
            if count > 0 || into.is_empty() {
                return Ok(count);
            }
            match self.reader.next_block().map_err(io::Error::other)? {
                Some(block) => self.block = io::Cursor::new(block),
                None => return Ok(0),
            }
        }
    }
}
