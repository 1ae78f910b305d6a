//! A failure as a line of `failures.log`, written and read. Spec: `format-spec/failures.md`.

use std::fmt::Write;

use serde::Serialize;

use super::words::{Deed, Kind, shown_file};
use super::{Failure, Lost};
use crate::time;

/// Most files that a line names.
const FILES_MAX: usize = 8;

/// A failure as `failures.log` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Logged {
    /// When it was found, in Unix seconds.
    pub when: i64,
    /// `io`, `damaged` or `lost`.
    pub class: &'static str,
    /// What failed: the name of a [`Kind`].
    pub kind: &'static str,
    /// The last sequence that was known to be sound.
    pub seq: Option<u64>,
    /// The files, relative to the home; what the program did not name itself, by what it is.
    pub files: Vec<String>,
    /// What was done, such as `healed:1`.
    pub done: Vec<String>,
    /// How many records are lost for good; 0: nobody can know how many. None: none is.
    pub lost: Option<u64>,
    /// What makes it the same failure as another one.
    pub fingerprint: String,
}

impl Logged {
    /// The failure of a line; none when the line is something else.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (time, message) = line.strip_prefix('[')?.split_once("] ")?;
        let when = time::parse_absolute(time).ok()?;
        let mut words = message.split(' ');
        let class = words.next()?;
        let kind = Kind::named(words.next()?).filter(|kind| kind.class().name() == class)?;
        let mut logged = Self {
            when,
            class: kind.class().name(),
            kind: kind.name(),
            seq: None,
            files: Vec::new(),
            done: Vec::new(),
            lost: None,
            fingerprint: String::new(),
        };
        for word in words {
            let (name, value) = word.split_once('=')?;
            match name {
                "seq" => logged.seq = Some(value.parse().ok()?),
                "files" => logged.files = value.split(',').map(|file| shown_file(file).to_owned()).collect(),
                "done" => {
                    let deeds = value.split(',').map(|part| is_deed(part).then(|| part.to_owned()));
                    logged.done = deeds.collect::<Option<_>>()?;
                }
                "lost" => logged.lost = Some(value.parse().ok()?),
                "fingerprint" => logged.fingerprint = is_fingerprint(value).then(|| value.to_owned())?,
                // A later version may say more.
                _ => {}
            }
        }
        Some(logged)
    }
}

/// The line of a failure, without its time.
pub(super) fn of_failure(failure: &Failure) -> String {
    let mut line = format!("{} {}", failure.class().name(), failure.kind.name());
    if let Some(seq) = failure.seq {
        let _ = write!(line, " seq={seq}");
    }
    if !failure.files.is_empty() {
        let _ = write!(line, " files={}", shown_files(&failure.files).join(","));
    }
    if failure.files.len() > FILES_MAX {
        let _ = write!(line, " more_files={}", failure.files.len() - FILES_MAX);
    }
    if !failure.done.is_empty() {
        let deeds: Vec<String> =
            failure.done.iter().map(|(deed, count)| format!("{}:{count}", deed.name())).collect();
        let _ = write!(line, " done={}", deeds.join(","));
    }
    if let Some(Lost { records, seqs, window_ms }) = failure.lost {
        let _ = write!(line, " lost={records}");
        if let Some((first, last)) = seqs {
            let _ = write!(line, " lost_seqs={first}-{last}");
        }
        if let Some((after, until)) = window_ms {
            let _ = write!(line, " lost_after={} lost_until={}", rfc_3339(after), rfc_3339(until));
        }
    }
    let _ = write!(line, " fingerprint={}", failure.fingerprint());
    line
}

/// The first files as they may be told.
pub(super) fn shown_files(files: &[String]) -> Vec<&str> {
    files.iter().take(FILES_MAX).map(|file| shown_file(file)).collect()
}

/// A time of the vocabulary's kind: nothing but digits and the signs of RFC 3339.
pub(super) fn rfc_3339(ms: i64) -> String {
    time::format_time(ms.div_euclid(1000))
}

/// Whether a word of a line is a deed with its count.
pub(super) fn is_deed(word: &str) -> bool {
    word.split_once(':')
        .is_some_and(|(deed, count)| Deed::named(deed).is_some() && count.parse::<u64>().is_ok())
}

/// Whether a word is a fingerprint.
pub(super) fn is_fingerprint(word: &str) -> bool {
    word.len() == 12 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Failure {
        Failure::new(Kind::StoreGone, 1_771_329_600_123)
            .file("store")
            .file("a memory's text\nand more")
            .seq(7)
            .done(Deed::Restored, 1)
            .done(Deed::Replayed, 20)
            .lost(Lost {
                records: 3,
                seqs: Some((8, 10)),
                window_ms: Some((1_771_326_000_000, 1_771_329_600_000)),
            })
    }

    #[test]
    fn a_line_says_what_when_where_and_what_was_done() {
        let fingerprint = failure().fingerprint();
        assert_eq!(
            of_failure(&failure()),
            format!(
                "lost store_gone seq=7 files=store,other done=restored:1,replayed:20 lost=3 lost_seqs=8-10 \
                 lost_after=2026-02-17T11:00:00Z lost_until=2026-02-17T12:00:00Z fingerprint={fingerprint}"
            )
        );
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let line = format!("[2026-02-17T12:00:00Z] {}", of_failure(&failure()));
        let logged = Logged::parse(&line).expect("a failure");
        assert_eq!((logged.when, logged.class, logged.kind), (1_771_329_600, "lost", "store_gone"));
        assert_eq!((logged.seq, logged.lost), (Some(7), Some(3)));
        assert_eq!(logged.files, ["store", "other"]);
        assert_eq!(logged.done, ["restored:1", "replayed:20"]);
        assert_eq!(logged.fingerprint, failure().fingerprint());
    }

    #[test]
    fn other_lines_are_no_failures() {
        for line in [
            "",
            "[2026-02-17T12:00:00Z] Issue #12: store_gone (opened)",
            "[2026-02-17T12:00:00Z] io store_gone seq=1",
            "[2026-02-17T12:00:00Z] lost store_gone seq=many",
            "[2026-02-17T12:00:00Z] lost store_gone done=dance:1",
            "[yesterday] lost store_gone",
            "lost store_gone",
        ] {
            assert_eq!(Logged::parse(line), None, "{line}");
        }
    }

    #[test]
    fn many_files_are_counted() {
        let failure = (1..20).fold(Failure::new(Kind::SegmentDamaged, 0), |failure, number| {
            failure.file(format!("store/seg/{number:010}.mseg"))
        });
        let line = of_failure(&failure);
        assert!(line.contains("0000000008.mseg more_files=11 "), "{line}");
    }
}
