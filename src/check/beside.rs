//! What stands beside the log: `memory.db`, backups, and what the past is read from.

use std::path::Path;
use std::time::Instant;

use super::{Check, CheckStatus, Depth, Finding};
use crate::error::{ErrorKind, Result};
use crate::fs::Disk;
use crate::log;
use crate::snapshot::check::{BACKUP, BACKUP_MANIFEST, Belongings, MEMORY_DB, mend};
use crate::store::{Engine, kept};

/// The class of a damaged file that says what the past is made of, ...
const HISTORY: &str = "history";
/// ... and of damaged segments of the past.
const TRASH: &str = "trash";

const PAST_BEGUN_ANEW: &str = "nothing of the present depends on it: `check --repair` keeps it in quarantine, and what was compacted away is out of reach";
const PAST_GIVEN_UP: &str = "nothing of the present depends on it: `check --repair` keeps it in quarantine, and states that need it are out of reach";

impl Check {
    /// Looks at `memory.db` and the backups. Gives the checksum of a `memory.db` that was just found sound.
    pub(super) fn belongings(
        &mut self,
        belongings: &Belongings<'_>,
        depth: Depth,
        deadline: Option<Instant>,
    ) -> Result<Option<u32>> {
        if !self.report.complete {
            return Ok(None);
        }
        let looked = belongings.look(depth == Depth::Deep, deadline)?;
        for flaw in looked.flaws {
            self.found(&flaw.path, None, flaw.kind, flaw.detail, flaw.repair);
        }
        if looked.unread > 0 {
            (self.report.complete, self.report.unread) = (false, looked.unread);
            if self.report.status == CheckStatus::Ok {
                self.report.status = CheckStatus::Incomplete;
            }
        }
        Ok(looked.sound)
    }

    /// Looks at what the past is read from.
    pub(super) fn past(&mut self, disk: &dyn Disk, folder: &Path, depth: Depth) -> Result<()> {
        if !self.report.complete {
            return Ok(());
        }
        let kept = kept(disk, folder)?;
        if let Some(path) = kept.damaged {
            self.found(&path, None, HISTORY, "its checksum does not hold".to_owned(), PAST_BEGUN_ANEW);
        }
        for path in kept.trash {
            match self.segment_of_the_past(&path, depth) {
                Ok(None) => {}
                Ok(Some((offset, detail))) => {
                    self.found(&path, Some(offset), TRASH, detail, PAST_GIVEN_UP);
                }
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    let detail = error.message().to_owned();
                    self.found(&path, error.offset(), TRASH, detail, PAST_GIVEN_UP);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What is wrong with a segment in the trash, and where.
    fn segment_of_the_past(&self, path: &Path, depth: Depth) -> Result<Option<(u64, String)>> {
        let segment = log::segment_at(&self.place, path)?;
        let verified = match depth {
            Depth::Quick => log::glance(&self.place, &segment)?,
            Depth::Deep => Some(log::verify(&self.place, &segment, u64::MAX, |_, _| {})?),
        };
        Ok(match verified {
            Some(verified) if verified.sealed => {
                verified.flaws.into_iter().next().map(|flaw| (flaw.offset, flaw.detail))
            }
            _ => Some((segment.len, "the segment is not sealed".to_owned())),
        })
    }
}

/// Whether this is about a file beside the log, which is mended without opening the store anew.
pub(super) fn is_beside(finding: &Finding) -> bool {
    [MEMORY_DB, BACKUP, BACKUP_MANIFEST, HISTORY, TRASH].contains(&finding.kind.as_str())
}

/// Mends what stands beside the log.
pub(super) fn mend_all(store: &Engine, findings: &[Finding]) -> Result<()> {
    for finding in findings.iter().filter(|finding| is_beside(finding)) {
        let path = store.home().join(&finding.file);
        match finding.kind.as_str() {
            HISTORY | TRASH => {
                let _standing = store.standing();
                if store.inner().disk().kind(&path)?.is_some() {
                    store.inner().put_away(&path, &finding.detail)?;
                }
            }
            kind => mend(store.inner(), kind, &path)?,
        }
    }
    Ok(())
}
