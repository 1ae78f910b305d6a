//! Streams the objects of lists in a JSON file of another program.

use std::cell::{Cell, RefCell};
use std::io::Read;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess};
use serde_json::{Map, Value};

use super::input::{Meter, Metered, read_error, without_bom};
use super::placed;
use super::shape::{Any, Context, Problem, Problems, Shape, syntax_problem};
use crate::error::{Error, ErrorKind, Result};

/// Most bytes of JSON of one object, and of a value that is skipped.
const OBJECT_JSON_MAX: u64 = 16 << 20;

/// An object and the list that it stands in; a list that is the file itself has no name.
pub(super) type Each<'a> = dyn FnMut(&str, Map<String, Value>) -> Result<()> + 'a;

/// Reads a file that is a list of objects, or an object that holds such lists under these names, and gives each object
/// to `each`. Lists of other names are skipped. One object is in memory at a time.
///
/// # Errors
/// [`ErrorKind::Invalid`] for what is no JSON or of another shape, [`ErrorKind::TooLarge`], [`ErrorKind::Io`]. They name
/// the object by its number in the file and never say what is in it. An error of `each` ends the reading.
pub(super) fn read<R: Read>(reader: R, names: &[&str], each: &mut Each<'_>) -> Result<()> {
    let walk = Walk {
        meter: Meter::new(OBJECT_JSON_MAX),
        problems: Problems::default(),
        names,
        index: Cell::new(0),
        each: RefCell::new(each),
    };
    let mut json = serde_json::Deserializer::from_reader(Metered::new(without_bom(reader)?, &walk.meter));
    let outcome = Any(FileShape(&walk)).deserialize(&mut json).and_then(|()| json.end());
    drop(json);
    outcome.map_err(|error| walk.failure(error))
}

struct Walk<'a, 'b> {
    meter: Meter,
    problems: Problems,
    names: &'a [&'a str],
    /// The object that is being read, counted from 1 through all lists.
    index: Cell<u64>,
    each: RefCell<&'a mut Each<'b>>,
}

impl Walk<'_, '_> {
    fn objects<'de, A: SeqAccess<'de>>(&self, name: &str, mut list: A) -> Result<(), A::Error> {
        loop {
            self.meter.allow(OBJECT_JSON_MAX);
            let object = match list.next_element::<Value>()? {
                Some(Value::Object(object)) => object,
                Some(_) => {
                    let what = format!("item {} is no object", self.index.get() + 1);
                    return Err(self.problems.stop(Error::new(ErrorKind::Invalid, what)));
                }
                None => return Ok(()),
            };
            self.index.set(self.index.get() + 1);
            (self.each.borrow_mut())(name, object).map_err(|error| self.problems.stop_complete(error))?;
        }
    }

    fn failure(&self, error: serde_json::Error) -> Error {
        let place =
            format!("line {}, column {}, after item {}", error.line(), error.column(), self.index.get());
        match self.problems.take() {
            Some(Problem::Complete(error)) => error,
            Some(Problem::Here(error)) => placed(error, &place),
            None if self.meter.is_exhausted() => {
                let what = format!("{place}: a value has more than {OBJECT_JSON_MAX} bytes of JSON");
                Error::new(ErrorKind::TooLarge, what)
            }
            None if error.is_io() => read_error(&error.into()),
            None => placed(syntax_problem(&error), &place),
        }
    }
}

struct FileShape<'a, 'b, 'c>(&'a Walk<'b, 'c>);

impl<'de> Shape<'de> for FileShape<'_, '_, '_> {
    type Out = ();

    fn context(&self) -> Context<'_> {
        Context {
            problems: &self.0.problems,
            name: "the file",
            expected: "a list of objects, or an object with one",
        }
    }

    fn list<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        self.0.objects("", list)
    }

    fn object<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let Self(walk) = self;
        let mut is_found = false;
        loop {
            walk.meter.allow(OBJECT_JSON_MAX);
            let Some(name) = object.next_key::<String>()? else { break };
            if walk.names.contains(&name.as_str()) {
                object.next_value_seed(Any(ListShape { walk, name: &name }))?;
                is_found = true;
            } else {
                object.next_value::<IgnoredAny>()?;
            }
        }
        if is_found {
            return Ok(());
        }
        let what = format!("the file has none of the lists {}", walk.names.join(", "));
        Err(walk.problems.stop(Error::new(ErrorKind::Invalid, what)))
    }
}

struct ListShape<'a, 'b, 'c> {
    walk: &'a Walk<'b, 'c>,
    name: &'a str,
}

impl<'de> Shape<'de> for ListShape<'_, '_, '_> {
    type Out = ();

    fn context(&self) -> Context<'_> {
        Context { problems: &self.walk.problems, name: self.name, expected: "a list" }
    }

    fn list<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        self.walk.objects(self.name, list)
    }
}
