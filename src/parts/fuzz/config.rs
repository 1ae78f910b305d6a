//! Any text as a configuration.

use std::path::Path;

use super::Seeds;
use crate::config::Config;
use crate::error::ErrorKind;

/// The body of the target.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let file = Path::new("/h/.memento/config.yaml");
    let mut config = Config::default();
    let before = format!("{config:?}");
    // As a file of the user's own, which may say the most.
    match config.merge_text(file, text, Some(Path::new("/h")), Ok(())) {
        Ok(()) => {
            assert!((0.0..=1.0).contains(&config.search.hybrid_alpha.unwrap_or(0.5)));
            for path in [&config.storage.db_path, &config.embed.cache_dir].into_iter().flatten() {
                assert!(path.is_absolute(), "{}", path.display());
            }
            for remark in config.remarks() {
                assert!(!remark.to_string().contains(char::is_control), "{remark}");
            }
            // The same text once more changes nothing but the remarks.
            let options = |config: &Config| {
                let Config { storage, embed, search, health, github, .. } = config.clone();
                (storage, embed, search, health, github)
            };
            let once = options(&config);
            config.merge_text(file, text, Some(Path::new("/h")), Ok(())).expect("it was good just now");
            assert_eq!(once, options(&config));
            // As one of somebody else's it names no program and no host.
            let mut foreign = Config::default();
            if foreign.merge_yaml(file, text, Some(Path::new("/h"))).is_ok() {
                assert_eq!(foreign.github, Config::default().github);
                assert_eq!(foreign.health.on_failure, Config::default().health.on_failure);
            }
        }
        Err(error) => {
            assert_eq!((error.kind(), error.path()), (ErrorKind::Config, Some(file)));
            assert_eq!(format!("{config:?}"), before, "a bad file changes nothing");
        }
    }
}

pub(super) fn seeds() -> Seeds {
    let seeds: [(&str, &str); 5] = [
        (
            "all-options",
            "storage:\n  db_path: ~/m/memory.db\n  backup_enabled: no\n  backup_retention_days: 30\nembed:\n  model: some/model\n  cache_size: 10\n  cache_dir: models\nsearch:\n  default_topk: 8\n  timeout_ms: 0\n  hybrid_alpha: 0.25\nhealth:\n  check_interval_hours: 24\n  auto_rollback: false\ndebug: true\n",
        ),
        (
            "other-names",
            "embedding: {model: a, use_onnx: true}\ncache:\n  lru_size: 0x10\nunknown: [1, {a: b}]\n",
        ),
        (
            "told",
            "health:\n  on_failure: [notify-send, memento]\ngithub:\n  enabled: true\n  repo: ann/agent\n  api_url: https://ghe.example:8443/api/v3\n  assignees: [bob, rita]\n  project: 7\n  project_owner: the-org\n  issues_per_day: 2\n",
        ),
        ("aliases", "a: &a [x, x]\nb: &b [*a, *a]\nsearch: &s\n  default_topk: 7\nhealth:\n  <<: *s\n"),
        (
            "scalars",
            "--- # text\ndebug: !!bool \"true\"\n? x\n: |\n  block\n'q': .nan\n\"\\x1b\": 99999999999999999999\n",
        ),
    ];
    seeds.map(|(name, text)| (name, text.as_bytes().to_vec())).into()
}
