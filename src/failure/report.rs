//! What is told about a failure: the title and body of an issue, comments, and the JSON that an alert gets.
//!
//! Everything here is put together from an allow-list: numbers, times, words of our vocabulary, names of files that the
//! program gave, and lines of our own logs in which every word is one of those. No line is taken for being harmless.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use super::line::{self, rfc_3339};
use super::state::Report;
use super::words::{Deed, Kind, shown_file};
use super::{Failure, Lost};
use crate::error::ErrorKind;
use crate::logs::{self, Log};
use crate::time;

/// Lines of each log that an issue shows.
const LINES_MAX: usize = 20;
/// Bytes at the end of a log that they are looked for in.
const TAIL_LEN: usize = 16 << 10;

/// What the issue is marked with, besides the words of the failure.
pub(super) const LABELS: [&str; 3] = ["critical", "bug", "memory-system"];

/// An issue as it would be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Draft {
    /// Its title.
    pub title: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// Who gets it.
    pub assignees: Vec<String>,
    /// Its text, in Markdown.
    pub body: String,
    /// What makes the failure the same as another one.
    pub fingerprint: String,
    /// The issue that it has become already, as `owner/name#number`.
    pub issue: Option<String>,
    /// Whether it waits to be sent.
    pub queued: bool,
}

/// What is the same in every text about this home.
pub(super) struct About<'a> {
    pub(super) home: &'a Path,
    /// The random name of this home.
    pub(super) reporter: &'a str,
}

/// `Memento Failure: segment_damaged at 2026-11-23T01:02Z`, as the original has it.
pub(super) fn title(report: &Report) -> String {
    let minute: String = rfc_3339(report.last_ms).chars().take("2026-11-23T01:02".len()).collect();
    format!("Memento Failure: {} at {minute}Z", kind_name(report))
}

/// The body of a new issue.
pub(super) fn body(report: &Report, about: &About<'_>) -> String {
    let mut body = "## Automatic Failure Report\n\n".to_owned();
    body.push_str(&facts(report));
    body.push_str("\n### Logs\n\n");
    for log in [Log::Failures, Log::Health] {
        let _ = writeln!(body, "`{}`, where nothing but words of the program stand:\n", log.file_name());
        let lines = excerpt(&logs::tail(about.home, log, TAIL_LEN).unwrap_or_default());
        let _ = writeln!(body, "```text\n{lines}```\n");
    }
    body.push_str(CHECKLIST);
    let _ = write!(
        body,
        "\n### System Info\n\n- memento-kv {}\n- {} on {}\n\n---\n\nThis issue was made by a health run of memento-kv. \
         It is put together from figures and fixed words: no memory, no path and no name of a machine or a person is \
         in it. It is closed by the first run that finds nothing wrong.\n\n{}\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
        mark(report, about.reporter)
    );
    body
}

/// What an issue is found again by.
pub(super) fn mark(report: &Report, reporter: &str) -> String {
    let fingerprint = if line::is_fingerprint(&report.fingerprint) { &report.fingerprint } else { "unknown" };
    format!("<!-- memento-kv failure {fingerprint} of {reporter} -->")
}

/// A comment: it happened again.
pub(super) fn again(report: &Report) -> String {
    format!("It happened again.\n\n{}", facts(report))
}

/// A comment: a later run found nothing wrong.
pub(super) fn over(report: &Report) -> String {
    let when = report.healthy_ms.unwrap_or(report.last_ms);
    format!(
        "A health run at {} found nothing wrong. The failure was found {}, the last time at {}.",
        rfc_3339(when),
        times(report.count),
        rfc_3339(report.last_ms)
    )
}

const CHECKLIST: &str = "\
### Checklist

- [ ] Investigate the root cause: the log above, the disk, what was done to the files
- [ ] Verify what was restored: `memento-kv check --deep`
- [ ] Test the operations: `memento-kv remember`, `memento-kv recall`
- [ ] Fix what caused it
- [ ] Back up the fixed state: `memento-kv backup`
";

/// The facts, a line each.
fn facts(report: &Report) -> String {
    let class = report.kind().map_or("unknown", |kind| kind.class().name());
    let mut facts =
        format!("- **Time:** {}\n- **Type:** {} ({class})\n", rfc_3339(report.last_ms), kind_name(report),);
    if let Some(kind) = report.kind() {
        let _ = writeln!(facts, "- **What happened:** {}", kind.sentence());
    }
    let files: Vec<&str> = report.files.iter().map(|file| shown_file(file)).collect();
    if !files.is_empty() {
        let _ = writeln!(facts, "- **Files:** {}", files.join(", "));
    }
    if let Some(seq) = report.seq {
        let _ = writeln!(facts, "- **Last sound sequence:** {seq}");
    }
    let deeds: Vec<String> =
        report.deeds().map(|(deed, count)| format!("{} ({count})", deed.name())).collect();
    let done = if deeds.is_empty() { Deed::Nothing.name().to_owned() } else { deeds.join(", ") };
    let _ = writeln!(facts, "- **What was done:** {done}");
    let _ = writeln!(facts, "- **Lost for good:** {}", lost_sentence(report.lost()));
    let _ = writeln!(facts, "- **Found:** {}, first at {}", times(report.count), rfc_3339(report.first_ms));
    facts
}

fn lost_sentence(lost: Option<Lost>) -> String {
    let Some(Lost { records, seqs, window_ms }) = lost else { return "nothing that is known".to_owned() };
    let mut sentence = match records {
        0 => "some records, how many is not known".to_owned(),
        1 => "1 record".to_owned(),
        many => format!("{many} records"),
    };
    if let Some((first, last)) = seqs {
        let _ = write!(sentence, ", sequences {first} to {last}");
    }
    if let Some((after, until)) = window_ms {
        let _ = write!(sentence, ", written after {} and until {}", rfc_3339(after), rfc_3339(until));
    }
    sentence
}

fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

fn kind_name(report: &Report) -> &'static str {
    report.kind().map_or("failure", Kind::name)
}

/// The last lines that are ours.
fn excerpt(log: &str) -> String {
    let ours: Vec<&str> = log.lines().filter_map(ours).collect();
    let mut lines = String::new();
    for line in &ours[ours.len().saturating_sub(LINES_MAX)..] {
        let _ = writeln!(lines, "{line}");
    }
    let left_out = log.lines().count() - ours.len();
    if left_out > 0 {
        let _ = writeln!(lines, "(left out: {left_out})");
    }
    lines
}

/// Names of what a line of our logs says, before a `=`.
const NAMES: [&str; 31] = [
    "status",
    "check",
    "seq",
    "files",
    "more_files",
    "done",
    "lost",
    "lost_seqs",
    "lost_after",
    "lost_until",
    "fingerprint",
    "memories",
    "findings",
    "mend",
    "restore",
    "spool",
    "embed",
    "snapshot",
    "backup",
    "backups",
    "index",
    "logs",
    "disk",
    "clock",
    "note",
    "metrics",
    "failures",
    "why",
    "backup_age",
    "free_mb",
    "took_ms",
];

/// Words of our logs that stand behind a `=`.
const WORDS: [&str; 18] = [
    "ok", "nothing", "running", "healed", "failed", "busy", "damaged", "lost", "decision", "done", "would",
    "skipped", "warning", "quick", "deep", "files", "none", "unknown",
];

/// Kinds of errors, which stand there, too.
const ERRORS: [ErrorKind; 22] = [
    ErrorKind::Invalid,
    ErrorKind::TooLarge,
    ErrorKind::NotFound,
    ErrorKind::Conflict,
    ErrorKind::NoSpace,
    ErrorKind::ReadOnly,
    ErrorKind::Permission,
    ErrorKind::Busy,
    ErrorKind::OwnerUnresponsive,
    ErrorKind::VersionSkew,
    ErrorKind::ForkedHandle,
    ErrorKind::Timeout,
    ErrorKind::CommitUnknown,
    ErrorKind::Poisoned,
    ErrorKind::Io,
    ErrorKind::Corrupt,
    ErrorKind::UnknownFormat,
    ErrorKind::ForeignStore,
    ErrorKind::Gone,
    ErrorKind::Model,
    ErrorKind::Config,
    ErrorKind::Refused,
];

/// How a line of `health.log` may begin, before its first `name=value`.
const BEGINNINGS: [&str; 8] = [
    "health check passed:",
    "health check passed after healing:",
    "health check left to another run:",
    "health check failed:",
    "health check found the store busy:",
    "CRITICAL health check found damage:",
    "CRITICAL health check found a loss:",
    "CRITICAL health check needs a decision:",
];

/// The line, up to what it may add for people, when all of that is a time, figures, words of the program and files that it
/// named.
fn ours(line: &str) -> Option<&str> {
    let line = line.split("; ").next().unwrap_or(line);
    let (time, message) = line.strip_prefix('[')?.split_once("] ")?;
    (is_time(time) && (is_issue(message) || is_said(message))).then_some(line)
}

/// Whether it is `Issue #12: store_gone (opened)`.
fn is_issue(message: &str) -> bool {
    let words: Vec<&str> = message.split(' ').collect();
    let [issue, number, kind, what] = words[..] else { return false };
    let number = number.strip_prefix('#').and_then(|number| number.strip_suffix(':'));
    issue == "Issue"
        && number.is_some_and(is_figure)
        && Kind::named(kind).is_some()
        && ["(opened)", "(commented)", "(closed)", "(reopened)"].contains(&what)
}

/// Whether it is a beginning of ours and then nothing but names with values.
fn is_said(message: &str) -> bool {
    let rest = match BEGINNINGS.iter().find_map(|beginning| message.strip_prefix(beginning)) {
        Some(rest) => rest,
        None => {
            let mut words = message.splitn(3, ' ');
            let (class, kind) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            if Kind::named(kind).is_none_or(|kind| kind.class().name() != class) {
                return false;
            }
            &message[class.len() + 1 + kind.len()..]
        }
    };
    rest.split(' ').skip(1).all(|word| {
        word.split_once('=')
            .is_some_and(|(name, value)| NAMES.contains(&name) && value.split(',').all(is_our_value))
    }) && (rest.is_empty() || rest.starts_with(' '))
}

fn is_our_value(word: &str) -> bool {
    WORDS.contains(&word)
        || ERRORS.iter().any(|kind| kind.name() == word)
        || line::is_deed(word)
        || is_figure(word)
        || is_time(word)
        || line::is_fingerprint(word)
        || shown_file(word) == word
}

/// A number, a range of two, with a unit or a `#`; never longer than a number is.
fn is_figure(word: &str) -> bool {
    // A clock that was set back makes an age negative.
    let word = word.strip_prefix('-').unwrap_or(word);
    let unit = word.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'));
    word.len() <= 41
        && word.starts_with(|c: char| c.is_ascii_digit())
        && matches!(unit, "" | "ms" | "s" | "h" | "d" | "B" | "KiB" | "MiB" | "GiB" | "TiB" | "%")
}

fn is_time(word: &str) -> bool {
    word.len() <= 30 && word.contains('T') && word.ends_with('Z') && time::parse_absolute(word).is_ok()
}

/// The JSON that a command gets on its standard input.
#[derive(Debug, Serialize)]
pub(super) struct Alert<'a> {
    title: String,
    when: String,
    version: &'static str,
    failures: Vec<AlertFailure<'a>>,
}

#[derive(Debug, Serialize)]
struct AlertFailure<'a> {
    class: &'static str,
    kind: &'static str,
    what: &'static str,
    when: String,
    files: Vec<&'a str>,
    seq: Option<u64>,
    done: Vec<AlertDeed>,
    lost: Option<AlertLost>,
    /// How often it was found; None: the state file could not be read.
    count: Option<u64>,
    fingerprint: String,
}

#[derive(Debug, Serialize)]
struct AlertDeed {
    what: &'static str,
    count: u64,
}

#[derive(Debug, Serialize)]
struct AlertLost {
    records: u64,
    first_seq: Option<u64>,
    last_seq: Option<u64>,
    after: Option<String>,
    until: Option<String>,
}

/// What a command is told; `count` says how often a fingerprint was found.
pub(super) fn alert<'a>(
    failures: &'a [Failure],
    now_ms: i64,
    count: impl Fn(&str) -> Option<u64>,
) -> Alert<'a> {
    let of = |failure: &'a Failure| {
        let fingerprint = failure.fingerprint();
        AlertFailure {
            class: failure.class().name(),
            kind: failure.kind.name(),
            what: failure.kind.sentence(),
            when: rfc_3339(failure.when_ms),
            files: line::shown_files(&failure.files),
            seq: failure.seq,
            done: failure
                .done
                .iter()
                .map(|(deed, count)| AlertDeed { what: deed.name(), count: *count })
                .collect(),
            lost: failure.lost.map(|lost| AlertLost {
                records: lost.records,
                first_seq: lost.seqs.map(|seqs| seqs.0),
                last_seq: lost.seqs.map(|seqs| seqs.1),
                after: lost.window_ms.map(|window| rfc_3339(window.0)),
                until: lost.window_ms.map(|window| rfc_3339(window.1)),
            }),
            count: count(&fingerprint),
            fingerprint,
        }
    };
    let mut kinds: Vec<&str> = failures.iter().map(|failure| failure.kind.name()).collect();
    kinds.dedup();
    Alert {
        title: format!("Memento Failure: {}", kinds.join(", ")),
        when: rfc_3339(now_ms),
        version: env!("CARGO_PKG_VERSION"),
        failures: failures.iter().map(of).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::State;
    use super::*;

    const NOW_MS: i64 = 1_771_329_600_000; // 2026-02-17T12:00:00Z

    fn report() -> Report {
        let mut state = State::default();
        let failure = Failure::new(Kind::SegmentDamaged, NOW_MS)
            .file("store/seg/0000000007.mseg")
            .file("backups/why I left my job.db")
            .seq(99)
            .done(Deed::Healed, 2)
            .lost(Lost { records: 3, seqs: Some((4, 6)), window_ms: Some((NOW_MS - 60_000, NOW_MS)) });
        state.found(&[failure], NOW_MS, true);
        state.reports.remove(0)
    }

    #[test]
    fn an_issue_has_facts_logs_checklist_and_system() {
        let home = tempfile::tempdir().expect("a temporary folder");
        logs::append(home.path(), Log::Failures, NOW_MS, "damaged segment_damaged seq=99 done=healed:2")
            .expect("log");
        logs::append(home.path(), Log::Failures, NOW_MS, "my divorce is through").expect("log");
        logs::append(home.path(), Log::Health, NOW_MS, "health check passed: seq=99 memories=12")
            .expect("log");
        let body = body(&report(), &About { home: home.path(), reporter: "0123456789abcdef" });
        assert_eq!(title(&report()), "Memento Failure: segment_damaged at 2026-02-17T12:00Z");
        for part in [
            "- **Time:** 2026-02-17T12:00:00Z\n",
            "- **Type:** segment_damaged (damaged)\n",
            "- **Files:** store/seg/0000000007.mseg, backup\n",
            "- **What was done:** healed (2)\n",
            "- **Lost for good:** 3 records, sequences 4 to 6, written after 2026-02-17T11:59:00Z and until 2026-02-17T12:00:00Z\n",
            "- **Found:** once, first at",
            "[2026-02-17T12:00:00Z] damaged segment_damaged seq=99 done=healed:2\n(left out: 1)\n",
            "[2026-02-17T12:00:00Z] health check passed: seq=99 memories=12\n",
            "- [ ] Back up the fixed state",
            std::env::consts::ARCH,
            "<!-- memento-kv failure ",
        ] {
            assert!(body.contains(part), "{part:?} in\n{body}");
        }
        for word in ["divorce", "job", home.path().to_str().expect("a path")] {
            assert!(!body.contains(word), "{word} in\n{body}");
        }
        assert_eq!(body.matches("- [ ]").count(), 5);
    }

    #[test]
    fn a_line_is_ours_when_every_word_is() {
        for line in [
            "lost store_gone seq=7 files=store,memory.db done=restored:1,replayed:20 lost=3 lost_seqs=8-10 \
             lost_after=2026-02-17T11:00:00Z fingerprint=0123456789ab",
            "damaged segment_damaged files=store/seg/0000000007-00000000000000000041.mseg,other",
            "Issue #12: store_gone (opened)",
            "health check passed: status=ok check=quick seq=12 memories=9 backup=done backup_age=-1s free_mb=12345 took_ms=40",
            "CRITICAL health check found a loss: status=lost lost=unknown took_ms=1",
            "health check passed after healing: status=healed backups=warning backup=done took_ms=1",
            "CRITICAL health check needs a decision: status=decision check=none why=permission,io took_ms=1",
        ] {
            let line = format!("[2026-02-17T12:00:00Z] {line}");
            assert_eq!(ours(&line), Some(line.as_str()));
        }
        let cut = ours(
            "[2026-02-17T12:00:00Z] CRITICAL health check found a loss: lost=1; what she said about him",
        );
        assert_eq!(cut, Some("[2026-02-17T12:00:00Z] CRITICAL health check found a loss: lost=1"));
        for line in [
            "",
            "ok",
            "found the store",
            "lost store_gone hunter2",
            "damaged store_gone seq=1",
            "health check passed: hunter2",
            "health check passed:hunter2=1",
            "health check passed: password=1",
            "health check passed: seq=hunter2",
            "health check passed: seq=12hunter",
            "health check passed: files=/home/ann/x",
            "health check passed: files=backups/ann.db",
            "health check passed: ```",
            "health check passed: seq=4111111111111111411111111111111141111111111",
            "Issue #x: store_gone (opened)",
            "Issue #1: my_secret (opened)",
        ] {
            assert_eq!(ours(&format!("[2026-02-17T12:00:00Z] {line}")), None, "{line}");
        }
        assert_eq!(ours("[my secret Z] lost store_gone"), None);
    }

    #[test]
    fn a_report_that_was_tampered_with_tells_nothing_but_our_words() {
        let mut report = report();
        report.kind = "secret_kind".to_owned();
        report.fingerprint = "secret --> <b>".to_owned();
        report.files = vec!["secret.txt".to_owned()];
        report.done = vec![("secret".to_owned(), 1)];
        let about = About { home: Path::new("/nowhere"), reporter: "0123456789abcdef" };
        let texts = [title(&report), body(&report, &about), again(&report), over(&report)];
        assert!(texts.iter().all(|text| !text.contains("secret")), "{texts:?}");
    }

    #[test]
    fn an_alert_is_json_of_words_and_figures() {
        let failure = Failure::new(Kind::StoreGone, NOW_MS)
            .file("a secret")
            .done(Deed::Restored, 1)
            .lost(Lost { records: 0, seqs: None, window_ms: Some((NOW_MS - 1000, NOW_MS)) });
        let failures = [failure];
        let json = serde_json::to_value(alert(&failures, NOW_MS, |_| Some(2))).expect("JSON");
        assert_eq!(json["title"], "Memento Failure: store_gone");
        let first = &json["failures"][0];
        assert_eq!(first["class"], "lost");
        assert_eq!(first["files"], serde_json::json!(["other"]));
        assert_eq!(first["done"], serde_json::json!([{"what": "restored", "count": 1}]));
        assert_eq!(first["lost"]["after"], "2026-02-17T11:59:59Z");
        assert_eq!(first["count"], 2);
    }
}
