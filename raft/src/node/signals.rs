//! Channels between the parts of a node: what the background tasks publish, and the signal to stop.

use std::time::Instant;

use tokio::sync::watch;

use crate::leadership::role::RaftRole;
use crate::status::Leadership;

/// Channels watched by services and tasks.
pub(super) struct Signals {
    pub stopping: watch::Sender<bool>,
    pub stop: watch::Receiver<bool>,
    pub role: watch::Receiver<RaftRole>,
    pub leadership: watch::Receiver<Leadership>,
    pub out_of_touch: watch::Receiver<Option<Instant>>,
}

/// Sending ends of [`Signals`], for the leadership observer and the readiness monitor alone.
pub(super) struct Publishers {
    pub role: watch::Sender<RaftRole>,
    pub leadership: watch::Sender<Leadership>,
    pub out_of_touch: watch::Sender<Option<Instant>>,
}

/// Creates the channels, with nothing known yet.
pub(super) fn signals() -> (Signals, Publishers) {
    let (stopping, stop) = watch::channel(false);
    let (role_tx, role) = watch::channel(RaftRole::Unknown { term: 0 });
    let (leadership_tx, leadership) = watch::channel(Leadership::Unknown { term: 0 });
    let (out_of_touch_tx, out_of_touch) = watch::channel(Some(Instant::now()));
    let signals = Signals {
        stopping,
        stop,
        role,
        leadership,
        out_of_touch,
    };
    let publishers = Publishers {
        role: role_tx,
        leadership: leadership_tx,
        out_of_touch: out_of_touch_tx,
    };
    (signals, publishers)
}
