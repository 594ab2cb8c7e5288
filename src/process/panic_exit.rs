//! Panic hook of long-running processes: a panic in any thread ends the process.
//!
//! By itself, a panic ends only its thread or task. Other parts of the process would then wait for it for ever, while
//! the process answers probes and remains a member of the cluster. When the process ends, the other nodes take over its
//! work and the supervisor restarts it. Nothing acknowledged is lost, because it is on disk.

use std::panic::PanicHookInfo;

use crate::log_writer;

/// Exit code after a panic: the one of a Rust program whose main thread panics.
const EXIT_PANIC: i32 = 101;

/// Ends the process on every panic but those for which `is_contained` holds at that moment: the ones that are caught and
/// reported as errors.
pub fn install(name: &'static str, is_contained: fn() -> bool) {
    std::panic::set_hook(Box::new(move |panic| {
        if is_contained() {
            return;
        }
        log_writer::write_line(&message(name, panic));
        // No destructors and no exit handlers: they may wait for the thread that panicked.
        // SAFETY: the call takes no pointers and does not return.
        unsafe { libc::_exit(EXIT_PANIC) }
    }));
}

fn message(name: &str, panic: &PanicHookInfo<'_>) -> String {
    let thread = std::thread::current();
    let backtrace = std::backtrace::Backtrace::capture();
    format!(
        "{name}: this is a bug, please report it. Thread '{}' {panic}; the process ends, start it again\n{backtrace}",
        thread.name().unwrap_or("unnamed")
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{EXIT_PANIC, install};

    /// Set in the child process that panics.
    const CHILD: &str = "TRIARCH_TEST_PANIC_CHILD";

    #[test]
    fn a_panic_in_a_background_task_ends_the_process_with_a_message() {
        if std::env::var_os(CHILD).is_some() {
            install("triarch test", || false);
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(async {
                let _ = tokio::spawn(async { panic!("a deliberate panic") }).await;
            });
            return;
        }
        let name = std::thread::current().name().map(str::to_owned);
        let output = Command::new(std::env::current_exe().expect("this program"))
            .args([
                name.as_deref().expect("the test's name"),
                "--exact",
                "--nocapture",
            ])
            .env(CHILD, "1")
            .output()
            .expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(EXIT_PANIC), "{stderr}");
        assert!(stderr.contains("a deliberate panic"), "{stderr}");
    }
}
