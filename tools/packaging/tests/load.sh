# SPDX-License-Identifier: GPL-2.0
# Installs the packages, in /artifacts/packages, into the VM whose kernel they are for, and loads
# the module.

packages=/artifacts/packages
mkdir -p /run/udev
/usr/lib/systemd/systemd-udevd --daemon

# depmod takes minutes on an emulated processor. It has run where the packages were tried first.
is_installed() {
    ln -s /usr/bin/true /usr/local/sbin/depmod
    cp $packages/index/* "/usr/lib/modules/$(uname -r)/"
    dpkg -i $packages/vhost-rnet-tools_*.deb "$packages/vhost-rnet-modules-$(uname -r)"_*.deb
}

is_loaded() {
    modprobe vhost_rnet
    udevadm settle --timeout=60
    test "$(stat -c '%F %G %a' /dev/vhost-rnet)" = "character special file kvm 660"
}

rnetctl_shows_it() {
    rnetctl --version | grep '^rnetctl '
    exec 9<> /dev/vhost-rnet
    rnetctl list > /tmp/listed
    exec 9>&-
    grep -E ' vhost-rnet +sh ' /tmp/listed
    rnetctl doctor > /tmp/doctor || test $? = 6
    for row in kernel-version module-loaded module-at-boot device-node tun; do
        grep -E "^ok +$row " /tmp/doctor
    done
}

works() {
    /artifacts/rnet-selftest --device /dev/vhost-rnet tx.integrity rx.integrity
}

is_unloaded() {
    rmmod vhost_rnet
    udevadm settle --timeout=60
    not test -e /dev/vhost-rnet
}

of_dkms_is_loaded() {
    insmod $packages/vhost_rnet.ko.xz
    is_unloaded
}

unsigned_is_refused() {
    # As module.sig_enforce=1 on the command line.
    echo 1 > /sys/module/module/parameters/sig_enforce
    not modprobe vhost_rnet 2> /tmp/said
    grep 'Key was rejected' /tmp/said
    not test -e /dev/vhost-rnet
    # Nor one with a key that is not enrolled.
    not insmod $packages/vhost_rnet.ko.xz 2> /tmp/said
    grep 'Key was rejected' /tmp/said
}

refusal_is_explained() {
    dpkg-reconfigure "vhost-rnet-modules-$(uname -r)" > /tmp/said 2>&1
    test "$(grep -c 'install vhost-rnet-dkms_\*.deb instead' /tmp/said)" = 1
}

check "module: installed" is_installed
check "module: loaded, with its group and mode" is_loaded
check "module: shown by rnetctl" rnetctl_shows_it
check "module: works" works
check "module: unloaded" is_unloaded
check "module: of DKMS" of_dkms_is_loaded
check "module: refused where signatures are enforced" unsigned_is_refused
check "module: refusal explained" refusal_is_explained
plan
