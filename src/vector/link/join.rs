//! Nodes that no walk can reach, linked.
//!
//! A node is linked from its nearest neighbours, but they keep only so many links, and may drop the one to it for
//! better ones. What is left without a way to it would never be found.

use super::super::kernels::Kernel;
use super::super::rows::Rows;
use super::super::search::{Bottom, Meter, NONE, Near, Target, score, with_walk};

/// The breadth of a walk for a node that knows no reachable one.
const EF: usize = 64;

/// Links every node that cannot be reached from this one, and returns how many there were. No node that could be
/// reached before becomes unreachable.
pub(super) fn join(rows: Rows<'_>, links: &mut [u32], width: usize, start: u32) -> usize {
    let mut reach = Reach { reached: vec![false; links.len() / width], width };
    reach.flood(links, start);
    let mut joined = 0;
    for node in 0..reach.reached.len() as u32 {
        if !reach.reached[node as usize] {
            let near = nearest(rows, links, &reach, start, node);
            attach(links, width, near, node);
            reach.flood(links, node);
            joined += 1;
        }
    }
    joined
}

struct Reach {
    reached: Vec<bool>,
    width: usize,
}

impl Reach {
    fn flood(&mut self, links: &[u32], start: u32) {
        self.reached[start as usize] = true;
        let mut todo = vec![start];
        while let Some(node) = todo.pop() {
            for to in list(links, self.width, node) {
                if !std::mem::replace(&mut self.reached[*to as usize], true) {
                    todo.push(*to);
                }
            }
        }
    }
}

/// The reachable node that should link to this one: near, and if possible with room for a link.
fn nearest(rows: Rows<'_>, links: &[u32], reach: &Reach, start: u32, node: u32) -> u32 {
    let reached = |list: &[u32]| -> Vec<u32> {
        list.iter().copied().filter(|to| reach.reached[*to as usize]).collect()
    };
    let mut found = reached(list(links, reach.width, node));
    // Where many nodes have the same neighbours, those have no room, but what was joined to them before has.
    for place in 0..found.len() {
        found.extend(reached(list(links, reach.width, found[place])));
    }
    found.sort_unstable();
    found.dedup();
    let target = Target { rows, code: rows.code(node), kernel: Kernel::best() };
    if found.is_empty() {
        let bottom = Bottom { links, width: reach.width, rows: reach.reached.len() };
        with_walk(|walk| {
            walk.run(&bottom, &target, &[start], EF, |_| true, &mut Meter::unlimited());
            found.extend(walk.best().map(|near| near.node));
        });
    }
    let mut dots = Vec::new();
    target.kernel.gather_codes(target.code, rows.codes, &found, &mut dots);
    let near = |(to, dot): (&u32, &i32)| Near { score: score(*dot, rows.scales[*to as usize]), node: *to };
    let nears = found.iter().zip(&dots).map(near);
    let has_room = |near: &Near| list(links, reach.width, near.node).len() < reach.width;
    let roomy = nears.clone().filter(has_room).min_by(Near::order);
    roomy.or_else(|| nears.min_by(Near::order)).map_or(start, |near| near.node)
}

/// Links `from` to `to`. When it has no room, `to` takes over the last link of `from`, so that where it led to
/// stays reachable.
fn attach(links: &mut [u32], width: usize, from: u32, to: u32) {
    let len = list(links, width, from).len();
    let slot = from as usize * width + len.min(width - 1);
    let former = std::mem::replace(&mut links[slot], to);
    if former == NONE || former == to {
        return;
    }
    let own = list(links, width, to);
    if !own.contains(&former) {
        // Nothing that could be reached depends on a link of `to`, which could not.
        links[to as usize * width + own.len().min(width - 1)] = former;
    }
}

/// The links of a node.
fn list(links: &[u32], width: usize, node: u32) -> &[u32] {
    let list = &links[node as usize * width..][..width];
    &list[..list.iter().position(|to| *to == NONE).unwrap_or(width)]
}

#[cfg(test)]
mod tests {
    use super::super::super::rows::{halve, quantize};
    use super::*;

    #[test]
    fn what_was_unreachable_is_reached_and_what_was_reachable_stays_so() {
        for (len, width) in [(1, 2), (2, 2), (500, 2), (500, 4), (2000, 32)] {
            let (mut codes, mut halves, mut scales) = (Vec::new(), Vec::new(), Vec::new());
            for row in 0..len {
                let vector = [(row as f32).cos(), (row as f32).sin()];
                scales.push(quantize(&vector, &mut codes));
                halve(&vector, &mut halves);
            }
            let rows = Rows { codes: &codes, scales: &scales, halves: &halves, stride: 64 };
            for seed in 0..20 {
                // Lists of any length, with links to themselves and twice to the same node.
                let mut links = vec![NONE; len * width];
                for (node, list) in links.chunks_mut(width).enumerate() {
                    let chance = super::super::mix(seed << 32 | node as u64);
                    let filled = if chance.is_multiple_of(3) { 0 } else { chance as usize / 8 % (width + 1) };
                    for (place, to) in list[..filled].iter_mut().enumerate() {
                        *to = (super::super::mix(chance + place as u64) % len as u64) as u32;
                    }
                }
                let start = (seed % len as u64) as u32;
                let mut before = Reach { reached: vec![false; len], width };
                before.flood(&links, start);
                let joined = join(rows, &mut links, width, start);
                let missing = before.reached.iter().filter(|reached| !**reached).count();
                assert!(joined <= missing && (joined > 0) == (missing > 0));
                let mut after = Reach { reached: vec![false; len], width };
                after.flood(&links, start);
                assert!(after.reached.iter().all(|reached| *reached), "{len} nodes, seed {seed}");
            }
        }
    }
}
