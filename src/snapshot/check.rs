//! Whether `memory.db` and the backups are what they were when they were verified, and what mends them when not.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::backup::{self, Backup, BackupVerdict, backups_of};
use super::layout::{APPLICATION_ID, CHANGE_COUNTERS};
use super::publish::{publish_anew, published_last, siblings};
use super::read;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Access, Disk, Kind};
use crate::sqlite::MAGIC;
use crate::store::Inner;

/// The class of a damaged `memory.db`, ...
pub(crate) const MEMORY_DB: &str = "memory-db";
/// ... of a damaged backup, ...
pub(crate) const BACKUP: &str = "backup";
/// ... and of a damaged manifest of one.
pub(crate) const BACKUP_MANIFEST: &str = "backup-manifest";

const PUBLISHED_ANEW: &str =
    "memory.db is derived: `check --repair` keeps it in quarantine and publishes another one";
const PUT_AWAY: &str = "`check --repair` keeps it in quarantine; `memento-kv backup` makes another one, `backups` lists those that are whole";
const NOTED_ANEW: &str = "`check --repair` reads the backup and writes its manifest anew, if it is whole; otherwise it keeps both in quarantine";

/// Bytes of SQLite's header that are looked at.
const HEADER_LEN: usize = 100;

/// One thing that is wrong with what stands beside a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    pub(crate) path: PathBuf,
    pub(crate) kind: &'static str,
    pub(crate) detail: String,
    pub(crate) repair: &'static str,
}

/// What a look at the files beside a store has found.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    pub(crate) flaws: Vec<Flaw>,
    /// Bytes that were not read because the time was up.
    pub(crate) unread: u64,
}

/// The files that belong to a store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Belongings<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) home: &'a Path,
    /// The store's own folder.
    pub(crate) folder: &'a Path,
    pub(crate) db_path: &'a Path,
}

impl Belongings<'_> {
    /// Looks at `memory.db` and all backups: at what they say of themselves, and with `deep` at every byte, as long as
    /// there is time. A `memory.db` that is not the one that was published is left to the next open, which takes it over.
    ///
    /// # Errors
    /// What the disk says. What is read and wrong is a flaw.
    pub(crate) fn look(&self, deep: bool, deadline: Option<Instant>) -> Result<Looked> {
        let mut looked = Looked::default();
        let is_time = || deadline.is_none_or(|deadline| Instant::now() < deadline);
        if let Some(detail) = self.memory_db(deep && is_time())? {
            let path = self.db_path.to_owned();
            looked.flaws.push(Flaw { path, kind: MEMORY_DB, detail, repair: PUBLISHED_ANEW });
        } else if deep && !is_time() {
            looked.unread += self.len(self.db_path)?;
        }
        for backup in backups_of(self.disk, self.home, false)? {
            if deep && !is_time() {
                looked.unread += backup.bytes;
            }
            looked.flaws.extend(self.backup(backup, deep && is_time())?);
        }
        Ok(looked)
    }

    /// What is wrong with `memory.db`.
    fn memory_db(&self, deep: bool) -> Result<Option<String>> {
        let Some(last) = published_last(self.disk, self.folder)? else { return Ok(None) };
        let file = self.disk.fingerprint(self.db_path)?;
        let Some(stamp) = last.stamp.filter(|_| file.is_some() && file == last.file && last.next.is_none())
        else {
            return Ok(None);
        };
        for sibling in siblings(self.db_path) {
            if self.disk.kind(&sibling)?.is_some() {
                // Somebody is writing, or was: the next open sees to it.
                return Ok(None);
            }
        }
        if let Some(flaw) = self.header()? {
            return Ok(Some(flaw));
        }
        if !deep {
            return Ok(None);
        }
        let found = read::verify_all(self.disk, self.db_path);
        if self.disk.fingerprint(self.db_path)? != file {
            // It has become another one meanwhile.
            return Ok(None);
        }
        match found {
            Ok(found) if found == stamp => Ok(None),
            Ok(_) => Ok(Some("it says of itself what was not published".to_owned())),
            Err(error) if error.kind() == ErrorKind::Busy => Ok(None),
            Err(error) => as_damage(error).map(Some),
        }
    }

    /// What is wrong with the header of `memory.db`.
    fn header(&self) -> Result<Option<String>> {
        let file = self.disk.open(self.db_path, Access::Read)?;
        let mut header = [0; HEADER_LEN];
        let read = file.read_at(&mut header, 0)?;
        let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let page_len = match u64::from(u16::from_be_bytes([header[16], header[17]])) {
            1 => 65_536,
            len => len,
        };
        let (pages, len) = (u64::from(number(28)), file.len()?);
        if read < HEADER_LEN || !header.starts_with(MAGIC) {
            return Ok(Some("it does not begin as a SQLite file".to_owned()));
        }
        if number(68).cast_signed() != APPLICATION_ID {
            return Ok(Some(format!("its application_id is {:#010x}", number(68))));
        }
        let [one, other] = CHANGE_COUNTERS.map(number);
        if one == other && pages * page_len != len {
            return Ok(Some(format!("it has {len} bytes, and {pages} pages of {page_len} by its header")));
        }
        Ok(None)
    }

    /// What is wrong with a backup.
    fn backup(&self, backup: Backup, deep: bool) -> Result<Option<Flaw>> {
        let manifest = backup::manifest_path(&backup.path);
        if backup.verdict == BackupVerdict::Unverified && read::is_file(self.disk, &manifest)? {
            let detail = "it is damaged, so nobody can tell whether its backup is whole".to_owned();
            return Ok(Some(Flaw { path: manifest, kind: BACKUP_MANIFEST, detail, repair: NOTED_ANEW }));
        }
        let flaw = |detail: &str| Flaw {
            path: backup.path.clone(),
            kind: BACKUP,
            detail: detail.to_owned(),
            repair: PUT_AWAY,
        };
        match backup.verdict {
            BackupVerdict::Damaged => Ok(Some(flaw("it has not the length that its manifest names"))),
            BackupVerdict::Verified if deep => {
                let judged = backup::judged_again(self.disk, &backup);
                match judged.map(|again| again.verdict) {
                    Ok(BackupVerdict::Damaged) => {
                        Ok(Some(flaw("its bytes have not the SHA-256 that its manifest names")))
                    }
                    Ok(_) => Ok(None),
                    // Retention, or a person, has taken it away meanwhile.
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                    Err(error) => as_damage(error).map(|detail| Some(flaw(&detail))),
                }
            }
            _ => Ok(None),
        }
    }

    fn len(&self, path: &Path) -> Result<u64> {
        Ok(match self.disk.kind(path)? {
            Some(Kind::File(len)) => len,
            _ => 0,
        })
    }
}

/// What the error says, if it says that a file is damaged.
fn as_damage(error: Error) -> Result<String> {
    match error.kind() {
        ErrorKind::Corrupt | ErrorKind::Invalid | ErrorKind::Io => Ok(error.message().to_owned()),
        _ => Err(error),
    }
}

/// Mends one of the files in which a look has found this class of damage: what cannot be used is kept in quarantine, and
/// `memory.db` is published anew.
///
/// # Errors
/// What the disk says.
pub(crate) fn mend(store: &Inner, kind: &str, path: &Path) -> Result<()> {
    match kind {
        MEMORY_DB => publish_anew(store, "a check found it damaged"),
        BACKUP => backup::put_away_if_damaged(store, path),
        BACKUP_MANIFEST => backup::note_anew(store, path),
        _ => Ok(()),
    }
}
