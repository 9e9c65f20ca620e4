/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's barriers for user space, at which the other side of the ring may act: before the
 * barrier, when the driver's stores have been made, and after it.
 */
#ifndef LINUX_DRIVER_BARRIER_H
#define LINUX_DRIVER_BARRIER_H

#include_next <asm/barrier.h>

/* Lets the device act; it may also do nothing. Defined in ffi.rs. */
void linux_driver_pause(void);

#undef virt_mb
#undef virt_rmb
#undef virt_wmb
#undef virt_store_mb

#define virt_mb() do { \
	linux_driver_pause(); \
	__sync_synchronize(); \
	linux_driver_pause(); \
} while (0)
#define virt_rmb() virt_mb()
#define virt_wmb() virt_mb()
#define virt_store_mb(var, value) do { \
	WRITE_ONCE(var, value); \
	virt_mb(); \
} while (0)

#endif
