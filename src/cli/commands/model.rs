//! `model`: which embedding models there are, and fetching one.

use std::path::Path;

use clap::{Args, Subcommand};
use comfy_table::Cell;
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::output::Output;
use crate::cli::progress::{Bar, Unit};
use crate::cli::{session, table};
use crate::embed;
use crate::home::Home;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  memento-kv model list
  memento-kv model pull BGESmallENV15
  memento-kv reembed --model fastembed:BGESmallENV15")]
pub(crate) struct ModelArgs {
    #[command(subcommand)]
    command: ModelCommand,
}

#[derive(Debug, Subcommand)]
enum ModelCommand {
    /// The models that can be used, and which of them are here
    List,
    /// Fetch a model from the hub. This is the only command that uses the network
    Pull {
        /// The name, as `model list` shows it
        name: String,
    },
}

/// One model, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Model {
    /// How it is written in the configuration and after `reembed --model`.
    spec: String,
    dimensions: Option<u32>,
    /// Whether it can be used without fetching anything.
    present: bool,
    /// Whether the configuration names it for a new store.
    configured: bool,
    description: String,
}

#[derive(Serialize)]
struct Pulled<'a> {
    spec: String,
    folder: &'a str,
}

pub(crate) fn run(args: ModelArgs, context: &Context<'_>) -> Result<(), Failure> {
    let home = session::home(context)?;
    match args.command {
        ModelCommand::List => list(&home, context.out),
        ModelCommand::Pull { name } => pull(&name, &home, context.out),
    }
}

fn list(home: &Home, out: &Output) -> Result<(), Failure> {
    let models = models(&home.models_dir(), &home.model()?.to_string());
    if out.json {
        return out.print_json(&models);
    }
    out.print(&if out.terminal { as_table(&models, out) } else { as_lines(&models) })
}

fn models(folder: &Path, configured: &str) -> Vec<Model> {
    let inside = |spec: &str, dimensions, description: &str| Model {
        spec: spec.to_owned(),
        dimensions,
        present: true,
        configured: spec == configured,
        description: description.to_owned(),
    };
    let mut models = vec![
        inside("builtin:minilm-l6", Some(384), "all-MiniLM-L6-v2, inside this program"),
        inside("builtin:none", None, "no model: recall by words only"),
    ];
    models.extend(embed::list().into_iter().map(|model| {
        let spec = format!("fastembed:{}", model.name);
        Model {
            configured: spec == configured,
            spec,
            dimensions: Some(model.dimensions),
            present: folder.join(&model.name).is_dir(),
            description: format!("{}: {}", model.repository, model.description),
        }
    }));
    models
}

fn as_table(models: &[Model], out: &Output) -> String {
    let mut table = table::empty(out, ["Model", "Dim.", "Here", "What it is"]);
    for model in models {
        let dimensions = model.dimensions.map_or(String::new(), |dimensions| dimensions.to_string());
        let here = match (model.present, model.configured) {
            (true, true) => "yes, configured",
            (true, false) => "yes",
            (false, true) => "configured, to be pulled",
            (false, false) => "",
        };
        table.add_row([model.spec.as_str(), &dimensions, here, &model.description].map(Cell::new));
    }
    format!("{table}\n")
}

fn as_lines(models: &[Model]) -> String {
    models.iter().map(|model| format!("{}\n", model.spec)).collect()
}

fn pull(name: &str, home: &Home, out: &Output) -> Result<(), Failure> {
    // The spec is what other commands take, so it is understood here, too.
    let name = name.strip_prefix("fastembed:").unwrap_or(name);
    let folder = {
        let bar = Bar::new(out, "fetching", Unit::Bytes);
        embed::pull(name, &home.models_dir(), &mut |progress| {
            bar.set(progress.done_bytes, progress.total_bytes)
        })?
    };
    let name = folder.file_name().map_or_else(|| name.into(), |name| name.to_string_lossy());
    let spec = format!("fastembed:{name}");
    if out.json {
        return out.print_json(&Pulled { spec, folder: &folder.to_string_lossy() });
    }
    out.print_line(&folder.to_string_lossy())?;
    out.note(&format!("move the store to it with `memento-kv reembed --model {spec}`"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inside_comes_first_and_the_configured_one_is_marked() {
        let models = models(Path::new("/no/such/folder"), "builtin:minilm-l6");
        assert_eq!(models[0].spec, "builtin:minilm-l6");
        assert!(models[0].present && models[0].configured && !models[1].configured);
        assert!(models[2..].iter().all(|model| !model.present && model.spec.starts_with("fastembed:")));
    }

    #[cfg(feature = "fastembed")]
    #[test]
    fn a_fetched_model_is_shown_as_here() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("BGESmallENV15")).expect("a model's folder");
        let models = models(folder.path(), "builtin:minilm-l6");
        let here: Vec<_> =
            models.iter().filter(|model| model.present).map(|model| model.spec.as_str()).collect();
        assert_eq!(here, ["builtin:minilm-l6", "builtin:none", "fastembed:BGESmallENV15"]);
    }
}
