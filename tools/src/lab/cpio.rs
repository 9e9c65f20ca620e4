// SPDX-License-Identifier: GPL-2.0
//! Writing an initramfs archive (cpio, format "newc").

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};

/// An archive under construction, owned by root, with fixed times, so that the
/// same content always gives the same bytes.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    dirs: BTreeSet<String>,
}

const S_IFDIR: u32 = 0o040_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

impl Archive {
    /// Adds a directory and its parents, each once.
    pub fn dir(&mut self, path: &str) {
        let mut upto = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            if !upto.is_empty() {
                upto.push('/');
            }
            upto.push_str(part);
            if self.dirs.insert(upto.clone()) {
                self.entry(&upto, S_IFDIR | 0o755, (0, 0), &[]);
            }
        }
    }

    /// Adds a file with its parent directories.
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) {
        self.parent(path);
        self.entry(path, S_IFREG | mode, (0, 0), data);
    }

    /// Adds a copy of the host's file `from`.
    pub fn copy(&mut self, path: &str, mode: u32, from: &Path) -> Result<()> {
        let data = std::fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        self.file(path, mode, &data);
        Ok(())
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.parent(path);
        self.entry(path, S_IFLNK | 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a character device.
    pub fn char_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.parent(path);
        self.entry(path, S_IFCHR | mode, (major, minor), &[]);
    }

    /// Ends the archive and returns its bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn parent(&mut self, path: &str) {
        if let Some((dir, _)) = path.rsplit_once('/') {
            self.dir(dir);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), data: &[u8]) {
        self.inode += 1;
        let name_size = path.len() + 1;
        let fields = [
            self.inode as usize,
            mode as usize,
            0,
            0,
            1,
            0,
            data.len(),
            0,
            0,
            major as usize,
            minor as usize,
            name_size,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_terminated() {
        let mut archive = Archive::default();
        archive.file("a/b", 0o755, b"xyz");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        // Directory "a", its file and the trailer.
        let headers = bytes.windows(6).filter(|w| w == b"070701").count();
        assert_eq!(headers, 3);
        assert!(bytes.windows(11).any(|w| w == b"TRAILER!!!\0"));
    }
}
