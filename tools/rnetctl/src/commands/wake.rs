// SPDX-License-Identifier: GPL-2.0
//! `rnetctl wake`: has queues look for work again.

use std::fs::OpenOptions;
use std::io::Write;

use crate::cli::WakeArgs;
use crate::commands::{chosen, folder};
use crate::device::Direction;
use crate::exit::Error;
use crate::host::Host;
use crate::scan;

/// Wakes the queues that `args` names, through debugfs.
///
/// # Errors
///
/// Those of [`scan::scan()`], of choosing devices and of `out`; a device that debugfs does not show.
pub fn run(host: &Host, args: &WakeArgs, out: &mut dyn Write) -> Result<(), Error> {
    let scan = scan::scan(host)?;
    for device in chosen(&scan, &args.device)? {
        let folder = folder(&scan, device)?;
        let queues = Direction::ALL.into_iter();
        for direction in queues.filter(|queue| args.queue.is_none_or(|only| only == *queue)) {
            let file = folder.join(direction.to_string()).join("wake");
            // It is never made: a device that was closed meanwhile has no file.
            let written = OpenOptions::new()
                .write(true)
                .open(&file)
                .and_then(|mut file| file.write_all(b"1\n"));
            written.map_err(|error| {
                Error::system(
                    &format!("waking {direction} of {}", device.described()),
                    &error,
                )
            })?;
            writeln!(out, "{}: {direction} looks for work", device.described())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::cli::WakeArgs;
    use crate::device::Direction;
    use crate::exit::Error;
    use crate::fixture;

    fn wake(
        host: &fixture::Fixture,
        device: &str,
        queue: Option<Direction>,
    ) -> Result<String, Error> {
        let device = device.to_owned();
        let mut out = Vec::new();
        run(&host.host(), &WakeArgs { device, queue }, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn written(host: &fixture::Fixture, queue: &str) -> bool {
        let file = host
            .host()
            .debugfs()
            .join("4711-3")
            .join(queue)
            .join("wake");
        !std::fs::read(file).unwrap().is_empty()
    }

    #[test]
    fn the_queue_that_is_named_is_woken() {
        let host = fixture::usual();
        let said = wake(&host, "tap0", Some(Direction::Tx)).unwrap();
        assert_eq!(said, "4711:9 (web, tap0): tx looks for work\n");
        assert!(written(&host, "tx") && !written(&host, "rx"));
        wake(&host, "web", None).unwrap();
        assert!(written(&host, "rx"));
    }

    #[test]
    fn a_device_without_a_folder_is_refused() {
        let host = fixture::usual();
        let said = |device| {
            let error = wake(&host, device, None).unwrap_err();
            (error.status(), error.to_string())
        };
        assert_eq!(
            said("old"),
            (
                4,
                "5000:5 (old, tap5) is a vhost-net device, which shows and takes nothing".into()
            )
        );
        assert_eq!(said("6000").0, 4);
        assert_eq!(said("nobody").0, 3);
        host.remove("sys/kernel/debug/vhost_rnet/4711-3/rx");
        assert_eq!(said("web").0, 4);
    }
}
