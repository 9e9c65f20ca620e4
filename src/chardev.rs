// SPDX-License-Identifier: GPL-2.0

//! The character device `/dev/vhost-rnet`: each open file is a [`Device`].

use kernel::fs::File;
use kernel::miscdevice::{MiscDevice, MiscDeviceRegistration};
use kernel::prelude::*;
use kernel::seq_file::SeqFile;
use kernel::sync::{Arc, ArcBorrow};

use crate::device::Device;
use crate::ioctl;
use crate::virtqueue::Direction;

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

    fn ioctl(device: ArcBorrow<'_, Device>, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        ioctl::dispatch(&device.into(), cmd, arg).map(|()| 0)
    }

    fn show_fdinfo(device: ArcBorrow<'_, Device>, to: &SeqFile, _file: &File) {
        for direction in [Direction::Rx, Direction::Tx] {
            device.queue(direction).stats.show(direction.name(), to);
        }
    }
}
