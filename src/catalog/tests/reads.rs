//! Reads that the model test does not reach: long lists, deadlines, states.

use std::time::Instant;

use super::*;

/// 6,000 memories, of which every second is in the collection `half`, every hundredth has the tag `rare`.
fn many() -> (tempfile::TempDir, Catalog) {
    let (folder, _, catalog) = empty();
    let mut script = Script::default();
    for number in 0..6000_i64 {
        let mut memory = memory(&format!("id-{number}"), &format!("text {number}"), number / 2);
        if number % 2 == 0 {
            memory.collection = "half".to_owned();
        }
        if number % 100 == 0 {
            memory.tags = vec!["rare".to_owned(), "also".to_owned()];
        }
        memory.importance = if number < 5400 { 0.25 } else { 0.75 };
        script.remember(memory);
    }
    script.apply_to(&catalog, 6000);
    (folder, catalog)
}

fn ids(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| row.memory.id.as_str()).collect()
}

#[test]
fn list_pages_through_a_large_collection_in_both_orders() {
    let (_folder, catalog) = many();
    let filter = Filter { collection: Some("half".to_owned()), ..Filter::default() };
    let newest = catalog.list(&filter, Order::Newest, 0, 2, None).expect("a list");
    assert_eq!(ids(&newest), ["id-5998", "id-5996"]);
    let far = catalog.list(&filter, Order::Newest, 2900, 2, None).expect("a list");
    assert_eq!(ids(&far), ["id-198", "id-196"]);
    let oldest = catalog.list(&filter, Order::Oldest, 2998, 20, None).expect("a list");
    assert_eq!(ids(&oldest), ["id-5996", "id-5998"]);
    let all = catalog.list(&Filter::default(), Order::Oldest, 5999, 5, None).expect("a list");
    assert_eq!(ids(&all), ["id-5999"]);
}

#[test]
fn scope_of_a_large_collection_narrows_by_importance_and_time() {
    let (_folder, catalog) = many();
    let filter = Filter {
        collection: Some("half".to_owned()),
        min_importance: Some(0.5),
        before: Some(2_899),
        ..Filter::default()
    };
    let keys = catalog.view().scope(&filter, None).expect("a scope").expect("a filter");
    let expected: Vec<MemoryKey> = (5400..5800).filter(|n| n % 2 == 0).map(|n| MemoryKey(n + 1)).collect();
    assert_eq!(keys, expected);
    let listed = catalog.list(&filter, Order::Newest, 199, 9, None).expect("a list");
    assert_eq!(ids(&listed), ["id-5400"]);
}

#[test]
fn scope_intersects_a_common_and_a_rare_label() {
    let (_folder, catalog) = many();
    let filter = Filter {
        tags_all: vec!["rare".to_owned(), "also".to_owned()],
        source: Some("conversation".to_owned()),
        ..Filter::default()
    };
    let keys = catalog.view().scope(&filter, None).expect("a scope").expect("a filter");
    assert_eq!(keys, (0..60).map(|n| MemoryKey(n * 100 + 1)).collect::<Vec<_>>());
}

#[test]
fn reads_past_their_deadline_say_timeout() {
    let (_folder, catalog) = many();
    let filter = Filter { collection: Some("half".to_owned()), ..Filter::default() };
    let past = Some(Instant::now());
    let error = catalog.list(&filter, Order::Newest, 0, 20, past).expect_err("no time");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let error = catalog.view().scope(&filter, past).expect_err("no time");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(catalog.damaged(), None);
}

#[test]
fn since_after_before_lets_nothing_through() {
    let (_folder, catalog) = many();
    let filter = Filter { since: Some(10), before: Some(9), ..Filter::default() };
    assert_eq!(catalog.list(&filter, Order::Newest, 0, 20, None).expect("a list"), []);
    assert_eq!(catalog.view().scope(&filter, None).expect("a scope"), Some(Vec::new()));
}

#[test]
fn a_state_stays_the_same_while_records_are_applied() {
    let (_folder, _, catalog) = empty();
    let mut script = Script::default();
    script.remember(memory("one", "a text", 5));
    script.apply_to(&catalog, 10);
    let before = catalog.view();
    script.remember(memory("two", "b text", 5));
    script.apply_to(&catalog, 10);
    catalog.checkpoint().expect("a checkpoint");
    assert_eq!(before.get("two").expect("a read"), None);
    assert_eq!(before.count(), 1);
    assert!(catalog.get("two").expect("a read").is_some());
}

#[test]
fn a_visitor_can_stop_and_its_panic_is_its_own() {
    let (_folder, catalog) = many();
    let view = catalog.view();
    let mut seen = 0;
    view.for_each_row(MemoryKey(300), |row| {
        seen += 1;
        if row.key.0 == 900 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .expect("rows");
    assert_eq!(seen, 601);
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        view.for_each_row(MemoryKey(0), |_| panic!("the visitor's own"))
    }));
    assert!(panic.is_err());
    assert_eq!(catalog.damaged(), None);
}
