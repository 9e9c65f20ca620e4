// SPDX-License-Identifier: GPL-2.0
//! Running a program inside the lab's rootfs.
//!
//! Each program gets mount and PID namespaces of its own. So nothing is ever
//! mounted on the host, and killing the one process we started takes all of
//! its children with it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::process;

/// Sets up the mounts of the private namespace, then enters the rootfs.
///
/// Arguments: rootfs, the directory of a layer over it or nothing, the mount options of a layer, then
/// `source target mode` per bind mount, `--`, command.
const ENTER: &str = r#"
root=$1 layer=$2 options=$3; shift 3
if [ -n "$layer" ]; then
    mkdir -p "$layer/upper" "$layer/work" "$layer/root"
    mount -t overlay -o "lowerdir=$root,upperdir=$layer/upper,workdir=$layer/work,$options" \
        overlay "$layer/root"
    root=$layer/root
fi
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/tmp"
cmp -s /etc/resolv.conf "$root/etc/resolv.conf" ||
    cat /etc/resolv.conf > "$root/etc/resolv.conf" 2>/dev/null || :
while [ "$1" != -- ]; do
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    [ "$3" = rw ] || mount -o "remount,bind,ro" "$root$2"
    shift 3
done
shift
exec chroot "$root" "$@"
"#;

/// The variables of our own environment that programs in the rootfs have, too.
const PROXIES: &[&str] = &["http_proxy", "https_proxy", "no_proxy"];

/// How a directory is bound into the chroot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The program may only read it.
    ReadOnly,
    /// The program may write to it.
    ReadWrite,
}

/// A rootfs with the directories bound into it.
pub struct Chroot {
    root: OsString,
    layer: Option<PathBuf>,
    binds: Vec<(PathBuf, PathBuf, Access)>,
}

impl Chroot {
    /// Prepares to run programs in `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.into(),
            layer: None,
            binds: Vec::new(),
        }
    }

    /// Writes to a layer over the rootfs, in `dir`, instead of the rootfs.
    ///
    /// A second layer lies over the first, which is only read then.
    #[must_use]
    pub fn layer(mut self, dir: &Path) -> Self {
        if let Some(below) = self.layer.replace(dir.to_owned()) {
            let mut root = below.join("upper").into_os_string();
            root.push(":");
            root.push(&self.root);
            self.root = root;
        }
        self
    }

    /// Shows the host's `source` at `target` inside.
    #[must_use]
    pub fn bind(mut self, source: &Path, target: impl Into<PathBuf>, access: Access) -> Self {
        self.binds.push((source.to_owned(), target.into(), access));
        self
    }

    /// Returns the command that runs `program` inside, with no standard input.
    pub fn command<S: AsRef<OsStr>>(&self, program: &[S]) -> Command {
        let mut command = namespaced();
        command.args(["sh", "-ec", ENTER, "enter"]).arg(&self.root);
        command.arg(self.layer.as_deref().unwrap_or(Path::new("")));
        // A layer's marks of deleted files are attributes that only root can write, or these.
        command.arg(if is_root() { "index=off" } else { "userxattr" });
        for (source, target, access) in &self.binds {
            let mode = match access {
                Access::ReadOnly => "ro",
                Access::ReadWrite => "rw",
            };
            command.arg(source).arg(target).arg(mode);
        }
        command
            .arg("--")
            .args(program)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", "/root")
            .env("LC_ALL", "C.UTF-8")
            .env(
                "TERM",
                std::env::var_os("TERM").unwrap_or(OsString::from("linux")),
            )
            .env("DEBIAN_FRONTEND", "noninteractive")
            // The VM boots with our own initramfs: the hooks need not build one.
            .env("INITRD", "No")
            .stdin(Stdio::null());
        for name in PROXIES {
            if let Some(proxy) = std::env::var_os(name) {
                command.env(name, proxy);
            }
        }
        command
    }
}

/// Returns the prefix of a command that dies with us, in its own namespaces.
///
/// Without root it also gets a user namespace in which it looks like root.
pub fn namespaced() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare"]);
    if !is_root() {
        command.args(["--user", "--map-root-user", "--map-auto"]);
    }
    command.args(["--mount", "--pid", "--fork", "--kill-child=KILL", "--"]);
    command
}

/// Removes `dir`, which may have files of users that only a namespace has.
///
/// # Errors
///
/// Those of the file system.
pub fn remove(dir: &Path) -> Result<()> {
    let mut command = namespaced();
    process::bytes(command.args(["rm", "-rf", "--"]).arg(dir)).map(drop)
}

/// Fails unless commands can be run in [`namespaced`] here, and may mount.
///
/// # Errors
///
/// One that names what keeps them from it.
pub fn check() -> Result<()> {
    let script = "mount -t tmpfs tmpfs /tmp && mount -t proc proc /proc";
    let tried = process::bytes(namespaced().args(["sh", "-ec", script]));
    let Err(error) = tried else {
        return Ok(());
    };
    let error = error.to_string();
    if is_root() {
        bail!(
            "this root may not mount, so run this on the machine itself, or in a privileged container ({error})"
        );
    }
    let user = std::env::var("USER").unwrap_or("NAME".to_owned());
    let mend = match error.contains("/etc/subuid") || error.contains("/etc/subgid") {
        true => format!("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"),
        false => {
            "sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000".to_owned()
        }
    };
    bail!(
        "without root this needs user namespaces; as root, run: {mend}, or this command itself ({error})"
    );
}

/// Tells whether we run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
