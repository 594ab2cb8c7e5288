//! Relative links and anchors of Markdown pages.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use crate::TextFile;

/// Returns one line for each relative link of `pages` whose file or anchor does not exist.
///
/// `exists` answers whether a path, relative to the root of the repository, names a file or folder.
pub fn broken_links(pages: &[TextFile], exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let anchors: BTreeMap<&Path, BTreeSet<String>> = pages
        .iter()
        .map(|page| (page.path.as_path(), anchors(&page.text)))
        .collect();
    let mut broken = Vec::new();
    for page in pages {
        for (line, target) in targets(&page.text) {
            if has_scheme(&target) {
                continue;
            }
            let (path, anchor) = match target.split_once('#') {
                Some((path, anchor)) => (path, Some(anchor)),
                None => (target.as_str(), None),
            };
            let file = if path.is_empty() {
                Some(page.path.clone())
            } else {
                resolve(page.path.parent().unwrap_or(Path::new("")), path)
            };
            let at = format!("{}:{line}: {target}", page.path.display());
            match file {
                None => broken.push(format!("{at}: leads out of the repository")),
                Some(file) if !exists(&file) => broken.push(format!("{at}: no such file")),
                Some(file) => {
                    if let (Some(anchor), Some(known)) = (anchor, anchors.get(file.as_path()))
                        && !known.contains(anchor)
                    {
                        broken.push(format!("{at}: no such heading in {}", file.display()));
                    }
                }
            }
        }
    }
    broken
}

/// Returns the lines of a page with their numbers, without fenced blocks, and with the text of code spans blanked.
fn prose_lines(text: &str) -> Vec<(usize, String)> {
    let mut fence: Option<String> = None;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        let marker: String = trimmed
            .chars()
            .take_while(|&c| c == '`' || c == '~')
            .collect();
        match &fence {
            Some(open) => {
                if marker.len() >= open.len() && marker == trimmed.trim_end() {
                    fence = None;
                }
            }
            None if marker.len() >= 3 => fence = Some(marker),
            None => lines.push((index + 1, line.to_owned())),
        }
    }
    lines
}

/// Returns a line with its code spans blanked.
fn without_code_spans(line: &str) -> String {
    let mut out = String::new();
    let mut parts = line.split('`');
    out.push_str(parts.next().unwrap_or(""));
    let rest: Vec<&str> = parts.collect();
    for (index, part) in rest.iter().enumerate() {
        // An unpaired backtick opens nothing.
        if index % 2 == 1 || index + 1 == rest.len() {
            out.push_str(part);
        }
    }
    out
}

/// Returns the targets of all links of a page, with their lines.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose_lines(text) {
        let line = without_code_spans(&line);
        let mut rest = line.as_str();
        while let Some(start) = rest.find("](") {
            rest = &rest[start + 2..];
            let Some(end) = rest.find(')') else { break };
            // A title may follow the address.
            if let Some(target) = rest[..end].split_whitespace().next() {
                found.push((
                    number,
                    target.trim_matches(|c| c == '<' || c == '>').to_owned(),
                ));
            }
            rest = &rest[end..];
        }
        if let Some((label, target)) = line.split_once("]: ")
            && label.starts_with('[')
            && let Some(target) = target.split_whitespace().next()
        {
            found.push((number, target.to_owned()));
        }
    }
    found
}

fn has_scheme(target: &str) -> bool {
    target.split_once(':').is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric())
    })
}

/// Returns the path of `link` relative to `folder`, or `None` if it leads out of the repository.
fn resolve(folder: &Path, link: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for component in folder.join(link).components() {
        match component {
            Component::ParentDir => {
                if !path.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            Component::Normal(part) => path.push(part),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

/// Returns the anchors of a page, as GitHub derives them from headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (_, line) in prose_lines(text) {
        let level = line.chars().take_while(|&c| c == '#').count();
        if (1..=6).contains(&level) && line[level..].starts_with(' ') {
            let anchor = slug(&without_links(line[level..].trim()));
            let count = seen.entry(anchor.clone()).or_default();
            found.insert(if *count == 0 {
                anchor
            } else {
                format!("{anchor}-{count}")
            });
            *count += 1;
        }
        for attribute in ["id=\"", "name=\""] {
            if let Some((_, rest)) = line.split_once(attribute)
                && let Some((id, _)) = rest.split_once('"')
            {
                found.insert(id.to_owned());
            }
        }
    }
    found
}

/// Returns a heading with each `[text](address)` replaced by its text.
fn without_links(heading: &str) -> String {
    let mut out = String::new();
    let mut rest = heading;
    while let Some((before, after)) = rest.split_once("](") {
        out.push_str(&before.replacen('[', "", 1));
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    out.push_str(rest);
    out
}

fn slug(heading: &str) -> String {
    heading
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            c if c.is_alphanumeric() => Some(c.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}
