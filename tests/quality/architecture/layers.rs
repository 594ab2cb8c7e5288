//! Layers: files and folders import only downwards, and in no cycle.

use crate::checkout::{CRATES, assert_none, root};
use crate::circles::{between_neighbours, circles};
use crate::imports::Crate;

/// Layers of a folder of a crate, from the top down. A file imports only from the lines below its own.
struct Layers {
    /// The crate, by the folder of its sources.
    sources: &'static str,
    /// The folder in it; `""` is the source folder itself.
    folder: &'static str,
    layers: &'static [&'static [&'static str]],
}

const LAYERS: [Layers; 4] = [
    Layers {
        sources: "src",
        folder: "",
        layers: &[
            &["main"],
            &["dispatch"],
            &["server_args", "worker_args"],
            &["address", "logging"],
        ],
    },
    Layers {
        sources: "src/node",
        folder: "",
        layers: &[
            &["server"],
            &["leader"],
            &["state_machine", "schedule_times"],
            &["feed", "waiters", "leader_counters"],
            &["cron", "mutated"],
        ],
    },
    Layers {
        sources: "src/node",
        folder: "server",
        layers: &[
            &["run"],
            &["router"],
            &["routes"],
            &["leader_proxy"],
            &["app"],
            &["options", "memory_limit"],
            &["http"],
            &["protocol"],
        ],
    },
    Layers {
        sources: "src/process",
        folder: "",
        layers: &[
            &["panic_exit", "private_files", "signals"],
            &["log_writer"],
            &["terminal_text"],
        ],
    },
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
        assert!(arrows.len() > 1, "{folder}: hardly any import was found");
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
fn layers_import_downwards() {
    let mut findings = Vec::new();
    for (sources, name) in CRATES {
        let read = Crate::read(&root().join(sources), name);
        let between = between_neighbours(&read.arrows());
        for Layers { folder, layers, .. } in LAYERS.iter().filter(|one| one.sources == sources) {
            let within = format!("{sources}/{folder}");
            let layer_of = |name: &str| layers.iter().position(|layer| layer.contains(&name));
            for arrow in between.get(*folder).into_iter().flatten() {
                match (layer_of(&arrow.from), layer_of(&arrow.to)) {
                    (Some(from), Some(to)) if from < to => {}
                    (Some(_), Some(_)) => findings.push(format!(
                        "{within}: {} is not above {}, but {}",
                        arrow.from, arrow.to, arrow.shown
                    )),
                    _ => findings.push(format!(
                        "{within}: {} or {} has no layer; {}",
                        arrow.from, arrow.to, arrow.shown
                    )),
                }
            }
        }
    }
    assert_none("imports upwards", &findings);
}
