// SPDX-License-Identifier: GPL-2.0
//! The interfaces behind the taps that guests have open.

use super::files::Files;
use super::finding::Finding;

/// Flags of a tun file, of `linux/if_tun.h`.
const IFF_TAP: u32 = 0x0002;
const IFF_NO_PI: u32 = 0x1000;
const IFF_VNET_HDR: u32 = 0x4000;

/// Flag of an interface that is up, of `linux/if.h`.
const IFF_UP: u32 = 1;

/// The length of QEMU's receive ring, unless it is told another: a burst that the guest could take.
const BURST: u32 = 256;

/// Looks at the interface called `name`.
pub fn check(files: &Files, name: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !files.has(&format!("sys/class/net/{name}")) {
        // Interfaces of another network namespace are not to be seen.
        findings.push(Finding::advice(
            "tap",
            "The interface is not in this network namespace, or was deleted.",
        ));
    } else {
        findings.extend(check_flags(files, name));
        findings.push(check_link(files, name));
        findings.extend(check_queue(files, name));
    }
    let about = |finding: Finding| finding.about(name);
    findings.into_iter().map(about).collect()
}

/// A number in hexadecimal, as sysfs shows flags.
fn hex(files: &Files, path: &str) -> Option<u32> {
    let line = files.line(path)?;
    u32::from_str_radix(line.strip_prefix("0x")?, 16).ok()
}

/// Only interfaces of tun have these flags, not macvtaps.
fn check_flags(files: &Files, name: &str) -> Option<Finding> {
    let check = "tap-flags";
    let flags = hex(files, &format!("sys/class/net/{name}/tun_flags"))?;
    let has = |flag: u32| flags & flag != 0;
    Some(if !has(IFF_TAP) {
        Finding::problem(
            check,
            "The interface takes IP packets (IFF_TUN), and a guest sends Ethernet frames.",
        )
        .mended_by(format!(
            "ip tuntap del {name} mode tun && ip tuntap add {name} mode tap vnet_hdr"
        ))
    } else if !has(IFF_NO_PI) {
        Finding::problem(
            check,
            "The tap puts four bytes in front of each packet, because it lacks IFF_NO_PI.",
        )
        .mended_by(recreate(name))
    } else if !has(IFF_VNET_HDR) {
        Finding::advice(
            check,
            "The tap lacks IFF_VNET_HDR, so each large packet is cut up and summed by processors.",
        )
        .mended_by(recreate(name))
    } else {
        Finding::ok(check, "The tap has virtio-net headers, IFF_VNET_HDR.")
    })
}

/// What makes a tap anew while its guest is shut down.
fn recreate(name: &str) -> String {
    format!("ip tuntap del {name} mode tap && ip tuntap add {name} mode tap vnet_hdr")
}

fn check_link(files: &Files, name: &str) -> Finding {
    let check = "tap-link";
    let flags = hex(files, &format!("sys/class/net/{name}/flags")).unwrap_or(0);
    if flags & IFF_UP == 0 {
        return Finding::problem(check, "The interface is down, so it drops all packets.")
            .mended_by(format!("ip link set {name} up"));
    }
    // The file cannot be read while the interface is down.
    match files
        .line(&format!("sys/class/net/{name}/carrier"))
        .as_deref()
    {
        Some("1") => Finding::ok(check, "The interface is up and has a carrier."),
        _ => Finding::advice(
            check,
            "The interface has no carrier: its guest, or the device below, has set the link down.",
        ),
    }
}

fn check_queue(files: &Files, name: &str) -> Option<Finding> {
    let check = "tap-queue";
    let line = files.line(&format!("sys/class/net/{name}/tx_queue_len"))?;
    let length: u32 = line.parse().ok()?;
    Some(if length < BURST {
        Finding::advice(
            check,
            format!(
                "The interface holds {length} packets for its guest, fewer than a ring of {BURST}."
            ),
        )
        .mended_by(format!("ip link set {name} txqueuelen 1000"))
    } else {
        Finding::ok(
            check,
            format!("The interface holds up to {length} packets for its guest."),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::Fixture;
    use super::super::finding::Verdict;
    use super::check;

    /// Verdict and command of one check of the tap, of which one file has that content.
    fn with(file: &str, content: &str, check_name: &str) -> Option<(Verdict, Option<String>)> {
        let mut fixture = Fixture::new();
        for (name, text) in [
            ("tun_flags", "0x5102\n"),
            ("flags", "0x1003\n"),
            ("carrier", "1\n"),
            ("tx_queue_len", "1000\n"),
        ] {
            let text = if name == file { content } else { text };
            fixture = fixture.file(&format!("sys/class/net/tap0/{name}"), text);
        }
        let findings = check(&fixture.files(), "tap0");
        let found = findings.into_iter().find(|it| it.check == check_name)?;
        assert_eq!(found.subject.as_deref(), Some("tap0"));
        Some((found.verdict, found.command))
    }

    #[test]
    fn flags_of_the_tap_are_told_apart() {
        for (flags, verdict) in [
            ("0x5102", Some(Verdict::Ok)),
            ("0x1102", Some(Verdict::Advice)),
            ("0x4102", Some(Verdict::Problem)),
            ("0x5001", Some(Verdict::Problem)),
            ("odd", None),
            ("0xfffffffffff", None),
        ] {
            let found = with("tun_flags", flags, "tap-flags");
            assert_eq!(found.map(|it| it.0), verdict, "{flags}");
        }
    }

    #[test]
    fn a_link_that_is_down_is_told() {
        let up = with("", "", "tap-link").map(|it| it.0);
        assert_eq!(up, Some(Verdict::Ok));
        let (verdict, command) = with("flags", "0x1002\n", "tap-link").expect("a finding");
        assert_eq!(verdict, Verdict::Problem);
        assert_eq!(command.as_deref(), Some("ip link set tap0 up"));
        for carrier in ["0\n", "", "odd"] {
            let found = with("carrier", carrier, "tap-link").map(|it| it.0);
            assert_eq!(found, Some(Verdict::Advice));
        }
    }

    #[test]
    fn a_short_queue_is_told() {
        for (length, verdict) in [
            ("1000", Some(Verdict::Ok)),
            ("256", Some(Verdict::Ok)),
            ("255", Some(Verdict::Advice)),
            ("0", Some(Verdict::Advice)),
            ("-1", None),
        ] {
            assert_eq!(
                with("tx_queue_len", length, "tap-queue").map(|it| it.0),
                verdict
            );
        }
    }

    #[test]
    fn an_interface_elsewhere_is_told() {
        let findings = check(&Fixture::new().files(), "tap1");
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].verdict, Verdict::Advice);
    }
}
