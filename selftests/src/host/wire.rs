// SPDX-License-Identifier: GPL-2.0

//! Every kind of interface whose file or socket a device takes as a backend, and the wire to a
//! peer.

use crate::host::peer::{ETH_P_ALL, SO_RCVBUFFORCE, SOL_SOCKET};
use crate::host::tap::{MTU, Tap, TapConfig};
use crate::skip::Skip;
use crate::sys::net::{self, SOL_PACKET};
use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, Dev, FileType, Mode};
use rustix::mount::{MountFlags, UnmountFlags};
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PACKET_VNET_HDR_SZ: i32 = 24;
/// Enough for a ring of the largest frames.
const PACKET_BUFFER: i32 = 64 << 20;

/// The VLAN of [`Wire::tagged_index`].
const VLAN: u16 = 5;

/// What the guest's end of a wire is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A tap, whose peer is on the same interface.
    Tap,
    /// A tap that receives as a network card does (NAPI).
    Napi,
    /// A macvtap on one end of a veth pair, the peer on the other.
    Macvtap,
    /// An ipvtap in the same place, with the address that TCP frames go to.
    Ipvtap,
    /// A packet socket on one end of a veth pair, the peer on the other.
    Packet,
}

impl Kind {
    /// Whether other frames than IP get lost.
    #[must_use]
    pub fn only_ip(self) -> bool {
        self == Self::Ipvtap
    }

    /// Whether TCP frames stay in order on the way to the peer: NAPI tries to join them.
    #[must_use]
    pub fn orders_tcp(self) -> bool {
        self != Self::Napi
    }

    /// Whether it is a file of tun or tap, with their calls.
    #[must_use]
    pub fn is_tap(self) -> bool {
        self != Self::Packet
    }

    fn module(self) -> &'static str {
        match self {
            Self::Tap | Self::Napi => "tun",
            Self::Macvtap => "macvtap",
            Self::Ipvtap => "ipvtap",
            Self::Packet => "veth",
        }
    }
}

/// Loads a module, or skips the case on a kernel without it.
///
/// # Errors
///
/// When the programs for it are missing.
pub fn load(module: &str) -> Result<()> {
    let output = Command::new("modprobe")
        .arg(module)
        .output()
        .context("run modprobe")?;
    if output.status.success() || fs::exists(format!("/sys/module/{module}"))? {
        return Ok(());
    }
    Err(Skip(format!("no module {module}")).into())
}

/// Runs commands of ip(8), one a line.
///
/// # Errors
///
/// When one fails.
pub fn ip(commands: &str) -> Result<()> {
    feed(Command::new("ip").args(["-batch", "-"]), commands)
}

/// Runs commands of tc(8), one a line.
///
/// # Errors
///
/// When one fails.
pub fn tc(commands: &str) -> Result<()> {
    feed(Command::new("tc").args(["-batch", "-"]), commands)
}

/// Runs a program that reads `input`.
///
/// # Errors
///
/// When it fails.
pub fn feed(program: &mut Command, input: &str) -> Result<()> {
    let mut child = program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {program:?}"))?;
    let mut stdin = child.stdin.take().context("no input")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program:?}: {} ({input:?})", said.trim());
    }
    Ok(())
}

/// What `/sys` says of the interfaces of this process's own network namespace.
fn with_sysfs<T>(look: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let place = std::env::temp_dir().join(format!("sysfs-{}", std::process::id()));
    fs::create_dir_all(&place)?;
    let no_data: Option<&std::ffi::CStr> = None;
    rustix::mount::mount("sysfs", &place, "sysfs", MountFlags::empty(), no_data)
        .context("mount sysfs")?;
    let result = look(&place.join("class/net"));
    rustix::mount::unmount(&place, UnmountFlags::DETACH)?;
    fs::remove_dir(&place)?;
    result
}

/// Interfaces from a backend to a peer, which go when this is dropped.
#[derive(Debug)]
pub struct Wire {
    /// What kind of backend it has.
    pub kind: Kind,
    /// The interface of the backend.
    pub name: String,
    far: String,
    node: Option<Dev>,
}

impl Wire {
    /// Makes the interfaces; `number` tells wires apart.
    ///
    /// # Errors
    ///
    /// When they cannot be made. A kernel without the module skips the case.
    pub fn new(kind: Kind, number: u32) -> Result<Self> {
        load(kind.module())?;
        let (near, low, far) = (
            format!("near{number}"),
            format!("low{number}"),
            format!("far{number}"),
        );
        let up = |name: &str| format!("link set {name} mtu {MTU} up\n");
        let pair = |name: &str| {
            format!("link add {name} type veth peer name {far}\n") + &up(name) + &up(&far)
        };
        let on_pair =
            |what: &str| pair(&low) + &format!("link add link {low} name {near} {what}\n");
        let wire = Self {
            kind,
            far: if matches!(kind, Kind::Tap | Kind::Napi) {
                near.clone()
            } else {
                far.clone()
            },
            name: near.clone(),
            node: None,
        };
        match kind {
            Kind::Tap | Kind::Napi => return Ok(wire),
            Kind::Macvtap => ip(&(on_pair("type macvtap mode passthru") + &up(&near)))?,
            Kind::Ipvtap => ip(&(on_pair("type ipvtap mode l2")
                + &format!("link set {near} up\naddress add 192.0.2.2/24 dev {near}\n")))?,
            Kind::Packet => ip(&pair(&near))?,
        }
        wire.on_pair()
    }

    /// Frames cross a veth pair through the backlog of some CPU. In order, if it is always the
    /// same.
    fn on_pair(mut self) -> Result<Self> {
        let low = self.low();
        with_sysfs(|net| {
            for name in [low.as_str(), &self.far] {
                fs::write(net.join(name).join("queues/rx-0/rps_cpus"), "1")
                    .with_context(|| format!("steering of {name}"))?;
            }
            if self.kind.is_tap() {
                self.node = Some(node_of(&net.join(&self.name).join(self.kind.module()))?);
            }
            Ok(())
        })?;
        Ok(self)
    }

    /// The interface of the pair on the backend's side.
    fn low(&self) -> String {
        if self.kind.is_tap() {
            self.name.replace("near", "low")
        } else {
            self.name.clone()
        }
    }

    /// A backend that fits a device, one queue of several if the kind has them.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn backend(&self, config: TapConfig) -> Result<Tap> {
        match (self.kind, self.node) {
            (Kind::Tap, _) => Tap::new(&self.name, config),
            (Kind::Napi, _) => Tap::napi(&self.name, config),
            (Kind::Packet, _) => Tap::adopt(self.packet_socket(config)?, &self.name),
            (_, node) => {
                let node = node.context("no node")?;
                Tap::of_node(open_node(node)?, &self.name, config)
            }
        }
    }

    fn packet_socket(&self, config: TapConfig) -> Result<OwnedFd> {
        // Protocol zero: nothing arrives before the socket is bound.
        let fd = net::socket(libc::AF_PACKET, libc::SOCK_RAW, 0).context("packet socket")?;
        let set = |level, name, value| net::set_option(fd.as_fd(), level, name, value);
        set(SOL_SOCKET, SO_RCVBUFFORCE, PACKET_BUFFER).context("receive buffer")?;
        if config.header > 0 {
            set(SOL_PACKET, PACKET_VNET_HDR_SZ, i32::from(config.header)).context("headers")?;
        }
        let index = net::if_index(&self.name)?;
        net::packet_bind(fd.as_fd(), index, ETH_P_ALL).context("bind packet socket")?;
        Ok(fd)
    }

    /// The index of the interface at the other end.
    ///
    /// # Errors
    ///
    /// What the kernel answers; there is no tap before its backend.
    pub fn far_index(&self) -> Result<i32> {
        net::if_index(&self.far).context("index of the far end")
    }

    /// The index of an interface at the other end, on a VLAN: what is sent there arrives with a
    /// tag, and it gets what has the same.
    ///
    /// # Errors
    ///
    /// As [`Self::far_index`]. A kernel without VLANs skips the case.
    pub fn tagged_index(&self) -> Result<i32> {
        load("8021q")?;
        let (far, name) = (&self.far, format!("{}.{VLAN}", self.far));
        // One that is left of an earlier device is as good.
        if net::if_index(&name).is_err() {
            ip(&format!(
                "link add link {far} name {name} type vlan id {VLAN}\nlink set {name} up\n"
            ))?;
        }
        Ok(net::if_index(&name)?)
    }

    /// A frame that comes from the VLAN, as the guest sees it (IEEE 802.1Q).
    #[must_use]
    pub fn tag(frame: &[u8]) -> Vec<u8> {
        let (addresses, rest) = frame.split_at(12);
        let [high, low] = VLAN.to_be_bytes();
        [addresses, &[0x81, 0x00, high, low], rest].concat()
    }

    /// Takes the backend's interface down, or up again.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn set_up(&self, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        ip(&format!("link set {} {state}\n", self.name))
    }

    /// Takes the peer's interface down, or up again.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn set_far_up(&self, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        ip(&format!("link set {} {state}\n", self.far))
    }

    /// Keeps all frames from the backend in a queue that is as good as shut.
    ///
    /// # Errors
    ///
    /// A kernel without the queue's module skips the case.
    pub fn hold(&self) -> Result<()> {
        load("sch_tbf")?;
        let shut = "root tbf rate 8bit burst 2kb limit 1gb";
        tc(&format!("qdisc replace dev {} {shut}\n", self.low()))
    }

    /// Takes no frames from the backend but the few that a queue holds which is as good as shut:
    /// others are dropped, and whoever sends them is told.
    ///
    /// # Errors
    ///
    /// A kernel without the queue's module skips the case.
    pub fn shut(&self) -> Result<()> {
        load("sch_tbf")?;
        let shut = "root tbf rate 8bit burst 2kb limit 3kb";
        tc(&format!("qdisc replace dev {} {shut}\n", self.low()))
    }

    /// Takes all frames again.
    ///
    /// # Errors
    ///
    /// When nothing kept them back.
    pub fn open(&self) -> Result<()> {
        tc(&format!("qdisc delete dev {} root\n", self.low()))
    }

    /// Drops frames of one EtherType from the backend, and tells whoever sends them.
    ///
    /// # Errors
    ///
    /// A kernel without filters skips the case.
    pub fn drop_type(&self, ethertype: u16) -> Result<()> {
        for module in ["sch_ingress", "cls_matchall", "act_gact"] {
            load(module)?;
        }
        let low = self.low();
        tc(&format!(
            "qdisc replace dev {low} clsact\n\
             filter add dev {low} egress protocol {ethertype:#x} matchall action drop\n"
        ))
    }

    /// Drops no more.
    ///
    /// # Errors
    ///
    /// When there is no filter.
    pub fn drop_none(&self) -> Result<()> {
        tc(&format!("filter delete dev {} egress\n", self.low()))
    }

    /// Deletes all interfaces.
    ///
    /// # Errors
    ///
    /// When they are gone.
    pub fn delete_all(&self) -> Result<()> {
        ip(&format!("link delete {}\n", self.far))
    }

    /// Deletes the backend's interface.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn delete(&self) -> Result<()> {
        ip(&format!("link delete {}\n", self.name))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // A tap goes with its last file, all others with the pair they are on; it may be gone.
        if self.far != self.name {
            let _ = ip(&format!("link delete {}\n", self.far));
        }
    }
}

/// The number of the device node that `dir`, of the interface, tells of.
fn node_of(dir: &Path) -> Result<Dev> {
    let entry = fs::read_dir(dir)
        .with_context(|| format!("list {}", dir.display()))?
        .next()
        .context("the interface has no node")??;
    let text = fs::read_to_string(entry.path().join("dev"))?;
    let (major, minor) = text.trim().split_once(':').context("a node's number")?;
    Ok(rustix::fs::makedev(major.parse()?, minor.parse()?))
}

/// Opens a character device by its number: the name in `/dev` may be another namespace's.
fn open_node(node: Dev) -> Result<OwnedFd> {
    let name = format!("wire-{}", std::process::id());
    let path: PathBuf = Path::new("/dev").join(name);
    rustix::fs::mknodat(
        CWD,
        &path,
        FileType::CharacterDevice,
        Mode::RUSR | Mode::WUSR,
        node,
    )
    .context("make a node")?;
    let file = fs::OpenOptions::new().read(true).write(true).open(&path);
    fs::remove_file(&path)?;
    Ok(file.context("open the node")?.into())
}
