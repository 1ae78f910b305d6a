//! One memory as an object in a file: which keys it may have, and their values in their types.

use serde::de::{MapAccess, SeqAccess};
use serde_json::{Map, Value};

use super::shape::{Any, Context, Field, Problems, Scalar, Shape};
use crate::error::{Error, ErrorKind};
use crate::memory::{DIMENSIONS_MAX, METADATA_LEN_MAX};
use crate::store::MemoryVectors;
use crate::time;

/// Most tags that are read of one memory, repeats and blanks included; far fewer may stay.
pub(super) const TAGS_READ_MAX: usize = 4096;
/// Longest unknown key that is kept for the report, in characters.
const UNKNOWN_CHARS_MAX: usize = 64;
/// Most unknown keys of one memory that are kept for the report.
const UNKNOWN_MAX: usize = 64;

/// The keys of one object. A key that is missing or `null` is None.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) id: Option<String>,
    pub(super) text: Option<String>,
    pub(super) timestamp: Option<i64>,
    pub(super) source: Option<String>,
    pub(super) session_id: Option<String>,
    pub(super) importance: Option<f64>,
    pub(super) tags: Option<Vec<String>>,
    pub(super) collection: Option<String>,
    pub(super) speaker: Option<String>,
    pub(super) role: Option<String>,
    pub(super) position: Option<i64>,
    pub(super) metadata: Option<Map<String, Value>>,
    pub(super) vector: Option<Vec<f32>>,
    pub(super) vectors: Option<MemoryVectors>,
    /// Keys that nobody reads, fit for a terminal.
    pub(super) unknown: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Id,
    Text,
    Timestamp,
    Source,
    Session,
    Importance,
    Tags,
    Collection,
    Speaker,
    Role,
    Position,
    Metadata,
    Vector,
    Vectors,
    /// What a recall adds to a memory and an import has no use for.
    OfAnswers,
}

impl Key {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "id" => Self::Id,
            "text" => Self::Text,
            "timestamp" | "time" | "created_at" => Self::Timestamp,
            "source" => Self::Source,
            "session_id" | "session" => Self::Session,
            "importance" => Self::Importance,
            "tags" => Self::Tags,
            "collection" => Self::Collection,
            "speaker" => Self::Speaker,
            "role" => Self::Role,
            "position" | "pos" => Self::Position,
            "metadata" => Self::Metadata,
            "vector" | "embedding" => Self::Vector,
            "vectors" => Self::Vectors,
            "score" | "explain" => Self::OfAnswers,
            _ => return None,
        })
    }
}

/// Reads an object as [`Fields`].
pub(super) struct FieldsShape<'a> {
    pub(super) problems: &'a Problems,
}

impl<'de> Shape<'de> for FieldsShape<'_> {
    type Out = Fields;

    fn context(&self) -> Context<'_> {
        Context { problems: self.problems, name: "this", expected: "an object with the fields of a memory" }
    }

    fn object<A: MapAccess<'de>>(self, mut object: A) -> Result<Fields, A::Error> {
        let problems = self.problems;
        let mut fields = Fields::default();
        let mut seen: Vec<Key> = Vec::new();
        while let Some(name) = object.next_key::<String>()? {
            let Some(key) = Key::of(&name) else {
                object.next_value::<serde::de::IgnoredAny>()?;
                fields.add_unknown(&name);
                continue;
            };
            if seen.contains(&key) {
                let what = format!("`{name}` stands twice, or beside another name of the same field");
                return Err(problems.stop(Error::new(ErrorKind::Invalid, what)));
            }
            seen.push(key);
            fields.read(key, &name, problems, &mut object)?;
        }
        Ok(fields)
    }
}

impl Fields {
    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        key: Key,
        name: &str,
        problems: &Problems,
        object: &mut A,
    ) -> Result<(), A::Error> {
        let context = |expected| Context { problems, name, expected };
        let text = || Any(Field { context: context("a text"), read: text });
        match key {
            Key::Id => self.id = object.next_value_seed(text())?,
            Key::Text => self.text = object.next_value_seed(text())?,
            Key::Source => self.source = object.next_value_seed(text())?,
            Key::Collection => self.collection = object.next_value_seed(text())?,
            Key::Speaker => self.speaker = object.next_value_seed(text())?,
            Key::Role => self.role = object.next_value_seed(text())?,
            Key::Session => {
                let context = context("a text or a whole number");
                self.session_id = object.next_value_seed(Any(Field { context, read: text_or_whole }))?;
            }
            Key::Timestamp => {
                let context = context("Unix seconds or a text such as 2026-02-17T12:30:00Z");
                self.timestamp = object.next_value_seed(Any(Field { context, read: seconds }))?;
            }
            Key::Importance => {
                let context = context("a number from 0 to 1");
                self.importance = object.next_value_seed(Any(Field { context, read: number }))?;
            }
            Key::Position => {
                let context = context("a whole number");
                self.position = object.next_value_seed(Any(Field { context, read: whole }))?;
            }
            Key::Tags => self.tags = object.next_value_seed(Any(TagsShape(context("a list of texts"))))?,
            Key::Vector => {
                self.vector = object.next_value_seed(Any(VectorShape(context("a list of numbers"))))?;
            }
            Key::Vectors => {
                // serde's own message would quote what it did not expect.
                let wrong = |_| {
                    problems.stop(context("an object with `model` and `windows`").wrong("of another shape"))
                };
                self.vectors = object.next_value().map_err(wrong)?;
            }
            Key::Metadata => {
                self.metadata = object.next_value_seed(Any(MetadataShape(context("an object"))))?;
            }
            Key::OfAnswers => {
                object.next_value::<serde::de::IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn add_unknown(&mut self, name: &str) {
        let name: String = name.chars().take(UNKNOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
        if self.unknown.len() < UNKNOWN_MAX && !self.unknown.contains(&name) {
            self.unknown.push(name);
        }
    }
}

fn text(scalar: Scalar<'_>) -> Option<Result<String, Error>> {
    match scalar {
        Scalar::Text(text) => Some(Ok(text.to_owned())),
        _ => None,
    }
}

fn text_or_whole(scalar: Scalar<'_>) -> Option<Result<String, Error>> {
    match scalar {
        Scalar::Whole(number) => Some(Ok(number.to_string())),
        other => text(other),
    }
}

fn number(scalar: Scalar<'_>) -> Option<Result<f64, Error>> {
    match scalar {
        Scalar::Whole(number) => Some(Ok(number as f64)),
        Scalar::Large(number) => Some(Ok(number as f64)),
        Scalar::Number(number) => Some(Ok(number)),
        _ => None,
    }
}

fn whole(scalar: Scalar<'_>) -> Option<Result<i64, Error>> {
    match scalar {
        Scalar::Whole(number) => Some(Ok(number)),
        Scalar::Number(number) if number.fract() == 0.0 => small_whole(number).map(Ok),
        _ => None,
    }
}

fn seconds(scalar: Scalar<'_>) -> Option<Result<i64, Error>> {
    match scalar {
        Scalar::Whole(seconds) => Some(time::checked(seconds)),
        Scalar::Number(seconds) => small_whole(seconds.floor()).map(time::checked),
        Scalar::Text(text) => Some(time::parse_absolute(text).map_err(|_| {
            // The error of `time` quotes the text, which in a file of the wrong kind may be a memory.
            Error::new(ErrorKind::Invalid, "this text is not a time")
                .hint("write 2026-02-17T12:30:00Z, 2026-02-17, or Unix seconds")
        })),
        _ => None,
    }
}

/// A float without a fraction as an integer, as far as floats hold integers exactly.
fn small_whole(number: f64) -> Option<i64> {
    const EXACT_MAX: f64 = (1_i64 << 53) as f64;
    (number.abs() <= EXACT_MAX).then_some(number as i64)
}

/// Tags: a list of texts, or one text with commas as the command line takes it.
struct TagsShape<'a>(Context<'a>);

impl<'de> Shape<'de> for TagsShape<'_> {
    type Out = Option<Vec<String>>;

    fn context(&self) -> Context<'_> {
        self.0
    }

    fn scalar(&self, scalar: Scalar<'_>) -> Result<Self::Out, Error> {
        match scalar {
            Scalar::Null => Ok(None),
            Scalar::Text(text) if text.split(',').nth(TAGS_READ_MAX).is_some() => {
                Err(self.0.too_many(TAGS_READ_MAX))
            }
            Scalar::Text(text) => Ok(Some(text.split(',').map(str::to_owned).collect())),
            other => Err(self.0.wrong(other.kind())),
        }
    }

    fn list<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Out, A::Error> {
        let context = Context { name: "a tag", expected: "a text", ..self.0 };
        let mut tags = Vec::new();
        while let Some(tag) = list.next_element_seed(Any(Field { context, read: text }))? {
            let tag = tag.ok_or_else(|| context.problems.stop(context.wrong("null")))?;
            if tags.len() == TAGS_READ_MAX {
                return Err(context.problems.stop(self.0.too_many(TAGS_READ_MAX)));
            }
            tags.push(tag);
        }
        Ok(Some(tags))
    }
}

struct VectorShape<'a>(Context<'a>);

impl<'de> Shape<'de> for VectorShape<'_> {
    type Out = Option<Vec<f32>>;

    fn context(&self) -> Context<'_> {
        self.0
    }

    fn scalar(&self, scalar: Scalar<'_>) -> Result<Self::Out, Error> {
        match scalar {
            Scalar::Null => Ok(None),
            other => Err(self.0.wrong(other.kind())),
        }
    }

    fn list<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Out, A::Error> {
        let mut vector = Vec::new();
        while let Some(value) = list.next_element_seed(Any(DimensionShape(self.0)))? {
            if vector.len() == DIMENSIONS_MAX {
                return Err(self.0.problems.stop(self.0.too_many(DIMENSIONS_MAX)));
            }
            vector.push(value);
        }
        Ok(Some(vector))
    }
}

/// One number of a vector. A bulk load reads hundreds of them for each memory, so this is no [`Field`].
struct DimensionShape<'a>(Context<'a>);

impl<'de> Shape<'de> for DimensionShape<'_> {
    type Out = f32;

    fn context(&self) -> Context<'_> {
        Context { expected: "numbers only", ..self.0 }
    }

    fn scalar(&self, scalar: Scalar<'_>) -> Result<f32, Error> {
        match scalar {
            Scalar::Number(number) => Ok(number as f32),
            Scalar::Whole(number) => Ok(number as f32),
            Scalar::Large(number) => Ok(number as f32),
            other => Err(self.context().wrong(other.kind())),
        }
    }
}

struct MetadataShape<'a>(Context<'a>);

impl<'de> Shape<'de> for MetadataShape<'_> {
    type Out = Option<Map<String, Value>>;

    fn context(&self) -> Context<'_> {
        self.0
    }

    fn scalar(&self, scalar: Scalar<'_>) -> Result<Self::Out, Error> {
        match scalar {
            Scalar::Null => Ok(None),
            other => Err(self.0.wrong(other.kind())),
        }
    }

    fn object<A: MapAccess<'de>>(self, object: A) -> Result<Self::Out, A::Error> {
        let left = std::cell::Cell::new(METADATA_LEN_MAX);
        ValueShape { context: self.0, left: &left }.members(object).map(Some)
    }
}

/// Any value, as long as all of the metadata together can still be within its limit. A tree in memory is many
/// times as large as its text, so it is counted while it grows.
#[derive(Clone, Copy)]
struct ValueShape<'a> {
    context: Context<'a>,
    /// Bytes of JSON that may still come, at the least that each value needs.
    left: &'a std::cell::Cell<usize>,
}

impl ValueShape<'_> {
    fn spend(&self, bytes: usize) -> Result<(), Error> {
        let left = self.left.get().checked_sub(bytes).ok_or_else(|| {
            Error::new(
                ErrorKind::TooLarge,
                format!("{} has more than {METADATA_LEN_MAX} bytes of JSON", self.context.name),
            )
        })?;
        self.left.set(left);
        Ok(())
    }

    fn members<'de, A: MapAccess<'de>>(self, mut object: A) -> Result<Map<String, Value>, A::Error> {
        let stop = |error| self.context.problems.stop(error);
        let mut map = Map::new();
        while let Some(key) = object.next_key::<String>()? {
            self.spend(key.len()).map_err(stop)?;
            let value = object.next_value_seed(Any(self))?;
            if map.insert(key, value).is_some() {
                let what = format!("{} holds a key twice", self.context.name);
                return Err(stop(Error::new(ErrorKind::Invalid, what)));
            }
        }
        Ok(map)
    }
}

impl<'de> Shape<'de> for ValueShape<'_> {
    type Out = Value;

    fn context(&self) -> Context<'_> {
        self.context
    }

    fn scalar(&self, scalar: Scalar<'_>) -> Result<Value, Error> {
        self.spend(1)?;
        Ok(match scalar {
            Scalar::Null => Value::Null,
            Scalar::Bool(value) => Value::Bool(value),
            Scalar::Whole(value) => Value::from(value),
            Scalar::Large(value) => Value::from(value),
            Scalar::Number(value) => Value::from(value),
            Scalar::Text(value) => {
                self.spend(value.len())?;
                Value::from(value)
            }
        })
    }

    fn list<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        self.spend(2).map_err(|error| self.context.problems.stop(error))?;
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(Any(self))? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn object<A: MapAccess<'de>>(self, object: A) -> Result<Value, A::Error> {
        self.spend(2).map_err(|error| self.context.problems.stop(error))?;
        self.members(object).map(Value::Object)
    }
}
