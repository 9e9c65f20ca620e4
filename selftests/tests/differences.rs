// SPDX-License-Identifier: GPL-2.0

//! The table of differences in traffic names cases: they have to exist.

use selftests::cases;
use selftests::conformance::differences::IN_TRAFFIC;

#[test]
fn differences_in_traffic_are_cases() {
    let all = cases::all();
    for name in IN_TRAFFIC.iter().flat_map(|course| course.cases) {
        assert!(all.iter().any(|case| case.name == *name), "{name}");
    }
}
