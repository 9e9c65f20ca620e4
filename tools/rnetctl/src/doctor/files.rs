// SPDX-License-Identifier: GPL-2.0
//! The files of a host, below a root folder.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

/// The most bytes that are read of a file. The longest that matters is a kernel's `modules.dep`.
const MOST: u64 = 8 << 20;

/// A host, whose files are below a root folder: `/`, or a copy of what matters of another host.
///
/// A file that is missing or cannot be read is the same as none, because the checks ask what is there.
pub struct Files {
    root: PathBuf,
}

/// Kind and permissions of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Node {
    /// Whether it is a character device.
    pub character: bool,
    /// Permissions: the lower nine bits of the mode.
    pub mode: u32,
    /// Number of the group.
    pub gid: u32,
}

impl Files {
    /// The host whose files are below `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Where `path`, from the root and without a leading slash, is.
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The content of a file, with what is no UTF-8 replaced.
    pub fn read(&self, path: &str) -> Option<String> {
        text(File::open(self.at(path)).ok()?)
    }

    /// The content of a file that gzip has packed.
    pub fn read_gz(&self, path: &str) -> Option<String> {
        text(GzDecoder::new(File::open(self.at(path)).ok()?))
    }

    /// The first line of a file, without spaces around it.
    pub fn line(&self, path: &str) -> Option<String> {
        Some(self.read(path)?.lines().next()?.trim().to_owned())
    }

    /// The names in a folder, sorted, or none if the folder cannot be listed.
    pub fn names(&self, dir: &str) -> Option<Vec<String>> {
        let entries = std::fs::read_dir(self.at(dir)).ok()?;
        let mut names: Vec<String> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        Some(names)
    }

    /// What a symbolic link says.
    pub fn link(&self, path: &str) -> Option<String> {
        let target = std::fs::read_link(self.at(path)).ok()?;
        Some(target.to_string_lossy().into_owned())
    }

    /// Whether there is a file or folder of that name.
    pub fn has(&self, path: &str) -> bool {
        self.at(path).exists()
    }

    /// Kind and permissions of a file.
    pub fn node(&self, path: &str) -> Option<Node> {
        let found = std::fs::metadata(self.at(path)).ok()?;
        Some(Node {
            character: found.file_type().is_char_device(),
            mode: found.mode() & 0o777,
            gid: found.gid(),
        })
    }

    /// The number of a group, by `/etc/group`.
    pub fn gid(&self, group: &str) -> Option<u32> {
        let groups = self.read("etc/group")?;
        groups.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(group)).then_some(())?;
            fields.nth(1)?.parse().ok()
        })
    }
}

fn text(file: impl Read) -> Option<String> {
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tempfile::TempDir;

    use super::Files;

    /// A host made of files.
    pub struct Fixture {
        dir: TempDir,
    }

    impl Fixture {
        /// A host without a file.
        pub fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder for temporary files");
            Self { dir }
        }

        /// Adds a file.
        pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
            let path = self.prepare(path);
            std::fs::write(path, content).expect("a file");
            self
        }

        /// Adds a symbolic link.
        pub fn link(self, path: &str, target: &str) -> Self {
            let path = self.prepare(path);
            symlink(target, path).expect("a link");
            self
        }

        fn prepare(&self, path: &str) -> std::path::PathBuf {
            let path = self.dir.path().join(path);
            let folder = path.parent().unwrap_or(Path::new("/"));
            std::fs::create_dir_all(folder).expect("a folder");
            path
        }

        /// The root folder.
        pub fn root(&self) -> &Path {
            self.dir.path()
        }

        /// The files.
        pub fn files(&self) -> Files {
            Files::new(self.dir.path())
        }
    }

    #[test]
    fn files_are_read_below_the_root() {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(b"CONFIG_RUST=y\n").expect("memory");
        let fixture = Fixture::new()
            .file("proc/sys/kernel/osrelease", "7.3.4\n")
            .file("proc/odd", b"\xff\xfe\n")
            .file("proc/config.gz", packed.finish().expect("memory"))
            .file("etc/group", "root:x:0:\nodd\nkvm:x:106:qemu\nbad:x:one:\n")
            .link("proc/1/fd/3", "/dev/vhost-rnet");
        let files = fixture.files();
        assert_eq!(
            files.line("/proc/sys/kernel/osrelease").as_deref(),
            Some("7.3.4")
        );
        assert_eq!(
            files.read("proc/odd").as_deref(),
            Some("\u{fffd}\u{fffd}\n")
        );
        assert_eq!(
            files.read_gz("proc/config.gz").as_deref(),
            Some("CONFIG_RUST=y\n")
        );
        assert_eq!(files.read_gz("proc/odd"), None);
        assert_eq!(files.read("proc"), None);
        assert_eq!(files.gid("kvm"), Some(106));
        assert_eq!(files.gid("bad"), None);
        assert_eq!(
            files.link("proc/1/fd/3").as_deref(),
            Some("/dev/vhost-rnet")
        );
        assert_eq!(files.names("proc/1/fd"), Some(vec!["3".to_owned()]));
        assert_eq!(files.names("proc/2"), None);
        let node = files.node("etc/group").expect("a file");
        assert!(!node.character && node.mode & 0o600 == 0o600);
    }
}
