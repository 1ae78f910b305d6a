//! `prove`: whether memories are there as they were acknowledged.

use std::fmt::Write;

use clap::Args;

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::session;
use crate::{Proof, ProofState, Receipt, Result, Store};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv prove 01JZ3V5N8M4Q2R7T9W1X3Y5Z7A
  memento-kv remember --json 'Anna prefers tabs' | jq -r '\"\\(.seq)-\\(.digest)\"' > receipt
  memento-kv prove $(cat receipt)

Reads the record from the log and says `present`, `superseded`, `forgotten` or `compacted`; or, and
then it ends with 1, `lost`, `damaged`, `different` or `unknown`.")]
pub(crate) struct ProveArgs {
    /// Ids in full, or receipts: the sequence, a hyphen and the digest
    #[arg(required = true, value_name = "ID|RECEIPT")]
    what: Vec<String>,
}

pub(crate) fn run(args: &ProveArgs, context: &Context<'_>) -> Result<(), Failure> {
    let (_, store) = session::open_existing(context)?;
    let proofs = args.what.iter().map(|what| prove(&store, what)).collect::<Result<Vec<_>>>()?;
    session::close(context, store);
    if context.out.json {
        context.out.print_json(&proofs)?;
    } else {
        let lines: String = args.what.iter().zip(&proofs).map(|(what, proof)| line(what, proof)).collect();
        context.out.print(&lines)?;
    }
    if proofs.iter().all(|proof| proof.state.is_good()) { Ok(()) } else { Err(Failure::Damaged) }
}

fn prove(store: &Store, what: &str) -> Result<Proof> {
    let proof = store.prove_id(what)?;
    match what.parse::<Receipt>() {
        // An id may look like a receipt.
        Ok(receipt) if proof.state == ProofState::Unknown => store.prove(receipt),
        _ => Ok(proof),
    }
}

fn line(what: &str, proof: &Proof) -> String {
    let mut line = format!("{what}: {}", word(proof.state));
    if let (Some(seq), Some(digest)) = (proof.seq, proof.digest) {
        let _ = write!(line, ", receipt {seq}-{digest}");
    }
    if let (Some(file), Some(offset)) = (&proof.file, proof.offset) {
        let _ = write!(line, ", {file} at offset {offset}");
    }
    if let Some(seq) = proof.superseded_by {
        let _ = write!(line, ", replaced by record {seq}");
    }
    if let Some((first, last)) = proof.lost {
        let _ = write!(line, ", with records {first} to {last}");
    }
    line.push('\n');
    line
}

fn word(state: ProofState) -> &'static str {
    match state {
        ProofState::Present => "present",
        ProofState::Superseded => "superseded",
        ProofState::Compacted => "compacted",
        ProofState::Forgotten => "forgotten",
        ProofState::Lost => "lost",
        ProofState::Damaged => "damaged",
        ProofState::Different => "different",
        ProofState::Unknown => "unknown",
    }
}
