/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A place in segments of user memory, and writing on from there.
 */

#ifndef RNET_PLACE_H
#define RNET_PLACE_H

#include <linux/minmax.h>
#include <linux/uaccess.h>
#include <linux/uio.h>

struct rnet_place {
	const struct iovec *seg;
	size_t n;
	/* Bytes of the segments that are before it. */
	size_t skip;
};

static inline int rnet_write_on(struct rnet_place *to, const void *from, size_t len)
{
	while (len) {
		size_t now;

		if (!to->n)
			return -EFAULT;
		if (to->skip >= to->seg->iov_len) {
			to->skip -= to->seg->iov_len;
			to->seg++;
			to->n--;
			continue;
		}
		now = min(to->seg->iov_len - to->skip, len);
		if (_inline_copy_to_user(to->seg->iov_base + to->skip, from, now))
			return -EFAULT;
		from += now;
		len -= now;
		to->skip += now;
	}
	return 0;
}

#endif
