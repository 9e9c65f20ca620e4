# SPDX-License-Identifier: GPL-2.0
# Second half of level 1's init, run in the lab's rootfs: sets up what a
# distribution would, runs the command, and reports how it ended.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
ln -sfn /proc/self/fd /dev/fd
hostname rnet
ip link set lo up
# A kernel that the root file system has no modules of brings its own.
modules=/lib/modules/$(uname -r)
test -e "$modules" || ln -s "/artifacts$modules" "$modules"
modprobe -a tun tap vhost_net

cd /root
if [ -e /out/interactive ]; then
    export TERM="$(cat /out/interactive)"
    # The size is lost when nobody has the terminal open.
    read -r rows columns < /out/size
    setsid --ctty --wait sh -c "stty rows $rows cols $columns; exec sh /out/run" \
        < /dev/hvc0 > /dev/hvc0 2>&1
else
    for port in /sys/class/virtio-ports/*; do
        case "$(cat "$port/name")" in
        stdout) stdout=/dev/${port##*/} ;;
        stderr) stderr=/dev/${port##*/} ;;
        esac
    done
    sh /out/run < /dev/null > "$stdout" 2> "$stderr"
fi
status=$?

# A debug kernel tells its leaks in its log; two scans, since the first only
# marks what it can't tell yet.
if [ -e /sys/kernel/debug/kmemleak ]; then
    echo scan > /sys/kernel/debug/kmemleak
    sleep 5
    echo scan > /sys/kernel/debug/kmemleak
    cat /sys/kernel/debug/kmemleak > /out/kmemleak
fi
echo $status > /out/status
sync
busybox poweroff -f
