//! The pages of this repository, and the check of links itself.

use std::path::{Path, PathBuf};

use triarch_prose::{TextFile, broken_links, markdown_pages, repository_root};

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
