// SPDX-License-Identifier: GPL-2.0
//! What guests of each architecture differ in. A guest's is that of the VM around it, whose KVM runs it.

/// How a guest gets an IOMMU.
#[derive(Clone, Copy, Debug, Default)]
pub struct Iommu {
    /// Properties of the machine, each with a comma before it.
    pub machine: &'static str,
    /// QEMU's option for the device.
    pub device: &'static str,
    /// More of the kernel's command line, with a space before it.
    pub append: &'static str,
}

/// An architecture of guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arch {
    /// x86-64.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Arch {
    /// That which this program was built for.
    pub const HERE: Self = if cfg!(target_arch = "aarch64") {
        Self::Arm64
    } else {
        Self::Amd64
    };

    /// QEMU's program.
    #[must_use]
    pub const fn qemu(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86_64",
            Self::Arm64 => "qemu-system-aarch64",
        }
    }

    /// QEMU's machine, with few devices.
    #[must_use]
    pub const fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "q35,i8042=off,hpet=off,sata=off,smbus=off",
            // KVM has only the kind of interrupt controller that the VM has itself.
            Self::Arm64 => "virt,gic-version=host",
        }
    }

    /// The beginning of the guest's kernel command line: the console, and what takes long and is of no use
    /// here.
    #[must_use]
    pub const fn kernel_line(self) -> &'static str {
        match self {
            Self::Amd64 => "console=ttyS0 tsc=reliable no_timer_check 8250.nr_uarts=1",
            Self::Arm64 => "console=ttyAMA0 nokaslr",
        }
    }

    /// An IOMMU that translates for the guest's network device.
    #[must_use]
    pub const fn iommu(self) -> Iommu {
        match self {
            Self::Amd64 => Iommu {
                machine: ",kernel-irqchip=split",
                device: "-device intel-iommu,intremap=on,device-iotlb=on",
                append: " intel_iommu=on iommu.passthrough=0",
            },
            Self::Arm64 => Iommu {
                machine: ",iommu=smmuv3",
                device: "",
                append: " iommu.passthrough=0",
            },
        }
    }

    /// Whether QEMU has a firmware that fetches the guest's kernel by the network device.
    #[must_use]
    pub const fn boots_from_network(self) -> bool {
        matches!(self, Self::Amd64)
    }

    /// Whether the guest's kernel is told of memory that is plugged in. On arm64 that takes ACPI, which a
    /// guest without firmware has not.
    #[must_use]
    pub const fn plugs_memory(self) -> bool {
        matches!(self, Self::Amd64)
    }
}
