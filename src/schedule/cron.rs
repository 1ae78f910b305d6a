//! The user's crontab as bytes: our block in it, and everything else untouched.

use super::{Job, Rhythm};
use crate::error::{Error, ErrorKind, Result};

/// Added to the first line when the line before had no end, so that taking the block out gives that back, too.
const UNENDED: &str = " (the line before had no end)";

/// Our lines.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a path with a backslash: the cron programs do not agree on what that is.
pub(super) fn block(job: &Job) -> Result<String> {
    if job.program().contains('\\') || job.home().contains('\\') {
        return Err(Error::new(ErrorKind::Invalid, "a crontab cannot name a path with a backslash")
            .hint("use --install systemd, or move it to a place with a plain name"));
    }
    let command =
        format!("{} --home {} health --quiet >/dev/null", quoted(job.program()), quoted(job.home()));
    let times = match job.rhythm() {
        Rhythm::Hours(1) => "0 * * * *".to_owned(),
        Rhythm::Hours(hours) => format!("0 */{hours} * * *"),
        Rhythm::Daily => "0 3 * * *".to_owned(),
        Rhythm::Weekly => "0 3 * * 1".to_owned(),
    };
    // A run that was missed because the machine was off is made up when it starts.
    Ok(format!("{}\n{times} {command}\n@reboot {command}\n{}\n", begin(job), end(job)))
}

/// The crontab with our block at its end, in place of an earlier one.
pub(super) fn with(crontab: &[u8], job: &Job) -> Result<Vec<u8>> {
    let (mut text, _) = without(crontab, job)?;
    let mut block = block(job)?;
    if text.last().is_some_and(|last| *last != b'\n') {
        text.push(b'\n');
        block.insert_str(begin(job).len(), UNENDED);
    }
    text.extend_from_slice(block.as_bytes());
    Ok(text)
}

/// The crontab without our block, and the lines that are taken out.
///
/// # Errors
/// [`ErrorKind::Conflict`] when only one end of a block is there: where the other was, nobody knows.
pub(super) fn without(crontab: &[u8], job: &Job) -> Result<(Vec<u8>, String)> {
    let (begin, end) = (begin(job), end(job));
    let (mut kept, mut out) = (Vec::with_capacity(crontab.len()), String::new());
    let mut within = false;
    for line in crontab.split_inclusive(|byte| *byte == b'\n') {
        let bare = line.strip_suffix(b"\n").unwrap_or(line);
        let unended = bare.strip_prefix(begin.as_bytes()).is_some_and(|rest| rest == UNENDED.as_bytes());
        let begins = bare == begin.as_bytes() || unended;
        let ends = bare == end.as_bytes();
        if begins == within && (begins || ends) || ends && !within {
            return Err(broken());
        }
        within |= begins;
        if !within {
            kept.extend_from_slice(line);
            continue;
        }
        if unended && kept.last() == Some(&b'\n') {
            kept.pop();
        }
        out.push_str(&String::from_utf8_lossy(line));
        within = !ends;
    }
    if within { Err(broken()) } else { Ok((kept, out)) }
}

fn broken() -> Error {
    Error::new(ErrorKind::Conflict, "the crontab has one end of the lines of memento-kv and not the other")
        .hint("take what is left of them out with `crontab -e`, then try again")
}

fn begin(job: &Job) -> String {
    format!("# >>> memento-kv health {}: `memento-kv health --uninstall` takes these lines out", job.id())
}

fn end(job: &Job) -> String {
    format!("# <<< memento-kv health {}", job.id())
}

/// A word for `/bin/sh`, in a line of a crontab, where `%` would end the command.
fn quoted(word: &str) -> String {
    let word = word.replace('\'', "'\"'\"'").replace('%', "\\%");
    format!("'{word}'")
}
