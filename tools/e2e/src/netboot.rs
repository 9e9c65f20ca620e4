// SPDX-License-Identifier: GPL-2.0
//! Giving a guest's firmware its kernel over the guest's network device.
//!
//! The firmware is iPXE in the ROM of QEMU's network device. It asks for an address by DHCP, is told
//! the address of a script, and fetches by HTTP the script and what is named there.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use selftests::wait::Deadline;
use serde_json::json;

use crate::host::{ADDRESS, GUEST_ADDRESS, TAP};
use crate::machine::Machine;

/// How long the firmware may take to its next request, and a file to reach it.
const PATIENCE: Duration = Duration::from_secs(240);

/// Configuration of the DHCP server.
const DHCP_CONFIG: &str = "/tmp/netboot.dhcp";

/// Its list of leases.
const LEASES: &str = "/tmp/netboot.leases";

/// The servers. Ended when dropped.
pub struct Netboot {
    dhcp: Child,
    http: TcpListener,
}

impl Netboot {
    /// Starts them, for the tap that has the host's address.
    ///
    /// # Errors
    ///
    /// When there is no such tap, or a port is taken.
    pub fn new() -> Result<Self> {
        let http = TcpListener::bind((ADDRESS, 80)).context("serving HTTP")?;
        std::fs::write(LEASES, "")?;
        std::fs::write(
            DHCP_CONFIG,
            format!(
                "interface {TAP}\nstart {GUEST_ADDRESS}\nend {GUEST_ADDRESS}\nmax_leases 1\n\
                 lease_file {LEASES}\nboot_file http://{ADDRESS}/script\n\
                 option subnet 255.255.255.0\n"
            ),
        )?;
        let dhcp = Command::new("busybox")
            .args(["udhcpd", "-f", DHCP_CONFIG])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("starting udhcpd")?;
        Ok(Self { dhcp, http })
    }

    /// Has the firmware of `guest` boot the kernel of this VM, with `initramfs` and the command line
    /// `append`.
    ///
    /// It is the compressed image: the firmware does not know the 64-bit ELF image that QEMU loads.
    ///
    /// # Errors
    ///
    /// When it does not fetch all that it needs in time, through vhost and with split rings.
    pub fn boot(&self, guest: &mut Machine, initramfs: &Path, append: &str) -> Result<()> {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let kernel = format!("/boot/vmlinuz-{}", release.trim());
        let script = format!("#!ipxe\nkernel kernel {append}\ninitrd initrd\nboot\n");
        loop {
            let (mut stream, path) = self.request()?;
            match path.as_str() {
                "/script" => reply(&mut stream, script.as_bytes())?,
                "/kernel" => {
                    split_by_vhost(guest)?;
                    reply_with(&mut stream, kernel.as_ref())?;
                }
                "/initrd" => return reply_with(&mut stream, initramfs),
                _ => bail!("the firmware asks for {path}"),
            }
        }
    }

    /// Waits for a connection; answers it with the path that is asked for.
    fn request(&self) -> Result<(TcpStream, String)> {
        let asked = Deadline::after(PATIENCE).readable(&[&self.http])?;
        ensure!(asked, "nothing is asked for; the guest's console tells why");
        let (stream, _) = self.http.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut lines = BufReader::new(&stream).lines();
        let first = lines.next().context("no request")??;
        for line in lines {
            if line?.is_empty() {
                break;
            }
        }
        let path = first
            .strip_prefix("GET ")
            .and_then(|rest| rest.split(' ').next());
        let path = path.with_context(|| first.clone())?.to_owned();
        Ok((stream, path))
    }
}

impl Drop for Netboot {
    fn drop(&mut self) {
        // An error means that it has already ended.
        let _ = self.dhcp.kill();
        let _ = self.dhcp.wait();
    }
}

/// Fails unless the guest's network device runs on vhost with split rings.
fn split_by_vhost(guest: &mut Machine) -> Result<()> {
    let devices = guest.qmp.run("x-query-virtio", &json!({}))?;
    let devices = devices.as_array().context("no list of devices")?;
    let device = devices.iter().find(|device| device["name"] == "virtio-net");
    let device = device.context("no network device")?;
    let status = guest
        .qmp
        .run("x-query-virtio-status", &json!({ "path": device["path"] }))?;
    ensure!(status["vhost-started"] == true, "without vhost: {status}");
    let features = &status["guest-features"]["transports"];
    let features = features.as_array().context("no features")?;
    let has = |name: &str| {
        let mut names = features.iter().filter_map(|feature| feature.as_str());
        names.any(|feature| feature.starts_with(name))
    };
    ensure!(
        has("VIRTIO_F_VERSION_1") && !has("VIRTIO_F_RING_PACKED"),
        "the firmware's features: {features:?}"
    );
    Ok(())
}

fn reply_with(stream: &mut TcpStream, path: &Path) -> Result<()> {
    let body = std::fs::read(path).with_context(|| path.display().to_string())?;
    reply(stream, &body).with_context(|| format!("sending {}", path.display()))
}

fn reply(stream: &mut TcpStream, body: &[u8]) -> Result<()> {
    let len = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n"
    )?;
    Ok(stream.write_all(body)?)
}
