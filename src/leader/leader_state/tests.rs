use std::collections::BTreeMap;

use bytes::Bytes;
use triarch_table::command::{
    Backoff, Grant, NewTask, OnFailure, RegisterWorker, Requires, SubmitJob,
};
use triarch_table::{Command, Reply, Stamp};

use super::*;

fn lease(token: u64) -> Lease {
    Lease {
        task: "t1-0".parse().expect("an id"),
        worker: "w1-0".parse().expect("an id"),
        attempt: 1,
        token: Token(token),
    }
}

fn desk() -> Desk {
    Desk::new(Instant::now())
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
    let job = apply(
        2,
        Command::SubmitJob(SubmitJob {
            request_id: None,
            idempotency_key: None,
            body_digest: [0; 32],
            part_digests: Vec::new(),
            name: String::new(),
            on_failure: OnFailure::Continue,
            tasks: vec![exec_task()],
        }),
    );
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

fn exec_task() -> NewTask {
    NewTask {
        key: None,
        kind: "exec".into(),
        payload: Bytes::new(),
        queue: "default".into(),
        priority: 0,
        not_before_ms: None,
        delay_ms: 0,
        expires_ms: None,
        timeout_ms: None,
        max_attempts: 1,
        max_losses: 1,
        backoff: Backoff::default(),
        requires: Requires {
            labels: BTreeMap::new(),
            resources: BTreeMap::new(),
        },
        tags: Vec::new(),
        after: Vec::new(),
        unique: None,
        concurrency: None,
    }
}

#[test]
fn what_the_desk_was_not_told_of_yet_is_not_overdue() {
    let timing = LeaseTiming {
        heartbeat_ms: 20,
        lease_ms: 100,
    };
    let ms = |ms| Duration::from_millis(ms);
    let table = table();
    // The term is older than a lease, and nobody has told the desk of this worker and its task.
    let now = Instant::now() + ms(1_000);
    let mut desk = desk();
    let overdue = desk.overdue(&table, timing, now);
    assert!(overdue.workers.is_empty() && overdue.leases.is_empty());
    let overdue = desk.overdue(&table, timing, now + ms(100));
    assert!(overdue.workers.is_empty() && overdue.leases.is_empty());
    let overdue = desk.overdue(&table, timing, now + ms(101));
    assert_eq!(overdue.workers.len(), 1);
}

#[test]
fn many_workers_are_asked_for_fewer_heartbeats_each() {
    let timing = LeaseTiming {
        heartbeat_ms: 2_000,
        lease_ms: 10_000,
    };
    assert_eq!(timing.heartbeat_ms_of(0), 2_000);
    assert_eq!(timing.heartbeat_ms_of(2_000), 2_000);
    assert_eq!(timing.heartbeat_ms_of(3_000), 3_000);
    assert_eq!(
        timing.heartbeat_ms_of(5_000),
        4_000,
        "two of them fit into a lease"
    );
    assert_eq!(timing.heartbeat_ms_of(usize::MAX), 4_000);
    let short = LeaseTiming {
        heartbeat_ms: 10,
        lease_ms: 12,
    };
    assert_eq!(
        short.heartbeat_ms_of(5_000),
        10,
        "never more often than at first"
    );
}

#[test]
fn a_lease_goes_to_the_poll_that_waits() {
    let mut desk = desk();
    let (_, mut poll) = desk.wait(lease(1).worker, 1);
    desk.deliver(&[lease(1)], Instant::now());
    assert_eq!(poll.try_recv(), Ok(vec![lease(1)]));
    assert_eq!(desk.take_held(lease(1).worker), []);
}

#[test]
fn what_nobody_waits_for_is_held_for_the_next_poll() {
    let mut desk = desk();
    desk.deliver(&[lease(1)], Instant::now());
    assert_eq!(desk.take_held(lease(1).worker), [lease(1)]);
}

#[test]
fn what_nobody_comes_for_goes_back_and_is_not_handed_out_meanwhile() {
    let mut desk = desk();
    let now = Instant::now();
    desk.deliver(&[lease(1)], now);
    assert!(desk.unclaimed(now).is_empty());
    let late = now + HELD_MAX + Duration::from_millis(1);
    assert_eq!(desk.unclaimed(late).len(), 1);
    assert!(!desk.hand_out(&lease(1), late));
    assert!(desk.unclaimed(late).is_empty());
}

#[test]
fn what_a_later_poll_was_given_is_neither_held_nor_taken_back() {
    // The later poll was quicker than the delivery of the grant.
    let mut desk = desk();
    let now = Instant::now();
    assert!(desk.hand_out(&lease(1), now));
    desk.deliver(&[lease(1)], now);
    // The earlier poll hung up with the grant in hand.
    let (_, mut poll) = desk.wait(lease(2).worker, 1);
    desk.deliver(&[lease(2)], now);
    assert!(desk.hand_out(&lease(2), now));
    desk.hold(lease(2).worker, poll.try_recv().unwrap_or_default(), now);
    assert_eq!(desk.take_held(lease(1).worker), []);
    assert!(desk.unclaimed(now + 2 * HELD_MAX).is_empty());
}

#[test]
fn what_was_handed_out_in_vain_is_handed_out_again() {
    let mut desk = desk();
    assert!(desk.hand_out(&lease(1), Instant::now()));
    assert!(desk.hand_out(&lease(1), Instant::now()));
}

#[test]
fn a_poll_is_in_one_decision_at_a_time() {
    let mut desk = desk();
    let worker = lease(1).worker;
    let (_, mut poll) = desk.wait(worker, 3);
    let wanted = |desk: &mut Desk| desk.asks(9).iter().map(|ask| ask.wanted).sum::<u32>();
    assert_eq!((desk.wanted(worker), wanted(&mut desk)), (3, 3));
    let taken = desk.take([worker]);
    assert_eq!((desk.wanted(worker), wanted(&mut desk)), (0, 0));
    let in_vain = desk.take([worker]);
    desk.give_back(in_vain);
    assert_eq!(desk.wanted(worker), 0, "another decision has it");
    // It gave this poll nothing, so the poll waits on.
    desk.give_back(taken);
    assert_eq!(desk.wanted(worker), 3);
    assert!(poll.try_recv().is_err());

    // What is given back is the poll that was taken, not one that came after it.
    let taken = desk.take([worker]);
    let (_, _later) = desk.wait(worker, 2);
    assert_eq!(desk.wanted(worker), 2);
    let of_later = desk.take([worker]);
    desk.give_back(taken);
    assert_eq!(desk.wanted(worker), 0);
    desk.give_back(of_later);
    assert_eq!(desk.wanted(worker), 2);
}

#[test]
fn one_that_returns_is_thought_of_once_and_before_those_that_wait() {
    let mut desk = desk();
    let (waiting, returning, loaded) = (WorkerId::at(1, 0), WorkerId::at(2, 0), WorkerId::at(3, 0));
    let (_, _poll) = desk.wait(waiting, 3);
    assert!(desk.returns(returning, 2));
    assert!(!desk.returns(loaded, 0), "it wants nothing");
    desk.heard(loaded, Instant::now());
    let busy = Load {
        cpu: Some(1.0),
        mem_mb: None,
    };
    desk.loaded(loaded, busy);
    assert!(!desk.returns(loaded, 1), "others come first");
    let asks = |desk: &mut Desk, most| -> Vec<(WorkerId, u32)> {
        let asks = desk.asks(most).into_iter();
        asks.map(|ask| (ask.worker, ask.wanted)).collect()
    };
    assert_eq!(asks(&mut desk, 1), [(returning, 2)]);
    assert_eq!(asks(&mut desk, 9), [(waiting, 3)]);
    assert!(desk.returns(returning, 2));
    desk.has_returned(returning);
    assert_eq!(asks(&mut desk, 9), [(waiting, 3)]);
}
