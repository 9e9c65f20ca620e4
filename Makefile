# SPDX-License-Identifier: GPL-2.0
#
# Without KDIR, everything happens in the lab, which is built when it is
# missing. With KDIR, the module is built against that prepared kernel tree:
#
#   make KDIR=/path/to/linux
#   make KDIR=/path/to/linux install
#
# The kernel's build system reads Kbuild, not this file.

CARGO ?= cargo
# The first time, cargo shows what it compiles.
XTASK := $(CARGO) run $(if $(wildcard target/debug/xtask),--quiet) --package xtask --

.PHONY: all module rnetctl deb lab shell demo check check-debug check-ci check-all fuzz unsafe soak bench bench-quick fmt clean install modules_install kdir

# Where rnetctl is, with its manual and completions.
RNETCTL := target/rnetctl

ifdef KDIR
# The config is the kernel's own word on itself; its compiler must be ours,
# since Rust metadata is only read by the very compiler that wrote it.
kconfig = $(shell sed -n 's/^$(1)=//p' $(KDIR)/.config 2>/dev/null | tr -d '"')
RUSTC ?= rustc

all: module

# What is refused here is tried by `cargo xtask check`, "refused kernels".
kdir:
	@test -f $(KDIR)/.config || { \
		echo "error: $(KDIR)/.config is missing, so it is no configured kernel tree;" \
		"for a packaged kernel, run: apt install linux-headers-$$(uname -r) &&" \
		"tools/packaging/dkms/prepare $$(uname -r) /usr/src/linux-headers-$$(uname -r) TREE &&" \
		"make KDIR=TREE" >&2; exit 1; }
	@test "$(call kconfig,CONFIG_RUST)" = y || { \
		echo "error: $(KDIR) is configured without CONFIG_RUST=y; for Debian's kernel that has it," \
		"run: apt install -t trixie-backports linux-image-amd64 linux-headers-amd64" >&2; exit 1; }
	@test -f $(KDIR)/rust/libkernel.rmeta && test -f $(KDIR)/rust/libmacros.so || { \
		echo "error: $(KDIR) has no Rust metadata (rust/libkernel.rmeta, rust/libmacros.so);" \
		"run: make -C $(KDIR) modules_prepare, or for a headers package:" \
		"tools/packaging/dkms/prepare $$(cat $(KDIR)/include/config/kernel.release 2>/dev/null || echo KERNEL)" \
		"$(KDIR) TREE && make KDIR=TREE" >&2; exit 1; }
	@test "$(call kconfig,CONFIG_RUSTC_VERSION_TEXT)" = "$$($(RUSTC) --version)" || { \
		echo "error: $(KDIR) was built with $(call kconfig,CONFIG_RUSTC_VERSION_TEXT)," \
		"and $(RUSTC) is $$($(RUSTC) --version 2>&1);" \
		"run: make KDIR=$(KDIR) RUSTC=/path/to/that/rustc" >&2; exit 1; }

module: kdir
	$(MAKE) -C $(KDIR) M=$(CURDIR) RUSTC=$(RUSTC) modules

modules_install: module
	$(MAKE) -C $(KDIR) M=$(CURDIR) RUSTC=$(RUSTC) modules_install
	# The kernel's own rule leaves this out in a tree that was only prepared.
	test -f $(KDIR)/System.map || depmod $(if $(INSTALL_MOD_PATH),-b $(INSTALL_MOD_PATH)) \
		"$$(cat $(KDIR)/include/config/kernel.release)"

# The package of these files is made from the same list.
install: modules_install $(RNETCTL)/rnetctl
	while read -r file dir; do \
		case $$dir in usr/sbin) mode=0755 ;; *) mode=0644 ;; esac; \
		install -D -m $$mode -t "$(DESTDIR)/$$dir" "$$file" || exit 1; \
	done < tools/packaging/debian/vhost-rnet-tools.install
	@! grep -qsE '\[(integrity|confidentiality)\]' /sys/kernel/security/lockdown || \
		echo "This machine loads modules only with a signature that it trusts; run:" \
		"$(KDIR)/scripts/sign-file sha256 KEY.priv KEY.der, with a key that mokutil has imported," \
		"and the module's file" >&2

clean:
	$(MAKE) -C $(KDIR) M=$(CURDIR) clean
	rm -rf $(RNETCTL)
else
all: module

module:
	$(XTASK) build

install modules_install:
	@echo "error: say for which kernel: make KDIR=/path/to/linux $@" >&2; exit 1

clean:
	$(CARGO) clean
endif

# Tells operators what the queues of their guests do. `make install` builds it if it is missing.
rnetctl $(RNETCTL)/rnetctl:
	@command -v $(CARGO) > /dev/null || { \
		echo "error: $(CARGO) is missing, which builds rnetctl; run: apt install cargo," \
		"or as a user who has it: make rnetctl" >&2; exit 1; }
	$(CARGO) build --release --locked --package rnetctl --target-dir target
	mkdir -p $(addprefix $(RNETCTL)/,bash zsh fish)
	target/release/rnetctl man > $(RNETCTL)/rnetctl.8
	target/release/rnetctl completions bash > $(RNETCTL)/bash/rnetctl
	target/release/rnetctl completions zsh > $(RNETCTL)/zsh/_rnetctl
	target/release/rnetctl completions fish > $(RNETCTL)/fish/rnetctl.fish
	# Last, since its presence says that all is there.
	cp target/release/rnetctl $(RNETCTL)/rnetctl

# Debian packages, into target/debian.
deb:
	$(XTASK) deb

lab:
	$(XTASK) lab

shell:
	$(XTASK) shell

demo:
	$(XTASK) demo

check:
	$(XTASK) check

check-debug:
	$(XTASK) check-debug

# What a change has to pass.
check-ci:
	$(XTASK) check --debug

check-all:
	$(XTASK) check --debug --long

unsafe:
	$(XTASK) unsafe

fuzz:
	$(XTASK) fuzz --minutes $(or $(MINUTES),10) --kernel $(or $(KERNEL),packaged)

soak:
	$(XTASK) soak --minutes $(or $(MINUTES),60)

bench:
	$(XTASK) bench

bench-quick:
	$(XTASK) bench-quick

fmt:
	$(CARGO) fmt --all
	rustfmt --edition 2021 src/main.rs
