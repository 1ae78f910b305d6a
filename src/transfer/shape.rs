//! Reads JSON of any shape without ever repeating its content in a message.
//!
//! serde's own "invalid type" messages quote the value that they did not expect, and that value may be a memory.
//! So every value is read by a [`Shape`], which accepts any kind of value and refuses in words of its own.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, ErrorKind};

/// Carries an error of ours past serde, whose own errors are only text.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Option<Problem>>);

#[derive(Debug)]
pub(super) enum Problem {
    /// It is where the reader stands: the place is still to be put before it.
    Here(Error),
    /// It says itself what it is about.
    Complete(Error),
}

impl Problems {
    /// Keeps our error about what was just read, and makes the one that stops serde.
    pub(super) fn stop<E: serde::de::Error>(&self, error: Error) -> E {
        self.0.replace(Some(Problem::Here(error)));
        E::custom("stopped")
    }

    /// Keeps an error that needs no place, and makes the one that stops serde.
    pub(super) fn stop_complete<E: serde::de::Error>(&self, error: Error) -> E {
        self.0.replace(Some(Problem::Complete(error)));
        E::custom("stopped")
    }

    /// Our error, if one stopped the reading.
    pub(super) fn take(&self) -> Option<Problem> {
        self.0.take()
    }
}

/// A value that is neither a list nor an object.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    Whole(i64),
    /// A whole number that only fits without a sign.
    Large(u64),
    /// A fraction, or a whole number beyond 64 bits.
    Number(f64),
    Text(&'a str),
}

impl Scalar<'_> {
    /// What it is, for a message.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Whole(_) | Self::Large(_) | Self::Number(_) => "a number",
            Self::Text(_) => "a text",
        }
    }
}

/// What is read, for messages, and where errors go.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) problems: &'a Problems,
    pub(super) name: &'a str,
    pub(super) expected: &'static str,
}

impl Context<'_> {
    pub(super) fn wrong(&self, found: &str) -> Error {
        Error::new(ErrorKind::Invalid, format!("{} is {found}, expected {}", self.name, self.expected))
    }
}

/// Something that can be read from a JSON value of one or more kinds. Kinds that it does not name are refused.
pub(super) trait Shape<'de>: Sized {
    type Out;

    fn context(&self) -> Context<'_>;

    fn scalar(&self, scalar: Scalar<'_>) -> Result<Self::Out, Error> {
        Err(self.context().wrong(scalar.kind()))
    }

    fn list<A: SeqAccess<'de>>(self, _: A) -> Result<Self::Out, A::Error> {
        let context = self.context();
        Err(context.problems.stop(context.wrong("a list")))
    }

    fn object<A: MapAccess<'de>>(self, _: A) -> Result<Self::Out, A::Error> {
        let context = self.context();
        Err(context.problems.stop(context.wrong("an object")))
    }
}

/// Makes serde read a shape.
pub(super) struct Any<S>(pub(super) S);

impl<'de, S: Shape<'de>> Any<S> {
    fn scalar<E: serde::de::Error>(&self, scalar: Scalar<'_>) -> Result<S::Out, E> {
        self.0.scalar(scalar).map_err(|error| self.0.context().problems.stop(error))
    }
}

impl<'de, S: Shape<'de>> DeserializeSeed<'de> for Any<S> {
    type Value = S::Out;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Out, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, S: Shape<'de>> Visitor<'de> for Any<S> {
    type Value = S::Out;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.context().expected)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<S::Out, E> {
        self.scalar(Scalar::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<S::Out, E> {
        self.scalar(Scalar::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<S::Out, E> {
        self.scalar(Scalar::Whole(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<S::Out, E> {
        self.scalar(i64::try_from(value).map_or(Scalar::Large(value), Scalar::Whole))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<S::Out, E> {
        self.scalar(Scalar::Number(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<S::Out, E> {
        self.scalar(Scalar::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<S::Out, A::Error> {
        self.0.list(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<S::Out, A::Error> {
        self.0.object(object)
    }
}

/// A field that holds null or one scalar. `read` gives None for a kind that it does not take.
pub(super) struct Field<'a, T> {
    pub(super) context: Context<'a>,
    pub(super) read: fn(Scalar<'_>) -> Option<Result<T, Error>>,
}

impl<'de, T> Shape<'de> for Field<'_, T> {
    type Out = Option<T>;

    fn context(&self) -> Context<'_> {
        self.context
    }

    fn scalar(&self, scalar: Scalar<'_>) -> Result<Option<T>, Error> {
        match (scalar, (self.read)(scalar)) {
            (Scalar::Null, _) => Ok(None),
            (_, Some(Ok(value))) => Ok(Some(value)),
            (_, Some(Err(error))) => Err(super::placed(error, self.context.name)),
            (_, None) => Err(self.context.wrong(scalar.kind())),
        }
    }
}

/// A list whose items are all one kind of scalar, with a limit on how many are read.
pub(super) struct ListOf<'a, T> {
    pub(super) item: Field<'a, T>,
    pub(super) len_max: usize,
}

impl<T> ListOf<'_, T> {
    /// Reads the items of an open list.
    pub(super) fn items<'de, A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let context = self.item.context;
        let mut items = Vec::new();
        let field = || Field { context, read: self.item.read };
        while let Some(item) = list.next_element_seed(Any(field()))? {
            let Some(item) = item else {
                return Err(context.problems.stop(context.wrong("null")));
            };
            if items.len() == self.len_max {
                let what = format!("{} holds more than {} items", context.name, self.len_max);
                return Err(context.problems.stop(Error::new(ErrorKind::TooLarge, what)));
            }
            items.push(item);
        }
        Ok(items)
    }
}

/// serde_json's sentence without the position at its end, and what to do about it.
pub(super) fn syntax_problem(error: &serde_json::Error) -> Error {
    let sentence = error.to_string();
    let what = sentence.split(" at line ").next().unwrap_or_default().to_owned();
    let hint = if error.is_eof() {
        "the file ends too early, it may have been cut off on its way"
    } else if what.contains("surrogate") || what.contains("hex escape") {
        "half a character stands alone after \\u; write the character itself, or both halves"
    } else {
        "check that the file is JSON in UTF-8; NaN and Infinity are not JSON"
    };
    Error::new(ErrorKind::Invalid, what).hint(hint)
}
