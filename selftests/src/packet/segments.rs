// SPDX-License-Identifier: GPL-2.0

//! TCP frames that are cut into segments on their way, and checked segment by segment where they
//! arrive.
//!
//! The host may change addresses, and add outer headers. It must not change the payload, which
//! follows from the sequence number, and all checksums of a segment have to be right.

use crate::packet::frame;
use crate::packet::header::NetHeader;
use anyhow::{Context, Result, bail};

/// Payload of each segment, so that one with the headers of a tunnel is no longer than 1500 bytes.
const SEGMENT: u16 = 1390;
/// The destination port of VXLAN frames.
const VXLAN: u16 = 4789;
/// Outer UDP and VXLAN headers.
const TUNNEL: usize = 8 + 8;

const ETH: usize = frame::ETH_HEADER;
const IP: usize = 20;
const TCP: usize = 20;
/// Length of all headers of a frame that is sent.
pub const HEADERS: usize = frame::TCP_HEADERS;

/// Where frames go.
#[derive(Clone, Copy, Debug)]
pub struct Destination {
    /// Ethernet address.
    pub mac: [u8; 6],
    /// IPv4 address.
    pub ip: [u8; 4],
}

/// One frame of a stream.
#[derive(Debug)]
struct Sent {
    /// Where its payload begins in the stream, which tells frames apart.
    start: usize,
    payload: Vec<u8>,
}

/// Frames of one TCP connection that nobody acknowledges.
#[derive(Debug)]
pub struct Stream {
    seed: u64,
    source: [u8; 4],
    to: Destination,
    port: u16,
    sent: Vec<Sent>,
    len: usize,
}

impl Stream {
    /// A stream without frames to a port, which tells streams apart.
    #[must_use]
    pub fn new(seed: u64, source: [u8; 4], to: Destination, port: u16) -> Self {
        Self {
            seed,
            source,
            to,
            port,
            sent: Vec::new(),
            len: 0,
        }
    }

    /// Makes the next frame, of `len` bytes, into `out`; answers the header that asks for segments.
    ///
    /// # Panics
    ///
    /// When the length is not more than [`HEADERS`], or more than 64 KiB.
    pub fn next(&mut self, len: usize, out: &mut Vec<u8>) -> NetHeader {
        let (start, size) = (self.len, len - HEADERS);
        // The payload follows from where it begins in the stream.
        frame::build_tcp(self.seed, start as u64, len, out);
        frame::set_addresses(out, self.source, self.to.ip);
        out[..6].copy_from_slice(&self.to.mac);
        out[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0]);
        let tcp = &mut out[ETH + IP..HEADERS];
        tcp[..2].copy_from_slice(&20000u16.to_be_bytes());
        tcp[2..4].copy_from_slice(&self.port.to_be_bytes());
        // CAST: a test sends less than 4 GiB.
        tcp[4..8].copy_from_slice(&(start as u32).to_be_bytes());
        tcp[8..12].fill(0);
        let payload = out[HEADERS..].to_vec();
        self.sent.push(Sent { start, payload });
        self.len += size;
        let large = size > usize::from(SEGMENT);
        NetHeader {
            flags: 1,
            gso_type: u8::from(large),
            // CAST: 54.
            hdr_len: HEADERS as u16,
            gso_size: if large { SEGMENT } else { 0 },
            csum_start: (ETH + IP) as u16,
            csum_offset: 16,
            ..NetHeader::default()
        }
    }

    /// Forgets the frames so far: the next is the first again, of a number and of what arrives.
    pub fn forget(&mut self) {
        self.sent.clear();
    }
}

/// What has arrived of a stream.
#[derive(Debug, Default)]
pub struct Arrived {
    /// Which bytes of each frame, and how many.
    frames: Vec<(Vec<bool>, usize)>,
}

impl Arrived {
    /// Checks a frame that has arrived, inside a tunnel or not, and notes what of `stream` it has;
    /// what is not of the stream is passed over.
    ///
    /// # Errors
    ///
    /// When a checksum is wrong, or the content is, or has arrived before.
    pub fn note(&mut self, stream: &Stream, tunnel: bool, bytes: &[u8]) -> Result<()> {
        let Some((pseudo, mut packet)) = ip_payload(bytes, if tunnel { 17 } else { 6 })? else {
            return Ok(());
        };
        let mut sum = pseudo;
        if tunnel {
            let (udp, inner) = packet
                .split_at_checked(TUNNEL)
                .context("a short datagram")?;
            if udp[2..4] != VXLAN.to_be_bytes() {
                return Ok(());
            }
            // Zero is none.
            if udp[6..8] != [0, 0] && frame::internet_sum(&[&sum, packet]) != u16::MAX {
                bail!("a datagram's checksum is wrong");
            }
            let Some(inside) = ip_payload(inner, 6)? else {
                return Ok(());
            };
            (sum, packet) = inside;
        }
        let (tcp, payload) = packet.split_at_checked(TCP).context("a short segment")?;
        if tcp[2..4] != stream.port.to_be_bytes() {
            return Ok(());
        }
        if frame::internet_sum(&[&sum, packet]) != u16::MAX {
            bail!("a segment's checksum is wrong");
        }
        let start = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]) as usize;
        self.content(stream, start, payload)
    }

    fn content(&mut self, stream: &Stream, start: usize, payload: &[u8]) -> Result<()> {
        let number = stream.sent.partition_point(|sent| sent.start <= start);
        let number = number
            .checked_sub(1)
            .context("a frame that was whole before")?;
        let sent = &stream.sent[number];
        let range = start - sent.start..start - sent.start + payload.len();
        let expected = sent.payload.get(range.clone()).with_context(|| {
            format!(
                "frame {number} has no {} bytes at {}",
                range.len(),
                range.start
            )
        })?;
        if expected != payload {
            let at = expected.iter().zip(payload).position(|(a, b)| a != b);
            bail!("frame {number}, payload from {range:?}: another byte at {at:?}");
        }
        while let Some(sent) = stream.sent.get(self.frames.len()) {
            self.frames.push((vec![false; sent.payload.len()], 0));
        }
        let (bytes, count) = &mut self.frames[number];
        let part = bytes.get_mut(range).unwrap_or_default();
        if part.contains(&true) {
            bail!("a part of frame {number} arrived twice");
        }
        part.fill(true);
        *count += payload.len();
        Ok(())
    }

    /// Whether all of a frame has arrived.
    #[must_use]
    pub fn whole(&self, number: usize) -> bool {
        let frame = self.frames.get(number);
        frame.is_some_and(|(bytes, count)| bytes.len() == *count)
    }
}

/// What follows the headers of an IPv4 packet of `protocol`, after its pseudo-header; nothing of
/// any other frame.
fn ip_payload(frame: &[u8], protocol: u8) -> Result<Option<([u8; 12], &[u8])>> {
    let Some((ethernet, rest)) = frame.split_at_checked(ETH) else {
        return Ok(None);
    };
    let Some(ip) = rest.get(..IP) else {
        return Ok(None);
    };
    if ethernet[12..14] != [8, 0] || ip[9] != protocol {
        return Ok(None);
    }
    if frame::internet_sum(&[ip]) != u16::MAX {
        bail!("an IP header's checksum is wrong");
    }
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    // A short frame is padded.
    let payload = rest
        .get(IP..total)
        .context("a packet longer than its frame")?;
    let mut pseudo = [0; 12];
    pseudo[..8].copy_from_slice(&ip[12..20]);
    pseudo[9] = protocol;
    // CAST: of a length of 16 bits.
    pseudo[10..].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    Ok(Some((pseudo, payload)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: Destination = Destination {
        mac: [2, 0, 0, 0, 0, 9],
        ip: [198, 51, 100, 2],
    };

    /// Cuts a frame as a network card does, which may change its source address.
    fn cut(header: NetHeader, frame: &[u8], source: [u8; 4]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let size = usize::from(header.gso_size).max(1);
        let mut start = u32::from_be_bytes([frame[38], frame[39], frame[40], frame[41]]);
        for payload in frame[HEADERS..].chunks(if header.gso_size > 0 { size } else { 65536 }) {
            let mut segment = [&frame[..HEADERS], payload].concat();
            let total = u16::try_from(segment.len() - ETH).unwrap();
            segment[16..18].copy_from_slice(&total.to_be_bytes());
            segment[24..26].fill(0);
            segment[26..30].copy_from_slice(&source);
            let sum = !frame::internet_sum(&[&segment[ETH..ETH + IP]]);
            segment[24..26].copy_from_slice(&sum.to_be_bytes());
            segment[38..42].copy_from_slice(&start.to_be_bytes());
            segment[50..52].fill(0);
            let length = (total - 20).to_be_bytes();
            let sum =
                !frame::internet_sum(&[&segment[26..34], &[0, 6], &length, &segment[ETH + IP..]]);
            segment[50..52].copy_from_slice(&sum.to_be_bytes());
            start += u32::try_from(payload.len()).unwrap();
            out.push(segment);
        }
        out
    }

    fn send(stream: &mut Stream, len: usize) -> Vec<Vec<u8>> {
        let mut bytes = Vec::new();
        let header = stream.next(len, &mut bytes);
        assert_eq!(bytes.len(), len);
        cut(header, &bytes, [198, 51, 100, 1])
    }

    fn wrap(inner: &[u8]) -> Vec<u8> {
        let mut out = vec![0; ETH + IP + TUNNEL];
        out[12] = 8;
        out[14] = 0x45;
        let total = u16::try_from(out.len() + inner.len() - ETH).unwrap();
        out[16..18].copy_from_slice(&total.to_be_bytes());
        out[23] = 17;
        let sum = !frame::internet_sum(&[&out[ETH..ETH + IP]]);
        out[24..26].copy_from_slice(&sum.to_be_bytes());
        out[36..38].copy_from_slice(&VXLAN.to_be_bytes());
        out.extend_from_slice(inner);
        out
    }

    #[test]
    fn frames_are_whole_when_all_of_them_has_arrived() {
        for tunnel in [false, true] {
            let mut stream = Stream::new(1, [192, 0, 2, 2], TO, 7);
            let mut arrived = Arrived::default();
            for (number, len) in [60, 1444, 1445, 3000, 65000].into_iter().enumerate() {
                for segment in send(&mut stream, len) {
                    assert!(!arrived.whole(number));
                    let segment = if tunnel { wrap(&segment) } else { segment };
                    arrived.note(&stream, tunnel, &segment).unwrap();
                    assert!(arrived.note(&stream, tunnel, &segment).is_err(), "twice");
                }
                assert!(arrived.whole(number));
            }
            stream.forget();
            let segments = send(&mut stream, 60);
            let mut arrived = Arrived::default();
            arrived.note(&stream, false, &segments[0]).unwrap();
            assert!(arrived.whole(0));
        }
    }

    #[test]
    fn every_changed_byte_is_noticed_or_lost() {
        let mut stream = Stream::new(1, [192, 0, 2, 2], TO, 7);
        let segments = send(&mut stream, 3000);
        // The addresses of Ethernet have no checksum.
        for at in 12..segments[0].len() {
            let mut changed = segments[0].clone();
            changed[at] ^= 1;
            let mut arrived = Arrived::default();
            let noted = arrived.note(&stream, false, &changed);
            assert!(noted.is_err() || arrived.frames.is_empty(), "byte {at}");
        }
    }
}
