//! Whether `memory.db` and the backups are what they were when they were verified, and what mends them when not.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::backup::{self, Backup, BackupVerdict, backups_of};
use super::checksum::crc32_of;
use super::layout::{APPLICATION_ID, CHANGE_COUNTERS, Stamp};
use super::publish::{SnapState, keep, last_published, publish_anew, published_last, siblings};
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
    /// CRC-32 of a `memory.db` that SQLite has just found sound.
    pub(crate) sound: Option<u32>,
}

/// What a look at `memory.db` has found.
enum Found {
    /// Nothing that is worth a word.
    Nothing,
    Damaged(String),
    /// SQLite has looked at all of it; its bytes have this CRC-32.
    Sound(u32),
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
        let found = self.memory_db(deep && is_time())?;
        if let Found::Damaged(detail) = found {
            let path = self.db_path.to_owned();
            looked.flaws.push(Flaw { path, kind: MEMORY_DB, detail, repair: PUBLISHED_ANEW });
        } else if let Found::Sound(crc32) = found {
            looked.sound = Some(crc32);
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
    fn memory_db(&self, deep: bool) -> Result<Found> {
        let Some(last) = published_last(self.disk, self.folder)? else { return Ok(Found::Nothing) };
        let file = self.disk.fingerprint(self.db_path)?;
        let Some(stamp) = last.stamp.filter(|_| file.is_some() && file == last.file && last.next.is_none())
        else {
            return Ok(Found::Nothing);
        };
        for sibling in siblings(self.db_path) {
            if self.disk.kind(&sibling)?.is_some() {
                // Somebody is writing, or was: the next open sees to it.
                return Ok(Found::Nothing);
            }
        }
        if let Some(flaw) = self.header()? {
            return Ok(Found::Damaged(flaw));
        }
        if !deep {
            return Ok(Found::Nothing);
        }
        let found = match last.crc32 {
            Some(crc32) => self.bytes_of(crc32),
            // It was changed in place since: SQLite has to look at all of it.
            None => self.all_of(&stamp),
        };
        if self.disk.fingerprint(self.db_path)? != file {
            // It has become another one meanwhile.
            return Ok(Found::Nothing);
        }
        found
    }

    /// Whether `memory.db` has the bytes that it had when it was verified.
    fn bytes_of(&self, crc32: u32) -> Result<Found> {
        match crc32_of(self.disk, self.db_path) {
            Ok(found) if found == crc32 => Ok(Found::Nothing),
            Ok(_) => Ok(Found::Damaged("its bytes are not those that were published".to_owned())),
            Err(error) => as_damage(error).map(Found::Damaged),
        }
    }

    /// Whether all of `memory.db` is what it says of itself.
    fn all_of(&self, stamp: &Stamp) -> Result<Found> {
        match read::verify_all(self.disk, self.db_path) {
            Ok(found) if found == *stamp => crc32_of(self.disk, self.db_path).map(Found::Sound),
            Ok(_) => Ok(Found::Damaged("it says of itself what was not published".to_owned())),
            Err(error) if error.kind() == ErrorKind::Busy => Ok(Found::Nothing),
            Err(error) => as_damage(error).map(Found::Damaged),
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
                match backup::has_its_bytes(self.disk, &backup) {
                    Ok(Some(false)) => {
                        Ok(Some(flaw("its bytes have not the checksum that its manifest names")))
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

/// Notes that SQLite has found all of `memory.db` sound, so that its bytes tell the next time. The caller has the right to
/// publish.
///
/// # Errors
/// What the disk says.
pub(crate) fn note_sound(store: &Inner, crc32: u32) -> Result<()> {
    let Some(last) = last_published(store)? else { return Ok(()) };
    let is_same = last.next.is_none() && store.disk().fingerprint(&store.db_path())? == last.file;
    if is_same { keep(store, &SnapState { crc32: Some(crc32), ..last }) } else { Ok(()) }
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
