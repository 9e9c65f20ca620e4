// SPDX-License-Identifier: GPL-2.0
//! A TCP connection on which both ends send content that the other one knows and checks.
//!
//! TCP alone would not notice a wrong byte: the guest offloads checksums to its network device.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

/// The server's port.
pub const PORT: u16 = 7007;

/// Bytes that are written and read at once, a multiple of a word.
const BLOCK: usize = 32 << 10;

/// How long a connection may stall, as it does while its guest migrates.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// What an end of a connection has done, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Sent.
    pub sent: u64,
    /// Received, all as expected.
    pub received: u64,
}

/// Content: each word is computed from its position (the finaliser of SplitMix64).
struct Content {
    seed: u64,
    word: u64,
    bytes: Vec<u8>,
}

impl Content {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            word: 0,
            bytes: Vec::with_capacity(BLOCK),
        }
    }

    /// The next block.
    fn next(&mut self) -> &[u8] {
        self.bytes.clear();
        while self.bytes.len() < BLOCK {
            let mut z = (self.seed ^ self.word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            self.bytes.extend((z ^ (z >> 31)).to_le_bytes());
            self.word = self.word.wrapping_add(1);
        }
        &self.bytes
    }
}

/// Runs the guest's end of a connection to `host`, until `done` says so; waits for `pause` before it
/// reads more.
///
/// # Errors
///
/// When the connection breaks, stands still or brings a wrong byte.
pub fn client(
    host: &str,
    seed: u64,
    pause: Duration,
    done: impl Fn() -> bool + Sync,
) -> Result<Counts> {
    let mut stream =
        TcpStream::connect((host, PORT)).with_context(|| format!("connecting to {host}"))?;
    stream.write_all(&seed.to_le_bytes())?;
    exchange(&stream, [seed, !seed], pause, done, || ())
}

/// Serves one connection after the other in the background; each leaves its result.
///
/// # Errors
///
/// When the port is taken.
pub fn serve() -> Result<Receiver<Result<Counts>>> {
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    let (sender, results) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let sender = sender.clone();
            thread::spawn(move || {
                // The receiver may be gone.
                let _ = sender.send(stream.map_err(Into::into).and_then(|s| answer(&s)));
            });
        }
    });
    Ok(results)
}

/// Runs the server's end of a connection, until the other end stops.
fn answer(mut stream: &TcpStream) -> Result<Counts> {
    let mut seed = [0; 8];
    stream.read_exact(&mut seed).context("reading the seed")?;
    let seed = u64::from_le_bytes(seed);
    let ended = AtomicBool::new(false);
    exchange(
        stream,
        [!seed, seed],
        Duration::ZERO,
        || ended.load(Ordering::Relaxed),
        || ended.store(true, Ordering::Relaxed),
    )
}

/// Sends the content of the first seed until `done`, at least a block, and reads that of the second
/// with a `pause` before each block to its end; then calls `ended`.
fn exchange(
    stream: &TcpStream,
    seeds: [u64; 2],
    pause: Duration,
    done: impl Fn() -> bool + Sync,
    ended: impl Fn(),
) -> Result<Counts> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let [ours, theirs] = seeds;
    thread::scope(|scope| {
        let sender = scope.spawn(|| send(stream, ours, &done));
        let received = receive(stream, theirs, pause);
        ended();
        if received.is_err() {
            // The sender may be blocked, since nothing is read any more.
            let _ = stream.shutdown(Shutdown::Both);
        }
        let sent = sender.join().map_err(|_| anyhow!("the sender panicked"))?;
        let received = received?;
        Ok(Counts {
            sent: sent?,
            received,
        })
    })
}

fn send(mut stream: &TcpStream, seed: u64, done: &impl Fn() -> bool) -> Result<u64> {
    let mut content = Content::new(seed);
    let mut sent = 0;
    loop {
        stream.write_all(content.next()).context("sending")?;
        sent += BLOCK as u64;
        if done() {
            break;
        }
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(sent)
}

fn receive(mut stream: &TcpStream, seed: u64, pause: Duration) -> Result<u64> {
    let mut content = Content::new(seed);
    let mut block = vec![0; BLOCK];
    let mut received = 0;
    loop {
        thread::sleep(pause);
        let mut len = 0;
        while len < BLOCK {
            match stream.read(&mut block[len..]) {
                Ok(0) => break,
                Ok(more) => len += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("receiving"),
            }
        }
        let differs = content
            .next()
            .iter()
            .zip(&block[..len])
            .position(|(a, b)| a != b);
        if let Some(at) = differs {
            return Err(anyhow!("byte {} is wrong", received + at as u64));
        }
        received += len as u64;
        if len < BLOCK {
            return Ok(received);
        }
    }
}

/// The next successful result of the server, waiting up to `patience` for each result.
///
/// Errors are skipped: one may be the late result of an earlier guest.
///
/// # Errors
///
/// When there is none, with the last error that came instead.
pub fn next(streams: &Receiver<Result<Counts>>, patience: Duration) -> Result<Counts> {
    let mut failed = None;
    loop {
        match streams.recv_timeout(patience) {
            Ok(Ok(counts)) => return Ok(counts),
            Ok(Err(error)) => failed = Some(error),
            Err(_) => bail!("the server's end does not end well; last error: {failed:?}"),
        }
    }
}

/// Checks that each end received all bytes that the other one sent, and at least one.
///
/// # Errors
///
/// The counts of both ends.
pub fn agree(guest: Counts, host: Counts) -> Result<()> {
    ensure!(
        guest.sent == host.received && guest.received == host.sent,
        "the guest's end: {guest:?}; the other: {host:?}"
    );
    ensure!(
        guest.sent > 0 && guest.received > 0,
        "nothing was sent: {guest:?}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn both_ends_agree() {
        let (mut client, server) = pair();
        let server = thread::spawn(move || answer(&server));
        client.write_all(&7u64.to_le_bytes()).unwrap();
        let start = std::time::Instant::now();
        let done = || start.elapsed() > Duration::from_millis(50);
        let guest = exchange(&client, [7, !7], Duration::from_millis(1), done, || ()).unwrap();
        agree(guest, server.join().unwrap().unwrap()).unwrap();
    }

    #[test]
    fn a_wrong_byte_is_found() {
        let (mut client, server) = pair();
        let server = thread::spawn(move || answer(&server));
        client.write_all(&7u64.to_le_bytes()).unwrap();
        let mut content = Content::new(7).next().to_vec();
        content[1000] ^= 1;
        client.write_all(&content).unwrap();
        let error = server.join().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "byte 1000 is wrong");
    }

    #[test]
    fn a_lost_end_is_found() {
        let counts = |sent, received| Counts { sent, received };
        assert!(agree(counts(5, 7), counts(7, 4)).is_err());
        assert!(agree(counts(0, 7), counts(7, 0)).is_err());
        assert!(agree(counts(5, 7), counts(7, 5)).is_ok());
    }
}
