/* SPDX-License-Identifier: GPL-2.0 */
/* src/kapi/shim.rs repeats these declarations in Rust; `make check` compares the two. */
#ifndef RNET_HELPERS_H
#define RNET_HELPERS_H

#include <linux/poll.h>
#include <linux/types.h>
#include <linux/uio.h>

struct delayed_work;
struct dentry;
struct file_operations;
struct mm_struct;
struct net_device;
struct ptr_ring;
struct rnet_frames;
struct sk_buff;
struct socket;

/* The most frames sent at once. */
#define RNET_FRAMES 64

/* The most buffers of a frame that is sent in pages. */
#define RNET_BUFFERS 18

struct rnet_buffer {
	void *start;
	size_t len;
};

/* What a packet in a ring is, and what is special about it. */
#define RNET_PACKET_XDP 1 /* an xdp_frame; otherwise an sk_buff */
#define RNET_PACKET_TAGGED 2 /* has a VLAN tag outside of its data */
#define RNET_PACKET_GSO 4 /* is to be segmented */
#define RNET_PACKET_PARTIAL 8 /* has a checksum to be completed */
#define RNET_PACKET_VALID 16 /* its checksum has been verified */
#define RNET_PACKET_LIST 32 /* has a list of further sk_buffs, or pages that cannot be read */
#define RNET_PACKET_FOREIGN 64 /* is not of the device that it is compared with */
#define RNET_PACKET_TUNNEL 128 /* is a tunnel to be segmented */

/* Properties of a socket to send to. */
#define RNET_SOCK_XDP 1 /* runs XDP programs */
#define RNET_SOCK_UNLIMITED 2 /* does not account for what is in flight */

bool rnet_access_ok(u64 addr, u64 len);
int rnet_get_u16(u64 addr, u16 *value);
int rnet_put_u16(u64 addr, u16 value);
int rnet_get_u16_acquire(u64 addr, u16 *value);
int rnet_put_u16_release(u64 addr, u16 value);
int rnet_get_entries(u64 ring, u64 table, u32 size, u16 *index, u64 (*descs)[2], size_t n);
int rnet_gather_descs(u64 table, const u16 *index, u64 (*descs)[2], size_t n);
int rnet_get_u16_after_mb(u64 addr, u16 *value);
int rnet_publish_used(u64 addr, const u32 (*used)[2], size_t n, u64 index_addr, u16 index);
int rnet_put_used(u64 addr, const u32 (*used)[2], size_t n);
int rnet_get_available(u64 ring, u64 mask, u64 bits, u64 (*descs)[2], size_t n);
int rnet_publish_packed(u64 ring, u32 size, u32 position, const u32 (*used)[2], size_t n);
int rnet_touch_u64(u64 addr);
int rnet_get_u32(u64 addr, u32 *value);
int rnet_get_u32_after_mb(u64 addr, u32 *value);
int rnet_put_u32(u64 addr, u32 value);
int rnet_copy_from_user(void *to, u64 from, size_t len);
int rnet_copy_to_user(u64 to, const void *from, size_t len);
int rnet_copy_to_segments(const struct iovec *seg, size_t n, size_t skip, const void *from,
			  size_t len);
int rnet_copy_from_segments(void *to, size_t room, const struct iovec *seg, size_t n, size_t skip);
int rnet_clear_user(u64 addr, u64 len);
int rnet_user_or_u32(u64 addr, u32 mask);
int rnet_fault_in_writable(u64 addr, size_t len);
int rnet_peek(struct mm_struct *mm, u64 addr, void *to, size_t size, size_t n);

void rnet_set_running(void);
void rnet_set_sleeping(void);
void rnet_cond_resched(void);
bool rnet_need_resched(void);
bool rnet_is_dying(void);
void rnet_charge_begin(struct mm_struct *mm);
void rnet_charge_end(void);
u32 rnet_vfs_poll(struct file *file, poll_table *table);
bool rnet_log_allowed(void);
void rnet_work_init(struct delayed_work *work);
void rnet_work_start(struct delayed_work *work, unsigned int millis);
size_t rnet_index_nospec(size_t index, size_t size);

unsigned int rnet_threads_per_device(void);
unsigned int rnet_watchdog_ms(void);

void rnet_trace_queue_start(u64 device, int owner, const char *queue, size_t queue_len);
void rnet_trace_queue_stop(u64 device, int owner, const char *queue, size_t queue_len,
			   const char *reason, size_t reason_len);
void rnet_trace_fault(u64 device, int owner, const char *queue, size_t queue_len, const char *name,
		      size_t name_len, bool has_addr, u64 addr);
void rnet_trace_miss(u64 device, int owner, const char *queue, size_t queue_len, u64 iova, u8 access);
void rnet_trace_answer(u64 device, int owner, const char *queue, size_t queue_len, u64 iova,
		       u64 size, u8 perm);
bool rnet_traces_rounds(void);
void rnet_trace_round_end(u64 device, int owner, const char *queue, size_t queue_len, u64 packets,
			  u64 bytes, const char *why, size_t why_len);
void rnet_trace_watchdog(u64 device, int owner, const char *queue, size_t queue_len);
void rnet_trace_worker_start(u64 device, int owner, u32 worker, int tid);
void rnet_trace_worker_end(u64 device, int owner, u32 worker, int tid);
struct dentry *rnet_debugfs_dir(const char *name, struct dentry *parent);
struct dentry *rnet_debugfs_file(const char *name, u16 mode, struct dentry *parent, void *data,
				 const struct file_operations *operations);
void rnet_debugfs_remove(struct dentry *dentry);

bool rnet_sock_is_packet_raw(struct socket *sock);
int rnet_sock_packet_index(struct socket *sock);
bool rnet_sock_tap_name(struct socket *sock, char *name);
bool rnet_netdev_name(struct socket *sock, int index, char *name);
unsigned int rnet_sock_send_state(struct socket *sock);
int rnet_sock_error(struct socket *sock);
size_t rnet_sock_peek_len(struct socket *sock, bool *gso);
int rnet_sock_send(struct socket *sock, const struct iovec *seg, size_t n, size_t len, size_t skip);
int rnet_sock_recv(struct socket *sock, void *packet, const struct iovec *seg, size_t n,
		   size_t skip, size_t len);

size_t rnet_ring_consume(struct ptr_ring *ring, struct file *file, void **packets, u32 *lens,
			 u8 *kinds, size_t n, const struct net_device *dev);
void rnet_ring_unconsume(struct ptr_ring *ring, void **packets, size_t n);
struct net_device *rnet_netdev_hold(struct socket *sock, int index);
int rnet_netdev_index(struct socket *sock, const char *name);
void rnet_netdev_sent(struct net_device *dev, unsigned int packets, unsigned int bytes);
void rnet_netdev_put(struct net_device *dev);
int rnet_skb_header(const struct sk_buff *skb, void *header);
int rnet_skb_write(const struct sk_buff *skb, const void *header, size_t header_len,
		   const struct iovec *seg, size_t n);
int rnet_skb_write_offloaded(const struct sk_buff *skb, const void *header, size_t header_len,
			     const struct iovec *seg, size_t n);
void rnet_skbs_free(struct sk_buff **skbs, size_t n);

void *rnet_pages_alloc(unsigned int order, bool reclaim, int refs);
int rnet_pages_refs(void *pages);
void rnet_pages_get(void *pages, int refs);
void rnet_pages_put(void *pages, int refs);

struct rnet_frames *rnet_frames_new(void);
void rnet_frames_clear(struct rnet_frames *frames, size_t count);
void rnet_frames_free(struct rnet_frames *frames);
unsigned int rnet_frame_room(void);
unsigned int rnet_frame_tail(void);
void rnet_frames_put(struct rnet_frames *frames, size_t index, void *buf, unsigned int size,
		     unsigned int pad, unsigned int header, unsigned int len);
int rnet_frames_send(struct rnet_frames *frames, size_t count, struct socket *sock);
int rnet_buffers_send(const struct rnet_buffer *buffers, size_t n, size_t len, struct socket *sock);

#endif
