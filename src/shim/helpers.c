// SPDX-License-Identifier: GPL-2.0
/*
 * Functions that Rust can call for what C headers offer only as macros or inline functions. They
 * make no decisions; the caller makes them all. Guest and owner addresses are passed as u64.
 */

#include <linux/bvec.h>
#include <linux/debugfs.h>
#include <linux/file.h>
#include <linux/gfp.h>
#include <linux/if_packet.h>
#include <linux/if_tap.h>
#include <linux/if_tun.h>
#include <linux/if_vlan.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/net.h>
#include <linux/netdevice.h>
#include <linux/nospec.h>
#include <linux/page_frag_cache.h>
#include <linux/page_ref.h>
#include <linux/poll.h>
#include <linux/ratelimit.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/skbuff.h>
#include <linux/slab.h>
#include <linux/uio.h>
#include <linux/vhost_types.h>
#include <linux/virtio_net.h>
#include <linux/workqueue.h>
#include <net/sock.h>
#include <net/xdp.h>

#include "helpers.h"

/* src/vhost/uapi.rs reads and writes these as words. */
static_assert(sizeof(struct vhost_msg) == 9 * sizeof(u64));
static_assert(sizeof(struct vhost_msg_v2) == 9 * sizeof(u64));
static_assert(offsetof(struct vhost_msg, iotlb) == sizeof(u64));
static_assert(offsetof(struct vhost_msg_v2, iotlb) == sizeof(u64));
static_assert(sizeof(struct vhost_iotlb_msg) == 4 * sizeof(u64));
static_assert(offsetof(struct vhost_iotlb_msg, perm) == 3 * sizeof(u64));

/* Tasks and wait queues */

void rnet_set_running(void)
{
	__set_current_state(TASK_RUNNING);
}

/* A wake-up after this call is not lost, even if the task does not sleep yet. */
void rnet_set_sleeping(void)
{
	set_current_state(TASK_INTERRUPTIBLE);
}

void rnet_cond_resched(void)
{
	cond_resched();
}

bool rnet_need_resched(void)
{
	return need_resched();
}

bool rnet_is_dying(void)
{
	return fatal_signal_pending(current);
}

/*
 * Charges what the current kernel thread allocates to the memory cgroup that the owner of `mm` is
 * in, until rnet_charge_end(). Kernel threads are otherwise charged to no cgroup, even with memory
 * of their own (current_objcg_update()).
 *
 * The reference to the cgroup is kept for the thread's life: a cgroup that is removed meanwhile
 * stays, as an offline one, until the worker ends.
 */
void rnet_charge_begin(struct mm_struct *mm)
{
	set_active_memcg(get_mem_cgroup_from_mm(mm));
}

void rnet_charge_end(void)
{
	mem_cgroup_put(set_active_memcg(NULL));
}

u32 rnet_vfs_poll(struct file *file, poll_table *table)
{
	return (__force u32)vfs_poll(file, table);
}

bool rnet_log_allowed(void)
{
	static DEFINE_RATELIMIT_STATE(limit, DEFAULT_RATELIMIT_INTERVAL, DEFAULT_RATELIMIT_BURST);

	return __ratelimit(&limit);
}

/* Delayed work: the caller sets its function before it starts it. */

void rnet_work_init(struct delayed_work *work)
{
	INIT_DELAYED_WORK(work, NULL);
}

void rnet_work_start(struct delayed_work *work, unsigned int millis)
{
	schedule_delayed_work(work, msecs_to_jiffies(millis));
}

size_t rnet_index_nospec(size_t index, size_t size)
{
	return array_index_nospec(index, size);
}

/* debugfs: in a kernel without it, functions of the header only */

struct dentry *rnet_debugfs_dir(const char *name, struct dentry *parent)
{
	return debugfs_create_dir(name, parent);
}

struct dentry *rnet_debugfs_file(const char *name, u16 mode, struct dentry *parent, void *data,
				 const struct file_operations *operations)
{
	return debugfs_create_file(name, mode, parent, data, operations);
}

void rnet_debugfs_remove(struct dentry *dentry)
{
	debugfs_remove(dentry);
}

/* Sockets */

bool rnet_sock_is_packet_raw(struct socket *sock)
{
	return sock->sk->sk_type == SOCK_RAW && sock->sk->sk_family == AF_PACKET;
}

/* The index of the device that a packet socket is bound to, or 0. */
int rnet_sock_packet_index(struct socket *sock)
{
	struct sockaddr_storage addr = {};

	if (sock->ops->getname(sock, (void *)&addr, 0) < 0)
		return 0;
	return ((struct sockaddr_ll *)&addr)->sll_ifindex;
}

/* Copies the name of the device of a socket that tap_get_socket() returned; of IFNAMSIZ bytes. */
bool rnet_sock_tap_name(struct socket *sock, char *name)
{
	const struct tap_dev *tap;

	guard(rcu)();
	tap = rcu_dereference(container_of(sock, struct tap_queue, sock)->tap);
	if (!tap)
		return false;
	strscpy(name, tap->dev->name, IFNAMSIZ);
	return true;
}

/* Copies the name of a device in the socket's namespace; of IFNAMSIZ bytes. */
bool rnet_netdev_name(struct socket *sock, int index, char *name)
{
	const struct net_device *dev;

	guard(rcu)();
	dev = dev_get_by_index_rcu(sock_net(sock->sk), index);
	if (!dev)
		return false;
	strscpy(name, dev->name, IFNAMSIZ);
	return true;
}

unsigned int rnet_sock_send_state(struct socket *sock)
{
	struct sock *sk = sock->sk;

	return (sock_flag(sk, SOCK_XDP) ? RNET_SOCK_XDP : 0) |
	       (READ_ONCE(sk->sk_sndbuf) == INT_MAX ? RNET_SOCK_UNLIMITED : 0);
}

int rnet_sock_error(struct socket *sock)
{
	return sock_error(sock->sk);
}

/* The length of the next packet, and whether it is to be segmented; 0 if there is none. */
size_t rnet_sock_peek_len(struct socket *sock, bool *gso)
{
	struct sk_buff_head *queue = &sock->sk->sk_receive_queue;
	struct sk_buff *skb;
	unsigned long flags;
	size_t len = 0;

	spin_lock_irqsave(&queue->lock, flags);
	skb = skb_peek(queue);
	*gso = skb && skb_is_gso(skb);
	if (skb)
		len = skb->len + (skb_vlan_tag_present(skb) ? VLAN_HLEN : 0);
	spin_unlock_irqrestore(&queue->lock, flags);
	return len;
}

/*
 * Initializes a message of len bytes of the segments, and skips the first skip of them. Everything
 * but the iterator is cleared: a string operation over the whole message would cost more than
 * all the rest.
 */
static __always_inline void init_msg(struct msghdr *msg, unsigned int direction,
				     const struct iovec *seg, size_t n, size_t len, size_t skip)
{
	struct iov_iter *iter = &msg->msg_iter;

	memset(msg, 0, offsetof(struct msghdr, msg_iter));
	memset_after(msg, 0, msg_iter);
	/* A single segment is the common case; it is cheaper to iterate over as ITER_UBUF. */
	if (n == 1 && len <= seg->iov_len)
		iov_iter_ubuf(iter, direction, seg->iov_base, len);
	else
		iov_iter_init(iter, direction, seg, n, len);
	if (skip)
		iov_iter_advance(iter, skip);
}

int rnet_sock_send(struct socket *sock, const struct iovec *seg, size_t n, size_t len, size_t skip)
{
	struct msghdr msg __uninitialized;

	init_msg(&msg, ITER_SOURCE, seg, n, len, skip);
	msg.msg_flags = MSG_DONTWAIT;
	return sock->ops->sendmsg(sock, &msg, len - skip);
}

int rnet_sock_recv(struct socket *sock, void *packet, const struct iovec *seg, size_t n,
		   size_t skip, size_t len)
{
	struct msghdr msg __uninitialized;
	int ret;

	init_msg(&msg, ITER_DEST, seg, n, skip + len, skip);
	msg.msg_control = packet;
	ret = sock->ops->recvmsg(sock, &msg, len, MSG_DONTWAIT | MSG_TRUNC);
	/* A tap does not report a payload that it could not write: it leaves it in the iterator. */
	if (ret == (int)len && iov_iter_count(&msg.msg_iter))
		return -EFAULT;
	return ret;
}

/* Pages that buffers are cut from: compound, so that a reference to any part keeps the whole */

void *rnet_pages_alloc(unsigned int order, bool reclaim, int refs)
{
	gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_COMP | __GFP_NOWARN | __GFP_NORETRY |
		    __GFP_NOMEMALLOC;
	struct page *page = alloc_pages(reclaim ? gfp : gfp & ~__GFP_DIRECT_RECLAIM, order);

	if (!page)
		return NULL;
	page_ref_add(page, refs - 1);
	return page_address(page);
}

int rnet_pages_refs(void *pages)
{
	return page_ref_count(virt_to_page(pages));
}

void rnet_pages_get(void *pages, int refs)
{
	page_ref_add(virt_to_page(pages), refs);
}

void rnet_pages_put(void *pages, int refs)
{
	__page_frag_cache_drain(virt_to_page(pages), refs);
}

/* Frames for tun's and tap's XDP-buffer interface (struct tun_msg_ctl, TUN_MSG_PTR) */

struct rnet_frames {
	/* The message that passes the frames; only their number changes between calls. */
	struct msghdr msg;
	struct tun_msg_ctl ctl;
	struct xdp_buff xdp[RNET_FRAMES];
};

struct rnet_frames *rnet_frames_new(void)
{
	struct rnet_frames *frames = kzalloc(sizeof(*frames), GFP_KERNEL);

	if (!frames)
		return NULL;
	frames->ctl.type = TUN_MSG_PTR;
	frames->ctl.ptr = frames->xdp;
	frames->msg.msg_control = &frames->ctl;
	frames->msg.msg_controllen = sizeof(frames->ctl);
	frames->msg.msg_flags = MSG_DONTWAIT;
	return frames;
}

void rnet_frames_clear(struct rnet_frames *frames, size_t count)
{
	while (count)
		page_frag_free(frames->xdp[--count].data_hard_start);
}

void rnet_frames_free(struct rnet_frames *frames)
{
	kfree(frames);
}

/* Room before the payload of a frame, and the overhead behind it. */
unsigned int rnet_frame_room(void)
{
	return NET_IP_ALIGN + NET_SKB_PAD;
}

unsigned int rnet_frame_tail(void)
{
	return SKB_DATA_ALIGN(sizeof(struct skb_shared_info));
}

static __always_inline void put_frame(struct rnet_frames *frames, size_t index, void *buf,
				      unsigned int size, unsigned int pad, unsigned int len)
{
	struct xdp_buff *xdp = frames->xdp + index;

	xdp_init_buff(xdp, size, NULL);
	xdp_prepare_buff(xdp, buf, pad, len, true);
}

/* A separate function, so that the common frame needs no call, and no registers saved for one. */
static noinline void put_unusual(struct rnet_frames *frames, size_t index, void *buf,
				 unsigned int size, unsigned int pad, unsigned int header,
				 unsigned int len)
{
	if (header)
		memcpy(buf, buf + pad - header, header);
	else
		memset(buf, 0, pad);
	put_frame(frames, index, buf, size, pad, len);
}

void rnet_frames_put(struct rnet_frames *frames, size_t index, void *buf, unsigned int size,
		     unsigned int pad, unsigned int header, unsigned int len)
{
	if (header != sizeof(struct virtio_net_hdr_mrg_rxbuf)) {
		put_unusual(frames, index, buf, size, pad, header, len);
		return;
	}
	/* The receiver looks for the header at the start of the buffer. */
	memcpy(buf, buf + pad - header, sizeof(struct virtio_net_hdr_mrg_rxbuf));
	put_frame(frames, index, buf, size, pad, len);
}

int rnet_frames_send(struct rnet_frames *frames, size_t count, struct socket *sock)
{
	frames->ctl.num = count;
	return sock->ops->sendmsg(sock, &frames->msg, 0);
}

/*
 * A frame in pages (struct tun_msg_ctl, TUN_MSG_UBUF)
 *
 * The flags of the ubuf_info do not request zero copy: the pages belong to the skb like any others,
 * so the skb is neither orphaned nor copied on its way, and there is no callback. The skb still has
 * a pointer to the ubuf_info, in destructor_arg, and may outlive this module. That is sound, since
 * nothing dereferences the pointer. skbuff.h, net/core, net/ipv4, net/ipv6, net/xfrm and io_uring
 * get it through skb_zcopy(), which returns NULL without SKBFL_ZEROCOPY_ENABLE; skb_uarg() is only
 * used after that. Code that reads destructor_arg directly (sctp, xsk, xen-netback, mhi_wwan_ctrl,
 * cdc-wdm) does so only with skbs that it made. Copying the shared info of an skb copies only the
 * pointer. (Linux 7.3)
 */

/* Called at once, by a tap that has copied the pages or refuses them. */
static void ubuf_complete(struct sk_buff *skb, struct ubuf_info *ubuf, bool zerocopy_success)
{
}

static const struct ubuf_info_ops ubuf_ops = { .complete = ubuf_complete };
static struct ubuf_info ubuf = { .ops = &ubuf_ops };

/*
 * The iterator has more segments than a tap with IFF_NAPI_FRAGS accepts, since that tap would take
 * them for user memory. The segments behind the buffers are empty.
 */
static_assert(RNET_BUFFERS < MAX_SKB_FRAGS + 2);

int rnet_buffers_send(const struct rnet_buffer *buffers, size_t n, size_t len, struct socket *sock)
{
	struct bio_vec bvec[MAX_SKB_FRAGS + 2] = {};
	struct tun_msg_ctl ctl = { .type = TUN_MSG_UBUF, .ptr = &ubuf };
	struct msghdr msg = {
		.msg_control = &ctl,
		.msg_controllen = sizeof(ctl),
		.msg_flags = MSG_DONTWAIT,
	};
	size_t i;

	for (i = 0; i < n; i++)
		bvec_set_virt(&bvec[i], buffers[i].start, buffers[i].len);
	iov_iter_bvec(&msg.msg_iter, ITER_SOURCE, bvec, ARRAY_SIZE(bvec), len);
	return sock->ops->sendmsg(sock, &msg, len);
}
