//! The store's models: which have numbers, which one recall uses, and the embedder of that one.
//!
//! A number is given under the log's lock and counts when its record is durable. Vectors carry the number of the model
//! that made them, so an embedder and its number are always taken together.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::embedders::{Embedders, Embeds};
use super::{Inner, Options};
use crate::catalog::Catalog;
use crate::embed::{Embedder, ModelIdentity};
use crate::error::{Error, ErrorKind, Result};
use crate::format::op::{ModelNumber, Op};
use crate::log::Planned;

/// Name of the model of a store whose callers give all vectors themselves.
pub(super) const CALLER_MODEL: &str = "caller";

/// A model and the number that the log gave it.
pub(super) type Numbered = (ModelNumber, Arc<ModelIdentity>);

/// The models of a store, for those who read.
pub(super) struct Models {
    known: RwLock<Known>,
    embedders: Embedders,
}

/// The models that have numbers, and the one that recall uses.
#[derive(Clone, Debug, Default)]
struct Known {
    numbers: BTreeMap<ModelNumber, Arc<ModelIdentity>>,
    active: Option<ModelNumber>,
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
    pub(super) fn new(options: &Options, registry: &Registry) -> Self {
        Self { known: RwLock::new(registry.durable.clone()), embedders: Embedders::new(options) }
    }

    /// The store's model; `None` as long as it has none.
    pub(super) fn active(&self) -> Option<Numbered> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.active.and_then(|number| Some((number, Arc::clone(known.numbers.get(&number)?))))
    }

    /// The embedders of this process.
    pub(super) fn embedders(&self) -> &Embedders {
        &self.embedders
    }
}

impl Inner {
    /// The embedder of the store's model, and its number; a store without a model gets this one. `None` when nothing
    /// embeds for this call.
    pub(super) fn embedder<'a>(
        &self,
        by: &'a dyn Embeds,
    ) -> Result<Option<(ModelNumber, Box<dyn Embedder + 'a>)>> {
        let active = self.models.active();
        let Some(embedder) = by.embedder_of(active.as_ref().map(|(_, identity)| &**identity))? else {
            return Ok(None);
        };
        let number = match active {
            Some((number, _)) => number,
            None => self.register(embedder.identity(), Activate::IfFirst)?,
        };
        Ok(Some((number, embedder)))
    }

    /// The embedder that this process has for the store's model, or for a store without one.
    pub(super) fn own_embedder(&self) -> Result<Option<Box<dyn Embedder + '_>>> {
        let active = self.models.active();
        self.models.embedders.embedder_of(active.as_ref().map(|(_, identity)| &**identity))
    }

    /// The number of the model whose vectors, of so many dimensions, the caller gives.
    pub(super) fn number_for_given(&self, dimensions: u32) -> Result<ModelNumber> {
        let active = self.models.active();
        let identity = match &active {
            Some((_, identity)) => Arc::clone(identity),
            None => Arc::new(match self.models.embedders.embedder_of(None)? {
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
