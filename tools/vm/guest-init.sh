#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# Init of the level 2 guest: sends traffic through its network device, and
# reports on a virtio port. A line that starts with "@@" begins a section.

bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs devtmpfs /dev

value() {
    $bb sed -n "s/.*rnet\.$1=\([^ ]*\).*/\1/p" /proc/cmdline
}
host=$(value host)
seconds=$(value seconds)

for port in /sys/class/virtio-ports/*; do
    exec > "/dev/${port##*/}" 2>&1
done
echo "@@booted"
while read -r module; do
    $bb insmod "/modules/$module.ko"
done < /modules/order
$bb ip link set lo up
$bb ip address add "$(value address)/24" dev eth0
$bb ip link set eth0 up

echo "@@ping"
$bb ping -q -c 10 -i 0.1 -W 5 "$host"

echo "@@echo"
# Checksums are left to the device, so TCP itself would not notice a wrong byte.
$bb dd if=/dev/urandom of=/tmp/sent bs=64k count="$(value blocks)" 2> /dev/null
$bb nc "$host" "$(value echo_port)" < /tmp/sent > /tmp/returned
$bb cmp /tmp/sent /tmp/returned && echo "same $($bb stat -c %s /tmp/returned)"

echo "@@sends"
iperf3 -c "$host" -t "$seconds" -J
echo "@@receives"
iperf3 -c "$host" -t "$seconds" -J -R

if [ -n "$(value bench)" ]; then
    # Unlimited, and in datagrams that fit one frame.
    echo "@@udp_sends"
    iperf3 -c "$host" -t "$seconds" -u -b 0 -l 1400 -J
    echo "@@udp_receives"
    iperf3 -c "$host" -t "$seconds" -u -b 0 -l 1400 -J -R
    echo "@@requests"
    $bb ping -q -A -c 1000 "$host"
fi

echo "@@interrupts"
$bb cat /proc/interrupts
echo "@@end"
$bb poweroff -f
