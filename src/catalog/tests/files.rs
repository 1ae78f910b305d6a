//! The file of the view: creation, reopening, and what else may be in its place.

use std::fs;

use super::*;

fn unusable(path: &Path) -> String {
    match Catalog::open(path, STORE, CACHE).expect("the operating system lets it be opened") {
        Opened::Unusable(reason) => reason,
        other => panic!("it can be used: {other:?}"),
    }
}

#[test]
fn a_view_that_is_not_there_is_missing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened = Catalog::open(&folder.path().join("view.redb"), STORE, CACHE).expect("an answer");
    assert!(matches!(opened, Opened::Missing), "{opened:?}");
}
