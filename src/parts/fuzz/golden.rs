//! Whole stores in memory that targets start from: the golden store of format 1 as it is, gone on with and killed, and
//! gone on with and closed. And what they held after each group of records.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::super::disk::SimulatedDisk;
use crate::clock::ManualClock;
use crate::embed::{Embedder, ModelIdentity};
use crate::error::Result;
use crate::format::op::{MemoryKey, Op, OpKind};
use crate::format::segment::SEGMENT_HEADER_LEN;
use crate::fs::{Access, Disk, Kind};
use crate::log::{Place, Scanner, list, open_segment};
use crate::memory::{List, Memory, Remember, Update};
use crate::store::{Engine, Options};

pub(super) const HOME: &str = "/disk/home";
pub(super) const STORE: &str = "/disk/home/store";

/// Files of a store's folder, by name.
pub(super) type Files = BTreeMap<String, Vec<u8>>;
/// What a store holds, by id.
pub(super) type Content = BTreeMap<String, Memory>;

macro_rules! golden {
    ($name:literal) => {
        (
            $name,
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/store-v1/store/", $name))
                .as_slice(),
        )
    };
}

const GOLDEN: [(&str, &[u8]); 3] = [
    golden!("MANIFEST"),
    golden!("seg/0000000000000001-0000000000000001.mseg"),
    golden!("seg/0000000000000002-000000000000000e.mseg"),
];

/// A store, and what it held after each whole group of its records; last, what it holds.
pub(super) struct Sample {
    pub(super) files: Files,
    pub(super) states: Vec<Content>,
    /// Whether it was closed: its manifest and its view each prove the last record.
    pub(super) is_closed: bool,
}

/// The samples, the oldest first: each goes on from the one before it, the third instead of the second.
pub(super) static SAMPLES: LazyLock<[Sample; 3]> = LazyLock::new(make);

fn make() -> [Sample; 3] {
    let golden = GOLDEN.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
    let disk = placed(&golden);
    // The view is derived, so the golden store has none.
    open(&disk).and_then(Engine::close).expect("the golden store opens");
    let [killed, closed] = [false, true].map(|is_closed| {
        let disk = placed(&taken(&disk));
        let store = open(&disk).expect("a sound store");
        go_on(&store).expect("a sound store");
        let files = taken(&disk);
        store.close().expect("a sound store");
        sample(if is_closed { taken(&disk) } else { files }, is_closed)
    });
    [sample(taken(&disk), true), killed, closed]
}

fn sample(mut files: Files, is_closed: bool) -> Sample {
    // It holds nothing.
    files.remove("RESERVE");
    // It names the process.
    files.insert("LOCK".to_owned(), b"1\nmemento-kv 0.1.0\n".to_vec());
    let states = states(&placed(&files)).expect("a sound log");
    Sample { files, states, is_closed }
}

fn go_on(store: &Engine) -> Result<()> {
    let remember = |id: &str, text: &str| Remember::new(text).id(super::stored::id(id)).at(1_700_000_100);
    store.remember(remember("later-1", "The river is green.").collection("later").tags(["river"]))?;
    store.remember_many(vec![
        remember("later-2", "The first of another group."),
        remember("later-3", "The second of another group.").vector([0.6, 0.8]),
    ])?;
    store.embed_pending(&mut |_| {})?;
    store.update("golden-1", Update::new().importance(0.25))?;
    store.update("later-2", Update::new().text("The first of another group has changed."))?;
    store.forget(["golden-5"])?;
    store.remember(remember("later-4", "The last one.")).map(drop)
}

/// A disk with a store of these files.
pub(super) fn placed(files: &Files) -> SimulatedDisk {
    let disk = SimulatedDisk::new(Path::new("/disk"));
    for folder in [HOME, STORE, "/disk/home/store/seg"] {
        disk.create_folder(Path::new(folder)).expect("memory is there");
    }
    for (name, bytes) in files {
        put(&disk, name, bytes);
    }
    for folder in ["/disk", HOME, STORE, "/disk/home/store/seg"] {
        disk.sync_folder(Path::new(folder)).expect("memory is there");
    }
    disk
}

fn put(disk: &SimulatedDisk, name: &str, bytes: &[u8]) {
    let file = disk.open(&Path::new(STORE).join(name), Access::CreateNew).expect("memory is there");
    file.write_at(bytes, 0).and_then(|()| file.sync()).expect("memory is there");
}

/// The files of the store on a disk, but for what was put away.
pub(super) fn taken(disk: &SimulatedDisk) -> Files {
    let mut files = Files::new();
    for folder in ["", "seg/"] {
        let path = Path::new(STORE).join(folder);
        for name in disk.list(&path).expect("a folder") {
            let name = format!("{folder}{name}");
            let path = Path::new(STORE).join(&name);
            let Some(Kind::File(len)) = disk.kind(&path).expect("memory is there") else { continue };
            let mut bytes = vec![0; usize::try_from(len).expect("a small file")];
            let file = disk.open(&path, Access::Read).expect("it was listed");
            file.read_at(&mut bytes, 0).expect("memory is there");
            files.insert(name, bytes);
        }
    }
    files
}

/// Opens the store on a disk, with nothing that runs behind the calls.
pub(super) fn open(disk: &SimulatedDisk) -> Result<Engine> {
    let options = Options::at(HOME)
        // A snapshot has a random name of its own, and samples are the same each time.
        .publish(false)
        .embedder(Arc::new(Counting::new()))
        .background_embedding(false)
        .query_cache(false)
        .lock_wait(Duration::ZERO)
        .clock(Arc::new(ManualClock::at(1_700_000_200_000)))
        .disk(Arc::new(disk.clone()))
        .alone();
    Engine::open(options)
}

/// All that a store holds.
pub(super) fn content(store: &Engine) -> Result<Content> {
    let all = store.list(&List::new().limit(10_000))?;
    Ok(all.into_iter().map(|memory| (memory.id.as_str().to_owned(), memory)).collect())
}

/// What the log of a store says it held, after nothing and after each whole group.
fn states(disk: &SimulatedDisk) -> Result<Vec<Content>> {
    let place = Place {
        disk: Arc::new(disk.clone()),
        segments: Path::new(STORE).join("seg"),
        manifest: Path::new(STORE).join("MANIFEST"),
    };
    let (mut states, mut ids, mut now) = (vec![Content::new()], BTreeMap::new(), Content::new());
    for segment in list(&place)?.segments {
        let file = open_segment(&place, &segment)?;
        let mut scanner = Scanner::new(&*file, segment.header.epoch, SEGMENT_HEADER_LEN as u64)?;
        while let Ok((header, payload, _)) = scanner.next()? {
            if header.kind == OpKind::Seal {
                continue;
            }
            let op = Op::decode_payload(header.kind, header.has_vectors, payload).expect("a sound record");
            match op {
                Op::Remember { memory, .. } => {
                    ids.insert(MemoryKey(header.seq), memory.id.as_str().to_owned());
                    now.insert(memory.id.as_str().to_owned(), memory);
                }
                Op::Update { key, memory, .. } => _ = now.insert(ids[&key].clone(), memory),
                Op::Forget { key, .. } => _ = now.remove(&ids[&key]),
                Op::RestorePoint(_)
                | Op::Restore(_)
                | Op::Vector { .. }
                | Op::Model { .. }
                | Op::UseModel { .. }
                | Op::Lost(_)
                | Op::Seal(_) => {}
            }
            if header.group_end {
                states.push(now.clone());
            }
        }
    }
    Ok(states)
}

/// The model of the golden store: it counts odd and even characters.
pub(super) struct Counting(ModelIdentity);

impl Counting {
    pub(super) fn new() -> Self {
        Self(ModelIdentity {
            name: "golden/two".to_owned(),
            weights_sha256: "00".repeat(32),
            tokenizer_sha256: "ff".repeat(32),
            dimensions: 2,
            pooling: "mean".to_owned(),
            normalized: true,
            max_tokens: 40,
            document_form: "text/1".to_owned(),
            query_form: "query/1".to_owned(),
            engine: "counting/1".to_owned(),
        })
    }
}

impl Embedder for Counting {
    fn identity(&self) -> &ModelIdentity {
        &self.0
    }

    fn embed_document(&self, text: &str) -> Result<Vec<Vec<f32>>> {
        let mut counts = vec![1.0, 1.0];
        text.chars().for_each(|char| counts[char as usize % 2] += 1.0);
        Ok(vec![counts])
    }

    fn embed_query(&self, query: &str) -> Result<Vec<f32>> {
        Ok(self.embed_document(query)?.swap_remove(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::CheckStatus;

    #[test]
    fn samples_are_whole_and_hold_what_their_logs_say() {
        for sample in &*SAMPLES {
            let store = open(&placed(&sample.files)).expect("open");
            assert_eq!(&content(&store).expect("list"), sample.states.last().expect("a state"));
            let report = store.check(&mut |_| {}).expect("check");
            assert_eq!((report.status, report.findings), (CheckStatus::Ok, Vec::new()));
        }
    }

    #[test]
    fn samples_are_the_same_each_time() {
        let once: Vec<_> = make().into_iter().map(|sample| sample.files).collect();
        let again: Vec<_> = make().into_iter().map(|sample| sample.files).collect();
        assert!(once == again, "an input would not find the same twice");
    }
}
