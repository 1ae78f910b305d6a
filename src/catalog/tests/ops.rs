//! What each op does.

use super::*;

#[test]
fn remembered_memory_is_found_by_id_key_and_text() {
    let (_folder, _, catalog) = empty();
    let mut script = Script::default();
    let key = script.remember(memory("one", "a text", 5));
    script.apply_to(&catalog, 10);

    let row = catalog.get("one").expect("a read").expect("the memory");
    assert_eq!((row.key, row.seq, row.text_seq, row.location), (key, 1, 1, location_of(1)));
    assert_eq!(row.memory, memory("one", "a text", 5));
    assert_eq!(catalog.row(key).expect("a read"), Some(row));
    assert_eq!(catalog.get("on").expect("a read"), None);
    let view = catalog.view();
    assert_eq!(view.keys_by_text_hash("knowledge", "a text").expect("a read"), [key]);
    assert_eq!(view.keys_by_text_hash("people", "a text").expect("a read"), []);
    assert_eq!(catalog.count(), 1);
}

#[test]
fn vectors_of_the_last_version_count_though_the_one_before_it_was_left_out() {
    let (_folder, _, catalog) = empty();
    let mut script = Script::default();
    let memory = memory("one", "a text", 5);
    let key = MemoryKey(script.push(Op::Remember { memory: memory.clone(), vectors: None }));
    // Between the two it had another text: that record is gone.
    let seq = script.push(Op::Update { key, previous_seq: 1, memory, vectors: None });
    let at = script.push(Op::Vector { key, text_seq: seq, vectors: vectors(2) });
    script.push(Op::Vector { key, text_seq: seq + 100, vectors: vectors(1) });
    script.apply_to(&catalog, 10);
    let view = catalog.view();
    assert_eq!(view.vector_location(key, ModelNumber(2)).expect("a read"), Some(location_of(at)));
    assert_eq!(view.vector_location(key, ModelNumber(1)).expect("a read"), None);
}

#[test]
fn update_of_the_text_drops_vectors_and_one_of_the_tags_keeps_them() {
    let (_folder, _, catalog) = empty();
    let mut script = Script::default();
    let mut memory = memory("one", "a text", 5);
    let key = MemoryKey(script.push(Op::Remember { memory: memory.clone(), vectors: Some(vectors(1)) }));
    script.push(Op::Vector { key, text_seq: 1, vectors: vectors(2) });
    memory.tags = vec!["new".to_owned()];
    script.push(Op::Update { key, previous_seq: 1, memory: memory.clone(), vectors: None });
    script.apply_to(&catalog, 10);
    let view = catalog.view();
    assert_eq!(view.vector_location(key, ModelNumber(1)).expect("a read"), Some(location_of(1)));
    assert_eq!(view.vector_location(key, ModelNumber(2)).expect("a read"), Some(location_of(2)));
    assert_eq!(view.row(key).expect("a read").map(|row| (row.seq, row.text_seq)), Some((3, 1)));

    memory.text = "another text".to_owned();
    script.push(Op::Update { key, previous_seq: 3, memory, vectors: Some(vectors(2)) });
    script.apply_to(&catalog, 10);
    let view = catalog.view();
    assert_eq!(view.vector_location(key, ModelNumber(1)).expect("a read"), None);
    assert_eq!(view.vector_location(key, ModelNumber(2)).expect("a read"), Some(location_of(4)));
    assert_eq!(view.row(key).expect("a read").map(|row| (row.seq, row.text_seq)), Some((4, 4)));
    assert_eq!(view.keys_by_text_hash("knowledge", "a text").expect("a read"), []);
    assert_eq!(view.count_with_vectors(ModelNumber(1)).expect("a read"), 0);
}

#[test]
fn vectors_of_a_former_text_are_ignored() {
    let (_folder, _, catalog) = empty();
    let mut script = Script::default();
    let key = script.remember(memory("one", "a text", 5));
    script.push(Op::Update { key, previous_seq: 1, memory: memory("one", "b text", 5), vectors: None });
    script.push(Op::Vector { key, text_seq: 1, vectors: vectors(1) });
    script.push(Op::Vector { key: MemoryKey(99), text_seq: 99, vectors: vectors(1) });
    script.apply_to(&catalog, 10);
    let view = catalog.view();
    assert_eq!(view.vector_location(key, ModelNumber(1)).expect("a read"), None);
    assert_eq!(view.without_vector(ModelNumber(1), MemoryKey(0), 9).expect("a read"), [(key, 2)]);
}

#[test]
fn forgotten_memory_leaves_nothing_behind() {
    let (_folder, _, catalog) = empty();
    let before = dump(&catalog).into_keys().collect::<Vec<_>>();
    let mut script = Script::default();
    let mut full = memory("one", "a text", 5);
    full.tags = vec!["a".to_owned(), "b".to_owned()];
    let key = MemoryKey(script.push(Op::Remember { memory: full, vectors: Some(vectors(1)) }));
    script.push(Op::Vector { key, text_seq: 1, vectors: vectors(2) });
    script.apply_to(&catalog, 10);
    script.push(Op::Forget { key, id: MemoryId::new("one").expect("a good id") });
    script.apply_to(&catalog, 10);
    assert_eq!(dump(&catalog).into_keys().collect::<Vec<_>>(), before);
    assert_eq!(catalog.count(), 0);
    assert_eq!(catalog.get("one").expect("a read"), None);
}

#[test]
fn models_keep_their_identity_and_one_is_active() {
    let (_folder, path, catalog) = empty();
    let mut script = Script::default();
    script.push(Op::Model { number: ModelNumber(1), identity: identity("first") });
    script.push(Op::Model { number: ModelNumber(2), identity: identity("second") });
    script.push(Op::UseModel { number: ModelNumber(2) });
    script.apply_to(&catalog, 10);
    catalog.close().expect("a close");
    let catalog = reopened(&path);
    assert_eq!(catalog.active_model(), Some(ModelNumber(2)));
    let models = catalog.view().models().expect("models");
    assert_eq!(models, [(ModelNumber(1), identity("first")), (ModelNumber(2), identity("second"))]);
}

#[test]
fn records_that_do_not_follow_are_refused_and_leave_the_view_as_it_was() {
    let (_folder, _, catalog) = empty();
    let mut script = Script::default();
    let key = script.remember(memory("one", "a text", 5));
    script.apply_to(&catalog, 10);
    let before = dump(&catalog);
    let wrong = [
        Op::Remember { memory: memory("one", "b", 6), vectors: None },
        Op::Update { key: MemoryKey(9), previous_seq: 9, memory: memory("one", "b", 6), vectors: None },
        Op::Update { key, previous_seq: 1, memory: memory("two", "b", 6), vectors: None },
        Op::Forget { key, id: MemoryId::new("two").expect("a good id") },
    ];
    for op in &wrong {
        let good = Op::Remember { memory: memory("good", "b", 6), vectors: None };
        let records = [(2, &good), (3, op)].map(|(seq, op)| Applied { seq, location: location_of(seq), op });
        let error = catalog.apply(&records, position_after(3)).expect_err("it does not follow");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_eq!(dump(&catalog), before);
        assert_eq!(catalog.position(), position_after(1));
        assert_eq!(catalog.damaged(), None);
    }
}

#[test]
fn a_memory_whose_former_versions_were_left_out_begins_with_an_update() {
    let (_folder, _, catalog) = empty();
    let op = Op::Update { key: MemoryKey(4), previous_seq: 4, memory: memory("one", "b", 6), vectors: None };
    let records = [Applied { seq: 9, location: location_of(9), op: &op }];
    catalog.apply(&records, position_after(9)).expect("it is taken");
    let row = catalog.get("one").expect("a read").expect("it is there");
    assert_eq!((row.key, row.seq, row.text_seq), (MemoryKey(4), 9, 9));
    assert_eq!(checked(&catalog).damages, []);
}

#[test]
fn records_that_are_held_already_are_left_out() {
    let (_folder, _, catalog) = empty();
    let mut script = Script::default();
    script.remember(memory("one", "a text", 5));
    script.remember(memory("two", "b text", 5));
    script.apply_to(&catalog, 10);
    let before = dump(&catalog);
    script.remember(memory("three", "c text", 5));
    catalog.apply(&script.records()[..2], position_after(2)).expect("nothing to do");
    assert_eq!(dump(&catalog), before);
    catalog.apply(&script.records(), position_after(3)).expect("one of three is new");
    assert_eq!(catalog.count(), 3);
    assert_eq!(catalog.position(), position_after(3));
}

#[test]
fn position_moves_on_without_records_when_a_new_segment_begins() {
    let (_folder, _, catalog) = empty();
    let mut script = Script::default();
    script.remember(memory("one", "a text", 5));
    script.apply_to(&catalog, 10);
    let tail = TailV1 { segment: 9, len: 4096, last_seq: 1, ..TailV1::default() };
    let rolled = Position { epoch: 8, tail, ..Position::default() };
    catalog.apply(&[], rolled).expect("an empty batch");
    assert_eq!(catalog.position(), rolled);
}
