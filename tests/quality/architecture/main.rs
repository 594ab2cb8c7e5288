//! The rules of the architecture, read off the manifests and the sources: which crate and which folder may import which,
//! no circles, small folders and files, the field's words in names, and no test doubles in the product.
//!
//! `TRIARCH_ARCHITECTURE_ROOT` names another checkout to judge.

mod checkout;
mod circles;
mod dependencies;
mod import_tests;
mod imports;
mod layers;
mod purity;
mod sizes;
mod source;
mod test_doubles;
mod vocabulary;
