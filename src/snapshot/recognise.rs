//! A `memory.db` that is not the one that was published: somebody has put it there, or changed it. It is recognised for
//! what it is and taken over as one group that can be undone, or moved out of the way.

use std::path::Path;

use super::copy::look_at;
use super::layout::hex;
use super::publish::{SnapState, keep, last_published, siblings};
use super::restore::{RestoreOptions, Restored, is_model_of, plain, take_over};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::Kind;
use crate::store::{Changes, Inner, RestoreKind, TakenOver, TakenOverKind};

/// A file that was written to just now may still be written: two looks this far apart must see the same.
const SETTLE_MS: u64 = 200;
/// So often at most.
const SETTLE_TRIES: u32 = 50;
/// Longer ago, nobody is writing to it any more.
const SETTLED_MS: i64 = 2000;

/// Whether `memory.db` is what was published, as far as one look at it tells, or is not there.
///
/// # Errors
/// What the disk says.
pub(super) fn is_untouched(store: &Inner) -> Result<bool> {
    let (disk, path) = (store.disk(), store.db_path());
    if disk.kind(&path)?.is_none() {
        return Ok(true);
    }
    for sibling in siblings(&path) {
        if disk.kind(&sibling)?.is_some() {
            return Ok(false);
        }
    }
    let file = disk.fingerprint(&path)?;
    let last = last_published(store)?;
    Ok(file.is_some() && last.is_some_and(|last| last.next.is_none() && last.file == file))
}

/// Looks whether `memory.db` is what was published; takes it over when it is not. The caller has the right to write it.
///
/// # Errors
/// When it could not be looked at for a reason that may pass; then it stays as it is, and nothing is published over it.
pub(super) fn recognise(store: &Inner) -> Result<()> {
    let (disk, path) = (store.disk(), store.db_path());
    let last = last_published(store)?;
    match disk.kind(&path)? {
        None => return Ok(()),
        Some(Kind::File(_)) => {}
        Some(_) => return put_away(store, &path, "it is no regular file"),
    }
    if is_untouched(store)? {
        return Ok(());
    }
    settle(store, &path)?;
    let of_no_use = |error: Error| match error.kind() {
        ErrorKind::Invalid | ErrorKind::Corrupt | ErrorKind::TooLarge | ErrorKind::Permission => {
            put_away(store, &path, error.message())
        }
        _ => Err(error),
    };
    let look = match look_at(store, &path) {
        Ok(look) => look,
        Err(error) => return of_no_use(error),
    };
    let file = &look.copied.file;
    let is_own = file.stamp.as_ref().is_some_and(|stamp| stamp.store_id == hex(&store.store_id()));
    let is_last = file.stamp.as_ref().is_some_and(|stamp| {
        let is_named = |last: &SnapState| {
            last.next.as_ref() == Some(&stamp.snapshot_id)
                || last.stamp.as_ref().is_some_and(|last| last.snapshot_id == stamp.snapshot_id)
        };
        // Without a word about the last one it may be that: nothing newer is given up for it.
        last.as_ref().is_none_or(is_named)
    });
    let exact = RestoreOptions { exact: true, dry_run: false };
    let gentle = RestoreOptions::default();
    let by_hand = RestoreKind::ByHand;
    let (kind, restored) = match (is_own, look.is_whole, is_last) {
        (true, true, true) => {
            // Its rows are those that were published; the rest of it may have been damaged since, and it is to stay.
            if let Err(error) = file.check_derived(&**disk) {
                drop(look);
                return of_no_use(error);
            }
            put_siblings_away(store, &path)?;
            let fingerprint = disk.fingerprint(&path)?;
            let stamp = file.stamp.clone();
            // Somebody has only touched it, or a crash came before it was noted.
            return keep(store, &SnapState { stamp, file: fingerprint, ..SnapState::default() });
        }
        (true, true, false) => {
            let target = "an earlier snapshot in place of memory.db";
            (TakenOverKind::Snapshot, take_over(store, &look.copied, by_hand, target, exact)?)
        }
        (true, false, true) => {
            (TakenOverKind::Edited, take_changes_over(store, file, "memory.db changed by hand")?)
        }
        (true, false, false) => {
            let target = "an earlier snapshot, changed by hand, in place of memory.db";
            (TakenOverKind::Edited, take_over(store, &look.copied, by_hand, target, exact)?)
        }
        (false, ..) => {
            let target = "another database in place of memory.db";
            let kind = if file.stamp.is_some() { TakenOverKind::OtherStore } else { TakenOverKind::Foreign };
            (kind, take_over(store, &look.copied, by_hand, target, gentle)?)
        }
    };
    drop(look);
    // What the log has taken is in it; what it could not take is nowhere else.
    put_siblings_away(store, &path)?;
    let kept = if kind == TakenOverKind::Snapshot {
        None
    } else {
        Some(store.put_away(&path, "it stood in place of the published memory.db and was taken over")?)
    };
    report(store, kind, &restored, kept.as_deref());
    keep(store, &SnapState { file: disk.fingerprint(&path)?, ..SnapState::default() })
}

/// Takes over what somebody has changed in the snapshot that was published last, and nothing else.
fn take_changes_over(store: &Inner, file: &super::read::File, target: &str) -> Result<Restored> {
    let mut problems = Vec::new();
    let mut plan = |changes: &mut Changes<'_, '_>| {
        let summary = file.for_each(|found| {
            if found.is_pristine {
                return Ok(());
            }
            let vectors = found.vectors.filter(|_| found.seq.is_none());
            let model = changes.state().model().cloned();
            let fits = is_model_of(model.as_ref(), vectors.as_deref());
            changes.put(found.memory, vectors.filter(|_| fits))
        })?;
        problems = summary.problems;
        file.taken_away()?.iter().try_for_each(|id| changes.forget(id))
    };
    let (changed, from_seq) = store.restore_as(RestoreKind::ByHand, target, None, &mut plan)?;
    Ok(Restored { problems, ..plain(RestoreKind::ByHand, target, changed, from_seq) })
}

/// Waits until nobody writes to the file any more, as far as one can tell: `cp` takes its time.
fn settle(store: &Inner, path: &Path) -> Result<()> {
    let disk = store.disk();
    let mut before = disk.fingerprint(path)?;
    for _ in 0..SETTLE_TRIES {
        let is_fresh = before.is_some_and(|file| file.is_younger_than(SETTLED_MS));
        if !is_fresh {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(SETTLE_MS));
        let now = disk.fingerprint(path)?;
        if now == before {
            break;
        }
        before = now;
    }
    Ok(())
}

fn put_siblings_away(store: &Inner, path: &Path) -> Result<()> {
    for sibling in siblings(path) {
        if store.disk().kind(&sibling)?.is_some() {
            store.put_away(&sibling, "it stood beside a memory.db that is not its own")?;
        }
    }
    Ok(())
}

fn put_away(store: &Inner, path: &Path, reason: &str) -> Result<()> {
    put_siblings_away(store, path)?;
    let kept = store.put_away(path, &format!("it stood in place of the published memory.db: {reason}"))?;
    tracing::warn!(reason, "memory.db cannot be used and was put away");
    store.note_taken_over(TakenOver {
        kind: TakenOverKind::Unusable,
        detail: reason.to_owned(),
        added: 0,
        changed: 0,
        forgotten: 0,
        kept_as: Some(relative(store, &kept)),
    });
    keep(store, &SnapState::default())
}

fn report(store: &Inner, kind: TakenOverKind, restored: &Restored, kept: Option<&Path>) {
    let changed = &restored.changed;
    tracing::warn!(
        ?kind,
        added = changed.added,
        changed = changed.changed,
        forgotten = changed.forgotten,
        problems = restored.problems.len(),
        "memory.db was taken over"
    );
    store.note_taken_over(TakenOver {
        kind,
        detail: restored.problems.join("; "),
        added: changed.added,
        changed: changed.changed,
        forgotten: changed.forgotten,
        kept_as: kept.map(|kept| relative(store, kept)),
    });
}

fn relative(store: &Inner, path: &Path) -> String {
    path.strip_prefix(store.home()).unwrap_or(path).display().to_string()
}
