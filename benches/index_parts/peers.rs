//! Other libraries on the same vectors: hnsw_rs's own files, and Python's hnswlib and usearch in a child process.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use hnsw_rs::anndists::dist::DistL2;
use hnsw_rs::api::AnnT;
use hnsw_rs::hnsw::Hnsw;
use hnsw_rs::hnswio::{HnswIo, ReloadOptions};

use super::data::Vectors;
use super::support::median;
use super::{K, Setting, process_time};

/// The base name of hnsw_rs's files.
const DUMP: &str = "peer";

/// `benches/index-peers.py`, which answers line by line.
pub(crate) struct Peers {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    builds: Vec<(String, Duration)>,
}

impl Peers {
    /// `None`, and a line that says why, when there is no Python with the packages.
    pub(crate) fn start(python: Option<&str>, setting: &Setting, folder: Option<&Path>) -> Option<Self> {
        let (Some(python), Some(folder)) = (python, folder) else {
            println!("hnswlib and usearch: left out, see --python and --data in --help");
            return None;
        };
        let (rows, queries) = (folder.join("rows.f32"), folder.join("queries.f32"));
        setting.rows.write(&rows);
        setting.queries.write(&queries);
        let mut child = Command::new(python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/index-peers.py"))
            .args([&rows, &queries])
            .args([setting.rows.dimensions, K, setting.m, setting.ef].map(|number| number.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the Python of --python");
        let ask = child.stdin.take().expect("piped");
        let mut answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        answers.read_line(&mut line).expect("an answer");
        // Pairs of a name and seconds.
        let words: Vec<&str> = line.split_whitespace().collect();
        let builds = words
            .chunks_exact(2)
            .map(|pair| (pair[0].to_owned(), Duration::from_secs_f64(pair[1].parse().expect("seconds"))));
        let builds: Vec<_> = builds.collect();
        if builds.is_empty() {
            println!("hnswlib and usearch: left out: {line}");
            child.wait().expect("it ended");
            return None;
        }
        Some(Self { child, ask, answers, builds })
    }

    /// Names and the processor time that their graphs took, where they were built now.
    pub(crate) fn builds(&self) -> Vec<(String, Duration)> {
        self.builds.clone()
    }

    /// Names, microseconds a query and the rows found for each query.
    pub(crate) fn ask(&mut self, ef: usize) -> Vec<(String, f64, Vec<Vec<u32>>)> {
        self.builds
            .iter()
            .map(|(name, _)| {
                writeln!(self.ask, "{name} {ef}").expect("it listens");
                let mut line = String::new();
                self.answers.read_line(&mut line).expect("an answer");
                let mut words = line.split_whitespace();
                let micros = words.next().expect("microseconds").parse().expect("a number");
                let rows: Vec<u32> = words.map(|word| word.parse().expect("a row")).collect();
                (name.clone(), micros, rows.chunks(K).map(<[u32]>::to_vec).collect())
            })
            .collect()
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What it costs hnsw_rs to open its files, map the vectors and answer once, in a new process.
pub(crate) fn reload(index: &Hnsw<'_, f32, DistL2>, rows: &Vectors, queries: &Vectors) {
    let folder = tempfile::tempdir().expect("a folder");
    index.file_dump(folder.path(), DUMP).expect("its files");
    queries.part(0..1).write(&folder.path().join("query.f32"));
    let times = (0..5).map(|_| {
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--reload-child".as_ref(), folder.path().as_os_str()])
            .args(["--dimensions", &rows.dimensions.to_string()])
            .output()
            .expect("this program");
        let said = String::from_utf8_lossy(&child.stdout);
        said.split_whitespace().next_back().and_then(|word| word.parse::<f64>().ok()).expect("milliseconds")
    });
    println!(
        "hnsw_rs, mapped files, open to first answer: {:.0} ms of processor time",
        median(times.collect())
    );
}

/// The child's side of [`reload`].
pub(crate) fn answer_from_reload(folder: &Path, dimensions: usize) {
    let query = Vectors::read(&folder.join("query.f32"), dimensions).expect("a query");
    let start = process_time();
    let mut files = HnswIo::new(folder, DUMP);
    files.set_options(ReloadOptions::default().set_mmap(true));
    let index: Hnsw<'_, f32, DistL2> = files.load_hnsw().expect("its files");
    let found = index.search(query.row(0), K, 64);
    let time = process_time() - start;
    assert_eq!(found.len(), K);
    println!("{:.2}", time.as_secs_f64() * 1e3);
}
