//! What the hard tests share: seeded randomness, an embedder of letters, folders, kill images, children.

#![allow(clippy::print_stderr, reason = "a seed and a hang must be seen")]
#![allow(dead_code, reason = "each test program uses its own part of this")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use memento_kv::check::{CheckReport, CheckStatus};
use memento_kv::embed::{Embedder, ModelIdentity};
use memento_kv::{Error, ErrorKind, List, Memory, Options, Order, Result, Store};

/// A small generator of random numbers (SplitMix64): the same numbers for the same seed, everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }

    /// Whether one of `n` chances came.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// The seed of this run: `SEED` if it is set, else another one each time. Printed, so that a failure can be repeated.
pub(crate) fn seed(test: &str) -> u64 {
    let seed = number("SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
        now.as_nanos() as u64 ^ u64::from(std::process::id())
    });
    eprintln!("{test}: SEED={seed}");
    seed
}

/// A number from the environment.
pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// A fresh folder.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// A fresh folder in memory where the system has one: for tests that open a store a thousand times.
pub(crate) fn quick_folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir()
        && let Ok(folder) = tempfile::tempdir_in(memory)
    {
        return folder;
    }
    folder()
}

/// Letters as a vector: enough meaning for a test, quick, the same in every process, and it can be told to fail.
pub(crate) struct Letters {
    identity: ModelIdentity,
    broken: AtomicBool,
}

impl Letters {
    pub(crate) fn embedder() -> Arc<dyn Embedder> {
        Self::named("letters")
    }

    pub(crate) fn named(name: &str) -> Arc<Self> {
        Arc::new(Self { identity: identity(name, 27), broken: AtomicBool::new(false) })
    }

    pub(crate) fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }
}

impl Embedder for Letters {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn embed_document(&self, text: &str) -> Result<Vec<Vec<f32>>> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Model, "broken for a test"));
        }
        let mut vector = vec![0.0; 27];
        vector[26] = 0.1;
        for letter in text.bytes().filter(u8::is_ascii_lowercase) {
            vector[usize::from(letter - b'a')] += 1.0;
        }
        Ok(vec![vector])
    }

    fn embed_query(&self, query: &str) -> Result<Vec<f32>> {
        Ok(self.embed_document(query)?.remove(0))
    }
}

/// A model that there is only in tests.
pub(crate) fn identity(name: &str, dimensions: u32) -> ModelIdentity {
    ModelIdentity {
        name: name.to_owned(),
        weights_sha256: String::new(),
        tokenizer_sha256: String::new(),
        dimensions,
        pooling: "mean".to_owned(),
        normalized: true,
        max_tokens: 256,
        document_form: "text/1".to_owned(),
        query_form: "query/1".to_owned(),
        engine: format!("{name}/1"),
    }
}

/// A store of letters that does nothing behind the calls but follow the log.
pub(crate) fn options(home: &Path) -> Options {
    Options::at(home)
        .publish(false)
        .embedder(Letters::embedder())
        .background_embedding(false)
        .query_cache(false)
}

pub(crate) fn open(home: &Path) -> Store {
    Store::open(options(home)).expect("the store opens")
}

/// Every memory, by id.
pub(crate) fn everything(store: &Store) -> Result<BTreeMap<String, Memory>> {
    let all = store.list(&List::new().limit(usize::MAX).order(Order::Oldest))?;
    Ok(all.into_iter().map(|memory| (memory.id.as_str().to_owned(), memory)).collect())
}

/// What a check says, which is nothing.
pub(crate) fn assert_whole(store: &Store, context: &str) -> CheckReport {
    let report =
        store.check(&mut |_| {}).unwrap_or_else(|error| panic!("{context}: the check failed: {error:?}"));
    assert_eq!((report.status, &report.findings), (CheckStatus::Ok, &Vec::new()), "{context}");
    report
}

/// A copy of a folder: taken while nobody writes, it is what a kill at this moment would leave.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    set_mode(to, 0o700);
    for entry in from.read_dir().expect("list") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            copy_folder(&entry.path(), &target);
        } else if kind.is_file() {
            // The socket of an owner is nothing that a copy could have.
            std::fs::copy(entry.path(), target).expect("copy");
        }
    }
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("chmod");
}

/// The segment files, in their order.
pub(crate) fn segments(home: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = home
        .join("store/seg")
        .read_dir()
        .expect("list")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "mseg"))
        .collect();
    paths.sort();
    paths
}

/// Puts bytes into a file that may be sealed.
pub(crate) fn overwrite(path: &Path, bytes: &[u8]) {
    let _ = std::fs::remove_file(path);
    std::fs::write(path, bytes).expect("write");
    set_mode(path, 0o600);
}

/// This test program once more, in the role of a child: it runs only the test `role`, which looks for `CHILD`.
pub(crate) fn child(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", role, "--nocapture", "--test-threads=1"]).env("CHILD", role);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command
}

/// Whether this process is a child in this role.
pub(crate) fn is_child(role: &str) -> bool {
    std::env::var("CHILD").is_ok_and(|child| child == role)
}

/// Runs something that must not hang: after the time limit the test program ends.
pub(crate) fn within<T>(limit: Duration, what: &str, work: impl FnOnce() -> T) -> T {
    let (done, watched) = std::sync::mpsc::channel::<()>();
    let what = what.to_owned();
    let watchdog = std::thread::spawn(move || {
        if watched.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            eprintln!("{what}: hangs for {limit:?}");
            std::process::abort();
        }
    });
    let result = work();
    drop(done);
    watchdog.join().expect("the watchdog ends");
    result
}

/// Waits until something is so.
pub(crate) fn until(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < limit, "{what} did not come true in {limit:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Every file below a folder, with what it holds.
pub(crate) fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in folder.read_dir().expect("list") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            let bytes = std::fs::read(&path).expect("read");
            found.insert(path, bytes);
        }
    }
    found
}
