//! Media and folders that may not be written, and masks of all kinds.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::common;
use crate::support::{Somebody, can, count, good, on_a_small_disk, program, run, shell, skipped};

#[test]
fn a_store_on_a_read_only_medium_is_read_and_says_that_it_cannot_be_written() {
    let test = "medium::a_store_on_a_read_only_medium_is_read_and_says_that_it_cannot_be_written";
    on_a_small_disk(test, "16m", |disk| {
        let home = disk.join("home");
        let id = good(&home, ["remember", "the river is green"]);
        let remount = |how: &str| can(Command::new("mount").args(["-o", how]).arg(disk));
        if !remount("remount,ro") {
            return skipped(test, "nothing can be mounted read-only here");
        }
        let got = run(&home, ["get", id.trim(), "--json"]);
        assert!(got.code == Some(0) && got.out.contains("the river is green"), "{got:?}");
        assert!(got.err.contains("reading only"), "it says so: {got:?}");
        for args in [["recall", "river", "--json"], ["check", "--deep", "--json"], ["stats", "--json", "-q"]]
        {
            let read = run(&home, args);
            assert_eq!(read.code, Some(0), "{args:?} {read:?}");
        }
        for args in [["remember", "the stone is grey", "--json"], ["forget", id.trim(), "--json"]] {
            let refused = run(&home, args);
            assert_eq!(refused.code, Some(7), "{refused:?}");
            let (kind, hint) = refused.error();
            assert_eq!(kind, "read_only", "{refused:?}");
            assert!(hint.contains("--home"), "it says what to do: {refused:?}");
        }
        assert!(run(&home, ["compact", "-q"]).code == Some(7));
        assert!(remount("remount,rw"), "it was so before");
        good(&home, ["remember", "the stone is grey"]);
        assert_eq!(count(&home), 2);
    });
}

#[test]
fn folders_that_may_not_be_written_are_refused_with_a_reason() {
    let test = "medium::folders_that_may_not_be_written_are_refused_with_a_reason";
    let Some(somebody) = Somebody::new(test) else { return };
    let folder = common::folder();
    somebody.owns(folder.path());
    let home = folder.path().join("home");
    let refused = |args: [&str; 3]| {
        let refused = somebody.run(&home, args);
        assert_eq!((refused.code, refused.error().0.as_str()), (Some(3), "permission"), "{refused:?}");
        assert!(!refused.error().1.is_empty(), "it says what to do: {refused:?}");
    };
    common::set_mode(folder.path(), 0o500);
    refused(["remember", "the river is green", "--json"]);
    common::set_mode(folder.path(), 0o700);
    let first = somebody.run(&home, ["remember", "the river is green"]);
    assert_eq!(first.code, Some(0), "{first:?}");

    let store = home.join("store");
    let places = [(&home, 0o700), (&store, 0o700), (&store.join("seg"), 0o700), (&store.join("LOCK"), 0o600)];
    for (place, mode) in places {
        common::set_mode(place, 0);
        refused(["recall", "river", "--json"]);
        refused(["remember", "the stone is grey", "--json"]);
        common::set_mode(place, mode);
    }
    // Somebody else's.
    for place in [&home, &store] {
        std::os::unix::fs::chown(place, Some(0), Some(0)).expect("chown");
        common::set_mode(place, 0o755);
        refused(["recall", "river", "--json"]);
        somebody.owns(place);
        common::set_mode(place, 0o700);
    }
    let second = somebody.run(&home, ["remember", "the stone is grey"]);
    assert_eq!(second.code, Some(0), "{second:?}");
    let listed = somebody.run(&home, ["list", "--json"]).out;
    assert!(listed.contains("green") && listed.contains("grey"), "{listed}");
}

#[test]
fn whatever_the_mask_everything_is_private() {
    let somebody = Somebody::new("as another user").is_some();
    for mask in ["0000", "0077", "0777"] {
        let folder = common::folder();
        let home = folder.path().join("a/b/home");
        let as_user = if somebody { "setpriv --reuid=60123 --regid=60123 --clear-groups -- " } else { "" };
        if let Some(somebody) = somebody.then_some(Somebody) {
            somebody.owns(folder.path());
        }
        for round in ["first", "second"] {
            let ran = shell(&home, &format!("umask {mask}; exec {as_user}\"$P\" remember 'the {round}'"));
            assert_eq!(ran.code, Some(0), "{mask} {ran:?}");
            let ran = shell(&home, &format!("umask {mask}; exec {as_user}\"$P\" recall first"));
            assert_eq!(ran.code, Some(0), "{mask} {ran:?}");
            // As after a crash: the next one seals this segment and begins another.
            std::fs::remove_file(home.join("store/MANIFEST")).expect("it is only an accelerator");
        }
        let ran = shell(&home, &format!("umask {mask}; exec {as_user}\"$P\" remember 'the third'"));
        assert_eq!(ran.code, Some(0), "{mask} {ran:?}");
        assert_private(&folder.path().join("a"));
        let segments = common::segments(&home);
        let (last, sealed) = segments.split_last().expect("segments");
        assert!(!sealed.is_empty());
        for sealed in sealed {
            assert_eq!(mode(sealed), 0o400, "{}", sealed.display());
        }
        assert_eq!(mode(last), 0o600);
    }
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().expect("stat").permissions().mode() & 0o7777
}

fn assert_private(folder: &Path) {
    assert_eq!(mode(folder), 0o700, "{}", folder.display());
    for entry in folder.read_dir().expect("list") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            assert_private(&path);
        } else {
            assert!(matches!(mode(&path), 0o600 | 0o400), "{:o} {}", mode(&path), path.display());
        }
    }
}

#[test]
fn a_home_that_is_a_file_or_a_link_is_refused() {
    let folder = common::folder();
    let (file, link, target) =
        (folder.path().join("file"), folder.path().join("link"), folder.path().join("target"));
    std::fs::write(&file, "canary").expect("write");
    std::fs::create_dir(&target).expect("a folder");
    std::os::unix::fs::symlink(&target, &link).expect("a link");
    for home in [&file, &link] {
        for args in [["remember", "text", "--json"], ["recall", "text", "--json"]] {
            let refused = run(home, args);
            assert_eq!((refused.code, refused.error().0.as_str()), (Some(3), "permission"), "{refused:?}");
        }
    }
    let below = program(&file.join("home")).args(["remember", "text"]).output().expect("it starts");
    assert!(matches!(below.status.code(), Some(3 | 5)), "{below:?}");
    assert_eq!(std::fs::read(&file).expect("read"), b"canary");
    assert_eq!(target.read_dir().expect("list").count(), 0);
}
