//! Several processes in one home.

use std::process::Stdio;

use crate::common;
use crate::support::{Ran, count, program, run};

#[test]
fn processes_that_race_for_a_new_home_lose_nothing() {
    for round in 0..2 {
        let folder = common::folder();
        let home = folder.path().join("above/home");
        let racing: Vec<_> = (0..6)
            .map(|n| {
                let mut command = program(&home);
                command.args(["remember", "--json", &format!("memory {n} of round {round}")]);
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
            })
            .collect();
        let mut stored = 0;
        for child in racing {
            let ran = Ran::of(&child.wait_with_output().expect("it ends"));
            assert_eq!(ran.code, Some(0), "{ran:?}");
            stored += 1;
        }
        assert_eq!(count(&home), stored);
    }
}

#[test]
fn who_finds_the_store_in_use_is_served_or_told_by_whom() {
    let folder = common::folder();
    let store = common::open(folder.path());
    assert_eq!(run(folder.path(), ["recall", "anything", "--json"]).code, Some(0));
    drop(store);
    let alone = memento_kv::Store::open(common::options(folder.path()).serve(false)).expect("opened");
    let refused = run(folder.path(), ["recall", "anything", "--json"]);
    assert_eq!((refused.code, refused.error().0.as_str()), (Some(4), "busy"), "{refused:?}");
    assert!(refused.err.contains(&format!("process {}", std::process::id())), "{refused:?}");
    drop(alone);
    assert_eq!(run(folder.path(), ["recall", "anything", "--json"]).code, Some(0));
}
