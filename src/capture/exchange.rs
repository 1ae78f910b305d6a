//! What is captured from: who said what.

use serde::Serialize;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// A person.
    User,
    /// An agent.
    Assistant,
    /// A client or a tool; never captured.
    System,
}

impl Role {
    /// The role of this name, as chats write it; unknown ones count as [`Role::System`].
    #[must_use]
    pub fn named(name: &str) -> Self {
        match name.trim().to_ascii_lowercase().as_str() {
            "user" | "human" | "q" => Self::User,
            "assistant" | "ai" | "agent" | "model" | "bot" | "a" => Self::Assistant,
            _ => Self::System,
        }
    }

    /// The name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::System => "system",
        }
    }
}

/// How far what was said is to be believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Trust {
    /// Said in the user's own conversation.
    #[default]
    Own,
    /// From elsewhere, such as a web page or another agent.
    Foreign,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Turn {
    /// Who speaks.
    pub role: Role,
    /// What was said.
    pub text: String,
}

/// Turns that belong together, such as a question and its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub struct Exchange {
    /// The turns, in order.
    pub turns: Vec<Turn>,
    /// The conversation it belongs to; None: the default session.
    pub session: Option<String>,
    /// Where it comes from; None: `capture`.
    pub source: Option<String>,
    /// When it was, in Unix seconds; None: now.
    pub at: Option<i64>,
    /// How far it is to be believed.
    pub trust: Trust,
}

impl Exchange {
    /// What a user said and what an agent answered. Either may be empty.
    pub fn new(user: impl Into<String>, assistant: impl Into<String>) -> Self {
        Self::default().turn(Role::User, user).turn(Role::Assistant, assistant)
    }

    /// One more turn; an empty text is none.
    pub fn turn(mut self, role: Role, text: impl Into<String>) -> Self {
        let text = text.into();
        if !text.trim().is_empty() {
            self.turns.push(Turn { role, text });
        }
        self
    }

    /// The conversation it belongs to.
    pub fn session(mut self, session: impl Into<String>) -> Self {
        self.session = Some(session.into());
        self
    }

    /// Where it comes from.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// When it was, in Unix seconds.
    pub fn at(mut self, unix_seconds: i64) -> Self {
        self.at = Some(unix_seconds);
        self
    }

    /// How far it is to be believed.
    pub fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }
}
