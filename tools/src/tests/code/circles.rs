// SPDX-License-Identifier: GPL-2.0
//! Whether modules import each other in a circle, and how long files are.
//!
//! The submodules of each module, each taken together with everything below it, must not form a
//! circle. A module and those below it may import from each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::imports;
use super::source::{self, Source};

/// Where code is: folders, and what below them is other crates' or tests.
const CODE: [(&str, &[&str]); 6] = [
    ("src", &["vring/"]),
    ("src/vring", &["fuzz/", "loom/", "tests/"]),
    ("selftests/src", &[]),
    ("tools/e2e/src", &[]),
    ("tools/rnetctl/src", &[]),
    ("tools/src", &[]),
];

/// The number of imports from one module in another that a report of a circle lists.
const NAMED: usize = 3;

/// A path of modules from a crate's root.
type Module = Vec<String>;

/// Imports between siblings: the places, by the importing module and the other one.
type Arrows = BTreeMap<(String, String), Vec<String>>;

/// Checks that no modules of the checkout `root` form a circle of imports, and no file is too long.
///
/// # Errors
///
/// The circles and files, or what could not be read.
pub fn check(root: &Path) -> Result<()> {
    let mut wrong = Vec::new();
    for (program, without) in CODE {
        let mut sources = source::read(root, program)?;
        sources.retain(|source| {
            let below = below(program, source);
            !without.iter().any(|other| below.starts_with(other))
        });
        wrong.extend(sources.iter().filter_map(Source::too_long));
        let mut imports = 0;
        for (folder, files) in crates(program, &sources) {
            for (parent, arrows) in arrows(&files)? {
                imports += arrows.values().map(Vec::len).sum::<usize>();
                let at = [std::slice::from_ref(&folder), &parent].concat().join("/");
                wrong.extend(circles(&at, &arrows));
            }
        }
        // Each program has some: a search that found none is wrong.
        ensure!(imports > 0, "{program}: no imports at all");
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// The path of a file below the folder `program`.
fn below<'a>(program: &str, source: &'a Source) -> &'a str {
    let path = source.name.strip_prefix(program).unwrap_or_default();
    path.trim_start_matches('/')
}

/// The files of each crate by its folder, with their modules. Each folder and each file in `bin` is a
/// crate of its own.
fn crates<'a>(
    program: &str,
    sources: &'a [Source],
) -> BTreeMap<String, BTreeMap<Module, &'a Source>> {
    let mut found = BTreeMap::<_, BTreeMap<_, _>>::new();
    for source in sources {
        let path = below(program, source).trim_end_matches(".rs");
        let (folder, path) = match path.strip_prefix("bin/") {
            Some(path) => {
                let (name, path) = path.split_once('/').unwrap_or((path, "main"));
                (format!("{program}/bin/{name}"), path)
            }
            None => (program.to_owned(), path),
        };
        let mut module: Module = path.split('/').map(str::to_owned).collect();
        let last = module.last().map_or("", String::as_str);
        if last == "mod" || ["main", "lib", "vring"].contains(&path) {
            module.pop();
        }
        found.entry(folder).or_default().insert(module, source);
    }
    found
}

/// The imports between siblings in a crate, by their parent.
fn arrows(files: &BTreeMap<Module, &Source>) -> Result<BTreeMap<Module, Arrows>> {
    let mut found = BTreeMap::<Module, Arrows>::new();
    for (from, Source { name, text }) in files {
        for import in imports::find(text, from).with_context(|| name.clone())? {
            // The rest of the path is an item, or an inline module.
            let mut to = import.path.as_slice();
            while !to.is_empty() && !files.contains_key(to) {
                to = &to[..to.len() - 1];
            }
            let shared = from.iter().zip(to).take_while(|(a, b)| a == b).count();
            // One of them is missing if a module imports from itself, or from one above or below it.
            if let (Some(ours), Some(theirs)) = (from.get(shared), to.get(shared)) {
                let arrows = found.entry(to[..shared].to_vec()).or_default();
                let places = arrows.entry((ours.clone(), theirs.clone())).or_default();
                let named = import.path.join("::");
                places.push(format!("{name}:{} ({named})", import.line));
            }
        }
    }
    Ok(found)
}

/// Describes each circle of imports between the modules in the folder `at`, with its imports.
fn circles(at: &str, arrows: &Arrows) -> Vec<String> {
    let mut told = BTreeSet::new();
    let mut wrong = Vec::new();
    for (from, to) in arrows.keys() {
        if !reached(to, arrows).contains(from.as_str()) || told.contains(from) {
            continue;
        }
        let back = |name: &&str| reached(name, arrows).contains(from.as_str());
        let members: BTreeSet<&str> = reached(from, arrows).into_iter().filter(back).collect();
        told.extend(members.iter().map(|&name| name.to_owned()));
        let names: Vec<&str> = members.iter().copied().collect();
        wrong.push(format!("{at}: a circle of imports: {}", names.join(", ")));
        let inside = |(from, to): &(String, String)| {
            members.contains(from.as_str()) && members.contains(to.as_str())
        };
        let mut ties: Vec<_> = arrows.iter().filter(|(ends, _)| inside(ends)).collect();
        // The fewest imports first: they are the easiest to remove.
        ties.sort_by_key(|(_, places)| places.len());
        for ((from, to), places) in ties {
            let named: Vec<_> = places.iter().take(NAMED).map(String::as_str).collect();
            let more = match places.len() - named.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            wrong.push(format!("  {from} from {to}: {}{more}", named.join(", ")));
        }
    }
    wrong
}

/// The modules from which `name` imports, directly or through others.
fn reached<'a>(name: &str, arrows: &'a Arrows) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut left = vec![name];
    while let Some(name) = left.pop() {
        let next = arrows.keys().filter(|(from, _)| from == name);
        for (_, to) in next {
            if found.insert(to.as_str()) {
                left.push(to);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{CODE, check};
    use std::fs;
    use tempfile::TempDir;

    /// A checkout with `files`, and with an import in each of the programs.
    fn checkout(files: &[(&str, &str)]) -> TempDir {
        let root = TempDir::new().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (program, _) in CODE {
            write(&format!("{program}/lib.rs"), "mod first;\nmod second;\n");
            write(&format!("{program}/first.rs"), "");
            write(&format!("{program}/second.rs"), "use crate::first::F;\n");
        }
        for (name, text) in files {
            write(name, text);
        }
        root
    }

    fn wrong(files: &[(&str, &str)]) -> String {
        check(checkout(files).path()).unwrap_err().to_string()
    }

    #[test]
    fn imports_with_an_order_are_fine() {
        let good = checkout(&[
            (
                "tools/src/main.rs",
                "use crate::vm::Vm;\npub fn root() {}\n",
            ),
            (
                "tools/src/vm/mod.rs",
                "mod log;\nuse log::Log;\nuse crate::lab::{Lab, paths};\n",
            ),
            // From its parent, that one's parent, itself, and a module within it.
            (
                "tools/src/vm/log.rs",
                "use super::Vm;\ncrate::root!();\nuse crate::vm::log::X;\n\
                 mod tests { use super::X; }\n",
            ),
            ("tools/src/lab/mod.rs", "use self::paths::Lab;\n"),
            ("tools/src/lab/paths.rs", "// Nothing of crate::vm.\n"),
            // Crates of their own.
            ("tools/src/bin/a.rs", "use crate::vm;\n"),
            ("tools/src/bin/vm/main.rs", "mod lab;\nmod vm;\n"),
            ("tools/src/bin/vm/lab.rs", "use crate::vm::X;\n"),
            ("tools/src/bin/vm/vm.rs", ""),
        ]);
        check(good.path()).unwrap();
    }

    #[test]
    fn a_circle_of_folders_is_found() {
        let error = wrong(&[
            (
                "tools/src/vm/level1.rs",
                "use crate::lab::{Lab, kernel::image};\nuse crate::first;\n",
            ),
            ("tools/src/lab/mod.rs", ""),
            (
                "tools/src/lab/kernel.rs",
                "use super::build;\n\nfn f() -> crate::tests::T {}\n",
            ),
            ("tools/src/lab/build.rs", ""),
            ("tools/src/tests.rs", "use super::vm::level1;\n"),
        ]);
        let lines: Vec<_> = error.lines().collect();
        assert_eq!(
            lines,
            [
                "tools/src: a circle of imports: lab, tests, vm",
                "  lab from tests: tools/src/lab/kernel.rs:3 (tests::T)",
                "  tests from vm: tools/src/tests.rs:1 (vm::level1)",
                "  vm from lab: tools/src/vm/level1.rs:1 (lab::Lab), \
                 tools/src/vm/level1.rs:1 (lab::kernel::image)",
            ]
        );
    }

    #[test]
    fn a_circle_within_a_folder_is_found() {
        let error = wrong(&[
            ("tools/src/lab/mod.rs", ""),
            ("tools/src/lab/build.rs", "use super::flavor::Flavor;\n"),
            (
                "tools/src/lab/flavor.rs",
                "fn f() {\n    crate::lab::build::f(super::kernel());\n}\n",
            ),
            (
                "tools/src/lab/kernel.rs",
                "use super::flavor::{A, B, C, D, E};\n",
            ),
        ]);
        let lines: Vec<_> = error.lines().collect();
        assert_eq!(
            lines,
            [
                "tools/src/lab: a circle of imports: build, flavor, kernel",
                "  build from flavor: tools/src/lab/build.rs:1 (lab::flavor::Flavor)",
                "  flavor from build: tools/src/lab/flavor.rs:2 (lab::build::f)",
                "  flavor from kernel: tools/src/lab/flavor.rs:2 (lab::kernel)",
                "  kernel from flavor: tools/src/lab/kernel.rs:1 (lab::flavor::A), \
                 tools/src/lab/kernel.rs:1 (lab::flavor::B), \
                 tools/src/lab/kernel.rs:1 (lab::flavor::C) and 2 more",
            ]
        );
    }

    #[test]
    fn each_circle_is_told_once() {
        let error = wrong(&[
            ("tools/src/a.rs", "use crate::b;\nuse crate::c;\n"),
            ("tools/src/b.rs", "use crate::a;\n"),
            ("tools/src/c.rs", "use crate::d;\n"),
            ("tools/src/d.rs", "use crate::c;\n"),
            ("tools/src/bin/e/main.rs", ""),
            ("tools/src/bin/e/f.rs", "use crate::g;\n"),
            ("tools/src/bin/e/g.rs", "use crate::f;\n"),
        ]);
        let told: Vec<_> = error
            .lines()
            .filter(|line| !line.starts_with(' '))
            .collect();
        assert_eq!(
            told,
            [
                "tools/src: a circle of imports: a, b",
                "tools/src: a circle of imports: c, d",
                "tools/src/bin/e: a circle of imports: f, g",
            ]
        );
    }

    #[test]
    fn long_files_are_found() {
        let error = wrong(&[("tools/e2e/src/long.rs", &"// A line.\n".repeat(501))]);
        assert_eq!(error, "tools/e2e/src/long.rs: 501 lines");
    }

    #[test]
    fn a_search_for_the_wrong_thing_is_found() {
        assert_eq!(
            wrong(&[("tools/src/second.rs", "")]),
            "tools/src: no imports at all"
        );
    }

    #[test]
    fn this_checkout_has_none() {
        check(&crate::lab::build::checkout()).unwrap();
    }
}
