//! `recall`: the best memories for a question.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::args::FilterArgs;
use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::table::{self, Line};
use crate::cli::{input, session, text};
use crate::config::SearchConfig;
use crate::{Answer, Effort, Explain, Match, Memory, Mode, Packed, Reason, Recall, Result};

/// Memories that are packed, when a budget of tokens says how many there is room for.
const PACKED_TOPK: usize = 50;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv recall \"why did we choose Rust\"
  memento-kv recall deploy failed -t incident --since 2w -n 3
  memento-kv recall ERR_CONN_RESET --mode text -f text
  memento-kv recall \"who reviews RFCs\" --json | jq -r '.results[0].text'
  memento-kv recall \"what did Anna say about the cache\" --context 2
  memento-kv recall \"is there a staging cluster\" --min-score
  memento-kv recall \"release checklist\" --budget 1500 >> prompt.md

--json prints {\"results\", \"degraded\", \"took_ms\"}, and \"reason\" where there are fewer than there could be; -f json,
and a pipe, print the bare array of results. In hybrid and text mode the best score says how sure the
answer is: 0.2 is what separates most answers from none.")]
pub(crate) struct RecallArgs {
    /// The question; words are joined by blanks, and a single - reads standard input
    #[arg(required = true)]
    query: Vec<String>,
    /// At most this many answers [default: search.default_topk, else 5]
    #[arg(long, short = 'n', visible_alias = "topk", value_name = "N", allow_negative_numbers = true)]
    limit: Option<usize>,
    /// What ranks: words and meaning, meaning only, or words only
    #[arg(long, value_enum, default_value_t = ModeArg::Hybrid)]
    mode: ModeArg,
    /// How long it may take, in milliseconds, 0 for no limit [default: search.timeout_ms, else 5000]
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    timeout_ms: Option<u64>,
    /// How thoroughly the nearest vectors are looked for in a large store
    #[arg(long, value_enum, default_value_t = EffortArg::Normal)]
    effort: EffortArg,
    /// Ask the store as it was at this time: 2026-02-17T12:30, Unix seconds, or an age such as 2h
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    as_of: Option<String>,
    /// Leave out what scores lower; without a number, what is probably no answer (0.2)
    #[arg(long, value_name = "SCORE", num_args = 0..=1, require_equals = true, default_missing_value = "0.2")]
    min_score: Option<f64>,
    /// With each answer so many turns before and after it in its conversation
    #[arg(long, value_name = "N", default_value_t = 0)]
    context: usize,
    /// Pack what fits into so many tokens for a prompt, as markdown
    #[arg(long, value_name = "TOKENS")]
    budget: Option<usize>,
    /// Say what each score is made of
    #[arg(long)]
    explain: bool,
    /// How the answer is printed [default: table on a terminal, json in a pipe, markdown with --budget]
    #[arg(long, short, value_enum)]
    format: Option<RecallFormat>,
    #[command(flatten)]
    filter: FilterArgs,
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RecallFormat {
    /// For people
    Table,
    /// JSON of the memories alone
    Json,
    /// The texts
    Text,
    /// For a prompt: fenced as data, with where each memory comes from
    Markdown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ModeArg {
    Hybrid,
    Vector,
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EffortArg {
    /// About 99 of the 100 nearest
    Normal,
    /// About 996 of 1,000, nearly half as fast
    High,
    /// All, compared one by one
    Exact,
}

impl From<EffortArg> for Effort {
    fn from(effort: EffortArg) -> Self {
        match effort {
            EffortArg::Normal => Self::Normal,
            EffortArg::High => Self::High,
            EffortArg::Exact => Self::Exact,
        }
    }
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Hybrid => Self::Hybrid,
            ModeArg::Vector => Self::Vector,
            ModeArg::Text => Self::Text,
        }
    }
}

pub(crate) fn run(args: RecallArgs, context: &Context<'_>) -> Result<(), Failure> {
    let (format, budget) = (args.format, args.budget);
    let (home, store) = session::open_if_any(context)?;
    let as_of = args.as_of.clone();
    let recall = args.into_recall(context, &home.config.search)?;
    let answer = match (&store, as_of) {
        (Some(store), Some(time)) => store.as_of(session::moment(context, &time)?)?.recall(recall)?,
        (Some(store), None) => store.recall(recall)?,
        (None, _) => nothing_yet(),
    };
    let told = tell(&answer, format, budget, context);
    if let Some(store) = store {
        session::close(context, store);
    }
    told
}

impl RecallArgs {
    fn into_recall(self, context: &Context<'_>, defaults: &SearchConfig) -> Result<Recall> {
        let timeout = Duration::from_millis(self.timeout_ms.unwrap_or(defaults.timeout_ms));
        let recall = Recall::new(input::text(&self.query, context.out)?)
            .topk(self.limit.unwrap_or(if self.budget.is_some() {
                PACKED_TOPK
            } else {
                defaults.default_topk
            }))
            .mode(self.mode.into())
            .timeout((!timeout.is_zero()).then_some(timeout))
            .effort(self.effort.into())
            .explain(self.explain)
            .context(self.context)
            .filter(self.filter.filter(context.now_ms)?);
        let recall = self.min_score.into_iter().fold(recall, Recall::min_score);
        Ok(defaults.hybrid_alpha.into_iter().fold(recall, Recall::meaning_share))
    }
}

/// The answer of a store that is not there.
fn nothing_yet() -> Answer {
    Answer { reason: Some(Reason::EmptyStore), ..Answer::default() }
}

/// An answer with what was packed of it.
#[derive(Serialize)]
struct Both<'a> {
    #[serde(flatten)]
    answer: &'a Answer,
    packed: Packed,
}

fn tell(
    answer: &Answer,
    format: Option<RecallFormat>,
    budget: Option<usize>,
    context: &Context<'_>,
) -> Result<(), Failure> {
    let out = context.out;
    if out.json {
        return match budget {
            Some(budget) => out.print_json(&Both { answer, packed: answer.pack(budget) }),
            None => out.print_json(answer),
        };
    }
    for degraded in &answer.degraded {
        out.warn(&degraded.to_string());
    }
    if let Some(reason) = &answer.reason {
        out.note(&reason.to_string());
    }
    let usual = match budget {
        Some(_) => RecallFormat::Markdown,
        None if out.terminal => RecallFormat::Table,
        None => RecallFormat::Json,
    };
    match format.unwrap_or(usual) {
        RecallFormat::Json => out.print_indented(&answer.results),
        RecallFormat::Markdown => {
            let packed = answer.pack(budget.unwrap_or(usize::MAX));
            if packed.left_out > 0 {
                let left_out = text::count(packed.left_out as u64, "memory", "memories");
                out.note(&format!("{left_out} found no room within the budget"));
            }
            out.print(&packed.text)
        }
        RecallFormat::Text => {
            out.print(&answer.results.iter().map(|found| text_line(found, context)).collect::<String>())
        }
        RecallFormat::Table if answer.results.is_empty() => out.print_line("No memories found."),
        RecallFormat::Table => {
            let lines = answer.results.iter().flat_map(|found| {
                let turn = |memory| Line { lead: String::new(), memory, extra: None };
                let found_line = Line {
                    lead: format!("{:.3}", found.score),
                    memory: &found.memory,
                    extra: found.explain.as_ref().map(explained),
                };
                found.before.iter().map(turn).chain([found_line]).chain(found.after.iter().map(turn))
            });
            let table = table::memories(out, "Score", context.now(), lines);
            let count = text::count(answer.results.len() as u64, "memory", "memories");
            out.print(&format!("{table}{count} in {:.1} ms\n", answer.took.as_secs_f64() * 1e3))
        }
    }
}

fn text_line(found: &Match, context: &Context<'_>) -> String {
    let explain = found.explain.as_ref().map(|explain| format!("        {}\n", explained(explain)));
    let turns = |turns: &[Memory]| -> String {
        turns.iter().map(|turn| format!("        {}\n", context.out.block(&turn.text))).collect()
    };
    let text = context.out.block(&found.memory.text);
    let (before, after) = (turns(&found.before), turns(&found.after));
    format!("{before}[{:.3}] {text}\n{}{after}", found.score, explain.unwrap_or_default())
}

fn explained(explain: &Explain) -> String {
    let part =
        |name: &str, value: Option<f32>| value.map_or(String::new(), |value| format!(" ({name} {value:.3})"));
    let mut said = format!(
        "words {:.3}{}, meaning {:.3}{}",
        explain.text,
        part("BM25", explain.bm25),
        explain.vector,
        part("cosine", explain.cosine)
    );
    let others = [
        ("neighbours", explain.neighbours),
        ("speaker", explain.speaker),
        ("time", explain.when),
        ("importance", explain.importance),
        ("newness", explain.recency),
    ];
    for (name, value) in others.into_iter().filter(|(_, value)| value.abs() >= 0.0005) {
        said.push_str(&format!(", {name} {value:.3}"));
    }
    said
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command, Global};
    use crate::cli::output::Output;

    fn recall(line: &str, defaults: &SearchConfig) -> Recall {
        let cli = Cli::try_parse_from(line.split(' ')).expect(line);
        let Some(Command::Recall(args)) = cli.command else { panic!("a recall") };
        let out = Output::pipe();
        args.into_recall(&Context::new(Global::default(), &out), defaults).expect(line)
    }

    #[test]
    fn what_is_not_said_comes_from_the_configuration() {
        let defaults = SearchConfig { default_topk: 9, timeout_ms: 70, ..SearchConfig::default() };
        let asked = recall("m recall a b", &defaults);
        assert_eq!((asked.query.as_str(), asked.topk), ("a b", 9));
        assert_eq!(asked.timeout, Some(Duration::from_millis(70)));
        assert!(asked.filter.is_empty() && asked.mode == Mode::Hybrid && !asked.explain);
    }

    #[test]
    fn what_is_said_wins() {
        let asked = recall(
            "m recall a -n 0 --timeout-ms 0 --mode text --explain -s 0.7 -t x",
            &SearchConfig::default(),
        );
        assert_eq!((asked.topk, asked.timeout, asked.mode), (0, None, Mode::Text));
        assert_eq!(asked.filter.min_importance, Some(0.7));
        assert_eq!(asked.filter.tags_any, ["x"]);
        assert!(asked.explain);
    }

    #[test]
    fn a_score_is_explained_by_what_ranked() {
        let mut explain = Explain { text: 0.25, vector: 0.5, ..Explain::default() };
        explain.cosine = Some(0.75);
        assert_eq!(explained(&explain), "words 0.250, meaning 0.500 (cosine 0.750)");
    }
}
