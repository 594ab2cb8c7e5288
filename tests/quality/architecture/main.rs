//! Rules of the architecture, checked on the manifests and the sources: permitted imports between crates and folders,
//! no cycles, small folders and files, standard terms in names, and no test doubles in the product.
//!
//! `TRIARCH_ARCHITECTURE_ROOT` names another checkout to check.

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
