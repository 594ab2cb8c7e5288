//! Test doubles and conformance suites are not compiled into the product.

use crate::checkout::{CRATES, assert_none, root, shown};
use crate::dependencies::MAY_USE;
use crate::imports::Crate;
use crate::source;

#[test]
fn test_doubles_are_not_in_the_product() {
    let mut findings = Vec::new();
    for (folder, name) in CRATES {
        let read = Crate::read(&root().join(folder), name);
        for file in read.files() {
            let doubles = file
                .split('/')
                .any(|part| ["testing", "testing.rs", "tests", "tests.rs"].contains(&part));
            if doubles {
                findings.push(format!("{folder}/{file} is compiled into the product"));
            }
        }
        // A feature that adds code for tests must not be enabled by a dependency of the product.
        for (file, child, predicate) in read.conditions() {
            for feature in predicate.split("feature=\"").skip(1) {
                let feature = feature.split('"').next().unwrap_or_default();
                let package = name.replace('_', "-");
                for (manifest, _) in MAY_USE {
                    let path = root().join(manifest).join("Cargo.toml");
                    let text = std::fs::read_to_string(&path).expect("a manifest");
                    if product_enables(&text, &package, feature)
                        && !source::PRODUCT_FEATURES.contains(&feature)
                    {
                        findings.push(format!(
                            "{} enables `{feature}` of {package}, which adds {child} of {folder}/{file}",
                            shown(&path)
                        ));
                    }
                }
            }
        }
    }
    assert_none("test doubles in the product", &findings);
}

/// Returns whether the dependencies in a manifest, without those for tests, enable a feature of a package.
fn product_enables(manifest: &str, package: &str, feature: &str) -> bool {
    let mut inside = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]" || line == "[workspace.dependencies]";
        } else if inside && line.starts_with(package) && line.contains(&format!("\"{feature}\"")) {
            return true;
        }
    }
    false
}
