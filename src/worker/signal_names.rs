//! Names of signals, those of real time included.

use nix::sys::signal::Signal;

/// Number of real-time signals that are named from the lowest; the others are named from the highest, as by `kill -l`.
const FROM_LOWEST_MAX: i32 = 15;

/// Returns the usual name of a signal.
pub fn signal_name(number: i32) -> String {
    if let Ok(signal) = Signal::try_from(number) {
        return signal.as_str().to_owned();
    }
    let (lowest, highest) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    match number {
        _ if number == lowest => "SIGRTMIN".to_owned(),
        _ if number == highest => "SIGRTMAX".to_owned(),
        _ if (lowest..=lowest + FROM_LOWEST_MAX).contains(&number) => {
            format!("SIGRTMIN+{}", number - lowest)
        }
        _ if (lowest..highest).contains(&number) => format!("SIGRTMAX-{}", highest - number),
        _ => format!("signal {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_its_usual_name() {
        for (number, name) in [
            (9, "SIGKILL"),
            (32, "signal 32"),
            (34, "SIGRTMIN"),
            (37, "SIGRTMIN+3"),
            (49, "SIGRTMIN+15"),
            (50, "SIGRTMAX-14"),
            (64, "SIGRTMAX"),
            (65, "signal 65"),
        ] {
            assert_eq!(signal_name(number), name);
        }
    }
}
