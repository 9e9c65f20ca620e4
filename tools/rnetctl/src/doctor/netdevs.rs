// SPDX-License-Identifier: GPL-2.0
//! What in a guest's command line keeps its packets off the fast path.

use super::finding::Finding;
use super::guest::{Guest, Module};
use super::qemu::{CommandLine, Netdev, Options};

/// Properties of the guest's network card that are best left on, and what is lost without.
const WANTED: [(&str, &str); 6] = [
    (
        "event_idx",
        "guest and host notify each other more often than they need",
    ),
    (
        "mrg_rxbuf",
        "each receive buffer has to be as long as the longest packet",
    ),
    ("indirect_desc", "the ring holds fewer packets"),
    (
        "csum",
        "the guest computes checksums, and cuts large packets up itself",
    ),
    (
        "host_tso4",
        "the guest cuts up the large packets that it sends",
    ),
    ("guest_tso4", "the guest gets large packets cut up"),
];

/// Looks at each tap on the command line of a guest.
pub fn check(guest: &Guest) -> Vec<Finding> {
    let Some(line) = &guest.qemu else {
        return Vec::new();
    };
    let taps = line.netdevs.iter().filter(|netdev| {
        let kind = netdev.backend.kind();
        kind == "tap" || kind == "bridge"
    });
    taps.flat_map(|netdev| {
        let subject = format!("{}, {}", guest.subject(), netdev.id());
        let mut findings = vec![check_vhost(guest, line, netdev)];
        findings.extend(check_send_buffer(line, netdev));
        if let Some(device) = &netdev.device {
            findings.extend(check_card(line, device));
            findings.extend(check_queues(line, netdev, device));
            findings.extend(check_rings(device));
        }
        findings
            .into_iter()
            .map(move |finding| finding.about(&subject))
    })
    .collect()
}

/// The command that changes a guest: its definition in libvirt, or else what QEMU wants to be told.
fn mend(line: &CommandLine, definition: &str, option: &str) -> String {
    match &line.name {
        Some(name) if line.of_libvirt => format!("virsh edit {} # {definition}", quoted(name)),
        _ => format!("qemu-system-x86_64 ... {option}"),
    }
}

/// A word of a shell's command.
fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.:/".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn check_vhost(guest: &Guest, line: &CommandLine, netdev: &Netdev) -> Finding {
    let check = "vhost";
    let command = mend(
        line,
        "<driver name='vhost'/> <backend vhost='/dev/vhost-rnet'/>",
        "-netdev tap,...,vhost=on,vhostfd=3 3<>/dev/vhost-rnet",
    );
    if !netdev.has_vhost() {
        return Finding::advice(check, "Packets pass through QEMU, because vhost is off.")
            .mended_by(command);
    }
    let descriptors = netdev.vhost_descriptors();
    if descriptors.is_empty() {
        return Finding::advice(
            check,
            "QEMU opens /dev/vhost-net, because it was handed no descriptor of /dev/vhost-rnet.",
        )
        .mended_by(command);
    }
    let module = |descriptor: &str| {
        let device = guest
            .devices
            .iter()
            .find(|(number, _)| number == descriptor);
        device.map(|(_, module)| *module)
    };
    let modules: Vec<_> = descriptors.iter().map(|number| module(number)).collect();
    if modules.contains(&Some(Module::Net)) {
        return Finding::advice(
            check,
            "A descriptor that QEMU was handed is of /dev/vhost-net.",
        )
        .mended_by(command);
    }
    if modules.contains(&None) {
        return Finding::advice(
            check,
            "A descriptor that QEMU was handed is of no vhost device that is open now.",
        );
    }
    Finding::ok(check, "The queues are served by vhost-rnet.")
}

fn check_send_buffer(line: &CommandLine, netdev: &Netdev) -> Option<Finding> {
    let size = netdev.backend.get("sndbuf").filter(|size| *size != "0")?;
    Some(
        Finding::advice(
            "send-buffer",
            format!("The tap is sent one packet at a time, because its send buffer is limited to {size}."),
        )
        .mended_by(mend(line, "<tune> without <sndbuf>", "-netdev tap,... without sndbuf=")),
    )
}

fn check_card(line: &CommandLine, device: &Options) -> Vec<Finding> {
    let off = WANTED
        .iter()
        .filter(|(property, _)| device.switch(property) == Some(false));
    off.map(|(property, lost)| {
        Finding::advice(
            "card",
            format!("The guest's card has {property}=off: {lost}."),
        )
        .mended_by(mend(
            line,
            &format!("<driver> without what turns {property} off"),
            &format!("-device {},... without {property}=off", device.kind()),
        ))
    })
    .collect()
}

fn check_queues(line: &CommandLine, netdev: &Netdev, device: &Options) -> Option<Finding> {
    let check = "queues";
    let pairs = netdev.pairs();
    // Cards of other kinds have a single pair.
    if !device.kind().starts_with("virtio-net") {
        return None;
    }
    if pairs > 1 && device.switch("mq") != Some(true) {
        return Some(
            Finding::advice(
                check,
                format!(
                    "The guest uses one of {pairs} queue pairs, because its card has no mq=on."
                ),
            )
            .mended_by(mend(
                line,
                &format!("<driver name='vhost' queues='{pairs}'/>"),
                &format!("-device {},mq=on,...", device.kind()),
            )),
        );
    }
    if pairs == 1 && line.processors > 1 {
        let wanted = line.processors;
        return Some(
            Finding::advice(
                check,
                format!(
                    "{wanted} virtual processors share one queue pair, which one thread serves."
                ),
            )
            .mended_by(mend(
                line,
                &format!("<driver name='vhost' queues='{wanted}'/>"),
                &format!(
                    "-netdev tap,...,queues={wanted} -device {},mq=on,...",
                    device.kind()
                ),
            )),
        );
    }
    let pairs = if pairs == 1 {
        "one queue pair".to_owned()
    } else {
        format!("{pairs} queue pairs")
    };
    Some(Finding::ok(check, format!("The guest has {pairs}.")))
}

fn check_rings(device: &Options) -> Option<Finding> {
    let check = "rings";
    Some(match device.switch("packed")? {
        true => Finding::ok(
            check,
            "The rings are packed, so the guest cannot move to a host that has only vhost-net.",
        ),
        false => Finding::ok(
            check,
            "The rings are split, which vhost-net could serve, too.",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::Fixture;
    use super::super::finding::{Finding, Verdict};
    use super::super::guest::find;
    use super::super::guest::tests::{INFO, open, process};
    use super::{check, quoted};

    fn findings(command: &str) -> Vec<Finding> {
        let mut fixture = process(Fixture::new(), 10, &format!("qemu-system-x86_64 {command}"));
        fixture = open(fixture, 10, 3, "/dev/vhost-rnet", INFO);
        fixture = open(fixture, 10, 4, "/dev/vhost-net", "");
        check(&find(&fixture.files()).guests[0])
    }

    /// The verdict and the command of one check.
    fn of(command: &str, check: &str) -> Option<(Verdict, Option<String>)> {
        let found = findings(command).into_iter().find(|it| it.check == check)?;
        Some((found.verdict, found.command))
    }

    #[test]
    fn the_device_behind_a_tap_is_told() {
        for (netdev, verdict) in [
            ("tap,id=n,vhost=on,vhostfd=3", Verdict::Ok),
            ("tap,id=n,vhostfd=4", Verdict::Advice),
            ("tap,id=n,vhostfds=3:4", Verdict::Advice),
            ("tap,id=n,vhostfd=9", Verdict::Advice),
            ("tap,id=n,vhost=on", Verdict::Advice),
            ("tap,id=n,vhost=off", Verdict::Advice),
            ("bridge,id=n", Verdict::Advice),
        ] {
            let found = of(&format!("-netdev {netdev}"), "vhost").expect("a finding");
            assert_eq!(found.0, verdict, "{netdev}");
        }
        assert!(findings("-netdev user,id=n").is_empty());
    }

    #[test]
    fn a_guest_of_libvirt_is_mended_there() {
        let command = "-name guest=a;b -netdev tap,id=n -object secret,file=/var/lib/libvirt/x";
        let (_, mended) = of(command, "vhost").expect("a finding");
        assert!(mended.expect("a command").starts_with("virsh edit 'a;b' #"));
        let (_, mended) = of("-netdev tap,id=n", "vhost").expect("a finding");
        assert!(mended.expect("a command").contains("3<>/dev/vhost-rnet"));
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("db-1"), "db-1");
    }

    #[test]
    fn a_limited_send_buffer_is_told() {
        let verdict = |sndbuf: &str| {
            of(
                &format!("-netdev tap,id=n,vhostfd=3{sndbuf}"),
                "send-buffer",
            )
            .map(|it| it.0)
        };
        assert_eq!(verdict(",sndbuf=1048576"), Some(Verdict::Advice));
        assert_eq!(verdict(",sndbuf=0"), None);
        assert_eq!(verdict(""), None);
    }

    #[test]
    fn each_property_that_is_off_is_told() {
        for property in [
            "event_idx",
            "mrg_rxbuf",
            "indirect_desc",
            "csum",
            "host_tso4",
            "guest_tso4",
        ] {
            let with = |value: &str| {
                let card = format!("virtio-net-pci,netdev=n,{property}={value}");
                of(
                    &format!("-netdev tap,id=n,vhostfd=3 -device {card}"),
                    "card",
                )
            };
            assert_eq!(
                with("off").map(|it| it.0),
                Some(Verdict::Advice),
                "{property}"
            );
            assert_eq!(with("on"), None);
        }
    }

    #[test]
    fn queues_are_compared_with_processors() {
        for (processors, netdev, card, verdict) in [
            (1, "", "", Verdict::Ok),
            (4, "", "", Verdict::Advice),
            (4, ",queues=4", "", Verdict::Advice),
            (4, ",queues=4", ",mq=on", Verdict::Ok),
            (4, ",fds=7:8", ",mq=on", Verdict::Ok),
        ] {
            let line = format!(
                "-smp {processors} -netdev tap,id=n,vhost=on{netdev} -device virtio-net-pci,netdev=n{card}"
            );
            assert_eq!(of(&line, "queues").map(|it| it.0), Some(verdict), "{line}");
        }
        assert_eq!(
            of("-smp 4 -netdev tap,id=n -device e1000,netdev=n", "queues"),
            None
        );
    }

    #[test]
    fn the_format_of_rings_is_told_if_it_was_asked_for() {
        let sentence = |packed: &str| {
            let found = findings(&format!(
                "-netdev tap,id=n,vhostfd=3 -device virtio-net-pci,netdev=n{packed}"
            ));
            let found = found.into_iter().find(|it| it.check == "rings")?;
            assert_eq!(found.verdict, Verdict::Ok);
            Some(found.sentence)
        };
        assert!(
            sentence(",packed=on")
                .expect("a sentence")
                .contains("cannot move")
        );
        assert!(
            sentence(",packed=off")
                .expect("a sentence")
                .contains("split")
        );
        assert_eq!(sentence(""), None);
    }
}
