//! Blocks are made, put in place of their predecessors, and removed.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::load::VectorReader;
use super::{Due, IndexBuilder, Watch};
use crate::catalog::{Position, View};
use crate::error::{ErrorKind, Result};
use crate::format::frame::{BlockPosition, Origin};
use crate::format::manifest::TailV1;
use crate::format::op::{MemoryKey, ModelNumber, Op};
use crate::index::{
    Block, EXACT_ROWS_MAX, GONE_SHARE, RowWriter, list_blocks, list_text_blocks, remove_if_there,
};
use crate::store::models::Numbered;
use crate::store::search::{LOAD_ROWS, Loading};
use crate::store::{Inner, Layout, Progress, lock};
use crate::vector::{Control, Former, GraphBuilder, HnswRs, Linker, NONE};

impl Inner {
    pub(super) fn index_folder(&self) -> PathBuf {
        Layout::of(&self.home).index
    }

    /// As long as this is held, no block is made; one that is being made is given up.
    pub(in crate::store) fn no_index_is_made(&self) -> MutexGuard<'_, ()> {
        self.indexing.cancel.store(true, Ordering::SeqCst);
        let making = lock(&self.indexing.making);
        self.indexing.cancel.store(false, Ordering::SeqCst);
        making
    }

    /// Removes all blocks: they hold what must not be kept. The caller sees to it that none is made.
    pub(in crate::store) fn drop_blocks(&self) -> Result<()> {
        let folder = self.index_folder();
        self.remove_blocks_but(None)?;
        for (_, path) in list_text_blocks(&*self.place.disk, &folder)? {
            remove_if_there(&*self.place.disk, &path)?;
        }
        if self.place.disk.kind(&folder)?.is_some() { self.place.disk.sync_folder(&folder) } else { Ok(()) }
    }

    pub(super) fn remove_blocks_but(&self, kept: Option<&Path>) -> Result<()> {
        let disk = &*self.place.disk;
        for (_, path) in list_blocks(disk, &self.index_folder())? {
            if kept != Some(path.as_path()) {
                remove_if_there(disk, &path)?;
            }
        }
        Ok(())
    }

    /// Makes a block if one is due or asked for, and a graph over it when it is large enough for one.
    pub(super) fn make_blocks(
        &self,
        model: &Numbered,
        due: Due,
        stop: &(dyn Fn() -> bool + Sync),
        tell: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<()> {
        let _making = lock(&self.indexing.making);
        let made = self.make_due_blocks(model, due, stop, tell);
        let mut state = lock(&self.indexing.state);
        state.progress = None;
        state.failed = match &made {
            Ok(()) => None,
            Err(error) => Some((Instant::now(), error.message().to_owned())),
        };
        made
    }

    pub(super) fn make_due_blocks(
        &self,
        model: &Numbered,
        mut due: Due,
        stop: &(dyn Fn() -> bool + Sync),
        tell: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<()> {
        let stop = || stop() || self.indexing.cancel.load(Ordering::SeqCst);
        if due != Due::Perhaps {
            self.load_block(model)?;
        }
        // First what can be scanned, which takes seconds, then the graph, which may take minutes.
        for _ in 0..2 {
            let is_due = {
                let search = self.search.read().unwrap_or_else(PoisonError::into_inner);
                match search.vectors.of(model.0) {
                    Some(loaded) => {
                        loaded.index.is_due() || (due == Due::Asked && !loaded.index.is_all_in_block())
                    }
                    None => due == Due::Asked,
                }
            };
            let (damaged, remake) = {
                let state = lock(&self.indexing.state);
                (state.damaged, state.remake)
            };
            if stop() || !(due == Due::Full || damaged || remake || is_due) {
                return Ok(());
            }
            let progress = |done, total| {
                lock(&self.indexing.state).progress = Some(Progress::new(done, total));
                tell(done, total);
            };
            progress(0, 0);
            self.make_block(model, due == Due::Full, remake, &stop, &progress)?;
            due = Due::Perhaps;
        }
        Ok(())
    }

    /// Makes one block of what the view names, and searches it from there on.
    pub(super) fn make_block(
        &self,
        model: &Numbered,
        full: bool,
        remake: bool,
        stop: &(dyn Fn() -> bool + Sync),
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<()> {
        let (number, identity) = model;
        let disk = &*self.place.disk;
        let folder = self.index_folder();
        crate::fs::create_folders(disk, &folder)?;
        disk.check_folder(&folder)?;
        // As long as records are read where the view says, none is moved.
        let standing = lock(&self.rewriting);
        let mut applying = self.applying();
        let catalog = self.apply_committed(&mut applying)?;
        let view = catalog.view();
        let former = if full { None } else { self.present_block(*number) };
        drop(applying);

        let mut writer = RowWriter::new(disk, &folder, identity.dimensions)?;
        let Some(kept) = self.write_rows(&mut writer, &view, model, former.as_ref(), stop, progress)? else {
            return Ok(());
        };
        let position = block_position(view.position());
        let log_generation = self.log.segments().newest_generation();
        drop((view, standing));
        let rows = writer.finish()?;

        let count = u32::try_from(rows.keys().len()).expect("the rows of a block are limited");
        // What was never searched before is first put where it can be scanned.
        let wants_graph = count > EXACT_ROWS_MAX && former.is_some();
        let graph = if wants_graph {
            let gone = kept.iter().filter(|row| **row == NONE).count() as u64;
            let is_worth_extending = !remake && gone * GONE_SHARE <= kept.len() as u64;
            let block = former.as_ref().map(|(block, _)| block);
            let extended = block
                .filter(|_| is_worth_extending)
                .and_then(|block| block.graph())
                .map(|graph| Former { graph, rows: &kept });
            let threads = std::thread::available_parallelism().map_or(1, |cores| (cores.get() - 1).max(1));
            let control = Control { stop, progress, threads };
            // A graph that finds too little is made once more in another way.
            let builder: &dyn GraphBuilder = match (self.index_builder, remake) {
                (IndexBuilder::Linker, false) | (IndexBuilder::HnswRs, true) => &Linker::default(),
                (IndexBuilder::HnswRs, false) | (IndexBuilder::Linker, true) => &HnswRs::default(),
            };
            tracing::info!(rows = count, builder = builder.name(), "making a graph");
            match builder.build(rows.rows(), extended, &control)? {
                Some(graph) => Some(graph),
                None => return Ok(()),
            }
        } else {
            None
        };
        let newest = list_blocks(disk, &folder)?.first().map_or(0, |(generation, _)| *generation);
        let op = Op::Model { number: *number, identity: (**identity).clone() };
        let origin = Origin {
            store_id: self.store_id,
            generation: newest + 1,
            position,
            log_generation,
            maker: number.0,
            maker_sha256: model_sha256(&op),
        };
        let path = rows.publish(&origin, identity.dimensions, graph.as_ref())?;
        drop(former);
        let block = Arc::new(Block::open(disk, &path)?);
        self.switch_to(block, model)?;
        self.remove_blocks_but(Some(&path))?;
        tracing::info!(
            rows = count,
            graph = wants_graph,
            generation = origin.generation,
            "made an index block"
        );
        Ok(())
    }

    /// The block that is searched now, with its rows that count no more.
    pub(super) fn present_block(&self, number: ModelNumber) -> Option<(Arc<Block>, roaring::RoaringBitmap)> {
        let search = self.search.read().unwrap_or_else(PoisonError::into_inner);
        let (block, gone) = search.vectors.of(number)?.index.block()?;
        Some((Arc::clone(block), gone.clone()))
    }

    /// Writes the vectors that the view names, in order of keys, and says which row each row of the former block has
    /// become; `None` when it was told to stop.
    pub(super) fn write_rows(
        &self,
        writer: &mut RowWriter<'_>,
        view: &View<'_>,
        (number, identity): &Numbered,
        former: Option<&(Arc<Block>, roaring::RoaringBitmap)>,
        stop: &(dyn Fn() -> bool + Sync),
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Option<Vec<u32>>> {
        let total = view.count_with_vectors(*number)?;
        let mut kept = vec![NONE; former.map_or(0, |(block, _)| block.row_count() as usize)];
        let mut reader = VectorReader::new(self.log.segments(), &self.place, *number, identity.dimensions);
        let (mut done, mut result) = (0, Ok(true));
        view.for_each_vector(*number, MemoryKey(0), |key, location| {
            if done % LOAD_ROWS as u64 == 0 {
                progress(done, total);
                if stop() {
                    result = Ok(false);
                    return ControlFlow::Break(());
                }
            }
            done += 1;
            let written = (|| {
                if let Some((block, gone)) = former {
                    let rows = block.rows_of(key);
                    if !rows.is_empty() && rows.clone().all(|row| !gone.contains(row)) {
                        for (row, new) in rows.clone().zip(writer.len()..) {
                            kept[row as usize] = new;
                        }
                        return writer.copy(key, block.rows(), rows);
                    }
                }
                match reader.read(location) {
                    Ok(vectors) => writer.push(key, &vectors.values, vectors.dimensions as usize),
                    Err(error) if error.kind() == ErrorKind::Corrupt => {
                        tracing::error!(%error, key = key.0, "a vector cannot be read");
                        writer.skip();
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            })();
            match written {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    result = Err(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        progress(done, total);
        Ok(result?.then_some(kept))
    }

    /// Searches this block from here on.
    pub(super) fn switch_to(&self, block: Arc<Block>, model: &Numbered) -> Result<()> {
        let mut applying = self.applying();
        let catalog = self.apply_committed(&mut applying)?;
        let mut search = self.search.write().unwrap_or_else(PoisonError::into_inner);
        search.vectors = Loading::complete(self.with_block(block, model, &catalog)?);
        drop((search, applying));
        let mut state = lock(&self.indexing.state);
        state.damaged = false;
        state.is_remade |= std::mem::take(&mut state.remake);
        state.watch = Watch::default();
        state.attempts += 1;
        drop(state);
        self.indexing.changed.notify_all();
        Ok(())
    }

    /// Before the store is closed: what the next process would have to read one by one goes into a block, if that is
    /// quickly done.
    pub(in crate::store) fn index_at_close(&self) -> Result<()> {
        if self.read_only || !self.follow {
            return Ok(());
        }
        self.words_at_close()?;
        let Some(model) = self.models.active() else { return Ok(()) };
        let search = self.search.read().unwrap_or_else(PoisonError::into_inner);
        let is_quick = search.vectors.of(model.0).is_some_and(|vectors| {
            let rows = vectors.index.block().map_or(0, |(block, _)| block.row_count());
            rows as usize + vectors.index.live_count() <= EXACT_ROWS_MAX as usize
        });
        drop(search);
        if is_quick { self.make_blocks(&model, Due::Perhaps, &|| false, &|_, _| {}) } else { Ok(()) }
    }
}

pub(super) fn model_sha256(op: &Op) -> [u8; 32] {
    let mut payload = Vec::new();
    op.encode_payload(&mut payload);
    Sha256::digest(&payload).into()
}

pub(super) fn block_position(position: Position) -> BlockPosition {
    BlockPosition {
        last_seq: position.tail.last_seq,
        segment: position.tail.segment,
        epoch: position.epoch,
        last_offset: position.last_offset,
        last_checksum: position.last_checksum,
    }
}

pub(super) fn position_of(position: BlockPosition) -> Position {
    let BlockPosition { last_seq, segment, epoch, last_offset, last_checksum } = position;
    let tail = TailV1 { segment, last_seq, ..TailV1::default() };
    Position { epoch, last_offset, last_checksum, tail }
}
