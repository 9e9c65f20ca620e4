// SPDX-License-Identifier: GPL-2.0
//! The kernel: its version and its configuration.

use super::files::Files;
use super::finding::Finding;

/// The series that the module is written for and tested on.
const SERIES: [(u32, u32); 2] = [(7, 2), (7, 3)];

/// What the module cannot do without, and what for.
const NEEDED: [(&str, &str); 5] = [
    ("CONFIG_MODULES", "to load a module"),
    ("CONFIG_RUST", "for modules in Rust"),
    ("CONFIG_VHOST_TASK", "for the worker threads"),
    ("CONFIG_EVENTFD", "for kicks and calls"),
    ("CONFIG_TUN", "for taps"),
];

/// Debian's command for a kernel that has all of it.
const KERNEL: &str = "apt install -t trixie-backports linux-image-amd64 linux-headers-amd64";

/// The release of the running kernel, as `uname -r` shows it.
pub fn release(files: &Files) -> Option<String> {
    files.line("proc/sys/kernel/osrelease")
}

/// The version that a release begins with.
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether the module is written for kernels of that version.
pub fn is_known(version: (u32, u32)) -> bool {
    SERIES.contains(&version)
}

/// Looks at the version and at the configuration.
pub fn check(files: &Files) -> Vec<Finding> {
    let Some(release) = release(files) else {
        return vec![Finding::problem(
            "kernel-version",
            "The kernel's release cannot be read from /proc/sys/kernel/osrelease.",
        )];
    };
    let mut findings = vec![check_version(&release)];
    findings.extend(check_config(files, &release));
    findings
}

fn check_version(release: &str) -> Finding {
    let check = "kernel-version";
    match version(release) {
        Some(found) if is_known(found) => Finding::ok(
            check,
            format!("The kernel {release} is of a tested series."),
        ),
        Some(found) if SERIES.iter().all(|known| found > *known) => Finding::advice(
            check,
            format!("The kernel {release} is newer than the tested series, 7.2 and 7.3."),
        ),
        Some(_) => Finding::problem(
            check,
            format!("The module does not build for the kernel {release}, which is older than 7.2."),
        )
        .mended_by(KERNEL),
        None => Finding::advice(
            check,
            format!("The kernel's release {release} does not begin with a version."),
        ),
    }
}

fn check_config(files: &Files, release: &str) -> Vec<Finding> {
    let check = "kernel-config";
    let config = files
        .read(&format!("boot/config-{release}"))
        .or_else(|| files.read_gz("proc/config.gz"));
    let Some(config) = config else {
        return vec![Finding::advice(
            check,
            format!(
                "The kernel's configuration is neither in /boot/config-{release} nor in /proc/config.gz."
            ),
        )];
    };
    let missing: Vec<Finding> = NEEDED
        .iter()
        .filter(|(option, _)| !is_on(&config, option))
        .map(|(option, purpose)| {
            Finding::problem(
                check,
                format!("The kernel has no {option}, which is needed {purpose}."),
            )
            .mended_by(KERNEL)
        })
        .collect();
    if missing.is_empty() {
        let names: Vec<&str> = NEEDED.iter().map(|(option, _)| *option).collect();
        return vec![Finding::ok(
            check,
            format!("The kernel has {}.", names.join(", ")),
        )];
    }
    missing
}

/// Whether an option is built in or a module.
fn is_on(config: &str, option: &str) -> bool {
    config.lines().any(|line| {
        line.split_once('=')
            .is_some_and(|(name, value)| name == option && matches!(value.trim(), "y" | "m"))
    })
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::Fixture;
    use super::super::finding::Verdict;
    use super::{check, version};

    const WHOLE: &str = "CONFIG_MODULES=y\nCONFIG_RUST=y\nCONFIG_VHOST_TASK=y\n\
                         CONFIG_EVENTFD=y\nCONFIG_TUN=m\n";

    fn verdicts(release: &str, config: &str) -> Vec<Verdict> {
        let fixture = Fixture::new()
            .file("proc/sys/kernel/osrelease", format!("{release}\n"))
            .file(&format!("boot/config-{release}"), config);
        let findings = check(&fixture.files());
        findings.iter().map(|finding| finding.verdict).collect()
    }

    #[test]
    fn versions_are_told_apart() {
        assert_eq!(version("7.3.4+deb13-amd64"), Some((7, 3)));
        assert_eq!(version("7.2-rc1"), Some((7, 2)));
        assert_eq!(version("seven"), None);
        assert_eq!(version(""), None);
        assert_eq!(version("99999999999.1"), None);
        for (release, verdict) in [
            ("7.3.4", Verdict::Ok),
            ("7.2.1", Verdict::Ok),
            ("7.4.0", Verdict::Advice),
            ("8.0", Verdict::Advice),
            ("7.1.9", Verdict::Problem),
            ("6.12.0", Verdict::Problem),
            ("odd", Verdict::Advice),
        ] {
            assert_eq!(verdicts(release, WHOLE)[0], verdict, "{release}");
        }
    }

    #[test]
    fn each_option_is_asked_for() {
        assert_eq!(verdicts("7.3.4", WHOLE), [Verdict::Ok, Verdict::Ok]);
        for option in ["MODULES", "RUST", "VHOST_TASK", "EVENTFD", "TUN"] {
            let config = WHOLE.replace(&format!("CONFIG_{option}="), "# was ");
            let fixture = Fixture::new()
                .file("proc/sys/kernel/osrelease", "7.3.4\n")
                .file("boot/config-7.3.4", config);
            let findings = check(&fixture.files());
            let problem = &findings[1];
            assert_eq!(problem.verdict, Verdict::Problem);
            assert!(problem.sentence.contains(&format!("no CONFIG_{option},")));
            assert!(problem.command.is_some());
        }
    }

    #[test]
    fn a_configuration_that_is_not_there_is_said() {
        let fixture = Fixture::new().file("proc/sys/kernel/osrelease", "7.3.4\n");
        let findings = check(&fixture.files());
        assert_eq!(findings[1].verdict, Verdict::Advice);
        let nothing = check(&Fixture::new().files());
        assert_eq!(nothing[0].verdict, Verdict::Problem);
    }
}
