//! A hostile world: many threads at once, full disks, limits, odd masks.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use memento_kv::{Recall, Remember, Store};

const HANGS: Duration = Duration::from_secs(60);

/// Runs work in threads of its own, over and over, while this thread does something else until that is done.
fn beside(others: &[&(dyn Fn() + Sync)], work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for other in others {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    other();
                }
            });
        }
        work();
        done.store(true, Ordering::SeqCst);
    });
}

#[test]
fn recall_and_remember_never_wait_for_each_other_forever() {
    common::within(HANGS, "recall beside remember", || {
        let home = common::folder();
        let options = common::options(home.path()).background_embedding(true);
        let store = Store::open(options).expect("open");
        store.remember(Remember::new("the first memory")).expect("remember");
        let count = AtomicU64::new(0);
        let remember = || {
            let n = count.fetch_add(1, Ordering::SeqCst);
            store.remember(Remember::new(format!("memory {n}"))).expect("remember");
        };
        beside(&[&remember, &remember, &remember], || {
            while count.load(Ordering::SeqCst) < 1500 {
                store.recall(Recall::new("memory first")).expect("recall");
            }
        });
    });
}
