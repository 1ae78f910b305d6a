//! `eval`: the protocol by which recall is measured over data sets, through the same code as `remember --jsonl` and
//! `recall`. Hidden from the help: it is no way to use a store.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::load::{self, Load};
use super::recall::ModeArg;
use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::session;
use crate::{Duplicates, Error, ErrorKind, Recall, Result};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv eval ingest /tmp/store < memories.jsonl
  memento-kv eval query /tmp/store --k 20 < queries.jsonl")]
pub(crate) struct EvalArgs {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Store the memories of standard input, JSON Lines with id, text, speaker, time, session and pos
    Ingest { store: PathBuf },
    /// Answer the questions of standard input, JSON Lines with id and text
    Query {
        store: PathBuf,
        /// At most this many answers to each
        #[arg(long, value_name = "K", default_value_t = 10)]
        k: usize,
        /// What ranks
        #[arg(long, value_enum, default_value_t = ModeArg::Hybrid)]
        mode: ModeArg,
        /// Print each match's parts of the score, too
        #[arg(long)]
        explain: bool,
    },
}

#[derive(Deserialize)]
struct Question {
    id: String,
    text: String,
}

#[derive(Serialize)]
struct Answered<'a> {
    id: &'a str,
    /// Ids of memories, the best first.
    ids: Vec<&'a str>,
    /// Microseconds that the store took.
    us: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scores: Vec<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    explain: Vec<crate::Explain>,
}

pub(crate) fn run(args: EvalArgs, mut context: Context<'_>) -> Result<(), Failure> {
    match args.step {
        Step::Ingest { store } => {
            context.global.home = Some(store);
            let load =
                Load { file: Path::new("-"), duplicates: Duplicates::Keep, embed: true, allow_secrets: true };
            load::run(&load, &context)
        }
        Step::Query { store, k, mode, explain } => {
            context.global.home = Some(store);
            query(&|text| Recall::new(text).topk(k).mode(mode.into()).explain(explain), &context)
        }
    }
}

fn query(recall: &dyn Fn(String) -> Recall, context: &Context<'_>) -> Result<(), Failure> {
    let (_, store) = session::open_existing(context)?;
    let mut out = std::io::stdout().lock();
    let stdin = Path::new("standard input");
    for (number, line) in (1..).zip(std::io::stdin().lock().lines()) {
        let line = line.map_err(|error| Error::io("read", stdin, error))?;
        let question: Question = serde_json::from_str(&line).map_err(|error| {
            let what = format!("line {number} is no question with id and text: {:?}", error.classify());
            Error::new(ErrorKind::Invalid, what)
        })?;
        let answer = store.recall(recall(question.text))?;
        let parts = || answer.results.iter().filter_map(|found| found.explain);
        let answered = Answered {
            id: &question.id,
            ids: answer.results.iter().map(|found| found.id.as_str()).collect(),
            us: answer.took.as_secs_f64() * 1e6,
            scores: parts().zip(&answer.results).map(|(_, found)| found.score).collect(),
            explain: parts().collect(),
        };
        let line = serde_json::to_string(&answered).expect("plain data");
        writeln!(out, "{line}").map_err(|error| Error::io("write", Path::new("standard output"), error))?;
    }
    session::close(context, store);
    Ok(())
}
