//! Auto-memory through the public API: what is kept, what is not, and what of it can be measured without foreign data.

use memento_kv::capture::training::{score, tags};
use memento_kv::capture::{CaptureOptions, CapturedAs, Capturer, Exchange, Kind, Role, Trust};
use memento_kv::embed::ModelSpec;
use memento_kv::{ErrorKind, Filter, List, Options, Recall, Remember, Store};
use tempfile::TempDir;

fn store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = Options::at(folder.path()).model(ModelSpec::None).background_embedding(false);
    let store = Store::open(options).expect("a new store");
    (folder, store)
}

struct Turn {
    is_agent: bool,
    label: Option<Kind>,
    text: String,
}

fn turns(name: &str) -> Vec<Turn> {
    let path = format!("{}/benches/capture_data/{name}.tsv", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let turn = |line: &str| {
        let mut fields = line.splitn(3, '\t');
        let (role, label, text) = (fields.next().unwrap(), fields.next().unwrap(), fields.next().unwrap());
        assert!(label == "-" || Kind::named(label).is_some(), "{line}");
        Turn { is_agent: role == "a", label: Kind::named(label), text: text.to_owned() }
    };
    text.lines().map(turn).collect()
}

#[test]
fn of_turns_that_it_was_not_made_on_it_keeps_the_right_ones() {
    for (name, precision_min, recall_min) in [("train", 0.9, 0.85), ("held", 0.8, 0.7)] {
        let (mut kept, mut right, mut worth, mut kinds) = (0, 0, 0, 0);
        let mut wrong = Vec::new();
        for turn in turns(name) {
            let (score, kind) = score(&turn.text, turn.is_agent);
            let is_kept = score >= 0.5;
            kept += usize::from(is_kept);
            worth += usize::from(turn.label.is_some());
            right += usize::from(is_kept && turn.label.is_some());
            kinds += usize::from(is_kept && turn.label.is_some() && turn.label == kind);
            if is_kept != turn.label.is_some() || (turn.label.is_some() && turn.label != kind) {
                wrong.push(format!("{score:.2} {:?} not {:?}: {}", kind, turn.label, turn.text));
            }
        }
        let (precision, recall) = (right as f64 / kept as f64, right as f64 / worth as f64);
        println!("{name}: precision {precision:.3}, recall {recall:.3}, kinds {kinds}/{right}\n{}", wrong.join("\n"));
        assert!(precision >= precision_min, "{name}: precision {precision}: {wrong:#?}");
        assert!(recall >= recall_min, "{name}: recall {recall}: {wrong:#?}");
    }
}
