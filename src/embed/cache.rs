//! The query-vector cache: a query that was embedded once is not embedded again, by this process or by another.
//!
//! Two levels. In memory, the most recent queries of the model in use, found by their text. On disk, one bounded
//! file of fixed-size slots that all processes share without a lock (`format-spec/query-cache.md`). The cache is
//! lossy and holds nothing that cannot be made again: whatever is wrong with the file costs time, never an error
//! and never a wrong vector. The query itself is not in the file, only a hash of it; a caller who does not want to
//! leave even the vector of a query there does not give it to [`QueryCache::put`].

mod file;
mod layout;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use sha2::{Digest, Sha256};

use self::file::VectorFile;
use self::layout::{FILE_LEN_MAX, Geometry, Key};
use super::ModelIdentity;

/// Longest query that is kept in memory, in bytes: the bound on what the keys of a full cache take.
const MEMORY_QUERY_LEN_MAX: usize = 4096;

/// Vectors of queries, by model and text.
pub(crate) struct QueryCache {
    path: Option<PathBuf>,
    file_len_max: u64,
    capacity: Option<NonZeroUsize>,
    current: Mutex<Option<Current>>,
    memory_hits: AtomicU64,
    disk_hits: AtomicU64,
    misses: AtomicU64,
}

/// How often each level had the answer, since the cache was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CacheStats {
    pub memory_hits: u64,
    pub disk_hits: u64,
    pub misses: u64,
}

/// What belongs to the model in use. A store asks one model at a time, so a change of model starts afresh.
struct Current {
    identity: ModelIdentity,
    /// The hash after the model's bytes: each key continues from here.
    hasher: Sha256,
    vectors: Option<LruCache<Box<str>, Arc<[f32]>>>,
    disk: Option<Arc<VectorFile>>,
}

impl QueryCache {
    /// A cache of this many queries in memory and, when there is a path, of the file there, which is opened at first
    /// use and made when it is missing or of no use. Capacity 0 keeps nothing in memory.
    pub(crate) fn open(path: Option<&Path>, capacity: usize) -> Self {
        Self::bounded(path, capacity, FILE_LEN_MAX)
    }

    fn bounded(path: Option<&Path>, capacity: usize, file_len_max: u64) -> Self {
        Self {
            path: path.map(Path::to_owned),
            file_len_max,
            capacity: NonZeroUsize::new(capacity),
            current: Mutex::new(None),
            memory_hits: AtomicU64::new(0),
            disk_hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// The vector that this model gave for this query, bit for bit.
    pub(crate) fn get(&self, model: &ModelIdentity, query: &str) -> Option<Arc<[f32]>> {
        let (hasher, disk) = {
            let mut guard = self.lock();
            let current = self.current(&mut guard, model);
            if let Some(vector) = current.vectors.as_mut().and_then(|vectors| vectors.get(query)) {
                self.memory_hits.fetch_add(1, Ordering::Relaxed);
                return Some(Arc::clone(vector));
            }
            (current.hasher.clone(), current.disk.clone())
        };
        // Hashing a long query and reading the file are done without the lock.
        let found = disk.and_then(|disk| disk.get(&key(hasher, query)));
        let Some(vector) = found.map(Arc::<[f32]>::from) else {
            self.misses.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        self.disk_hits.fetch_add(1, Ordering::Relaxed);
        self.keep(&mut self.lock(), model, query, &vector);
        Some(vector)
    }

    /// Keeps the vector of a query in memory and on disk. A vector that is not one of this model is not kept.
    pub(crate) fn put(&self, model: &ModelIdentity, query: &str, vector: &Arc<[f32]>) {
        if vector.len() != model.dimensions as usize || vector.iter().any(|x| !x.is_finite()) {
            return;
        }
        let (hasher, disk) = {
            let mut guard = self.lock();
            let current = self.keep(&mut guard, model, query, vector);
            (current.hasher.clone(), current.disk.clone())
        };
        if let Some(disk) = disk {
            disk.put(&key(hasher, query), vector);
        }
    }

    /// Forgets every vector and removes the file; the next use makes a new one.
    ///
    /// # Errors
    /// When the file is there and cannot be removed.
    pub(crate) fn clear(&self) -> std::io::Result<()> {
        let mut current = self.lock();
        *current = None;
        match &self.path {
            Some(path) => match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// The counts so far.
    pub(crate) fn stats(&self) -> CacheStats {
        CacheStats {
            memory_hits: self.memory_hits.load(Ordering::Relaxed),
            disk_hits: self.disk_hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Current>> {
        // Nothing under this lock is left half-changed by a panic.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep<'a>(
        &self,
        guard: &'a mut Option<Current>,
        model: &ModelIdentity,
        query: &str,
        vector: &Arc<[f32]>,
    ) -> &'a mut Current {
        let current = self.current(guard, model);
        if let Some(vectors) = current.vectors.as_mut()
            && query.len() <= MEMORY_QUERY_LEN_MAX
        {
            vectors.put(query.into(), Arc::clone(vector));
        }
        current
    }

    fn current<'a>(&self, guard: &'a mut Option<Current>, model: &ModelIdentity) -> &'a mut Current {
        if guard.as_ref().is_some_and(|current| current.identity != *model) {
            *guard = None;
        }
        guard.get_or_insert_with(|| Current {
            identity: model.clone(),
            hasher: Sha256::new_with_prefix(layout::model_bytes(model)),
            vectors: self.capacity.map(LruCache::new),
            disk: self.path.as_deref().and_then(|path| {
                let geometry = Geometry::new(model.dimensions, self.file_len_max)?;
                VectorFile::open(path, geometry).map(Arc::new)
            }),
        })
    }
}

fn key(hasher: Sha256, query: &str) -> Key {
    let hash = hasher.chain_update(query.as_bytes()).finalize();
    let mut key = Key::default();
    let len = key.len();
    key.copy_from_slice(&hash[..len]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(unix)]
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use tempfile::TempDir;

    fn model(dimensions: u32) -> ModelIdentity {
        ModelIdentity {
            name: "a model".to_owned(),
            weights_sha256: "00".repeat(32),
            tokenizer_sha256: "11".repeat(32),
            dimensions,
            pooling: "mean".to_owned(),
            normalized: true,
            max_tokens: 256,
            document_form: "text/1".to_owned(),
            query_form: "query/1".to_owned(),
            engine: "test/1".to_owned(),
        }
    }

    /// A vector that only this number has.
    fn vector(dimensions: u32, number: usize) -> Arc<[f32]> {
        (0..dimensions).map(|i| (number * 1000) as f32 + i as f32 + 0.1).collect()
    }

    fn place() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("query-cache");
        (folder, path)
    }

    /// A cache on disk only, of one set of small slots.
    fn small(path: &Path) -> QueryCache {
        QueryCache::bounded(Some(path), 0, 32 + 4 * (32 + 4 * 8))
    }

    #[test]
    fn a_hit_is_the_vector_that_was_put_bit_for_bit() {
        let (_folder, path) = place();
        let cache = QueryCache::open(Some(&path), 10);
        let exact: Arc<[f32]> = [0.1_f32, -0.0, f32::MIN_POSITIVE / 2.0, 3.0].into();
        assert_eq!(cache.get(&model(4), "where is it?"), None);
        cache.put(&model(4), "where is it?", &exact);
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let from_memory = cache.get(&model(4), "where is it?").expect("it was put");
        assert_eq!(bits(&from_memory), bits(&exact));
        let other = QueryCache::open(Some(&path), 10);
        let from_disk = other.get(&model(4), "where is it?").expect("it is on disk");
        assert_eq!(bits(&from_disk), bits(&exact));
        assert_eq!(cache.stats(), CacheStats { memory_hits: 1, disk_hits: 0, misses: 1 });
        assert_eq!(other.stats(), CacheStats { memory_hits: 0, disk_hits: 1, misses: 0 });
        assert!(other.get(&model(4), "where is it?").is_some());
        assert_eq!(other.stats().memory_hits, 1, "a hit on disk is kept in memory");
    }

    #[test]
    fn a_handle_that_was_open_before_sees_what_another_puts() {
        let (_folder, path) = place();
        let (first, second) = (QueryCache::open(Some(&path), 10), QueryCache::open(Some(&path), 10));
        assert_eq!(first.get(&model(8), "q"), None);
        assert_eq!(second.get(&model(8), "q"), None);
        first.put(&model(8), "q", &vector(8, 1));
        assert_eq!(second.get(&model(8), "q"), Some(vector(8, 1)));
    }

    #[test]
    fn nothing_is_kept_without_a_path_and_without_capacity() {
        let cache = QueryCache::open(None, 0);
        cache.put(&model(8), "q", &vector(8, 1));
        assert_eq!(cache.get(&model(8), "q"), None);
    }

    #[test]
    fn memory_alone_works_and_forgets_the_least_recent() {
        let cache = QueryCache::open(None, 2);
        cache.put(&model(8), "a", &vector(8, 1));
        cache.put(&model(8), "b", &vector(8, 2));
        assert!(cache.get(&model(8), "a").is_some());
        cache.put(&model(8), "c", &vector(8, 3));
        assert_eq!(cache.get(&model(8), "a"), Some(vector(8, 1)));
        assert_eq!(cache.get(&model(8), "b"), None);
        assert_eq!(cache.get(&model(8), "c"), Some(vector(8, 3)));
    }

    #[test]
    fn a_very_long_query_is_cached_on_disk_only() {
        let (_folder, path) = place();
        let cache = QueryCache::open(Some(&path), 10);
        let query = "long ".repeat(MEMORY_QUERY_LEN_MAX);
        cache.put(&model(8), &query, &vector(8, 1));
        assert_eq!(cache.get(&model(8), &query), Some(vector(8, 1)));
        assert_eq!(cache.stats(), CacheStats { memory_hits: 0, disk_hits: 1, misses: 0 });
    }

    #[test]
    fn every_field_of_the_identity_makes_another_key() {
        let (_folder, path) = place();
        let changes: [fn(&mut ModelIdentity); 10] = [
            |m| m.name.push('x'),
            |m| m.weights_sha256.push('x'),
            |m| m.tokenizer_sha256.push('x'),
            |m| m.dimensions = 9,
            |m| m.pooling.push('x'),
            |m| m.normalized = false,
            |m| m.max_tokens = 512,
            |m| m.document_form.push('x'),
            |m| m.query_form.push('x'),
            |m| m.engine.push('x'),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let cache = QueryCache::open(Some(&path), 10);
            cache.put(&model(8), "q", &vector(8, 1));
            let mut other = model(8);
            change(&mut other);
            assert_eq!(cache.get(&other, "q"), None, "change {number}");
        }
        // A byte that moves from one text to the next is another identity too.
        let mut moved = model(8);
        moved.pooling = "mea".to_owned();
        moved.document_form = "ntext/1".to_owned();
        assert_ne!(layout::model_bytes(&moved), layout::model_bytes(&model(8)));
    }

    #[test]
    fn the_file_is_bounded_and_the_oldest_of_a_set_goes_first() {
        let (_folder, path) = place();
        let cache = small(&path);
        for number in 0..100 {
            cache.put(&model(8), &number.to_string(), &vector(8, number));
        }
        assert_eq!(std::fs::metadata(&path).expect("the file").len(), 32 + 4 * 64);
        let kept: Vec<usize> = (0..100)
            .filter(|number| {
                let found = cache.get(&model(8), &number.to_string());
                assert!(found.is_none() || found == Some(vector(8, *number)));
                found.is_some()
            })
            .collect();
        assert_eq!(kept, [96, 97, 98, 99]);
    }

    #[test]
    fn a_query_that_is_put_again_takes_no_second_slot() {
        let (_folder, path) = place();
        let cache = small(&path);
        for number in [1, 2, 3, 4, 1, 1, 1] {
            cache.put(&model(8), &number.to_string(), &vector(8, number));
        }
        for number in 1..=4 {
            assert_eq!(cache.get(&model(8), &number.to_string()), Some(vector(8, number)));
        }
    }

    #[test]
    fn the_default_file_is_no_larger_than_its_limit_for_any_dimensions() {
        for dimensions in [1, 384, 768, 1024, 4096] {
            let geometry = Geometry::new(dimensions, FILE_LEN_MAX).expect("these dimensions fit");
            assert!(geometry.file_len() <= FILE_LEN_MAX, "{dimensions}");
            assert!(geometry.file_len() > geometry.set_len() as u64 * 100, "{dimensions}");
        }
        assert!(Geometry::new(0, FILE_LEN_MAX).is_none());
        assert!(Geometry::new(4097, FILE_LEN_MAX).is_none());
        assert!(Geometry::new(8, 100).is_none());
    }

    #[test]
    fn a_vector_of_other_length_or_with_no_number_is_not_kept() {
        let (_folder, path) = place();
        let cache = QueryCache::open(Some(&path), 10);
        cache.put(&model(8), "short", &vector(7, 1));
        cache.put(&model(2), "nan", &[0.0, f32::NAN].into());
        assert_eq!(cache.get(&model(8), "short"), None);
        assert_eq!(cache.get(&model(2), "nan"), None);
    }

    #[test]
    fn a_flip_of_any_byte_never_gives_a_wrong_vector() {
        let (_folder, path) = place();
        let queries = ["a", "b", "c", "d"];
        let cache = small(&path);
        for (number, query) in queries.iter().enumerate() {
            cache.put(&model(8), query, &vector(8, number));
        }
        let whole = std::fs::read(&path).expect("the file");
        for offset in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[offset] ^= flip;
                std::fs::write(&path, &damaged).expect("written");
                let cache = small(&path);
                let mut misses = 0;
                for (number, query) in queries.iter().enumerate() {
                    match cache.get(&model(8), query) {
                        Some(found) => assert_eq!(found, vector(8, number), "offset {offset}"),
                        None => misses += 1,
                    }
                }
                let expected = if offset < 32 { queries.len() } else { 1 };
                assert_eq!(misses, expected, "offset {offset}: the flip costs what it hit and no more");
                cache.put(&model(8), "a", &vector(8, 0));
                assert_eq!(small(&path).get(&model(8), "a"), Some(vector(8, 0)), "offset {offset}");
            }
        }
    }

    #[test]
    fn a_file_of_any_length_is_made_usable_again() {
        let (_folder, path) = place();
        small(&path).put(&model(8), "q", &vector(8, 1));
        let whole = std::fs::read(&path).expect("the file");
        for len in (0..whole.len()).chain([whole.len() + 1, 2 * whole.len()]) {
            let mut bytes = whole.clone();
            bytes.resize(len, 0);
            std::fs::write(&path, &bytes).expect("written");
            let cache = small(&path);
            assert_eq!(cache.get(&model(8), "q"), None, "length {len}");
            cache.put(&model(8), "q", &vector(8, 2));
            assert_eq!(small(&path).get(&model(8), "q"), Some(vector(8, 2)), "length {len}");
        }
    }

    #[test]
    fn a_file_that_is_cut_while_open_costs_only_a_miss() {
        let (_folder, path) = place();
        let cache = small(&path);
        cache.put(&model(8), "q", &vector(8, 1));
        std::fs::OpenOptions::new().write(true).open(&path).and_then(|f| f.set_len(40)).expect("cut");
        assert_eq!(cache.get(&model(8), "q"), None);
        cache.put(&model(8), "q", &vector(8, 2));
        assert!(cache.get(&model(8), "q").is_none_or(|found| found == vector(8, 2)));
    }

    #[test]
    fn other_dimensions_make_a_new_file_and_an_open_handle_goes_on() {
        let (_folder, path) = place();
        let old = QueryCache::open(Some(&path), 0);
        old.put(&model(8), "q", &vector(8, 1));
        let new = QueryCache::open(Some(&path), 0);
        assert_eq!(new.get(&model(9), "q"), None);
        new.put(&model(9), "q", &vector(9, 2));
        assert_eq!(old.get(&model(8), "q"), Some(vector(8, 1)));
        assert_eq!(new.get(&model(9), "q"), Some(vector(9, 2)));
        assert_eq!(QueryCache::open(Some(&path), 0).get(&model(9), "q"), Some(vector(9, 2)));
    }

    #[test]
    fn a_deleted_file_is_made_again_at_the_next_open() {
        let (_folder, path) = place();
        let cache = QueryCache::open(Some(&path), 0);
        cache.put(&model(8), "q", &vector(8, 1));
        std::fs::remove_file(&path).expect("deleted");
        cache.put(&model(8), "r", &vector(8, 2));
        let next = QueryCache::open(Some(&path), 0);
        assert_eq!(next.get(&model(8), "q"), None);
        next.put(&model(8), "q", &vector(8, 1));
        assert!(path.exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_not_followed_and_not_replaced() {
        let (folder, path) = place();
        let target = folder.path().join("precious");
        std::fs::write(&target, b"precious").expect("written");
        for name in [target.clone(), folder.path().join("nowhere")] {
            let _ = std::fs::remove_file(&path);
            symlink(&name, &path).expect("a link");
            let cache = QueryCache::open(Some(&path), 10);
            cache.put(&model(8), "q", &vector(8, 1));
            assert_eq!(cache.get(&model(8), "q"), Some(vector(8, 1)), "memory still works");
            assert_eq!(std::fs::read_link(&path).expect("still a link"), name);
        }
        assert_eq!(std::fs::read(&target).expect("still there"), b"precious");
        assert!(!folder.path().join("nowhere").exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_under_the_temporary_name_is_not_followed() {
        let (folder, path) = place();
        let target = folder.path().join("precious");
        std::fs::write(&target, b"precious").expect("written");
        symlink(&target, folder.path().join("query-cache.new")).expect("a link");
        small(&path).put(&model(8), "q", &vector(8, 1));
        assert_eq!(std::fs::read(&target).expect("still there"), b"precious");
        assert_eq!(small(&path).get(&model(8), "q"), Some(vector(8, 1)));
    }

    #[cfg(unix)]
    #[test]
    fn a_fifo_or_a_folder_in_its_place_turns_the_disk_off_and_cannot_hang() {
        let (folder, path) = place();
        let try_it = || {
            let cache = QueryCache::open(Some(&path), 10);
            cache.put(&model(8), "q", &vector(8, 1));
            assert_eq!(cache.get(&model(8), "q"), Some(vector(8, 1)));
            assert_eq!(cache.stats().memory_hits, 1);
            assert_eq!(QueryCache::open(Some(&path), 10).get(&model(8), "q"), None);
        };
        let here = rustix::fs::CWD;
        rustix::fs::mknodat(here, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a FIFO");
        try_it();
        std::fs::remove_file(&path).expect("removed");
        std::fs::create_dir(&path).expect("a folder");
        try_it();
        std::fs::remove_dir(&path).expect("removed");
        std::fs::create_dir_all(folder.path().join("query-cache.new/x")).expect("a folder");
        try_it();
    }

    #[test]
    fn a_missing_folder_turns_the_disk_off() {
        let (folder, _) = place();
        let cache = QueryCache::open(Some(&folder.path().join("no/such/folder")), 10);
        cache.put(&model(8), "q", &vector(8, 1));
        assert_eq!(cache.get(&model(8), "q"), Some(vector(8, 1)));
    }

    #[cfg(unix)]
    #[test]
    fn only_the_user_can_read_the_file() {
        let (_folder, path) = place();
        small(&path).put(&model(8), "q", &vector(8, 1));
        let mode = || std::fs::metadata(&path).expect("the file").mode() & 0o777;
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("opened up");
        assert_eq!(small(&path).get(&model(8), "q"), Some(vector(8, 1)));
        assert_eq!(mode(), 0o600);
    }

    #[test]
    fn threads_that_share_a_full_file_never_see_a_wrong_vector() {
        let (_folder, path) = place();
        small(&path).put(&model(8), "0", &vector(8, 0));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    let cache = small(path);
                    for round in 0..500 {
                        let number = (round * 7 + thread * 3) % 11;
                        let query = number.to_string();
                        if let Some(found) = cache.get(&model(8), &query) {
                            assert_eq!(found, vector(8, number));
                        }
                        cache.put(&model(8), &query, &vector(8, number));
                    }
                });
            }
        });
    }
}
