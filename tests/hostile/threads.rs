//! Many threads on one store, and handles that go in any order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use memento_kv::{List, Memory, MemoryId, Recall, Remember, Store, Update, get_store};

use crate::common::{self, Rng};
use crate::support::run_child;

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

#[test]
fn eight_threads_on_one_store_leave_what_each_of_them_did() {
    let seed = common::seed("eight threads");
    common::within(HANGS, "eight threads", || {
        let home = common::folder();
        let options = common::options(home.path()).background_embedding(true);
        let store = Store::open(options).expect("open");
        let models: Vec<BTreeMap<String, String>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|thread| {
                    let store = store.clone();
                    scope.spawn(move || work(&store, thread, Rng::new(seed ^ thread)))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
        });
        let model: BTreeMap<String, String> = models.into_iter().flatten().collect();
        let texts = |store: &Store| -> BTreeMap<String, String> {
            let all = common::everything(store).expect("list");
            all.into_iter().map(|(id, memory)| (id, memory.text)).collect()
        };
        assert!(!model.is_empty());
        assert_eq!(texts(&store), model);
        common::assert_whole(&store, "after the work");
        drop(store);
        let store = common::open(home.path());
        assert_eq!(texts(&store), model);
        common::assert_whole(&store, "after a reopen");
    });
}

/// One thread changes memories of its own and looks at those of all.
fn work(store: &Store, thread: u64, mut rng: Rng) -> BTreeMap<String, String> {
    let mut model = BTreeMap::new();
    for step in 0..250 {
        let name = format!("{thread}-{}", rng.below(40));
        let text = format!("{name} in step {step} of thread {thread}");
        match rng.below(8) {
            0..=3 if !model.contains_key(&name) => {
                let id = MemoryId::new(&name).expect("an id");
                store.remember(Remember::new(&text).id(id)).expect("remember");
                model.insert(name, text);
            }
            0..=3 => {
                store.update(&name, Update::new().text(&text)).expect("update");
                model.insert(name, text);
            }
            4 => {
                let forgotten = store.forget([&name]).expect("forget").forgotten.len();
                assert_eq!(forgotten, usize::from(model.remove(&name).is_some()));
            }
            5 => {
                let found = store.recall(Recall::new(format!("step {step}")).topk(5)).expect("recall");
                found.results.iter().for_each(|one| assert_own(&one.memory));
            }
            6 => {
                let listed = store.list(&List::new().limit(20)).expect("list");
                listed.iter().for_each(assert_own);
            }
            _ => {
                let other = format!("{}-{}", rng.below(8), rng.below(40));
                store.get(&other).expect("get").iter().for_each(assert_own);
                // What a thread did itself it sees at once.
                let own = store.get(&name).expect("get").map(|memory| memory.text);
                assert_eq!(own.as_ref(), model.get(&name));
            }
        }
    }
    model
}

fn assert_own(memory: &Memory) {
    assert!(memory.text.starts_with(&format!("{} in step", memory.id)), "{memory:?}");
}

#[test]
fn handles_go_in_any_order_while_others_work() {
    common::within(HANGS, "handles", || {
        let home = common::folder();
        // The last handle lets go of the lock before its drop returns.
        let options = || {
            let options = common::options(home.path()).lock_wait(Duration::ZERO);
            options.background_embedding(true)
        };
        for round in 0..8 {
            let store = Store::open(options()).expect("the handles of the round before are gone");
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let store = store.clone();
                    std::thread::spawn(move || {
                        for n in 0..5 * (thread + 1) {
                            let name = format!("{round}-{thread}-{n}");
                            store.clone().remember(Remember::new(name)).expect("remember");
                        }
                        match thread {
                            0 => drop(store),
                            1 => store.close().expect("close"),
                            _ => {
                                assert!(!store.recall(Recall::new("one")).expect("recall").results.is_empty())
                            }
                        }
                    })
                })
                .collect();
            drop(store);
            for thread in threads {
                thread.join().expect("no thread panics");
            }
        }
        let store = Store::open(options()).expect("open");
        assert_eq!(common::everything(&store).expect("list").len(), 8 * (5 + 10 + 15 + 20));
        common::assert_whole(&store, "at the end");
    });
}

#[test]
fn the_store_of_a_process_is_one_as_long_as_somebody_has_it() {
    let test = "threads::the_store_of_a_process_is_one_as_long_as_somebody_has_it";
    if !common::is_child(test) {
        let home = common::folder();
        let mut command = std::process::Command::new(std::env::current_exe().expect("this program"));
        run_child(command.env("MEMENTO_HOME", home.path()).env_remove("MEMORY_DB_PATH"), test);
        return;
    }
    let home = std::path::PathBuf::from(std::env::var_os("MEMENTO_HOME").expect("the parent set it"));
    for round in 0..3 {
        let (one, other) = (get_store().expect("open"), get_store().expect("the same"));
        let id = one.remember(Remember::new(format!("round {round}"))).expect("remember").id;
        drop(one);
        assert!(other.get(&id).expect("get").is_some());
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(|| get_store().expect("the same"))).collect();
        for thread in threads {
            let store = thread.join().expect("no thread panics");
            assert!(store.get(&id).expect("get").is_some());
        }
        drop(other);
        // Nobody has it any more: it can be opened in another way, and then by the process's own.
        let options = common::options(&home).lock_wait(Duration::ZERO);
        let count = common::everything(&Store::open(options).expect("it was let go")).expect("list").len();
        assert_eq!(count, round + 1);
    }
}
