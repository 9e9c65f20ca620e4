#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# Init of the level 1 VM: enters the lab's rootfs and runs /out/run there.

bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs devtmpfs /dev

give_up() {
    echo "init: $1" > /dev/console
    $bb poweroff -f
}

if $bb grep -q rnet.probe /proc/cmdline; then
    # The host asks whether a kernel runs at all, and whether guests could.
    echo "rnet-probe booted $($bb grep -om1 -E 'svm|vmx' /proc/cpuinfo)" > /dev/console
    $bb poweroff -f
fi

while read -r module; do
    $bb insmod "/modules/$module.ko" || give_up "cannot load $module"
done < /modules/order

$bb mkdir /mnt/lower /mnt/upper /mnt/root
# The rootfs doesn't change while the VM runs, so its cache is always right.
$bb mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,ro,cache=loose root /mnt/lower ||
    give_up "no root"
lower=/mnt/lower
if $bb grep -q rnet.layer /proc/cmdline; then
    $bb mkdir /mnt/layer
    $bb mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,ro,cache=loose layer /mnt/layer ||
        give_up "no layer"
    lower=/mnt/layer:$lower
fi
$bb mount -t tmpfs -o mode=755 tmpfs /mnt/upper
$bb mkdir /mnt/upper/data /mnt/upper/work
$bb mount -t overlay -o lowerdir=$lower,upperdir=/mnt/upper/data,workdir=/mnt/upper/work \
    overlay /mnt/root || give_up "no overlay"
cd /mnt/root || give_up "no root"
$bb mkdir -p out artifacts
$bb mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none out out || give_up "no out"
$bb mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,ro,cache=loose artifacts artifacts ||
    give_up "no artifacts"
$bb mount -t tmpfs -o mode=1777 tmpfs tmp
$bb mount -t tmpfs -o mode=755 tmpfs run
$bb mount --move /proc proc
$bb mount --move /sys sys
$bb mount --move /dev dev
cd /
exec $bb switch_root /mnt/root /bin/sh /out/init
