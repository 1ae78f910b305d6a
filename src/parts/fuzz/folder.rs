//! The folder of a whole store with any damage: opening, asking, checking, writing on, and opening again.
//!
//! An input is damage to one of a few sound stores, because nearly all of a folder's bytes are the view's, and a
//! mutation of an image of it would be wasted. What the store then says is held against what the sound one held.

use std::panic;

use super::super::disk::SimulatedDisk;
use super::Seeds;
use super::damage::{damage, mend};
use super::golden::{Content, Files, SAMPLES, Sample, content, open, placed};
use super::input::Input;
use super::stored::id;
use crate::check::CheckReport;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{Memory, Mode, Recall, Remember, Update};
use crate::store::Engine;

/// First byte, its low bits: which of the sound stores.
const SAMPLE: u8 = 3;
/// First byte: the store is killed where it would be closed.
const KILLED: u8 = 4;
/// First byte: the view is gone before the damage, so that the log is read.
const NO_VIEW: u8 = 8;
/// First byte: so is the manifest.
const NO_MANIFEST: u8 = 16;
/// First byte: checksums are set right after the damage. Then anything may be in the files, and nobody can tell; what
/// must hold is that the store does not panic, and keeps what it acknowledges.
const FORGED: u8 = 32;

/// The body of the target.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let first = input.byte();
    let number = usize::from(first & SAMPLE) % SAMPLES.len();
    let sample = &SAMPLES[number];
    let mut files = sample.files.clone();
    for (flag, name) in [(NO_VIEW, "view.redb"), (NO_MANIFEST, "MANIFEST")] {
        if first & flag != 0 {
            files.remove(name);
        }
    }
    let is_forged = first & FORGED != 0;
    damage(number, &mut files, &mut input, is_forged);
    if is_forged {
        mend(&mut files);
    }
    let history = History { sample: (!is_forged).then_some(sample), is_proven: is_proven(sample, &files) };
    let disk = placed(&files);
    let store = match open(&disk) {
        Ok(store) => store,
        Err(error) => return assert_expected(&error),
    };
    let is_told = ask(&store, &history);
    write_on(store, &disk, first & KILLED != 0, is_told || is_forged);
}

/// Leaves redb's own panics to the store, which takes them for damage of the view; all other panics end the process.
/// A fuzzer's hook would end it for those, too.
pub fn let_redb_panic() {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !info.location().is_some_and(|location| location.file().contains("/redb-")) {
            hook(info);
        }
    }));
}

/// Whether the files prove the last record that was acknowledged: the manifest of a closed store does, and so does its
/// view.
fn is_proven(sample: &Sample, files: &Files) -> bool {
    let is_whole = |name: &str| files.get(name) == sample.files.get(name);
    sample.is_closed && (is_whole("MANIFEST") || is_whole("view.redb"))
}

/// What the store held, and how much of it the damaged files still prove.
struct History<'a> {
    /// `None` when anything may be in the files.
    sample: Option<&'a Sample>,
    is_proven: bool,
}

impl History<'_> {
    /// A memory that is shown is byte for byte one that the store held at some time.
    fn assert_held(&self, memory: &Memory) {
        let Some(sample) = self.sample else { return };
        let is_held = |state: &Content| state.get(memory.id.as_str()) == Some(memory);
        assert!(sample.states.iter().any(is_held), "the store never held this: {memory:?}");
    }

    /// What is shown, when nobody is told of damage, is what the store held; where nothing proves the last records any
    /// more, what it held at an earlier moment.
    fn assert_all(&self, found: &Content) {
        let Some(sample) = self.sample else { return };
        let last = sample.states.last().expect("a state");
        if self.is_proven {
            assert!(found == last, "a wrong answer, and nobody is told: {:?}", differing(found, last));
        } else {
            assert!(
                sample.states.contains(found),
                "the store never held these: {:?}",
                differing(found, last)
            );
        }
    }
}

/// The ids that are not the same here and there, and whether they are there in each.
fn differing<'a>(one: &'a Content, other: &'a Content) -> Vec<(&'a String, bool, bool)> {
    let differing = one.keys().chain(other.keys()).filter(|id| one.get(*id) != other.get(*id));
    differing.map(|id| (id, one.contains_key(id), other.contains_key(id))).collect()
}

/// Asks in every way. Says whether anybody was told that something is wrong: by an error, by the check, or when the
/// store was opened and records were lost for good. What was healed from what else has it is not wrong any more.
fn ask(store: &Engine, history: &History<'_>) -> bool {
    let found = note(content(store));
    let report = note(store.check_stored());
    let is_lost = store.healed().iter().any(|healed| !healed.lost.is_empty());
    let mut is_told = is_lost || found.is_none() || report.as_ref().is_none_or(is_damaged);
    for memory in found.iter().flat_map(Content::values) {
        history.assert_held(memory);
    }
    for name in ["golden-1", "golden-2", "golden-5", "golden-6", "later-2", "nobody"] {
        match note(store.get(name)) {
            None => is_told = true,
            Some(got) => {
                got.iter().for_each(|memory| history.assert_held(memory));
                let listed = found.as_ref().map(|found| found.get(name));
                assert!(listed.is_none_or(|listed| listed == got.as_ref()), "get and list differ for {name}");
            }
        }
    }
    let recalls = [
        Recall::new("The text has changed").mode(Mode::Text),
        Recall::new("The text has changed").mode(Mode::Hybrid),
        Recall::by_vector(vec![3.0, -4.0]),
    ];
    for recall in recalls {
        match store.recall(recall.topk(100).timeout(None)) {
            Ok(answer) => answer.results.iter().for_each(|found| history.assert_held(&found.memory)),
            // At an earlier moment the store used another model, or none.
            Err(error) if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Model) => {}
            Err(error) => {
                assert_expected(&error);
                is_told = true;
            }
        }
    }
    if let Some(found) = found.filter(|_| !is_told) {
        history.assert_all(&found);
    }
    is_told
}

/// Writes, and looks for it after another opening.
fn write_on(store: Engine, disk: &SimulatedDisk, is_killed: bool, is_told: bool) {
    let before = note(content(&store));
    let acknowledged = note(store.remember(Remember::new("What came after.").id(id("after")).at(7)));
    let is_updated = note(store.update("golden-2", Update::new().importance(1.0))).is_some();
    let is_forgotten = note(store.forget(["golden-1"])).is_some();
    let after = note(content(&store));
    if let (Some(mut expected), Some(after)) = (before, &after) {
        if acknowledged.is_some() {
            expected.insert("after".to_owned(), after["after"].clone());
        }
        if is_updated {
            expected.get_mut("golden-2").expect("it was updated").importance = 1.0;
        }
        if is_forgotten {
            expected.remove("golden-1");
        }
        assert!(*after == expected, "writes changed something else: {:?}", differing(after, &expected));
    }
    let disk = if is_killed {
        let image = disk.image();
        drop(store);
        SimulatedDisk::of(image)
    } else {
        // All that was acknowledged is durable nevertheless.
        let _ = store.close();
        disk.clone()
    };
    let store = match open(&disk) {
        Ok(store) => store,
        Err(error) => {
            assert!(is_told, "a store without damage does not open again: {error:?}");
            return assert_expected(&error);
        }
    };
    let again = note(content(&store));
    if let (Some(after), Some(again)) = (&after, &again) {
        assert!(again == after, "another opening holds something else: {:?}", differing(again, after));
    }
    if acknowledged.is_some()
        && let Some(got) = note(store.get("after"))
    {
        assert_eq!(got.expect("it was acknowledged").text, "What came after.");
    }
    if !is_told {
        assert!(again.is_some() && after.is_some(), "a store without damage does not answer");
        let report = store.check_stored().expect("a store without damage can be checked");
        assert!(!is_damaged(&report), "a store without damage has some after a write: {:?}", report.findings);
    }
}

fn is_damaged(report: &CheckReport) -> bool {
    !report.findings.is_empty()
}

/// The answer, when it is no error, which must be an expected one.
fn note<T>(result: Result<T>) -> Option<T> {
    result.map_err(|error| assert_expected(&error)).ok()
}

/// What a damaged store may answer; all else would be a defect or a problem of the disk, which has none.
fn assert_expected(error: &Error) {
    let expected = [
        ErrorKind::Corrupt,
        ErrorKind::UnknownFormat,
        ErrorKind::ForeignStore,
        ErrorKind::NotFound,
        ErrorKind::Permission,
        // Files in memory are short, and a forged length asks for more.
        ErrorKind::NoSpace,
    ];
    assert!(expected.contains(&error.kind()), "{error:?}");
}

pub(super) fn seeds() -> Seeds {
    vec![
        ("sound", vec![0]),
        ("killed", vec![1 | KILLED]),
        ("closed", vec![2]),
        ("no-view", vec![2 | NO_VIEW]),
        ("log-alone", vec![2 | NO_VIEW | NO_MANIFEST]),
        // Bits of each file.
        ("flipped-segment", vec![2, 0, 2, 10, 16, 0, 3]),
        ("flipped-view", vec![2, 0, 4, 10, 16, 0, 3]),
        ("flipped-manifest", vec![2 | NO_VIEW, 0, 1, 30, 0, 0, 1]),
        ("scrambled-block", vec![2 | NO_MANIFEST, 3, 4, 2, 1]),
        ("zeroed", vec![1, 2, 3, 0, 17, 0, 200, 0]),
        ("cut", vec![2 | NO_MANIFEST, 4, 3, 0x88, 0x13, 0]),
        ("extended", vec![2 | KILLED, 5, 3, 200, 0, 7]),
        ("lost-segment", vec![2, 6, 2]),
        ("swapped", vec![2, 7, 2, 3]),
        ("copied", vec![2, 8, 2, 4]),
        ("older-view-older-manifest", vec![2, 9, 4, 0, 9, 1, 0]),
        ("older-log", vec![2, 9, 3, 0]),
        ("doubled-segment", vec![2, 10, 3, 3, 0x1d]),
        ("record-twice", vec![2 | NO_VIEW, 11, 3, 0, 16, 0, 96, 0, 96, 16, 0, 3]),
        ("forged-text", [&[2 | FORGED | NO_VIEW | NO_MANIFEST, 12, 2, 80, 2, 0, 4][..], b"evil"].concat()),
        ("forged-header", [&[2 | FORGED, 12, 2, 8, 0, 0, 2][..], &[2, 0]].concat()),
        ("forged-manifest", [&[2 | FORGED | NO_VIEW, 12, 1, 40, 0, 0, 4][..], &[0xff; 4]].concat()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask_about(files: &Files, history: &History<'_>) {
        let store = open(&placed(files)).expect("it looks sound");
        ask(&store, history);
    }

    #[test]
    #[should_panic(expected = "the store never held this")]
    fn a_text_that_was_never_stored_is_noticed() {
        let sample = &SAMPLES[2];
        let mut files = sample.files.clone();
        files.retain(|name, _| name.starts_with("seg/"));
        let segment =
            files.get_mut("seg/0000000000000002-000000000000000e.mseg").expect("the second segment");
        let text = b"The last one.";
        let at = segment.windows(text.len()).position(|bytes| bytes == text).expect("it was stored");
        segment[at + 4] = b'f';
        mend(&mut files);
        ask_about(&files, &History { sample: Some(sample), is_proven: false });
    }

    #[test]
    #[should_panic(expected = "a wrong answer, and nobody is told")]
    fn what_is_missing_without_a_word_is_noticed() {
        ask_about(&SAMPLES[0].files, &History { sample: Some(&SAMPLES[2]), is_proven: true });
    }

    #[test]
    fn an_earlier_moment_is_allowed_where_nothing_proves_a_later_one() {
        ask_about(&SAMPLES[0].files, &History { sample: Some(&SAMPLES[2]), is_proven: false });
    }
}
