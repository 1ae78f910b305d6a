//! Work on many rows, shared among threads, that can be stopped and says how far it is.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::Control;

/// Items that a thread takes at a time.
const PIECE: usize = 64;

pub(super) struct Work<'a> {
    control: &'a Control<'a>,
    total: u64,
    done: AtomicU64,
    stopped: AtomicBool,
}

impl<'a> Work<'a> {
    pub(super) fn new(control: &'a Control<'a>, total: usize) -> Self {
        Self { control, total: total as u64, done: AtomicU64::new(0), stopped: AtomicBool::new(false) }
    }

    /// Does something with each item, on as many threads as the caller gave; each has space of its own. Returns
    /// whether all was done.
    pub(super) fn share<T: Sync, S: Default>(&self, items: &[T], each: impl Fn(&T, &mut S) + Sync) -> bool {
        self.on(self.control.threads.min(items.len().div_ceil(PIECE)), items, each)
    }

    /// The same on this thread alone, in order.
    pub(super) fn alone<T: Sync, S: Default>(&self, items: &[T], each: impl Fn(&T, &mut S) + Sync) -> bool {
        self.on(1, items, each)
    }

    fn on<T: Sync, S: Default>(&self, threads: usize, items: &[T], each: impl Fn(&T, &mut S) + Sync) -> bool {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut space = S::default();
            loop {
                let first = next.fetch_add(PIECE, Ordering::Relaxed);
                if first >= items.len() || self.is_stopped() {
                    return;
                }
                let piece = &items[first..items.len().min(first + PIECE)];
                piece.iter().for_each(|item| each(item, &mut space));
                let done = self.done.fetch_add(piece.len() as u64, Ordering::Relaxed) + piece.len() as u64;
                (self.control.progress)(done, self.total);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        !self.stopped.load(Ordering::Relaxed)
    }

    fn is_stopped(&self) -> bool {
        if (self.control.stop)() {
            self.stopped.store(true, Ordering::Relaxed);
        }
        self.stopped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn every_item_is_done_once_and_progress_ends_at_the_total() {
        for threads in [0, 1, 3] {
            let seen = Mutex::new(Vec::new());
            let control = Control {
                stop: &|| false,
                progress: &|done, total| seen.lock().expect("no panic").push((done, total)),
                threads,
            };
            let items: Vec<usize> = (0..1000).collect();
            let counts: Vec<AtomicUsize> = items.iter().map(|_| AtomicUsize::new(0)).collect();
            let count = |item: &usize, (): &mut ()| {
                counts[*item].fetch_add(1, Ordering::Relaxed);
            };
            let work = Work::new(&control, 1300);
            assert!(work.alone(&items[..300], count) && work.share(&items, count));
            for (item, count) in counts.iter().enumerate() {
                assert_eq!(count.load(Ordering::Relaxed), if item < 300 { 2 } else { 1 });
            }
            let last = seen.lock().expect("no panic").iter().copied().max();
            assert_eq!(last, Some((1300, 1300)));
        }
    }

    #[test]
    fn work_ends_soon_after_it_is_stopped() {
        let done = AtomicUsize::new(0);
        let control =
            Control { stop: &|| done.load(Ordering::Relaxed) >= 100, progress: &|_, _| {}, threads: 2 };
        let work = Work::new(&control, 10_000);
        let count = |_: &u32, (): &mut ()| {
            done.fetch_add(1, Ordering::Relaxed);
        };
        assert!(!work.share(&[0; 10_000], count));
        assert!(done.load(Ordering::Relaxed) < 100 + 2 * PIECE);
        assert!(!work.share(&[0; 1], |_, (): &mut ()| panic!("it is stopped for good")));
    }
}
