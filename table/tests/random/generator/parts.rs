//! Parts of commands: tasks with their dependencies, parts of multipart jobs, and changes of queues.

use std::collections::BTreeMap;

use bytes::Bytes;
use triarch_table::Command;
use triarch_table::command::{
    Backoff, Concurrency, Dependency, DependencyCondition, NewTask, OnDuplicate, OnFailure,
    QueueChange, Requires, StagePart, Unique,
};
use triarch_table::types::queue_options::{Placement, Rate};

use super::{KINDS, QUEUES, ZONES};
use crate::rng::Rng;

pub(super) fn new_task(rng: &mut Rng) -> NewTask {
    let labels = if rng.one_in(4) {
        [("zone".into(), rng.pick(&ZONES).into())].into()
    } else {
        BTreeMap::new()
    };
    let resources = if rng.one_in(3) {
        [("mem".into(), rng.below(4))].into()
    } else {
        BTreeMap::new()
    };
    NewTask {
        key: None,
        kind: rng.pick(&KINDS).to_owned(),
        payload: Bytes::from(rng.pick(&["{}", "[1,2,3]", ""])),
        queue: rng.pick(&QUEUES).to_owned(),
        priority: rng.pick(&[0, 0, 0, 5, 9]),
        not_before_ms: rng.one_in(8).then(|| 1_000_000 + rng.below(20_000)),
        delay_ms: if rng.one_in(4) {
            rng.pick(&[10, 300, 800])
        } else {
            0
        },
        expires_ms: rng.one_in(4).then(|| rng.pick(&[0, 10, 300, 1_500])),
        timeout_ms: rng.one_in(3).then(|| 1 + rng.below(500)),
        max_attempts: 1 + rng.below(3) as u32,
        max_losses: 1 + rng.below(3) as u32,
        backoff: Backoff {
            initial_ms: rng.pick(&[0, 10, 300]),
            factor_milli: rng.pick(&[1_000, 1_500, 2_000]),
            max_ms: rng.pick(&[5, 1_000]),
            jitter_permille: 0,
        },
        requires: Requires { labels, resources },
        tags: if rng.one_in(4) {
            vec!["x".to_owned()]
        } else {
            Vec::new()
        },
        after: Vec::new(),
        unique: rng.one_in(8).then(|| Unique {
            key: format!("u{}", rng.below(6)),
            on_duplicate: rng.pick(&[OnDuplicate::Refuse, OnDuplicate::Return]),
        }),
        concurrency: rng.one_in(5).then(|| Concurrency {
            key: rng.pick(&["c0", "c1", "c2"]).into(),
            limit: 1 + rng.below(3) as u32,
        }),
    }
}

/// Adds dependencies between tasks. In most cases they point to earlier tasks; in one of twelve they may be invalid.
pub(super) fn add_dependencies(rng: &mut Rng, tasks: &mut [NewTask]) {
    for (at, task) in tasks.iter_mut().enumerate() {
        task.key = Some(format!("k{at}"));
    }
    let may_go_wrong = rng.one_in(12);
    let conditional = rng.one_in(2);
    for at in 0..tasks.len() {
        let most = rng.pick(&[0, 1, 1, 2, 4]);
        let before = if may_go_wrong { tasks.len() } else { at };
        let mut keys: Vec<String> = (0..most.min(before))
            .map(|_| format!("k{}", rng.below(before as u64)))
            .collect();
        if !may_go_wrong {
            keys.sort();
            keys.dedup();
        } else if rng.one_in(10) {
            keys.push("nobody".to_owned());
        }
        let after = keys.into_iter().map(|key| Dependency {
            key,
            when: match conditional && rng.one_in(3) {
                true => rng.pick(&DependencyCondition::ALL),
                false => DependencyCondition::Succeeded,
            },
        });
        tasks[at].after = after.collect();
    }
    // Dependencies must be resolved in any order of the tasks.
    if rng.one_in(3) {
        tasks.reverse();
    }
}

/// Returns a part of one of a few jobs, so that parts of the same job meet.
pub(super) fn stage_part(rng: &mut Rng) -> Command {
    let key = rng.below(6);
    let parts = 1 + (key % 3) as u32;
    let mut tasks: Vec<NewTask> = (0..1 + rng.below(3)).map(|_| new_task(rng)).collect();
    let part = 1 + rng.below(parts.into()) as u32;
    for (at, task) in tasks.iter_mut().enumerate() {
        task.key = Some(format!("k{part}-{at}"));
        if part > 1 && rng.one_in(4) {
            task.after = vec!["k1-0".into()];
        }
    }
    let mut stage = StagePart {
        key: format!("part{key}"),
        part,
        parts,
        digest: [u8::from(rng.one_in(10)); 32],
        name: String::new(),
        on_failure: OnFailure::Continue,
        tasks,
    };
    match rng.below(30) {
        0 => stage.part = 0,
        1 => stage.part = parts + 1,
        2 => stage.name = "other".to_owned(),
        3 => stage.parts += 1,
        4 => spoil(rng, &mut stage.tasks),
        _ => {}
    }
    Command::StagePart(stage)
}

pub(super) fn change_queue(rng: &mut Rng) -> Command {
    let mut change = QueueChange::default();
    for _ in 0..1 + rng.below(2) {
        match rng.below(9) {
            // Queues are resumed more often than paused, so that tasks keep starting.
            0 | 1 => change.paused = Some(rng.one_in(3)),
            2 => change.max_running = Some(rng.pick(&[None, None, Some(0), Some(1), Some(3)])),
            3 => {
                let per_s_milli = rng.pick(&[333, 2_000, 10_000, 700_000]);
                let burst = rng.pick(&[1, 1, 2, 5]);
                let rate = Rate { per_s_milli, burst };
                change.rate = Some((!rng.one_in(3)).then_some(rate));
            }
            4 => change.max_depth = Some(rng.pick(&[None, None, Some(5), Some(20)])),
            5 => change.weight = Some(rng.pick(&[1, 2, 3, 10])),
            6 => change.placement = Some(rng.pick(&[Placement::Spread, Placement::Pack])),
            7 => change.retain_ms = Some(rng.pick(&[None, Some(0), Some(400), Some(3_000)])),
            _ => change.retain_jobs = Some(rng.pick(&[None, Some(0), Some(2)])),
        }
    }
    let mut queue = rng.pick(&QUEUES).to_owned();
    match rng.below(40) {
        0 => queue.clear(),
        1 => change.weight = Some(0),
        2 => {
            change.rate = Some(Some(Rate {
                per_s_milli: 0,
                burst: 1,
            }))
        }
        3 => {
            change.rate = Some(Some(Rate {
                per_s_milli: 1_000,
                burst: 0,
            }))
        }
        4..8 => queue = rng.pick(&["spare0", "spare1", "spare2"]).to_owned(),
        _ => {}
    }
    Command::ChangeQueue { queue, change }
}

/// Breaks one validation rule of the tasks.
pub(super) fn spoil(rng: &mut Rng, tasks: &mut Vec<NewTask>) {
    let at = rng.below(tasks.len() as u64) as usize;
    let task = &mut tasks[at];
    match rng.below(13) {
        0 => task.priority = 10,
        1 => task.kind.clear(),
        2 => task.queue = "q".repeat(201),
        3 => task.max_attempts = 0,
        4 => task.max_losses = 0,
        5 => task.backoff.factor_milli = 999,
        6 => task.backoff.jitter_permille = 1_001,
        7 => tasks.clear(),
        8 => task.timeout_ms = Some(0),
        9 => task.after = vec!["".into()],
        10 => {
            task.unique = Some(Unique {
                key: String::new(),
                on_duplicate: OnDuplicate::Return,
            });
        }
        11 => {
            task.concurrency = Some(Concurrency {
                key: "c0".into(),
                limit: 0,
            });
        }
        _ => {
            let mut twin = tasks[at].clone();
            twin.key = Some("same".to_owned());
            tasks[at].key = Some("same".to_owned());
            tasks.push(twin);
        }
    }
}
