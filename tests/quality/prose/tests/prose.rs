//! Checks of the texts of this repository, and tests of the two checks.

use std::path::{Path, PathBuf};

use triarch_prose::{
    TextFile, avoided_phrases, broken_links, markdown_pages, repository_root, texts_with_prose,
};

fn file(path: &str, text: &str) -> TextFile {
    TextFile {
        path: PathBuf::from(path),
        text: text.to_owned(),
    }
}

#[test]
fn every_relative_link_of_a_page_leads_to_a_file_and_a_heading() {
    let root = repository_root();
    let pages = markdown_pages(&root);
    assert!(pages.len() > 20, "only {} pages were found", pages.len());
    let broken = broken_links(&pages, |path| root.join(path).exists());
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

#[test]
fn no_text_contains_an_avoided_phrase() {
    let texts = texts_with_prose(&repository_root());
    assert!(texts.len() > 300, "only {} files were found", texts.len());
    let found: Vec<String> = texts.iter().flat_map(avoided_phrases).collect();
    assert!(found.is_empty(), "avoided phrases:\n{}", found.join("\n"));
}

#[test]
fn a_link_to_a_missing_file_heading_or_parent_is_reported() {
    let pages = [
        file(
            "docs/a.md",
            "# One\n[ok](b.md#the-second-heading-1) [no](c.md) `[code](x.md)`\n\
             [no](b.md#nothing) [ok](#one) [no](#two) [no](../../x.md) [ok](https://example.org/x.md)\n\
             ```\n[fenced](x.md)\n```\n[label]: missing.md\n",
        ),
        file(
            "docs/b.md",
            "## The *second* `heading`!\n\n### The second [heading](a.md)\n",
        ),
    ];
    let known = ["docs/a.md", "docs/b.md"];
    let broken = broken_links(&pages, |path| {
        known.iter().any(|known| path == Path::new(known))
    });
    assert_eq!(
        broken,
        [
            "docs/a.md:2: c.md: no such file",
            "docs/a.md:3: b.md#nothing: no such heading in docs/b.md",
            "docs/a.md:3: #two: no such heading in docs/a.md",
            "docs/a.md:3: ../../x.md: leads out of the repository",
            "docs/a.md:7: missing.md: no such file",
        ]
    );
}

#[test]
fn a_phrase_is_found_in_comments_strings_and_pages_and_across_lines() {
    let found = |path: &str, text: &str| avoided_phrases(&file(path, text)).len();
    assert_eq!(found("a.rs", "    /// Set by\n    /// hand.\n"), 1);
    assert_eq!(found("a.rs", "let text = \"Done by \\\n    hand.\";\n"), 1);
    assert_eq!(found("a.py", "# Meanwhile, the leader\n"), 1);
    assert_eq!(found("a.md", "The tool stands beside it.\n"), 1);
    assert_eq!(found("a.md", "It failed often of late.\n"), 1);
    assert_eq!(found("a.rs", "/// Number of late tasks.\n"), 0);
    assert_eq!(found("a.rs", "fn called_by_hand(hand: u8) {}\n"), 0);
    assert_eq!(
        found("a.md", "Sorted by name. Hand it over, so, many do.\n"),
        0
    );
}
