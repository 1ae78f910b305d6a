//! The text index of a store: where it comes from, and how its blocks are made and replaced. As with vectors, a block
//! holds what the log said up to a sequence, and what comes after it is taken from the log.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use sha2::{Digest, Sha256};

use super::Found;
use super::load::changed_since;
use super::make::block_position;
use crate::catalog::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::format::frame::Origin;
use crate::format::op::MemoryKey;
use crate::fs::Disk;
use crate::index::{TextBlock, list_text_blocks, remove_if_there, text_block_path, write_text_block};
use crate::memory::Language;
use crate::scope::Deadline;
use crate::store::search::{LOAD_ROWS, Loading};
use crate::store::{Inner, lock};
use crate::text::{ANALYSIS, ANALYSIS_VERSION, LIVE_MAX, TextIndex};

/// Texts that are analysed before they go into a file, when an index is made from nothing.
const RUN_TEXTS: usize = 1 << 16;
/// Up to this many texts a block is made before the store is closed: it takes some tens of milliseconds.
const CLOSE_TEXTS_MAX: usize = 20_000;

impl Inner {
    /// Loads the words: those of a block with what the log says after it, or all of them.
    pub(in crate::store) fn load_words(
        &self,
        words: &mut Loading<TextIndex>,
        catalog: &Catalog,
        deadline: Deadline,
    ) -> Result<Found> {
        if words.is_complete() {
            return Ok(Found::Loaded);
        }
        if words.index.is_none() {
            if let Some(block) = self.find_text_block(catalog)? {
                match self.with_text_block(block, catalog) {
                    Ok(loaded) => {
                        *words = Loading::complete(loaded);
                        self.wake_indexer();
                        return Ok(Found::Loaded);
                    }
                    Err(error) if error.kind() == ErrorKind::Corrupt => {
                        tracing::error!(%error, "the log behind the text block cannot be read");
                    }
                    Err(error) => return Err(error),
                }
            }
            if catalog.view().count() > LIVE_MAX as u64 && self.can_make_text_blocks() {
                return Ok(Found::TextBlock);
            }
        }
        words.load_all(self.language, catalog, deadline)?;
        self.wake_indexer();
        Ok(Found::Loaded)
    }

    /// Whether a thread makes text blocks here, and has no trouble with it.
    fn can_make_text_blocks(&self) -> bool {
        self.follow && !self.read_only && lock(&self.indexing.state).text_failed.is_none()
    }

    /// The newest text block that can be used. Damaged ones are removed: they are made anew.
    pub(super) fn find_text_block(&self, catalog: &Catalog) -> Result<Option<Arc<TextBlock>>> {
        let disk = &*self.place.disk;
        for (_, path) in list_text_blocks(disk, &self.index_folder())? {
            match TextBlock::open(disk, &path) {
                Ok(block) if self.is_our_text(&block, catalog)? => return Ok(Some(Arc::new(block))),
                Ok(_) => tracing::debug!("a text block belongs to another analysis, store or history"),
                Err(error) if error.kind() == ErrorKind::Corrupt => self.discard_text_block(&path, &error)?,
                Err(error) => tracing::warn!(%error, "a text block cannot be used"),
            }
        }
        Ok(None)
    }

    /// Whether a block holds what this store's log said. Where a compaction came after it, the log may not say any more
    /// what is gone, and the block is made anew.
    fn is_our_text(&self, block: &TextBlock, catalog: &Catalog) -> Result<bool> {
        let origin = &block.header().origin;
        let is_current = origin.maker == ANALYSIS_VERSION
            && origin.maker_sha256 == analysis_sha256(self.language)
            && origin.log_generation == self.log.segments().newest_generation();
        Ok(is_current && self.is_of_history(origin, catalog)?)
    }

    fn discard_text_block(&self, path: &Path, error: &Error) -> Result<()> {
        tracing::error!(%error, "a text block is damaged and is made anew");
        lock(&self.indexing.state).text_damaged = true;
        if self.read_only { Ok(()) } else { remove_if_there(&*self.place.disk, path) }
    }

    /// A block with what the log says after it.
    fn with_text_block(&self, block: Arc<TextBlock>, catalog: &Catalog) -> Result<TextIndex> {
        let (from, sums) = (block.header().origin.position, block.sums());
        let view = catalog.view();
        let segments = self.log.segments().all();
        let changed = changed_since(&self.place, &segments, from, view.position().tail.last_seq)?;
        let mut index = TextIndex::with(self.language, block, sums);
        for key in changed {
            match view.row(key)? {
                Some(row) => index.insert(key, &row.memory),
                None => {
                    index.remove(key);
                }
            }
        }
        Ok(index)
    }

    /// Makes a text block if one is due or asked for.
    pub(super) fn make_text_blocks(
        &self,
        asked: bool,
        stop: &(dyn Fn() -> bool + Sync),
        tell: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<()> {
        let _making = lock(&self.indexing.making);
        let stop = || stop() || self.indexing.cancel.load(Ordering::SeqCst);
        let made = self.make_due_text_block(asked, &stop, tell);
        lock(&self.indexing.state).text_failed =
            made.as_ref().err().map(|error| (std::time::Instant::now(), error.message().to_owned()));
        made
    }

    fn make_due_text_block(
        &self,
        asked: bool,
        stop: &(dyn Fn() -> bool + Sync),
        tell: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<()> {
        let (is_due, is_loaded) = {
            let search = self.search.read().unwrap_or_else(PoisonError::into_inner);
            let words = search.words();
            (words.is_some_and(|index| index.is_due() || (asked && !index.is_all_stored())), words.is_some())
        };
        if stop() || (is_loaded && !is_due) || (!is_loaded && !asked) {
            return Ok(());
        }
        let disk = &*self.place.disk;
        let folder = self.index_folder();
        crate::fs::create_folders(disk, &folder)?;
        disk.check_folder(&folder)?;
        let mut applying = self.applying();
        let catalog = self.apply_committed(&mut applying)?;
        let search = self.search.read().unwrap_or_else(PoisonError::into_inner);
        let position = block_position(catalog.view().position());
        let log_generation = self.log.segments().newest_generation();
        let newest = list_text_blocks(disk, &folder)?.first().map_or(0, |(generation, _)| *generation);
        let origin = Origin {
            store_id: self.store_id,
            generation: newest + 1,
            position,
            log_generation,
            maker: ANALYSIS_VERSION,
            maker_sha256: analysis_sha256(self.language),
        };
        // What is in memory is small, and the copy lets others go on while the file is written.
        let index = search.words().cloned();
        drop(search);
        let runs = Runs { disk, folder: &folder, language: self.language };
        let index = match index {
            Some(index) => {
                drop(applying);
                index
            }
            None => {
                let view = catalog.view();
                drop(applying);
                match runs.analyse(&view, &origin, stop, tell)? {
                    Some(index) => index,
                    None => return Ok(()),
                }
            }
        };
        // Damage must not get into a file whose checksums are right.
        index.verify(stop)?;
        if stop() {
            return Ok(());
        }
        let path = text_block_path(&folder, origin.generation);
        write_text_block(disk, &path, &index, &origin)?;
        let texts = index.len();
        drop((index, runs));
        self.switch_words_to(Arc::new(TextBlock::open(disk, &path)?))?;
        for (_, other) in list_text_blocks(disk, &folder)? {
            if other != path {
                remove_if_there(disk, &other)?;
            }
        }
        tracing::info!(texts, generation = origin.generation, "made a text block");
        Ok(())
    }

    /// Searches this block from here on.
    fn switch_words_to(&self, block: Arc<TextBlock>) -> Result<()> {
        let mut applying = self.applying();
        let catalog = self.apply_committed(&mut applying)?;
        let mut search = self.search.write().unwrap_or_else(PoisonError::into_inner);
        search.text = Loading::complete(self.with_text_block(block, &catalog)?);
        drop((search, applying));
        lock(&self.indexing.state).text_damaged = false;
        Ok(())
    }

    /// Reads every byte of the text block that is searched, once for each block. A damaged one is given up.
    pub(super) fn verify_text_block(&self, verified: &mut u64) {
        let search = self.search.read().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = search.words().cloned() else { return };
        drop(search);
        let generation = index.generation();
        if generation == *verified {
            return;
        }
        match index.verify(&|| self.is_stopping()) {
            Ok(()) => *verified = generation,
            Err(error) => {
                self.search.write().unwrap_or_else(PoisonError::into_inner).text = Loading::default();
                let path = text_block_path(&self.index_folder(), generation);
                if let Err(error) = self.discard_text_block(&path, &error) {
                    tracing::error!(%error, "a damaged text block stays where it is");
                }
            }
        }
    }

    /// Before the store is closed: what the next process would have to analyse goes into a block, if that is quickly
    /// done.
    pub(super) fn words_at_close(&self) -> Result<()> {
        let search = self.search.read().unwrap_or_else(PoisonError::into_inner);
        let is_quick = search.words().is_some_and(|index| index.len() <= CLOSE_TEXTS_MAX);
        drop(search);
        if is_quick { self.make_text_blocks(false, &|| false, &|_, _| {}) } else { Ok(()) }
    }
}

impl Loading<TextIndex> {
    /// Goes on loading; when the time is over, the next call goes on from there.
    fn load_all(&mut self, language: Language, catalog: &Catalog, deadline: Deadline) -> Result<()> {
        let index = self.index.get_or_insert_with(|| TextIndex::new(language));
        let mut from = self.next.unwrap_or(MemoryKey(0));
        let view = catalog.view();
        let total = view.count();
        loop {
            self.next = Some(from);
            deadline.check(format_args!("loading the words of {} of {total} memories", index.len()))?;
            let mut loaded = 0;
            let mut last = None;
            view.for_each_row(from, |row| {
                index.insert(row.key, &row.memory);
                last = Some(row.key);
                loaded += 1;
                if loaded < LOAD_ROWS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            match last {
                Some(key) if loaded == LOAD_ROWS => from = MemoryKey(key.0 + 1),
                _ => break,
            }
        }
        self.next = None;
        Ok(())
    }
}

/// Files of an index that is being made from nothing, so that only a part of it is ever in memory. They go when this is
/// dropped.
struct Runs<'a> {
    disk: &'a dyn Disk,
    folder: &'a Path,
    language: Language,
}

impl Runs<'_> {
    fn path(&self, turn: usize) -> PathBuf {
        self.folder.join(["words-0.tmp", "words-1.tmp"][turn % 2])
    }

    /// Everything that the view has; `None` when it was told to stop.
    fn analyse(
        &self,
        view: &crate::catalog::View<'_>,
        origin: &Origin,
        stop: &dyn Fn() -> bool,
        tell: &dyn Fn(u64, u64),
    ) -> Result<Option<TextIndex>> {
        let mut index = TextIndex::new(self.language);
        let total = view.count();
        let (mut turn, mut result) = (0, Ok(true));
        let (mut done, mut seen) = (0, 0);
        view.for_each_row(MemoryKey(0), |row| {
            index.insert(row.key, &row.memory);
            done += 1;
            seen += 1;
            if seen % LOAD_ROWS == 0 {
                tell(done, total);
                if stop() {
                    result = Ok(false);
                    return ControlFlow::Break(());
                }
            }
            if index.live_count() < RUN_TEXTS {
                return ControlFlow::Continue(());
            }
            let path = self.path(turn);
            turn += 1;
            let written = remove_if_there(self.disk, &path)
                .and_then(|()| write_text_block(self.disk, &path, &index, origin))
                .and_then(|()| TextBlock::open(self.disk, &path));
            match written {
                Ok(block) => {
                    let sums = block.sums();
                    index = TextIndex::with(self.language, Arc::new(block), sums);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    result = Err(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        Ok(result?.then_some(index))
    }
}

impl Drop for Runs<'_> {
    fn drop(&mut self) {
        for turn in 0..2 {
            if let Err(error) = remove_if_there(self.disk, &self.path(turn)) {
                // The next opening of the store clears it away.
                tracing::warn!(%error, "a temporary file stays behind");
            }
        }
    }
}

/// What terms are made with.
fn analysis_sha256(language: Language) -> [u8; 32] {
    Sha256::digest(format!("{}; {ANALYSIS}", language.name())).into()
}
