//! Trains the model of auto-memory and writes `src/capture/weights.rs`.
//!
//! `cargo run --example train_capture [TURNS.tsv...] > src/capture/weights.rs`, by default with
//! `benches/capture_data/train.tsv`, then `cargo fmt`. The same input gives the same weights to the last bit on one machine. A text counts
//! by its best sentence, so training goes in rounds: the best sentence under the present weights is chosen, then the
//! weights follow by gradient descent.

#![allow(clippy::print_stdout)]

use memento_kv::capture::training;

/// Rounds of choosing the best sentences.
const ROUNDS: usize = 6;
/// Steps of gradient descent in a round.
const STEPS: usize = 800;
const RATE: f64 = 1.0;
/// Pulls weights to 0; few texts make bold weights otherwise.
const RIDGE: f64 = 0.004;

struct Example {
    sentences: Vec<Vec<f32>>,
    label: f64,
}

fn main() {
    let files: Vec<String> = std::env::args().skip(1).collect();
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/capture_data/train.tsv").to_owned();
    let files = if files.is_empty() { vec![default] } else { files };
    let examples: Vec<Example> = files.iter().flat_map(|file| read(file)).collect();
    let names = training::names();
    let mut weights = vec![0.0; names.len()];
    let mut bias = 0.0;
    for _ in 0..ROUNDS {
        let chosen: Vec<(&[f32], f64)> =
            examples.iter().filter_map(|example| Some((best(example, &weights)?, example.label))).collect();
        descend(&chosen, &mut weights, &mut bias);
    }
    print(&names, &weights, bias);
}

fn read(file: &str) -> Vec<Example> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let example = |line: &str| {
        let mut fields = line.splitn(3, '\t');
        let (role, label, text) = (fields.next()?, fields.next()?, fields.next()?);
        let label = if label == "-" { 0.0 } else { 1.0 };
        Some(Example { sentences: training::features(text, role == "a"), label })
    };
    text.lines().filter_map(example).collect()
}

fn dot(weights: &[f64], values: &[f32]) -> f64 {
    weights.iter().zip(values).map(|(weight, value)| weight * f64::from(*value)).sum()
}

fn best<'a>(example: &'a Example, weights: &[f64]) -> Option<&'a [f32]> {
    let best = example.sentences.iter().max_by(|a, b| dot(weights, a).total_cmp(&dot(weights, b)))?;
    Some(best)
}

fn descend(chosen: &[(&[f32], f64)], weights: &mut [f64], bias: &mut f64) {
    let count = chosen.len() as f64;
    for _ in 0..STEPS {
        let mut slope = vec![0.0; weights.len()];
        let mut bias_slope = 0.0;
        for (values, label) in chosen {
            let error = 1.0 / (1.0 + (-(dot(weights, values) + *bias)).exp()) - label;
            bias_slope += error;
            for (slope, value) in slope.iter_mut().zip(*values) {
                *slope += error * f64::from(*value);
            }
        }
        for (weight, slope) in weights.iter_mut().zip(&slope) {
            *weight -= RATE * (slope / count + RIDGE * *weight);
        }
        *bias -= RATE * bias_slope / count;
    }
}

fn print(names: &[&str], weights: &[f64], bias: f64) {
    println!("//! The model's weights. Made by `cargo run --example train_capture`; do not edit by hand.\n");
    println!("use super::features::FEATURES;\n");
    println!("/// Weight of each feature, in the order of their names.");
    println!("pub(crate) const WEIGHTS: [f32; FEATURES] = [");
    for (name, weight) in names.iter().zip(weights) {
        println!("    {weight:.4}, // {name}");
    }
    println!("];");
    println!("/// What a sentence without features has.\npub(crate) const BIAS: f32 = {bias:.4};");
}
