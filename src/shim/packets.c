// SPDX-License-Identifier: GPL-2.0
/*
 * Packets of a tap's ring, many at a time.
 */

#include <linux/file.h>
#include <linux/if_tun.h>
#include <linux/ptr_ring.h>
#include <linux/skb_array.h>
#include <linux/skbuff.h>
#include <net/xdp.h>

#include "helpers.h"

static u32 packet_len(void *packet)
{
	if (tun_is_xdp_frame(packet))
		return tun_ptr_to_xdp(packet)->len;
	return __skb_array_len_with_tag(packet);
}

size_t rnet_ring_consume(struct ptr_ring *ring, struct file *file, void **packets, u32 *lens,
			 size_t n)
{
	int got, i;

	spin_lock(&ring->consumer_lock);
	got = __ptr_ring_consume_batched(ring, packets, n);
	/* A tap with IFF_BACKPRESSURE stays stopped until its consumer wakes it. */
	if (got)
		tun_wake_queue(file, got);
	spin_unlock(&ring->consumer_lock);
	for (i = 0; i < got; i++)
		lens[i] = packet_len(packets[i]);
	return got;
}

void rnet_ring_unconsume(struct ptr_ring *ring, void **packets, size_t n)
{
	ptr_ring_unconsume(ring, packets, n, tun_ptr_free);
}
