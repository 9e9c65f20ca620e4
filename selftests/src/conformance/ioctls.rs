// SPDX-License-Identifier: GPL-2.0

//! All ioctls of `linux/vhost.h`, of every kind of vhost device.

use crate::sys::ioctl::{DIR_READ, DIR_WRITE, number};

/// The type of vhost's ioctl numbers (`VHOST_VIRTIO`).
const VHOST: u8 = 0xaf;

/// An ioctl that the kernel's header defines.
#[derive(Clone, Copy, Debug)]
pub struct Ioctl {
    /// Its name, without `VHOST_`.
    pub name: &'static str,
    /// Direction.
    direction: u64,
    /// Number within the type.
    nr: u8,
    /// Bytes of the argument, as encoded.
    pub size: usize,
}

impl Ioctl {
    /// The encoded number.
    #[must_use]
    pub const fn number(&self) -> u64 {
        number(self.direction, VHOST, self.nr, self.size)
    }
}

const fn none(name: &'static str, nr: u8) -> Ioctl {
    ioctl(name, 0, nr, 0)
}

const fn read(name: &'static str, nr: u8, size: usize) -> Ioctl {
    ioctl(name, DIR_READ, nr, size)
}

const fn write(name: &'static str, nr: u8, size: usize) -> Ioctl {
    ioctl(name, DIR_WRITE, nr, size)
}

const fn both(name: &'static str, nr: u8, size: usize) -> Ioctl {
    ioctl(name, DIR_READ | DIR_WRITE, nr, size)
}

const fn ioctl(name: &'static str, direction: u64, nr: u8, size: usize) -> Ioctl {
    Ioctl {
        name,
        direction,
        nr,
        size,
    }
}

/// The ioctls, by number.
pub const IOCTLS: &[Ioctl] = &[
    read("GET_FEATURES", 0x00, 8),
    write("SET_FEATURES", 0x00, 8),
    none("SET_OWNER", 0x01),
    none("RESET_OWNER", 0x02),
    write("SET_MEM_TABLE", 0x03, 8),
    write("SET_LOG_BASE", 0x04, 8),
    write("SET_LOG_FD", 0x07, 4),
    read("NEW_WORKER", 0x08, 4),
    write("FREE_WORKER", 0x09, 4),
    write("SET_VRING_NUM", 0x10, 8),
    write("SET_VRING_ADDR", 0x11, 40),
    write("SET_VRING_BASE", 0x12, 8),
    both("GET_VRING_BASE", 0x12, 8),
    write("SET_VRING_ENDIAN", 0x13, 8),
    write("GET_VRING_ENDIAN", 0x14, 8),
    write("ATTACH_VRING_WORKER", 0x15, 8),
    both("GET_VRING_WORKER", 0x16, 8),
    write("SET_VRING_KICK", 0x20, 8),
    write("SET_VRING_CALL", 0x21, 8),
    write("SET_VRING_ERR", 0x22, 8),
    write("SET_VRING_BUSYLOOP_TIMEOUT", 0x23, 8),
    write("GET_VRING_BUSYLOOP_TIMEOUT", 0x24, 8),
    write("SET_BACKEND_FEATURES", 0x25, 8),
    read("GET_BACKEND_FEATURES", 0x26, 8),
    write("NET_SET_BACKEND", 0x30, 8),
    write("SCSI_SET_ENDPOINT", 0x40, 232),
    write("SCSI_CLEAR_ENDPOINT", 0x41, 232),
    write("SCSI_GET_ABI_VERSION", 0x42, 4),
    write("SCSI_SET_EVENTS_MISSED", 0x43, 4),
    write("SCSI_GET_EVENTS_MISSED", 0x44, 4),
    write("VSOCK_SET_GUEST_CID", 0x60, 8),
    write("VSOCK_SET_RUNNING", 0x61, 4),
    read("VDPA_GET_DEVICE_ID", 0x70, 4),
    read("VDPA_GET_STATUS", 0x71, 1),
    write("VDPA_SET_STATUS", 0x72, 1),
    read("VDPA_GET_CONFIG", 0x73, 8),
    write("VDPA_SET_CONFIG", 0x74, 8),
    write("VDPA_SET_VRING_ENABLE", 0x75, 8),
    read("VDPA_GET_VRING_NUM", 0x76, 2),
    write("VDPA_SET_CONFIG_CALL", 0x77, 4),
    read("VDPA_GET_IOVA_RANGE", 0x78, 16),
    read("VDPA_GET_CONFIG_SIZE", 0x79, 4),
    read("VDPA_GET_AS_NUM", 0x7a, 4),
    both("VDPA_GET_VRING_GROUP", 0x7b, 8),
    write("VDPA_SET_GROUP_ASID", 0x7c, 8),
    none("VDPA_SUSPEND", 0x7d),
    none("VDPA_RESUME", 0x7e),
    both("VDPA_GET_VRING_DESC_GROUP", 0x7f, 8),
    read("VDPA_GET_VQS_COUNT", 0x80, 4),
    read("VDPA_GET_GROUP_NUM", 0x81, 4),
    both("VDPA_GET_VRING_SIZE", 0x82, 8),
    read("GET_FEATURES_ARRAY", 0x83, 8),
    write("SET_FEATURES_ARRAY", 0x83, 8),
    write("SET_FORK_FROM_OWNER", 0x84, 1),
    read("GET_FORK_FROM_OWNER", 0x85, 1),
];

/// The number of the ioctl called `name`.
///
/// # Panics
///
/// When there is none.
#[must_use]
pub const fn of(name: &str) -> u64 {
    let mut i = 0;
    while i < IOCTLS.len() {
        if same(IOCTLS[i].name.as_bytes(), name.as_bytes()) {
            return IOCTLS[i].number();
        }
        i += 1;
    }
    panic!("there is no such ioctl")
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

/// Numbers that `linux/vhost.h` does not define: known ones with another direction or size, and
/// every other one with those of most calls.
#[must_use]
pub fn undefined() -> Vec<(String, u64)> {
    let known = |number| IOCTLS.iter().any(|ioctl| ioctl.number() == number);
    let mut all = Vec::new();
    for ioctl in IOCTLS {
        for direction in 0..4 {
            for size in [0, 1, 4, 8, 16, 40, ioctl.size + 1, ioctl.size + 8] {
                let name = format!("{} as {direction}/{size}", ioctl.name);
                all.push((name, number(direction, VHOST, ioctl.nr, size)));
            }
        }
    }
    for nr in 0..=u8::MAX {
        let name = format!("vhost call {nr:#x}");
        all.push((name, number(DIR_WRITE, VHOST, nr, 8)));
    }
    // Calls of terminals, taps and nobody.
    let others = [0, 0x5401, 0x541b, 0x4004_54ca, u64::from(u32::MAX)];
    all.extend(others.map(|number| ("another family's call".to_owned(), number)));
    all.retain(|(_, number)| !known(*number));
    all.sort_by_key(|(_, number)| *number);
    all.dedup_by_key(|(_, number)| *number);
    all
}

/// The names of ioctls that `header`, the text of a `linux/vhost.h`, defines and [`IOCTLS`] lacks.
#[must_use]
pub fn missing(header: &str) -> Vec<&str> {
    let defined = header.lines().filter_map(|line| {
        let mut words = line.strip_prefix("#define VHOST_")?.split_whitespace();
        let name = words.next()?;
        words.next()?.starts_with("_IO").then_some(name)
    });
    let known = |name: &str| IOCTLS.iter().any(|ioctl| ioctl.name == name);
    defined.filter(|name| !known(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::{IOCTLS, missing, of, undefined};

    #[test]
    fn numbers_are_those_of_the_header() {
        assert_eq!(of("GET_FEATURES"), 0x8008_af00);
        assert_eq!(of("SET_OWNER"), 0xaf01);
        assert_eq!(of("GET_VRING_BASE"), 0xc008_af12);
        assert_eq!(of("SET_VRING_ADDR"), 0x4028_af11);
    }

    #[test]
    fn undefined_numbers_are_not_defined() {
        let all = undefined();
        assert!(all.len() > 1000);
        for ioctl in IOCTLS {
            assert!(all.iter().all(|(_, number)| *number != ioctl.number()));
        }
    }

    #[test]
    fn a_new_ioctl_is_noticed() {
        let header = "#define VHOST_VIRTIO 0xAF\n\
                      #define VHOST_SET_OWNER _IO(VHOST_VIRTIO, 0x01)\n\
                      #define VHOST_NEW_CALL\t_IOW(VHOST_VIRTIO, 0x31, \\\n";
        assert_eq!(missing(header), ["NEW_CALL"]);
    }
}
