//! Reads conversations: plain text with roles, chats in JSON, and transcripts of agents in JSON Lines.
//!
//! Tolerant: what is no turn is skipped and counted, a torn last line is left for the next time. Turns are put together
//! to exchanges: what a person said and what was answered.

use serde_json::Value;

use super::exchange::{Exchange, Role, Turn};
use crate::time::parse_time;

/// How far a conversation has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// Bytes that are read and need not be read again.
    pub offset: u64,
    /// CRC-32 of the beginning of the file, so that another file at the same place is noticed.
    pub head_crc: u32,
    /// How many bytes that beginning has.
    pub head_len: u32,
}

/// Bytes by which a file is known again.
const HEAD_LEN_MAX: usize = 256;

impl Position {
    /// The place up to which this file was read: 0 when it is another file than before.
    #[must_use]
    pub fn start_in(&self, file: &[u8]) -> usize {
        let offset = usize::try_from(self.offset).unwrap_or(usize::MAX);
        let head = file.get(..self.head_len as usize);
        let is_same = head.is_some_and(|head| crc32fast::hash(head) == self.head_crc);
        if is_same && offset <= file.len() { offset } else { 0 }
    }

    /// The position after so many bytes of this file.
    #[must_use]
    pub fn after(file: &[u8], offset: usize) -> Self {
        let head = &file[..offset.min(file.len()).min(HEAD_LEN_MAX)];
        Self { offset: offset as u64, head_crc: crc32fast::hash(head), head_len: head.len() as u32 }
    }
}

/// Puts turns together to exchanges.
#[derive(Debug, Default)]
pub struct ConversationReader {
    open: Exchange,
    source: Option<String>,
    session: Option<String>,
    skipped: u64,
    /// Unix milliseconds, for times without a date.
    now_ms: i64,
    /// Who speaks in plain text.
    speaking: Option<Role>,
}

impl ConversationReader {
    /// One for a conversation of this source and session; what the conversation itself says counts more.
    #[must_use]
    pub fn new(source: Option<String>, session: Option<String>) -> Self {
        Self { source, session, ..Self::default() }
    }

    /// Lines and values that are no turns.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Reads a whole file or what was added to one; exchanges that are complete, the last one included, and how many
    /// bytes were read. What follows the last line end is left when it looks torn.
    pub fn read(&mut self, bytes: &[u8]) -> (Vec<Exchange>, usize) {
        let mut done = Vec::new();
        let text = String::from_utf8_lossy(bytes);
        let trimmed = text.trim_start_matches('\u{feff}').trim();
        if (trimmed.starts_with('[') || trimmed.starts_with('{'))
            && let Ok(value) = serde_json::from_str::<Value>(trimmed)
        {
            self.value(&value, &mut done);
            done.extend(self.finish());
            return (done, bytes.len());
        }
        let mut at = 0;
        while at < bytes.len() {
            let end = memchr::memchr(b'\n', &bytes[at..]).map(|len| at + len + 1);
            let line = String::from_utf8_lossy(&bytes[at..end.unwrap_or(bytes.len())]);
            let is_torn = end.is_none()
                && line.trim_start().starts_with('{')
                && serde_json::from_str::<Value>(line.trim()).is_err();
            if is_torn {
                break;
            }
            self.line(&line, &mut done);
            at = end.unwrap_or(bytes.len());
        }
        done.extend(self.finish());
        (done, at)
    }

    /// Takes one line; exchanges that are complete now are added.
    pub fn line(&mut self, line: &str, done: &mut Vec<Exchange>) {
        let line = line.trim_start_matches('\u{feff}').trim_end();
        if line.trim_start().starts_with('{') || line.trim_start().starts_with("[{") {
            match serde_json::from_str::<Value>(line.trim()) {
                Ok(value) => self.value(&value, done),
                Err(_) => self.skipped += 1,
            }
            return;
        }
        self.plain(line, done);
    }

    /// The exchange that is under way, which is complete when nothing follows.
    pub fn finish(&mut self) -> Option<Exchange> {
        self.speaking = None;
        let open = std::mem::take(&mut self.open);
        (!open.turns.is_empty()).then_some(open)
    }

    /// A line of plain text: `User: …`, or more of what is being said.
    fn plain(&mut self, line: &str, done: &mut Vec<Exchange>) {
        let trimmed = line.trim_start_matches(['#', '*', '>', ' ']);
        let mark = trimmed.split_once(':').filter(|(name, _)| name.len() <= 24).and_then(|(name, rest)| {
            let role = match name.trim_end_matches('*').trim().to_ascii_lowercase().as_str() {
                "user" | "human" | "you" | "q" => Role::User,
                "assistant" | "ai" | "agent" | "claude" | "chatgpt" | "codex" | "bot" | "a" => {
                    Role::Assistant
                }
                "system" | "tool" => Role::System,
                _ => return None,
            };
            Some((role, rest.trim_start_matches('*').trim()))
        });
        match (mark, self.speaking) {
            (Some((role, rest)), _) => {
                self.speaking = Some(role);
                self.say(role, rest, None, None, done);
            }
            (None, Some(role)) => self.continue_turn(role, line),
            (None, None) if line.trim().is_empty() => {}
            // Text without roles is what a person says.
            (None, None) => {
                self.speaking = Some(Role::User);
                self.say(Role::User, line, None, None, done);
            }
        }
    }

    fn continue_turn(&mut self, role: Role, line: &str) {
        match self.open.turns.last_mut().filter(|turn| turn.role == role) {
            Some(turn) => {
                turn.text.push('\n');
                turn.text.push_str(line);
            }
            None if line.trim().is_empty() => {}
            None => self.open.turns.push(Turn { role, text: line.to_owned() }),
        }
    }

    /// A value: a chat, a turn, an exchange, a record of a transcript.
    fn value(&mut self, value: &Value, done: &mut Vec<Exchange>) {
        if let Value::Array(items) = value {
            items.iter().for_each(|item| self.value(item, done));
            return;
        }
        let Value::Object(object) = value else {
            self.skipped += 1;
            return;
        };
        let text = |names: &[&str]| names.iter().find_map(|name| object.get(*name)?.as_str());
        let session = text(&["session", "session_id", "sessionId", "conversation_id"]);
        let at = object
            .get("timestamp")
            .or_else(|| object.get("at"))
            .or_else(|| object.get("time"))
            .and_then(|at| self.time(at));
        if let Some(source) = text(&["source"]) {
            self.source = Some(source.to_owned());
        }
        for name in ["messages", "turns", "conversation", "mapping"] {
            if let Some(Value::Array(items)) = object.get(name) {
                done.extend(self.finish());
                if let Some(session) = session {
                    self.session = Some(session.to_owned());
                }
                items.iter().for_each(|item| self.value(item, done));
                done.extend(self.finish());
                return;
            }
        }
        // Asides and what the client said to itself.
        let is_flag = |name: &str| object.get(name) == Some(&Value::Bool(true));
        if is_flag("isMeta") || is_flag("isSidechain") || is_flag("isCompactSummary") {
            self.skipped += 1;
            return;
        }
        // Codex wraps what is said; Claude Code and the original do so under another name.
        if let Some(inner @ Value::Object(_)) = object.get("payload") {
            let kind = inner.get("type").and_then(Value::as_str);
            if let Some(id) =
                inner.get("id").and_then(Value::as_str).filter(|_| text(&["type"]) == Some("session_meta"))
            {
                self.session = Some(id.to_owned());
            }
            match (text(&["type"]), kind) {
                (Some("response_item"), Some("message")) => self.message(inner, session, at, done),
                _ => self.skipped += 1,
            }
            return;
        }
        if let Some(inner @ Value::Object(_)) = object.get("message") {
            self.message(inner, session, at, done);
            return;
        }
        let user = text(&["user", "query", "question", "prompt", "input"]);
        let assistant = text(&["assistant", "response", "answer", "completion", "output"]);
        if user.is_some() || assistant.is_some() {
            done.extend(self.finish());
            for (role, said) in [(Role::User, user), (Role::Assistant, assistant)] {
                if let Some(said) = said {
                    self.say(role, said, session, at, done);
                }
            }
            done.extend(self.finish());
            return;
        }
        self.message(value, session, at, done);
    }

    /// `{"role": …, "content": …}`.
    fn message(&mut self, message: &Value, session: Option<&str>, at: Option<i64>, done: &mut Vec<Exchange>) {
        let role = ["role", "speaker", "from", "type", "author"].iter().find_map(|name| {
            match message.get(name)? {
                Value::String(role) => Some(Role::named(role)),
                other => other.get("role").and_then(Value::as_str).map(Role::named),
            }
        });
        let content = message.get("content").or_else(|| message.get("text")).or_else(|| message.get("value"));
        let (Some(role), Some(content)) = (role, content) else {
            self.skipped += 1;
            return;
        };
        let mut said = String::new();
        blocks(content, &mut said);
        if role == Role::System || said.trim().is_empty() {
            self.skipped += 1;
            return;
        }
        self.say(role, &said, session, at, done);
    }

    /// Adds a turn; a person who speaks after an agent begins a new exchange.
    fn say(
        &mut self,
        role: Role,
        text: &str,
        session: Option<&str>,
        at: Option<i64>,
        done: &mut Vec<Exchange>,
    ) {
        let answered = self.open.turns.iter().any(|turn| turn.role == Role::Assistant);
        let other_session =
            session.is_some() && self.open.session.is_some() && session != self.open.session.as_deref();
        if (role == Role::User && answered) || other_session {
            let speaking = self.speaking;
            done.extend(self.finish());
            self.speaking = speaking;
        }
        if self.open.turns.is_empty() {
            self.open.source.clone_from(&self.source);
            self.open.session = session.map(str::to_owned).or_else(|| self.session.clone());
            self.open.at = at;
        }
        self.open.turns.push(Turn { role, text: text.to_owned() });
    }

    /// Unix seconds or milliseconds, or a time in words.
    fn time(&self, value: &Value) -> Option<i64> {
        match value {
            Value::Number(number) => {
                let seconds = number.as_f64()?;
                let seconds = if seconds.abs() > 1e11 { seconds / 1000.0 } else { seconds };
                // What is no time is as if there was none.
                crate::time::checked(seconds as i64).ok()
            }
            Value::String(text) => parse_time(text, self.now_ms).ok(),
            _ => None,
        }
    }
}

/// The text of a content: a string, or blocks of which those with text count.
fn blocks(content: &Value, said: &mut String) {
    match content {
        Value::String(text) => {
            if !said.is_empty() {
                said.push('\n');
            }
            said.push_str(text);
        }
        Value::Array(items) => items.iter().for_each(|item| blocks(item, said)),
        Value::Object(block) => {
            let kind = block.get("type").and_then(Value::as_str).unwrap_or("text");
            if matches!(kind, "text" | "input_text" | "output_text") {
                block.get("text").iter().for_each(|text| blocks(text, said));
            } else if let (None, Some(parts)) = (block.get("type"), block.get("parts")) {
                blocks(parts, said);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Vec<(&'static str, String)>> {
        let (done, _) = ConversationReader::new(None, None).read(text.as_bytes());
        done.into_iter()
            .map(|one| one.turns.into_iter().map(|turn| (turn.role.name(), turn.text)).collect())
            .collect()
    }

    fn pair(user: &str, assistant: &str) -> Vec<(&'static str, String)> {
        vec![("user", user.to_owned()), ("assistant", assistant.to_owned())]
    }

    #[test]
    fn one_conversation_in_every_shape_gives_the_same_exchanges() {
        let expected = vec![pair("one", "two"), pair("three", "four")];
        for text in [
            "User: one\nAssistant: two\n**Human:** three\nAI: four\n",
            r#"[{"role":"user","content":"one"},{"role":"assistant","content":"two"},{"role":"user","content":[{"type":"text","text":"three"}]},{"role":"assistant","content":[{"type":"tool_use","name":"x"},{"type":"text","text":"four"}]}]"#,
            "{\"messages\":[{\"role\":\"system\",\"content\":\"be nice\"},{\"role\":\"user\",\"content\":\"one\"},{\"role\":\"assistant\",\"content\":\"two\"},\n{\"role\":\"user\",\"content\":\"three\"},{\"role\":\"assistant\",\"content\":\"four\"}]}",
            "{\"role\":\"user\",\"text\":\"one\"}\n{\"role\":\"assistant\",\"text\":\"two\"}\nnot json {\n{\"role\":\"user\",\"content\":\"three\"}\n{\"role\":\"assistant\",\"content\":\"four\"}\n",
            "{\"query\":\"one\",\"response\":\"two\"}\n{\"user\":\"three\",\"assistant\":\"four\"}\n",
            "{\"type\":\"summary\",\"summary\":\"x\"}\n{\"type\":\"user\",\"sessionId\":\"s\",\"message\":{\"role\":\"user\",\"content\":\"one\"}}\n{\"type\":\"assistant\",\"message\":{\"role\":\"assistant\",\"content\":[{\"type\":\"thinking\",\"thinking\":\"hm\"},{\"type\":\"text\",\"text\":\"two\"}]}}\n{\"type\":\"user\",\"isMeta\":true,\"message\":{\"role\":\"user\",\"content\":\"meta\"}}\n{\"type\":\"user\",\"message\":{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"content\":\"out\"}]}}\n{\"type\":\"user\",\"message\":{\"role\":\"user\",\"content\":\"three\"}}\n{\"type\":\"assistant\",\"message\":{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"four\"}]}}\n",
            "{\"timestamp\":\"2026-01-01T00:00:00Z\",\"type\":\"session_meta\",\"payload\":{\"id\":\"s\"}}\n{\"type\":\"event_msg\",\"payload\":{\"type\":\"user_message\",\"message\":\"one\"}}\n{\"type\":\"response_item\",\"payload\":{\"type\":\"message\",\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"one\"}]}}\n{\"type\":\"response_item\",\"payload\":{\"type\":\"message\",\"role\":\"assistant\",\"content\":[{\"type\":\"output_text\",\"text\":\"two\"}]}}\n{\"type\":\"response_item\",\"payload\":{\"type\":\"function_call\",\"name\":\"shell\"}}\n{\"type\":\"response_item\",\"payload\":{\"type\":\"message\",\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"three\"}]}}\n{\"type\":\"response_item\",\"payload\":{\"type\":\"message\",\"role\":\"assistant\",\"content\":[{\"type\":\"output_text\",\"text\":\"four\"}]}}\n",
        ] {
            let found: Vec<_> = read(text)
                .into_iter()
                .map(|turns| {
                    turns
                        .into_iter()
                        .filter(|(_, text)| !text.starts_with("not json"))
                        .map(|(role, text)| (role, text.trim().replace("\nnot json {", "")))
                        .collect::<Vec<_>>()
                })
                .collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_torn_last_line_is_left_for_the_next_time() {
        let whole = "{\"role\":\"user\",\"content\":\"one\"}\n";
        let torn = format!("{whole}{{\"role\":\"assi");
        let (done, read) = ConversationReader::new(None, None).read(torn.as_bytes());
        assert_eq!((done.len(), read), (1, whole.len()));
        let position = Position::after(torn.as_bytes(), read);
        assert_eq!(position.start_in(torn.as_bytes()), whole.len());
        assert_eq!(position.start_in(b"another file that is long enough to be read again from there"), 0);
        assert_eq!(position.start_in(b""), 0);
    }

    #[test]
    fn sessions_and_times_come_from_the_transcript() {
        let text = "{\"type\":\"user\",\"sessionId\":\"s-1\",\"timestamp\":\"2026-02-17T12:00:00Z\",\"message\":{\"role\":\"user\",\"content\":\"x\"}}\n";
        let (done, _) = ConversationReader::new(Some("claude".to_owned()), None).read(text.as_bytes());
        assert_eq!(done[0].session.as_deref(), Some("s-1"));
        assert_eq!((done[0].at, done[0].source.as_deref()), (Some(1_771_329_600), Some("claude")));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        for bytes in [
            &b"\xff\xfe{"[..],
            b"{}",
            b"[1,2,{\"role\":3}]",
            b"{\"messages\":[null]}",
            b"",
            b"\n\n:\n",
            b"{\"content\":[[[]]],\"role\":{\"role\":\"user\"}}",
        ] {
            let _ = ConversationReader::new(None, None).read(bytes);
        }
    }
}
