//! Cycles in a graph of imports.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::imports::Arrow;

/// A path from a node back to itself.
pub type Circle = Vec<Arrow>;

/// Returns one shortest cycle through each group of nodes that reach one another.
pub fn circles(arrows: &[Arrow]) -> Vec<Circle> {
    let mut next: BTreeMap<&str, Vec<&Arrow>> = BTreeMap::new();
    for arrow in arrows {
        next.entry(&arrow.from).or_default().push(arrow);
    }
    let mut reported = BTreeSet::new();
    let mut found = Vec::new();
    for start in next.keys() {
        if reported.contains(start) {
            continue;
        }
        if let Some(circle) = shortest(&next, start) {
            reported.extend(circle.iter().map(|arrow| arrow.from.as_str()));
            found.push(circle.into_iter().cloned().collect());
        }
    }
    found
}

/// Returns the shortest path from a node back to itself, by breadth-first search.
fn shortest<'a>(next: &BTreeMap<&str, Vec<&'a Arrow>>, start: &str) -> Option<Vec<&'a Arrow>> {
    let mut reached_by: BTreeMap<&str, &Arrow> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for arrow in next.get(node).into_iter().flatten() {
            if !reached_by.contains_key(arrow.to.as_str()) {
                reached_by.insert(&arrow.to, arrow);
                queue.push_back(&arrow.to);
            }
        }
    }
    let mut circle = vec![*reached_by.get(start)?];
    while circle[circle.len() - 1].from != start {
        circle.push(reached_by[circle[circle.len() - 1].from.as_str()]);
    }
    circle.reverse();
    Some(circle)
}

/// Imports between neighbours: the subfolders of one folder, and its files, each with the folder of its children.
///
/// By the path of the folder; `""` is the source folder itself.
pub fn between_neighbours(arrows: &[Arrow]) -> BTreeMap<String, Vec<Arrow>> {
    let mut folders: BTreeMap<String, Vec<Arrow>> = BTreeMap::new();
    for arrow in arrows {
        let from: Vec<&str> = arrow.from.split('/').collect();
        let to: Vec<&str> = arrow.to.split('/').collect();
        let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
        let (Some(left), Some(right)) = (from.get(shared), to.get(shared)) else {
            continue;
        };
        // A file and its child modules import one another inside of one neighbour.
        let (left, right) = (left.trim_end_matches(".rs"), right.trim_end_matches(".rs"));
        if left != right {
            folders
                .entry(from[..shared].join("/"))
                .or_default()
                .push(Arrow {
                    from: left.to_owned(),
                    to: right.to_owned(),
                    shown: arrow.shown.clone(),
                });
        }
    }
    folders
}
