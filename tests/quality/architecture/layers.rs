//! Layers: files and folders import only downwards, and in no cycle.

use crate::checkout::{CRATES, assert_none, root};
use crate::circles::{between_neighbours, circles};
use crate::imports::Crate;

/// Layers of the binary's folders, from the top down. A file imports only from the lines below its own.
const LAYERS: [(&str, &[&[&str]]); 2] = [
    (
        "",
        &[
            &["main"],
            &["cli"],
            &["server", "worker"],
            &["leader"],
            &["state_machine", "schedule_times"],
            &["feed", "waiters", "leader_counters"],
            &["cron", "backup_format", "panic_exit", "mutated"],
            &["areas"],
            &["log_writer", "private_files", "signals"],
            &["terminal_text"],
        ],
    ),
    (
        "server",
        &[
            &["run"],
            &["router"],
            &["routes"],
            &["leader_proxy"],
            &["app"],
            &["options", "memory_limit"],
            &["http"],
            &["protocol"],
        ],
    ),
];

#[test]
fn files_of_a_crate_import_one_another_in_no_circle() {
    let mut findings = Vec::new();
    for (folder, name) in CRATES {
        let read = Crate::read(&root().join(folder), name);
        assert!(
            read.files().len() > 5,
            "{folder}: the sources were not found"
        );
        let arrows = read.arrows();
        assert!(arrows.len() > 10, "{folder}: hardly any import was found");
        for circle in circles(&arrows) {
            let ways = circle.iter().map(|arrow| arrow.shown.as_str());
            findings.push(format!("{folder}: {}", ways.collect::<Vec<_>>().join(", ")));
        }
    }
    assert_none("circles of files", &findings);
}

#[test]
fn neighbours_in_a_folder_import_one_another_in_no_circle() {
    let mut findings = Vec::new();
    for (folder, name) in CRATES {
        let read = Crate::read(&root().join(folder), name);
        for (within, arrows) in between_neighbours(&read.arrows()) {
            for circle in circles(&arrows) {
                let ways = circle
                    .iter()
                    .map(|arrow| format!("{} → {} ({})", arrow.from, arrow.to, arrow.shown));
                let ways = ways.collect::<Vec<_>>().join(", ");
                findings.push(format!("{folder}/{within}: {ways}"));
            }
        }
    }
    assert_none("circles of folders", &findings);
}

#[test]
fn folders_of_the_binary_import_downwards() {
    let read = Crate::read(&root().join("src"), "triarch");
    let between = between_neighbours(&read.arrows());
    let mut findings = Vec::new();
    for (folder, layers) in LAYERS {
        let layer_of = |name: &str| layers.iter().position(|layer| layer.contains(&name));
        for arrow in between.get(folder).into_iter().flatten() {
            match (layer_of(&arrow.from), layer_of(&arrow.to)) {
                (Some(from), Some(to)) if from < to => {}
                (Some(_), Some(_)) => findings.push(format!(
                    "src/{folder}: {} is not above {}, but {}",
                    arrow.from, arrow.to, arrow.shown
                )),
                _ => findings.push(format!(
                    "src/{folder}: {} or {} has no layer; {}",
                    arrow.from, arrow.to, arrow.shown
                )),
            }
        }
    }
    assert_none("imports upwards", &findings);
}
