// SPDX-License-Identifier: GPL-2.0

//! Bugs that vhost and its kin have had, and what would show each of them here.

use std::fmt;

/// A bug, or several of a kind.
#[derive(Clone, Copy, Debug)]
pub struct Bug {
    /// How it is known.
    pub id: &'static str,
    /// What was wrong.
    pub cause: &'static str,
    /// Cases that would show it, on any device.
    pub cases: &'static [&'static str],
    /// Tests of `vring` that would, as file in `src/vring/tests/host` and name.
    pub host: &'static [(&'static str, &'static str)],
    /// Why it cannot be, where nothing shows it, or what else there is to say.
    pub note: &'static str,
}

impl fmt::Display for Bug {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(to, "{}: {}", self.id, self.cause)?;
        for case in self.cases {
            writeln!(to, "    {case}")?;
        }
        for (file, name) in self.host {
            writeln!(to, "    vring, {file}: {name}")?;
        }
        if !self.note.is_empty() {
            writeln!(to, "    ({})", self.note)?;
        }
        Ok(())
    }
}

/// All of them.
pub const ALL: &[Bug] = &[
    Bug {
        id: "CVE-2013-0311",
        cause: "buffers that cross memory regions were accepted as a whole",
        cases: &[
            "guest.tx_touching_regions",
            "guest.rx_touching_regions",
            "guest.tx_bad_ring",
            "guest.rx_bad_ring",
        ],
        host: &[("chain.rs", "buffers_may_span_regions_but_not_holes")],
        note: "",
    },
    Bug {
        id: "CVE-2014-0055",
        cause: "errors in receive descriptors were taken for something else",
        cases: &["guest.rx_bad_ring", "guest.rx_bad_second_buffer"],
        host: &[
            ("chain.rs", "loops_end"),
            ("indirect.rs", "tables_do_not_nest"),
        ],
        note: "",
    },
    Bug {
        id: "CVE-2014-0077",
        cause: "packets longer than the buffer were received without MRG_RXBUF",
        cases: &["rx.too_long", "in_order.too_long", "frames.jumbo"],
        host: &[],
        note: "",
    },
    Bug {
        id: "CVE-2014-0131",
        cause: "guest pages were sent without a copy, and not let go",
        cases: &[],
        host: &[],
        note: "every packet is copied",
    },
    Bug {
        id: "CVE-2015-6252",
        cause: "SET_LOG_FD kept a reference to each descriptor",
        cases: &["history.event_descriptors", "history.backends"],
        host: &[],
        note: "",
    },
    Bug {
        id: "CVE-2018-1118, CVE-2024-0340",
        cause: "messages were read with bytes that nobody had written",
        cases: &["iotlb.read", "messages.none"],
        host: &[],
        note: "",
    },
    Bug {
        id: "CVE-2018-16880",
        cause: "a packet of many buffers behind a full batch ran over the list of them",
        cases: &["rx.byte_buffers", "in_order.spanning_buffers"],
        host: &[],
        note: "",
    },
    Bug {
        id: "CVE-2019-3900",
        cause: "a guest that made work faster than it was done kept the worker for ever",
        cases: &["history.fairness", "history.kill_flood"],
        host: &[],
        note: "",
    },
    Bug {
        id: "CVE-2019-14835",
        cause: "empty buffers were entered in the list of what to log, without a check",
        cases: &["history.empty_buffers", "log.chains"],
        host: &[("chain.rs", "endless_empty_descriptors_are_too_long")],
        note: "",
    },
    Bug {
        id: "CVE-2020-10942",
        cause: "any socket was taken for a backend",
        cases: &["ioctl.backend_wrong"],
        host: &[],
        note: "",
    },
    Bug {
        id: "CVE-2023-1838",
        cause: "the backend's descriptor was looked up twice",
        cases: &["live.backend_race"],
        host: &[],
        note: "",
    },
    Bug {
        id: "CVE-2022-0998",
        cause: "lengths that the user gives wrapped",
        cases: &[
            "ioctl.memory",
            "ioctl.vring_addr",
            "ioctl.features_array_set",
            "iotlb.malformed",
            "log.arguments",
        ],
        host: &[
            ("table.rs", "empty_regions_and_wrapping_ones_are_refused"),
            ("iotlb.rs", "what_ends_before_it_starts_or_wraps_is_refused"),
            ("log.rs", "ranges_that_wrap_have_no_log"),
        ],
        note: "",
    },
    Bug {
        id: "CVE-2024-41090, CVE-2024-41091",
        cause: "frames shorter than an Ethernet header were sent",
        cases: &[
            "guest.tx_short_frame",
            "guest.tx_short_header",
            "history.short_frames",
        ],
        host: &[],
        note: "",
    },
    Bug {
        id: "CVE-2026-46320, CVE-2026-46321, CVE-2026-46322",
        cause: "short frames in a batch kept their memory",
        cases: &["history.short_frames", "life.memory"],
        host: &[],
        note: "",
    },
    Bug {
        id: "CVE-2025-40024",
        cause: "a worker ended on a signal and was woken afterwards",
        cases: &[
            "history.kick_the_dead",
            "kill.under_traffic",
            "kill.before_kick",
            "kill.shared_device",
            "kill.random",
            "workers.kill",
        ],
        host: &[],
        note: "",
    },
    Bug {
        id: "CVE-2026-74310",
        cause: "a packet sent without a copy was completed once for each clone",
        cases: &[],
        host: &[],
        note: "every packet is copied",
    },
    Bug {
        id: "CVE-2026-74356",
        cause: "a packet that lacked one buffer was tried again and again",
        cases: &["rx.one_short", "in_order.one_short", "rx.unwoken"],
        host: &[],
        note: "",
    },
    Bug {
        id: "CVE-2026-74580",
        cause: "the translation of a ring was kept when the ring moved",
        cases: &["history.moved_ring", "live.ring_move", "iotlb.moved_pages"],
        host: &[("live.rs", "a_moved_ring_is_read_at_the_new_place_only")],
        note: "",
    },
    Bug {
        id: "CVE-2026-74713",
        cause: "an owner could enter mappings without end",
        cases: &["history.mappings", "iotlb.eviction"],
        host: &[("iotlb.rs", "a_full_table_forgets_the_oldest_first")],
        note: "",
    },
    Bug {
        id: "CVE-2024-47748",
        cause: "the bypass of interrupts used a call descriptor that was gone",
        cases: &["live.event_descriptors"],
        host: &[],
        note: "there is no such bypass; what is tested is the exchange of the descriptor",
    },
    Bug {
        id: "CVE-2026-74312 and kin",
        cause: "a queue index was not checked, or was used speculatively before",
        cases: &["ioctl.vring_index", "workers.calls"],
        host: &[],
        note: "no table is indexed with it, so that there is nothing to speculate into",
    },
    Bug {
        id: "vhost-scsi: CVE-2024-49863, CVE-2025-22083 and kin",
        cause: "repeated and racing calls to set an endpoint were not expected",
        cases: &[
            "history.owner_race",
            "history.backends",
            "live.rebind",
            "live.features",
            "live.reset_owner",
        ],
        host: &[],
        note: "the calls of scsi itself are not served",
    },
    Bug {
        id: "syzbot e08a9fac5cf8",
        cause: "guest memory was read with preemption off while busy polling",
        cases: &["history.busy_faults", "faults.swap", "busy.exchange"],
        host: &[],
        note: "a kernel with DEBUG_ATOMIC_SLEEP tells more",
    },
    Bug {
        id: "syzbot adc3cb32385586bec859",
        cause: "a queue was cleared while it was in use",
        cases: &["life.close_under_traffic", "history.owner_race"],
        host: &[],
        note: "",
    },
    Bug {
        id: "follow-ups of IN_ORDER",
        cause: "buffers that were discarded, or found while busy polling, were counted wrong",
        cases: &[
            "history.busy_faults",
            "busy.exchange",
            "in_order.too_long",
            "in_order.one_short",
            "in_order.send_buffer",
            "in_order.spanning_buffers",
            "in_order.groups",
        ],
        host: &[(
            "in_order.rs",
            "groups_follow_each_other_across_the_end_of_ring_and_index",
        )],
        note: "",
    },
    Bug {
        id: "drafts of packed rings",
        cause: "wrap counters in the base, the id of a chain, flags kept in used descriptors",
        cases: &["ioctl.features"],
        host: &[],
        note: "packed rings are not offered",
    },
    Bug {
        id: "7f466032, reverted",
        cause: "rings that were mapped into the kernel raced changes of the owner's memory",
        cases: &["guest.tx_closed_ring", "history.busy_faults"],
        host: &[],
        note: "rings are not mapped: each access goes through the owner's page table",
    },
];

#[cfg(test)]
mod tests {
    use super::ALL;
    use crate::cases;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn cases_are_there() {
        let names: BTreeSet<_> = cases::all().iter().map(|case| case.name).collect();
        for bug in ALL {
            for case in bug.cases {
                assert!(names.contains(case), "{}: no case {case}", bug.id);
            }
        }
    }

    #[test]
    fn host_tests_are_there() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/vring/tests/host");
        for bug in ALL {
            for (file, name) in bug.host {
                let text = std::fs::read_to_string(dir.join(file)).expect("a file of host tests");
                let one = text.contains(&format!("#[test]\nfn {name}("));
                // For each format of a ring, a test in a list of them.
                let each = text.contains(&format!("\nfn {name}<F: Format>("))
                    && text.contains(&format!("\n    {name},\n"));
                assert!(one || each, "{}: no test {name}", bug.id);
            }
        }
    }

    #[test]
    fn every_bug_is_shown_or_cannot_be() {
        for bug in ALL {
            let shown = !bug.cases.is_empty() || !bug.host.is_empty();
            assert!(shown || !bug.note.is_empty(), "{}", bug.id);
        }
    }

    #[test]
    fn every_case_of_the_family_is_for_a_bug() {
        let named: BTreeSet<_> = ALL.iter().flat_map(|bug| bug.cases).collect();
        let family = cases::all();
        let family = family
            .iter()
            .filter(|case| case.name.starts_with("history."));
        for case in family {
            assert!(named.contains(&case.name), "{} is for no bug", case.name);
        }
    }
}
