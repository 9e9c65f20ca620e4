// SPDX-License-Identifier: GPL-2.0
//! The commands, each with what it asks the host and how it shows the answer.

pub mod completions;
pub mod doctor;
pub mod explain;
pub mod list;
pub mod man;
pub mod pin;
pub mod stat;
pub mod top;
pub mod wake;

use std::path::Path;

use crate::device::{self, Device, Kind};
use crate::exit::Error;
use crate::scan::{DebugFs, Scan};

/// The devices that `word` means.
///
/// # Errors
///
/// Those of [`device::select()`]; where nothing at all was found, the reason.
fn chosen<'a>(scan: &'a Scan, word: &str) -> Result<Vec<&'a Device>, Error> {
    device::select(&scan.devices, word).map_err(|error| {
        let notes = scan.notes();
        match (scan.devices.is_empty(), error) {
            // Only who has seen everything knows that it is the module that is missing.
            (true, Error::Device(_)) if !scan.module && notes.is_empty() => {
                Error::Lacking(format!("no device is called {word:?}: {}", scan.nothing()))
            }
            (_, Error::Device(text)) if !notes.is_empty() => {
                Error::Device(format!("{text}; {}", notes.join("; ")))
            }
            (_, error) => error,
        }
    })
}

/// The folder of a device in debugfs.
///
/// # Errors
///
/// Why it has none.
fn folder<'a>(scan: &Scan, device: &'a Device) -> Result<&'a Path, Error> {
    if let Some(folder) = &device.folder {
        return Ok(folder);
    }
    let device_is = device.described();
    Err(match (device.kind, scan.debugfs) {
        (Kind::Net, _) => Error::Lacking(format!(
            "{device_is} is a vhost-net device, which shows and takes nothing"
        )),
        (Kind::Rnet, DebugFs::Denied) => {
            Error::Denied("debugfs could not be read; run as root".to_owned())
        }
        (Kind::Rnet, DebugFs::Missing) => Error::Lacking(
            "/sys/kernel/debug/vhost_rnet is missing; mount debugfs there, or load a module that \
             has it"
                .to_owned(),
        ),
        (Kind::Rnet, DebugFs::Read) => Error::Lacking(format!(
            "{device_is} is not in /sys/kernel/debug/vhost_rnet: it has no owner, or was closed"
        )),
    })
}
