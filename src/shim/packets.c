// SPDX-License-Identifier: GPL-2.0
/*
 * Packets of a tap's ring, many at a time.
 */

#include <linux/file.h>
#include <linux/highmem.h>
#include <linux/if_tun.h>
#include <linux/netdevice.h>
#include <linux/ptr_ring.h>
#include <linux/skb_array.h>
#include <linux/skbuff.h>
#include <linux/uaccess.h>
#include <linux/virtio_net.h>
#include <net/sock.h>
#include <net/xdp.h>

#include "compat.h"
#include "helpers.h"
#include "place.h"

static u32 packet_len(void *packet)
{
	if (tun_is_xdp_frame(packet))
		return tun_ptr_to_xdp(packet)->len;
	return __skb_array_len_with_tag(packet);
}

static u8 packet_kind(void *packet, const struct net_device *dev)
{
	const struct sk_buff *skb = packet;
	u8 kind = 0;

	if (tun_is_xdp_frame(packet))
		return RNET_PACKET_XDP;
	/* Only compared: the device may be gone. */
	if (skb->dev != dev)
		kind |= RNET_PACKET_FOREIGN;
	if (skb_vlan_tag_present(skb))
		kind |= RNET_PACKET_TAGGED;
	if (skb->ip_summed == CHECKSUM_PARTIAL)
		kind |= RNET_PACKET_PARTIAL;
	else if (skb->ip_summed == CHECKSUM_UNNECESSARY)
		kind |= RNET_PACKET_VALID;
	if (skb_is_gso(skb)) {
		kind |= RNET_PACKET_GSO;
		if (skb_shinfo(skb)->gso_type & (SKB_GSO_UDP_TUNNEL | SKB_GSO_UDP_TUNNEL_CSUM))
			kind |= RNET_PACKET_TUNNEL;
	}
	if (skb_is_nonlinear(skb) && (skb_has_frag_list(skb) || !skb_frags_readable(skb)))
		kind |= RNET_PACKET_LIST;
	return kind;
}

/*
 * The device of a packet in a ring may be gone: a consumer can put packets back after the device has
 * emptied the ring. So a device is looked up by its index, and packets are only compared with it.
 * Returns NULL if there is none, or if it counts its packets elsewhere.
 */
struct net_device *rnet_netdev_hold(struct socket *sock, int index)
{
	struct net_device *dev = dev_get_by_index(sock_net(sock->sk), index);

	if (dev && dev->pcpu_stat_type != NETDEV_PCPU_STAT_TSTATS) {
		dev_put(dev);
		return NULL;
	}
	return dev;
}

/* The index of the device of that name, or 0. */
int rnet_netdev_index(struct socket *sock, const char *name)
{
	struct net_device *dev = dev_get_by_name(sock_net(sock->sk), name);
	int index = dev ? dev->ifindex : 0;

	dev_put(dev);
	return index;
}

size_t rnet_ring_consume(struct ptr_ring *ring, struct file *file, void **packets, u32 *lens,
			 u8 *kinds, size_t n, const struct net_device *dev)
{
	int got, i;

	spin_lock(&ring->consumer_lock);
	got = __ptr_ring_consume_batched(ring, packets, n);
	/* A tap with IFF_BACKPRESSURE stays stopped until its consumer wakes it. */
	if (got)
		tun_wake_queue(file, got);
	spin_unlock(&ring->consumer_lock);
	for (i = 0; i < got; i++) {
		lens[i] = packet_len(packets[i]);
		kinds[i] = packet_kind(packets[i], dev);
	}
	return got;
}

void rnet_ring_unconsume(struct ptr_ring *ring, void **packets, size_t n)
{
	ptr_ring_unconsume(ring, packets, n, tun_ptr_free);
}

/* Counts packets that a device has sent. */
void rnet_netdev_sent(struct net_device *dev, unsigned int packets, unsigned int bytes)
{
	preempt_disable();
	dev_sw_netstats_tx_add(dev, packets, bytes);
	preempt_enable();
}

void rnet_netdev_put(struct net_device *dev)
{
	dev_put(dev);
}

/* Up to this length in bytes, a loop over words is faster than a string copy with its set-up. */
#define SHORT_PACKET 128

#define HEADER_LEN sizeof(struct virtio_net_hdr_mrg_rxbuf)

/*
 * Makes the header of a packet with a partial checksum, or to be segmented, as a tap makes it whose
 * numbers are little-endian.
 */
int rnet_skb_header(const struct sk_buff *skb, void *header)
{
	return virtio_net_hdr_from_skb(skb, header, true, true, 0);
}

/* Writes the pages of an sk_buff. */
static int write_frags(const struct sk_buff *skb, struct rnet_place *to)
{
	const struct skb_shared_info *info = skb_shinfo(skb);
	int i;

	for (i = 0; i < info->nr_frags; i++) {
		const skb_frag_t *frag = &info->frags[i];
		u32 offset, size, copied;
		struct page *page;

		skb_frag_foreach_page(frag, skb_frag_off(frag), skb_frag_size(frag), page, offset,
				      size, copied) {
			void *from = kmap_local_page(page);
			int ret = rnet_write_on(to, from + offset, size);

			kunmap_local(from);
			if (ret)
				return ret;
		}
	}
	return 0;
}

static noinline int write_scattered(const struct sk_buff *skb, const void *header,
				    size_t header_len, const struct iovec *seg, size_t n)
{
	struct rnet_place to = { seg, n };

	if (rnet_write_on(&to, header, header_len) || rnet_write_on(&to, skb->data, skb_headlen(skb)))
		return -EFAULT;
	return write_frags(skb, &to);
}

/* Writes the pages of an sk_buff, behind the first bytes of the segments. */
static noinline int write_rest(const struct sk_buff *skb, const struct iovec *seg, size_t n,
			       size_t skip)
{
	struct rnet_place to = { seg, n, skip };

	return write_frags(skb, &to);
}

/*
 * Writes a header and the data of an sk_buff to the segments, which have room for both. A copy with
 * object checks would find nothing, since the lengths are the skb's own.
 */
int rnet_skb_write(const struct sk_buff *skb, const void *header, size_t header_len,
		   const struct iovec *seg, size_t n)
{
	u8 __user *header_to = seg->iov_base, *to;
	size_t len = skb_headlen(skb);
	size_t skip = HEADER_LEN + len;

	might_fault();
	/* In the common case, the data follows the header, or has the second segment. */
	if (likely(seg->iov_len >= skip))
		to = header_to + HEADER_LEN;
	else if (n > 1 && seg->iov_len == HEADER_LEN && seg[1].iov_len >= len)
		to = seg[1].iov_base;
	else
		to = NULL;
	if (unlikely(!to || header_len != HEADER_LEN))
		return write_scattered(skb, header, header_len, seg, n);
	/* The scope checks only its first address. */
	if (!access_ok(header_to, HEADER_LEN) || !access_ok(to, len))
		return -EFAULT;
	scoped_user_write_access_size(header_to, HEADER_LEN, efault) {
		unsafe_copy_to_user(header_to, header, HEADER_LEN, efault);
		if (len <= SHORT_PACKET)
			unsafe_copy_to_user(to, skb->data, len, efault);
	}
	if (len > SHORT_PACKET && _inline_copy_to_user(to, skb->data, len))
		return -EFAULT;
	return skb_is_nonlinear(skb) ? write_rest(skb, seg, n, skip) : 0;
efault:
	return -EFAULT;
}

/* The same with a header that has, too, what rnet_skb_header() makes. */
int rnet_skb_write_offloaded(const struct sk_buff *skb, const void *header, size_t header_len,
			     const struct iovec *seg, size_t n)
{
	u8 whole[HEADER_LEN];

	if (header_len < sizeof(struct virtio_net_hdr) || header_len > sizeof(whole))
		return -EINVAL;
	memcpy(whole, header, header_len);
	if (rnet_skb_header(skb, whole))
		return -EINVAL;
	return rnet_skb_write(skb, whole, header_len, seg, n);
}

/* Frees packets that have been received. */
void rnet_skbs_free(struct sk_buff **skbs, size_t n)
{
	struct sk_buff *list = NULL;

	while (n--) {
		struct sk_buff *skb = skbs[n];

		/* Others may have a shared one in a list of theirs. */
		if (skb_shared(skb)) {
			consume_skb(skb);
			continue;
		}
		skb->next = list;
		list = skb;
	}
	kfree_skb_list_reason(list, SKB_CONSUMED);
}
