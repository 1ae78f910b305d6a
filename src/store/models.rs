//! The store's models: which have numbers, which one recall uses, and the embedder of that one.
//!
//! A number is given under the log's lock and counts when its record is durable. Vectors carry the number of the model
//! that made them, so an embedder and its number are always taken together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::{Inner, Options, lock};
use crate::catalog::Catalog;
use crate::embed::minilm::MiniLm;
use crate::embed::{self, Embedder, ModelIdentity, ModelSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::format::op::{ModelNumber, Op};
use crate::log::Planned;

/// Name of the model of a store whose callers give all vectors themselves.
const CALLER_MODEL: &str = "caller";

/// A model and the number that the log gave it.
pub(super) type Numbered = (ModelNumber, Arc<ModelIdentity>);

/// The models of a store, for those who read and embed.
pub(super) struct Models {
    spec: ModelSpec,
    dir: PathBuf,
    given: Option<Arc<dyn Embedder>>,
    known: RwLock<Known>,
    /// The embedder of one model, loaded when it was first needed.
    loaded: Mutex<Option<Loaded>>,
}

/// The models that have numbers, and the one that recall uses.
#[derive(Clone, Debug, Default)]
struct Known {
    numbers: BTreeMap<ModelNumber, Arc<ModelIdentity>>,
    active: Option<ModelNumber>,
}

struct Loaded {
    /// The model it was loaded for; `None` for a store that has none yet.
    number: Option<ModelNumber>,
    embedder: Result<Option<Arc<dyn Embedder>>, Arc<str>>,
}

/// The models for those who plan operations, under the log's lock: what is durable and what will be.
#[derive(Debug, Default)]
pub(super) struct Registry {
    durable: Known,
    /// Changes on their way to the log, by sequence.
    planned: Vec<(u64, Change)>,
}

#[derive(Clone, Debug)]
enum Change {
    Model(ModelNumber, Arc<ModelIdentity>),
    Use(ModelNumber),
}

/// Whether recall is to use the model that gets a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activate {
    No,
    /// If the store has no model yet.
    IfFirst,
    Yes,
}

impl Known {
    fn read(catalog: &Catalog) -> Result<Self> {
        let models = catalog.view().models()?.into_iter();
        let numbers = models.map(|(number, identity)| (number, Arc::new(identity))).collect();
        Ok(Self { numbers, active: catalog.active_model() })
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Model(number, identity) => _ = self.numbers.insert(*number, Arc::clone(identity)),
            Change::Use(number) => self.active = Some(*number),
        }
    }

    fn number_of(&self, identity: &ModelIdentity) -> Option<ModelNumber> {
        self.numbers.iter().find(|(_, other)| ***other == *identity).map(|(number, _)| *number)
    }
}

impl Registry {
    /// The models that the view has.
    pub(super) fn read(catalog: &Catalog) -> Result<Self> {
        Ok(Self { durable: Known::read(catalog)?, planned: Vec::new() })
    }

    /// Gives a model a number, unless it has one. The outcome counts when everything planned so far is durable.
    fn plan(&mut self, first_seq: u64, identity: &ModelIdentity, activate: Activate) -> Planned<ModelNumber> {
        let mut known = self.durable.clone();
        self.planned.iter().for_each(|(_, change)| known.apply(change));
        let mut changes = Vec::new();
        let number = known.number_of(identity).unwrap_or_else(|| {
            let number = ModelNumber(known.numbers.keys().last().map_or(1, |last| last.0 + 1));
            changes.push(Change::Model(number, Arc::new(identity.clone())));
            number
        });
        let uses = match activate {
            Activate::No => false,
            Activate::IfFirst => known.active.is_none(),
            Activate::Yes => known.active != Some(number),
        };
        if uses {
            changes.push(Change::Use(number));
        }
        let ops = changes.iter().map(|change| Arc::new(change.op())).collect();
        self.planned.extend((first_seq..).zip(changes));
        Planned { ops, after_seq: self.planned.last().map_or(0, |(seq, _)| *seq), outcome: number }
    }

    /// Takes over what is durable.
    fn settle(&mut self, durable_seq: u64) {
        let durable = self.planned.iter().take_while(|(seq, _)| *seq <= durable_seq).count();
        for (_, change) in self.planned.drain(..durable) {
            self.durable.apply(&change);
        }
    }

    /// Forgets changes after this sequence: they were not written.
    pub(super) fn abandon(&mut self, after_seq: u64) {
        self.planned.retain(|(seq, _)| *seq <= after_seq);
    }
}

impl Change {
    fn op(&self) -> Op {
        match self {
            Self::Model(number, identity) => {
                Op::Model { number: *number, identity: ModelIdentity::clone(identity) }
            }
            Self::Use(number) => Op::UseModel { number: *number },
        }
    }
}

impl Models {
    /// Options for a store that uses the same models.
    pub(super) fn as_options(&self, options: Options) -> Options {
        let options = options.model(self.spec.clone()).models_dir(&self.dir);
        match &self.given {
            Some(given) => options.embedder(Arc::clone(given)),
            None => options,
        }
    }

    pub(super) fn new(options: &Options, registry: &Registry) -> Self {
        let from_environment =
            || std::env::var_os("MEMENTO_MODEL_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let dir = options
            .models_dir
            .clone()
            .or_else(from_environment)
            .unwrap_or_else(|| options.home.join("models"));
        Self {
            spec: options.model.clone(),
            dir,
            given: options.embedder.clone(),
            known: RwLock::new(registry.durable.clone()),
            loaded: Mutex::new(None),
        }
    }

    /// The store's model; `None` as long as it has none.
    pub(super) fn active(&self) -> Option<Numbered> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.active.and_then(|number| Some((number, Arc::clone(known.numbers.get(&number)?))))
    }

    /// The embedder of the store's model, or of the one that a store without one would get; `None` when that is one of
    /// words only.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] when the model that made the store's vectors is not there. Never another model instead.
    pub(super) fn embedder(&self) -> Result<Option<Arc<dyn Embedder>>> {
        self.embedder_of(self.active().as_ref())
    }

    /// The embedder of this model, as [`Models::active`] gave it.
    ///
    /// # Errors
    /// As [`Models::embedder`].
    pub(super) fn embedder_of(&self, model: Option<&Numbered>) -> Result<Option<Arc<dyn Embedder>>> {
        let wanted = model.map(|(number, _)| *number);
        let mut loaded = lock(&self.loaded);
        match &mut *loaded {
            Some(loaded) if loaded.number == wanted => {}
            // What a store without a model would get has become its model.
            Some(Loaded { number, embedder: Ok(Some(embedder)) })
                if model.is_some_and(|(_, identity)| *embedder.identity() == **identity) =>
            {
                *number = wanted;
            }
            _ => {
                let embedder = self.load(model.map(|(_, identity)| &**identity));
                *loaded =
                    Some(Loaded { number: wanted, embedder: embedder.map_err(|error| describe(&error)) });
            }
        }
        let loaded = loaded.as_ref().expect("just loaded");
        loaded.embedder.clone().map_err(|why| Error::new(ErrorKind::Model, why.to_string()))
    }

    /// The embedder of another model that is to become the store's.
    pub(super) fn other(&self, spec: &ModelSpec) -> Result<Option<Arc<dyn Embedder>>> {
        load_model(spec, &self.dir)
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

impl Inner {
    /// The store's embedder and its number; a store without a model gets this one. `None` when nothing embeds here.
    pub(super) fn embedder(&self) -> Result<Option<(ModelNumber, Arc<dyn Embedder>)>> {
        let active = self.models.active();
        let Some(embedder) = self.models.embedder_of(active.as_ref())? else { return Ok(None) };
        let number = match active {
            Some((number, _)) => number,
            None => self.register(embedder.identity(), Activate::IfFirst)?,
        };
        Ok(Some((number, embedder)))
    }

    /// The number of the model whose vectors, of so many dimensions, the caller gives.
    pub(super) fn number_for_given(&self, dimensions: u32) -> Result<ModelNumber> {
        let active = self.models.active();
        let identity = match &active {
            Some((_, identity)) => Arc::clone(identity),
            None => Arc::new(match self.models.embedder_of(None)? {
                Some(embedder) => embedder.identity().clone(),
                None => caller_identity(dimensions),
            }),
        };
        if identity.dimensions != dimensions {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "the vector has {dimensions} dimensions, the store's model {} has {}",
                    identity.name, identity.dimensions
                ),
            ));
        }
        match active {
            Some((number, _)) => Ok(number),
            None => self.register(&identity, Activate::IfFirst),
        }
    }

    /// Gives a model a number, unless it has one, and makes it the store's if asked.
    pub(super) fn register(&self, identity: &ModelIdentity, activate: Activate) -> Result<ModelNumber> {
        self.check_writable()?;
        let (number, after_seq) = self.log.commit(|pending, next_seq| {
            let Planned { ops, after_seq, outcome } = pending.models.plan(next_seq, identity, activate);
            Ok(Planned { ops, after_seq, outcome: (outcome, after_seq) })
        })?;
        self.log.with_staged(|pending| {
            pending.models.settle(after_seq);
            // Under the log's lock, so that nobody puts an older state over a newer one.
            let mut known = self.models.known.write().unwrap_or_else(PoisonError::into_inner);
            known.clone_from(&pending.models.durable);
        });
        self.committed();
        Ok(number)
    }

    /// Makes this model the store's, when it has none yet: what comes was made by it.
    pub(crate) fn adopt_model(&self, identity: &ModelIdentity) -> Result<()> {
        if self.models.active().is_some() {
            return Ok(());
        }
        self.register(identity, Activate::IfFirst).map(drop)
    }

    /// Recall uses this embedder's model from here on.
    pub(super) fn activate(&self, embedder: &Arc<dyn Embedder>) -> Result<()> {
        let number = self.register(embedder.identity(), Activate::Yes)?;
        *lock(&self.models.loaded) =
            Some(Loaded { number: Some(number), embedder: Ok(Some(Arc::clone(embedder))) });
        Ok(())
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

fn caller_identity(dimensions: u32) -> ModelIdentity {
    ModelIdentity {
        name: CALLER_MODEL.to_owned(),
        weights_sha256: String::new(),
        tokenizer_sha256: String::new(),
        dimensions,
        pooling: String::new(),
        normalized: true,
        max_tokens: 0,
        document_form: String::new(),
        query_form: String::new(),
        engine: CALLER_MODEL.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_keeps_its_number_and_what_was_not_written_gives_its_number_back() {
        let mut registry = Registry::default();
        let [one, two, three] = [8, 16, 32].map(caller_identity);
        let first = registry.plan(1, &one, Activate::IfFirst);
        assert_eq!((first.outcome, first.ops.len(), first.after_seq), (ModelNumber(1), 2, 2));
        let second = registry.plan(3, &two, Activate::IfFirst);
        assert_eq!((second.outcome, second.ops.len(), second.after_seq), (ModelNumber(2), 1, 3));
        let again = registry.plan(4, &one, Activate::IfFirst);
        assert_eq!(
            (again.outcome, again.ops.len(), again.after_seq),
            (ModelNumber(1), 0, 3),
            "waits for both"
        );
        registry.abandon(2);
        registry.settle(2);
        assert_eq!(registry.durable.active, Some(ModelNumber(1)));
        assert_eq!(registry.durable.numbers.len(), 1);
        let third = registry.plan(3, &three, Activate::Yes);
        assert_eq!((third.outcome, third.ops.len()), (ModelNumber(2), 2), "the number was never written");
        registry.settle(2);
        assert_eq!(registry.durable.active, Some(ModelNumber(1)), "not durable yet");
        registry.settle(4);
        assert_eq!(registry.durable.active, Some(ModelNumber(2)));
    }
}
