//! The calls of a store: what goes to the owner and what comes back. Each is run by the engine, wherever that is.
//!
//! A call has a number, which the protocol gives it for good, and is run in one place only: a handle that owns the store
//! runs it itself, another one sends it to the owner. See `format-spec/protocol.md`, "Calls".

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use bincode::{Decode, Encode};

use super::Sharing;
use crate::check::{CheckOptions, CheckReport};
use crate::embed::ModelSpec;
use crate::error::{Durability, Error, ErrorKind, Result};
use crate::format::message::{put, whole};
use crate::memory::{
    Answer, Forgotten, List, Memory, MemoryId, Recall, Receipt, Remember, Remembered, Update, Updated,
};
use crate::snapshot::{Backup, Published, RestoreFrom, RestoreOptions, Restored};
use crate::store::{
    Change, Changed, Compacted, Embedded, Embeds, Engine, MemoryVectors, Moment, Progress, Promised, Proof,
    Purged, RestorePoint, Stats,
};
use crate::transfer::{ImportOptions, ImportStage, Imported};

/// What a call may need beside the engine.
pub(crate) struct Work<'a> {
    /// Who embeds; `None` for the engine's own models.
    pub(crate) by: Option<&'a dyn Embeds>,
    /// Told how far it is; the number says what is counted.
    pub(crate) progress: &'a mut dyn FnMut(u8, Progress),
    /// The process that owns the store.
    pub(crate) host: &'a dyn Host,
}

/// What the owner can say of itself and do beside its engine.
pub(crate) trait Host {
    /// Who owns the store and who asks.
    fn sharing(&self) -> Sharing;
    /// Opens the past at a moment, for calls that name its sequence.
    fn open_past(&self, moment: Moment) -> Result<u64>;
    /// Lets the store go, so that somebody else can own it.
    fn step_aside(&self) -> Result<()>;
}

/// One call of the store.
pub(crate) trait Call: Encode + Decode<()> {
    /// Its number in the protocol.
    const KIND: u16;
    /// Whether it may change the store.
    const WRITES: bool;
    /// Whether it is found out what became of it when the owner ended in the middle: to do it twice would be wrong.
    const ONCE: bool = false;
    type Answer: Encode + Decode<()> + Send + 'static;

    /// Gives the new memories in it the ids that they get if they are stored, unless they have them: an owner that is
    /// asked twice then knows them.
    fn name_new(&mut self, _next: &dyn Fn() -> Result<MemoryId>) -> Result<()> {
        Ok(())
    }

    /// It was sent before, to an owner that ended: it may have been done.
    fn again(&mut self) {}

    /// Does it.
    fn run(self, engine: &Engine, work: &mut Work<'_>) -> Result<Self::Answer>;

    /// Does it, up to waiting for the disk where that can be left to others.
    fn begin(self, engine: &Engine, work: &mut Work<'_>) -> Result<Answered<Self::Answer>> {
        self.run(engine, work).map(Answered::Now)
    }

    /// The answer, if it was done by a record after this sequence, although nobody was told.
    fn done(&self, _engine: &Engine, _after_seq: u64) -> Result<Option<Self::Answer>> {
        Ok(None)
    }
}

/// The answer of a call.
pub(crate) enum Answered<A> {
    Now(A),
    /// As soon as what it did is durable.
    Soon(Promised<A>),
}

/// What stands before every call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct CallHead {
    pub(crate) kind: u16,
    /// The sequence of the past that it asks.
    pub(crate) past: Option<u64>,
    /// The call was sent to an owner that ended; if it was done, its records have later sequences than this.
    pub(crate) resent_after: Option<u64>,
}

/// Progress as it stands in a message: what is counted, and how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct ProgressMessage(pub(crate) u8, pub(crate) Progress);

/// The progress of a call that counts one thing.
const ONE_STAGE: u8 = 0;
/// What an import counts.
pub(super) const STAGES: [ImportStage; 2] = [ImportStage::Checking, ImportStage::Storing];

/// Tells how far a call is that counts one thing.
fn one<'a, 'b>(work: &'a mut Work<'b>) -> impl FnMut(Progress) + use<'a, 'b> {
    |progress| (work.progress)(ONE_STAGE, progress)
}

/// Defines a call: its number, whether it writes, its fields, its answer, and how it is run.
macro_rules! call {
    (
        $(#[$doc:meta])*
        $name:ident = $kind:literal, $writes:literal, { $($field:ident: $type:ty),* $(,)? } -> $answer:ty,
        |$this:ident, $engine:ident, $work:ident| $run:expr
        $(, begun |$that:ident, $by:ident, $job:ident| $begin:expr)?
        $(, done |$it:ident, $on:ident, $after:ident| $done:expr)?
        $(, new memories |$me:ident| $memories:expr)?
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Encode, Decode)]
        pub(crate) struct $name { $(pub(crate) $field: $type,)* }

        impl Call for $name {
            const KIND: u16 = $kind;
            const WRITES: bool = $writes;
            $(const ONCE: bool = { let _ = stringify!($it); true };)?
            type Answer = $answer;

            $(fn name_new(&mut self, next: &dyn Fn() -> Result<MemoryId>) -> Result<()> {
                let $me = self;
                for remember in $memories.iter_mut().filter(|remember| remember.proposed.is_none()) {
                    remember.proposed = Some(next()?);
                }
                Ok(())
            }

            fn again(&mut self) {
                let $me = self;
                $memories.iter_mut().for_each(|remember| remember.is_again = true);
            })?

            fn run(self, $engine: &Engine, $work: &mut Work<'_>) -> Result<$answer> {
                let $this = self;
                let _ = (&$this, &$work);
                $run
            }

            $(fn begin(self, $by: &Engine, $job: &mut Work<'_>) -> Result<Answered<$answer>> {
                let $that = self;
                $begin
            })?

            $(fn done(&self, $on: &Engine, $after: u64) -> Result<Option<$answer>> {
                let $it = self;
                $done
            })?
        }
    };
}

call!(
    /// The last durable sequence.
    Seq = 1, false, {} -> u64,
    |_call, engine, _work| Ok(engine.durable_seq())
);
call!(
    Get = 2, false, { id: String } -> Option<Memory>,
    |call, engine, _work| engine.get(&call.id)
);
call!(
    ListAll = 3, false, { list: List } -> Vec<Memory>,
    |call, engine, _work| engine.list(&call.list)
);
call!(
    RememberOne = 4, true, { remember: Remember } -> Remembered,
    |call, engine, work| match work.by {
        Some(by) => engine.remember_by(call.remember, by),
        None => engine.remember(call.remember),
    },
    begun |call, engine, work| match work.by {
        Some(by) => engine.begin_remember(call.remember, by).map(Answered::Soon),
        None => engine.remember(call.remember).map(Answered::Now),
    },
    new memories |call| std::slice::from_mut(&mut call.remember)
);
call!(
    RememberMany = 5, true, { all: Vec<Remember> } -> Vec<Remembered>,
    |call, engine, _work| engine.remember_many(call.all),
    new memories |call| call.all
);
call!(
    UpdateOne = 6, true, { id: String, update: Update } -> Updated,
    |call, engine, work| match work.by {
        Some(by) => engine.update_by(&call.id, call.update, by),
        None => engine.update(&call.id, call.update),
    },
    done |call, engine, after_seq| engine.updated_since(after_seq, &call.id, &call.update)
);
call!(
    Forget = 7, true, { ids: Vec<String> } -> Forgotten,
    |call, engine, _work| engine.forget(&call.ids),
    done |call, engine, after_seq| {
        let gone = engine.forgotten_since(after_seq)?;
        let ids = call.ids.iter().map(MemoryId::new).collect::<Result<BTreeSet<_>>>()?;
        let (forgotten, others): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| gone.contains_key(id.as_str()));
        if forgotten.is_empty() {
            return Ok(None);
        }
        // One group: what is not gone with the others was not there.
        let seq = forgotten.iter().filter_map(|id| gone.get(id.as_str()).copied()).max();
        Ok(Some(Forgotten { forgotten, missing: others, seq }))
    }
);
call!(
    Purge = 8, true, { ids: Vec<String> } -> Purged,
    |call, engine, work| engine.purge(&call.ids, &mut one(work))
);
call!(
    RecallBest = 9, false, { recall: Recall } -> Answer,
    |call, engine, work| match work.by {
        Some(by) => engine.recall_by(&call.recall, by),
        None => engine.recall(call.recall),
    }
);
call!(
    GetStats = 10, false, {} -> Stats,
    |_call, engine, _work| engine.stats()
);
call!(
    Compact = 11, true, {} -> Compacted,
    |_call, engine, work| engine.compact(&mut one(work))
);
call!(
    EmbedPending = 12, true, {} -> Embedded,
    |_call, engine, work| engine.embed_pending(&mut one(work))
);
call!(
    Reembed = 13, true, { model: Option<ModelSpec> } -> Embedded,
    |call, engine, work| engine.reembed(call.model.as_ref(), &mut one(work))
);
call!(
    /// Converts the store to the model that the asking process has been given by its user.
    ReembedWith = 14, true, {} -> Embedded,
    |_call, engine, work| {
        let by = work.by.ok_or_else(|| Error::new(ErrorKind::Model, "nobody is there to embed"))?;
        let embedder = by.embedder_of(None)?.ok_or_else(|| Error::new(ErrorKind::Model, "there is no model"))?;
        engine.reembed_by(&*embedder, &mut |progress| (work.progress)(ONE_STAGE, progress))
    }
);
call!(
    VectorsOf = 15, false, { id: String } -> Option<MemoryVectors>,
    |call, engine, _work| engine.vectors(&call.id)
);
call!(
    OpenPast = 16, false, { moment: Moment } -> u64,
    |call, _engine, work| work.host.open_past(call.moment)
);
call!(
    Diff = 17, false, { one: Moment, other: Moment } -> Changed,
    |call, engine, _work| engine.diff(call.one, call.other)
);
call!(
    ProveId = 18, false, { id: String } -> Proof,
    |call, engine, _work| engine.prove_id(&call.id)
);
call!(
    Prove = 19, false, { receipt: Receipt } -> Proof,
    |call, engine, _work| engine.prove(call.receipt)
);
call!(
    BuildIndex = 20, true, { full: bool } -> (),
    |call, engine, work| {
        // It counts in threads of its own.
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            let building =
                scope.spawn(move || engine.build_index(call.full, &mut |progress| {
                    // Whoever is told waits for the end of this.
                    let _ = tell.send(progress);
                }));
            told.iter().for_each(one(work));
            building.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
);
call!(
    Snapshot = 21, true, {} -> Published,
    |_call, engine, work| engine.snapshot(&mut one(work))
);
call!(
    ExportSqlite = 22, false, { path: PathBuf } -> Published,
    |call, engine, work| engine.export_sqlite(&call.path, &mut one(work))
);
call!(
    MakeBackup = 23, true, { retention_days: u32, by_hand: bool } -> Backup,
    |call, engine, work| engine.backup_with(call.retention_days, call.by_hand, &mut one(work))
);
call!(
    BackupTo = 24, false, { path: PathBuf } -> Backup,
    |call, engine, work| engine.backup_to(&call.path, &mut one(work))
);
call!(
    Backups = 25, false, { deep: bool } -> Vec<Backup>,
    |call, engine, _work| engine.backups(call.deep)
);
call!(
    Restore = 26, true, { from: RestoreFrom, options: RestoreOptions } -> Restored,
    |call, engine, _work| engine.restore(&call.from, call.options),
    done |call, engine, after_seq| {
        let Some(seq) = engine.restored_since(after_seq)?.filter(|_| !call.options.dry_run) else {
            return Ok(None);
        };
        let what = format!("the store was restored by the records up to {seq}, and then its owner ended");
        Err(Error::new(ErrorKind::Io, what)
            .durable(Durability::Written)
            .hint("the restore counts; `memento-kv restore --undo` takes it back"))
    }
);
call!(
    CheckAll = 27, false, { options: CheckOptions } -> CheckReport,
    |call, engine, work| engine.check_with(&call.options, &mut one(work))
);
call!(
    CheckQuickly = 28, false, {} -> CheckReport,
    |_call, engine, work| engine.check_quickly(&mut one(work))
);
call!(
    Import = 29, true, { path: PathBuf, options: ImportOptions } -> Imported,
    |call, engine, work| engine.import(&call.path, &call.options, &mut |stage, progress| {
        let number = STAGES.iter().position(|known| *known == stage).unwrap_or(STAGES.len());
        (work.progress)(number as u8, progress);
    })
);
call!(
    Changes = 30, false, { after_seq: u64, limit: usize, wait_ms: u64 } -> Vec<Change>,
    |call, engine, _work| {
        let wait = Duration::from_millis(call.wait_ms.min(WAIT_MAX.as_millis() as u64));
        engine.changes(call.after_seq, call.limit.min(CHANGES_MAX), wait)
    }
);
call!(
    GetSharing = 31, false, {} -> Sharing,
    |_call, _engine, work| Ok(work.host.sharing())
);
call!(
    StepAside = 32, true, {} -> (),
    |_call, _engine, work| work.host.step_aside()
);

call!(
    RestorePoints = 33, false, {} -> Vec<RestorePoint>,
    |_call, engine, _work| engine.restore_points()
);

/// The longest that an owner waits for changes within one call.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Most changes of one answer.
const CHANGES_MAX: usize = 1024;

/// Something that is done with the type of a call.
pub(super) trait Visitor {
    type Out;
    fn visit<C: Call>(self) -> Self::Out;
}

/// Lists all calls.
macro_rules! calls {
    ($($name:ident),* $(,)?) => {
        /// Visits the call of this number; `None` when there is none.
        pub(super) fn visit<V: Visitor>(kind: u16, visitor: V) -> Option<V::Out> {
            match kind {
                $(<$name as Call>::KIND => Some(visitor.visit::<$name>()),)*
                _ => None,
            }
        }

        /// The largest number of a call.
        pub(crate) const CALLS_MAX: u16 = {
            let mut max = 0;
            $(if <$name as Call>::KIND > max {
                max = <$name as Call>::KIND;
            })*
            max
        };

        /// Number and name of every call, and whether it writes.
        #[cfg(test)]
        const ALL: &[(u16, &str, bool)] = &[$((<$name as Call>::KIND, stringify!($name), <$name as Call>::WRITES)),*];
    };
}

calls!(
    Seq,
    Get,
    ListAll,
    RememberOne,
    RememberMany,
    UpdateOne,
    Forget,
    Purge,
    RecallBest,
    GetStats,
    Compact,
    EmbedPending,
    Reembed,
    ReembedWith,
    VectorsOf,
    OpenPast,
    Diff,
    ProveId,
    Prove,
    BuildIndex,
    Snapshot,
    ExportSqlite,
    MakeBackup,
    BackupTo,
    Backups,
    Restore,
    CheckAll,
    CheckQuickly,
    Import,
    Changes,
    GetSharing,
    StepAside,
    RestorePoints,
);

/// Reads a body as the call of this number and writes it once more; `None` when there is no such call, or the body is none
/// of it. For the doors of tests.
pub(crate) fn written_again(kind: u16, body: &[u8]) -> Option<Vec<u8>> {
    struct Again<'a>(&'a [u8]);

    impl Visitor for Again<'_> {
        type Out = Option<Vec<u8>>;

        fn visit<C: Call>(self) -> Self::Out {
            let call: C = whole(self.0).ok()?;
            let mut body = Vec::new();
            put(&call, &mut body).ok()?;
            Some(body)
        }
    }

    visit(kind, Again(body)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::message::{
        ANSWER_LEN_MAX, CALL_LEN_MAX, FRAME_BODY_MAX, MESSAGE_HEADER_LEN, MESSAGE_MAGIC, MessageKind,
        PROTOCOL, framed,
    };
    use crate::format::spec_tests::{Page, constants};
    use crate::share::server::CONNECTIONS_MAX;

    const PAGE: Page = Page(include_str!("../../format-spec/protocol.md"));

    #[test]
    fn the_page_lists_every_call_with_its_number() {
        let expected: Vec<_> = ALL
            .iter()
            .map(|(kind, name, writes)| {
                vec![kind.to_string(), (*name).to_owned(), if *writes { "yes" } else { "no" }.to_owned()]
            })
            .collect();
        assert_eq!(PAGE.rows("Calls"), expected);
    }

    #[test]
    fn the_page_lists_every_kind_of_message() {
        let listed: Vec<_> =
            PAGE.rows("Kinds").into_iter().map(|row| (row[0].to_owned(), row[1].to_owned())).collect();
        let expected: Vec<_> =
            MessageKind::ALL.iter().map(|kind| ((*kind as u8).to_string(), format!("{kind:?}"))).collect();
        assert_eq!(listed, expected);
    }

    #[test]
    fn the_constants_of_the_page_are_those_of_the_code() {
        assert_eq!(
            PAGE.constants(),
            constants(&[
                ("PROTOCOL", PROTOCOL.into()),
                ("MESSAGE_HEADER_LEN", MESSAGE_HEADER_LEN as u64),
                ("FRAME_BODY_MAX", FRAME_BODY_MAX as u64),
                ("CALL_LEN_MAX", CALL_LEN_MAX as u64),
                ("ANSWER_LEN_MAX", ANSWER_LEN_MAX as u64),
                ("CONNECTIONS_MAX", CONNECTIONS_MAX as u64),
            ])
        );
    }

    #[test]
    fn a_frame_has_its_fields_where_the_page_has_them() {
        let rows = PAGE.rows("Frame");
        let at = |name: &str| {
            let row = rows.iter().find(|row| row[2] == name).expect("a field");
            let from: usize = row[0].parse().expect("an offset");
            let len = row[1].parse().unwrap_or(4);
            from..from + len
        };
        let bytes = framed(MessageKind::Answer, b"body");
        assert_eq!(bytes[at("magic")], MESSAGE_MAGIC);
        assert_eq!(bytes[at("protocol")], PROTOCOL.to_le_bytes());
        assert_eq!((bytes[at("kind")][0], bytes[at("flags")][0]), (4, 0));
        assert_eq!(bytes[at("len")], 4_u32.to_le_bytes());
        let checked = [&bytes[..at("checksum").start], b"body"].concat();
        assert_eq!(bytes[at("checksum")], crc32fast::hash(&checked).to_le_bytes());
        assert_eq!(&bytes[at("body")], b"body");
    }

    /// What is sent is what the types of the library derive: when one of them changes, so does the protocol.
    #[test]
    fn messages_of_this_protocol_have_these_bytes() {
        let bytes = |body: Result<Vec<u8>, _>| -> String {
            let body: Vec<u8> = body.unwrap_or_else(|damage: crate::format::Damage| panic!("{damage}"));
            format!("{} {:08x}", body.len(), crc32fast::hash(&body))
        };
        use crate::share::channel::body_of;
        let remember = Remember::new("a text").tags(["t"]).meta("k", 1).vector([1.0]).at(7);
        let mut recall = Recall::new("a question").topk(3).explain(true);
        recall.min_score = Some(0.5);
        let sent = [
            bytes(body_of(&CallHead { kind: 4, past: Some(7), resent_after: None })),
            bytes(body_of(&RememberOne { remember })),
            bytes(body_of(&RecallBest { recall })),
            bytes(body_of(&UpdateOne { id: "m".to_owned(), update: Update::new().text("n") })),
            bytes(body_of(&ListAll { list: List::new() })),
            bytes(body_of(&Stats::default())),
            bytes(body_of(&Answer::default())),
            bytes(body_of(&Sharing::default())),
        ];
        assert_eq!(sent.join(", "), EXPECTED, "raise PROTOCOL when this changes");
    }

    const EXPECTED: &str =
        "4 e0a5b4bb, 73 5ad91066, 45 3ff55ed3, 16 7d196ace, 11 452966b9, 32 190a55ad, 5 c622f71d, 7 9d6cdf7e";
}
