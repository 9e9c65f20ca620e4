# SPDX-License-Identifier: GPL-2.0
# Installs, upgrades and removes the packages, in /packages, for the kernel $kernel, in a copy on
# write of a Debian system that has this kernel with its headers, its source and its compiler.
# Leaves what depmod has written, and DKMS's module, in /out.

headers=/usr/src/linux-headers-$kernel
shims=/usr/local/bin
cache=/var/cache/vhost-rnet
cd /packages

# Writes VERSION of package NAME, for another kernel if told so, to /tmp.
repack() {
    name=$1 version=$2 other=${3:-$kernel}
    rm -rf /tmp/tree
    dpkg-deb -R "$name"_*.deb /tmp/tree
    was=$(dpkg-deb -f "$name"_*.deb Version)
    find /tmp/tree/DEBIAN -name 'p*' -exec sed -i "s/$was/$version/g" {} +
    sed -i "s/^Version: .*/Version: $version/; s/(>= $was)/(>= $version)/; s/$kernel/$other/g" \
        /tmp/tree/DEBIAN/control
    if test -e "/tmp/tree/usr/src/vhost-rnet-$was"; then
        sed -i "s/$was/$version/g" "/tmp/tree/usr/src/vhost-rnet-$was/dkms.conf"
        mv "/tmp/tree/usr/src/vhost-rnet-$was" "/tmp/tree/usr/src/vhost-rnet-$version"
    fi
    rm -f /tmp/tree/DEBIAN/md5sums
    dpkg-deb -b /tmp/tree "/tmp/$name.deb"
}

# Has dpkg find the shims.
apt() {
    apt-get -q -y -o DPkg::Path="$PATH" -o Dpkg::Use-Pty=0 --no-install-recommends --allow-downgrades "$@"
}

# Everything that is installed is configured, and its dependencies are there.
whole() {
    test -z "$(dpkg --audit)"
    apt-get check
}

version() {
    dpkg-query -W -f '${db:Status-Abbrev}${Version}' "$1"
}

# The file that modprobe would load.
module() {
    modinfo -k "$kernel" -F filename vhost_rnet
}

# Nothing of packages whose names match is left.
gone() {
    # dpkg may know the name of a package that it has refused.
    test -z "$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$1" 2>/dev/null |
        grep -v ^not-installed)"
    test -z "$(find /etc /usr/src /usr/lib/modules /usr/share/doc /var/lib/dkms /var/cache \
        -name 'vhost?rnet*')"
    not module
}

old_is_installed() {
    repack vhost-rnet-tools 0.0.1
    repack "vhost-rnet-modules-$kernel" 0.0.1
    apt install /tmp/vhost-rnet-tools.deb "/tmp/vhost-rnet-modules-$kernel.deb"
    whole
    test "$(version "vhost-rnet-modules-$kernel")" = "ii 0.0.1"
    test "$(module)" = "/lib/modules/$kernel/updates/vhost_rnet.ko.xz"
}

is_upgraded() {
    apt install ./vhost-rnet-tools_*.deb "./vhost-rnet-modules-$kernel"_*.deb
    whole
    test "$(version "vhost-rnet-modules-$kernel")" != "ii 0.0.1"
    module
    mkdir -p /out/index
    cp "/usr/lib/modules/$kernel/modules".* /out/index/
}

rnetctl_works() {
    rnetctl --version | grep '^rnetctl '
    rnetctl list
    # The kernel that runs is not the one that the packages are for.
    rnetctl doctor --json > /tmp/doctor || test $? = 6
    grep '"fit"' /tmp/doctor
    man --warnings -l /usr/share/man/man8/rnetctl.8* > /dev/null 2> /tmp/warnings
    not test -s /tmp/warnings
    rnetctl completions bash | cmp - /usr/share/bash-completion/completions/rnetctl
    rnetctl completions zsh | cmp - /usr/share/zsh/vendor-completions/_rnetctl
    rnetctl completions fish | cmp - /usr/share/fish/vendor_completions.d/rnetctl.fish
}

is_removed() {
    apt remove "vhost-rnet-modules-$kernel"
    whole
    not module
}

are_purged() {
    apt purge 'vhost-rnet-*'
    whole
    gone 'vhost-rnet-*'
    not test -e /usr/lib/udev/rules.d/99-vhost-rnet.rules
    not test -e /usr/sbin/rnetctl
}

other_kernel_is_refused() {
    repack "vhost-rnet-modules-$kernel" 0.0.1 0.0.0-none
    not apt install ./vhost-rnet-tools_*.deb "/tmp/vhost-rnet-modules-$kernel.deb" > /tmp/refusal 2>&1
    grep 'linux-image-0.0.0-none' /tmp/refusal
    whole
    gone 'vhost-rnet-*'
}

check "packages: installed" old_is_installed
check "packages: upgraded" is_upgraded
check "packages: rnetctl" rnetctl_works
check "packages: removed" is_removed
check "packages: purged" are_purged
check "packages: not for another kernel" other_kernel_is_refused

# What follows is about DKMS, which must leave a kernel's installation whole whatever it lacks.

# Takes the place of a program, by the script on standard input.
shim() {
    { echo '#!/bin/sh'; cat; } > "$shims/$1"
    chmod +x "$shims/$1"
}

# Runs the command, a kernel's installation; it succeeds, and says once what WORD is part of.
passed_over() {
    word=$1
    shift
    "$@" > /tmp/said 2>&1 || { cat /tmp/said; return 1; }
    cat /tmp/said
    said="vhost-rnet cannot be built for $kernel:"
    test "$(grep -cF "$said" /tmp/said)" = 1
    grep -F "$said" /tmp/said | grep -F -- "$word"
    whole
    not module
    not test -e "$cache/$kernel"
}

# What an upgrade of the kernel does last: the headers have DKMS build.
kernel_headers() {
    dpkg-reconfigure "linux-headers-$kernel"
}

other_compiler() {
    trap 'rm -f $shims/*' EXIT
    echo 'echo "rustc 1.0.0 (another)"' | shim rustc
    repack vhost-rnet-tools 0.0.1
    repack vhost-rnet-dkms 0.0.1
    passed_over "rustc is rustc 1.0.0" apt install /tmp/vhost-rnet-tools.deb /tmp/vhost-rnet-dkms.deb
    passed_over "rustc is rustc 1.0.0" kernel_headers
}

other_source() {
    trap 'rm -f $shims/*' EXIT
    shim dpkg-query <<'EOF'
case "$*" in
*linux-source-*) echo 0.0.1 ;;
*) exec /usr/bin/dpkg-query "$@" ;;
esac
EOF
    passed_over "apt install linux-source-" kernel_headers
}

no_space() {
    mkdir -p $cache
    mount -t tmpfs -o size=64m tmpfs $cache
    trap 'rm -f $shims/*; umount $cache' EXIT
    passed_over "64 MB of" kernel_headers
    # It may also run out on the way.
    echo 'echo 5000' | shim df
    kernel_headers
    whole
    not module
    test -z "$(ls $cache)"
}

no_headers() {
    mv "$headers" /tmp/headers
    not "/usr/src/vhost-rnet-0.0.1/dkms/check" "$kernel" "$headers" $cache/x > /tmp/said 2>&1
    mv /tmp/headers "$headers"
    test "$(grep -c 'vhost-rnet cannot be built' /tmp/said)" = 1
    grep "apt install linux-headers-$kernel" /tmp/said
}

# Also for other kernels that have their headers.
is_built() {
    for headers_of in /usr/lib/modules/*/build; do
        other=$(basename "$(dirname "$headers_of")")
        test "$(modinfo -k "$other" -F filename vhost_rnet)" = \
            "/lib/modules/$other/updates/dkms/vhost_rnet.ko.xz"
    done
    test "$(modinfo -k "$kernel" -F signer vhost_rnet)" = "DKMS module signing key"
    xz -dc "$(module)" > /tmp/vhost_rnet.ko
    readelf -S /tmp/vhost_rnet.ko | grep -F .BTF
}

dkms_is_upgraded() {
    apt install ./vhost-rnet-tools_*.deb ./vhost-rnet-dkms_*.deb
    whole
    is_built
    not test -e /var/lib/dkms/vhost-rnet/0.0.1
    cp "$(module)" /out/
}

# Also removes the tree of a kernel that was removed.
tree_serves_again() {
    mkdir $cache/0.0.0-none
    touch $cache/0.0.0-none/stamp
    ln -s /usr/src/linux-headers-0.0.0-none/.config $cache/0.0.0-none/
    # Nothing but the module is compiled.
    rm "/usr/src/linux-source-"*.tar.xz
    dkms unbuild -m vhost-rnet -v "$(dpkg-query -W -f '${Version}' vhost-rnet-dkms)" -k "$kernel"
    kernel_headers
    is_built
    not test -e $cache/0.0.0-none
}

dkms_and_modules_exclude_each_other() {
    not dpkg -i "./vhost-rnet-modules-$kernel"_*.deb
    whole
    is_built
}

dkms_is_purged() {
    apt purge 'vhost-rnet-*'
    whole
    gone 'vhost-rnet-*'
}

check "dkms: another compiler" other_compiler
check "dkms: another source" other_source
check "dkms: no space" no_space
check "dkms: no headers" no_headers
check "dkms: upgraded and built" dkms_is_upgraded
check "dkms: tree used again" tree_serves_again
check "dkms: not beside modules" dkms_and_modules_exclude_each_other
check "dkms: purged" dkms_is_purged
plan
