#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# Init of the level 2 guest: runs what comes in on a virtio port, line by line,
# and answers with what it printed and a line "@@" with its status.

bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs devtmpfs /dev
$bb --install -s /bin
export PATH=/bin:/usr/sbin HOME=/

for port in /sys/class/virtio-ports/*; do
    read -r name < "$port/name"
    eval "$name=/dev/${port##*/}"
done
exec 0<> "$shell" 1>&0 2>&0

# Shows that programs run here, whatever the network does. It is no child of this
# shell, which waits for its children.
[ -z "$pulse" ] || (while sleep 2; do echo; done > "$pulse" &)

load() {
    while read -r module; do
        insmod "/modules/$module.ko" || return 1
    done
}

load < /modules/order
ip link set lo up
echo "@@0"
# Without a reader at the other end, a read ends at once.
while :; do
    while read -r line; do
        eval "$line"
        printf '\n@@%d\n' $?
    done
    sleep 0.1
done
