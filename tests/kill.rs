//! kill -9 at any moment: what was acknowledged is there, what was not is there as a whole or not at all.
//!
//! A child, which is this program once more, writes from several threads and acknowledges each operation on a pipe; now
//! and then it closes the store and opens it again. What a thread does follows from the seed, so the parent knows what
//! must be there after so many acknowledgements, and what may be there besides: the one operation that was on its way.
//! It kills the child while it starts, recovers, writes and closes.
//!
//! `KILLS=10000` makes a longer run, `KILL_SECONDS=3600` one that goes on for so long, `KILL_JOBS=4` kills so many
//! children at the same time, `SEED=…` repeats the choices of a run. It says one line at its end. A store that is not
//! as it must be is kept, and its folder is named.

#![allow(clippy::print_stderr, reason = "what a run found must be seen")]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::Rng;
use memento_kv::check::CheckStatus;
use memento_kv::{Duplicates, List, Memory, MemoryId, Mode, Recall, Remember, Store, Update};

const WRITERS: usize = 3;
const ROLE: &str = "the_child_writes_until_it_is_killed";

/// How much the child writes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Size {
    /// Many memories of a few hundred bytes.
    Small,
    /// A few memories of up to a megabyte, changed again and again: segments fill and roll.
    Big,
}

/// A text that is made from its name when it is needed.
#[derive(Clone, Debug, PartialEq)]
struct Text {
    name: String,
    version: u64,
    len: usize,
}

impl Text {
    fn make(&self) -> String {
        const WORDS: [&str; 12] = [
            "river",
            "stone",
            "κόσμος",
            "build",
            "green",
            "日本",
            "deploy",
            "friday",
            "é\u{301}",
            "port",
            "eight",
            "rust",
        ];
        let mut text = format!("{} in version {}:", self.name, self.version);
        let mut rng = Rng::new(
            self.version
                ^ self.name.bytes().fold(7, |hash: u64, byte| hash.wrapping_mul(31) + u64::from(byte)),
        );
        while text.len() < self.len {
            text.push(' ');
            text.push_str(WORDS[rng.below(WORDS.len())]);
            if rng.one_in(5) {
                text.push_str(&rng.below(100_000).to_string());
            }
        }
        text
    }
}

/// A memory as it must be.
#[derive(Clone, Debug, PartialEq)]
struct Expected {
    text: Text,
    tags: Vec<String>,
    importance: f64,
    /// Whether its id is its name; otherwise the store made one.
    named: bool,
}

type State = BTreeMap<String, Expected>;

#[derive(Clone, Debug)]
enum Step {
    Remember(Vec<(String, Expected)>),
    Again { name: String, text: Text, tag: String, importance: f64 },
    Update { name: String, after: Expected },
    Forget(Vec<String>),
}

/// What one thread does, step by step: the same for the same seed.
#[derive(Clone)]
struct Script {
    rng: Rng,
    thread: usize,
    size: Size,
    steps: u64,
    made: u64,
    state: State,
}

impl Script {
    fn new(seed: u64, thread: usize, size: Size) -> Self {
        let rng = Rng::new(seed ^ (thread as u64) << 32);
        Self { rng, thread, size, steps: 0, made: 0, state: State::new() }
    }

    fn after(seed: u64, thread: usize, size: Size, steps: u64) -> Self {
        let mut script = Self::new(seed, thread, size);
        while script.steps < steps {
            script.step();
        }
        script
    }

    fn step(&mut self) -> Step {
        self.steps += 1;
        let many = match self.size {
            Size::Small => 60,
            Size::Big => 6,
        };
        let names: Vec<String> = self.state.keys().cloned().collect();
        let crowded = names.len() >= many;
        let step = match self.rng.below(10) {
            _ if names.len() < 3 => self.remember(1),
            0..=3 if !crowded => self.remember(1),
            4 if !crowded => {
                let count = 2 + self.rng.below(many / 3);
                self.remember(count)
            }
            0..=5 => {
                let mut gone = vec![self.rng.pick(&names).clone()];
                if self.rng.one_in(2) {
                    gone.push(self.rng.pick(&names).clone());
                    gone.push("nobody".to_owned());
                }
                Step::Forget(gone)
            }
            6 => {
                let name = self.rng.pick(&names).clone();
                let text = self.state[&name].text.clone();
                let importance = self.rng.below(100) as f64 / 100.0;
                Step::Again { name, text, tag: format!("again{}", self.rng.below(8)), importance }
            }
            _ => {
                let name = self.rng.pick(&names).clone();
                let mut after = self.state[&name].clone();
                if self.rng.one_in(3) {
                    after.importance = self.rng.below(100) as f64 / 100.0;
                    after.tags = vec![format!("tag{}", self.steps)];
                } else {
                    after.text = Text { name: name.clone(), version: self.steps, len: self.len() };
                }
                Step::Update { name, after }
            }
        };
        step.apply(&mut self.state);
        step
    }

    fn remember(&mut self, count: usize) -> Step {
        let mut all = Vec::new();
        for _ in 0..count {
            self.made += 1;
            let name = format!("t{}-{}", self.thread, self.made);
            let text = Text { name: name.clone(), version: 0, len: self.len() };
            let importance = self.rng.below(100) as f64 / 100.0;
            let tags = vec![format!("tag{}", self.rng.below(9)), "all".to_owned()];
            all.push((name, Expected { text, tags, importance, named: !self.rng.one_in(4) }));
        }
        Step::Remember(all)
    }

    fn len(&mut self) -> usize {
        match self.size {
            Size::Small if self.rng.one_in(30) => self.rng.below(100_000),
            Size::Small => self.rng.below(600),
            Size::Big => 300_000 + self.rng.below(700_000),
        }
    }
}

impl Step {
    fn apply(&self, state: &mut State) {
        match self {
            Self::Remember(all) => state.extend(all.iter().cloned()),
            Self::Again { name, tag, importance, .. } => {
                let memory = state.get_mut(name).expect("it is there");
                if memory.tags.len() < 64 && !memory.tags.contains(tag) {
                    memory.tags.push(tag.clone());
                }
                memory.importance = memory.importance.max(*importance);
            }
            Self::Update { name, after } => _ = state.insert(name.clone(), after.clone()),
            Self::Forget(names) => names.iter().for_each(|name| _ = state.remove(name)),
        }
    }

    fn run(&self, store: &Store, collection: &str, ids: &mut HashMap<String, MemoryId>) {
        match self {
            Self::Remember(all) => {
                let remember = |(name, expected): &(String, Expected)| {
                    let remember = Remember::new(expected.text.make())
                        .collection(collection)
                        .tags(expected.tags.clone())
                        .importance(expected.importance)
                        .meta("name", name.as_str())
                        .on_duplicate(Duplicates::Keep);
                    if expected.named {
                        remember.id(MemoryId::new(name.as_str()).expect("an id"))
                    } else {
                        remember
                    }
                };
                let done = match &all[..] {
                    [one] => vec![store.remember(remember(one)).expect("remember")],
                    all => store.remember_many(all.iter().map(remember).collect()).expect("remember many"),
                };
                ids.extend(all.iter().zip(done).map(|((name, _), done)| (name.clone(), done.id)));
            }
            Self::Again { name, text, tag, importance } => {
                let again = Remember::new(text.make())
                    .collection(collection)
                    .tags([tag.as_str()])
                    .importance(*importance);
                let done = store.remember(again).expect("remember again");
                assert_eq!(done.duplicate_of.as_ref(), Some(&ids[name]), "{name}");
            }
            Self::Update { name, after } => {
                let update = Update::new()
                    .text(after.text.make())
                    .tags(after.tags.clone())
                    .importance(after.importance);
                store.update(&ids[name], update).expect("update");
            }
            Self::Forget(names) => {
                let unknown = MemoryId::new("nobody").expect("an id");
                let gone = names.iter().map(|name| ids.get(name).unwrap_or(&unknown));
                store.forget(gone).expect("forget");
            }
        }
    }
}

fn collection(thread: usize) -> String {
    format!("thread {thread}")
}

/// What a thread's collection holds, by name, and the ids.
fn found(store: &Store, thread: usize) -> (BTreeMap<String, Memory>, HashMap<String, MemoryId>) {
    let filter = memento_kv::Filter { collection: Some(collection(thread)), ..Default::default() };
    let all = store.list(&List::new().filter(filter).limit(usize::MAX)).expect("list");
    let by_name: BTreeMap<String, Memory> = all
        .into_iter()
        .map(|memory| (memory.metadata["name"].as_str().expect("a name").to_owned(), memory))
        .collect();
    let ids = by_name.iter().map(|(name, memory)| (name.clone(), memory.id.clone())).collect();
    (by_name, ids)
}

/// What must never be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// What was acknowledged is gone or changed.
    Lost,
    /// What nobody stored is there, or an operation is there in part.
    Phantom,
    /// The store does not open, its check finds something, or a second opening changes it; or the child had an error.
    Refused,
}

type Judged<T> = Result<T, (Wrong, String)>;

/// How what the store holds differs from what it must hold, byte for byte.
fn difference(found: &BTreeMap<String, Memory>, state: &State) -> Option<(Wrong, String)> {
    for (name, expected) in state {
        let Some(memory) = found.get(name) else {
            return Some((Wrong::Lost, format!("{name} is not there")));
        };
        let changed = if memory.text != expected.text.make() {
            format!("{name} has another text: {:.60}", memory.text)
        } else if memory.tags != expected.tags || memory.importance.to_bits() != expected.importance.to_bits()
        {
            format!("{name} is {:?} {}", memory.tags, memory.importance)
        } else if expected.named && memory.id.as_str() != name {
            format!("{name} has id {}", memory.id)
        } else {
            continue;
        };
        return Some((Wrong::Lost, changed));
    }
    let extra = found.keys().find(|name| !state.contains_key(*name))?;
    Some((Wrong::Phantom, format!("{extra} is there")))
}

/// Finds how many steps of each thread the store holds: all that were acknowledged, and of a store that was killed at
/// most the one after.
fn resolve(
    store: &Store,
    seed: u64,
    size: Size,
    acknowledged: &[u64],
    was_killed: bool,
) -> Judged<Vec<Script>> {
    let mut scripts = Vec::new();
    for (thread, steps) in acknowledged.iter().enumerate() {
        let mut script = Script::after(seed, thread, size, *steps);
        let (found, _) = found(store, thread);
        if let Some((wrong_before, before)) = difference(&found, &script.state) {
            let context = format!("thread {thread} after {steps} acknowledged steps: {before}");
            if !was_killed {
                return Err((wrong_before, format!("{context}, and nothing was on its way")));
            }
            let step = script.step();
            if let Some((wrong_after, after)) = difference(&found, &script.state) {
                // What is lost only with or only without the next step is that step in part.
                let is_lost = (wrong_before, wrong_after) == (Wrong::Lost, Wrong::Lost);
                let wrong = if is_lost { Wrong::Lost } else { Wrong::Phantom };
                return Err((
                    wrong,
                    format!("{context}; with the next step {after}; that step is {step:.300?}"),
                ));
            }
        }
        scripts.push(script);
    }
    Ok(scripts)
}

fn open(home: &Path) -> Judged<Store> {
    let options = common::options(home).background_embedding(true).query_cache(true);
    Store::open(options).map_err(|error| (Wrong::Refused, format!("{error:?}")))
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Without a parent there is nobody to write for.
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

#[test]
fn the_child_writes_until_it_is_killed() {
    if !common::is_child(ROLE) {
        return;
    }
    let variable = |name: &str| std::env::var(name).expect("the parent gives it");
    let seed = common::number("KILL_SEED").expect("a seed");
    let size = if variable("KILL_SIZE") == "big" { Size::Big } else { Size::Small };
    let close_after = common::number("KILL_CLOSE_AFTER").expect("a number of steps");
    let mut acknowledged: Vec<u64> =
        variable("KILL_STEPS").split(',').map(|steps| steps.parse().expect("a number")).collect();
    let home = variable("KILL_HOME");
    // The test harness has begun a line.
    say("");
    let mut was_killed = true;
    loop {
        say("opening");
        let opened = open(Path::new(&home)).and_then(|store| {
            say("opened");
            let scripts = resolve(&store, seed, size, &acknowledged, was_killed)?;
            Ok((store, scripts))
        });
        let (store, mut scripts) = match opened {
            Ok(opened) => opened,
            Err((wrong, what)) => return say(&format!("wrong {wrong:?} {what}")),
        };
        write(&store, &mut scripts, close_after);
        say("closing");
        store.close().expect("close");
        say("closed");
        acknowledged = scripts.iter().map(|script| script.steps).collect();
        was_killed = false;
    }
}

/// Goes so many steps of every script, each on its thread, and recalls at the same time.
fn write(store: &Store, scripts: &mut [Script], steps: u64) {
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut rng = Rng::new(scripts[0].steps);
        let is_done = &is_done;
        let writers: Vec<_> = scripts
            .iter_mut()
            .enumerate()
            .map(|(thread, script)| {
                scope.spawn(move || {
                    let (collection, (_, mut ids)) = (collection(thread), found(store, thread));
                    say(&format!("at {thread} {}", script.steps));
                    for _ in 0..steps {
                        script.step().run(store, &collection, &mut ids);
                        say(&format!("at {thread} {}", script.steps));
                    }
                })
            })
            .collect();
        scope.spawn(move || {
            while !is_done.load(Ordering::Relaxed) {
                let query = rng.pick(&["river stone", "deploy friday", "port eight"]);
                store.recall(Recall::new(*query).mode(Mode::Hybrid).timeout(None)).expect("recall");
                // The writers need the processor more.
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let ended: Vec<_> = writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        is_done.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|ended| ended.expect("a writer ends"));
    });
}

/// What the parent waits for before it kills, some time after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Started,
    Opening,
    Writing,
    Closing,
}

impl Moment {
    fn line(self) -> Option<&'static str> {
        match self {
            Self::Started => None,
            Self::Opening => Some("opening"),
            Self::Writing => Some("at "),
            Self::Closing => Some("closing"),
        }
    }

    /// How long after it the kill comes: very short and rather long waits are equally likely, because what is to be hit
    /// may take a few microseconds or a few dozen milliseconds.
    fn wait(self, rng: &mut Rng) -> Duration {
        let most = match self {
            Self::Started | Self::Writing => 100_000,
            Self::Opening | Self::Closing => 20 << rng.below(11),
        };
        Duration::from_micros(rng.below(most) as u64)
    }

    /// After how many steps the child closes the store.
    fn close_after(self, size: Size, rng: &mut Rng) -> usize {
        match (self, size) {
            (Self::Closing, Size::Small) => 1 + rng.below(10),
            (Self::Closing, Size::Big) => 1 + rng.below(3),
            _ => 1 + rng.below(300),
        }
    }
}

/// What a run did and found.
#[derive(Clone, Debug, Default)]
struct Tally {
    kills: u64,
    /// Of the kills, those before the store was being opened, while it was, and while it was being closed.
    before_open: u64,
    in_recovery: u64,
    in_close: u64,
    /// Operations and, of those, memories that were stored.
    operations: u64,
    memories: u64,
    lost: u64,
    phantom: u64,
    refused: u64,
}

impl Tally {
    fn note(&mut self, wrong: Wrong) {
        *match wrong {
            Wrong::Lost => &mut self.lost,
            Wrong::Phantom => &mut self.phantom,
            Wrong::Refused => &mut self.refused,
        } += 1;
    }
}

/// A store that is killed again and again.
struct Victim {
    home: tempfile::TempDir,
    seed: u64,
    size: Size,
    acknowledged: Vec<u64>,
}

impl Victim {
    fn new(seed: u64, size: Size) -> Self {
        // What a kill leaves does not depend on the disk: on a quick one more happens before it comes.
        let home = if seed.is_multiple_of(3) { common::folder() } else { common::quick_folder() };
        Self { home, seed, size, acknowledged: vec![0; WRITERS] }
    }

    /// Starts a child, kills it some time after the moment, and notes what it said.
    fn kill(&mut self, moment: Moment, rng: &mut Rng, tally: &Mutex<Tally>) -> Judged<()> {
        let steps: Vec<String> = self.acknowledged.iter().map(u64::to_string).collect();
        let mut child = common::child(ROLE)
            .env("KILL_SEED", self.seed.to_string())
            .env("KILL_SIZE", if self.size == Size::Big { "big" } else { "small" })
            .env("KILL_STEPS", steps.join(","))
            .env("KILL_CLOSE_AFTER", moment.close_after(self.size, rng).to_string())
            .env("KILL_HOME", self.home.path())
            .spawn()
            .expect("a child");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let mut said = Vec::new();
        if let Some(wanted) = moment.line() {
            for line in lines.by_ref() {
                let is_it = line.starts_with(wanted) || line.starts_with("wrong ");
                said.push(line);
                if is_it {
                    break;
                }
            }
        }
        std::thread::sleep(moment.wait(rng));
        child.kill().expect("kill");
        said.extend(lines);
        let status = child.wait().expect("the child ends");
        self.hear(&said, tally)?;
        if status.signal() != Some(9) {
            return Err((Wrong::Refused, format!("the child ended by itself: {status}")));
        }
        Ok(())
    }

    /// Takes note of what a child said before its end.
    fn hear(&mut self, said: &[String], tally: &Mutex<Tally>) -> Judged<()> {
        let mut last = "";
        for line in said {
            if let Some(wrong) = line.strip_prefix("wrong ") {
                let kinds = [Wrong::Lost, Wrong::Phantom];
                let kind = kinds.into_iter().find(|kind| wrong.starts_with(&format!("{kind:?}")));
                return Err((kind.unwrap_or(Wrong::Refused), wrong.to_owned()));
            }
            if ["opening", "opened", "closing", "closed"].contains(&line.as_str()) {
                last = line;
            }
            let Some(said) = line.strip_prefix("at ") else { continue };
            // The last line may be cut, but not in a way that makes another number of it: the child writes whole lines.
            let Some((thread, steps)) = said.split_once(' ') else { continue };
            let (Ok(thread), Ok(steps)) = (thread.parse::<usize>(), steps.parse::<u64>()) else { continue };
            assert!(steps >= self.acknowledged[thread], "a child never goes back");
            self.acknowledged[thread] = steps;
        }
        let mut tally = tally.lock().expect("nobody panics with it");
        tally.kills += 1;
        if tally.kills.is_multiple_of(1000) {
            eprintln!("kill: {} kills", tally.kills);
        }
        match last {
            "" => tally.before_open += 1,
            "opening" => tally.in_recovery += 1,
            "closing" => tally.in_close += 1,
            _ => {}
        }
        Ok(())
    }

    /// Opens what is there and holds it against what was acknowledged; opens it again, which changes nothing.
    fn verify(&mut self) -> Judged<Vec<Script>> {
        let home = self.home.path();
        let refused = |what: &str| (Wrong::Refused, what.to_owned());
        let failed = |error: memento_kv::Error| (Wrong::Refused, format!("{error:?}"));
        let options = || common::options(home);
        let store = Store::open(options()).map_err(failed)?;
        let scripts = resolve(&store, self.seed, self.size, &self.acknowledged, true)?;
        let report = store.check(&mut |_| {}).map_err(failed)?;
        if report.status != CheckStatus::Ok || !report.findings.is_empty() {
            return Err(refused(&format!("{:?}", report.findings)));
        }
        let before = common::everything(&store).map_err(failed)?;
        let last_seq = store.stats().map_err(failed)?.last_seq;
        store.close().map_err(failed)?;
        let files = || -> BTreeMap<_, _> {
            let read = |path| (std::fs::read(&path).expect("read"), path);
            common::segments(home).into_iter().map(read).map(|(bytes, path)| (path, bytes)).collect()
        };
        let files_before = files();
        let store = Store::open(options()).map_err(failed)?;
        if common::everything(&store).map_err(failed)? != before {
            return Err(refused("a second opening changes memories"));
        }
        if store.stats().map_err(failed)?.last_seq != last_seq {
            return Err(refused("a second opening changes the last sequence"));
        }
        store.close().map_err(failed)?;
        if files() != files_before {
            return Err(refused("a second opening changes the log"));
        }
        self.acknowledged = scripts.iter().map(|script| script.steps).collect();
        Ok(scripts)
    }
}

/// Kills one store so many times, now and then without a look in between; what a child finds that opens what the one
/// before it left is a look, too.
fn kill_often(seed: u64, size: Size, kills: u64, tally: &Mutex<Tally>) {
    let mut rng = Rng::new(seed);
    let mut victim = Victim::new(seed, size);
    let mut run = || -> Judged<Vec<Script>> {
        for kill in 1..=kills {
            let moments =
                [Moment::Started, Moment::Opening, Moment::Writing, Moment::Writing, Moment::Closing];
            victim.kill(*rng.pick(&moments), &mut rng, tally)?;
            if kill < kills && rng.one_in(3) {
                victim.verify()?;
            }
        }
        victim.verify()
    };
    match run() {
        Ok(scripts) => {
            let mut tally = tally.lock().expect("nobody panics with it");
            tally.operations += scripts.iter().map(|script| script.steps).sum::<u64>();
            tally.memories += scripts.iter().map(|script| script.made).sum::<u64>();
        }
        Err((wrong, what)) => {
            tally.lock().expect("nobody panics with it").note(wrong);
            let folder = victim.home.keep();
            eprintln!("kill: {wrong:?}, seed {seed}, {size:?}, {}: {what}", folder.display());
        }
    }
}

#[test]
fn acknowledged_memories_survive_kills_at_any_moment() {
    if std::env::var_os("CHILD").is_some() {
        return;
    }
    // A fresh store each time: its first moments are killed, too, and it stays small.
    const ROUNDS: [(Size, u64); 6] = [
        (Size::Small, 12),
        (Size::Small, 1),
        (Size::Small, 1),
        (Size::Big, 4),
        (Size::Small, 1),
        (Size::Small, 5),
    ];
    let (seed, started) = (common::seed("kill"), Instant::now());
    let limit = common::number("KILL_SECONDS").map(Duration::from_secs);
    let kills = common::number("KILLS").unwrap_or(if limit.is_some() { u64::MAX } else { 48 });
    let jobs = common::number("KILL_JOBS").unwrap_or(2);
    let (begun, tally) = (AtomicU64::new(0), Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for job in 0..jobs {
            let (begun, tally) = (&begun, &tally);
            let mut rng = Rng::new(seed.wrapping_add(job));
            scope.spawn(move || {
                for (size, round) in ROUNDS.into_iter().cycle() {
                    if limit.is_some_and(|limit| started.elapsed() >= limit) {
                        break;
                    }
                    let before = begun.fetch_add(round, Ordering::Relaxed);
                    if before >= kills {
                        break;
                    }
                    kill_often(rng.next(), size, round.min(kills - before), tally);
                }
            });
        }
    });
    let tally = tally.into_inner().expect("nobody panicked with it");
    eprintln!(
        "kill: {} kills ({} before the store was opened, {} in recovery, {} in close), {} acknowledged operations with \
         {} new memories, {} lost, {} phantom, {} refused, {:.0} s, SEED={seed}",
        tally.kills,
        tally.before_open,
        tally.in_recovery,
        tally.in_close,
        tally.operations,
        tally.memories,
        tally.lost,
        tally.phantom,
        tally.refused,
        started.elapsed().as_secs_f64(),
    );
    assert_eq!((tally.lost, tally.phantom, tally.refused), (0, 0, 0), "SEED={seed}");
}
