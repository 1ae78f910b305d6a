//! `demo`: a guided run on a temporary home with sample memories of an invented engineer and her agent.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use anstyle::{AnsiColor, Style};
use clap::Args;
use comfy_table::{Attribute, Cell, Color};
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::output::Output;
use crate::cli::progress::{Bar, Unit};
use crate::cli::{table, text};
use crate::transfer::JsonlReader;
use crate::{Answer, Error, ErrorKind, Match, Options, Recall, Remember, Result, Store};

/// The memories, in the form that `remember --jsonl` reads.
const MEMORIES: &str = include_str!("../demo/memories.jsonl");
/// How long before now the newest of them was, in seconds.
const NEWEST_AGE: i64 = 2 * 3600;

/// Questions in other words than the answers.
const QUESTIONS: [&str; 5] = [
    "why did we choose Rust?",
    "what happened when somebody was paged?",
    "who do I ask before I change the schema?",
    "how should I phrase my replies?",
    "where do passwords belong?",
];
/// A question that is narrowed by a tag.
const FILTERED: (&str, &str) = ("what do they want?", "customer");
/// What a process stores before it is killed.
const LAST_WORDS: &str = "Stored a moment before its process was killed.";

/// Answers shown to a question.
const SHOWN: usize = 3;
/// Columns of a score's bar.
const BAR_WIDTH: usize = 10;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  memento-kv demo\n  memento-kv demo --json")]
pub(crate) struct DemoArgs {
    /// Store one memory in the home, say so, and wait to be killed: the part that another process plays
    #[arg(long, hide = true)]
    victim: bool,
}

/// All of it, for `--json`.
#[derive(Serialize)]
struct Shown {
    memories: u64,
    questions: Vec<Asked>,
    filtered: Asked,
    after_kill: AfterKill,
}

#[derive(Serialize)]
struct Asked {
    question: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<&'static str>,
    #[serde(flatten)]
    answer: Answer,
}

/// What was there after the kill.
#[derive(Clone, Copy, Serialize)]
struct AfterKill {
    /// Memories that were acknowledged.
    acknowledged: u64,
    /// Memories that are there.
    found: u64,
}

pub(crate) fn run(args: &DemoArgs, context: &Context<'_>) -> Result<(), Failure> {
    if args.victim {
        return victim(context);
    }
    let folder = tempfile::Builder::new()
        .prefix("memento-demo-")
        .tempdir()
        .map_err(|error| Error::io("make a temporary folder", &std::env::temp_dir(), error))?;
    let home = folder.path();
    let out = context.out;

    if !out.json {
        out.print(&introduction(out))?;
    }
    let store = Store::open(options(home))?;
    let memories = fill(&store, context)?;
    if !out.json {
        let stored = text::count(memories, "memory", "memories");
        out.print(&format!("{stored} stored durably, with their vectors made inside this program.\n"))?;
    }
    let mut questions = Vec::new();
    for question in QUESTIONS {
        questions.push(ask(&store, question, None, context)?);
    }
    if !out.json {
        out.print(&format!("\n{}\n", dim(out, "The same with a filter: --tags customer")))?;
    }
    let filtered = ask(&store, FILTERED.0, Some(FILTERED.1), context)?;
    store.close()?;

    let after_kill = survive_kill(home, memories)?;
    if out.json {
        return out.print_json(&Shown { memories, questions, filtered, after_kill });
    }
    out.print(&tell_kill(after_kill, out))?;
    // The folder before the last words, so that they are true when they are read.
    folder.close().map_err(|error| Error::io("remove", &std::env::temp_dir(), error))?;
    out.print(&where_next(out))
}

fn options(home: &Path) -> Options {
    Options::at(home).background_embedding(false)
}

/// Stores the samples as if they came from the last weeks.
fn fill(store: &Store, context: &Context<'_>) -> Result<u64> {
    let samples = samples(context.now())?;
    let count = samples.len() as u64;
    store.remember_many(samples)?;
    let bar = Bar::new(context.out, "storing", Unit::Count);
    store.embed_pending(&mut bar.listener())?;
    Ok(count)
}

fn samples(now: i64) -> Result<Vec<Remember>> {
    let read = JsonlReader::new(MEMORIES.as_bytes()).next_batch(usize::MAX)?;
    let newest = read.iter().filter_map(|sample| sample.remember.timestamp()).max().unwrap_or(now);
    let shift = now - NEWEST_AGE - newest;
    let moved = |remember: Remember| match remember.timestamp() {
        Some(at) => remember.at(at + shift),
        None => remember,
    };
    Ok(read.into_iter().map(|sample| moved(sample.remember)).collect())
}

fn ask(
    store: &Store,
    question: &'static str,
    tag: Option<&'static str>,
    context: &Context<'_>,
) -> Result<Asked, Failure> {
    let answer = store.recall(Recall::new(question).topk(SHOWN).tags_any(tag))?;
    if !context.out.json {
        context.out.print(&tell_answer(question, &answer, context))?;
    }
    Ok(Asked { question, tag, answer })
}

/// Lets another process store a memory, kills it when it says that it did, and looks what is there.
fn survive_kill(home: &Path, memories: u64) -> Result<AfterKill> {
    kill_one(home)?;
    let store = Store::open(options(home))?;
    let found = store.stats()?.memories;
    store.close()?;
    Ok(AfterKill { acknowledged: memories + 1, found })
}

/// Returns when one more memory was acknowledged and the process that stored it is gone.
fn kill_one(home: &Path) -> Result<()> {
    let failed = |error| Error::io("run this program once more", Path::new("memento-kv"), error);
    let mut victim = Command::new(std::env::current_exe().map_err(failed)?)
        .arg("--home")
        .arg(home)
        .args(["demo", "--victim"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut line = String::new();
    if let Some(stdout) = victim.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).map_err(failed)?;
    }
    victim.kill().and_then(|()| victim.wait()).map_err(failed)?;
    if line.trim().is_empty() {
        return Err(Error::new(ErrorKind::Io, "the process that was to be killed stored nothing"));
    }
    Ok(())
}

/// The part of the process that is killed.
fn victim(context: &Context<'_>) -> Result<(), Failure> {
    let Some(home) = &context.global.home else { return Ok(()) };
    let store = Store::open(options(home))?;
    let remembered = store.remember(Remember::new(LAST_WORDS).tags(["demo"]))?;
    context.out.print_line(remembered.id.as_str())?;
    // Ends by itself only when the other process is gone.
    let _ = std::io::stdin().read(&mut [0]);
    Ok(())
}

fn introduction(out: &Output) -> String {
    format!(
        "{}\nA few weeks of work of an invented engineer, Ines, and her agent, Juno, in a temporary home.\n\n",
        out.paint(Style::new().bold(), "memento-kv demo")
    )
}

fn tell_answer(question: &str, answer: &Answer, context: &Context<'_>) -> String {
    let out = context.out;
    let took = format!("({:.1} ms)", answer.took.as_secs_f64() * 1e3);
    let question = out.paint(AnsiColor::Cyan.on_default().bold(), question);
    let mut told = format!("\n? {question} {}\n", dim(out, &took));
    for degraded in &answer.degraded {
        told.push_str(&format!("  {degraded}\n"));
    }
    for found in &answer.results {
        told.push_str(&tell_match(found, context));
    }
    told
}

fn tell_match(found: &Match, context: &Context<'_>) -> String {
    let mut about = vec![text::age(found.memory.timestamp, context.now())];
    about.extend(found.memory.speaker.iter().map(|speaker| format!("said {speaker}")));
    about.extend(found.memory.tags.iter().map(|tag| format!("#{tag}")));
    let mut table = table::bare(context.out);
    table.add_row([
        Cell::new(score_bar(found.score)).fg(Color::DarkGreen),
        Cell::new(text::line(&found.memory.text)),
    ]);
    table.add_row([Cell::new(""), Cell::new(about.join("  ")).add_attribute(Attribute::Dim)]);
    table.lines().map(|line| format!(" {}\n", line.trim_end())).collect()
}

fn score_bar(score: f64) -> String {
    let filled = ((score.clamp(0.0, 1.0) * BAR_WIDTH as f64).round() as usize).min(BAR_WIDTH);
    format!("{}{}", "▰".repeat(filled), "▱".repeat(BAR_WIDTH - filled))
}

fn tell_kill(after: AfterKill, out: &Output) -> String {
    let verdict = if after.found == after.acknowledged {
        out.paint(AnsiColor::Green.on_default().bold(), "nothing is lost")
    } else {
        out.paint(AnsiColor::Red.on_default().bold(), "that is not right, please report it")
    };
    format!(
        "\nAnother process stored one more memory and was killed at once, as with kill -9.\n\
         {} acknowledged, {} there after opening again: {verdict}.\n",
        text::count(after.acknowledged, "memory", "memories"),
        text::number(after.found)
    )
}

fn where_next(out: &Output) -> String {
    let command = |command: &str| out.paint(AnsiColor::Cyan.on_default(), command);
    format!(
        "\nThe temporary home is removed. To keep memories of your own:\n  {}\n  {}\n  {}\n\
         All commands: {}\n",
        command("memento-kv remember \"Anna prefers tabs\" -t preference -i 0.8"),
        command("memento-kv recall \"how does Anna indent\""),
        command("memento-kv where"),
        command("memento-kv --help")
    )
}

fn dim(out: &Output, text: &str) -> String {
    out.paint(Style::new().dimmed(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_are_good_memories_of_the_last_weeks() {
        let now = 1_800_000_000;
        let samples = samples(now).expect("samples that ship are good");
        assert_eq!(samples.len(), MEMORIES.lines().count());
        let times: Vec<i64> = samples.iter().filter_map(|sample| sample.timestamp()).collect();
        assert_eq!(times.len(), samples.len(), "every sample has a time");
        assert_eq!(times.iter().max(), Some(&(now - NEWEST_AGE)));
        assert!(times.iter().all(|at| now - at < 60 * 86_400));
        assert!(samples.iter().any(|sample| sample.tags.iter().any(|tag| tag == FILTERED.1)));
    }

    #[test]
    fn a_score_is_a_bar_of_one_width() {
        assert_eq!(score_bar(0.0), "▱".repeat(BAR_WIDTH));
        assert_eq!(score_bar(1.0), "▰".repeat(BAR_WIDTH));
        for odd in [f64::NAN, -1.0, 7.0, 0.55] {
            assert_eq!(score_bar(odd).chars().count(), BAR_WIDTH);
        }
    }

    #[test]
    fn a_lost_memory_would_be_told() {
        let out = Output::pipe();
        assert!(tell_kill(AfterKill { acknowledged: 3, found: 3 }, &out).contains("nothing is lost"));
        assert!(tell_kill(AfterKill { acknowledged: 3, found: 2 }, &out).contains("not right"));
    }
}
