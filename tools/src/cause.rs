// SPDX-License-Identifier: GPL-2.0
//! Why a program failed, if its log tells something that its user can mend.

/// What logs say of a cause, and how it is mended; the first that is found is taken.
const CAUSES: &[(&[&str], &str)] = &[
    (
        &[
            "No space left on device",
            "You don't have enough free space",
        ],
        "the disk is full: free some space, and run the same command again",
    ),
    (
        &["404  Not Found"],
        "the package lists are out of date: run `cargo xtask lab --update`",
    ),
    (
        &[
            "E: Failed to fetch ",
            "E: Unable to fetch ",
            "failed to download from ",
            "network failure seems to have happened",
        ],
        "a server cannot be reached: mend the network, or set http_proxy, https_proxy, or RNET_MIRROR \
         to a Debian mirror, and run the same command again, which goes on from here",
    ),
];

/// Says what the cause is, with the command that mends it and the line of `log` that shows it.
pub fn of(log: &str) -> Option<String> {
    CAUSES.iter().find_map(|(phrases, sentence)| {
        let shows = |line: &&str| phrases.iter().any(|phrase| line.contains(phrase));
        let line = log.lines().find(shows)?;
        Some(format!("{sentence} ({})", line.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn the_cause_is_told() {
        let starts = |log: &str, start: &str| of(log).unwrap().starts_with(start);
        let fetch = "E: Failed to fetch http://a/b  ";
        assert!(starts(
            &format!("Err:1\n{fetch}Unable to connect to a:80:\n"),
            "a server"
        ));
        assert!(starts(
            &format!("{fetch}404  Not Found [IP: 1]"),
            "the package"
        ));
        assert!(starts(
            &format!("{fetch}write (28: No space left on device)"),
            "the disk"
        ));
        assert!(starts("  failed to download from `https://a`", "a server"));
        let told = of("a\n  cc: No space left on device \nb").unwrap();
        assert!(
            told.ends_with(" again (cc: No space left on device)"),
            "{told}"
        );
        assert_eq!(of("cc: error: no such file"), None);
    }
}
