// SPDX-License-Identifier: GPL-2.0

//! The character device `/dev/vhost-rnet`: each open file is a [`Device`].

use kernel::fs::{File, Kiocb};
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::miscdevice::{MiscDevice, MiscDeviceRegistration};
use kernel::prelude::*;
use kernel::seq_file::SeqFile;
use kernel::sync::poll::PollTable;
use kernel::sync::{Arc, ArcBorrow};

use crate::device::Device;
use crate::ioctl;
use crate::kapi::{self, PollDevice};
use crate::messages;
use crate::uapi::RawMessage;

#[vtable]
impl MiscDevice for Device {
    type Ptr = Arc<Device>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Arc<Device>> {
        Device::new()
    }

    fn release(device: Arc<Device>, _file: &File) {
        // The device refers to itself until it is stopped.
        device.stop();
    }

    fn read_iter(kiocb: Kiocb<'_, Arc<Device>>, to: &mut IovIterDest<'_>) -> Result<usize> {
        let nonblock = kapi::is_nonblocking(&kiocb);
        kiocb.file().messages.read(nonblock, to)
    }

    /// Whoever has the file may write, and a message counts as written as a whole, even without
    /// its padding: both as vhost.
    fn write_iter(kiocb: Kiocb<'_, Arc<Device>>, from: &mut IovIterSource<'_>) -> Result<usize> {
        let message = messages::parse(from)?;
        let device = kiocb.file().into();
        Device::iotlb_message(&device, message).map_err(|_| EFAULT)?;
        Ok(size_of::<RawMessage>())
    }

    fn ioctl(device: ArcBorrow<'_, Device>, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        ioctl::dispatch(&device.into(), cmd, arg).map(|()| 0)
    }

    fn show_fdinfo(device: ArcBorrow<'_, Device>, to: &SeqFile, _file: &File) {
        for queue in device.queues() {
            queue.stats.show(queue.name, to);
        }
    }
}

impl PollDevice for Device {
    fn poll(device: ArcBorrow<'_, Device>, file: &File, table: PollTable<'_>) -> u32 {
        device.messages.poll(file, table)
    }
}
