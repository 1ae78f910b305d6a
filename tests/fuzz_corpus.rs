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

/// Random changes of the corpus, for so many seconds: `FUZZ_TARGET=spool FUZZ_SECONDS=60 cargo test --test fuzz_corpus
/// mutations -- --ignored --nocapture`. What paniced stands in `fuzz/artifacts/TARGET`.
#[test]
#[ignore = "takes as long as it is told to"]
#[allow(clippy::print_stderr, reason = "how many there were must be seen")]
fn mutations_of_the_corpus_find_nothing() {
    let wanted = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let target = TARGETS.into_iter().find(|target| target.name == wanted).expect("there is such a target");
    let folder = corpus(&target);
    let corpus: Vec<_> =
        names(&folder).iter().map(|name| fs::read(folder.join(name)).expect("a file")).collect();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    let mut state = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1_u64);
    let mut below = |end: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("31 bits") % end.max(1)
    };
    let mut runs = 0_u64;
    while std::time::Instant::now() < end {
        let mut input = corpus[below(corpus.len())].clone();
        for _ in 0..=below(8) {
            let (at, other) = (below(input.len() + 1), &corpus[below(corpus.len())]);
            match below(6) {
                0 => input.truncate(at),
                1 => input.insert(at, below(256) as u8),
                2 if at < input.len() => input[at] ^= 1 << below(8),
                3 if at < input.len() => drop(input.remove(at)),
                4 => drop(input.splice(at..at, other[..below(other.len() + 1)].iter().copied())),
                _ => {
                    let until = at + below(input.len() - at + 1);
                    let part = input[at..until].to_vec();
                    drop(input.splice(at..at, part));
                }
            }
        }
        input.truncate(1 << 16);
        runs += 1;
        if std::panic::catch_unwind(|| (target.run)(&input)).is_err() {
            let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/artifacts").join(target.name);
            fs::create_dir_all(&found).expect("a folder");
            fs::write(found.join(format!("mutation-{runs}")), &input).expect("a find");
            panic!("input {runs} of target {}", target.name);
        }
    }
    eprintln!("{}: {runs} inputs", target.name);
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
