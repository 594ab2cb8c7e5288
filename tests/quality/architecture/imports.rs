//! Imports between the files of one crate.
//!
//! A path is followed to the file that defines its item: through `use` aliases, re-exports and globs. A file that only
//! declares modules and re-exports (`mod.rs`, `lib.rs`) is a *face*. A face is in no cycle, because nothing in it can
//! depend on anything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::source::{self, Import, Module};

/// Maximum depth at which re-exports are followed.
const MAX_DEPTH: usize = 12;

/// One import between two nodes: files, or neighbours in a folder.
#[derive(Debug, Clone)]
pub struct Arrow {
    /// The importing node. A file is named by its path in the crate's source folder.
    pub from: String,
    /// The node that defines the imported item.
    pub to: String,
    /// The importing file with its line, and the file that it imports from.
    pub shown: String,
}

/// A module with its place in the tree.
struct Placed {
    file: usize,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    source: Module,
}

/// The sources of one crate.
pub struct Crate {
    name: String,
    files: Vec<String>,
    faces: BTreeSet<usize>,
    modules: Vec<Placed>,
}

impl Crate {
    /// Reads the crate with the root module `lib.rs` (and `main.rs` next to it) in this folder.
    pub fn read(folder: &Path, name: &str) -> Crate {
        Crate::from_sources(name, &|file| {
            std::fs::read_to_string(folder.join(file)).ok()
        })
    }

    /// Like [`read`](Crate::read), with sources from any place.
    pub fn from_sources(name: &str, text_of: &dyn Fn(&str) -> Option<String>) -> Crate {
        let mut read = Crate {
            name: name.to_owned(),
            files: Vec::new(),
            faces: BTreeSet::new(),
            modules: Vec::new(),
        };
        for root in ["lib.rs", "main.rs"] {
            if let Some(text) = text_of(root) {
                read.add_file(root, "", &text, None, text_of);
            }
        }
        read
    }

    /// Returns every file of the product, relative to the source folder.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// Child modules behind `#[cfg(…)]`: the declaring file, the child's name and the predicate.
    pub fn conditions(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.modules.iter().flat_map(|module| {
            let file = self.files[module.file].as_str();
            let conditions = module.source.conditions.iter();
            conditions.map(move |(child, predicate)| (file, child.as_str(), predicate.as_str()))
        })
    }

    fn add_file(
        &mut self,
        file: &str,
        folder: &str,
        text: &str,
        parent: Option<usize>,
        text_of: &dyn Fn(&str) -> Option<String>,
    ) -> usize {
        let number = self.files.len();
        self.files.push(file.to_owned());
        let module = source::read(text);
        if !module.has_code {
            self.faces.insert(number);
        }
        self.add_module(number, folder, module, parent, text_of)
    }

    fn add_module(
        &mut self,
        file: usize,
        folder: &str,
        mut source: Module,
        parent: Option<usize>,
        text_of: &dyn Fn(&str) -> Option<String>,
    ) -> usize {
        let file_children = std::mem::take(&mut source.file_children);
        let inline_children = std::mem::take(&mut source.inline_children);
        let number = self.modules.len();
        self.modules.push(Placed {
            file,
            parent,
            children: BTreeMap::new(),
            source,
        });
        for name in file_children {
            let inner = format!("{folder}{name}/");
            let found = [format!("{folder}{name}.rs"), format!("{inner}mod.rs")]
                .into_iter()
                .find_map(|path| text_of(&path).map(|text| (path, text)));
            if let Some((path, text)) = found {
                let child = self.add_file(&path, &inner, &text, Some(number), text_of);
                self.modules[number].children.insert(name, child);
            }
        }
        for (name, inline) in inline_children {
            let inner = format!("{folder}{name}/");
            let child = self.add_module(file, &inner, inline, Some(number), text_of);
            self.modules[number].children.insert(name, child);
        }
        number
    }

    /// Returns every import between two files with code, once for each pair of files.
    pub fn arrows(&self) -> Vec<Arrow> {
        let mut arrows = BTreeMap::new();
        for (number, module) in self.modules.iter().enumerate() {
            let used = |import: &&Import| {
                let name = import.name.as_ref();
                !import.exported || name.is_some_and(|name| module.source.names.contains(name))
            };
            let imported = module.source.imports.iter().filter(used);
            let imported = imported.map(|import| &import.path);
            for path in imported.chain(&module.source.paths) {
                let Some(to) = self.home(number, &path.segments, 0) else {
                    continue;
                };
                let from = module.file;
                if from != to && !self.faces.contains(&to) && !self.faces.contains(&from) {
                    arrows.entry((from, to)).or_insert(path.line);
                }
            }
        }
        arrows
            .into_iter()
            .map(|((from, to), line)| {
                let (from, to) = (self.files[from].clone(), self.files[to].clone());
                let shown = format!("{from}:{line} imports {to}");
                Arrow { from, to, shown }
            })
            .collect()
    }

    /// Returns the file that defines the item of a path, as a module sees it.
    fn home(&self, module: usize, segments: &[String], depth: usize) -> Option<usize> {
        if depth > MAX_DEPTH {
            return None;
        }
        let (first, rest) = segments.split_first()?;
        match first.as_str() {
            "crate" => self.below(0, rest, depth),
            "self" => self.below(module, rest, depth),
            "super" => {
                let mut at = self.modules[module].parent?;
                let mut rest = rest;
                while let [again, after @ ..] = rest
                    && again == "super"
                {
                    at = self.modules[at].parent?;
                    rest = after;
                }
                self.below(at, rest, depth)
            }
            name if name == self.name => self.below(0, rest, depth),
            name => {
                if let Some(child) = self.modules[module].children.get(name) {
                    return self.below(*child, rest, depth);
                }
                // Only imports of modules matter here, because the import of an item is a separate edge.
                let imports = &self.modules[module].source.imports;
                let alias = imports
                    .iter()
                    .find(|import| import.name.as_deref() == Some(name))?;
                if alias.path.segments.first().map(String::as_str) == Some(name) {
                    return None;
                }
                let whole = [alias.path.segments.as_slice(), rest].concat();
                self.home(module, &whole, depth + 1)
            }
        }
    }

    /// Returns the file that defines the item of the rest of a path, within a module.
    fn below(&self, module: usize, rest: &[String], depth: usize) -> Option<usize> {
        let here = &self.modules[module];
        let Some((name, after)) = rest.split_first() else {
            return Some(here.file);
        };
        if let Some(child) = here.children.get(name) {
            return self.below(*child, after, depth);
        }
        if here.source.definitions.contains(name) {
            return Some(here.file);
        }
        let imports = here.source.imports.iter();
        for import in imports.clone() {
            if import.name.as_deref() == Some(name) {
                let whole = [import.path.segments.as_slice(), after].concat();
                return self.home(module, &whole, depth + 1);
            }
        }
        for import in imports {
            if import.name.is_none() {
                let whole = [import.path.segments.as_slice(), rest].concat();
                let found = self.home(module, &whole, depth + 1);
                if found.is_some_and(|file| self.defines(file, name)) {
                    return found;
                }
            }
        }
        Some(here.file)
    }

    fn defines(&self, file: usize, name: &str) -> bool {
        self.modules
            .iter()
            .any(|module| module.file == file && module.source.definitions.contains(name))
    }
}
