// SPDX-License-Identifier: GPL-2.0

//! Frames whose every byte follows from a seed, a sequence number and a length.

use anyhow::{Result, bail};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

/// An EtherType that no protocol handler of the kernel takes ("local experimental").
pub const ETHERTYPE: u16 = 0x88b5;
/// The length of an Ethernet header.
pub const ETH_HEADER: usize = 14;
const IP_HEADER: usize = 20;
const TCP_HEADER: usize = 20;

fn rng(seed: u64, sequence: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed ^ sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Writes frame `sequence` into `out`, replacing what was there.
///
/// Both addresses are content too, but for the bit that says multicast, so that even the
/// shortest frame can be told from its neighbours.
pub fn build(seed: u64, sequence: u64, len: usize, out: &mut Vec<u8>) {
    out.clear();
    out.resize(len, 0);
    rng(seed, sequence).fill_bytes(out);
    let header = [0x02, (sequence >> 8) as u8, sequence as u8];
    for (to, from) in out.iter_mut().zip(header) {
        *to = from;
    }
    if let Some(kind) = out.get_mut(12..ETH_HEADER) {
        kind.copy_from_slice(&ETHERTYPE.to_be_bytes());
    }
}

/// A frame of `len` bytes, at least a header, of a type that no peer takes.
#[must_use]
pub fn unseen(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    build(seed, 0, len, &mut bytes);
    bytes[12..ETH_HEADER].copy_from_slice(&(ETHERTYPE + 1).to_be_bytes());
    bytes
}

/// Writes a TCP/IPv4 frame whose checksum is left to be filled in, ready for segmentation.
pub fn build_tcp(seed: u64, sequence: u64, len: usize, out: &mut Vec<u8>) {
    build(seed, sequence, len, out);
    let total = u16::try_from(len - ETH_HEADER).unwrap_or(u16::MAX);
    out[12..ETH_HEADER].copy_from_slice(&0x0800u16.to_be_bytes());
    let ip = &mut out[ETH_HEADER..ETH_HEADER + IP_HEADER];
    ip.fill(0);
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[8] = 64;
    ip[9] = 6;
    let tcp = &mut out[ETH_HEADER + IP_HEADER..TCP_HEADERS];
    tcp[12] = 0x50;
    tcp[13] = 0x10;
    tcp[18..20].fill(0);
    set_addresses(out, [192, 0, 2, 1], [192, 0, 2, 2]);
}

/// Changes the IPv4 addresses of a frame made by [`build_tcp`], and the sums that depend on them.
pub fn set_addresses(frame: &mut [u8], source: [u8; 4], destination: [u8; 4]) {
    let (ip, tcp) = frame[ETH_HEADER..TCP_HEADERS].split_at_mut(IP_HEADER);
    ip[10..12].fill(0);
    ip[12..16].copy_from_slice(&source);
    ip[16..20].copy_from_slice(&destination);
    let sum = !internet_sum(&[ip]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let total = u16::from_be_bytes([ip[2], ip[3]]);
    // The pseudo-header's sum is what CHECKSUM_PARTIAL starts from.
    let pseudo = [&ip[12..], &[0, 6], &(total - 20).to_be_bytes()];
    tcp[16..18].copy_from_slice(&internet_sum(&pseudo).to_be_bytes());
}

/// Length of all headers of a frame made by [`build_tcp`].
pub const TCP_HEADERS: usize = ETH_HEADER + IP_HEADER + TCP_HEADER;

/// The Internet checksum, not inverted, of parts of which only the last may have an odd length.
#[must_use]
pub fn internet_sum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = parts
        .iter()
        .flat_map(|part| part.chunks(2))
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // CAST: folded to 16 bits just above.
    sum as u16
}

/// Compares a received frame with the expected one and names the first difference.
///
/// # Errors
///
/// When they differ.
pub fn expect(what: &str, sequence: u64, expected: &[u8], got: &[u8]) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    let at = expected.iter().zip(got).position(|(a, b)| a != b);
    let hint = |bytes: &[u8]| u16::from_be_bytes([bytes[1], bytes[2]]);
    bail!(
        "{what} frame {sequence}: {} bytes expected, {} received, first difference at {:?} \
         (sequence number in it: {:?})",
        expected.len(),
        got.len(),
        at,
        (got.len() >= ETH_HEADER).then(|| hint(got)),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_differ_by_seed_number_and_length() {
        let make = |seed, sequence, len| {
            let mut bytes = Vec::new();
            build(seed, sequence, len, &mut bytes);
            bytes
        };
        assert_eq!(make(1, 2, 60), make(1, 2, 60));
        assert_ne!(make(1, 2, 60), make(2, 2, 60));
        assert_ne!(make(1, 2, 14), make(1, 3, 14));
        assert_ne!(make(1, 2, 14), make(1, 2 + (1 << 16), 14));
        assert_eq!(make(1, 2, 5).len(), 5);
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let mut bytes = Vec::new();
        build(1, 2, 100, &mut bytes);
        assert!(expect("same", 2, &bytes, &bytes).is_ok());
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(expect("changed", 2, &bytes, &changed).is_err());
        }
        assert!(expect("short", 2, &bytes, &bytes[..99]).is_err());
        assert!(expect("empty", 2, &bytes, &[]).is_err());
    }

    #[test]
    fn the_header_sum_of_a_tcp_frame_is_right() {
        let mut bytes = Vec::new();
        build_tcp(1, 2, 1514, &mut bytes);
        let ip = &bytes[ETH_HEADER..ETH_HEADER + IP_HEADER];
        assert_eq!(internet_sum(&[ip]), 0xffff);
    }
}
