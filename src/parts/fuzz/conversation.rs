//! Any bytes as a conversation that is captured: plain text, chat JSON, transcripts.

use super::Seeds;
use super::input::Input;
use super::stored::assert_keeps;
use crate::capture::{CaptureOptions, Capturer, ConversationReader, Exchange, Position};

/// The body of the target. The first byte says where the bytes are cut in two, as a file is that grows.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let cut = usize::from(input.byte());
    let bytes = input.0;
    let capturer = Capturer::new(CaptureOptions::default().threshold(0.25).name("Ann", "ann"));

    let mut reader = ConversationReader::new(Some("fuzz".to_owned()), None);
    let (exchanges, read) = reader.read(bytes);
    assert!(read <= bytes.len(), "no more is read than there is");
    exchanges.iter().for_each(|exchange| judge(&capturer, exchange));
    let position = Position::after(bytes, read);
    assert_eq!(position.start_in(bytes), read, "a file is known again");

    let (start, _) = bytes.split_at(cut.min(bytes.len()));
    let mut reader = ConversationReader::new(None, Some("session".to_owned()));
    let (exchanges, read) = reader.read(start);
    assert!(read <= start.len());
    exchanges.iter().for_each(|exchange| judge(&capturer, exchange));
    let (exchanges, read) = reader.read(&bytes[read..]);
    assert!(read <= bytes.len());
    exchanges.iter().for_each(|exchange| judge(&capturer, exchange));

    let mut lines = Vec::new();
    let mut reader = ConversationReader::default();
    String::from_utf8_lossy(bytes).lines().for_each(|line| reader.line(line, &mut lines));
    lines.extend(reader.finish());
    lines.iter().for_each(|exchange| judge(&capturer, exchange));
}

fn judge(capturer: &Capturer, exchange: &Exchange) {
    assert!(!exchange.turns.is_empty(), "an exchange has something that was said");
    let captured = capturer.judge(exchange);
    for score in captured.sentences.iter().map(|sentence| sentence.score).chain([captured.score]) {
        assert!((0.0..=1.0).contains(&score), "a score of {score}");
    }
    let again = capturer.judge(exchange);
    assert_eq!((again.score, &again.text, &again.tags), (captured.score, &captured.text, &captured.tags));
    if let Some(remember) = captured.remember() {
        let checked = remember.clone().checked().expect("what is captured can be stored");
        assert_keeps(&checked);
        assert!((0.0..=1.0).contains(&captured.importance));
    }
}

pub(super) fn seeds() -> Seeds {
    let seeds: [(&str, &[u8]); 6] = [
        ("plain", b"\x20User: Remember that we decided to use Postgres for billing, because invoices need transactions.\nAssistant: Noted. The API key is sk-abcdefghijklmnopqrstuvwxyz123456.\nUser: thanks!\n"),
        ("chat-json", br#"*[{"role":"user","content":"My birthday is on 3 May 1984, please remember."},{"role":"assistant","content":[{"type":"text","text":"I will."}]},{"role":"system","content":"x"}]"#),
        ("claude-code", b"\x60{\"type\":\"user\",\"sessionId\":\"s1\",\"timestamp\":\"2026-02-17T12:00:00.000Z\",\"message\":{\"role\":\"user\",\"content\":\"We always deploy on Fridays.\"}}\n{\"type\":\"assistant\",\"message\":{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"Understood.\"},{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"Bash\",\"input\":{\"command\":\"ls\"}}]}}\n"),
        ("codex", b"\x10{\"type\":\"session_meta\",\"payload\":{\"id\":\"s\"}}\n{\"type\":\"response_item\",\"payload\":{\"type\":\"message\",\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"I prefer tabs over spaces.\"}]}}\n{\"type\":\"resp"),
        ("stream", b"\x05{\"user\":\"The staging server is at 10.0.0.5.\",\"assistant\":\"ok\",\"session\":1,\"at\":1771329603}\n\xff\xfe{}\n[{\"role\":7}]\n{\"turns\":[{\"role\":\"user\",\"text\":null}]}\n"),
        ("fenced", b"\x80User: ```\ncode\n``` <memory>old</memory> Note: Bob moved to Z\xc3\xbcrich in 2024.\r\n\r\nHuman: \xe2\x80\xa8 yes.\n"),
    ];
    seeds.map(|(name, bytes)| (name, bytes.to_vec())).into()
}
