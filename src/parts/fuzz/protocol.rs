//! Any bytes as messages between processes: what a hostile client sends to the owner of a store, or an owner to a client.

use super::Seeds;
use super::input::Input;
use crate::format::message::{FrameHeader, MESSAGE_HEADER_LEN, MessageKind, framed, put, take, whole};
use crate::memory::{Answer, Memory, Recall, Remember, Update};
use crate::share::{CALLS_MAX, CallHead, ErrorMessage, Hello, Welcome, written_again};

/// The body of the target. The first byte says what the rest is: frames, or the body of a message.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    match input.byte() % 4 {
        0 => frames(input.0),
        1 => {
            let kind = u16::from(input.byte()) % (CALLS_MAX + 2);
            call(kind, input.0);
        }
        2 => {
            let mut body = input.0;
            if let Ok(head) = take::<CallHead>(&mut body) {
                call(head.kind, body);
            }
        }
        _ => answers(input.0),
    }
}

/// Frame after frame, as they come out of a socket.
fn frames(mut bytes: &[u8]) {
    while let Some((header, rest)) = bytes.split_first_chunk::<MESSAGE_HEADER_LEN>() {
        let Ok(header) = FrameHeader::decode(header) else { return };
        let Some((body, rest)) = rest.split_at_checked(header.len) else { return };
        if header.check(body).is_ok() && !header.more {
            let again = framed(header.kind, body);
            assert_eq!(again[..], bytes[..again.len()], "a frame is written as it was read");
        }
        bytes = rest;
    }
}

/// What can be read can be written, and is read as the same again.
fn call(kind: u16, body: &[u8]) {
    if let Some(again) = written_again(kind, body) {
        assert_eq!(written_again(kind, &again).as_ref(), Some(&again));
    }
}

/// A client reads whatever the socket of an owner gives it.
fn answers(body: &[u8]) {
    let _ = whole::<Hello>(body);
    let _ = whole::<Welcome>(body);
    let _ = whole::<ErrorMessage>(body);
    let _ = whole::<Vec<Memory>>(body);
    let _ = whole::<Vec<Vec<f32>>>(body);
    let _ = whole::<Option<Memory>>(body);
    if let Ok(answer) = whole::<Answer>(body) {
        // What is shown of it must not fail either.
        serde_json::to_string(&answer).expect("an answer is JSON");
    }
}

pub(super) fn seeds() -> Seeds {
    let body = |kind: u16, fields: &dyn Fn(&mut Vec<u8>)| {
        let mut body = vec![2];
        put(&CallHead { kind, past: None, resent_after: Some(7) }, &mut body).expect("a head");
        fields(&mut body);
        body
    };
    let remember = Remember::new("a text").tags(["a", "b"]).meta("k", 1).vector([1.0, 2.0]);
    let update = Update::new().text("another").importance(0.5);
    let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned();
    let answer = [&[3][..], &encoded(&Answer::default())].concat();
    let lies = [&[1, 5][..], &[253, 255, 255, 255, 255, 255, 255, 255, 127]].concat();
    vec![
        ("get", body(2, &|body| put(&id, body).expect("an id"))),
        ("remember", body(4, &|body| put(&remember, body).expect("a memory"))),
        ("remember-many", body(5, &|body| put(&vec![remember.clone(); 2], body).expect("memories"))),
        ("update", body(6, &|body| put(&(id.clone(), update.clone()), body).expect("an update"))),
        ("recall", body(9, &|body| put(&Recall::new("a question"), body).expect("a question"))),
        ("a-length-that-lies", lies),
        ("answer", answer),
        ("frames", [&[0][..], &framed(MessageKind::Call, b"x"), &framed(MessageKind::Working, b"")].concat()),
    ]
}

fn encoded<T: bincode::Encode>(value: &T) -> Vec<u8> {
    let mut body = Vec::new();
    put(value, &mut body).expect("a value within its limits");
    body
}
