// SPDX-License-Identifier: GPL-2.0
//! How far a program is, by what it has written so far.

/// Says how many of the test cases in a KTAP report have ended, and the last one; `None` without a
/// plan.
pub fn of_cases(report: &str) -> Option<String> {
    let plan = report.lines().find_map(|line| line.strip_prefix("1.."))?;
    let ended = |line: &&str| line.starts_with("ok ") || line.starts_with("not ok ");
    let count = report.lines().filter(ended).count();
    let last = report.lines().rfind(ended).unwrap_or_default();
    let name = last
        .split(' ')
        .skip_while(|word| word.parse::<u32>().is_err());
    let name = name.skip(1).collect::<Vec<_>>().join(" ");
    Some(format!("{count} of {} {name}", plan.trim()))
}

/// Says which line of a log is the last, and its number; `None` if there is none.
///
/// What apt installs is counted instead. `total` is the number of lines in the end, as far as it is
/// known.
pub fn of_lines(log: &str, total: Option<usize>) -> Option<String> {
    let last = log.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    let done = match (installing(log), total) {
        (Some((done, total)), _) => format!("{done} of {total}"),
        (None, Some(total)) => format!("{} of about {total}", log.lines().count()),
        (None, None) => log.lines().count().to_string(),
    };
    Some(format!("{done}: {last}"))
}

/// The steps that apt has done for the packages that it installs, of how many.
fn installing(log: &str) -> Option<(usize, usize)> {
    let mut lines = log.lines();
    let packages: usize = lines.find_map(|line| {
        let (before, _) = line.split_once(" newly installed")?;
        before.rsplit(' ').next()?.parse().ok()
    })?;
    let step = |line: &&str| {
        let words = ["Get:", "Unpacking ", "Setting up "];
        words.iter().any(|word| line.starts_with(word))
    };
    Some((lines.filter(step).count(), 3 * packages))
}

#[cfg(test)]
mod tests {
    use super::{of_cases, of_lines};

    fn cases(report: &str) -> String {
        of_cases(report).unwrap()
    }

    #[test]
    fn cases_are_counted() {
        assert_eq!(of_cases("KTAP version 1\n"), None);
        assert_eq!(cases("KTAP version 1\n1..3\n# said"), "0 of 3 ");
        let report = "1..3\nok 1 tx.gso\nnot ok 2 - rx.gso # what\n    ok 3 sub\n# more\n";
        assert_eq!(cases(report), "2 of 3 - rx.gso # what");
    }

    #[test]
    fn lines_are_counted() {
        assert_eq!(of_lines("", None), None);
        assert_eq!(of_lines("a\n  CC b.o\n\n", None).unwrap(), "3: CC b.o");
        let far = of_lines("a\nb", Some(230)).unwrap();
        assert_eq!(far, "2 of about 230: b");
    }

    #[test]
    fn packages_are_counted() {
        let log = "Get:1 lists\n0 upgraded, 2 newly installed, 0 to remove\n\
                   Get:1 a\nGet:2 b\nUnpacking a (1) ...\n";
        assert_eq!(of_lines(log, None).unwrap(), "3 of 6: Unpacking a (1) ...");
    }
}
