//! The ONNX backend with a real ONNX Runtime and a real model, and without them.
//!
//! `tests/onnx-wheels.sh DIR` gets the files; `MEMENTO_TEST_ONNX_DIR=DIR` says where they are. Without it the tests that
//! need them print that they were skipped. A process loads ONNX Runtime once and by its environment, so each test runs
//! its body in a process of its own: the same test program, started for this one test.

#![cfg(feature = "fastembed")]
#![allow(clippy::print_stdout, reason = "a skipped test says so, and figures are worth seeing")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use memento_kv::ErrorKind;
use memento_kv::embed::{Embedder, load_dir};

const CHILD: &str = "MEMENTO_TEST_ONNX_CHILD";

/// The folder that `tests/onnx-wheels.sh` filled.
fn wheels() -> Option<PathBuf> {
    let folder = std::env::var_os("MEMENTO_TEST_ONNX_DIR").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: MEMENTO_TEST_ONNX_DIR is not set, see tests/onnx-wheels.sh");
    }
    folder
}

/// Whether this is the process that the test's body is for. Otherwise starts one, with ONNX Runtime looked for in
/// this folder, and sees it pass.
fn in_own_process(test: &str, library: &Path) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().expect("the test program"))
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .env("MEMENTO_ORT_DYLIB", library)
        .output()
        .expect("the test program starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    print!("{out}");
    assert!(output.status.success(), "{err}");
    assert!(out.contains("1 passed"), "the test of this name was not run: {out}");
    assert!(!err.contains("panicked"), "{err}");
    false
}

fn minilm(folder: &Path) -> Arc<dyn Embedder> {
    load_dir(&folder.join("minilm-int8")).expect("the model loads")
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Texts with the vectors that the original gave them.
fn stored() -> Vec<(String, Vec<f32>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/memory-v0.2.2.db");
    let url = format!("file:{}?mode=ro&immutable=1", path.display());
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_URI;
    let db = rusqlite::Connection::open_with_flags(url, flags).expect("the fixture opens");
    let mut rows = db.prepare("SELECT text, embedding FROM memories ORDER BY rowid").expect("its schema");
    let rows = rows.query_map([], |row| {
        let bytes: Vec<u8> = row.get(1)?;
        let (values, _) = bytes.as_chunks::<4>();
        Ok((row.get(0)?, values.iter().map(|value| f32::from_le_bytes(*value)).collect()))
    });
    rows.expect("a query").collect::<Result<_, _>>().expect("rows")
}

#[test]
fn a_missing_onnx_runtime_is_a_plain_error_with_the_fix() {
    let missing = Path::new("/no/such/folder/libonnxruntime.so");
    if !in_own_process("a_missing_onnx_runtime_is_a_plain_error_with_the_fix", missing) {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["model.onnx", "tokenizer.json"] {
        std::fs::write(folder.path().join(name), b"{}").expect("written");
    }
    for _ in 0..2 {
        let error = load_dir(folder.path()).err().expect("there is no ONNX Runtime");
        assert_eq!(error.kind(), ErrorKind::Model);
        assert!(error.to_string().contains("MEMENTO_ORT_DYLIB"), "{error}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("pip install onnxruntime")), "{error}");
    }
}

#[test]
fn vectors_are_those_of_the_original() {
    let Some(folder) = wheels() else { return };
    if !in_own_process("vectors_are_those_of_the_original", &folder.join("lib")) {
        return;
    }
    let model = minilm(&folder);
    let identity = model.identity();
    assert_eq!(identity.name, "sentence-transformers/all-MiniLM-L6-v2");
    assert_eq!((identity.dimensions, identity.max_tokens, identity.normalized), (384, 256, true));
    assert_eq!((identity.pooling.as_str(), identity.engine.as_str()), ("mean", "onnx/1"));
    assert_eq!(identity.tokenizer_sha256.len(), 64);
    let stored = stored();
    assert_eq!(stored.len(), 194);
    let (mut least, mut sum) = (1.0_f64, 0.0);
    for (text, expected) in &stored {
        // The original read the first window only.
        let vectors = model.embed_document(text).expect("a vector");
        let cosine = cosine(&vectors[0], expected);
        assert!(cosine >= 0.99, "cosine {cosine} for a text of {} bytes", text.len());
        assert_eq!(model.embed_query(text).expect("a vector"), vectors[0], "a model without prefixes");
        least = least.min(cosine);
        sum += cosine;
    }
    println!("cosine to the stored vectors: mean {:.5}, least {least:.5}", sum / stored.len() as f64);
}

#[test]
fn a_long_text_is_embedded_in_windows_that_overlap() {
    let Some(folder) = wheels() else { return };
    if !in_own_process("a_long_text_is_embedded_in_windows_that_overlap", &folder.join("lib")) {
        return;
    }
    let model = minilm(&folder);
    let words = |range: std::ops::Range<usize>| {
        let names = ["river", "engine", "paper", "cloud", "silver", "garden", "bridge"];
        range.map(|i| names[i % names.len()]).collect::<Vec<_>>().join(" ")
    };
    // One token a word: 254 words fill a window, and each next window begins 222 words later.
    for (count, windows) in [(1, 1), (254, 1), (255, 2), (476, 2), (477, 3), (2000, 9)] {
        let vectors = model.embed_document(&words(0..count)).expect("vectors");
        assert_eq!(vectors.len(), windows, "{count} words");
    }
    let vectors = model.embed_document(&words(0..500)).expect("vectors");
    for (window, range) in [0..254, 222..476, 444..500].into_iter().enumerate() {
        let alone = model.embed_document(&words(range)).expect("vectors");
        assert_eq!(alone, [vectors[window].clone()], "window {window}");
    }
}

#[test]
fn odd_texts_have_vectors_of_length_1_and_the_same_ones_from_every_thread() {
    let Some(folder) = wheels() else { return };
    if !in_own_process(
        "odd_texts_have_vectors_of_length_1_and_the_same_ones_from_every_thread",
        &folder.join("lib"),
    ) {
        return;
    }
    let model = minilm(&folder);
    let long_word = "x".repeat(5000);
    let no_blanks = "記憶は大切です。".repeat(200);
    let combined = "e\u{301}\u{fdfa}".repeat(400);
    let texts = [
        "",
        " ",
        "\0",
        "[CLS] [MASK] [SEP]",
        "🦀👩‍👩‍👧",
        "a\r\nb",
        "\u{feff}x",
        &long_word,
        &no_blanks,
        &combined,
    ];
    let embed = || texts.map(|text| model.embed_document(text).expect("vectors"));
    let vectors = embed();
    for vector in vectors.iter().flatten() {
        assert_eq!(vector.len(), 384);
        let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        assert!((length - 1.0).abs() < 1e-5, "squared length {length}");
    }
    std::thread::scope(|scope| {
        for thread in (0..3).map(|_| scope.spawn(embed)).collect::<Vec<_>>() {
            assert_eq!(thread.join().expect("no panic"), vectors);
        }
    });
}

#[test]
fn settings_are_obeyed_and_are_in_the_identity() {
    let Some(folder) = wheels() else { return };
    if !in_own_process("settings_are_obeyed_and_are_in_the_identity", &folder.join("lib")) {
        return;
    }
    let plain = minilm(&folder);
    let other = tempfile::tempdir().expect("a temporary folder");
    for name in ["model.onnx", "tokenizer.json"] {
        std::os::unix::fs::symlink(folder.join("minilm-int8").join(name), other.path().join(name))
            .expect("a link");
    }
    let settings =
        r#"{"pooling": "cls", "max_tokens": 64, "query_prefix": "query: ", "document_prefix": "passage: "}"#;
    std::fs::write(other.path().join("memento-model.json"), settings).expect("written");
    let model = load_dir(other.path()).expect("the model loads");
    let identity = model.identity();
    assert_eq!(identity.weights_sha256, plain.identity().weights_sha256);
    assert_eq!((identity.pooling.as_str(), identity.max_tokens), ("cls", 64));
    assert_eq!(identity.document_form, "text/1 after \"passage: \"");
    assert_eq!(identity.query_form, "query/1 after \"query: \"");
    let (document, query) = (model.embed_document("a cat").expect("a vector"), model.embed_query("a cat"));
    assert_ne!(document[0], query.expect("a vector"), "each has its prefix");
    assert_ne!(document[0], plain.embed_document("a cat").expect("a vector")[0]);
    // The prefix stands before each window.
    let text = "river ".repeat(200);
    let windows = model.embed_document(&text).expect("vectors");
    assert!(windows.len() > 3);
    assert!(windows[1..windows.len() - 1].iter().all(|window| cosine(window, &windows[0]) > 0.9999));
}

#[test]
fn damaged_files_of_a_model_are_errors_and_no_panics() {
    let Some(folder) = wheels() else { return };
    if !in_own_process("damaged_files_of_a_model_are_errors_and_no_panics", &folder.join("lib")) {
        return;
    }
    let whole = folder.join("minilm-int8");
    let broken = tempfile::tempdir().expect("a temporary folder");
    let cases: [(&str, &[u8]); 10] = [
        ("model.onnx", b""),
        ("model.onnx", b"\x08\x07 not a model"),
        ("tokenizer.json", b""),
        ("tokenizer.json", b"{\"model\": {}}"),
        ("tokenizer_config.json", b"["),
        ("memento-model.json", b"{\"poling\": \"mean\"}"),
        ("memento-model.json", b"{\"max_tokens\": 1}"),
        ("memento-model.json", b"{\"max_tokens\": 1024}"),
        ("memento-model.json", b"{\"output\": \"nonsense\"}"),
        ("memento-model.json", b"{\"external_files\": [\"../x\"]}"),
    ];
    for (name, bytes) in cases {
        for file in ["model.onnx", "tokenizer.json", "tokenizer_config.json", "memento-model.json"] {
            std::fs::copy(whole.join(file), broken.path().join(file)).expect("a copy");
        }
        std::fs::write(broken.path().join(name), bytes).expect("written");
        let error = load_dir(broken.path()).err().unwrap_or_else(|| panic!("{name} is broken"));
        assert_eq!(error.kind(), ErrorKind::Model, "{error}");
    }
    for file in ["model.onnx", "tokenizer.json"] {
        std::fs::remove_file(broken.path().join(file)).expect("removed");
        let error = load_dir(broken.path()).err().expect("a file is missing");
        assert_eq!(error.kind(), ErrorKind::Model, "{error}");
        assert!(error.path().is_some());
    }
}
