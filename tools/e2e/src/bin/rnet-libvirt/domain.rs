// SPDX-License-Identifier: GPL-2.0
//! The descriptions that libvirt is given, and the networks that they name.

use anyhow::Result;
use rnet_e2e::host;

/// The domain's name.
pub const NAME: &str = "guest";

/// The log of its QEMU, to which libvirt appends that of each guest of this name.
pub const QEMU_LOG: &str = "/var/log/libvirt/qemu/guest.log";

/// The socket of the guest's shell.
pub const SHELL: &str = "/tmp/libvirt.shell";

/// The log of the guest's console.
pub const CONSOLE: &str = "/tmp/libvirt.console";

/// Where the guest's kernel and initial file system are, readable for QEMU's user.
pub const BOOT: [&str; 2] = ["/tmp/libvirt.kernel", "/tmp/libvirt.initramfs"];

/// The bridge, and the two ends of the pair of links below a macvtap.
const BRIDGE: &str = "rnetbr";
const PAIR: [&str; 2] = ["rnetv0", "rnetv1"];

/// A kind of interface, as libvirt names it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A tap by itself.
    Ethernet,
    /// A tap on a bridge.
    Bridge,
    /// A macvtap.
    Direct,
}

impl Kind {
    /// The number of its queue pairs.
    pub fn queues(self) -> usize {
        match self {
            Self::Ethernet => 4,
            Self::Bridge => 1,
            Self::Direct => 2,
        }
    }

    /// The description of an interface that `device` serves.
    pub fn interface(self, device: &str) -> String {
        let (kind, place) = match self {
            Self::Ethernet => ("ethernet", format!("<target dev='{}'/>", host::TAP)),
            Self::Bridge => ("bridge", format!("<source bridge='{BRIDGE}'/>")),
            Self::Direct => (
                "direct",
                format!("<source dev='{}' mode='bridge'/>", PAIR[0]),
            ),
        };
        // libvirt opens the nodes of a macvtap itself.
        let tap = match self {
            Self::Direct => "",
            _ => "tap='/dev/net/tun' ",
        };
        format!(
            "<interface type='{kind}'>\
             <mac address='52:54:00:12:34:56'/>\
             {place}\
             <backend {tap}vhost='{device}'/>\
             <model type='virtio'/>\
             <driver name='vhost' queues='{}'/>\
             </interface>",
            self.queues()
        )
    }

    /// Makes the network that it connects to, if libvirt does not; the host's address is on it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn network(self) -> Result<Network> {
        let network = Network(self);
        match self {
            Self::Ethernet => {}
            Self::Bridge => {
                ip(&format!("link add {BRIDGE} type bridge"))?;
                address(BRIDGE)?;
            }
            Self::Direct => {
                let [lower, upper] = PAIR;
                ip(&format!("link add {lower} type veth peer name {upper}"))?;
                ip(&format!("link set {lower} up"))?;
                address(upper)?;
            }
        }
        Ok(network)
    }

    /// Gives the host's address to the interface, which has been attached, where no other link has it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn attached(self) -> Result<()> {
        match self {
            Self::Ethernet => address(host::TAP),
            Self::Bridge | Self::Direct => Ok(()),
        }
    }
}

/// The network of an interface. Removed when dropped.
pub struct Network(Kind);

impl Drop for Network {
    fn drop(&mut self) {
        match self.0 {
            // The tap has gone with its QEMU.
            Kind::Ethernet => host::remove(&[]),
            Kind::Bridge => host::remove(&[BRIDGE]),
            Kind::Direct => host::remove(&[PAIR[0]]),
        }
    }
}

/// The description of a domain with one interface.
pub fn domain(interface: &str) -> String {
    let [kernel, initramfs] = BOOT;
    format!(
        "<domain type='kvm'>\
         <name>{NAME}</name>\
         <memory unit='MiB'>256</memory>\
         <vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type>\
         <kernel>{kernel}</kernel><initrd>{initramfs}</initrd>\
         <cmdline>{}</cmdline></os>\
         <features><acpi/><apic/><ps2 state='off'/></features>\
         <cpu mode='host-passthrough'/>\
         <clock offset='utc'><timer name='hpet' present='no'/></clock>\
         <on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot>\
         <on_crash>destroy</on_crash>\
         <devices>\
         <controller type='usb' model='none'/>\
         <channel type='unix'><source mode='bind' path='{SHELL}'/>\
         <target type='virtio' name='shell'/></channel>\
         <serial type='file'><source path='{CONSOLE}'/></serial>\
         <memballoon model='none'/>\
         {interface}\
         </devices></domain>",
        rnet_e2e::qemu::Options::USUAL.kernel_line(),
    )
}

fn address(link: &str) -> Result<()> {
    ip(&format!("address add {}/24 dev {link}", host::ADDRESS))?;
    ip(&format!("link set {link} up"))
}

fn ip(words: &str) -> Result<()> {
    host::run("ip", &words.split_whitespace().collect::<Vec<_>>())
}
