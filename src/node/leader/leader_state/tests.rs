use std::collections::BTreeMap;
use std::time::Duration;

use triarch_areas::worker_silence::{Silence, SilenceCommand, WorkerSilences};
use triarch_table::command::{Grant, RegisterWorker};
use triarch_table::{Command, Reply, Stamp, Table, Token};

use super::super::lease_tracker::{LeaseTiming, WorkerLoad};
use super::super::poll_registry::DELIVERY_TIMEOUT;
use super::*;
use crate::test_commands::submit_task;

fn lease(token: u64) -> Lease {
    Lease {
        task: "t1-0".parse().expect("an id"),
        worker: "w1-0".parse().expect("an id"),
        attempt: 1,
        token: Token(token),
    }
}

fn leader_state() -> LeaderState {
    LeaderState::new(Instant::now())
}

/// A worker with one lease.
fn table() -> Table {
    let mut table = Table::new(triarch_table::Limits::default());
    let mut apply = |index, command| {
        let stamp = Stamp {
            index,
            now_ms: index,
        };
        table.apply(stamp, vec![command], &mut Vec::new()).pop()
    };
    let worker = apply(
        1,
        Command::RegisterWorker(RegisterWorker {
            request_id: None,
            name: "one".into(),
            queues: vec!["default".into()],
            kinds: vec!["exec".into()],
            slots: 1,
            labels: BTreeMap::new(),
            resources: BTreeMap::new(),
        }),
    );
    let job = apply(2, submit_task("exec"));
    let (Some(Reply::Registered { worker }), Some(Reply::Submitted { tasks, .. })) = (worker, job)
    else {
        panic!("refused")
    };
    let grants = vec![Grant {
        task: tasks[0],
        worker,
    }];
    apply(3, Command::Grant { grants });
    assert_eq!(table.leases().count(), 1);
    table
}

/// A leader's tracker, and what earlier leaders have recorded.
struct Silences {
    table: Table,
    recorded: WorkerSilences,
}

impl Silences {
    const TIMING: LeaseTiming = LeaseTiming {
        heartbeat_ms: 200,
        lease_ms: 1_000,
    };

    fn new() -> Self {
        Self {
            table: table(),
            recorded: WorkerSilences::default(),
        }
    }

    fn worker(&self) -> triarch_table::WorkerId {
        self.table.workers().next().expect("there is one").id
    }

    /// One look of a leader's expiry loop. Returns whether the worker is lost.
    fn look(&mut self, state: &mut LeaderState, now: Instant) -> bool {
        let (table, recorded) = (&self.table, &self.recorded);
        let overdue = state.leases.overdue(table, recorded, Self::TIMING, now);
        let found = state.leases.silences_to_record(recorded, Self::TIMING, now);
        self.recorded
            .apply(SilenceCommand::Record(found), &self.table);
        !overdue.workers.is_empty()
    }

    fn recorded_ms(&self) -> u32 {
        self.recorded.of(self.worker()).silent_ms
    }
}

#[test]
fn a_new_leader_counts_on_from_the_recorded_silence_and_a_contact_ends_it() {
    let ms = |ms| Duration::from_millis(ms);
    let mut silences = Silences::new();
    let worker = silences.worker();
    let begun = Instant::now();
    let mut first = LeaderState::new(begun);
    assert!(!silences.look(&mut first, begun));
    assert!(!silences.look(&mut first, begun + ms(500)));
    assert_eq!(silences.recorded_ms(), 0, "nobody claims its name");
    first.leases.record_claim(worker, begun + ms(550));
    assert!(!silences.look(&mut first, begun + ms(600)));
    assert_eq!(silences.recorded_ms(), 600);

    // Another leader, after a time without one, which does not count.
    let begun = begun + ms(60_000);
    let mut second = LeaderState::new(begun);
    assert!(!silences.look(&mut second, begun));
    assert!(!silences.look(&mut second, begun + ms(150)));
    assert_eq!(silences.recorded_ms(), 750);
    assert_eq!(second.leases.silence(worker, begun + ms(150)), ms(750));

    let begun = begun + ms(60_000);
    let mut third = LeaderState::new(begun);
    assert!(!silences.look(&mut third, begun + ms(100)));
    assert!(!silences.look(&mut third, begun + ms(350)));
    let recorded = silences.recorded.of(worker);
    assert!(third.leases.open_silence(worker, recorded));
    // The worker is heard from: it has a whole lease from here on.
    third.leases.record_contact(worker, begun + ms(360));
    let contact = SilenceCommand::Contact {
        worker,
        contacts: recorded.contacts,
    };
    assert!(silences.recorded.apply(contact, &silences.table));
    let recorded = silences.recorded.of(worker);
    assert!(!third.leases.open_silence(worker, recorded));
    assert!(!silences.look(&mut third, begun + ms(1_360)));
    assert!(silences.look(&mut third, begun + ms(1_361)));
}

#[test]
fn the_silence_of_a_worker_whose_name_is_claimed_is_recorded_at_once() {
    let ms = |ms| Duration::from_millis(ms);
    let mut silences = Silences::new();
    let worker = silences.worker();
    let begun = Instant::now();
    let mut state = LeaderState::new(begun);
    assert!(!silences.look(&mut state, begun));
    let silence = state.leases.record_claim(worker, begun + ms(40));
    assert_eq!(silence, ms(40));
    assert!(!silences.look(&mut state, begun + ms(50)));
    assert_eq!(silences.recorded_ms(), 50);
    // A record on its way into the log is ended by a contact like one that is there.
    let none = Silence::default();
    assert!(state.leases.open_silence(worker, none));
    let other = LeaderState::new(begun);
    assert!(!other.leases.open_silence(worker, none));
}

#[test]
fn a_worker_and_its_lease_are_not_overdue_before_the_tracker_has_seen_them_for_a_lease_time() {
    let timing = LeaseTiming {
        heartbeat_ms: 20,
        lease_ms: 100,
    };
    let ms = |ms| Duration::from_millis(ms);
    let table = table();
    // The term is older than a lease, and the tracker has not yet seen this worker and its lease.
    let now = Instant::now() + ms(1_000);
    let mut state = leader_state();
    let overdue = state
        .leases
        .overdue(&table, &WorkerSilences::default(), timing, now);
    assert!(overdue.workers.is_empty() && overdue.leases.is_empty());
    let overdue = state
        .leases
        .overdue(&table, &WorkerSilences::default(), timing, now + ms(100));
    assert!(overdue.workers.is_empty() && overdue.leases.is_empty());
    let overdue = state
        .leases
        .overdue(&table, &WorkerSilences::default(), timing, now + ms(101));
    assert_eq!(overdue.workers.len(), 1);
}

#[test]
fn the_heartbeat_interval_grows_with_the_number_of_workers() {
    let timing = LeaseTiming {
        heartbeat_ms: 2_000,
        lease_ms: 10_000,
    };
    assert_eq!(timing.heartbeat_ms_for(0), 2_000);
    assert_eq!(timing.heartbeat_ms_for(2_000), 2_000);
    assert_eq!(timing.heartbeat_ms_for(3_000), 3_000);
    assert_eq!(
        timing.heartbeat_ms_for(5_000),
        4_000,
        "two of them fit into a lease"
    );
    assert_eq!(timing.heartbeat_ms_for(usize::MAX), 4_000);
    let short = LeaseTiming {
        heartbeat_ms: 10,
        lease_ms: 12,
    };
    assert_eq!(
        short.heartbeat_ms_for(5_000),
        10,
        "never more often than at first"
    );
}

#[test]
fn a_granted_lease_answers_the_waiting_poll() {
    let mut state = leader_state();
    let (_, mut poll) = state.polls.register(lease(1).worker, 1);
    state.deliver(&[lease(1)], Instant::now());
    assert_eq!(poll.try_recv(), Ok(vec![lease(1)]));
    assert_eq!(state.polls.take_undelivered(lease(1).worker), []);
}

#[test]
fn a_granted_lease_without_a_waiting_poll_is_held_for_the_next_one() {
    let mut state = leader_state();
    state.deliver(&[lease(1)], Instant::now());
    assert_eq!(state.polls.take_undelivered(lease(1).worker), [lease(1)]);
}

#[test]
fn an_undelivered_lease_is_returned_after_the_delivery_timeout_and_no_longer_delivered() {
    let mut state = leader_state();
    let now = Instant::now();
    state.deliver(&[lease(1)], now);
    assert!(state.expire_undelivered(now).is_empty());
    let late = now + DELIVERY_TIMEOUT + Duration::from_millis(1);
    assert_eq!(state.expire_undelivered(late).len(), 1);
    assert!(!state.leases.mark_delivered(&lease(1), late));
    assert!(state.expire_undelivered(late).is_empty());
}

#[test]
fn a_lease_delivered_to_a_later_poll_is_neither_held_nor_returned() {
    // The later poll came before the delivery of the grant.
    let mut state = leader_state();
    let now = Instant::now();
    assert!(state.leases.mark_delivered(&lease(1), now));
    state.deliver(&[lease(1)], now);
    // The earlier poll hung up after it had received the grant.
    let (_, mut poll) = state.polls.register(lease(2).worker, 1);
    state.deliver(&[lease(2)], now);
    assert!(state.leases.mark_delivered(&lease(2), now));
    state.hold_undelivered(lease(2).worker, poll.try_recv().unwrap_or_default(), now);
    assert_eq!(state.polls.take_undelivered(lease(1).worker), []);
    assert!(
        state
            .expire_undelivered(now + 2 * DELIVERY_TIMEOUT)
            .is_empty()
    );
}

#[test]
fn a_lease_whose_delivery_got_lost_is_delivered_again() {
    let mut state = leader_state();
    assert!(state.leases.mark_delivered(&lease(1), Instant::now()));
    assert!(state.leases.mark_delivered(&lease(1), Instant::now()));
}

#[test]
fn a_reserved_poll_is_in_no_other_decision_until_it_is_released() {
    let mut state = leader_state();
    let worker = lease(1).worker;
    let (_, mut poll) = state.polls.register(worker, 3);
    let wanted = |state: &mut LeaderState| {
        state
            .open_demand(9)
            .iter()
            .map(|demand| demand.wanted)
            .sum::<u32>()
    };
    assert_eq!((state.polls.wanted(worker), wanted(&mut state)), (3, 3));
    let reserved = state.polls.reserve([worker]);
    assert_eq!((state.polls.wanted(worker), wanted(&mut state)), (0, 0));
    let second = state.polls.reserve([worker]);
    state.polls.release(second);
    assert_eq!(
        state.polls.wanted(worker),
        0,
        "another decision has reserved it"
    );
    // The decision gave this poll nothing, so the poll waits on.
    state.polls.release(reserved);
    assert_eq!(state.polls.wanted(worker), 3);
    assert!(poll.try_recv().is_err());

    // A release concerns the reserved poll, not a later one of the same worker.
    let reserved = state.polls.reserve([worker]);
    let (_, _later) = state.polls.register(worker, 2);
    assert_eq!(state.polls.wanted(worker), 2);
    let of_later = state.polls.reserve([worker]);
    state.polls.release(reserved);
    assert_eq!(state.polls.wanted(worker), 0);
    state.polls.release(of_later);
    assert_eq!(state.polls.wanted(worker), 2);
}

#[test]
fn a_refill_is_served_once_and_before_waiting_polls() {
    let mut state = leader_state();
    let (waiting, refilling, loaded) = (WorkerId::at(1, 0), WorkerId::at(2, 0), WorkerId::at(3, 0));
    let (_, _poll) = state.polls.register(waiting, 3);
    assert!(state.request_refill(refilling, 2));
    assert!(!state.request_refill(loaded, 0), "it wants nothing");
    state.leases.record_contact(loaded, Instant::now());
    let busy = WorkerLoad {
        cpu: Some(1.0),
        mem_mb: None,
    };
    state.leases.record_load(loaded, busy);
    assert!(!state.request_refill(loaded, 1), "others come first");
    let demand = |state: &mut LeaderState, limit| -> Vec<(WorkerId, u32)> {
        let demands = state.open_demand(limit).into_iter();
        demands
            .map(|demand| (demand.worker, demand.wanted))
            .collect()
    };
    assert_eq!(demand(&mut state, 1), [(refilling, 2)]);
    assert_eq!(demand(&mut state, 9), [(waiting, 3)]);
    assert!(state.request_refill(refilling, 2));
    state.polls.cancel_refill(refilling);
    assert_eq!(demand(&mut state, 9), [(waiting, 3)]);
}
