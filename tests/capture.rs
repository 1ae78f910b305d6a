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
        println!(
            "{name}: precision {precision:.3}, recall {recall:.3}, kinds {kinds}/{right}\n{}",
            wrong.join("\n")
        );
        assert!(precision >= precision_min, "{name}: precision {precision}: {wrong:#?}");
        assert!(recall >= recall_min, "{name}: recall {recall}: {wrong:#?}");
    }
}

#[test]
fn tags_stand_for_what_is_meant() {
    for (text, expected) in [
        ("Please improve the process and print the latest address.", &[][..]),
        ("The explanation with the prefix was for the user.", &[]),
        ("Approved RFC-001 for Rust architecture", &["rust", "rfc"]),
        ("We review PR #12 on GitHub before cargo publish", &["github", "rust"]),
    ] {
        let mut found = tags(text);
        found.sort();
        let mut expected: Vec<&str> = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn what_matters_is_stored_with_its_reasons_and_the_rest_is_not() {
    let (_folder, store) = store();
    let exchange = Exchange::new(
        "Hi! Can you look at the catalog? We decided to use redb for the catalog because it needs no C toolchain.",
        "Sure, let me look at it.",
    );
    let captured = store.capture(&exchange.source("test").session("s1").at(1_700_000_000)).expect("captured");
    assert_eq!((captured.outcome, captured.kind), (CapturedAs::Stored, Some(Kind::Decision)), "{captured:?}");
    let memory = store.get(captured.id.expect("an id")).expect("read").expect("there");
    assert_eq!(memory.text, "We decided to use redb for the catalog because it needs no C toolchain.");
    assert!((0.8..=0.95).contains(&memory.importance), "{}", memory.importance);
    assert_eq!(
        (memory.source.as_str(), memory.session_id.as_str(), memory.timestamp),
        ("test", "s1", 1_700_000_000)
    );
    assert!(
        ["captured", "decision", "redb"].iter().all(|tag| memory.tags.iter().any(|have| have == tag)),
        "{memory:?}"
    );
    let about = &memory.metadata["capture"];
    assert!(about["features"]["decision"].as_f64().is_some_and(|weight| weight > 0.0), "{about}");
    assert_eq!((about["trust"].as_str(), about["kind"].as_str()), (Some("own"), Some("decision")));
    let nothing =
        store.capture(&Exchange::new("Please improve the process function", "Done.")).expect("judged");
    assert_eq!((nothing.outcome, nothing.id), (CapturedAs::Nothing, None));
}

#[test]
fn what_recall_handed_out_is_not_captured_again() {
    let (_folder, store) = store();
    let text = "We decided to use redb for the catalog because it needs no C toolchain.";
    store.remember(Remember::new(text)).expect("stored");
    let answer = store.recall(Recall::new("catalog redb")).expect("an answer");
    let packed = answer.pack(1000).text;
    assert!(packed.contains(text));
    for said in [
        packed.clone(),
        format!("<system-reminder>\n{packed}\n</system-reminder>"),
        format!("Assistant: {packed}"),
    ] {
        let captured = store.capture(&Exchange::new(said, "")).expect("judged");
        assert_eq!((captured.outcome, captured.fenced), (CapturedAs::Nothing, true));
    }
    let near = "we decided to use redb for the catalog, because it needs no C toolchain";
    let captured = store.capture(&Exchange::new("", near)).expect("judged");
    assert_eq!(captured.outcome, CapturedAs::Known);
    assert_eq!(store.stats().expect("figures").memories, 1);
}

#[test]
fn what_another_conversation_says_again_counts_more_and_an_echo_does_not() {
    let (_folder, store) = store();
    let said = |session: &str| {
        let text = "The staging database runs on db-stage-02, port 5433.";
        store.capture(&Exchange::new(text, "").session(session)).expect("captured")
    };
    let first = said("a");
    assert_eq!(first.outcome, CapturedAs::Stored);
    let importance =
        || store.get(first.id.as_ref().expect("an id")).expect("read").expect("there").importance;
    let before = importance();
    for (session, expected) in
        [("a", CapturedAs::Known), ("b", CapturedAs::Reinforced), ("b", CapturedAs::Known)]
    {
        let again = said(session);
        assert_eq!((again.outcome, &again.id), (expected, &first.id), "{session}");
    }
    assert!((importance() - before - 0.02).abs() < 1e-9 || importance() >= 0.95);
    assert_eq!(store.stats().expect("figures").memories, 1);
    let other = store
        .capture(&Exchange::new("The staging database runs on db-stage-02, port 6000.", "").session("c"));
    assert_eq!(other.expect("captured").outcome, CapturedAs::Stored, "another number is another fact");
}

#[test]
fn a_source_that_gives_too_much_is_held_back_and_what_is_asked_for_is_not() {
    let (_folder, store) = store();
    let mut capturer = Capturer::new(CaptureOptions::default().per_hour(3));
    let mut say = |text: String, at| {
        capturer.capture(&store, &Exchange::new(text, "").source("loud").at(at)).expect("captured").outcome
    };
    let mut outcomes: Vec<CapturedAs> = (0..5)
        .map(|at| {
            say(format!("We decided to move service number{at} to the cluster in region{at}."), 10_000 + at)
        })
        .collect();
    assert_eq!(outcomes.split_off(3), [CapturedAs::Limited; 2]);
    assert_eq!(outcomes, [CapturedAs::Stored; 3]);
    assert_eq!(say("Remember that the alarm code has six digits.".to_owned(), 10_010), CapturedAs::Stored);
    assert_eq!(say("We decided to buy the blue chairs.".to_owned(), 20_000), CapturedAs::Stored);
}

#[test]
fn secrets_are_refused_by_remember_and_masked_by_capture() {
    let (_folder, store) = store();
    let secret = "Tr0ub4dor&3x";
    let error = store.remember(Remember::new(format!("the password is {secret}"))).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(!error.to_string().contains(secret) && error.to_string().contains("password"));
    let error =
        store.remember_many(vec![Remember::new("fine").meta("password", secret)]).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Refused);
    store.remember(Remember::new(format!("the password is {secret}")).allow_secrets(true)).expect("allowed");
    let text = format!("We decided that the staging database uses the password {secret}, password: {secret}");
    let captured = store.capture(&Exchange::new(text, "").trust(Trust::Foreign)).expect("captured");
    let memory = store.get(captured.id.expect("stored")).expect("read").expect("there");
    assert!(memory.text.contains("[secret:password]"), "{}", memory.text);
    assert!(memory.importance <= 0.7);
}

#[test]
fn a_long_stream_is_captured_in_bounded_time_and_in_the_same_way_every_time() {
    let exchanges = |at: usize| {
        let text = format!("We decided to put service s{at} on host h{}.", at * 7);
        Exchange::default().turn(Role::User, text).turn(Role::Assistant, "ok").at(at as i64 * 60)
    };
    let run = || {
        let (_folder, store) = store();
        let mut capturer = Capturer::new(CaptureOptions::default());
        let outcomes: Vec<_> = (0..60)
            .map(|at| capturer.capture(&store, &exchanges(at)).expect("captured"))
            .map(|one| (one.outcome, one.text, one.tags))
            .collect();
        let filter = Filter { tags_all: vec!["captured".to_owned()], ..Filter::default() };
        let count = store.list(&List::new().filter(filter).limit(1000)).expect("a list").len();
        (outcomes, count)
    };
    let (first, count) = run();
    assert_eq!(count, 60);
    assert_eq!((first, count), run());
}
