//! The vectors that the bench of the index works on: real texts under the built-in model, kept in a file.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use memento_kv::Result;
use memento_kv::embed::{self, Embedder};

use super::support::Random;

/// Texts embedded at a time by one thread.
const PIECE: usize = 256;

/// Rows of equally many values, one after the other.
pub(crate) struct Vectors {
    pub(crate) values: Vec<f32>,
    pub(crate) dimensions: usize,
}

impl Vectors {
    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.dimensions..][..self.dimensions]
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len() / self.dimensions
    }

    /// A part of the rows.
    pub(crate) fn part(&self, rows: std::ops::Range<usize>) -> Self {
        let values = self.values[rows.start * self.dimensions..rows.end * self.dimensions].to_vec();
        Self { values, dimensions: self.dimensions }
    }

    /// Little-endian values and nothing else, which numpy reads too.
    pub(crate) fn write(&self, path: &Path) {
        let bytes: Vec<u8> = self.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut file = fs::File::create(path).expect("a file for vectors");
        file.write_all(&bytes).expect("room for vectors");
    }

    pub(crate) fn read(path: &Path, dimensions: usize) -> Option<Self> {
        let bytes = fs::read(path).ok()?;
        let (values, _) = bytes.as_chunks();
        Some(Self { values: values.iter().map(|value| f32::from_le_bytes(*value)).collect(), dimensions })
    }
}

/// The first vectors of the file, which is made of the texts when it is not there.
///
/// # Errors
/// When the model fails.
pub(crate) fn vectors(path: &Path, corpus: Option<&Path>, count: usize) -> Result<Option<Vectors>> {
    let embedder = embed::builtin()?;
    let dimensions = embedder.identity().dimensions as usize;
    if let Some(found) = Vectors::read(path, dimensions)
        && found.len() >= count
    {
        return Ok(Some(found.part(0..count)));
    }
    let Some(corpus) = corpus else { return Ok(None) };
    let mut texts = glosses(corpus);
    let mut random = Random::new(1);
    for place in (1..texts.len()).rev() {
        texts.swap(place, random.below(place + 1));
    }
    texts.truncate(count);
    let made = embed_all(embedder, &texts)?;
    made.write(path);
    Ok(Some(made))
}

/// Definitions and examples of WordNet's `data.*` files, each once.
fn glosses(corpus: &Path) -> Vec<String> {
    let mut texts = BTreeSet::new();
    for name in ["data.adj", "data.adv", "data.noun", "data.verb"] {
        let file = fs::read_to_string(corpus.join(name)).expect("a WordNet file in the folder of --corpus");
        // The licence at the top is indented.
        for line in file.lines().filter(|line| !line.starts_with(' ')) {
            let Some((_, gloss)) = line.split_once(" | ") else { continue };
            texts.extend(gloss.split("; \"").map(|text| text.trim_matches([' ', ';', '"']).to_owned()));
        }
    }
    texts.retain(|text| text.len() >= 12);
    texts.into_iter().collect()
}

/// Vectors with the places of their texts.
type Placed = Vec<(usize, Vec<f32>)>;

fn embed_all(embedder: &'static dyn Embedder, texts: &[String]) -> Result<Vectors> {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    let next = AtomicUsize::new(0);
    let pieces: Vec<Result<Placed>> = std::thread::scope(|scope| {
        let work = || -> Result<Placed> {
            let mut done = Vec::new();
            loop {
                let first = next.fetch_add(PIECE, Ordering::Relaxed);
                if first >= texts.len() {
                    return Ok(done);
                }
                for (text, place) in texts[first..].iter().take(PIECE).zip(first..) {
                    done.push((place, embedder.embed_query(text)?));
                }
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread that embeds")).collect()
    });
    let pieces: Vec<Placed> = pieces.into_iter().collect::<Result<_>>()?;
    let dimensions = embedder.identity().dimensions as usize;
    let mut values = vec![0.0; texts.len() * dimensions];
    for (place, vector) in pieces.into_iter().flatten() {
        values[place * dimensions..][..dimensions].copy_from_slice(&vector);
    }
    Ok(Vectors { values, dimensions })
}
