//! `scan`: finds secrets in the store or in a file, and never shows one.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::{session, text};
use crate::{Error, List, MemoryId, Order, Result, secrets};

/// Memories that are read at once.
const PAGE: usize = 1000;
/// Longest line of a file that is looked at as a whole, in bytes.
const LINE_LEN_MAX: u64 = 8 << 20;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv scan
  memento-kv scan --file export.jsonl
  memento-kv scan --json | jq -r '.findings[].id' | xargs memento-kv forget --purge

Tells the kind and the place of each, not the secret. Ends with 1 when one was found.")]
pub(crate) struct ScanArgs {
    /// Look into this file instead of the store, such as one that is to be imported
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Finding {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<MemoryId>,
    /// From 1, in a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    kind: &'static str,
    /// Bytes in the text or in the line; none for metadata.
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<usize>,
}

#[derive(Debug, Default, Serialize)]
struct Scanned {
    /// Memories or lines that were looked at.
    looked_at: u64,
    findings: Vec<Finding>,
}

pub(crate) fn run(args: &ScanArgs, context: &Context<'_>) -> Result<(), Failure> {
    let scanned = match &args.file {
        Some(file) => scan_file(file)?,
        None => scan_store(context)?,
    };
    let out = context.out;
    if out.json {
        out.print_json(&scanned)?;
    } else {
        for finding in &scanned.findings {
            let place = match (&finding.id, finding.line) {
                (Some(id), _) => id.to_string(),
                (None, line) => format!("line {}", line.unwrap_or(0)),
            };
            let bytes = match (finding.start, finding.end) {
                (Some(start), Some(end)) => format!("bytes {start} to {end}"),
                _ => "metadata".to_owned(),
            };
            out.print_line(&format!("{place}\t{}\t{bytes}", finding.kind))?;
        }
        let (one, many) = if args.file.is_some() { ("line", "lines") } else { ("memory", "memories") };
        let found = text::count(scanned.findings.len() as u64, "secret", "secrets");
        out.note(&format!("{found} in {}", text::count(scanned.looked_at, one, many)));
    }
    if scanned.findings.is_empty() { Ok(()) } else { Err(Failure::Damaged) }
}

fn scan_store(context: &Context<'_>) -> Result<Scanned> {
    let mut scanned = Scanned::default();
    let (_, Some(store)) = session::open_if_any(context)? else { return Ok(scanned) };
    loop {
        let offset = scanned.looked_at as usize;
        let memories = store.list(&List::new().order(Order::Oldest).offset(offset).limit(PAGE))?;
        if memories.is_empty() {
            break;
        }
        scanned.looked_at += memories.len() as u64;
        for memory in memories {
            let in_text = secrets::find(&memory.text);
            let in_metadata = secrets::kinds("", &memory.metadata);
            scanned.findings.extend(in_text.into_iter().map(|secret| Finding {
                id: Some(memory.id.clone()),
                line: None,
                kind: secret.kind,
                start: Some(secret.range.start),
                end: Some(secret.range.end),
            }));
            let id = &memory.id;
            scanned.findings.extend(in_metadata.into_iter().map(|kind| Finding {
                id: Some(id.clone()),
                line: None,
                kind,
                start: None,
                end: None,
            }));
        }
    }
    session::close(context, store);
    Ok(scanned)
}

/// A file of any form, line by line: its texts stand in it as they are, but for escapes.
fn scan_file(path: &Path) -> Result<Scanned> {
    let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut scanned = Scanned::default();
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let mut line = (&mut reader).take(LINE_LEN_MAX);
        let len = line.read_until(b'\n', &mut bytes).map_err(|error| Error::io("read", path, error))?;
        if len == 0 {
            return Ok(scanned);
        }
        scanned.looked_at += 1;
        let number = scanned.looked_at;
        scanned.findings.extend(secrets::find(&String::from_utf8_lossy(&bytes)).into_iter().map(|secret| {
            Finding {
                id: None,
                line: Some(number),
                kind: secret.kind,
                start: Some(secret.range.start),
                end: Some(secret.range.end),
            }
        }));
    }
}
