//! Where the embedder of a store's model comes from: it is looked for when it is first needed, and kept.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::models::CALLER_MODEL;
use super::{Options, lock};
use crate::embed::minilm::MiniLm;
use crate::embed::{self, Embedder, ModelIdentity, ModelSpec};
use crate::error::{Error, ErrorKind, Result};

/// Who embeds for a call: the process that has the store open, or another one that asks it.
pub(crate) trait Embeds: Sync {
    /// The embedder of this model, or of the one that a store without a model would get; `None` when that is one of words
    /// only.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] when the model that made the store's vectors is not there. Never another model instead.
    fn embedder_of(&self, model: Option<&ModelIdentity>) -> Result<Option<Box<dyn Embedder + '_>>>;
}

/// The embedders of this process.
pub(crate) struct Embedders {
    spec: ModelSpec,
    dir: PathBuf,
    given: Option<Arc<dyn Embedder>>,
    /// The embedder of one model, loaded when it was first needed.
    loaded: Mutex<Option<Loaded>>,
}

struct Loaded {
    /// The model it was loaded for; `None` for a store that has none yet.
    model: Option<ModelIdentity>,
    embedder: Result<Option<Arc<dyn Embedder>>, Arc<str>>,
}

impl Embedders {
    /// Those that the options name. Nothing is loaded yet.
    pub(crate) fn new(options: &Options) -> Self {
        let from_environment =
            || std::env::var_os("MEMENTO_MODEL_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let dir = options
            .models_dir
            .clone()
            .or_else(from_environment)
            .unwrap_or_else(|| options.home.join("models"));
        Self { spec: options.model.clone(), dir, given: options.embedder.clone(), loaded: Mutex::new(None) }
    }

    /// Options for a store that uses the same models.
    pub(super) fn as_options(&self, options: Options) -> Options {
        let options = options.model(self.spec.clone()).models_dir(&self.dir);
        match &self.given {
            Some(given) => options.embedder(Arc::clone(given)),
            None => options,
        }
    }

    /// The embedder of another model that is to become the store's.
    pub(super) fn other(&self, spec: &ModelSpec) -> Result<Option<Arc<dyn Embedder>>> {
        load_model(spec, &self.dir)
    }

    /// From here on this one is the embedder of its model.
    pub(super) fn keep(&self, embedder: &Arc<dyn Embedder>) {
        let model = Some(embedder.identity().clone());
        *lock(&self.loaded) = Some(Loaded { model, embedder: Ok(Some(Arc::clone(embedder))) });
    }

    fn load(&self, identity: Option<&ModelIdentity>) -> Result<Option<Arc<dyn Embedder>>> {
        let candidate = self.candidate();
        let Some(identity) = identity else { return candidate };
        if let Ok(Some(embedder)) = &candidate
            && embedder.identity() == identity
        {
            return candidate;
        }
        // The store's own model counts, not what the configuration asks for new stores.
        if let Ok(builtin) = MiniLm::builtin()
            && builtin.identity() == identity
        {
            return Ok(Some(Arc::new(builtin)));
        }
        for spec in specs_of(identity) {
            if let Ok(Some(embedder)) = load_model(&spec, &self.dir)
                && embedder.identity() == identity
            {
                return Ok(Some(embedder));
            }
        }
        if identity.engine == CALLER_MODEL {
            return Ok(None);
        }
        let why = match candidate {
            Err(error) => error.to_string(),
            Ok(_) => "the model that was asked for is another one".to_owned(),
        };
        Err(Error::new(
            ErrorKind::Model,
            format!("the store's vectors were made by {}, which cannot be loaded: {why}", identity.name),
        )
        .hint("provide that model again, or convert the store with `memento-kv reembed --model NAME`"))
    }

    /// The embedder that was asked for.
    fn candidate(&self) -> Result<Option<Arc<dyn Embedder>>> {
        match &self.given {
            Some(given) => Ok(Some(Arc::clone(given))),
            None => load_model(&self.spec, &self.dir),
        }
    }
}

impl Embeds for Embedders {
    fn embedder_of(&self, model: Option<&ModelIdentity>) -> Result<Option<Box<dyn Embedder + '_>>> {
        Ok(self.own(model)?.map(|embedder| Box::new(embedder) as _))
    }
}

impl Embedders {
    fn own(&self, model: Option<&ModelIdentity>) -> Result<Option<Arc<dyn Embedder>>> {
        let mut loaded = lock(&self.loaded);
        match &mut *loaded {
            Some(loaded) if loaded.model.as_ref() == model => {}
            // What a store without a model would get has become its model.
            Some(Loaded { model: loaded, embedder: Ok(Some(embedder)) })
                if model.is_some_and(|model| embedder.identity() == model) =>
            {
                *loaded = model.cloned();
            }
            _ => {
                let embedder = self.load(model).map_err(|error| describe(&error));
                *loaded = Some(Loaded { model: model.cloned(), embedder });
            }
        }
        let loaded = loaded.as_ref().expect("just loaded");
        loaded.embedder.clone().map_err(|why| Error::new(ErrorKind::Model, why.to_string()))
    }
}

/// Where the model of this identity may be: in a folder of its name, or under the name it is fetched by.
fn specs_of(identity: &ModelIdentity) -> impl Iterator<Item = ModelSpec> {
    let fetched = embed::list().into_iter().filter(|model| model.repository == identity.name);
    let folder = ModelSpec::Dir(PathBuf::from(&identity.name));
    fetched.map(|model| ModelSpec::Named(model.name)).chain([folder])
}

/// The embedder of a spec; `None` for words only.
fn load_model(spec: &ModelSpec, models_dir: &Path) -> Result<Option<Arc<dyn Embedder>>> {
    embed::load(spec, models_dir, || Ok(Arc::new(MiniLm::builtin()?)))
}

fn describe(error: &Error) -> Arc<str> {
    match error.hint_text() {
        Some(hint) => format!("{error}; {hint}").into(),
        None => error.to_string().into(),
    }
}
