//! Tests of the import reader, on sources in this file.

use crate::circles::{between_neighbours, circles};
use crate::imports::Crate;

/// Creates a crate from sources in this file.
fn crate_of(files: &'static [(&'static str, &'static str)]) -> Crate {
    Crate::from_sources("product", &|path| {
        let found = files.iter().find(|(name, _)| *name == path);
        found.map(|(_, text)| (*text).to_owned())
    })
}

fn arrows_of(files: &'static [(&'static str, &'static str)]) -> Vec<String> {
    let arrows = crate_of(files).arrows();
    arrows
        .into_iter()
        .map(|arrow| format!("{} > {}", arrow.from, arrow.to))
        .collect()
}

#[test]
fn a_circle_of_two_files_is_found_and_shown_with_its_lines() {
    let read = crate_of(&[
        ("lib.rs", "mod a;\nmod b;\n"),
        ("a.rs", "use crate::b::Two;\npub struct One(Two);\n"),
        (
            "b.rs",
            "pub struct Two;\nimpl Two { fn one() { super::a::One::new() } }\n",
        ),
    ]);
    let found = circles(&read.arrows());
    assert_eq!(found.len(), 1);
    let ways: Vec<&str> = found[0].iter().map(|arrow| arrow.shown.as_str()).collect();
    assert_eq!(ways, ["a.rs:1 imports b.rs", "b.rs:2 imports a.rs"]);
}

#[test]
fn a_circle_of_folders_is_found_though_its_files_form_none() {
    let read = crate_of(&[
        ("lib.rs", "mod left; mod right;"),
        ("left/mod.rs", "mod high; pub mod low;"),
        ("left/high.rs", "use crate::right::middle::M; struct H(M);"),
        ("left/low.rs", "pub struct L;"),
        ("right/mod.rs", "pub mod middle;"),
        (
            "right/middle.rs",
            "use crate::left::low::L; pub struct M(L);",
        ),
    ]);
    assert!(circles(&read.arrows()).is_empty());
    let between = between_neighbours(&read.arrows());
    assert_eq!(circles(&between[""]).len(), 1);
}

#[test]
fn a_circle_of_many_files_is_found_once() {
    let read = crate_of(&[
        ("lib.rs", "mod a; mod b; mod c; mod d;"),
        ("a.rs", "use crate::b; fn x() { b::y() }"),
        ("b.rs", "use crate::c::*; pub fn y() {}"),
        ("c.rs", "pub fn z() { crate::a::x(); crate::d::w() }"),
        ("d.rs", "pub fn w() {}"),
    ]);
    let found = circles(&read.arrows());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].len(), 3);
}

#[test]
fn a_re_export_stands_for_the_file_that_defines_the_item() {
    let files = &[
        ("lib.rs", "mod face; mod user; pub use face::Thing;"),
        (
            "face/mod.rs",
            "mod thing; mod other; pub use thing::Thing; pub use other::*;",
        ),
        (
            "face/thing.rs",
            "use super::Other; pub struct Thing(Other);",
        ),
        ("face/other.rs", "pub struct Other;"),
        (
            "user.rs",
            "use crate::Thing; fn f(_: Thing, _: crate::face::Other) {}",
        ),
    ];
    assert_eq!(
        arrows_of(files),
        [
            "face/thing.rs > face/other.rs",
            "user.rs > face/thing.rs",
            "user.rs > face/other.rs"
        ]
    );
}

#[test]
fn code_that_only_tests_compile_draws_no_arrow() {
    let files = &[
        ("lib.rs", "mod a; mod b; #[cfg(test)] mod tests;"),
        (
            "a.rs",
            "pub struct A;
             #[cfg(test)] use crate::b::B;
             #[cfg(any(test, feature = \"fuzzing\"))] impl A { fn b() -> crate::b::B { crate::b::B } }
             impl A { #[cfg(test)] fn c() { crate::b::d(); } fn e() {} }
             #[cfg(test)] mod tests { use crate::b::B; }",
        ),
        ("b.rs", "use crate::a::A; pub struct B(A);"),
        ("tests.rs", "use crate::a::A; use crate::b::B;"),
    ];
    assert_eq!(arrows_of(files), ["b.rs > a.rs"]);
}

#[test]
fn comments_strings_and_other_crates_draw_no_arrow() {
    let files = &[
        ("lib.rs", "mod a; mod b;"),
        (
            "a.rs",
            "//! [`crate::b::B`]
             use std::fmt::{self, Debug}; use ::b::B;
             /// crate::b::B
             pub fn f(x: &impl Debug) -> fmt::Result { /* crate::b::B */ let _ = \"crate::b::B\"; Ok(()) }",
        ),
        ("b.rs", "pub struct B;"),
    ];
    assert!(arrows_of(files).is_empty());
}

#[test]
fn paths_in_macros_and_nested_use_trees_draw_arrows() {
    let files = &[
        ("lib.rs", "mod a; mod b; mod c;"),
        (
            "a.rs",
            "use crate::{b::{self, B}, c as other}; fn f(_: B) { println!(\"{}\", b::g(other::h())) }",
        ),
        ("b.rs", "pub struct B; pub fn g() { vec![crate::c::h()]; }"),
        ("c.rs", "pub fn h() {}"),
    ];
    assert_eq!(
        arrows_of(files),
        ["a.rs > b.rs", "a.rs > c.rs", "b.rs > c.rs"]
    );
}
