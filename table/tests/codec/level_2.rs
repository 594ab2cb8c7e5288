//! Examples of what only clusters of level 2 have in their logs.

use bytes::Bytes;
use triarch_table::command::{
    AfterJob, Dependency, DependencyCondition, NewTask, PutSchedule, ReportedOutcome, RestorePart,
    TaskReport,
};
use triarch_table::{Command, JobId, TaskId, Token, WorkerId};

use super::{commands, full_task};

/// Returns the examples.
pub fn commands_of_level_2() -> Vec<(&'static str, Command)> {
    let (task, worker, token) = (TaskId::at(6, 2), WorkerId::at(7, 3), Token(8));
    let schedule = commands()
        .into_iter()
        .find_map(|(_, command)| match command {
            Command::PutSchedule(put) => Some(put),
            _ => None,
        });
    let interval = Command::PutSchedule(PutSchedule {
        cron: "@every 90000ms".into(),
        timezone: "UTC".into(),
        ..schedule.expect("there is a schedule")
    });
    let conditional = |command: &str| {
        let commands = commands().into_iter();
        let mut found = commands
            .filter(|(name, _)| *name == command)
            .map(|(_, found)| found);
        let mut command = found.next().expect("there is such a command");
        let tasks = match &mut command {
            Command::SubmitJob(submit) => &mut submit.tasks,
            Command::StagePart(stage) => &mut stage.tasks,
            Command::PutSchedule(put) => &mut put.job.tasks,
            other => panic!("{other:?} has no tasks"),
        };
        let task = full_task();
        let dependency = |key: &str, when| Dependency {
            key: key.to_owned(),
            when,
        };
        tasks.push(NewTask {
            after: vec![
                dependency("fetch", DependencyCondition::Succeeded),
                dependency("parse", DependencyCondition::Failed),
                dependency("store", DependencyCondition::Ended),
            ],
            ..task
        });
        command
    };
    let restore = RestorePart {
        backup: "b".into(),
        part: 1,
        parts: 2,
        bytes: Bytes::from_static(b"TRITABLE"),
    };
    let mut after_jobs = commands().swap_remove(0).1;
    if let Command::SubmitJob(submit) = &mut after_jobs {
        submit.after_jobs = DependencyCondition::ALL
            .into_iter()
            .zip(1..)
            .map(|(when, index)| AfterJob {
                job: JobId::at(index, 0),
                when,
            })
            .collect();
    }
    vec![
        ("submit_job_conditions", conditional("submit_job")),
        ("submit_job_after_jobs_conditions", after_jobs),
        ("stage_part_conditions", conditional("stage_part")),
        ("put_schedule_conditions", conditional("put_schedule")),
        ("restore_of_level_2", Command::RestorePartOfLevel2(restore)),
        ("put_schedule_interval", interval),
        (
            "report_retry_after",
            Command::Report {
                worker,
                results: vec![
                    TaskReport {
                        task,
                        token,
                        outcome: ReportedOutcome::Returned,
                    },
                    TaskReport {
                        task,
                        token,
                        outcome: ReportedOutcome::FailedRetryAfter {
                            error: Bytes::from_static(b"{\"type\":\"Busy\"}"),
                            retry_after_ms: 90_000,
                        },
                    },
                ],
            },
        ),
    ]
}
