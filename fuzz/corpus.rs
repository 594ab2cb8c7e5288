//! Runs the committed corpus through the fuzz targets without a fuzzer. The unit tests of each crate with targets
//! include this file.

use std::path::Path;

/// Runs every input in the corpus of a target through it.
pub fn passes(target: &str, run: fn(&[u8])) {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = crate_folder
        .ancestors()
        .map(|folder| folder.join("fuzz/corpus").join(target))
        .find(|folder| folder.is_dir())
        .unwrap_or_else(|| panic!("{target} has no corpus"));
    let mut inputs = 0;
    for file in std::fs::read_dir(folder).expect("the corpus").flatten() {
        // Shown if the target panics.
        println!("{}", file.path().display());
        run(&std::fs::read(file.path()).expect("an input"));
        inputs += 1;
    }
    assert!(inputs > 0, "the corpus of {target} is empty");
}
