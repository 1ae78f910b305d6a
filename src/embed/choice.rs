//! Which model a store asks: the names that a user writes, and the embedder behind each.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::Embedder;
use crate::error::{Error, ErrorKind, Result};

/// The specs that can be written, as an error and a help text show them.
const CHOICES: &str = "builtin:minilm-l6, builtin:none (words only), dir:/path or fastembed:NAME";

/// Names by which the original and its documents call the model that is built in.
const BUILTIN_NAMES: [&str; 2] = ["sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"];

/// The choice of an embedding model, as it is written in the configuration and on the command line.
///
/// ```
/// use memento_kv::embed::ModelSpec;
///
/// let spec: ModelSpec = "fastembed:BGESmallENV15".parse()?;
/// assert_eq!(spec, ModelSpec::Named("BGESmallENV15".to_owned()));
/// assert_eq!(spec.to_string(), "fastembed:BGESmallENV15");
/// # Ok::<(), memento_kv::Error>(())
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub enum ModelSpec {
    /// `builtin:minilm-l6`: all-MiniLM-L6-v2, inside the program.
    #[default]
    BuiltinMiniLm,
    /// `builtin:none`: no model; recall works by words only.
    None,
    /// `dir:/path`: an ONNX model in a folder. A bare name is a folder in the folder of models.
    Dir(PathBuf),
    /// `fastembed:NAME`: a model of [`list`] that [`pull`] has fetched.
    Named(String),
}

impl FromStr for ModelSpec {
    type Err = Error;

    /// # Errors
    /// [`ErrorKind::Invalid`] for anything but the four forms and the original's names of the built-in model; the
    /// error lists the forms.
    fn from_str(spec: &str) -> Result<Self> {
        match spec.split_once(':') {
            None if BUILTIN_NAMES.contains(&spec) => Ok(Self::BuiltinMiniLm),
            Some(("builtin", "minilm-l6")) => Ok(Self::BuiltinMiniLm),
            Some(("builtin", "none")) => Ok(Self::None),
            Some(("dir", path)) if !path.is_empty() => Ok(Self::Dir(expand_home(path))),
            Some(("fastembed", name)) if is_name(name) => Ok(Self::Named(name.to_owned())),
            _ => Err(Error::new(ErrorKind::Invalid, format!("{spec:?} names no embedding model"))
                .hint(format!("write {CHOICES}"))),
        }
    }
}

impl fmt::Display for ModelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltinMiniLm => write!(f, "builtin:minilm-l6"),
            Self::None => write!(f, "builtin:none"),
            Self::Dir(path) => write!(f, "dir:{}", path.display()),
            Self::Named(name) => write!(f, "fastembed:{name}"),
        }
    }
}

/// A model that [`pull`] can fetch.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullableModel {
    /// The name to give to [`pull`], and behind `fastembed:` in a spec.
    pub name: String,
    /// The hub's name of it, such as `BAAI/bge-m3`.
    pub repository: String,
    /// Dimensions of its vectors.
    pub dimensions: u32,
    /// What it is, in a few words.
    pub description: String,
}

/// The models that [`pull`] can fetch, sorted by name. Empty in a program that was built without the feature
/// `fastembed`.
#[must_use]
pub fn list() -> Vec<PullableModel> {
    #[cfg(feature = "fastembed")]
    return super::onnx::list();
    #[cfg(not(feature = "fastembed"))]
    return Vec::new();
}

/// How far the fetching of one file of a model is.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullProgress<'a> {
    /// The file's name on the hub.
    pub file: &'a str,
    /// Bytes that have come.
    pub done_bytes: u64,
    /// Bytes of the whole file.
    pub total_bytes: u64,
}

/// Fetches a model of [`list`] into a folder of the folder of models, and returns that folder. A model that is there is
/// not fetched again. This is the only function of the library that uses the network.
///
/// `HF_ENDPOINT` names a mirror of the hub, `HF_TOKEN` a token for either; the token of a login goes to the hub only.
/// With `HF_HOME`, what the user's cache of the hub has is copied from there, and what is fetched stays there too.
/// There is no time limit; a process that is stopped midway leaves only a hidden folder that the next call removes.
///
/// # Errors
/// [`ErrorKind::Model`] when there is no such model, when a file does not come or is not what the hub announced, and
/// in a program that was built without the feature `fastembed`; [`ErrorKind::Busy`] while another process fetches into
/// this folder; [`ErrorKind::NoSpace`] and the other kinds of the file system. Nothing is left behind by an error.
pub fn pull(name: &str, models_dir: &Path, progress: &mut dyn FnMut(PullProgress<'_>)) -> Result<PathBuf> {
    #[cfg(feature = "fastembed")]
    return super::onnx::pull(name, models_dir, progress);
    #[cfg(not(feature = "fastembed"))]
    {
        let (_, _, _) = (name, models_dir, progress);
        Err(built_without())
    }
}

/// The embedder of a spec, or none for [`ModelSpec::None`]. Never uses the network.
///
/// `builtin` gives the engine inside the program; it is asked only for [`ModelSpec::BuiltinMiniLm`].
///
/// # Errors
/// [`ErrorKind::Model`] when the model is not there or cannot be loaded, with what to do.
pub(crate) fn load(
    spec: &ModelSpec,
    models_dir: &Path,
    builtin: impl FnOnce() -> Result<Arc<dyn Embedder>>,
) -> Result<Option<Arc<dyn Embedder>>> {
    match spec {
        ModelSpec::BuiltinMiniLm => builtin().map(Some),
        ModelSpec::None => Ok(None),
        ModelSpec::Dir(path) => load_dir(&in_models_dir(path, models_dir)).map(Some),
        ModelSpec::Named(name) => load_named(name, models_dir).map(Some),
    }
}

/// Loads an ONNX model from a folder, for a caller who hands the embedder to a store. Never uses the network.
///
/// The folder holds `model.onnx` and `tokenizer.json`; `tokenizer_config.json` may give `model_max_length`. An optional
/// `memento-model.json` says what those files do not: `name`, `pooling` (`mean`, the default, or `cls`), `max_tokens`,
/// `query_prefix`, `document_prefix`, `output` (which of several outputs) and `external_files` (weights outside of
/// `model.onnx`). ONNX Runtime 1.24 or later must be installed: it is looked for where `MEMENTO_ORT_DYLIB` and
/// `ORT_DYLIB_PATH` point, beside the program and in `$XDG_DATA_HOME/memento/lib`.
///
/// # Errors
/// [`ErrorKind::Model`] when a file is missing or wrong, when ONNX Runtime is not found, or when the program was built
/// without the feature `fastembed`.
pub fn load_dir(folder: &Path) -> Result<Arc<dyn Embedder>> {
    #[cfg(feature = "fastembed")]
    return Ok(Arc::new(super::onnx::OnnxModel::load(folder)?));
    #[cfg(not(feature = "fastembed"))]
    return Err(built_without().at(folder));
}

#[cfg(not(feature = "fastembed"))]
fn built_without() -> Error {
    Error::new(
        ErrorKind::Model,
        "this program was built without the feature `fastembed`, so it has the built-in model only",
    )
    .hint("build it with `--features fastembed`")
}

fn load_named(name: &str, models_dir: &Path) -> Result<Arc<dyn Embedder>> {
    // A spec that was not parsed could name a path out of the folder.
    if !is_name(name) {
        return Err(Error::new(ErrorKind::Invalid, format!("{name:?} is no name of a model")));
    }
    let known = list().into_iter().find(|model| model.name.eq_ignore_ascii_case(name));
    let folder = models_dir.join(known.as_ref().map_or(name, |model| &model.name));
    if cfg!(feature = "fastembed") && !folder.is_dir() {
        let error = Error::new(ErrorKind::Model, format!("the model {name} is not in the folder of models"));
        return Err(error.at(&folder).hint(match known {
            Some(model) => format!("fetch it with `memento-kv model pull {}`", model.name),
            None => "`memento-kv model list` shows the models that can be fetched".to_owned(),
        }));
    }
    load_dir(&folder)
}

/// Whether this can be the name of one folder, and not a hidden one.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

/// A bare name is a folder of the folder of models; any other path is taken as it is.
fn in_models_dir(path: &Path, models_dir: &Path) -> PathBuf {
    let mut components = path.components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(_)), None) => models_dir.join(path),
        _ => path.to_owned(),
    }
}

/// A shell does not expand `dir:~/x`, and nothing does in a file.
fn expand_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_builtin() -> Result<Arc<dyn Embedder>> {
        Err(Error::new(ErrorKind::Model, "the built-in model was asked"))
    }

    #[test]
    fn specs_are_read_as_they_are_written() {
        for spec in ["builtin:minilm-l6", "builtin:none", "dir:/a/b", "dir:name", "fastembed:BGESmallENV15"] {
            let parsed: ModelSpec = spec.parse().expect("a spec");
            assert_eq!(parsed.to_string(), spec);
        }
        assert_eq!(ModelSpec::default().to_string(), "builtin:minilm-l6");
    }

    #[test]
    fn the_names_of_the_original_are_the_built_in_model() {
        for name in BUILTIN_NAMES {
            assert_eq!(name.parse::<ModelSpec>().expect(name), ModelSpec::BuiltinMiniLm);
        }
    }

    #[test]
    fn a_wrong_spec_is_an_error_that_lists_the_choices() {
        let wrong =
            ["", "minilm", "builtin:", "builtin:x", "dir:", "fastembed:", "fastembed:../x", "fastembed:.x"];
        for spec in wrong {
            let error = spec.parse::<ModelSpec>().expect_err(spec);
            assert_eq!(error.kind(), ErrorKind::Invalid);
            let hint = error.hint_text().expect("a hint");
            for choice in ["builtin:minilm-l6", "builtin:none", "dir:/path", "fastembed:NAME"] {
                assert!(hint.contains(choice), "{hint}");
            }
        }
    }

    #[test]
    fn a_home_folder_in_a_spec_is_expanded() {
        let home = std::env::home_dir().expect("a home folder");
        assert_eq!("dir:~/m".parse::<ModelSpec>().expect("a spec"), ModelSpec::Dir(home.join("m")));
    }

    #[test]
    fn a_bare_name_is_a_folder_of_models_and_a_path_is_not() {
        let models = Path::new("/models");
        for (path, found) in [("x", "/models/x"), ("./x", "./x"), ("/x", "/x"), ("a/b", "a/b"), ("..", "..")]
        {
            assert_eq!(in_models_dir(Path::new(path), models), Path::new(found));
        }
    }

    #[test]
    fn no_model_is_no_embedder_and_the_built_in_one_is_asked_for_by_name_only() {
        let models = Path::new("/no/such/folder");
        assert!(load(&ModelSpec::None, models, no_builtin).expect("nothing to load").is_none());
        let error = load(&ModelSpec::BuiltinMiniLm, models, no_builtin).err().expect("an error");
        assert_eq!(error.message(), "the built-in model was asked");
        let error = load(&ModelSpec::Named("X".to_owned()), models, no_builtin).err().expect("an error");
        assert_ne!(error.message(), "the built-in model was asked");
    }

    #[test]
    fn a_name_never_leaves_the_folder_of_models() {
        let spec = ModelSpec::Named("../secret".to_owned());
        let error = load(&spec, Path::new("/models"), no_builtin).err().expect("an error");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    #[cfg(feature = "fastembed")]
    #[test]
    fn a_model_that_was_not_fetched_is_an_error_that_says_how_to_fetch_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let spec = ModelSpec::Named("bgesmallenv15".to_owned());
        let error = load(&spec, folder.path(), no_builtin).err().expect("an error");
        assert_eq!(error.kind(), ErrorKind::Model);
        assert_eq!(error.hint_text(), Some("fetch it with `memento-kv model pull BGESmallENV15`"));
        let spec = ModelSpec::Named("nonsense".to_owned());
        let error = load(&spec, folder.path(), no_builtin).err().expect("an error");
        assert_eq!(error.hint_text(), Some("`memento-kv model list` shows the models that can be fetched"));
    }

    #[cfg(feature = "fastembed")]
    #[test]
    fn the_list_is_sorted_and_every_name_is_a_spec() {
        let models = list();
        assert!(models.len() > 30);
        assert!(models.is_sorted_by(|a, b| a.name < b.name));
        for model in models {
            let spec: ModelSpec = format!("fastembed:{}", model.name).parse().expect("a spec");
            assert_eq!(spec, ModelSpec::Named(model.name));
            assert!(model.dimensions > 0 && !model.description.is_empty() && model.repository.contains('/'));
        }
    }

    #[cfg(not(feature = "fastembed"))]
    #[test]
    fn a_program_without_fastembed_says_so() {
        for spec in [ModelSpec::Dir("/x".into()), ModelSpec::Named("BGESmallENV15".to_owned())] {
            let error = load(&spec, Path::new("/models"), no_builtin).err().expect("an error");
            assert_eq!(error.kind(), ErrorKind::Model);
            assert!(error.message().contains("built without"), "{error}");
        }
        assert!(list().is_empty());
    }
}
