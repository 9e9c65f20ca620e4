// SPDX-License-Identifier: GPL-2.0

//! The README names cases as evidence: they have to exist.

use selftests::cases;

#[test]
fn cases_in_the_readme_exist() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let text = std::fs::read_to_string(path).unwrap();
    let names: Vec<&str> = cases::all().iter().map(|case| case.name).collect();
    let mut found = 0;
    // What is between the marks of code is every second part of a line.
    let code = text
        .lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    for word in code {
        let Some((family, case)) = word.split_once('.') else {
            continue;
        };
        let is_family = |name: &&str| name.split('.').next() == Some(family);
        if case == "rs" || !names.iter().any(is_family) {
            continue;
        }
        found += 1;
        assert!(
            case == "*" || names.contains(&word),
            "there is no case {word}"
        );
    }
    assert!(found > 50, "only {found} cases are named");
}
