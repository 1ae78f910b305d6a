//! The past: the state of the store at a sequence, read from the log into a view of its own.

use std::path::PathBuf;
use std::sync::{Arc, MutexGuard};

use super::history::History;
use super::replay::replay;
use super::restore::out_of_reach;
use super::state::State;
use super::{Inner, lock};
use crate::catalog::{CACHE_BYTES_DEFAULT, Catalog};
use crate::error::{ErrorKind, Result};
use crate::fs::{Disk, Kind};
use crate::log::SegmentMap;

/// The store as it was. Its view is removed when it is dropped.
pub(crate) struct Past<'a> {
    catalog: Option<Catalog>,
    path: PathBuf,
    segments: SegmentMap,
    store: &'a Inner,
    _standing: MutexGuard<'a, ()>,
}

impl Inner {
    /// The state after all records up to this sequence.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the log does not reach so far back, or not so far forward.
    pub(crate) fn past(&self, seq: u64) -> Result<Past<'_>> {
        let last_seq = self.up_to_date()?.applied_seq();
        if seq > last_seq {
            return Err(out_of_reach(seq, &format!("the last record is {last_seq}")));
        }
        let standing = lock(&self.rewriting);
        let segments = History::read(self)?.segments_at(self, seq)?;
        let disk = &*self.place.disk;
        let path = self.folder.join("past.redb.tmp");
        remove_if_there(disk, &path)?;
        let catalog = Catalog::create(disk, &path, self.store_id, CACHE_BYTES_DEFAULT)?;
        let past = Past {
            catalog: Some(catalog),
            path,
            segments: SegmentMap::new(segments),
            store: self,
            _standing: standing,
        };
        replay(&self.place, &past.segments.all(), past.catalog(), seq).map_err(|error| {
            if error.kind() == ErrorKind::Corrupt { out_of_reach(seq, &error.to_string()) } else { error }
        })?;
        Ok(past)
    }
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

fn remove_if_there(disk: &dyn Disk, path: &std::path::Path) -> Result<()> {
    match disk.kind(path)? {
        Some(Kind::File(_)) => disk.remove(path),
        _ => Ok(()),
    }
}
