//! The command line: runs one command to its end.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::processes::binary::triarch;
use crate::processes::process::MARKER_ENV;
use crate::wait::eventually;

/// Timeout of a command.
const DEADLINE: Duration = Duration::from_secs(60);

/// The `triarch` program with its common arguments.
#[derive(Debug, Clone)]
pub struct Cli {
    mark: String,
    masters: Option<String>,
}

/// Result of a command.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The command line, for messages.
    pub line: String,
    /// Exit code, or `None` if a signal ended the command.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Cli {
    /// Creates a command line whose processes carry this mark.
    pub fn new(mark: &str) -> Self {
        Self {
            mark: mark.to_owned(),
            masters: None,
        }
    }

    /// Sets the masters, by the environment variable.
    pub fn masters(mut self, masters: &str) -> Self {
        self.masters = Some(masters.to_owned());
        self
    }

    /// Runs a command without input.
    pub async fn run(&self, args: &[&str]) -> Ran {
        self.run_with_input(args, "").await
    }

    /// Runs `triarch cluster status` with these options until it succeeds, and returns the result. It fails while no
    /// leader is known: after a start or a death, and between elections that nobody asked for on a busy machine.
    pub async fn cluster_status(&self, options: &[&str]) -> Ran {
        let args = [&["cluster", "status"], options].concat();
        let what = "the status of the cluster names a leader";
        eventually(DEADLINE, what, async || {
            let ran = self.run(&args).await;
            (ran.code == Some(0)).then_some(ran)
        })
        .await
    }

    /// Runs a command with this standard input.
    pub async fn run_with_input(&self, args: &[&str], input: &str) -> Ran {
        let line = format!("triarch {}", args.join(" "));
        let mut command = tokio::process::Command::new(triarch());
        command
            .args(args)
            .env(MARKER_ENV, &self.mark)
            .env_remove("TRIARCH_MASTERS")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(masters) = &self.masters {
            command.env("TRIARCH_MASTERS", masters);
        }
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{line}: {error}"));
        let mut stdin = child.stdin.take().expect("piped");
        // A program that does not read its input closes it.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = tokio::time::timeout(DEADLINE, child.wait_with_output())
            .await
            .unwrap_or_else(|_| panic!("{line}: still running after {DEADLINE:?}"))
            .unwrap_or_else(|error| panic!("{line}: {error}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran {
            line,
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

impl Ran {
    /// Returns the result. Panics unless the exit code is this one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(
            !self.stderr.contains("panicked at"),
            "the command panicked: {self:#?}"
        );
        self
    }

    /// Returns the standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self:#?}"))
    }

    /// Returns the result. Panics unless the standard output contains `text`.
    #[track_caller]
    pub fn shows(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "{text:?} is missing: {self:#?}");
        self
    }

    /// Returns the result. Panics unless the standard error contains `text`.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "{text:?} is missing: {self:#?}");
        self
    }
}
