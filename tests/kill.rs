//! kill -9 at any moment: what was acknowledged is there, what was not is there as a whole or not at all.
//!
//! A child, which is this program once more, writes from several threads and acknowledges each operation on a pipe.
//! What a thread does follows from the seed, so the parent knows what must be there after so many acknowledgements,
//! and what may be there besides: the one operation that was on its way.
//!
//! `KILLS=500` makes a longer run, `SEED=…` repeats one.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::Duration;

use common::Rng;
use memento_kv::{Duplicates, List, Memory, MemoryId, Mode, Options, Recall, Remember, Store, Update};

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

/// Whether the store holds exactly this, byte for byte; otherwise what is different.
fn difference(found: &BTreeMap<String, Memory>, state: &State) -> Option<String> {
    for (name, memory) in found {
        let Some(expected) = state.get(name) else { return Some(format!("{name} is there")) };
        if memory.text != expected.text.make() {
            return Some(format!("{name} has another text: {:.60}", memory.text));
        }
        if memory.tags != expected.tags || memory.importance.to_bits() != expected.importance.to_bits() {
            return Some(format!("{name} is {:?} {}", memory.tags, memory.importance));
        }
        if expected.named && memory.id.as_str() != name {
            return Some(format!("{name} has id {}", memory.id));
        }
    }
    state.keys().find(|name| !found.contains_key(*name)).map(|name| format!("{name} is not there"))
}

/// Finds how many steps of each thread the store holds: all that were acknowledged, and at most the one after.
fn resolve(store: &Store, seed: u64, size: Size, acknowledged: &[u64]) -> Result<Vec<Script>, String> {
    let mut scripts = Vec::new();
    for (thread, steps) in acknowledged.iter().enumerate() {
        let mut script = Script::after(seed, thread, size, *steps);
        let (found, _) = found(store, thread);
        if let Some(difference_before) = difference(&found, &script.state) {
            let step = script.step();
            if let Some(difference_after) = difference(&found, &script.state) {
                return Err(format!(
                    "thread {thread} after {steps} acknowledged steps: {difference_before}; with the next step \
                     {difference_after}; that step is {step:.300?}"
                ));
            }
        }
        scripts.push(script);
    }
    Ok(scripts)
}

fn options(home: &Path) -> Options {
    common::options(home)
}

#[test]
fn the_child_writes_until_it_is_killed() {
    if !common::is_child(ROLE) {
        return;
    }
    let variable = |name: &str| std::env::var(name).expect("the parent gives it");
    let seed = common::number("KILL_SEED").expect("a seed");
    let size = if variable("KILL_SIZE") == "big" { Size::Big } else { Size::Small };
    let acknowledged: Vec<u64> =
        variable("KILL_STEPS").split(',').map(|steps| steps.parse().expect("a number")).collect();
    let home = variable("KILL_HOME");
    let say = |line: String| {
        let mut out = std::io::stdout().lock();
        // Without a parent there is nobody to write for.
        if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
            std::process::exit(0);
        }
    };
    let options = options(Path::new(&home)).background_embedding(true).query_cache(true);
    let store = match Store::open(options) {
        Ok(store) => store,
        Err(error) => return say(format!("wrong open: {error:?}\n")),
    };
    let scripts = match resolve(&store, seed, size, &acknowledged) {
        Ok(scripts) => scripts,
        Err(difference) => return say(format!("wrong {difference}\n")),
    };
    for (thread, script) in scripts.iter().enumerate() {
        say(format!("at {thread} {}\n", script.steps));
    }
    std::thread::scope(|scope| {
        for (thread, mut script) in scripts.into_iter().enumerate() {
            let (store, say) = (&store, &say);
            scope.spawn(move || {
                let (collection, (_, mut ids)) = (collection(thread), found(store, thread));
                loop {
                    script.step().run(store, &collection, &mut ids);
                    say(format!("at {thread} {}\n", script.steps));
                }
            });
        }
        scope.spawn(|| {
            let mut rng = Rng::new(seed);
            loop {
                let query = rng.pick(&["river stone", "deploy friday", "port eight"]);
                store.recall(Recall::new(*query).mode(Mode::Hybrid).timeout(None)).expect("recall");
            }
        });
    });
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

    /// Starts a child, kills it some time after it was started or after its first words, and notes what it said.
    fn kill(&mut self, after_start: bool, wait: Duration) {
        let steps: Vec<String> = self.acknowledged.iter().map(u64::to_string).collect();
        let mut child = common::child(ROLE)
            .env("KILL_SEED", self.seed.to_string())
            .env("KILL_SIZE", if self.size == Size::Big { "big" } else { "small" })
            .env("KILL_STEPS", steps.join(","))
            .env("KILL_HOME", self.home.path())
            .spawn()
            .expect("a child");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut first = None;
        if !after_start {
            first = lines
                .by_ref()
                .map_while(Result::ok)
                .find(|line| line.starts_with("at ") || line.starts_with("wrong"));
        }
        std::thread::sleep(wait);
        child.kill().expect("kill");
        for line in first.into_iter().chain(lines.map_while(Result::ok)) {
            if let Some(wrong) = line.strip_prefix("wrong ") {
                panic!("SEED={}: {wrong}", self.seed);
            }
            let Some(said) = line.strip_prefix("at ") else { continue };
            // The last line may be cut.
            let Some((thread, steps)) = said.split_once(' ') else { continue };
            let (Ok(thread), Ok(steps)) = (thread.parse::<usize>(), steps.parse::<u64>()) else { continue };
            assert!(steps >= self.acknowledged[thread], "a child never goes back");
            self.acknowledged[thread] = steps;
        }
        let status = child.wait().expect("the child ends");
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9),
            "SEED={}: {status}",
            self.seed
        );
    }

    /// Opens what is there and holds it against what was acknowledged; opens it again, which changes nothing.
    fn verify(&mut self, kills: u64) {
        let context = format!("SEED={} {:?} after {kills} kills", self.seed, self.size);
        let wrong = |error: String| -> ! { panic!("{context}: {error}") };
        let store =
            Store::open(options(self.home.path())).unwrap_or_else(|error| wrong(format!("{error:?}")));
        let scripts = resolve(&store, self.seed, self.size, &self.acknowledged)
            .unwrap_or_else(|difference| wrong(difference));
        common::assert_whole(&store, &context);
        let (before, last_seq) =
            (common::everything(&store).expect("list"), store.stats().expect("stats").last_seq);
        store.close().expect("close");
        let files = |home: &Path| -> BTreeMap<_, _> {
            common::segments(home)
                .into_iter()
                .map(|path| (path.clone(), std::fs::read(path).expect("read")))
                .collect()
        };
        let files_before = files(self.home.path());
        let store =
            Store::open(options(self.home.path())).unwrap_or_else(|error| wrong(format!("{error:?}")));
        assert!(
            common::everything(&store).expect("list") == before,
            "{context}: a second open changes memories"
        );
        assert_eq!(store.stats().expect("stats").last_seq, last_seq, "{context}");
        store.close().expect("close");
        assert!(files(self.home.path()) == files_before, "{context}: a second open changes the log");
        self.acknowledged = scripts.iter().map(|script| script.steps).collect();
    }
}

/// Kills one store until its time is over, now and then without a look in between.
fn kill_often(seed: u64, size: Size, kills: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let mut victim = Victim::new(seed, size);
    for kill in 1..=kills {
        let after_start = rng.one_in(3);
        let wait = if after_start { rng.below(40_000) } else { rng.below(150_000) };
        victim.kill(after_start, Duration::from_micros(wait as u64));
        if kill == kills || rng.one_in(2) {
            victim.verify(kill);
        }
    }
    victim.acknowledged.iter().sum()
}

#[test]
fn acknowledged_memories_survive_kills_at_any_moment() {
    if std::env::var_os("CHILD").is_some() {
        return;
    }
    let (seed, kills) = (common::seed("kill"), common::number("KILLS").unwrap_or(24));
    let mut rng = Rng::new(seed);
    let mut steps = 0;
    let mut done = 0;
    while done < kills {
        // A fresh store each time: the first moments of a store are killed, too.
        let round = (kills - done).min(12);
        steps += kill_often(rng.next(), Size::Small, round);
        done += round;
    }
    eprintln!("kill: {kills} kills, {steps} acknowledged steps");
}

#[test]
fn kills_while_segments_roll_lose_nothing() {
    if std::env::var_os("CHILD").is_some() {
        return;
    }
    let (seed, kills) = (common::seed("kill, big"), common::number("KILLS").unwrap_or(24).div_ceil(6));
    let mut rng = Rng::new(seed);
    let mut done = 0;
    while done < kills {
        let round = (kills - done).min(8);
        kill_often(rng.next(), Size::Big, round);
        done += round;
    }
    eprintln!("kill, big: {kills} kills");
}

#[test]
fn a_store_that_is_killed_in_its_first_moments_is_no_ruin() {
    if std::env::var_os("CHILD").is_some() {
        return;
    }
    let (seed, kills) = (common::seed("kill, first moments"), common::number("KILLS").unwrap_or(24));
    let mut rng = Rng::new(seed);
    for _ in 0..kills {
        let mut victim = Victim::new(rng.next(), Size::Small);
        victim.kill(true, Duration::from_micros(rng.below(30_000) as u64));
        victim.verify(1);
    }
}
