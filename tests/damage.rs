//! Damage to every file of a store: never a wrong answer, never a missing one without a word, never a write through a
//! link, never a wait for a pipe, never a fresh store in place of the old one.

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{Rng, assert_whole, everything, overwrite, segments, set_mode};
use memento_kv::check::{CheckReport, CheckStatus, check_files};
use memento_kv::embed::Embedder;
use memento_kv::{
    ErrorKind, Filter, Healed, List, Memory, MemoryId, Mode, Options, Recall, Remember, Store, Update,
};

const HANGS: Duration = Duration::from_secs(60);

/// A store on disk, and what it holds.
struct Sample {
    home: tempfile::TempDir,
    memories: BTreeMap<String, Memory>,
}

impl Sample {
    /// A few memories in one segment, with everything that records can say; closed.
    fn closed() -> Self {
        let home = common::quick_folder();
        let store = common::open(home.path());
        fill(&store, 0);
        let memories = everything(&store).expect("list");
        store.close().expect("close");
        assert_eq!(segments(home.path()).len(), 1);
        Self { home, memories }
    }

    /// The same, killed when the view had taken everything but nothing of it was put on stable storage.
    fn killed() -> Self {
        let home = common::quick_folder();
        let open_home = common::quick_folder();
        let store = common::open(open_home.path());
        fill(&store, 0);
        let memories = everything(&store).expect("list");
        common::copy_folder(open_home.path(), home.path());
        Self { home, memories }
    }

    /// Three segments: the kills in between each ended one.
    fn rolled() -> Self {
        let home = common::quick_folder();
        let mut memories = BTreeMap::new();
        for round in 0..3 {
            let open_home = common::quick_folder();
            common::copy_folder(home.path(), open_home.path());
            let store = common::open(open_home.path());
            fill(&store, round);
            memories = everything(&store).expect("list");
            if round == 2 {
                store.close().expect("close");
                common::copy_folder(open_home.path(), home.path());
            } else {
                common::copy_folder(open_home.path(), home.path());
            }
        }
        assert_eq!(segments(home.path()).len(), 3);
        Self { home, memories }
    }

    fn store_file(&self, name: &str) -> PathBuf {
        self.home.path().join("store").join(name)
    }

    /// A copy to be damaged.
    fn copy(&self) -> Self {
        let home = common::quick_folder();
        common::copy_folder(self.home.path(), home.path());
        Self { home, memories: self.memories.clone() }
    }

    /// Uses the store in every way and says what came of it. Panics when an answer is wrong.
    fn ask(&self, context: &str) -> Outcome {
        let store = match Store::open(common::options(self.home.path())) {
            Ok(store) => store,
            Err(error) => return Outcome::Refused(error.kind()),
        };
        let healed = store.healed();
        let answers = Answers { store: &store, memories: &self.memories, context };
        // What is lost is named; everything else must be as it was.
        let is_lost = healed.iter().any(|healed| !healed.lost.is_empty());
        let mut failed = if is_lost { answers.of_what_is_left() } else { answers.all() };
        let report = match store.check(&mut |_| {}) {
            Ok(report) => report,
            Err(error) => {
                failed.push(error.kind());
                CheckReport::default()
            }
        };
        Outcome::Served { failed, report, healed }
    }
}

/// Memories of every kind, with updates and forgotten ones in between.
fn fill(store: &Store, round: usize) {
    let id = |name: &str| MemoryId::new(format!("{name}-{round}")).expect("an id");
    for (index, text) in ["apples are red", "bananas are yellow", "cherries are dark"].iter().enumerate() {
        let remember = Remember::new(format!("{text} in round {round}"))
            .id(id(&format!("fruit{index}")))
            .tags(["fruit", "food"])
            .importance(0.5 + index as f64 / 10.0)
            .at(1000 + index as i64);
        store.remember(remember).expect("remember");
    }
    let group = ["iron is heavy", "feathers are light"];
    let group = group
        .map(|text| Remember::new(format!("{text} in round {round}")).tags(["thing"]).collection("things"));
    store.remember_many(group.to_vec()).expect("remember many");
    store
        .update(id("fruit0"), Update::new().text(format!("apples are green in round {round}")))
        .expect("update");
    store.update(id("fruit1"), Update::new().add_tags(["yellow"])).expect("update");
    store.forget([id("fruit2")]).expect("forget");
    store.embed_pending(&mut |_| {}).expect("embed");
}

/// How versions of memories begin that were superseded or forgotten later: a lost record may bring them back.
const FORMER: [&str; 3] = ["apples are red", "bananas are yellow", "cherries are dark"];

#[derive(Debug)]
enum Outcome {
    /// The store did not open.
    Refused(ErrorKind),
    /// It opened; every answer was right, but for those that failed with an error.
    Served { failed: Vec<ErrorKind>, report: CheckReport, healed: Vec<Healed> },
}

impl Outcome {
    /// Whether somebody was told.
    fn is_noticed(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::Served { failed, report, healed } => {
                !failed.is_empty() || report.status == CheckStatus::Damaged || !healed.is_empty()
            }
        }
    }

    /// Whether all is well.
    fn is_whole(&self) -> bool {
        matches!(self, Self::Served { failed, report, .. } if failed.is_empty() && report.findings.is_empty())
    }

    /// Whether it was healed, so that all is well.
    fn is_healed(&self) -> bool {
        self.is_whole() && matches!(self, Self::Served { healed, .. } if !healed.is_empty())
    }
}

/// Questions to a store whose right answers are known.
struct Answers<'a> {
    store: &'a Store,
    memories: &'a BTreeMap<String, Memory>,
    context: &'a str,
}

impl Answers<'_> {
    /// The kinds of the errors, after every answer that came was right.
    fn all(&self) -> Vec<ErrorKind> {
        let mut failed = Vec::new();
        let mut note = |result: memento_kv::Result<()>| failed.extend(result.err().map(|error| error.kind()));
        note(self.list());
        note(self.gets());
        note(self.filters());
        note(self.recalls());
        failed
    }

    /// As [`Answers::all`], for a store that has lost records: it has no memory that never was.
    fn of_what_is_left(&self) -> Vec<ErrorKind> {
        let left = match everything(self.store) {
            Ok(left) => left,
            Err(error) => return vec![error.kind()],
        };
        for (id, memory) in &left {
            let known = self.memories.get(id).is_some_and(|known| known == memory)
                || FORMER.iter().any(|text| memory.text.starts_with(text));
            assert!(known, "{}: {id} never was so", self.context);
        }
        Vec::new()
    }

    fn list(&self) -> memento_kv::Result<()> {
        assert_eq!(&everything(self.store)?, self.memories, "{}: list", self.context);
        Ok(())
    }

    fn gets(&self) -> memento_kv::Result<()> {
        for (id, memory) in self.memories {
            assert_eq!(self.store.get(id)?.as_ref(), Some(memory), "{}: get {id}", self.context);
        }
        assert_eq!(self.store.get("fruit2-0")?, None, "{}: it is forgotten", self.context);
        Ok(())
    }

    fn filters(&self) -> memento_kv::Result<()> {
        let tags = |tag: &str| Filter { tags_any: vec![tag.to_owned()], ..Filter::default() };
        let filters = [
            tags("fruit"),
            tags("yellow"),
            tags("thing"),
            Filter { collection: Some("things".to_owned()), ..Filter::default() },
            Filter { since: Some(1001), before: Some(1002), ..Filter::default() },
            Filter { min_importance: Some(0.55), ..Filter::default() },
        ];
        for filter in filters {
            let mut found: Vec<_> = self.store.list(&List::new().filter(filter.clone()).limit(1000))?;
            found.sort_by(|a, b| a.id.cmp(&b.id));
            let expected: Vec<_> =
                self.memories.values().filter(|memory| filter.matches(memory)).cloned().collect();
            assert_eq!(found, expected, "{}: list {filter:?}", self.context);
        }
        Ok(())
    }

    fn recalls(&self) -> memento_kv::Result<()> {
        for memory in self.memories.values() {
            let recall = Recall::new(memory.text.as_str()).topk(100).timeout(None);
            for mode in [Mode::Text, Mode::Vector] {
                let answer = self.store.recall(recall.clone().mode(mode))?;
                for found in &answer.results {
                    let expected = self.memories.get(found.id.as_str());
                    assert_eq!(Some(&found.memory), expected, "{}: recall", self.context);
                }
                if answer.degraded.is_empty() {
                    let is_found = answer.results.iter().any(|found| found.id == memory.id);
                    assert!(is_found, "{}: recall misses {} by {mode:?}", self.context, memory.id);
                }
            }
        }
        Ok(())
    }
}

/// Checks the log without the store, which must never panic, and says whether anything was found.
fn files_are_whole(home: &Path) -> bool {
    check_files(home, &mut |_| {}).is_ok_and(|report| report.status == CheckStatus::Ok)
}

fn flipped(bytes: &[u8], offset: usize, bit: u32) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[offset] ^= 1 << bit;
    bytes
}

/// Each damaged form of a segment: with the view and the manifest, without one of them, without both.
fn ask_with_and_without(sample: &Sample, segment: &Path, bytes: &[u8], context: &str) {
    let name = segment.file_name().expect("a name");
    for without in [&[][..], &["MANIFEST"], &["view.redb"], &["MANIFEST", "view.redb"]] {
        let copy = sample.copy();
        for name in without {
            std::fs::remove_file(copy.store_file(name)).expect("remove");
        }
        overwrite(&copy.home.path().join("store/seg").join(name), bytes);
        let context = format!("{context}, without {without:?}");
        let outcome = copy.ask(&context);
        assert!(outcome.is_noticed(), "{context}: nobody was told");
    }
}

#[test]
fn the_samples_themselves_are_whole() {
    for (name, sample) in
        [("closed", Sample::closed()), ("killed", Sample::killed()), ("rolled", Sample::rolled())]
    {
        assert!(files_are_whole(sample.home.path()), "{name}");
        let outcome = sample.ask(name);
        assert!(outcome.is_whole(), "{name}: {outcome:?}");
    }
}

#[test]
fn every_flipped_bit_of_a_segment_is_reported_by_a_check_of_the_files() {
    let sample = Sample::closed();
    let segment = segments(sample.home.path()).remove(0);
    let whole = std::fs::read(&segment).expect("read");
    for offset in 0..whole.len() {
        for bit in 0..8 {
            overwrite(&segment, &flipped(&whole, offset, bit));
            assert!(!files_are_whole(sample.home.path()), "offset {offset} bit {bit}");
        }
    }
}

#[test]
fn every_flipped_byte_of_a_segment_is_noticed_and_never_an_answer() {
    let sample = Sample::closed();
    let segment = segments(sample.home.path()).remove(0);
    let whole = std::fs::read(&segment).expect("read");
    let mut rng = Rng::new(common::seed("flipped bytes of a segment"));
    // All of the records, and of the header what holds fields and some of the rest.
    let offsets = (0..whole.len()).filter(|offset| match offset {
        0..128 | 2048..2176 => offset % 5 == 0,
        0..4096 => offset % 256 == 200,
        _ => true,
    });
    for offset in offsets {
        let bytes = flipped(&whole, offset, rng.below(8) as u32);
        let copy = sample.copy();
        let variant = rng.below(4);
        if variant & 1 == 1 {
            std::fs::remove_file(copy.store_file("MANIFEST")).expect("remove");
        }
        if variant & 2 == 2 {
            std::fs::remove_file(copy.store_file("view.redb")).expect("remove");
        }
        overwrite(&segments(copy.home.path())[0], &bytes);
        let context = format!("offset {offset}, variant {variant}");
        // Without view and manifest nothing proves that the last group was acknowledged: it may be dropped.
        if variant == 3 && offset >= last_group_offset(&whole) {
            let _ = Store::open(common::options(copy.home.path()));
            continue;
        }
        let outcome = copy.ask(&context);
        assert!(outcome.is_noticed(), "{context}: nobody was told");
    }
}

/// Where the last records begin that no later record proves durable: the last batch.
fn last_group_offset(segment: &[u8]) -> usize {
    let mut last = 0;
    let mut offset = 4096;
    let mut ends = true;
    while segment.len() > offset && segment[offset..offset + 4] == *b"MRC1" {
        if ends {
            last = offset;
        }
        ends = segment[offset + 34] & 1 == 1;
        let payload = u32::from_le_bytes(segment[offset + 4..offset + 8].try_into().expect("four bytes"));
        offset = (offset + 40 + payload as usize).next_multiple_of(8);
    }
    last
}

/// What the files in quarantine hold, without their notes.
fn quarantined(sample: &Sample) -> Vec<Vec<u8>> {
    let folder = sample.store_file("quarantine").read_dir().expect("there is a quarantine");
    let paths = folder.map(|entry| entry.expect("an entry").path());
    let (notes, files): (Vec<_>, Vec<_>) =
        paths.partition(|path| path.extension().is_some_and(|end| end == "json"));
    assert_eq!(notes.len(), files.len(), "each has a note");
    files.iter().map(|path| std::fs::read(path).expect("read")).collect()
}

#[test]
fn a_segment_cut_at_any_length_is_noticed() {
    let sample = Sample::closed();
    let segment = segments(sample.home.path()).remove(0);
    let whole = std::fs::read(&segment).expect("read");
    for len in 0..whole.len() {
        if !(len > 4000 || len % 512 == 0) {
            continue;
        }
        let copy = sample.copy();
        // With view or manifest, or both.
        match len % 3 {
            0 => std::fs::remove_file(copy.store_file("MANIFEST")).expect("remove"),
            1 => std::fs::remove_file(copy.store_file("view.redb")).expect("remove"),
            _ => {}
        }
        overwrite(&segments(copy.home.path())[0], &whole[..len]);
        let outcome = copy.ask(&format!("cut at {len}"));
        if len % 3 == 1 {
            assert!(matches!(outcome, Outcome::Refused(ErrorKind::Corrupt)), "cut at {len}: {outcome:?}");
            assert_eq!(
                std::fs::read(&segments(copy.home.path())[0]).expect("read"),
                &whole[..len],
                "left alone"
            );
        } else {
            assert!(outcome.is_healed(), "cut at {len}: {outcome:?}");
            assert_eq!(quarantined(&copy), [&whole[..len]], "cut at {len}: it is kept");
        }
    }
}

#[test]
fn a_segment_that_lost_a_block_is_noticed() {
    let sample = Sample::closed();
    let segment = segments(sample.home.path()).remove(0);
    let whole = std::fs::read(&segment).expect("read");
    for block in (0..whole.len()).step_by(512) {
        let mut bytes = whole.clone();
        let end = (block + 512).min(bytes.len());
        bytes[block..end].fill(0);
        if bytes == whole {
            continue;
        }
        // Without view and manifest, a lost end of the last batch looks like one that was never written.
        if end > last_group_offset(&whole) {
            let copy = sample.copy();
            overwrite(&segments(copy.home.path())[0], &bytes);
            assert!(copy.ask(&format!("block {block}")).is_noticed(), "block {block}");
        } else {
            ask_with_and_without(&sample, &segment, &bytes, &format!("block {block}"));
        }
    }
}

#[test]
fn a_damaged_segment_that_was_killed_is_noticed_up_to_what_was_proven_durable() {
    let sample = Sample::killed();
    let segment = segments(sample.home.path()).remove(0);
    let whole = std::fs::read(&segment).expect("read");
    for offset in (4096..last_group_offset(&whole)).step_by(3) {
        let copy = sample.copy();
        overwrite(&segments(copy.home.path())[0], &flipped(&whole, offset, 3));
        let outcome = copy.ask(&format!("offset {offset}"));
        let Outcome::Served { healed, .. } = &outcome else { panic!("offset {offset}: {outcome:?}") };
        // The view was behind: what was damaged is lost, and that is said.
        assert!(healed.iter().any(|healed| !healed.lost.is_empty()), "offset {offset}: {outcome:?}");
    }
}

/// Things that stand where a file should be.
const IMPOSTORS: [&str; 6] = ["missing", "empty", "folder", "link", "dangling link", "pipe"];

/// Puts something else in the place of a file; the link goes to a canary.
fn put_in_place(path: &Path, impostor: &str, canary: &Path) {
    if path.symlink_metadata().is_ok() {
        std::fs::remove_file(path).expect("remove");
    }
    match impostor {
        "missing" => {}
        "empty" => std::fs::write(path, b"").expect("write"),
        "folder" => std::fs::create_dir(path).expect("folder"),
        "link" => symlink(canary, path).expect("link"),
        "dangling link" => symlink(canary.with_extension("nothing"), path).expect("link"),
        "pipe" => {
            let status = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo");
            assert!(status.success());
        }
        other => panic!("{other}"),
    }
}

/// Replaces one file of the store in every way and looks at what comes of it.
fn replace_in_every_way(sample: &Sample, file: &str, look: impl Fn(&str, &Sample, Outcome)) {
    for impostor in IMPOSTORS {
        let outside = common::folder();
        let canary = outside.path().join("canary");
        std::fs::write(&canary, b"canary").expect("write");
        let copy = sample.copy();
        put_in_place(&copy.store_file(file), impostor, &canary);
        let context = format!("{file} is {impostor}");
        let outcome = common::within(HANGS, &context, || copy.ask(&context));
        assert_eq!(std::fs::read(&canary).expect("read"), b"canary", "{context}");
        assert_eq!(outside.path().read_dir().expect("list").count(), 1, "{context}: written through a link");
        look(&context, &copy, outcome);
    }
}

#[test]
fn a_segment_that_is_no_segment_is_noticed() {
    let sample = Sample::rolled();
    let names: Vec<String> = segments(sample.home.path())
        .iter()
        .map(|path| format!("seg/{}", path.file_name().expect("a name").to_str().expect("plain")))
        .collect();
    for name in names {
        replace_in_every_way(&sample, &name, |context, _, outcome| {
            assert!(outcome.is_healed(), "{context}: {outcome:?}");
        });
    }
}

#[test]
fn a_copy_of_a_segment_under_the_next_name_is_put_away_and_the_store_goes_on() {
    let sample = Sample::closed();
    let segment = segments(sample.home.path()).remove(0);
    std::fs::copy(&segment, sample.store_file("seg/0000000000000002-0000000000000063.mseg")).expect("copy");
    let outcome = common::within(HANGS, "an opening", || sample.ask("a copy"));
    assert!(outcome.is_healed(), "{outcome:?}");
    // The segment that stands in its place is empty, and records follow at the same sequence.
    let store = common::open(sample.home.path());
    store.remember(Remember::new("what came after")).expect("remember");
    let all = everything(&store).expect("list");
    let killed = common::quick_folder();
    common::copy_folder(sample.home.path(), killed.path());
    drop(store);
    for home in [sample.home.path(), killed.path()] {
        let store = common::within(HANGS, "another opening", || common::open(home));
        assert!(everything(&store).expect("list") == all && store.healed().is_empty(), "{home:?}");
        assert_whole(&store, "after the copy");
    }
}

#[test]
fn the_only_segment_gone_is_never_a_fresh_store() {
    for (sample, view_is_empty) in [(Sample::closed(), false), (Sample::killed(), true)] {
        let name =
            segments(sample.home.path())[0].file_name().expect("a name").to_str().expect("plain").to_owned();
        replace_in_every_way(&sample, &format!("seg/{name}"), |context, _, outcome| {
            if view_is_empty {
                assert!(matches!(outcome, Outcome::Refused(ErrorKind::Corrupt)), "{context}: {outcome:?}");
            } else {
                assert!(outcome.is_healed(), "{context}: {outcome:?}");
            }
        });
    }
    // The manifest or the view alone remember, too.
    for file in ["MANIFEST", "view.redb"] {
        let sample = Sample::closed();
        std::fs::remove_file(&segments(sample.home.path())[0]).expect("remove");
        std::fs::remove_file(sample.store_file(file)).expect("remove");
        let outcome = sample.ask(file);
        if file == "MANIFEST" {
            assert!(outcome.is_healed(), "without {file}: {outcome:?}");
        } else {
            assert!(matches!(outcome, Outcome::Refused(ErrorKind::Corrupt)), "without {file}: {outcome:?}");
        }
    }
}

#[test]
fn segments_that_change_places_are_noticed() {
    let sample = Sample::rolled();
    for (a, b) in [(0, 1), (1, 2), (0, 2)] {
        // Whole files.
        let copy = sample.copy();
        let paths = segments(copy.home.path());
        let (bytes_a, bytes_b) =
            (std::fs::read(&paths[a]).expect("read"), std::fs::read(&paths[b]).expect("read"));
        overwrite(&paths[a], &bytes_b);
        overwrite(&paths[b], &bytes_a);
        assert!(copy.ask("swapped").is_noticed(), "{a} and {b} swapped");
        // One in the place of the other, under the name of the other.
        let copy = sample.copy();
        overwrite(&segments(copy.home.path())[b], &bytes_a);
        assert!(copy.ask("in place").is_noticed(), "{a} in the place of {b}");
        // The records of one behind the header of the other.
        let copy = sample.copy();
        let mixed = [&bytes_b[..4096], &bytes_a[4096..]].concat();
        overwrite(&segments(copy.home.path())[b], &mixed);
        assert!(copy.ask("mixed").is_noticed(), "records of {a} in {b}");
    }
}

#[test]
fn a_copy_of_a_segment_beside_it_changes_nothing() {
    let sample = Sample::rolled();
    for (index, path) in segments(sample.home.path()).iter().enumerate() {
        for name in
            ["0000000000000009-0000000000000001.mseg", "copy.mseg", "0000000000000001-00000000000000ff.mseg"]
        {
            let copy = sample.copy();
            std::fs::copy(path, copy.home.path().join("store/seg").join(name)).expect("copy");
            match copy.ask(&format!("copy of {index} as {name}")) {
                Outcome::Refused(kind) => assert_eq!(kind, ErrorKind::Corrupt, "{name}"),
                Outcome::Served { failed, .. } => assert_eq!(failed, [], "{name}"),
            }
        }
    }
}

#[test]
fn a_segment_of_another_store_is_refused() {
    let (sample, other) = (Sample::rolled(), Sample::rolled());
    for (mine, foreign) in segments(sample.home.path()).iter().zip(segments(other.home.path())) {
        let copy = sample.copy();
        let path = copy.home.path().join("store/seg").join(foreign.file_name().expect("a name"));
        std::fs::remove_file(copy.home.path().join("store/seg").join(mine.file_name().expect("a name")))
            .expect("remove");
        std::fs::copy(&foreign, &path).expect("copy");
        let outcome = copy.ask("foreign");
        assert!(
            matches!(outcome, Outcome::Refused(ErrorKind::ForeignStore | ErrorKind::Corrupt)),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_manifest_that_is_damaged_missing_or_old_costs_nothing() {
    for sample in [Sample::closed(), Sample::killed(), Sample::rolled()] {
        let manifest = std::fs::read(sample.store_file("MANIFEST")).expect("read");
        for offset in 0..manifest.len() {
            let copy = sample.copy();
            overwrite(&copy.store_file("MANIFEST"), &flipped(&manifest, offset, 5));
            assert!(
                !files_are_whole(copy.home.path()),
                "MANIFEST offset {offset}: the check of the files says nothing"
            );
            if offset % 4 == 0 {
                let outcome = copy.ask(&format!("MANIFEST offset {offset}"));
                assert!(outcome.is_whole(), "MANIFEST offset {offset}: {outcome:?}");
            }
        }
        for len in (0..manifest.len()).step_by(5) {
            let copy = sample.copy();
            overwrite(&copy.store_file("MANIFEST"), &manifest[..len]);
            assert!(copy.ask("cut").is_whole(), "MANIFEST cut at {len}");
        }
        replace_in_every_way(&sample, "MANIFEST", |context, _, outcome| match outcome {
            Outcome::Refused(kind) => {
                assert!(context.ends_with("folder"), "{context}");
                assert!(matches!(kind, ErrorKind::Permission | ErrorKind::Io), "{context}: {kind:?}");
            }
            outcome => assert!(outcome.is_whole(), "{context}: {outcome:?}"),
        });
    }
    // From another time.
    let old = std::fs::read(Sample::closed().store_file("MANIFEST")).expect("read");
    let sample = Sample::rolled();
    overwrite(&sample.store_file("MANIFEST"), &old);
    assert!(sample.ask("a manifest of another store").is_whole());
}

#[test]
fn a_lock_that_is_no_file_is_an_error_and_a_missing_one_is_made() {
    replace_in_every_way(&Sample::closed(), "LOCK", |context, _, outcome| match outcome {
        Outcome::Refused(kind) => {
            assert_eq!(kind, ErrorKind::Permission, "{context}");
            assert!(!context.ends_with("missing") && !context.ends_with("empty"), "{context}");
        }
        outcome => assert!(outcome.is_whole(), "{context}: {outcome:?}"),
    });
}

#[test]
fn a_view_that_is_no_view_is_built_anew() {
    for sample in [Sample::closed(), Sample::killed(), Sample::rolled()] {
        replace_in_every_way(&sample, "view.redb", |context, _, outcome| {
            assert!(outcome.is_whole(), "{context}: {outcome:?}");
        });
    }
}

#[test]
fn a_view_from_another_time_is_brought_up_to_date() {
    let home = common::quick_folder();
    let mut views = Vec::new();
    for round in 0..3 {
        let store = common::open(home.path());
        fill(&store, round);
        store.close().expect("close");
        views.push(std::fs::read(home.path().join("store/view.redb")).expect("read"));
    }
    let memories = everything(&common::open(home.path())).expect("list");
    let sample = Sample { home, memories };
    for (round, view) in views.iter().enumerate() {
        let copy = sample.copy();
        overwrite(&copy.store_file("view.redb"), view);
        let outcome = copy.ask(&format!("view of round {round}"));
        assert!(outcome.is_whole(), "view of round {round}: {outcome:?}");
    }
}

#[test]
fn a_view_of_another_history_is_not_believed() {
    // Two histories with a common past; the view of one of them comes to the log of the other.
    let past = Sample::closed();
    let (one, other) = (past.copy(), past.copy());
    for (copy, text) in [(&one, "only here"), (&other, "only there")] {
        let store = common::open(copy.home.path());
        store.remember(Remember::new(text)).expect("remember");
        store.close().expect("close");
    }
    let view = std::fs::read(one.store_file("view.redb")).expect("read");
    overwrite(&other.store_file("view.redb"), &view);
    let memories = everything(&common::open(other.home.path())).expect("list");
    assert!(memories.values().any(|memory| memory.text == "only there"));
    assert!(memories.values().all(|memory| memory.text != "only here"));
    assert!(other.store_file("quarantine").exists(), "the view may hold what nobody else has");
}

#[test]
fn a_view_that_knows_more_than_the_log_gives_it_back() {
    let sample = Sample::rolled();
    let old = sample.copy();
    std::fs::remove_file(&segments(old.home.path())[2]).expect("remove");
    std::fs::remove_file(old.store_file("MANIFEST")).expect("remove");
    let outcome = old.ask("view ahead");
    assert!(outcome.is_healed(), "{outcome:?}");
}

#[test]
fn a_flipped_or_lost_part_of_the_view_is_never_an_answer() {
    let sample = Sample::closed();
    let whole = std::fs::read(sample.store_file("view.redb")).expect("read");
    let used: Vec<usize> = (0..whole.len()).filter(|offset| whole[*offset] != 0).collect();
    let mut rng = Rng::new(common::seed("view"));
    for _ in 0..common::number("FLIPS").unwrap_or(600) {
        let offset = *rng.pick(&used);
        let copy = sample.copy();
        let context = if rng.one_in(8) {
            let block = offset / 512 * 512;
            let mut bytes = whole.clone();
            bytes[block..block + 512].fill(0);
            overwrite(&copy.store_file("view.redb"), &bytes);
            format!("view without block {block}")
        } else {
            let bit = rng.below(8) as u32;
            overwrite(&copy.store_file("view.redb"), &flipped(&whole, offset, bit));
            format!("view offset {offset} bit {bit}")
        };
        // A check first: what it does not find must not be wrong.
        let store = Store::open(common::options(copy.home.path()))
            .unwrap_or_else(|error| panic!("{context}: the log is whole, so the store opens: {error:?}"));
        let report = store.check(&mut |_| {});
        let answers = Answers { store: &store, memories: &copy.memories, context: &context };
        if report.is_ok_and(|report| report.findings.is_empty()) {
            assert_eq!(answers.all(), [], "{context}: the log is whole, so every answer comes");
        } else {
            // It was told. What checks itself is right all the same.
            for result in [answers.list(), answers.gets()] {
                result.unwrap_or_else(|error| panic!("{context}: {error:?}"));
            }
        }
    }
}

/// The places of a text in a file.
fn places(bytes: &[u8], text: &[u8]) -> Vec<usize> {
    bytes.windows(text.len()).enumerate().filter(|(_, window)| *window == text).map(|(at, _)| at).collect()
}

/// Damages every row of the view that has this text.
fn damage_rows(sample: &Sample, text: &str) {
    let path = sample.store_file("view.redb");
    let mut bytes = std::fs::read(&path).expect("read");
    let found = places(&bytes, text.as_bytes());
    assert!(!found.is_empty(), "{text} is in the view");
    for at in found {
        bytes[at] ^= 1;
    }
    overwrite(&path, &bytes);
}

#[test]
fn damaged_rows_are_healed_wherever_they_are_met() {
    let sample = Sample::closed();
    type Meeting = (&'static str, fn(&Store));
    let meetings: [Meeting; 8] = [
        ("get", |store| assert!(store.get("fruit0-0").expect("get").is_some())),
        ("list", |store| assert_eq!(store.list(&List::new()).expect("list").len(), 4)),
        ("recall", |store| {
            let answer = store.recall(Recall::new("apples are green").mode(Mode::Text)).expect("recall");
            assert_eq!(answer.results[0].id.as_str(), "fruit0-0");
        }),
        ("remember the same", |store| {
            let same = store.remember(Remember::new("apples are green in round 0")).expect("remember");
            assert_eq!(same.id.as_str(), "fruit0-0");
        }),
        ("update", |store| {
            store.update("fruit0-0", Update::new().importance(1.0)).expect("update");
        }),
        ("forget", |store| {
            assert_eq!(store.forget(["fruit0-0"]).expect("forget").forgotten.len(), 1);
            assert_eq!(store.get("fruit0-0").expect("get"), None);
        }),
        ("remember with the id", |store| {
            let other = Remember::new("something else").id(MemoryId::new("fruit0-0").expect("an id"));
            assert_eq!(store.remember(other).expect_err("conflict").kind(), ErrorKind::Conflict);
        }),
        ("embed", |store| {
            let others: Arc<dyn Embedder> = common::Letters::named("others");
            store.reembed_with(&others, &mut |_| {}).expect("reembed");
        }),
    ];
    for (name, meet) in meetings {
        let copy = sample.copy();
        damage_rows(&copy, "apples are green in round 0");
        let store = common::open(copy.home.path());
        common::within(HANGS, name, || meet(&store));
        common::assert_whole(&store, name);
        assert!(copy.store_file("quarantine").is_dir(), "{name}: the damaged view is kept");
        drop(store);
        common::assert_whole(&common::open(copy.home.path()), name);
    }
}

#[test]
fn damaged_rows_that_an_open_needs_are_healed_by_it() {
    // The row of the model.
    let sample = Sample::closed();
    damage_rows(&sample, "letters/1");
    assert!(sample.ask("model").is_whole());
    // A row that the log's next record changes: an old view, damaged, that must be brought up to date.
    let sample = Sample::closed();
    let view = std::fs::read(sample.store_file("view.redb")).expect("read");
    let store = common::open(sample.home.path());
    store.update("fruit0-0", Update::new().importance(1.0)).expect("update");
    let memories = everything(&store).expect("list");
    store.close().expect("close");
    let sample = Sample { memories, ..sample };
    overwrite(&sample.store_file("view.redb"), &view);
    damage_rows(&sample, "apples are green in round 0");
    assert!(sample.ask("replay").is_whole());
}

#[test]
fn a_view_is_not_given_up_for_a_log_that_cannot_replace_it() {
    // Enough memories that a page of the view can be lost without the others.
    let home = common::quick_folder();
    for round in 0..2 {
        let store = common::open(home.path());
        let many = (0..300).map(|n| {
            Remember::new(format!("memory {n} of round {round}"))
                .id(MemoryId::new(format!("{round}-{n}")).expect("an id"))
        });
        store.remember_many(many.collect()).expect("remember");
        if round == 0 {
            let killed = common::quick_folder();
            common::copy_folder(home.path(), killed.path());
            drop(store);
            std::fs::remove_dir_all(home.path().join("store")).expect("remove");
            common::copy_folder(killed.path(), home.path());
        }
    }
    let memories = everything(&common::open(home.path())).expect("list");
    let sample = Sample { home, memories };
    assert_eq!(segments(sample.home.path()).len(), 2);
    // The first segment is damaged in the middle, and the view has lost rows of the other one.
    let path = segments(sample.home.path()).remove(0);
    let bytes = std::fs::read(&path).expect("read");
    overwrite(&path, &flipped(&bytes, 4200, 1));
    damage_rows(&sample, "memory 299 of round 1");
    let view = std::fs::read(sample.store_file("view.redb")).expect("read");
    for _ in 0..2 {
        let store = match Store::open(common::options(sample.home.path())) {
            Ok(store) => store,
            Err(error) => {
                // The damage is where the open has to look: neither file can replace the other, and both stay.
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                continue;
            }
        };
        let error = store.get("1-299").expect_err("its row is damaged and the log does not give it");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let other = store.get("0-1").expect("the row of the damaged record is whole");
        assert_eq!(other.as_ref(), sample.memories.get("0-1"));
        let report = store.check(&mut |_| {}).expect("check");
        assert_eq!(report.status, CheckStatus::Damaged);
        for finding in report.findings.iter().filter(|finding| finding.file.ends_with("view.redb")) {
            assert!(!finding.repair.contains("move"), "the view holds the only copy: {finding:?}");
        }
    }
    assert!(!sample.store_file("quarantine").exists(), "the view stays where it is");
    assert!(std::fs::read(sample.store_file("view.redb")).expect("read").len() >= view.len());
}

#[test]
fn a_damaged_query_cache_costs_nothing() {
    let sample = Sample::closed();
    let open = |home: &Path| {
        let options = Options::at(home)
            .publish(false)
            .embedder(common::Letters::embedder())
            .background_embedding(false);
        Store::open(options).expect("open")
    };
    let ask = |store: &Store| store.recall(Recall::new("iron is heavy")).expect("recall").results;
    let store = open(sample.home.path());
    let expected = ask(&store);
    store.close().expect("close");
    let whole = std::fs::read(sample.store_file("query.cache")).expect("read");
    let used: Vec<usize> = (0..whole.len()).filter(|offset| whole[*offset] != 0).collect();
    for offset in used.into_iter().step_by(7) {
        let copy = sample.copy();
        overwrite(&copy.store_file("query.cache"), &flipped(&whole, offset, 6));
        assert_eq!(ask(&open(copy.home.path())), expected, "offset {offset}");
    }
    for impostor in IMPOSTORS {
        let outside = common::folder();
        let canary = outside.path().join("canary");
        std::fs::write(&canary, b"canary").expect("write");
        let copy = sample.copy();
        put_in_place(&copy.store_file("query.cache"), impostor, &canary);
        common::within(HANGS, impostor, || assert_eq!(ask(&open(copy.home.path())), expected, "{impostor}"));
        assert_eq!(std::fs::read(&canary).expect("read"), b"canary", "{impostor}");
    }
}

#[test]
fn leftovers_of_a_crash_are_cleared_and_nothing_else_is() {
    let sample = Sample::rolled();
    let outside = common::folder();
    let canary = outside.path().join("canary");
    std::fs::write(&canary, b"canary").expect("write");
    let leftovers =
        ["MANIFEST.tmp", "view.redb.tmp", "view.redb.new.tmp", "seg/0000000000000009-0000000000000001.tmp"];
    for name in leftovers {
        std::fs::write(sample.store_file(name), b"half").expect("write");
    }
    symlink(&canary, sample.store_file("other.tmp")).expect("link");
    std::fs::write(sample.store_file("notes.txt"), b"mine").expect("write");
    assert!(sample.ask("leftovers").is_whole());
    for name in leftovers {
        assert!(!sample.store_file(name).exists(), "{name}");
    }
    assert_eq!(std::fs::read(&canary).expect("read"), b"canary");
    assert_eq!(std::fs::read(sample.store_file("notes.txt")).expect("read"), b"mine");
    // A link where a temporary file is about to be written.
    for name in ["MANIFEST.tmp", "view.redb.tmp", "view.redb.new.tmp", "view.redb.new.tmp.tmp"] {
        let copy = Sample::killed();
        std::fs::remove_file(copy.store_file("view.redb")).expect("remove");
        symlink(&canary, copy.store_file(name)).expect("link");
        match copy.ask(name) {
            Outcome::Refused(kind) => panic!("{name}: {kind:?}"),
            outcome => assert!(outcome.is_whole(), "{name}: {outcome:?}"),
        }
        assert_eq!(std::fs::read(&canary).expect("read"), b"canary", "{name}");
    }
}

#[test]
fn folders_of_the_store_that_are_links_or_files_are_refused() {
    for folder in ["store", "store/seg", "store/quarantine"] {
        for link in [true, false] {
            let sample = Sample::closed();
            let outside = common::folder();
            let path = sample.home.path().join(folder);
            if path.is_dir() {
                common::copy_folder(&path, &outside.path().join("moved"));
                std::fs::remove_dir_all(&path).expect("remove");
            } else {
                std::fs::create_dir(outside.path().join("moved")).expect("folder");
            }
            if link {
                symlink(outside.path().join("moved"), &path).expect("link");
            } else {
                std::fs::write(&path, b"file").expect("write");
            }
            if folder == "store/quarantine" {
                overwrite(&sample.store_file("view.redb"), b"no view");
            }
            let error = Store::open(common::options(sample.home.path())).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Permission, "{folder} {link}: {error}");
            assert!(error.hint_text().is_some(), "{error}");
        }
    }
}

#[test]
fn files_without_permission_are_an_error_of_that_kind() {
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root may read everything");
        return;
    }
    for file in ["LOCK", "MANIFEST", "view.redb"] {
        let sample = Sample::closed();
        set_mode(&sample.store_file(file), 0o000);
        let outcome = sample.ask(file);
        assert!(matches!(outcome, Outcome::Refused(ErrorKind::Permission)), "{file}: {outcome:?}");
    }
}
