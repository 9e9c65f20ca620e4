// SPDX-License-Identifier: GPL-2.0

//! A case is found by its name: that of its family is in its path.

use selftests::cases;
use selftests::driver::ring::Format;
use std::fs;
use std::path::{Path, PathBuf};

/// All source files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                sources(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[test]
fn cases_are_where_their_family_is() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/cases"));
    let mut found = Vec::new();
    for path in sources(root) {
        let text = fs::read_to_string(&path).unwrap();
        let place = path.strip_prefix(root).unwrap().with_extension("");
        // A call of `case()` has the name as its first argument.
        let calls = text.split("case(").skip(1);
        let names = calls.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
        for name in names {
            let family = name.split('.').next().unwrap();
            let fits = place.iter().any(|part| part == family);
            assert!(fits, "{name} is in {}", path.display());
            found.push(name.to_owned());
        }
    }
    let mut all: Vec<_> = cases::all()
        .iter()
        .filter(|case| case.format == Format::Split)
        .map(|case| case.name.to_owned())
        .collect();
    all.sort();
    found.sort();
    assert_eq!(all, found);
}
