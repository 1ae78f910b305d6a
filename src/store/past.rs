//! The past: the state of the store at a sequence, read from the log into a view of its own.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};

use super::history::History;
use super::replay::replay;
use super::restore::{Changed, Changes, out_of_reach, planned};
use super::state::State;
use super::{Engine, Inner, Options, lock};
use crate::catalog::{CACHE_BYTES_DEFAULT, Catalog};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{self, Disk, Kind};
use crate::log::{self, Place, Segment, SegmentMap};

/// The store as it was. Its view is removed when it is dropped.
pub(crate) struct Past<'a> {
    catalog: Option<Catalog>,
    path: PathBuf,
    segments: SegmentMap,
    store: &'a Inner,
    _standing: Option<MutexGuard<'a, ()>>,
}

/// A moment of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
#[non_exhaustive]
pub enum Moment {
    /// After the record of this sequence.
    Seq(u64),
    /// At this time, in milliseconds since 1970.
    At(i64),
    /// As it is.
    Now,
}

/// The store as it was, for questions: a copy of the log up to a moment, opened for reading. It is removed when this is
/// dropped.
#[derive(Debug)]
pub(crate) struct PastStore {
    /// `None` only while it is dropped.
    store: Option<Engine>,
    folder: PathBuf,
    disk: Arc<dyn Disk>,
    seq: u64,
}

impl Engine {
    /// The store as it was at a moment.
    pub(crate) fn as_of(&self, moment: Moment) -> Result<PastStore> {
        let inner = &self.inner;
        let seq = inner.seq_of(moment)?;
        let folder = inner.folder.join("past").join(inner.new_id()?.as_str());
        let disk = Arc::clone(&inner.place.disk);
        // From here on what is there of it is removed, whatever happens.
        let mut as_of = PastStore { store: None, folder: folder.clone(), disk: Arc::clone(&disk), seq };
        inner.copy_log(seq, &super::Layout::of(&folder).place(Arc::clone(&disk)))?;
        let options = inner.models.embedders().as_options(Options::bare(folder));
        let options = options.clock(Arc::clone(&inner.clock)).disk(disk).create(false).query_cache(false);
        as_of.store = Some(Engine::open(options.background_embedding(false).alone().frozen())?);
        Ok(as_of)
    }

    /// What is different at the second moment.
    pub(crate) fn diff(&self, one: Moment, other: Moment) -> Result<Changed> {
        let inner = &self.inner;
        let (one, other) = (inner.seq_of(one)?, inner.seq_of(other)?);
        let first = inner.past(one)?;
        let second = inner.past_with(other, "past-2.redb.tmp", None)?;
        let (then, later) = (first.state()?, second.state()?);
        let mut plan = |changes: &mut Changes<'_, '_>| {
            later.for_each_memory(|memory| changes.put(memory, None))?;
            changes.forget_all_others()
        };
        planned(&then, None, &mut plan).map(|(changed, _)| changed)
    }
}

impl PastStore {
    /// Records up to this sequence are in it.
    #[must_use]
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }
}

impl Deref for PastStore {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        self.store.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for PastStore {
    fn drop(&mut self) {
        drop(self.store.take());
        if let Err(error) = self.disk.remove_tree(&self.folder) {
            tracing::warn!(%error, "a copy of the past is left behind; the next open removes it");
        }
    }
}

impl Inner {
    pub(super) fn seq_of(&self, moment: Moment) -> Result<u64> {
        match moment {
            Moment::Seq(seq) => Ok(seq),
            Moment::At(ms) => self.seq_at(ms),
            Moment::Now => Ok(self.up_to_date()?.applied_seq()),
        }
    }

    /// The state after all records up to this sequence.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the log does not reach so far back, or not so far forward.
    pub(crate) fn past(&self, seq: u64) -> Result<Past<'_>> {
        self.up_to_date()?;
        self.past_with(seq, "past.redb.tmp", Some(lock(&self.rewriting)))
    }

    fn past_with<'a>(
        &'a self,
        seq: u64,
        name: &str,
        _standing: Option<MutexGuard<'a, ()>>,
    ) -> Result<Past<'a>> {
        let segments = self.segments_at(seq)?;
        let disk = &*self.place.disk;
        let path = self.folder.join(name);
        remove_if_there(disk, &path)?;
        let catalog = Catalog::create(disk, &path, self.store_id, CACHE_BYTES_DEFAULT)?;
        let segments = SegmentMap::new(segments);
        let past = Past { catalog: Some(catalog), path, segments, store: self, _standing };
        replay(&self.place, &past.segments.all(), past.catalog(), seq).map_err(|error| gone(seq, error))?;
        Ok(past)
    }

    fn segments_at(&self, seq: u64) -> Result<Vec<Segment>> {
        let last_seq = self.log.durable_seq();
        if seq > last_seq {
            return Err(out_of_reach(seq, &format!("the last record is {last_seq}")));
        }
        History::read(self)?.segments_at(self, seq)
    }

    /// Copies all records up to this sequence to another place.
    fn copy_log(&self, seq: u64, to: &Place) -> Result<()> {
        self.up_to_date()?;
        let _standing = lock(&self.rewriting);
        let segments = self.segments_at(seq)?;
        fs::create_folders(&*to.disk, &to.segments)?;
        let mut last = None;
        for segment in segments.iter().filter(|segment| segment.header.base_seq <= seq.max(1)) {
            let name = segment.path.file_name().expect("a segment has a name");
            log::copy_up_to(&self.place, segment, seq, &to.segments.join(name))
                .map_err(|error| gone(seq, error))?;
            last = Some(segment.header);
        }
        match last {
            // Where the log ends it must say so record by record.
            Some(header) if header.rewrite.is_some() => log::begin_behind(to, &header, self.clock.now_ms()),
            Some(_) => Ok(()),
            None => Err(out_of_reach(seq, "the log has no segment")),
        }
    }
}

/// The error of a state whose records are not there.
fn gone(seq: u64, error: Error) -> Error {
    if error.kind() == ErrorKind::Corrupt { out_of_reach(seq, &error.to_string()) } else { error }
}

impl Past<'_> {
    fn catalog(&self) -> &Catalog {
        self.catalog.as_ref().expect("it is there until it is dropped")
    }

    /// What there was.
    pub(crate) fn state(&self) -> Result<State<'_>> {
        let catalog = self.catalog();
        let view = catalog.view();
        let active = catalog.active_model();
        let models = view.models()?;
        let model = models.into_iter().find(|(number, _)| Some(*number) == active);
        let model = model.map(|(number, identity)| (number, Arc::new(identity)));
        Ok(State::of_past(view, self.store, model, self.segments.clone()))
    }
}

impl Drop for Past<'_> {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.catalog.take().map(Catalog::close) {
            tracing::debug!(%error, "a view of the past was not closed cleanly");
        }
        if let Err(error) = remove_if_there(&*self.store.place.disk, &self.path) {
            tracing::warn!(%error, "a view of the past is left behind; the next open removes it");
        }
    }
}

fn remove_if_there(disk: &dyn Disk, path: &Path) -> Result<()> {
    match disk.kind(path)? {
        Some(Kind::File(_)) => disk.remove(path),
        _ => Ok(()),
    }
}
