// SPDX-License-Identifier: GPL-2.0
//! Whether this host is fit for vhost-rnet: what is looked at, and the report's form.

mod files;
mod finding;
mod guest;
mod kernel;
mod limits;
mod module;
mod netdevs;
mod nodes;
mod qemu;
mod taps;

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use crate::output::{self, BAD, GOOD, HEADING, WARNING, escaped};

use files::Files;
pub use finding::{Finding, Verdict};

/// The report in JSON.
#[derive(Serialize)]
struct Report<'a> {
    /// No finding is a problem.
    fit: bool,
    findings: &'a [Finding],
}

/// Looks at the host whose files are below `root`.
#[must_use]
pub fn examine(root: &Path) -> Vec<Finding> {
    let files = Files::new(root);
    let mut findings = kernel::check(&files);
    findings.extend(module::check(&files));
    findings.extend(nodes::check(&files));
    let found = guest::find(&files);
    if found.hidden > 0 {
        let sentence = format!(
            "The open files of {} hypervisors are not to be seen by this user.",
            found.hidden
        );
        findings.push(Finding::advice("guests", sentence).mended_by("sudo rnetctl doctor"));
    } else if found.guests.is_empty() {
        findings.push(Finding::ok("guests", "No guest runs on this host."));
    }
    for guest in &found.guests {
        findings.extend(netdevs::check(guest));
        findings.extend(limits::check(&files, guest));
        for interface in &guest.interfaces {
            findings.extend(taps::check(&files, interface));
        }
    }
    findings
}

/// The number of problems.
#[must_use]
pub fn problems(findings: &[Finding]) -> usize {
    let is_problem = |finding: &&Finding| finding.verdict == Verdict::Problem;
    findings.iter().filter(is_problem).count()
}

/// Writes the report for people: a line for each finding, and below it the command that mends it.
///
/// # Errors
///
/// Those of `out`.
pub fn write(out: &mut dyn Write, findings: &[Finding]) -> io::Result<()> {
    let width = findings.iter().map(|finding| finding.check.len()).max();
    let width = width.unwrap_or(0);
    let mut subject = None;
    for finding in findings {
        if finding.subject != subject {
            subject.clone_from(&finding.subject);
            if let Some(name) = &subject {
                writeln!(out, "{HEADING}{}{HEADING:#}", escaped(name))?;
            }
        }
        let style = match finding.verdict {
            Verdict::Ok => GOOD,
            Verdict::Advice => WARNING,
            Verdict::Problem => BAD,
        };
        let word = finding.verdict.word();
        let sentence = escaped(&finding.sentence);
        writeln!(
            out,
            "{style}{word:7}{style:#}  {:width$}  {sentence}",
            finding.check
        )?;
        if let Some(command) = &finding.command {
            writeln!(out, "{:7}  {:width$}  run: {}", "", "", escaped(command))?;
        }
    }
    Ok(())
}

/// Writes the report for programs.
///
/// # Errors
///
/// Those of `out`.
pub fn write_json(out: &mut dyn Write, findings: &[Finding]) -> io::Result<()> {
    let fit = problems(findings) == 0;
    output::json(out, &Report { fit, findings })
}

#[cfg(test)]
mod tests {
    use super::files::tests::Fixture;
    use super::guest::tests::{INFO, open, process};
    use super::{Finding, examine, problems, write, write_json};

    /// A host of which a guest has its packets on the fast path, but for one property.
    fn host() -> Fixture {
        let mut fixture = process(
            Fixture::new(),
            10,
            "qemu-system-x86_64 -name db -netdev tap,id=n0,vhost=on,vhostfd=3 \
             -device virtio-net-pci,netdev=n0,event_idx=off",
        );
        fixture = open(fixture, 10, 3, "/dev/vhost-rnet", INFO);
        fixture = open(fixture, 10, 4, "/dev/net/tun", "iff:\ttap0\n");
        for (path, content) in [
            ("proc/sys/kernel/osrelease", "7.3.4\n"),
            (
                "boot/config-7.3.4",
                "CONFIG_MODULES=y\nCONFIG_RUST=y\nCONFIG_VHOST_TASK=y\nCONFIG_EVENTFD=y\nCONFIG_TUN=m\n",
            ),
            (
                "usr/lib/modules/7.3.4/modules.dep",
                "updates/vhost_rnet.ko.xz:\n",
            ),
            ("usr/lib/modules-load.d/vhost-rnet.conf", "vhost_rnet\n"),
            ("sys/module/vhost_rnet/taint", "O\n"),
            ("sys/module/tun/refcnt", "1\n"),
            ("dev/kvm", ""),
            ("proc/mounts", "debugfs /sys/kernel/debug debugfs rw 0 0\n"),
            ("etc/group", "kvm:x:106:\n"),
            ("sys/class/net/tap0/tun_flags", "0x5102\n"),
            ("sys/class/net/tap0/flags", "0x1002\n"),
        ] {
            fixture = fixture.file(path, content);
        }
        fixture
    }

    fn text(findings: &[Finding]) -> String {
        let mut out = Vec::new();
        write(&mut out, findings).expect("memory");
        let text = String::from_utf8(out).expect("text");
        anstream::adapter::strip_str(&text).to_string()
    }

    #[test]
    fn a_report_has_a_row_for_each_finding() {
        let fixture = host();
        let findings = examine(fixture.root());
        insta::assert_snapshot!(text(&findings));
        // The device, which a file cannot stand for, and the interface.
        assert_eq!(problems(&findings), 2);
    }

    #[test]
    fn json_says_whether_the_host_is_fit() {
        let mut out = Vec::new();
        let findings = [
            Finding::ok("a", "It is."),
            Finding::advice("b", "It could be.")
                .about("tap\u{1b}0")
                .mended_by("x"),
        ];
        write_json(&mut out, &findings).expect("memory");
        insta::assert_snapshot!(String::from_utf8(out).expect("text"));
        let mut out = Vec::new();
        write_json(&mut out, &[Finding::problem("c", "It is not.")]).expect("memory");
        let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(value["fit"], false);
        assert_eq!(value["findings"][0]["verdict"], "problem");
    }

    #[test]
    fn odd_names_cannot_disturb_a_terminal() {
        let fixture = process(
            Fixture::new(),
            10,
            "qemu-system-x86_64 -name \u{1b}[2J -netdev tap",
        );
        let fixture = fixture.link("proc/10/fd/0", "/dev/null");
        assert!(!text(&examine(fixture.root())).contains('\u{1b}'));
    }

    /// Whatever is in the files: no panic, and a verdict.
    #[test]
    fn odd_files_are_examined() {
        let paths = [
            "proc/sys/kernel/osrelease",
            "proc/config.gz",
            "proc/10/cmdline",
            "proc/10/limits",
            "proc/10/status",
            "proc/10/fdinfo/3",
            "proc/mounts",
            "proc/cpuinfo",
            "sys/module/vhost_rnet",
            "sys/class/net/tap0",
            "etc/group",
            "usr/lib/modules/x/modules.dep",
        ];
        for content in [
            &b""[..],
            b"\0\0\0",
            b"\xff\xfe:\n",
            b":\n=\n,\n",
            b"\n\n",
            b"0x\n",
            b"-1 -1\n",
        ] {
            let mut fixture = Fixture::new().link("proc/10/fd/3", "/dev/vhost-rnet");
            for path in paths {
                fixture = fixture.file(path, content);
            }
            assert!(!examine(fixture.root()).is_empty());
        }
        assert!(problems(&examine(Fixture::new().root())) > 0);
    }
}
