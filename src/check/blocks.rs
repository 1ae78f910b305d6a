//! Index blocks: whether they are whole. They are derived, so nothing is lost when one is not.

use std::path::Path;

use super::{Check, Depth};
use crate::error::{ErrorKind, Result};
use crate::index::{Block, TextBlock, list_blocks, list_text_blocks};
use crate::text::Stored;

const MADE_ANEW: &str =
    "an index block is derived: `check --repair` takes it away, and recall makes another one";

impl Check {
    /// Every block in the folder: its header and graph, and in a deep check its vectors and words.
    pub(super) fn blocks(&mut self, folder: &Path, depth: Depth) -> Result<()> {
        if !self.report.complete {
            return Ok(());
        }
        let disk = std::sync::Arc::clone(&self.place.disk);
        for (_, path) in list_blocks(&*disk, folder)? {
            let checked = Block::open(&*disk, &path).and_then(|block| match depth {
                Depth::Quick => Ok(()),
                Depth::Deep => block.verify(&|| false),
            });
            self.block(&path, checked);
        }
        for (_, path) in list_text_blocks(&*disk, folder)? {
            let checked = TextBlock::open(&*disk, &path).and_then(|block| match depth {
                Depth::Quick => Ok(()),
                Depth::Deep => block.verify(&|| false),
            });
            self.block(&path, checked);
        }
        Ok(())
    }

    fn block(&mut self, path: &Path, checked: Result<()>) {
        match checked {
            Ok(()) => {}
            // Whoever has the store open may have replaced it just now.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                let detail = error.message().to_owned();
                self.found(path, error.offset(), "index-block", detail, MADE_ANEW);
            }
        }
    }
}
