// SPDX-License-Identifier: GPL-2.0
//! Each rule and each note, made to apply.

use super::explain;
use super::facts::{Facts, Link};
use super::{faults, rules};
use crate::debugfs::{QueueState, Wait};
use crate::device::{Device, Direction, Kind};
use crate::fixture;
use crate::scan::{self, DebugFs};

/// A change of the facts that makes a rule apply.
type Change = fn(&mut Device, &mut Extra);

/// What is not in the device.
struct Extra {
    direction: Direction,
    debugfs: DebugFs,
    link: Option<Link>,
    stands_still: bool,
}

/// Each rule with what makes it the first that applies to a device that is well.
const ROWS: [(&str, Change); 21] = [
    ("vhost_net", |device, _| device.kind = Kind::Net),
    ("frozen", |device, _| device.process.frozen = true),
    ("process_stopped", |device, _| {
        device.process.task.state = Some('T');
    }),
    ("no_owner", |device, _| {
        device.owner = None;
        device.folder = None;
        device.rx.state = None;
    }),
    ("no_state", |device, extra| {
        device.rx.state = None;
        extra.debugfs = DebugFs::Denied;
    }),
    ("running", |device, _| state(device).running = Some(true)),
    ("not_started", |device, _| {
        state(device).started = Some(false)
    }),
    ("stopped", |device, _| {
        state(device).stopped = Some(true);
        state(device).fault = Some("desc_index".to_owned());
    }),
    ("translation", |device, _| {
        state(device).waits_for = Some(Wait::Translation);
    }),
    ("interface_down", |_, extra| {
        extra.link = Some(Link {
            up: false,
            carrier: None,
        });
    }),
    ("lost_kick", |device, extra| {
        state(device).waits_for = Some(Wait::Kick);
        state(device).available = Some(true);
        extra.stands_still = true;
    }),
    ("about_to_kick", |device, _| {
        state(device).waits_for = Some(Wait::Kick);
        state(device).available = Some(true);
    }),
    ("room", |device, _| {
        state(device).waits_for = Some(Wait::Room)
    }),
    ("retry", |device, _| {
        state(device).waits_for = Some(Wait::Retry)
    }),
    ("no_carrier", |_, extra| {
        extra.link = Some(Link {
            up: true,
            carrier: Some(false),
        });
    }),
    ("packet", |_, _| {}),
    ("no_buffers", |device, _| {
        state(device).waits_for = Some(Wait::Kick)
    }),
    ("nothing_to_send", |_, extra| {
        extra.direction = Direction::Tx
    }),
    ("no_backend", |device, _| {
        state(device).waits_for = Some(Wait::Nothing);
        state(device).backend = Some("none".to_owned());
    }),
    ("about_to_run", |device, _| {
        state(device).waits_for = Some(Wait::Nothing);
    }),
    ("unknown", |device, _| state(device).waits_for = None),
];

fn state(device: &mut Device) -> &mut QueueState {
    device.rx.state.as_mut().unwrap()
}

/// The lines about a device that is well but for `change`.
fn said(change: Change) -> (&'static str, String) {
    let host = fixture::usual();
    let mut devices = scan::scan(&host.host()).unwrap().devices;
    let device = &mut devices[0];
    let mut extra = Extra {
        direction: Direction::Rx,
        debugfs: DebugFs::Read,
        link: Some(Link {
            up: true,
            carrier: Some(true),
        }),
        stands_still: false,
    };
    change(device, &mut extra);
    let mut facts = Facts::of(&host.host(), device, extra.direction, extra.debugfs);
    facts.link = extra.link;
    facts.stands_still = extra.stands_still;
    let said = explain(&facts);
    (said.answer.rule, said.lines(true).join("\n"))
}

#[test]
fn each_rule_applies_to_what_it_is_for() {
    assert_eq!(
        ROWS.map(|(name, _)| name),
        rules::RULES.map(|rule| rule.name)
    );
    let mut text = String::new();
    for (name, change) in ROWS {
        let (rule, lines) = said(change);
        assert_eq!(rule, name);
        text.push_str(&format!("[{name}]\n{lines}\n\n"));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn each_fault_is_told() {
    let mut text = String::new();
    for fault in &faults::FAULTS {
        let host = fixture::usual();
        let mut devices = scan::scan(&host.host()).unwrap().devices;
        let state = devices[0].tx.state.as_mut().unwrap();
        state.stopped = Some(true);
        state.fault = Some(fault.name.to_owned());
        let facts = Facts::of(&host.host(), &devices[0], Direction::Tx, DebugFs::Read);
        let answer = explain(&facts).answer;
        assert_eq!(answer.rule, "stopped");
        text.push_str(&format!(
            "{}\n  {}\n  {}\n",
            answer.what,
            answer.turn,
            answer.advice.unwrap()
        ));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_fault_of_another_version_is_named() {
    let (rule, lines) = said(|device, _| {
        state(device).stopped = Some(true);
        state(device).fault = Some("new\x1b".to_owned());
    });
    assert_eq!(rule, "stopped");
    assert!(lines.contains("a fault called new\\u{1b} "), "{lines}");
}

#[test]
fn each_note_is_written() {
    let host = fixture::usual();
    let numbers: String = [
        "dropped_refused",
        "dropped_too_long",
        "dropped_header",
        "dropped_no_memory",
        "dropped_unmapped",
        "ended_no_room",
        "ended_retry",
        "watchdog",
    ]
    .iter()
    .map(|key| format!("tx_{key}:\t3\n"))
    .collect();
    let info = format!("{}{numbers}", fixture::fdinfo(3, 4711, 10));
    host.file(4711, 9, "/dev/vhost-rnet", &info);
    host.queue(
        "4711-3",
        "tx",
        "started:\tyes\nlog:\tyes\ninterface:\telsewhere\n",
    );
    let devices = scan::scan(&host.host()).unwrap().devices;
    let facts = Facts::of(&host.host(), &devices[0], Direction::Tx, DebugFs::Read);
    insta::assert_snapshot!(explain(&facts).notes.join("\n"));
}

#[test]
fn links_are_read() {
    let host = fixture::usual();
    host.interface("down", 20, 0x1002, false);
    let read = |name| Link::read(&host.host(), name);
    assert!(read("tap0").is_some_and(|link| link.up && link.carrier == Some(true)));
    assert!(read("down").is_some_and(|link| !link.up));
    for name in ["none", "../net/tap0", "..", ""] {
        assert_eq!(read(name), None, "{name}");
    }
}

#[test]
fn times_have_a_unit() {
    let shown = [0, 9999, 10_000, 599_999, 600_000, 36_000_000].map(super::time);
    assert_eq!(
        shown,
        ["0 ms", "9999 ms", "10 s", "599 s", "10 minutes", "10 hours"]
    );
}
