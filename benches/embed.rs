//! What the built-in embedder costs, against ONNX Runtime: `cargo bench --bench embed`.

#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

mod support;

use std::hint::black_box;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use memento_kv::Result;
use memento_kv::embed::{self, Embedder};
use support::{Args, Times};

const HELP: &str = "\
The built-in embedder: time and processor time until the first vector of this process, then for each length of
query. Queries differ, so nothing is served from a cache. Processor time is that of the whole process.
With MEMENTO_TEST_ONNX_DIR, the same for fastembed with ONNX Runtime (one thread), in interleaved blocks: the
8-bit model that `tests/onnx-wheels.sh DIR` fetches, and the float32 model that `benches/minilm-fp32.py DIR` makes.

  --queries N   queries for each figure (400)";

/// Queries of one embedder before it is the next one's turn.
const BLOCK: usize = 20;

/// The figures of one embedder for one length of query.
#[derive(Default)]
struct Figures {
    wall: Times,
    cpu: Times,
}

fn main() -> Result<()> {
    let args = Args::parse(HELP);
    let queries = args.number::<usize>("--queries", 400, 1);
    let onnx = std::env::var_os("MEMENTO_TEST_ONNX_DIR").map(PathBuf::from);
    find_runtime(onnx.as_deref());

    let mut embedders = vec![loaded("built-in", &|| Ok(Arc::new(embed::builtin()?)))?];
    for name in ["minilm-fp32", "minilm-int8"] {
        let Some(folder) = onnx.as_ref().map(|folder| folder.join(name)).filter(|folder| folder.is_dir())
        else {
            println!("{name}: left out, see --help");
            continue;
        };
        embedders.push(loaded(name, &|| embed::load_dir(&folder))?);
    }
    compare_vectors(&embedders)?;
    println!(
        "\n{:>10}  {:<14} {:>9} {:>9} {:>9} {:>9} {:>10}",
        "", "", "p50 us", "p95 us", "least us", "cpu us", "cpu ratio"
    );
    // Ten words, the question mark and the two special tokens are thirteen tokens.
    for (label, words) in [("13 tokens", 10), ("43 tokens", 40), ("256 tokens", 253)] {
        let queries = if words > 100 { queries.div_ceil(10) } else { queries };
        let mut figures: Vec<Figures> = embedders.iter().map(|_| Figures::default()).collect();
        for first in (0..queries).step_by(BLOCK) {
            for ((_, embedder), figures) in embedders.iter().zip(&mut figures) {
                for round in first..queries.min(first + BLOCK) {
                    let query = query(words, round);
                    let start_cpu = cpu_time();
                    figures.wall.measure(|| embedder.embed_query(&query))?;
                    figures.cpu.push(cpu_time() - start_cpu);
                }
            }
        }
        let builtin_cpu = figures[0].cpu.median();
        for ((name, _), Figures { wall, cpu }) in embedders.iter().zip(&mut figures) {
            println!(
                "{label:>10}  {name:<14} {:>9.0} {:>9.0} {:>9.0} {:>9.0} {:>9.2}x",
                wall.median(),
                wall.percentile(0.95),
                wall.percentile(0.0),
                cpu.median(),
                cpu.median() / builtin_cpu,
            );
        }
    }
    Ok(())
}

/// An embedder and its name, with what the way to its first vector cost.
fn loaded(
    name: &'static str,
    load: &dyn Fn() -> Result<Arc<dyn Embedder>>,
) -> Result<(&'static str, Arc<dyn Embedder>)> {
    let (start, start_cpu) = (Instant::now(), cpu_time());
    let embedder = load()?;
    let loaded = start.elapsed();
    black_box(embedder.embed_query(&query(10, usize::MAX))?);
    let (first, cpu) = (start.elapsed(), cpu_time() - start_cpu);
    println!("{name}: loaded after {loaded:.1?}, first vector after {first:.1?}, {cpu:.1?} cpu");
    Ok((name, embedder))
}

/// Says how near the others' vectors are to the built-in one's: all have the same model.
fn compare_vectors(embedders: &[(&str, Arc<dyn Embedder>)]) -> Result<()> {
    let query = query(10, 1);
    let ours = embedders[0].1.embed_query(&query)?;
    for (name, embedder) in &embedders[1..] {
        let theirs = embedder.embed_query(&query)?;
        let cosine: f32 = ours.iter().zip(&theirs).map(|(a, b)| a * b).sum();
        println!("{name}: cosine to the built-in vector {cosine:.4}");
        assert!(cosine > 0.95, "this is another model");
    }
    Ok(())
}

/// ONNX Runtime is found by the environment, which a process cannot safely change for itself.
fn find_runtime(onnx: Option<&Path>) {
    const LIBRARY: &str = "MEMENTO_ORT_DYLIB";
    if let Some(folder) = onnx
        && std::env::var_os(LIBRARY).is_none()
    {
        let program = std::env::current_exe().expect("this program");
        let error =
            Command::new(program).args(std::env::args_os().skip(1)).env(LIBRARY, folder.join("lib")).exec();
        panic!("the program cannot start itself: {error}");
    }
}

/// A question of so many words that are one token each, different for each round.
fn query(words: usize, round: usize) -> String {
    const WORDS: [&str; 16] = [
        "what", "database", "did", "we", "decide", "to", "use", "for", "the", "project", "when", "server",
        "team", "last", "week", "plan",
    ];
    let round = round % 100_003;
    let words = (0..words).map(|word| WORDS[(word * 5 + (round >> (word % 8)) * 3 + round) % WORDS.len()]);
    words.collect::<Vec<_>>().join(" ") + "?"
}

/// The processor time of this process.
#[cfg(target_os = "linux")]
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Unknown here, so it shows as nothing.
#[cfg(not(target_os = "linux"))]
fn cpu_time() -> Duration {
    Duration::ZERO
}
