// SPDX-License-Identifier: GPL-2.0
//! Reading Rust files of the checkout.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The longest file, in lines: longer ones have more than one subject.
const LONGEST: usize = 500;

/// A Rust file.
pub struct Source {
    /// Its path, relative to the checkout.
    pub name: String,
    /// What is in it.
    pub text: String,
}

impl Source {
    /// Says how long the file is, if that is too long.
    pub fn too_long(&self) -> Option<String> {
        let lines = self.text.lines().count();
        (lines > LONGEST).then(|| format!("{}: {lines} lines", self.name))
    }
}

/// Reads the Rust files in and below `folder` of the checkout `root`, in the order of their names.
///
/// # Errors
///
/// What can't be read.
pub fn read(root: &Path, folder: &str) -> Result<Vec<Source>> {
    let mut paths = Vec::new();
    find(&root.join(folder), &mut paths)?;
    paths.sort();
    let sources = paths.iter().map(|path| {
        let name = path.strip_prefix(root)?.display().to_string();
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {name}"))?;
        Ok(Source { name, text })
    });
    sources.collect()
}

/// Adds the Rust files in and below `folder` to `found`, those of build directories excepted.
fn find(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = folder
        .read_dir()
        .with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.ends_with("target") {
            continue;
        }
        if path.is_dir() {
            find(&path, found)?;
        } else if path.extension().is_some_and(|name| name == "rs") {
            found.push(path);
        }
    }
    Ok(())
}
