// SPDX-License-Identifier: GPL-2.0
//! Comparing the memory of two guests that do not run, page by page.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::machine::Machine;

/// The size of a page, in bytes: what one bit of a dirty log stands for.
const PAGE: usize = 4096;

/// Fails unless both guests have the same content in the first `size` bytes of their memory.
///
/// # Errors
///
/// The addresses of the pages that differ; when a QEMU does not show its guest's memory.
pub fn same(guests: [&mut Machine; 2], size: u64) -> Result<()> {
    let [first, second] = guests;
    let copies = [
        Copy::new(first, "/tmp/memory.first", size)?,
        Copy::new(second, "/tmp/memory.second", size)?,
    ];
    let [first, second] = copies.each_ref().map(|copy| File::open(&copy.0));
    let (compared, different) = compare(BufReader::new(first?), BufReader::new(second?))?;
    ensure!(compared == size, "{compared} of {size} bytes compared");
    ensure!(
        different.is_empty(),
        "{} pages differ: {different:x?}",
        different.len()
    );
    Ok(())
}

/// A file with the memory of a guest. Removed when dropped.
struct Copy(PathBuf);

impl Copy {
    /// Has QEMU write it.
    fn new(guest: &mut Machine, path: &str, size: u64) -> Result<Self> {
        let copy = Self(path.into());
        let range = json!({ "val": 0, "size": size, "filename": path });
        guest.qmp.run("pmemsave", &range)?;
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let path: &Path = &self.0;
        if let Err(error) = std::fs::remove_file(path) {
            eprintln!("{}: {error}", path.display());
        }
    }
}

/// Answers how many bytes both have, and the addresses of the pages that differ.
fn compare(mut first: impl Read, mut second: impl Read) -> Result<(u64, Vec<u64>)> {
    let mut pages = [[0; PAGE]; 2];
    let mut address = 0;
    let mut different = Vec::new();
    loop {
        let [a, b] = &mut pages;
        match first.read(&mut a[..1])? {
            0 => return Ok((address, different)),
            _ => first.read_exact(&mut a[1..]).context("part of a page")?,
        }
        second.read_exact(b).context("less memory")?;
        if a != b {
            different.push(address);
        }
        address += PAGE as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::{PAGE, compare};

    #[test]
    fn pages_that_differ_are_found() {
        let first = vec![7; 3 * PAGE];
        let mut second = first.clone();
        let found = compare(first.as_slice(), second.as_slice()).unwrap();
        assert_eq!(found, (3 * PAGE as u64, vec![]));
        second[PAGE] = 8;
        second[3 * PAGE - 1] = 8;
        let (_, different) = compare(first.as_slice(), second.as_slice()).unwrap();
        assert_eq!(different, [PAGE as u64, 2 * PAGE as u64]);
        assert!(compare(first.as_slice(), &second[..PAGE]).is_err());
    }
}
