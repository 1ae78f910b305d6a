//! How long a store takes to open after kill -9, against redb's own repair: `cargo bench --bench open`.

#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use memento_kv::embed::ModelSpec;
use memento_kv::{MemoryId, Options, Remember, Result, Store};
use redb::{Database, Durability, Key, ReadableDatabase, ReadableTable, TableDefinition, Value};
use support::{Args, Sample, Times};

const HELP: &str = "\
Open after SIGKILL: a child process loads memories, makes some more one by one that no checkpoint has seen, and
is killed. Against it, redb with the rows of the very same view, committed with Durability::Immediate and
without quick repair, killed likewise: once with the table of memories alone, once with all six tables.
Each opening is of a fresh copy, in the page cache, by a fresh process.

  --memories N  memories (1000000)
  --pending N   of them after the last checkpoint (3000)
  --words N     words of a text; 55 make rows of half a kilobyte (55)
  --vectors     memories have vectors of 384 dimensions
  --rounds N    openings (5)
  --only HOME   only opens this store, for a profiler: nanoseconds to the opened store and to the first get
  --dir DIR     where the databases are made; about 4 KB a memory, 10 KB with vectors";

/// Rows of one transaction of redb.
const REDB_ROWS: usize = 50_000;

const STATE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("state");
const MEMORY: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("memory");
const ID: TableDefinition<'_, &[u8], &[u8; 12]> = TableDefinition::new("id");
const LABEL: TableDefinition<'_, u128, ()> = TableDefinition::new("label");
const TIME: TableDefinition<'_, u128, &[u8; 12]> = TableDefinition::new("time");
const VECTOR: TableDefinition<'_, u128, &[u8; 24]> = TableDefinition::new("vector");

struct Load {
    memories: u64,
    pending: u64,
    words: usize,
    vectors: bool,
}

fn main() -> Result<()> {
    let args = Args::parse(HELP);
    let load = Load {
        memories: args.number("--memories", 1_000_000, 2000),
        pending: args.number("--pending", 3000, 100),
        words: args.number("--words", 55, 10),
        vectors: args.has("--vectors"),
    };
    let rounds = args.number("--rounds", 5, 1);
    if let Some(home) = args.text("--only") {
        let start = Instant::now();
        let store = Store::open(options(Path::new(home)))?;
        let opened = start.elapsed();
        let last = store.get(id(load.memories - 1))?;
        println!("{} {}", opened.as_nanos(), start.elapsed().as_nanos());
        assert!(last.is_some(), "the last memory survived");
        return store.close();
    }
    if let Some(path) = args.text("--only-redb") {
        let start = Instant::now();
        let database = Database::open(path).expect("it is repaired");
        println!("{}", start.elapsed().as_nanos());
        let rows = database.begin_read().expect("begin").open_table(MEMORY).expect("the table");
        assert!(rows.last().expect("read").is_some());
        return Ok(());
    }
    if let Some(home) = args.text("--child-memento") {
        load_store(Path::new(home), &load)?;
        wait_for_death();
    }
    if let Some(path) = args.text("--child-redb") {
        let view = args.text("--view").expect("the parent names it");
        load_redb(Path::new(path), Path::new(view), args.has("--all-tables"));
        wait_for_death();
    }

    let folder = args.folder();
    let path = |name: &str| folder.path().join(name);
    let home = path("killed");
    kill_when_ready("--child-memento", &home, &[]);
    // The view as it is when everything is in it: what redb would have to hold.
    let view = path("whole").join("store/view.redb");
    copy(&home, &path("whole"));
    Store::open(options(&path("whole")))?.close()?;
    let view = as_redb(&view, &path("view.plain"));
    for (name, tables) in [("rows.redb", &[][..]), ("all.redb", &["--all-tables"][..])] {
        let source = ["--view".as_ref(), view.as_os_str()];
        let more = source.into_iter().chain(tables.iter().map(AsRef::as_ref));
        kill_when_ready("--child-redb", &path(name), &more.collect::<Vec<_>>());
    }
    println!(
        "{} memories, {} of them after the last checkpoint, {rounds} openings",
        load.memories, load.pending
    );
    let last_segment =
        std::fs::read_dir(home.join("store/seg")).expect("segments").map(|entry| entry.expect("entry"));
    let last_segment = last_segment.max_by_key(std::fs::DirEntry::file_name).expect("a segment");
    println!(
        "view {} MB, last segment {} MB, redb with rows {} MB, with all tables {} MB\n",
        megabytes(&home.join("store/view.redb")),
        megabytes(&last_segment.path()),
        megabytes(&path("rows.redb")),
        megabytes(&path("all.redb")),
    );

    let mut times: [Times; 4] = Default::default();
    for _ in 0..rounds {
        copy(&home, &path("copy"));
        settle(&path("copy"));
        let took = opening("--only", &path("copy"));
        times[0].push(took[0]);
        times[1].push(took[1]);
        std::fs::remove_dir_all(path("copy")).expect("remove");
        for (which, name) in [(2, "rows.redb"), (3, "all.redb")] {
            copy(&path(name), &path("copy"));
            settle(&path("copy"));
            times[which].push(opening("--only-redb", &path("copy"))[0]);
            std::fs::remove_file(path("copy")).expect("remove");
        }
    }
    let names = [
        "memento-kv, open",
        "memento-kv, open and first get",
        "redb, plain repair of the rows",
        "redb, plain repair of all tables",
    ];
    println!("{:<34} {:>10} {:>10} {:>10} {:>10}", "", "median ms", "least", "most", "ratio");
    let ours = times[0].median();
    for (name, times) in names.iter().zip(&mut times) {
        println!(
            "{name:<34} {:>10.1} {:>10.1} {:>10.1} {:>9.1}x",
            times.median() / 1e3,
            times.percentile(0.0) / 1e3,
            times.percentile(1.0) / 1e3,
            times.median() / ours,
        );
    }
    Ok(())
}

/// A store of words only, without threads that embed.
fn options(home: &Path) -> Options {
    Options::at(home).model(ModelSpec::None).background_embedding(false)
}

/// Loads a store and leaves it open, the last memories in no checkpoint.
fn load_store(home: &Path, load: &Load) -> Result<()> {
    let memory = |number: u64| -> Result<Remember> {
        let sample = Sample::new(number, load.words);
        let vector = sample.vector.clone();
        let remember = sample.remember_without_vector().id(MemoryId::new(id(number))?);
        Ok(if load.vectors { remember.vector(vector) } else { remember })
    };
    let first_pending = load.memories.saturating_sub(load.pending);
    let store = Store::open(options(home))?;
    for first in (0..first_pending).step_by(500) {
        store.remember_many((first..first_pending.min(first + 500)).map(memory).collect::<Result<_>>()?)?;
    }
    store.close()?; // The last checkpoint.
    let store = Store::open(options(home))?;
    for number in first_pending..load.memories {
        store.remember(memory(number)?)?;
    }
    std::mem::forget(store);
    Ok(())
}

/// Writes rows of a view into a database of redb alone and leaves it open.
fn load_redb(path: &Path, view: &Path, all_tables: bool) {
    let view = Database::open(view).expect("the view was closed");
    let database = Database::create(path).expect("create");
    copy_table(&view, &database, MEMORY);
    if all_tables {
        copy_table(&view, &database, STATE);
        copy_table(&view, &database, ID);
        copy_table(&view, &database, LABEL);
        copy_table(&view, &database, TIME);
        copy_table(&view, &database, VECTOR);
    }
    std::mem::forget(database);
}

fn copy_table<K: Key + 'static, V: Value + 'static>(
    from: &Database,
    to: &Database,
    table: TableDefinition<'static, K, V>,
) {
    let source = from.begin_read().expect("begin").open_table(table).expect("the table");
    let mut rows = source.iter().expect("read").peekable();
    while rows.peek().is_some() {
        let mut transaction = to.begin_write().expect("begin");
        transaction.set_durability(Durability::Immediate).expect("it is the usual one");
        let mut target = transaction.open_table(table).expect("the table");
        for row in rows.by_ref().take(REDB_ROWS) {
            let (key, value) = row.expect("read");
            target.insert(key.value(), value.value()).expect("insert");
        }
        drop(target);
        transaction.commit().expect("commit");
    }
}

/// The database in a view without the checksums of its pages, as redb itself reads it. The layout is that of
/// `format-spec/view.md`.
fn as_redb(view: &Path, plain: &Path) -> PathBuf {
    const PAGE: u64 = 4096;
    let source = std::fs::File::open(view).expect("the view");
    let target = std::fs::File::create(plain).expect("create");
    let len = source.metadata().expect("metadata").len();
    let mut page = [0; PAGE as usize];
    source.read_exact_at(&mut page[..320], 512).expect("the state sector");
    target.write_all_at(&page, 0).expect("write");
    for (number, offset) in (1..).map(|number| (number, (2 + number + number / 1024) * PAGE)) {
        if offset >= len {
            break;
        }
        source.read_exact_at(&mut page, offset).expect("a page");
        target.write_all_at(&page, number * PAGE).expect("write");
    }
    plain.to_owned()
}

/// Opens what is at the path in a process of its own, as it is after a kill, and says how long its steps took.
fn opening(what: &str, path: &Path) -> Vec<Duration> {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg(what)
        .arg(path)
        .stderr(Stdio::inherit())
        .output()
        .expect("a child process");
    assert!(output.status.success(), "the child failed");
    let steps = String::from_utf8(output.stdout).expect("text");
    steps.split_whitespace().map(|nanos| Duration::from_nanos(nanos.parse().expect("a number"))).collect()
}

/// Runs this program as a child with the same arguments and kills it when it has loaded.
fn kill_when_ready(what: &str, path: &Path, more: &[&std::ffi::OsStr]) {
    let program = std::env::current_exe().expect("this program");
    let mut child: Child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg(what)
        .arg(path)
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child process");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("read");
    assert_eq!(line.trim(), "ready", "the child failed");
    child.kill().expect("kill");
    child.wait().expect("wait");
}

/// Until the parent kills this process, or dies itself.
fn wait_for_death() -> ! {
    println!("ready");
    let _ = std::io::stdin().read(&mut [0]);
    std::process::exit(0)
}

/// Copies a file or a folder; what is copied is on the disk and in the page cache.
fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        std::fs::create_dir(to).expect("a folder");
        for entry in std::fs::read_dir(from).expect("list") {
            let name: PathBuf = entry.expect("entry").file_name().into();
            copy(&from.join(&name), &to.join(&name));
        }
        return;
    }
    let mut source = std::fs::File::open(from).expect("open");
    let mut target = std::fs::File::create(to).expect("create");
    std::io::copy(&mut source, &mut target).expect("copy");
    target.sync_all().expect("sync");
}

/// Waits until the disk has done what was left for later, such as freeing the former copy, and sees to it that this one
/// is in the page cache.
fn settle(path: &Path) {
    let synced = Command::new("sync").status().expect("sync runs");
    assert!(synced.success());
    read_through(path);
}

fn read_through(path: &Path) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("list") {
            read_through(&entry.expect("entry").path());
        }
    } else {
        let mut file = std::fs::File::open(path).expect("open");
        std::io::copy(&mut file, &mut std::io::sink()).expect("read");
    }
}

fn megabytes(path: &Path) -> u64 {
    path.metadata().expect("it is there").len() >> 20
}

fn id(number: u64) -> String {
    format!("{number:016x}")
}
