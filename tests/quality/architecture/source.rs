//! Reader of one Rust source file: its modules, items and paths.
//!
//! The reader works on tokens, so it never takes comments and strings for code. It omits items that only tests compile
//! (`#[cfg(test)]`, `#[cfg(any(test, feature = "…"))]`), because they are not part of the product.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::FromStr;

use proc_macro2::{Delimiter, Punct, Spacing, TokenStream, TokenTree};

/// A path as written, with its line.
#[derive(Debug, Clone)]
pub struct WrittenPath {
    /// `crate`, `self`, `super` and names, in order.
    pub segments: Vec<String>,
    /// Number of the line, from 1.
    pub line: usize,
}

/// One name that a `use` brings into a module.
#[derive(Debug, Clone)]
pub struct Import {
    /// The name in this module; `None` for a glob.
    pub name: Option<String>,
    /// The imported path.
    pub path: WrittenPath,
    /// Whether it is a `pub use`, of any visibility.
    pub exported: bool,
}

/// A module, of a file of its own or inline.
#[derive(Debug, Default)]
pub struct Module {
    /// Names of child modules in files of their own.
    pub file_children: Vec<String>,
    /// Inline child modules.
    pub inline_children: Vec<(String, Module)>,
    /// Types, functions, traits, constants and macros defined here.
    pub definitions: BTreeSet<String>,
    /// Names that `use` brings in.
    pub imports: Vec<Import>,
    /// Paths of two or more segments outside of `use`.
    pub paths: Vec<WrittenPath>,
    /// Every identifier outside of `use`.
    pub names: BTreeSet<String>,
    /// Whether there is code other than declarations and imports.
    pub has_code: bool,
    /// `#[cfg(…)]` of child modules: the child, and the predicate without spaces.
    pub conditions: Vec<(String, String)>,
}

type Tokens = Peekable<proc_macro2::token_stream::IntoIter>;

const ITEM_WORDS: [&str; 8] = [
    "struct", "enum", "union", "trait", "type", "fn", "const", "static",
];

/// Items that end with a semicolon, even if they contain braces.
const UNTIL_SEMICOLON: [&str; 5] = ["use", "static", "type", "let", "const"];

/// Features that change the product itself. Every other feature adds code for tests, fuzzers or benchmarks.
pub const PRODUCT_FEATURES: [&str; 2] = ["mutations", "openapi"];

/// Reads a source file.
///
/// # Panics
///
/// Panics if the text does not consist of Rust tokens.
pub fn read(text: &str) -> Module {
    let tokens = TokenStream::from_str(text).expect("Rust tokens");
    let mut module = Module::default();
    read_items(tokens, &mut module);
    module
}

/// Returns whether a predicate of `cfg` holds only in builds of tests, fuzzers or benchmarks.
fn is_for_tests(predicate: &str) -> bool {
    let product = PRODUCT_FEATURES
        .iter()
        .any(|name| predicate.contains(&format!("\"{name}\"")));
    let asked = predicate.contains("test") || predicate.contains("feature=") && !product;
    asked && !predicate.starts_with("not(")
}

/// Returns the predicate of `[cfg(…)]`, without spaces.
fn condition(attribute: &TokenStream) -> Option<String> {
    let mut tokens = attribute.clone().into_iter();
    match (tokens.next(), tokens.next()) {
        (Some(TokenTree::Ident(name)), Some(TokenTree::Group(group))) if name == "cfg" => {
            Some(group.stream().to_string().replace(char::is_whitespace, ""))
        }
        _ => None,
    }
}

/// Reads the attributes at this place. Returns the predicates of `cfg` among them.
fn take_attributes(tokens: &mut Tokens) -> Vec<String> {
    let mut conditions = Vec::new();
    while is_punct(tokens.peek(), '#') {
        tokens.next();
        if is_punct(tokens.peek(), '!') {
            tokens.next();
        }
        if let Some(TokenTree::Group(group)) = tokens.next() {
            conditions.extend(condition(&group.stream()));
        }
    }
    conditions
}

fn is_punct(token: Option<&TokenTree>, sign: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == sign)
}

fn ident(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(ident)) => {
            Some(ident.to_string().trim_start_matches("r#").to_owned())
        }
        _ => None,
    }
}

/// Reads `pub` or `pub(…)`. Returns whether it was there.
fn take_visibility(tokens: &mut Tokens) -> bool {
    if ident(tokens.peek()).as_deref() != Some("pub") {
        return false;
    }
    tokens.next();
    if matches!(tokens.peek(), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis)
    {
        tokens.next();
    }
    true
}

/// Skips one item, or one field, argument or statement within other code.
fn skip_item(tokens: &mut Tokens, in_code: bool) {
    take_visibility(tokens);
    let word = ident(tokens.peek()).unwrap_or_default();
    let mut until_semicolon = UNTIL_SEMICOLON.contains(&word.as_str());
    for token in tokens.by_ref() {
        match &token {
            TokenTree::Ident(name) if name == "fn" => until_semicolon = false,
            TokenTree::Punct(punct) if punct.as_char() == ';' => return,
            TokenTree::Punct(punct) if punct.as_char() == ',' && in_code => return,
            TokenTree::Group(group)
                if group.delimiter() == Delimiter::Brace && !until_semicolon =>
            {
                return;
            }
            _ => {}
        }
    }
}

fn read_items(stream: TokenStream, module: &mut Module) {
    let mut tokens = stream.into_iter().peekable();
    while tokens.peek().is_some() {
        let conditions = take_attributes(&mut tokens);
        if tokens.peek().is_none() {
            return;
        }
        if conditions.iter().any(|one| is_for_tests(one)) {
            note_conditions(&mut tokens, &conditions, module);
            skip_item(&mut tokens, false);
            continue;
        }
        let exported = take_visibility(&mut tokens);
        match ident(tokens.peek()).as_deref() {
            Some("use") => read_use(&mut tokens, exported, module),
            Some("mod") => {
                tokens.next();
                let name = ident(tokens.next().as_ref()).unwrap_or_default();
                for condition in conditions {
                    module.conditions.push((name.clone(), condition));
                }
                match tokens.next() {
                    Some(TokenTree::Group(group)) => {
                        let mut child = Module::default();
                        read_items(group.stream(), &mut child);
                        module.has_code |= child.has_code;
                        module.inline_children.push((name, child));
                    }
                    _ => module.file_children.push(name),
                }
            }
            _ => {
                module.has_code = true;
                read_item(&mut tokens, module);
            }
        }
    }
}

/// Records which child module an item for tests is.
fn note_conditions(tokens: &mut Tokens, conditions: &[String], module: &mut Module) {
    let mut ahead = tokens.clone();
    take_visibility(&mut ahead);
    if ident(ahead.next().as_ref()).as_deref() == Some("mod") {
        let name = ident(ahead.next().as_ref()).unwrap_or_default();
        for condition in conditions {
            module.conditions.push((name.clone(), condition.clone()));
        }
    }
}

/// Reads one item to its end and records its definitions.
fn read_item(tokens: &mut Tokens, module: &mut Module) {
    let mut item = Vec::new();
    let word = ident(tokens.peek()).unwrap_or_default();
    let mut until_semicolon = UNTIL_SEMICOLON.contains(&word.as_str());
    for token in tokens.by_ref() {
        let ends = match &token {
            TokenTree::Ident(name) if name == "fn" => {
                until_semicolon = false;
                false
            }
            TokenTree::Punct(punct) => punct.as_char() == ';',
            TokenTree::Group(group) => group.delimiter() == Delimiter::Brace && !until_semicolon,
            _ => false,
        };
        item.push(token);
        if ends {
            break;
        }
    }
    let mut words = item
        .iter()
        .map_while(|token| match token {
            TokenTree::Ident(name) => Some(name.to_string()),
            TokenTree::Punct(_) => Some(String::new()),
            TokenTree::Literal(_) => Some(String::new()),
            TokenTree::Group(_) => None,
        })
        .filter(|word| !word.is_empty());
    if word == "macro_rules" {
        module.definitions.extend(words.nth(1));
    } else {
        let mut defines = false;
        for word in words {
            if ITEM_WORDS.contains(&word.as_str()) {
                defines = true;
            } else if word == "impl" {
                break;
            } else if defines && word != "mut" {
                module.definitions.insert(word);
                break;
            }
        }
    }
    read_code(item.into_iter().collect(), module);
}

/// Reads the paths in code.
fn read_code(stream: TokenStream, module: &mut Module) {
    let mut tokens = stream.into_iter().peekable();
    let mut after_colons = false;
    while tokens.peek().is_some() {
        if is_punct(tokens.peek(), '#') {
            let mut ahead = tokens.clone();
            ahead.next();
            if matches!(ahead.next(), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket)
            {
                let conditions = take_attributes(&mut tokens);
                if conditions.iter().any(|one| is_for_tests(one)) {
                    skip_item(&mut tokens, true);
                }
                continue;
            }
        }
        if ident(tokens.peek()).as_deref() == Some("use") {
            let mut ahead = tokens.clone();
            ahead.next();
            if !is_punct(ahead.peek(), '<') {
                read_use(&mut tokens, false, module);
                continue;
            }
        }
        match tokens.next() {
            Some(TokenTree::Group(group)) => {
                read_code(group.stream(), module);
                after_colons = false;
            }
            Some(TokenTree::Ident(first)) => {
                let line = first.span().start().line;
                let mut segments = vec![first.to_string()];
                while take_colons(&mut tokens) {
                    match ident(tokens.peek()) {
                        Some(name) => {
                            segments.push(name);
                            tokens.next();
                        }
                        None => break,
                    }
                }
                module.names.insert(segments[0].clone());
                if segments.len() > 1 && !after_colons {
                    module.paths.push(WrittenPath { segments, line });
                }
                after_colons = false;
            }
            Some(TokenTree::Punct(punct)) => after_colons = ends_colons(&punct, &mut tokens),
            _ => after_colons = false,
        }
    }
}

/// Reads a `::` that begins with this sign. Returns whether it was there.
fn ends_colons(first: &Punct, tokens: &mut Tokens) -> bool {
    let both =
        first.as_char() == ':' && first.spacing() == Spacing::Joint && is_punct(tokens.peek(), ':');
    if both {
        tokens.next();
    }
    both
}

/// Reads a `::`.
fn take_colons(tokens: &mut Tokens) -> bool {
    let mut ahead = tokens.clone();
    let both = match ahead.next() {
        Some(TokenTree::Punct(punct)) => ends_colons(&punct, &mut ahead),
        _ => false,
    };
    if both {
        *tokens = ahead;
    }
    both
}

/// Reads `use …;`.
fn read_use(tokens: &mut Tokens, exported: bool, module: &mut Module) {
    tokens.next();
    let tree: TokenStream = tokens
        .by_ref()
        .take_while(|token| !is_punct(Some(token), ';'))
        .collect();
    read_use_tree(tree, &[], exported, module);
}

fn read_use_tree(tree: TokenStream, prefix: &[String], exported: bool, module: &mut Module) {
    let mut tokens = tree.into_iter().peekable();
    while tokens.peek().is_some() {
        let mut segments = prefix.to_vec();
        let mut line = 0;
        let mut name = None;
        // Names of other crates can be written with a leading `::`.
        let absolute = take_colons(&mut tokens);
        loop {
            match tokens.next() {
                Some(TokenTree::Ident(word)) => {
                    line = word.span().start().line;
                    let word = word.to_string().trim_start_matches("r#").to_owned();
                    // `use a::{self}` is `use a`.
                    if word != "self" || segments.is_empty() {
                        segments.push(word);
                    }
                    name = segments.last().cloned();
                    if !take_colons(&mut tokens) {
                        break;
                    }
                }
                Some(TokenTree::Group(group)) => {
                    read_use_tree(group.stream(), &segments, exported, module);
                    name = None;
                    segments.clear();
                    break;
                }
                Some(TokenTree::Punct(punct)) if punct.as_char() == '*' => {
                    line = punct.span().start().line;
                    module.imports.push(Import {
                        name: None,
                        path: WrittenPath {
                            segments: std::mem::take(&mut segments),
                            line,
                        },
                        exported,
                    });
                    name = None;
                    break;
                }
                _ => break,
            }
        }
        if ident(tokens.peek()).as_deref() == Some("as") {
            tokens.next();
            name = ident(tokens.next().as_ref());
        }
        if let Some(name) = name
            && !absolute
        {
            let path = WrittenPath { segments, line };
            module.imports.push(Import {
                name: Some(name),
                path,
                exported,
            });
        }
        // Skips to the next item within the braces.
        for token in tokens.by_ref() {
            if is_punct(Some(&token), ',') {
                break;
            }
        }
    }
}
