// SPDX-License-Identifier: GPL-2.0
//! Reading test results in KTAP, the kernel's flavour of the Test Anything
//! Protocol.

/// What a test program reported.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// Tests that passed.
    pub passed: Vec<String>,
    /// Tests that failed, with what they said.
    pub failed: Vec<String>,
    /// Tests that did not apply.
    pub skipped: Vec<String>,
}

/// Reads the top level of `text`.
///
/// Tests that were planned and have no result count as failed, as does a
/// missing plan: a program that died early must not look like a good one.
pub fn parse(text: &str) -> Results {
    let mut results = Results::default();
    let mut planned = None;
    let mut seen = 0;
    let mut diagnostics = String::new();
    for line in text.lines() {
        if let Some(count) = line.strip_prefix("1..") {
            planned = count
                .split_whitespace()
                .next()
                .and_then(|count| count.parse().ok());
        } else if let Some(rest) = line.strip_prefix("ok ") {
            seen += 1;
            let name = name(rest);
            if directive(rest).is_some_and(|word| word.eq_ignore_ascii_case("SKIP")) {
                results.skipped.push(name);
            } else {
                results.passed.push(name);
            }
            diagnostics.clear();
        } else if let Some(rest) = line.strip_prefix("not ok ") {
            seen += 1;
            results.failed.push(format!("{}{diagnostics}", name(rest)));
            diagnostics.clear();
        } else if let Some(said) = line.strip_prefix("# ") {
            diagnostics.push_str("\n      ");
            diagnostics.push_str(said);
        }
    }
    match planned {
        None => results.failed.push("no test plan (\"1..N\")".to_owned()),
        Some(planned) => {
            for number in seen + 1..=planned {
                results
                    .failed
                    .push(format!("test {number} of {planned} gave no result"));
            }
            if seen > planned {
                results
                    .failed
                    .push(format!("{seen} results of {planned} planned tests"));
            }
        }
    }
    results
}

/// Returns the name in "N [- ]name[ # directive]".
fn name(rest: &str) -> String {
    let text = rest.split(" # ").next().unwrap_or(rest);
    let text = text
        .trim_start_matches(|c: char| c.is_ascii_digit())
        .trim_start();
    text.strip_prefix("- ")
        .unwrap_or(text)
        .trim_end()
        .to_owned()
}

fn directive(rest: &str) -> Option<&str> {
    rest.split_once(" # ")?.1.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn results_are_sorted() {
        let results = parse(
            "KTAP version 1\n1..4\n\
             # a remark on one\n\
             ok 1 one\n\
             \x20   ok 1 a subtest\n\
             # expected 3\n# found 4\n\
             not ok 2 - two\n\
             ok 3 three # SKIP not offered\n\
             ok 4 four\n",
        );
        assert_eq!(results.passed, ["one", "four"]);
        assert_eq!(results.failed, ["two\n      expected 3\n      found 4"]);
        assert_eq!(results.skipped, ["three"]);
    }

    #[test]
    fn an_early_end_fails() {
        let results = parse("KTAP version 1\n1..3\nok 1 one\n");
        assert_eq!(results.passed.len(), 1);
        assert_eq!(results.failed.len(), 2);
        assert_eq!(parse("").failed.len(), 1);
    }

    #[test]
    fn more_results_than_planned_fail() {
        assert_eq!(parse("1..1\nok 1 one\nok 2 two\n").failed.len(), 1);
    }
}
