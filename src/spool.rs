//! The spool: where a memory waits while the store cannot be written. Spec: `format-spec/spool.md`.
//!
//! One line for each memory, with a CRC, appended and synced under a lock. It lies in the home or, when that cannot be
//! written either, in the user's state folder. Draining stores the memories in the order in which they were spooled,
//! under ids of their own, so that a drain that is cut short and done again stores none twice.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::system::{self, DirBuilderExt, OpenOptionsExt};
use crate::logs::{self, Log};
use crate::memory::{MemoryId, Remember};
use crate::share::Store;
use crate::transfer::JsonlReader;

/// Name of the spool in a home.
const FILE_NAME: &str = "spool.jsonl";
/// Added to the name of the file that keeps damaged lines.
const DAMAGED_SUFFIX: &str = ".damaged";

/// The spool of a home.
#[derive(Clone, Debug)]
pub struct Spool {
    /// Where it may be: in the home first, then in the user's state folder.
    places: Vec<PathBuf>,
}

/// A memory that was spooled.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Spooled {
    /// The id that it will have.
    pub id: MemoryId,
    /// The file that it is in.
    pub path: PathBuf,
}

/// What a drain did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Memories that are in the store now.
    pub stored: u64,
    /// Lines that were damaged; they are kept in a file beside the spool.
    pub damaged: u64,
}

/// A memory of a spool, and when it was spooled, in milliseconds since 1970.
type Entry = (i64, Remember);

impl Spool {
    /// The spool of this home.
    #[must_use]
    pub fn of(home: &Path) -> Self {
        let mut places = vec![home.join(FILE_NAME)];
        let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let state = state.or_else(|| std::env::home_dir().map(|user| user.join(".local/state")));
        if let Some(state) = state {
            // Every home has a file of its own there.
            let name = crc32fast::hash(home.as_os_str().as_encoded_bytes());
            places.push(state.join("memento").join(format!("spool-{name:08x}.jsonl")));
        }
        Self { places }
    }

    /// A spool in this file alone.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { places: vec![path.into()] }
    }

    /// Whether something may be spooled.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.places.iter().any(|path| fs::metadata(path).is_ok_and(|file| file.len() > 0))
    }

    /// Appends a memory; durable on return.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] for a secret, as [`Store::remember`] for what no store would take, and what the disk says
    /// when no place can be written.
    pub fn append(&self, remember: &Remember) -> Result<Spooled> {
        remember.check_secrets()?;
        let now_ms = SystemClock.now_ms();
        let id = match &remember.id {
            Some(id) => id.clone(),
            None => new_id(now_ms)?,
        };
        let memory = remember.clone().checked()?.to_memory(id.clone(), now_ms.div_euclid(1000));
        let json = serde_json::to_string(&memory).expect("a memory has text keys only, so it is always JSON");
        let line = line(now_ms, &json);
        let mut first_error = None;
        for path in &self.places {
            match append_line(path, &line) {
                Ok(()) => return Ok(Spooled { id, path: path.clone() }),
                Err(error) => {
                    tracing::warn!(%error, "this place for the spool cannot be written");
                    first_error.get_or_insert(error);
                }
            }
        }
        Err(first_error.expect("there is at least one place"))
    }

    /// Stores everything that was spooled, in order, and empties the spool. Lines that are damaged are moved to a file
    /// beside it.
    ///
    /// # Errors
    /// Those of [`Store::remember`], and what the disk says; then the spool stays, and the next drain stores none twice.
    pub fn drain(&self, store: &Store) -> Result<Drained> {
        let mut drained = Drained::default();
        let mut entries = Vec::new();
        let mut files = Vec::new();
        for path in &self.places {
            let Some((mut file, lock)) = open_locked(path)? else { continue };
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(|error| Error::io("read", path, error))?;
            let (read, damaged) = read_back(&bytes);
            entries.extend(read);
            drained.damaged += damaged.len() as u64;
            keep_damaged(path, &damaged)?;
            files.push((path, file, lock));
        }
        // Two files may have been written in turns.
        entries.sort_by_key(|(spooled_ms, _)| *spooled_ms);
        for (_, remember) in entries {
            // What was allowed when it was spooled is allowed now.
            let id = remember.id.clone();
            match store.remember_many(vec![remember.allow_secrets(true)]) {
                Ok(_) => drained.stored += 1,
                // The id is there with other content: it was stored before and changed since.
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    tracing::debug!(id = ?id, "a spooled memory is there already");
                }
                Err(error) => return Err(error),
            }
        }
        // Only now: a crash before this line repeats the drain, which changes nothing.
        for (path, file, _lock) in files {
            let emptied = system::cut(&file, path, 0).and_then(|()| file.sync_all());
            emptied.map_err(|error| Error::io("empty", path, error))?;
        }
        Ok(drained)
    }
}

/// The memories of a spool, in its order, and the lines that are damaged.
pub(crate) fn read_back(bytes: &[u8]) -> (Vec<Entry>, Vec<&[u8]>) {
    let (mut entries, mut damaged) = (Vec::new(), Vec::new());
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match entry(line) {
            Some(entry) => entries.push(entry),
            None => damaged.push(line),
        }
    }
    (entries, damaged)
}

/// One line: CRC-32 of the rest, milliseconds, JSON.
pub(crate) fn line(spooled_ms: i64, json: &str) -> String {
    let rest = format!("{spooled_ms} {json}");
    format!("{:08x} {rest}\n", crc32fast::hash(rest.as_bytes()))
}

/// The entry of a line; none when it is damaged.
fn entry(line: &[u8]) -> Option<Entry> {
    let text = std::str::from_utf8(line).ok()?;
    let (crc, rest) = text.split_once(' ')?;
    if crc.len() != 8 || u32::from_str_radix(crc, 16).ok()? != crc32fast::hash(rest.as_bytes()) {
        return None;
    }
    let (spooled_ms, json) = rest.split_once(' ')?;
    let memory = JsonlReader::new(BufReader::new(json.as_bytes())).next_memory().ok()??;
    Some((spooled_ms.parse().ok()?, memory.remember))
}

fn append_line(path: &Path, line: &str) -> Result<()> {
    let io = |error| Error::io("append to", path, error);
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| Error::io("make", folder, error))?;
    }
    let mut file =
        OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(io)?;
    let _locked = system::lock(&file, path).map_err(io)?;
    let len = file.metadata().map_err(io)?.len();
    let written = write_line(&mut file, len, line);
    if let Err(error) = written {
        // Half a line would only be noise. What cannot be taken back the CRC tells.
        let _ = system::cut(&file, path, len);
        return Err(io(error));
    }
    if len == 0
        && let Some(folder) = path.parent()
    {
        // The name of a new file is durable only with its folder.
        system::sync_folder(folder).map_err(io)?;
    }
    Ok(())
}

fn write_line(file: &mut File, len: u64, line: &str) -> std::io::Result<()> {
    if len > 0 {
        file.seek(SeekFrom::Start(len - 1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    file.write_all(line.as_bytes())?;
    file.sync_all()
}

fn open_locked(path: &Path) -> Result<Option<(File, system::Lock)>> {
    let io = |error| Error::io("open", path, error);
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => {
            let lock = system::lock(&file, path).map_err(io)?;
            Ok(Some((file, lock)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io(error)),
    }
}

fn keep_damaged(path: &Path, damaged: &[&[u8]]) -> Result<()> {
    if damaged.is_empty() {
        return Ok(());
    }
    let mut name = path.as_os_str().to_owned();
    name.push(DAMAGED_SUFFIX);
    let path = PathBuf::from(name);
    let io = |error| Error::io("append to", &path, error);
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(io)?;
    for line in damaged {
        file.write_all(line).and_then(|()| file.write_all(b"\n")).map_err(io)?;
    }
    file.sync_all().map_err(io)
}

fn new_id(now_ms: i64) -> Result<MemoryId> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|error| Error::new(ErrorKind::Io, format!("no random numbers from the system: {error}")))?;
    let id = ulid::Ulid::from_parts(u64::try_from(now_ms).unwrap_or(0), u128::from_le_bytes(random));
    MemoryId::new(id.to_string())
}

/// Writes a line into `logs/automemory.log` of a home: what happened, without the text of any memory. That it cannot be
/// written is no reason to stop.
pub fn journal(home: &Path, now_ms: i64, message: &str) {
    if let Err(error) = logs::append(home, Log::AutoMemory, now_ms, message) {
        tracing::warn!(%error, "automemory.log cannot be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embed::ModelSpec;
    use crate::memory::{List, Order};
    use crate::store::Options;

    fn texts(store: &Store) -> Vec<String> {
        let all = store.list(&List::new().order(Order::Oldest).limit(100)).expect("a list");
        all.into_iter().map(|memory| memory.text).collect()
    }

    fn store(home: &Path) -> Store {
        Store::open(Options::at(home).model(ModelSpec::None).background_embedding(false)).expect("a store")
    }

    #[test]
    fn what_was_spooled_is_stored_once_and_in_order() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let spool = Spool::at(folder.path().join("spool.jsonl"));
        let ids: Vec<MemoryId> = (0..5)
            .map(|at| {
                spool.append(&Remember::new(format!("memory {at}")).at(at).tags(["t"])).expect("spooled").id
            })
            .collect();
        let copy = fs::read(folder.path().join("spool.jsonl")).expect("the file");
        let store = store(&folder.path().join("home"));
        assert_eq!(spool.drain(&store).expect("drained"), Drained { stored: 5, damaged: 0 });
        assert_eq!(texts(&store), ["memory 0", "memory 1", "memory 2", "memory 3", "memory 4"]);
        assert!(!spool.is_there());
        // A crash before the file was emptied.
        fs::write(folder.path().join("spool.jsonl"), copy).expect("written");
        spool.drain(&store).expect("drained again");
        assert_eq!(texts(&store).len(), 5);
        assert!(store.get(&ids[3]).expect("read").is_some());
    }

    #[test]
    fn damaged_and_torn_lines_are_kept_beside_and_the_rest_is_stored() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("spool.jsonl");
        let spool = Spool::at(&path);
        spool.append(&Remember::new("first").at(1)).expect("spooled");
        let mut file = OpenOptions::new().append(true).open(&path).expect("open");
        file.write_all(b"0badc0de 5 {\"text\":\"wrong\"}\n\xff\xfe\ntorn").expect("written");
        spool.append(&Remember::new("last").at(2)).expect("spooled behind a torn line");
        let store = store(&folder.path().join("home"));
        assert_eq!(spool.drain(&store).expect("drained"), Drained { stored: 2, damaged: 3 });
        assert_eq!(texts(&store), ["first", "last"]);
        let kept = fs::read(folder.path().join("spool.jsonl.damaged")).expect("kept");
        assert!(kept.ends_with(b"torn\n"));
    }

    #[test]
    fn a_secret_is_not_spooled() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let spool = Spool::at(folder.path().join("spool.jsonl"));
        let error = spool.append(&Remember::new("the password is Tr0ub4dor&3")).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(!spool.is_there() && !error.to_string().contains("Tr0ub"));
    }
}
