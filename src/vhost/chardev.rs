// SPDX-License-Identifier: GPL-2.0

//! The character device of a class: each open file is a [`Device`].

use kernel::fs::{File, Kiocb};
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::miscdevice::{MiscDevice, MiscDeviceRegistration};
use kernel::prelude::*;
use kernel::seq_file::SeqFile;
use kernel::seq_print;
use kernel::sync::poll::PollTable;
use kernel::sync::{Arc, ArcBorrow};

use super::class::Class;
use super::device::Device;
use super::ioctl;
use super::messages;
use super::uapi::RawMessage;
use crate::kapi::{self, PollDevice};

#[vtable]
impl<C: Class> MiscDevice for Device<C> {
    type Ptr = Arc<Self>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Arc<Self>> {
        Device::new()
    }

    fn release(device: Arc<Self>, _file: &File) {
        // The device's workers refer to the device until they are stopped.
        device.stop();
    }

    fn read_iter(kiocb: Kiocb<'_, Arc<Self>>, to: &mut IovIterDest<'_>) -> Result<usize> {
        let nonblock = kapi::is_nonblocking(&kiocb);
        kiocb.file().messages.read(nonblock, to)
    }

    /// Handles a message about IO addresses.
    ///
    /// As with vhost, any process that has the file may write. A message counts as written
    /// completely, even without its padding.
    fn write_iter(kiocb: Kiocb<'_, Arc<Self>>, from: &mut IovIterSource<'_>) -> Result<usize> {
        let message = messages::parse(from)?;
        let device = kiocb.file().into();
        Device::iotlb_message(&device, message).map_err(|_| EFAULT)?;
        Ok(size_of::<RawMessage>())
    }

    fn ioctl(device: ArcBorrow<'_, Self>, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        ioctl::dispatch(&device.into(), cmd, arg).map(|()| 0)
    }

    fn show_fdinfo(device: ArcBorrow<'_, Self>, to: &SeqFile, _file: &File) {
        seq_print!(to, "device:\t{}\n", device.number);
        let owner = device.owner_pid();
        if owner != 0 {
            seq_print!(to, "owner:\t{}\n", owner);
        }
        for queue in device.queues() {
            queue.stats.show(C::name(queue.index), to);
        }
        for queue in device.queues() {
            queue.stats.show_all(C::name(queue.index), to);
        }
    }
}

impl<C: Class> PollDevice for Device<C> {
    fn poll(device: ArcBorrow<'_, Self>, file: &File, table: PollTable<'_>) -> u32 {
        device.messages.poll(file, table)
    }
}
