/* SPDX-License-Identifier: GPL-2.0 */
/* Differences in C between the kernels that the module is built for; Kbuild tells which it is. */
#ifndef RNET_COMPAT_H
#define RNET_COMPAT_H

#include <linux/if_tun.h>

/*
 * Linux 7.2 has no IFF_BACKPRESSURE: none of its taps waits for the consumer. This goes when 7.3 is
 * the oldest kernel that Kbuild accepts.
 */
#ifdef RNET_BEFORE_7_3
static inline void tun_wake_queue(struct file *file, int consumed)
{
}
#endif

#endif
