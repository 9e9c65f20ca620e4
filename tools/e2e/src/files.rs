// SPDX-License-Identifier: GPL-2.0
//! The files that guests boot from, and their logs, which tell when the processor was at fault.

use std::path::PathBuf;

use clap::Args;

use crate::emulation;
use crate::host;
use crate::shell;

/// The number of attempts to run a guest on an emulated processor that fails.
const ATTEMPTS: u32 = 3;

/// The message in the log of a QEMU that ended by itself because its guest has reset.
pub const GONE: &str = "QEMU ended by itself";

/// The files that guests boot from, and the directory of their logs.
#[derive(Args, Clone, Debug)]
pub struct Files {
    /// The guest's kernel.
    #[arg(long)]
    pub kernel: PathBuf,
    /// The guest's initial file system.
    #[arg(long)]
    pub initramfs: PathBuf,
    /// Directory for the guests' logs.
    #[arg(long)]
    pub logs: PathBuf,
}

impl Files {
    /// Calls `attempt`, which runs guests with these names; repeats it if the processor was at fault.
    ///
    /// QEMU's emulation of SVM sometimes keeps an event pending that it has already delivered. KVM
    /// then sees an access to a device during the delivery of an event, and stops the guest for good
    /// with an "internal error". Or the guest ends by a triple fault, without a panic on its console
    /// or with the one panic that this causes. Or an interrupt is lost, the timer's for one, and the
    /// guest stands still: not only its network, but every program in it. None of these says anything
    /// about the device under test. A real processor has no such bug, so that there one attempt
    /// decides.
    pub fn attempt<T>(&self, names: &[&str], mut attempt: impl FnMut() -> T) -> T {
        for _ in 1..ATTEMPTS {
            let result = attempt();
            let Some(name) = names.iter().find(|name| self.processor_failed(name)) else {
                return result;
            };
            eprintln!("{name}: the emulated processor failed; once more");
        }
        attempt()
    }

    fn processor_failed(&self, name: &str) -> bool {
        host::emulated()
            && std::fs::read_to_string(self.log(name)).is_ok_and(|log| {
                let excused = |said: Vec<u8>| {
                    said.is_empty() || emulation::killed(&String::from_utf8_lossy(&said))
                };
                let gone = || std::fs::read(self.console(name)).is_ok_and(excused);
                [shell::STOPPED, shell::STILL]
                    .iter()
                    .any(|sign| log.contains(sign))
                    || (log.contains(GONE) && gone())
            })
    }

    /// The log of the guest's console.
    #[must_use]
    pub fn console(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}-console.log"))
    }

    /// The log of QEMU, which has KVM's errors too.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }
}
