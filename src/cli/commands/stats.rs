//! `stats`: figures of the store.

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::output::Output;
use crate::cli::{session, table, text};
use crate::{Result, Role, Sharing, Stats};

/// How often a `memory.db` was taken over, as far as it is shown.
const TAKEN_OVER_SHOWN_MAX: usize = 5;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  memento-kv stats\n  memento-kv stats --json | jq .memories")]
pub(crate) struct StatsArgs {
    /// How the answer is printed; json is the same as --json
    #[arg(long, short, value_enum, default_value_t = StatsFormat::Pretty)]
    format: StatsFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StatsFormat {
    Pretty,
    Json,
}

/// The figures, and of which store they are.
#[derive(Serialize)]
struct Answer<'a> {
    home: String,
    #[serde(flatten)]
    stats: &'a Stats,
    /// `null` when there is no store yet.
    sharing: Option<&'a Sharing>,
}

pub(crate) fn run(args: &StatsArgs, context: &Context<'_>) -> Result<(), Failure> {
    let (home, store) = session::open_if_any(context)?;
    let (stats, sharing) = match &store {
        Some(store) => (store.stats()?, Some(store.sharing()?)),
        None => (Stats::default(), None),
    };
    let home = home.path.to_string_lossy();
    let out = context.out;
    let told = if out.json || args.format == StatsFormat::Json {
        out.print_json(&Answer { home: home.into_owned(), stats: &stats, sharing: sharing.as_ref() })
    } else {
        out.print(&pretty(&home, &stats, sharing.as_ref(), out))
    };
    if let Some(store) = store {
        session::close(context, store);
    }
    told
}

fn pretty(home: &str, stats: &Stats, sharing: Option<&Sharing>, out: &Output) -> String {
    let mut pairs = vec![("home", home.to_owned()), ("memories", text::number(stats.memories))];
    pairs.extend(
        stats
            .collections
            .iter()
            .map(|(name, count)| ("collections", format!("{} ({})", text::line(name), text::number(*count)))),
    );
    pairs.push(("with a vector", text::number(stats.embedded)));
    pairs.push(("waiting for one", text::number(stats.pending)));
    if let Some(model) = &stats.model {
        pairs.push(("model", format!("{} ({} dimensions)", model.name, model.dimensions)));
    }
    if let Some(problem) = &stats.model_problem {
        pairs.push(("model problem", problem.clone()));
    }
    pairs.push((
        "segments",
        format!("{} ({})", text::number(stats.segments), text::bytes(stats.segment_bytes)),
    ));
    let index = &stats.index;
    if index.rows > 0 {
        pairs.push((
            "vector index",
            format!(
                "{}, {} ({})",
                text::count(index.rows, "vector", "vectors"),
                text::index_kind(index.graph),
                text::bytes(index.bytes)
            ),
        ));
    }
    let words = &stats.words;
    if words.texts > 0 {
        let texts = text::count(words.texts, "memory", "memories");
        pairs.push(("text index", format!("{texts} ({})", text::bytes(words.bytes))));
    }
    if let Some(problem) = &words.problem {
        pairs.push(("text index problem", problem.clone()));
    }
    if let Some(problem) = &index.problem {
        pairs.push(("index problem", problem.clone()));
    }
    pairs.push(("view", text::bytes(stats.view_bytes)));
    pairs.push(("last sequence", text::number(stats.last_seq)));
    pairs.extend(sharing.into_iter().flat_map(shared));
    pairs.extend(stats.taken_over.iter().take(TAKEN_OVER_SHOWN_MAX).map(session::taken_over));
    let mut answer = table::figures(out, pairs);
    if stats.pending > 0 {
        answer
            .push_str("\nMemories that wait are found by words. `memento-kv reembed` makes their vectors.\n");
    }
    answer
}

/// Who owns the store and who asks it, where that is another process than this one.
pub(super) fn shared(sharing: &Sharing) -> Vec<(&'static str, String)> {
    if sharing.role != Role::Client {
        return Vec::new();
    }
    let since = |ms: i64| crate::time::format_time(ms.div_euclid(1000));
    let mut pairs = vec![(
        "owner",
        format!(
            "process {} ({}) since {}, protocol {}",
            sharing.pid,
            text::line(&sharing.program),
            since(sharing.since_ms),
            sharing.protocol
        ),
    )];
    pairs.extend(sharing.socket.iter().map(|socket| ("socket", socket.display().to_string())));
    pairs.extend(sharing.clients.iter().map(|client| {
        let pid = client.pid.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
        let calls = text::count(client.calls, "call", "calls");
        (
            "client",
            format!("{pid} ({}) since {}, {calls}", text::line(&client.program), since(client.since_ms)),
        )
    }));
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_store_has_figures() {
        let shown = pretty("/h", &Stats::default(), None, &Output::pipe());
        assert!(shown.starts_with("home             /h\nmemories         0\n"), "{shown}");
        assert!(!shown.contains("reembed"));
    }

    #[test]
    fn pending_vectors_come_with_what_to_do() {
        let stats = Stats { memories: 1234, pending: 2, ..Stats::default() };
        let shown = pretty("/h", &stats, None, &Output::pipe());
        assert!(
            shown.contains("memories         1,234\n") && shown.contains("memento-kv reembed"),
            "{shown}"
        );
    }

    #[test]
    fn json_is_flat_with_the_home_in_front() {
        let stats = Stats::default();
        let json = serde_json::to_string(&Answer { home: "/h".to_owned(), stats: &stats, sharing: None })
            .expect("JSON");
        assert!(json.starts_with(r#"{"home":"/h","memories":0,"#), "{json}");
    }
}
