//! The model's weights. Made by `cargo run --example train_capture`; do not edit by hand.

use super::features::FEATURES;

/// Weight of each feature, in the order of their names.
pub(crate) const WEIGHTS: [f32; FEATURES] = [
    0.7360,  // decision
    0.1250,  // decision-words
    0.3650,  // design
    0.6848,  // design-words
    -0.0381, // bug
    0.8894,  // bug-words
    0.3826,  // benchmark
    0.0208,  // benchmark-words
    0.4327,  // preference
    0.7440,  // preference-words
    0.7838,  // fact
    0.5301,  // fact-words
    0.2496,  // commitment
    0.4545,  // commitment-words
    0.3757,  // procedure
    0.6894,  // procedure-words
    2.5776,  // any-kind
    0.7803,  // remember
    1.4428,  // length
    -1.3078, // short
    0.0000,  // long
    -1.9900, // question
    -0.5152, // exclaims
    -1.1148, // filler
    -1.6326, // request
    -1.4852, // progress
    -1.5179, // hedge
    0.9455,  // time
    0.1007,  // event
    0.5142,  // reason
    -0.5937, // first-person
    -0.7423, // second-person
    0.2976,  // third-person
    1.8003,  // names
    1.4008,  // numbers
    0.1694,  // measures
    0.0000,  // code
    0.0000,  // quotes
    -1.1648, // agent
];
/// What a sentence without features has.
pub(crate) const BIAS: f32 = -0.7279;
