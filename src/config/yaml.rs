//! Reads one YAML text as a list of keys with their lines, within fixed budgets.
//!
//! A configuration is small: the budgets here refuse alias bombs and deep nesting long before they cost anything.
//! Values stay untyped in this file; `keys.rs` knows what each key may hold.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Error as YamlError, NonFiniteFloatPolicy, Spanned};

/// A value of the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Nothing: the key is there and its value is not.
    Null,
    Bool(bool),
    Integer(i64),
    /// Any other number: a fraction, or an integer beyond 64 bits.
    Number(f64),
    Text(String),
    List(Vec<Value>),
    Mapping(Vec<Entry>),
}

impl Value {
    /// What it is, for a message.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Integer(_) | Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Mapping(_) => "a mapping",
        }
    }
}

/// One key with its value and the line where the key stands, counted from 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: u64,
    pub(super) value: Value,
}

/// What is wrong with the text, and where.
#[derive(Debug)]
pub(super) struct YamlProblem {
    pub(super) line: Option<u64>,
    pub(super) column: Option<u64>,
    pub(super) what: String,
}

const BEYOND_BUDGET: &str = "the file is nested too deeply, or has too many entries, aliases or documents";

/// The entries of the top-level mapping; none for an empty text.
pub(super) fn parse(text: &str) -> Result<Vec<Entry>, YamlProblem> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 50_000,
            max_nodes: 20_000,
            max_depth: 16,
            flow_nesting_limit: 16,
            max_documents: 1,
            max_aliases: 64,
            max_anchors: 64,
            max_merge_keys: 64,
            max_recorded_anchor_events: 10_000,
            max_recorded_anchor_bytes: 1 << 20,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 10_000,
            max_replay_stack_depth: 8,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        // A number that is not finite is refused with the name of its key, which only `keys.rs` knows.
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options(text, options).map_err(|error| problem(&error))? {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Mapping(entries)) => Ok(entries),
        Some(other) => Err(YamlProblem {
            line: None,
            column: None,
            what: format!("the file holds {}, expected keys with values", other.kind()),
        }),
    }
}

fn problem(error: &YamlError) -> YamlProblem {
    let location = error.location();
    let what = match error {
        YamlError::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key `{}` stands twice", key.escape_debug())
        }
        YamlError::DuplicateMappingKey { .. } => "a key stands twice".to_owned(),
        YamlError::NullIntoString { .. } => "a key is empty".to_owned(),
        YamlError::Budget { .. }
        | YamlError::AliasReplayLimitExceeded { .. }
        | YamlError::AliasReplayStackDepthExceeded { .. }
        | YamlError::AliasExpansionLimitExceeded { .. } => BEYOND_BUDGET.to_owned(),
        // The position stands in its own fields; the library's sentence repeats it at its end.
        other => match other.to_string().split(" at line ").next() {
            // A budget that breaks inside an alias comes wrapped in an error about that alias.
            Some(sentence) if sentence.starts_with("budget breached") => BEYOND_BUDGET.to_owned(),
            sentence => sentence.unwrap_or_default().to_owned(),
        },
    };
    YamlProblem { line: location.map(|at| at.line()), column: location.map(|at| at.column()), what }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value of a configuration")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Number(value as f64), Value::Integer))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Number(value as f64), Value::Integer))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Number(value as f64), Value::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Value, E> {
        Ok(Value::List(Vec::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let value = map.next_value::<Value>()?;
            entries.push(Entry { key: key.value, line: key.referenced.line(), value });
        }
        Ok(Value::Mapping(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_of_problem(text: &str) -> Option<u64> {
        parse(text).expect_err("this text is bad").line
    }

    #[test]
    fn keys_come_with_their_lines_and_values_with_their_types() {
        let entries =
            parse("debug: yes\n\nsearch:\n  timeout_ms: 5\n  hybrid_alpha: 0.5\n  other: ~\n").expect("good");
        assert_eq!((entries[0].line, &entries[0].value), (1, &Value::Bool(true)));
        let Value::Mapping(search) = &entries[1].value else { panic!("a section is a mapping") };
        let found: Vec<_> = search.iter().map(|e| (e.key.as_str(), e.line, e.value.clone())).collect();
        assert_eq!(
            found,
            [
                ("timeout_ms", 4, Value::Integer(5)),
                ("hybrid_alpha", 5, Value::Number(0.5)),
                ("other", 6, Value::Null)
            ]
        );
    }

    #[test]
    fn a_text_without_content_has_no_entries() {
        for text in ["", "\n", "# only a comment\n", "---\n", "\u{feff}"] {
            assert_eq!(parse(text).expect(text), [], "{text:?}");
        }
    }

    #[test]
    fn a_file_that_is_no_mapping_is_refused() {
        for text in ["5", "- a\n- b\n", "words", "[a]"] {
            assert!(parse(text).expect_err(text).what.contains("expected keys"), "{text:?}");
        }
    }

    #[test]
    fn tabs_brackets_and_quotes_are_reported_with_their_line() {
        assert_eq!(line_of_problem("a:\n\tb: 1\n"), Some(2));
        assert_eq!(line_of_problem("ok: 1\na: [1\n"), Some(2));
        assert_eq!(line_of_problem("ok: 1\nb: c: d\n"), Some(2));
        assert_eq!(line_of_problem("a: *nowhere\n"), Some(1));
    }

    #[test]
    fn a_repeated_key_is_named() {
        let problem = parse("a: 1\nb: 2\na: 3\n").expect_err("a stands twice");
        assert_eq!((problem.line, problem.what.as_str()), (Some(3), "the key `a` stands twice"));
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x]\n");
        for (name, former) in ('b'..='m').zip('a'..) {
            let nine = vec![format!("*{former}"); 9].join(", ");
            bomb.push_str(&format!("{name}: &{name} [{nine}]\n"));
        }
        assert!(parse(&bomb).expect_err("a bomb").what.contains("aliases"));
    }

    #[test]
    fn deep_nesting_and_a_second_document_are_refused() {
        let blocks: String = (0..5000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        for text in ["[".repeat(200_000), blocks, "a: 1\n---\nb: 2\n".to_owned()] {
            assert!(parse(&text).is_err());
        }
    }

    #[test]
    fn numbers_beyond_64_bits_stay_numbers() {
        let entries = parse("a: 99999999999999999999999\nb: 1e400\nc: -1\n").expect("numbers");
        assert_eq!(entries[0].value, Value::Number(1e23));
        assert_eq!(entries[1].value, Value::Number(f64::INFINITY));
        assert_eq!(entries[2].value, Value::Integer(-1));
    }
}
