//! Any bytes as operations of a store on a simulated disk, with trouble, kills, power cuts and rot among them, held
//! against a model of what the store must hold.

use super::super::crash::{Step, run_steps};
use super::Seeds;
use super::input::Input;

/// Most steps of one input.
const STEPS_MAX: usize = 64;
/// Segments of this many bytes roll after a few records; the first byte of an input adds to it.
const SEGMENT_LEN_MIN: u64 = 6 << 10;
const SEGMENT_LEN_STEP: u64 = 256;

/// The body of the target.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let segment_len_max = SEGMENT_LEN_MIN + SEGMENT_LEN_STEP * u64::from(input.byte());
    run_steps(segment_len_max, steps(input).take(STEPS_MAX));
}

fn steps(mut input: Input<'_>) -> impl Iterator<Item = Step> {
    std::iter::from_fn(move || {
        if input.is_empty() {
            return None;
        }
        Some(match input.byte() % 10 {
            0..=4 => Step::Operation(input.u16()),
            5 => Step::Trouble(input.byte(), input.byte()),
            6 => Step::Mend,
            7 => Step::Kill,
            8 => Step::PowerCut(input.u16()),
            _ => Step::Rot(input.u16()),
        })
    })
}

pub(super) fn seeds() -> Seeds {
    let operation = |number: u16| [&[0][..], &number.to_le_bytes()].concat();
    // Every so many operations something else happens.
    let workload = |first: u16, every: u16, between: &dyn Fn(u16) -> Vec<u8>| {
        let mut bytes = vec![(first % 200) as u8];
        for number in 0..30 {
            bytes.extend(operation(first + number));
            if number % every == every - 1 {
                bytes.extend(between(number));
            }
        }
        bytes
    };
    let trouble = |kind: u8| move |number: u16| vec![5, kind, (number % 7) as u8];
    let trouble_then_cut = |kind: u8| {
        move |number: u16| {
            [&[5, kind, 3][..], &operation(900 + number), &operation(800 + number), &[6, 8, 1, 2]].concat()
        }
    };
    vec![
        ("undisturbed", workload(1, 30, &|_| Vec::new())),
        ("undisturbed-more", workload(100, 30, &|_| Vec::new())),
        ("kills", workload(200, 3, &|_| vec![7])),
        ("power-cuts", workload(300, 3, &|number| vec![8, number as u8, 1])),
        ("rot", workload(400, 5, &|number| vec![9, number as u8, 3])),
        ("cut-in-recovery", workload(500, 6, &|number| vec![8, 1, 1, 5, 7, number as u8, 8, 2, 1])),
        ("errors", workload(600, 5, &trouble(0))),
        ("no-space-once", workload(700, 5, &trouble(1))),
        ("signals", workload(800, 5, &trouble(2))),
        ("short-transfers", workload(900, 5, &trouble(3))),
        (
            "full",
            workload(1000, 9, &|number| {
                [&[5, 4, 2][..], &operation(number), &operation(number), &[6]].concat()
            }),
        ),
        ("reading-fails", workload(1100, 5, &trouble(5))),
        ("errors-then-cut", workload(1200, 5, &trouble_then_cut(0))),
        ("full-then-cut", workload(1300, 5, &trouble_then_cut(4))),
    ]
}
