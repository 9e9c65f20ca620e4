// SPDX-License-Identifier: GPL-2.0
//! The layers of the module: each imports only from those below it.

use std::path::Path;

use anyhow::{Result, bail, ensure};

use super::source::{self, Source};

/// Where the module's code is.
const SOURCE: &str = "src";

/// The layers from the top down: folders, and the crate's root. `vring` is a crate of its own and
/// cannot import from here.
const FLOORS: [&str; 4] = ["main", "net", "vhost", "kapi"];

/// Checks that no import of the checkout `root` leads up, and no file is too long.
///
/// # Errors
///
/// The imports and files, or what could not be read.
pub fn check(root: &Path) -> Result<()> {
    let mut wrong = Vec::new();
    let mut imports = 0;
    for file in source::read(root, SOURCE)? {
        let Source { name, text } = &file;
        wrong.extend(file.too_long());
        let Some(floor) = floor_of(name) else {
            continue;
        };
        for (number, to) in targets(text) {
            imports += 1;
            if floor_named(to).is_some_and(|other| other < floor) {
                wrong.push(format!(
                    "{name}:{number}: an import from {to}/, which is above"
                ));
            }
        }
    }
    // The module has some: a search that found none is wrong.
    ensure!(imports > 0, "no imports at all");
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

/// The floor of a file of [`SOURCE`], by its path.
fn floor_of(name: &str) -> Option<usize> {
    let first = name.strip_prefix(SOURCE)?.split('/').nth(1)?;
    floor_named(first.strip_suffix(".rs").unwrap_or(first))
}

fn floor_named(name: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| *floor == name)
}

/// What a text names by its path from the crate's root: the line, counted from 1, and the first name.
fn targets(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = |line: &'_ str| !line.trim_start().starts_with("//");
    let lines = (1..).zip(text.lines()).filter(move |(_, line)| code(line));
    lines.flat_map(|(number, line)| {
        line.split("crate::").skip(1).map(move |rest| {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            (number, &rest[..end.unwrap_or(rest.len())])
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{check, floor_of, targets};
    use std::fs;
    use tempfile::TempDir;

    fn checkout(files: &[(&str, &str)]) -> TempDir {
        let root = TempDir::new().unwrap();
        for (name, text) in files {
            let path = root.path().join("src").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn imports_lead_down() {
        let good = checkout(&[
            ("main.rs", "use net::Net;\nuse crate::vhost::Device;\n"),
            (
                "net/tx.rs",
                "use crate::vhost::round::Next;\nuse crate::net::header;\n",
            ),
            (
                "vhost/worker.rs",
                "// Of crate::net it knows nothing.\nuse crate::kapi::Wake;\n",
            ),
            ("vring/ring.rs", "use crate::desc::Desc;\n"),
        ]);
        check(good.path()).unwrap();
    }

    #[test]
    fn an_import_from_above_is_found() {
        let bad = checkout(&[
            ("main.rs", ""),
            (
                "vhost/worker.rs",
                "use crate::kapi;\nfn f() {\n    crate::net::run();\n}\n",
            ),
            ("kapi/mod.rs", "use crate::vhost::device;\n"),
        ]);
        let error = check(bad.path()).unwrap_err().to_string();
        let lines: Vec<_> = error.lines().collect();
        assert_eq!(
            lines,
            [
                "src/kapi/mod.rs:1: an import from vhost/, which is above",
                "src/vhost/worker.rs:3: an import from net/, which is above"
            ]
        );
    }

    #[test]
    fn long_files_are_found() {
        let long = "// A line.\n".repeat(501) + "use crate::kapi;\n";
        let bad = checkout(&[("net/tx.rs", &long)]);
        let error = check(bad.path()).unwrap_err().to_string();
        assert_eq!(error, "src/net/tx.rs: 502 lines");
    }

    #[test]
    fn floors_are_folders() {
        assert_eq!(floor_of("src/main.rs"), Some(0));
        assert_eq!(floor_of("src/vhost/virtqueue/trouble.rs"), Some(2));
        assert_eq!(floor_of("src/vring/split.rs"), None);
        assert_eq!(targets("use crate::a::b; crate::c()\n").count(), 2);
    }
}
