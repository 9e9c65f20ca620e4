// SPDX-License-Identifier: GPL-2.0
//! Device nodes, and what else of the host a hypervisor needs to open the device.

use super::files::{Files, Node};
use super::finding::Finding;
use super::guest::DEVICE;

/// The group that may open the device, and its permissions, as the packages' udev rule sets them.
const GROUP: &str = "kvm";
const MODE: u32 = 0o660;

/// What brings the node's group and permissions back.
const RULE: &str = "udevadm trigger --settle /dev/vhost-rnet";

/// Looks at the device and at what else has to be there.
pub fn check(files: &Files) -> Vec<Finding> {
    let mut findings = vec![
        check_device(
            files.node(DEVICE),
            files.gid(GROUP),
            files.has("sys/module/vhost_rnet"),
        ),
        check_tun(files),
        check_kvm(files),
        check_debugfs(files),
    ];
    findings.extend(check_apparmor(files));
    findings
}

fn check_device(node: Option<Node>, kvm: Option<u32>, loaded: bool) -> Finding {
    let check = "device-node";
    let Some(node) = node else {
        return if loaded {
            Finding::problem(
                check,
                "The module is loaded, and there is no /dev/vhost-rnet.",
            )
            .mended_by("modprobe -r vhost_rnet && modprobe vhost_rnet")
        } else {
            Finding::problem(
                check,
                "There is no /dev/vhost-rnet while the module is not loaded.",
            )
            .mended_by("modprobe vhost_rnet")
        };
    };
    if !node.character {
        return Finding::problem(check, "/dev/vhost-rnet is not a device.")
            .mended_by("rm /dev/vhost-rnet && modprobe -r vhost_rnet && modprobe vhost_rnet");
    }
    let Some(kvm) = kvm else {
        return Finding::advice(
            check,
            "The host has no group kvm, so only root can open /dev/vhost-rnet.",
        )
        .mended_by(format!("groupadd --system {GROUP} && {RULE}"));
    };
    if node.gid != kvm || node.mode & MODE != MODE {
        return Finding::advice(
            check,
            format!(
                "Only root can be sure to open /dev/vhost-rnet: its group is {} with mode {:04o}, not \
                 {GROUP} with {MODE:04o}.",
                node.gid, node.mode
            ),
        )
        .mended_by(RULE);
    }
    if node.mode != MODE {
        return Finding::advice(
            check,
            format!(
                "/dev/vhost-rnet has mode {:04o}, so more users than those of the group {GROUP} can open it.",
                node.mode
            ),
        )
        .mended_by("chmod 0660 /dev/vhost-rnet");
    }
    Finding::ok(check, "The group kvm can open /dev/vhost-rnet.")
}

fn check_tun(files: &Files) -> Finding {
    let check = "tun";
    // A tun that is built in has no folder in /sys/module, and always its device.
    if files.has("sys/module/tun") || files.has("sys/class/misc/tun") {
        Finding::ok(check, "The kernel has tun loaded, which taps are made by.")
    } else {
        Finding::problem(check, "The module tun is not loaded, so there are no taps.")
            .mended_by("modprobe tun")
    }
}

fn check_kvm(files: &Files) -> Finding {
    let check = "kvm";
    if files.has("dev/kvm") {
        return Finding::ok(check, "There is /dev/kvm.");
    }
    let processor = files.read("proc/cpuinfo").unwrap_or_default();
    let has = |flag: &str| processor.split_whitespace().any(|word| word == flag);
    let finding = |why: &str| Finding::advice(check, format!("There is no /dev/kvm: {why}"));
    if has("vmx") {
        finding("its module is not loaded.").mended_by("modprobe kvm_intel")
    } else if has("svm") {
        finding("its module is not loaded.").mended_by("modprobe kvm_amd")
    } else {
        finding("the processor offers no virtualisation, or the firmware has it off.")
    }
}

fn check_debugfs(files: &Files) -> Finding {
    let check = "debugfs";
    let mounts = files.read("proc/mounts").unwrap_or_default();
    let is_there = mounts.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.nth(1) == Some("/sys/kernel/debug") && words.next() == Some("debugfs")
    });
    if is_there {
        Finding::ok(
            check,
            "debugfs is mounted, so the state of queues can be shown.",
        )
    } else {
        Finding::advice(
            check,
            "debugfs is not mounted, so rnetctl can show the counters of queues, and not their state.",
        )
        .mended_by("mount -t debugfs none /sys/kernel/debug")
    }
}

/// Rules that libvirt's profile of QEMU includes.
const RULES: [&str; 3] = [
    "etc/apparmor.d/abstractions/libvirt-qemu.d",
    "etc/apparmor.d/local/abstractions/libvirt-qemu",
    "etc/apparmor.d/abstractions/libvirt-qemu",
];

/// Whether AppArmor lets QEMU open the device, where it is on and libvirt has a profile for QEMU.
fn check_apparmor(files: &Files) -> Option<Finding> {
    let check = "apparmor";
    let enabled = files.line("sys/module/apparmor/parameters/enabled");
    if enabled.as_deref() != Some("Y") || !files.has("etc/apparmor.d/abstractions/libvirt-qemu") {
        return None;
    }
    let has_device = |path: &str| {
        let rules = files.read(path).unwrap_or_default();
        rules.lines().any(|line| {
            let rule = line.trim();
            rule.starts_with("/dev/vhost-rnet ") && rule.contains("rw")
        })
    };
    let found = RULES.iter().any(|place| match files.names(place) {
        Some(names) => names
            .iter()
            .any(|name| has_device(&format!("{place}/{name}"))),
        None => has_device(place),
    });
    Some(if found {
        Finding::ok(check, "AppArmor's profile of QEMU has the device.")
    } else {
        Finding::advice(
            check,
            "AppArmor's profile of QEMU lacks the device, so libvirt cannot attach an interface to a \
             running guest.",
        )
        .mended_by("apt install --reinstall ./vhost-rnet-tools_*.deb")
    })
}

#[cfg(test)]
mod tests {
    use super::super::files::Node;
    use super::super::files::tests::Fixture;
    use super::super::finding::Verdict;
    use super::{check_apparmor, check_debugfs, check_device, check_kvm, check_tun};

    fn device(character: bool, mode: u32, gid: u32) -> Option<Node> {
        Some(Node {
            character,
            mode,
            gid,
        })
    }

    #[test]
    fn the_device_is_for_kvm_and_nobody_else() {
        for (node, kvm, verdict) in [
            (device(true, 0o660, 106), Some(106), Verdict::Ok),
            (device(true, 0o600, 0), Some(106), Verdict::Advice),
            (device(true, 0o660, 0), Some(106), Verdict::Advice),
            (device(true, 0o640, 106), Some(106), Verdict::Advice),
            (device(true, 0o666, 106), Some(106), Verdict::Advice),
            (device(true, 0o660, 106), None, Verdict::Advice),
            (device(false, 0o660, 106), Some(106), Verdict::Problem),
            (None, Some(106), Verdict::Problem),
        ] {
            let finding = check_device(node, kvm, true);
            assert_eq!(finding.verdict, verdict, "{node:?}");
            assert_eq!(finding.command.is_some(), verdict != Verdict::Ok);
        }
        let finding = check_device(None, Some(106), false);
        assert_eq!(finding.command.as_deref(), Some("modprobe vhost_rnet"));
    }

    #[test]
    fn tun_is_loaded_or_built_in() {
        for sign in ["sys/module/tun/refcnt", "sys/class/misc/tun/dev"] {
            let fixture = Fixture::new().file(sign, "1\n");
            assert_eq!(check_tun(&fixture.files()).verdict, Verdict::Ok);
        }
        assert_eq!(check_tun(&Fixture::new().files()).verdict, Verdict::Problem);
    }

    #[test]
    fn the_module_of_kvm_is_named_for_the_processor() {
        let command = |flags: &str| {
            let fixture = Fixture::new().file("proc/cpuinfo", format!("flags : fpu {flags}\n"));
            let finding = check_kvm(&fixture.files());
            assert_eq!(finding.verdict, Verdict::Advice);
            finding.command
        };
        assert_eq!(command("vmx").as_deref(), Some("modprobe kvm_intel"));
        assert_eq!(command("svm").as_deref(), Some("modprobe kvm_amd"));
        assert_eq!(command("svm_lock"), None);
        let there = Fixture::new().file("dev/kvm", "");
        assert_eq!(check_kvm(&there.files()).verdict, Verdict::Ok);
    }

    #[test]
    fn debugfs_is_looked_for_where_it_belongs() {
        let verdict = |mounts: &str| {
            let fixture = Fixture::new().file("proc/mounts", mounts);
            check_debugfs(&fixture.files()).verdict
        };
        assert_eq!(
            verdict("none /sys/kernel/debug debugfs rw 0 0\n"),
            Verdict::Ok
        );
        assert_eq!(verdict("none /mnt debugfs rw 0 0\nodd\n"), Verdict::Advice);
        assert_eq!(
            verdict("none /sys/kernel/debug tmpfs rw 0 0\n"),
            Verdict::Advice
        );
    }

    #[test]
    fn apparmor_counts_where_it_confines_qemu() {
        let profile = "etc/apparmor.d/abstractions/libvirt-qemu";
        let enabled = "sys/module/apparmor/parameters/enabled";
        let with = |fixture: Fixture| check_apparmor(&fixture.files());
        let rule = "# why\n\n  /dev/vhost-rnet rw,\n";
        assert_eq!(with(Fixture::new().file(enabled, "Y\n")), None);
        assert_eq!(
            with(Fixture::new().file(profile, "").file(enabled, "N\n")),
            None
        );
        let confined = || {
            Fixture::new()
                .file(enabled, "Y\n")
                .file(profile, "/dev/net/tun rw,\n")
        };
        assert_eq!(with(confined()).map(|it| it.verdict), Some(Verdict::Advice));
        let commented = confined().file(&format!("{profile}.d/x"), "# /dev/vhost-rnet rw,\n");
        assert_eq!(with(commented).map(|it| it.verdict), Some(Verdict::Advice));
        for place in [&format!("{profile}.d/vhost-rnet"), profile] {
            let found = with(confined().file(place, rule));
            assert_eq!(found.map(|it| it.verdict), Some(Verdict::Ok), "{place}");
        }
    }
}
