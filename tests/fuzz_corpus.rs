//! The fuzz targets over their committed corpus: inputs to start from, and every input that ever found a defect.
//!
//! The seeds are made by the targets themselves. After a change of a format they are written anew by
//!
//!     MEMENTO_WRITE_SEEDS=1 cargo test --test fuzz_corpus
//!
//! and what the targets found is in files whose names begin with `found-`, which stay.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use memento_kv::parts::fuzz::{TARGETS, Target};

fn corpus(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name)
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("a folder for each target");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name")).collect()
}

#[test]
fn every_target_takes_its_whole_corpus() {
    for target in TARGETS {
        let folder = corpus(&target);
        for name in names(&folder) {
            let input = fs::read(folder.join(&name)).expect("a file");
            if std::panic::catch_unwind(|| (target.run)(&input)).is_err() {
                panic!("target {} panics with {name}", target.name);
            }
        }
    }
}

#[test]
fn the_committed_seeds_are_those_that_the_targets_make() {
    for target in TARGETS {
        let folder = corpus(&target);
        let made: Vec<(String, Vec<u8>)> =
            (target.seeds)().into_iter().map(|(name, bytes)| (format!("seed-{name}"), bytes)).collect();
        if std::env::var_os("MEMENTO_WRITE_SEEDS").is_some() {
            write(&folder, &made);
        }
        let committed: BTreeSet<_> =
            names(&folder).into_iter().filter(|name| !name.starts_with("found-")).collect();
        assert_eq!(committed, made.iter().map(|(name, _)| name.clone()).collect(), "target {}", target.name);
        for (name, bytes) in &made {
            let same = fs::read(folder.join(name)).expect("a file") == *bytes;
            assert!(same, "target {}: {name} is not what is made now", target.name);
        }
    }
}

fn write(folder: &Path, seeds: &[(String, Vec<u8>)]) {
    fs::create_dir_all(folder).expect("a folder");
    for name in names(folder).iter().filter(|name| name.starts_with("seed-")) {
        fs::remove_file(folder.join(name)).expect("an old seed");
    }
    for (name, bytes) in seeds {
        fs::write(folder.join(name), bytes).expect("a seed");
    }
}

#[test]
fn every_target_is_built_for_the_fuzzer() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("the fuzz package");
    let wanted: BTreeSet<String> = TARGETS.iter().map(|target| format!("{}.rs", target.name)).collect();
    assert_eq!(names(&fuzz.join("fuzz_targets")), wanted);
    for target in TARGETS {
        let source = fuzz.join("fuzz_targets").join(format!("{}.rs", target.name));
        let call = format!("fuzz::{}::run(input)", target.name);
        assert!(fs::read_to_string(source).expect("a target").contains(&call), "{call}");
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{}.rs\"", target.name)), "{}", target.name);
    }
    assert_eq!(names(&fuzz.join("corpus")), TARGETS.iter().map(|target| target.name.to_owned()).collect());
}
