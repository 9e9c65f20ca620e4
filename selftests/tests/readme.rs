// SPDX-License-Identifier: GPL-2.0

//! The README, and the pages that it links to, name cases as evidence: they have to exist.

use selftests::case::Case;
use selftests::cases;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What a page links to, as files beside it; links out of the repository and into a page are none.
fn links(page: &Path, text: &str) -> Vec<PathBuf> {
    let targets = text.split("](").skip(1);
    let targets = targets.filter_map(|rest| rest.split_once(')'));
    targets
        .map(|(target, _)| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains("://"))
        .map(|target| page.with_file_name(target))
        .collect()
}

/// The README and all pages that a reader reaches from it, with their text.
fn pages() -> Vec<(PathBuf, String)> {
    let root = fs::canonicalize(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).unwrap();
    let mut pages = Vec::new();
    let mut known = BTreeSet::new();
    let mut open = vec![root.join("README.md")];
    while let Some(link) = open.pop() {
        let page = fs::canonicalize(&link);
        let page = page.unwrap_or_else(|error| panic!("{} is linked to: {error}", link.display()));
        let is_page = page.extension().is_some_and(|extension| extension == "md");
        if !is_page || !page.starts_with(&root) || !known.insert(page.clone()) {
            continue;
        }
        let text = fs::read_to_string(&page).unwrap();
        open.extend(links(&page, &text));
        pages.push((page, text));
    }
    pages
}

#[test]
fn cases_in_the_readme_and_its_pages_exist() {
    let names: Vec<String> = cases::all().iter().map(Case::full_name).collect();
    let is_family = |family: &str| {
        let of = |name: &String| name.split('.').next() == Some(family);
        names.iter().any(of)
    };
    let pages = pages();
    let mut found = 0;
    for (page, text) in &pages {
        // What is between the marks of code is every second part of a line.
        let code = text
            .lines()
            .flat_map(|line| line.split('`').skip(1).step_by(2));
        for word in code {
            let Some((family, case)) = word.split_once('.') else {
                continue;
            };
            if case == "rs" || !is_family(family) {
                continue;
            }
            found += 1;
            assert!(
                case == "*" || names.iter().any(|name| name == word),
                "{}: there is no case {word}",
                page.display()
            );
        }
    }
    assert!(pages.len() > 1, "README.md links to no page");
    assert!(found > 50, "only {found} cases are named");
}
