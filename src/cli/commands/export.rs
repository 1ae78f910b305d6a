//! `export`: all memories, as JSON newest first like the original, as JSONL in the order in which they came.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::progress::{Bar, Unit};
use crate::cli::{session, text};
use crate::home::Home;
use crate::transfer::{ExportHead, write_json, write_jsonl, write_jsonl_with_vectors};
use crate::{Error, ErrorKind, Filter, List, Memory, Moment, Order, Result, Role, Store};

/// Memories that are read at once, and first of all.
const PAGE_COUNT_MAX: usize = 5000;
const PAGE_COUNT_FIRST: usize = 500;
/// Bytes of texts that are read at once, as far as the page before tells. A page has some memories whatever their size.
const PAGE_TEXT_LEN: usize = 16 << 20;
const PAGE_COUNT_MIN: usize = 16;
/// What errors call standard output.
const STDOUT_NAME: &str = "standard output";

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv export > memories.json
  memento-kv export --format jsonl -o memories.jsonl
  memento-kv export --format jsonl --vectors -o all.jsonl
  memento-kv export --format sqlite -o memories.db

json has the form of the original's export, the newest first, and no vectors; jsonl is one memory a line, the oldest
first, and with --vectors it loses nothing. sqlite is what memory.db is.
`memento-kv import` reads all of them, `memento-kv restore` the third.")]
pub(crate) struct ExportArgs {
    /// The form
    #[arg(long, short, value_enum, default_value_t = ExportFormat::Json)]
    format: ExportFormat,
    /// Write to this file instead of standard output; it is replaced only when all is written
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Export the vectors, too, with the model that made them (jsonl only)
    #[arg(long)]
    vectors: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    Json,
    Jsonl,
    Sqlite,
}

/// What `--json` prints when the memories themselves go to a file.
#[derive(Serialize)]
struct Exported<'a> {
    memories: u64,
    file: &'a str,
}

pub(crate) fn run(args: &ExportArgs, context: &Context<'_>) -> Result<(), Failure> {
    if args.vectors && args.format == ExportFormat::Json {
        return Err(Error::new(ErrorKind::Invalid, "the original's JSON has no place for vectors")
            .hint("add --format jsonl")
            .into());
    }
    let (home, store) = session::open_existing(context)?;
    let outcome = export(args, &home, &store, context);
    session::close(context, store);
    outcome
}

fn export(args: &ExportArgs, home: &Home, store: &Store, context: &Context<'_>) -> Result<(), Failure> {
    let out = context.out;
    if args.format == ExportFormat::Sqlite {
        return export_sqlite(args, store, context);
    }
    let bar = Bar::new(out, "exporting", Unit::Count);
    let written = |store: &Store, to: &mut dyn Write, target: &Path| {
        written(args, home, store, context.now_ms, &|done, total| bar.set(done, total), to, target)
    };
    let Some(target) = &args.output else {
        let mut stdout = BufWriter::new(io::stdout().lock());
        let target = Path::new(STDOUT_NAME);
        // What is printed is gone, and cannot be written once more.
        let result = match is_shared(store) {
            true => written(&*store.as_of(Moment::Now)?, &mut stdout, target),
            false => written(store, &mut stdout, target),
        };
        match result.map_err(closed_pipe)? {
            Wrote::One { .. } => {}
            Wrote::Several => out.warn(
                "others wrote meanwhile: what they changed may be in it or not; `-o FILE` exports one state",
            ),
        }
        // The original's form has no line end at its end, which a terminal needs.
        let end: &[u8] = if out.terminal && args.format == ExportFormat::Json { b"\n" } else { b"" };
        return stdout
            .write_all(end)
            .and_then(|()| stdout.flush())
            .map_err(crate::cli::output::stdout_failure);
    };
    let mut total = 0;
    let mut write = |store: &Store, to: &mut dyn Write, target: &Path| match written(store, to, target) {
        Ok(Wrote::One { memories }) => {
            total = memories;
            Ok(true)
        }
        Ok(Wrote::Several) => Ok(false),
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(false),
        Err(error) => Err(error),
    };
    if !to_file(target, &mut |to, target| write(store, to, target))? {
        // Somebody writes on and on: a copy of the store stands still.
        let copy = store.as_of(Moment::Now)?;
        to_file(target, &mut |to, target| write(&copy, to, target))?;
    }
    drop(bar);
    if out.json {
        return out.print_json(&Exported { memories: total, file: &target.to_string_lossy() });
    }
    out.note(&format!("{} exported to {}", text::count(total, "memory", "memories"), target.display()));
    Ok(())
}

/// What was written.
#[derive(Clone, Copy, Debug)]
enum Wrote {
    /// One state of the store.
    One { memories: u64 },
    /// Parts of several, since others wrote meanwhile.
    Several,
}

/// Whether others ask the store, so that it may change at any moment.
fn is_shared(store: &Store) -> bool {
    store.sharing().is_ok_and(|sharing| sharing.role == Role::Client || !sharing.clients.is_empty())
}

/// Writes all memories of a store.
///
/// # Errors
/// [`ErrorKind::Conflict`] when others wrote meanwhile, so that what was announced did not come.
fn written(
    args: &ExportArgs,
    home: &Home,
    store: &Store,
    now_ms: i64,
    tell: &dyn Fn(u64, u64),
    to: &mut dyn Write,
    target: &Path,
) -> Result<Wrote> {
    let before = store.stats()?;
    let total = before.memories;
    let order = match args.format {
        ExportFormat::Json => Order::Newest,
        // So that reading it back stores memories of one second in their order.
        ExportFormat::Jsonl | ExportFormat::Sqlite => Order::Oldest,
    };
    let mut pages = Pages::new(order, |list| store.list(&list)).inspect_count(|done| tell(done, total));
    let head = ExportHead { exported_at_ms: now_ms, total_memories: total, db_path: &home.db_path };
    let result = match args.format {
        ExportFormat::Json => write_json(to, target, &head, &mut pages),
        ExportFormat::Jsonl if args.vectors => {
            write_jsonl_with_vectors(to, target, &mut pages, &mut |id| store.vectors(id)).map(drop)
        }
        ExportFormat::Jsonl | ExportFormat::Sqlite => write_jsonl(to, target, &mut pages).map(drop),
    };
    let is_one = store.stats()?.last_seq == before.last_seq;
    match result {
        Ok(()) if is_one => Ok(Wrote::One { memories: total }),
        Ok(()) => Ok(Wrote::Several),
        Err(error) if !is_one && error.kind() == ErrorKind::Invalid => Err(changed(target)),
        Err(error) => Err(error),
    }
}

fn changed(target: &Path) -> Error {
    Error::new(ErrorKind::Conflict, "others wrote while the memories were exported")
        .at(target)
        .hint("`-o` with the name of a file exports one state, whoever writes")
}

/// A database is no stream, so it needs a file.
fn export_sqlite(args: &ExportArgs, store: &Store, context: &Context<'_>) -> Result<(), Failure> {
    let out = context.out;
    let Some(target) = &args.output else {
        return Err(Error::new(ErrorKind::Invalid, "a SQLite file cannot be written to standard output")
            .hint("name a file with -o")
            .into());
    };
    let bar = Bar::new(out, "exporting", Unit::Count);
    let done = store.export_sqlite(target, &mut bar.listener())?;
    drop(bar);
    if out.json {
        return out.print_json(&Exported { memories: done.memories, file: &target.to_string_lossy() });
    }
    out.note(&format!(
        "{} exported to {}",
        text::count(done.memories, "memory", "memories"),
        target.display()
    ));
    Ok(())
}

/// A reader that went away is no failure of the export.
fn closed_pipe(error: Error) -> Failure {
    let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<io::Error>());
    if cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe) {
        return Failure::PipeClosed;
    }
    Failure::Error(error)
}

/// Writes all of it, and says whether it is to stay.
type WriteTo<'a> = dyn FnMut(&mut dyn Write, &Path) -> Result<bool> + 'a;

/// Writes a file as a whole: a former one stays until the new one is on stable storage. Readable by its owner only,
/// as memories are nobody else's business.
///
/// Says whether it was written.
fn to_file(target: &Path, write: &mut WriteTo<'_>) -> Result<bool> {
    let fail = |operation| move |error| Error::io(operation, target, error);
    // A link stays a link; what it points to is replaced.
    let real = fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
    if fs::metadata(&real).is_ok_and(|metadata| !metadata.is_file()) {
        return to_device(&real, target, write).map(|()| true);
    }
    let folder = match real.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".memento-export-")
        .tempfile_in(folder)
        .map_err(fail("make a temporary file beside it"))?;
    {
        let mut buffered = BufWriter::with_capacity(1 << 18, file.as_file_mut());
        if !write(&mut buffered, target)? {
            return Ok(false);
        }
        buffered.flush().map_err(fail("write"))?;
    }
    file.as_file().sync_all().map_err(fail("sync"))?;
    file.persist(&real).map_err(|error| Error::io("rename", target, error.error))?;
    // The new name itself must survive a power cut, too.
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail("sync the folder"))?;
    Ok(true)
}

/// A terminal, a pipe or the like cannot be replaced, only written to. A folder is refused by the system.
fn to_device(real: &Path, target: &Path, write: &mut WriteTo<'_>) -> Result<()> {
    // What is written to it is gone, and cannot be written once more.
    let device =
        OpenOptions::new().write(true).open(real).map_err(|error| Error::io("open", target, error))?;
    let mut buffered = BufWriter::new(device);
    if !write(&mut buffered, target)? {
        return Err(changed(target));
    }
    buffered.flush().map_err(|error| Error::io("write", target, error))
}

/// All memories of a store by time, read page by page.
///
/// The next page starts at the time of the last memory, past those of that time that came already: so the cost of a
/// page does not grow with the number of pages before it.
struct Pages<F, C> {
    order: Order,
    fetch: F,
    each: C,
    page: std::vec::IntoIter<Memory>,
    /// How many memories the next page has at most.
    count: usize,
    last: Option<i64>,
    same_time: usize,
    done: u64,
    over: bool,
}

impl<F: FnMut(List) -> Result<Vec<Memory>>> Pages<F, fn(u64)> {
    fn new(order: Order, fetch: F) -> Self {
        Self {
            order,
            fetch,
            each: |_| {},
            page: Vec::new().into_iter(),
            count: PAGE_COUNT_FIRST,
            last: None,
            same_time: 0,
            done: 0,
            over: false,
        }
    }

    /// Tells how many memories have been given out, after each.
    fn inspect_count<C: FnMut(u64)>(self, each: C) -> Pages<F, C> {
        let Self { order, fetch, page, count, last, same_time, done, over, .. } = self;
        Pages { order, fetch, each, page, count, last, same_time, done, over }
    }
}

impl<F: FnMut(List) -> Result<Vec<Memory>>, C: FnMut(u64)> Iterator for Pages<F, C> {
    type Item = Result<Memory>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.as_slice().is_empty() && !self.over {
            let filter = match self.order {
                Order::Newest => Filter { before: self.last, ..Filter::default() },
                Order::Oldest => Filter { since: self.last, ..Filter::default() },
            };
            let list = List::new().filter(filter).order(self.order).offset(self.same_time).limit(self.count);
            match (self.fetch)(list) {
                Ok(page) => {
                    self.over = page.len() < self.count;
                    let len: usize = page.iter().map(|memory| memory.text.len()).sum();
                    let mean = (len / page.len().max(1)).max(1);
                    self.count = (PAGE_TEXT_LEN / mean).clamp(PAGE_COUNT_MIN, PAGE_COUNT_MAX);
                    self.page = page.into_iter();
                }
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            }
        }
        let memory = self.page.next()?;
        self.same_time = if self.last == Some(memory.timestamp) { self.same_time + 1 } else { 1 };
        self.last = Some(memory.timestamp);
        self.done += 1;
        (self.each)(self.done);
        Some(Ok(memory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryId;

    /// Memories with so many of one time each, in this order.
    fn memories(order: Order, same_time: i64) -> Vec<Memory> {
        let count = PAGE_COUNT_FIRST as i64 + PAGE_COUNT_MAX as i64 + 17;
        let mut all: Vec<Memory> = (0..count)
            .map(|i| Memory::new(MemoryId::new(format!("m{i}")).expect("an id"), "x", i / same_time))
            .collect();
        if order == Order::Newest {
            all.reverse();
        }
        all
    }

    /// Answers a list as a store does.
    fn fetch(all: &[Memory], list: &List) -> Vec<Memory> {
        let found = all.iter().filter(|memory| list.filter.matches(memory));
        found.skip(list.offset).take(list.limit).cloned().collect()
    }

    #[test]
    fn every_memory_comes_once_in_order_whatever_times_they_share() {
        for order in [Order::Newest, Order::Oldest] {
            for same_time in [1, 3, 7_000, i64::MAX] {
                let all = memories(order, same_time);
                let mut seen = 0;
                let mut requests = 0;
                let pages = Pages::new(order, |list| {
                    requests += 1;
                    assert_eq!(list.order, order);
                    Ok(fetch(&all, &list))
                })
                .inspect_count(|done| seen = done);
                let ids: Vec<_> = pages.map(|memory| memory.expect("no error").id).collect();
                assert!(
                    ids.iter().eq(all.iter().map(|memory| &memory.id)),
                    "{order:?}, {same_time} of one time"
                );
                assert_eq!((seen, requests), (all.len() as u64, 3));
            }
        }
    }

    #[test]
    fn an_error_ends_the_pages() {
        let mut pages = Pages::new(Order::Newest, |_| Err(Error::new(ErrorKind::Corrupt, "bad row")));
        assert!(pages.next().is_some_and(|item| item.is_err()));
        assert!(pages.next().is_none());
    }

    #[test]
    fn a_file_is_replaced_only_when_all_is_written() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let target = folder.path().join("out.json");
        to_file(&target, &mut |to, _| to.write_all(b"first").map(|()| true).map_err(|_| unreachable!()))
            .expect("written");
        let failed = to_file(&target, &mut |to, _| {
            let _ = to.write_all(b"half");
            Err(Error::new(ErrorKind::Corrupt, "bad row"))
        });
        assert_eq!(failed.expect_err("it failed").kind(), ErrorKind::Corrupt);
        let not_to_stay =
            to_file(&target, &mut |to, _| to.write_all(b"half").map(|()| false).map_err(|_| unreachable!()));
        assert!(!not_to_stay.expect("no error"));
        assert_eq!(fs::read(&target).expect("the former file"), b"first");
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1, "nothing is left behind");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link_and_the_file_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").expect("write");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        to_file(&link, &mut |to, _| to.write_all(b"new").map(|()| true).map_err(|_| unreachable!()))
            .expect("written");
        assert!(fs::symlink_metadata(&link).expect("the link").is_symlink());
        assert_eq!(fs::read(&file).expect("the file"), b"new");
        assert_eq!(fs::metadata(&file).expect("the file").permissions().mode() & 0o777, 0o600);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_device_is_written_to_and_a_folder_is_refused() {
        to_file(Path::new("/dev/null"), &mut |to, _| {
            to.write_all(b"x").map(|()| true).map_err(|_| unreachable!())
        })
        .expect("written");
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(to_file(folder.path(), &mut |_, _| Ok(true)).is_err());
        assert!(to_file(&folder.path().join("no/such"), &mut |_, _| Ok(true)).is_err());
    }
}
