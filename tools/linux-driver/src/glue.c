// SPDX-License-Identifier: GPL-2.0
/*
 * A virtqueue of the kernel's with its device, behind functions of plain types for ffi.rs, where
 * they are declared again.
 */
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

/* The largest number of buffers of a chain that is added. */
#define MAX_BUFS 64

/* The headers in tools/virtio want these; no allocation is faked. */
void *__kmalloc_fake, *__kfree_ignore_start, *__kfree_ignore_end;

struct linux_driver_buf {
	u64 addr;
	u32 len;
	u32 write;
};

struct linux_driver_queue {
	struct virtio_device device;
	struct virtqueue *vq;
	bool called;
};

static bool notify(struct virtqueue *vq)
{
	/*
	 * The kernel's code kicks unasked when a chain finds no room, or when 2^16 chains have been
	 * added without a kick. A driver that looks at num_free and kicks does not let it come to that.
	 */
	abort();
}

static void callback(struct virtqueue *vq)
{
	struct linux_driver_queue *queue = vq->priv;

	queue->called = true;
}

void linux_driver_del(struct linux_driver_queue *queue)
{
	if (queue->vq) {
		while (virtqueue_detach_unused_buf(queue->vq))
			;
		vring_del_virtqueue(queue->vq);
	}
	kfree(queue);
}

struct linux_driver_queue *linux_driver_new(u32 size, u64 features)
{
	struct linux_driver_queue *queue = kzalloc(sizeof(*queue), GFP_KERNEL);

	if (!queue)
		return NULL;
	INIT_LIST_HEAD(&queue->device.vqs);
	spin_lock_init(&queue->device.vqs_list_lock);
	queue->device.features = features;
	/* Barriers for an SMP host, the alignment of virtio-pci, no smaller ring, no context. */
	queue->vq = vring_create_virtqueue(0, size, 64, &queue->device, true, false, false, notify,
					   callback, "queue");
	if (!queue->vq) {
		linux_driver_del(queue);
		return NULL;
	}
	queue->vq->priv = queue;
	return queue;
}

void linux_driver_addrs(const struct linux_driver_queue *queue, u64 addrs[3])
{
	addrs[0] = virtqueue_get_desc_addr(queue->vq);
	addrs[1] = virtqueue_get_avail_addr(queue->vq);
	addrs[2] = virtqueue_get_used_addr(queue->vq);
}

u32 linux_driver_num_free(const struct linux_driver_queue *queue)
{
	return queue->vq->num_free;
}

bool linux_driver_is_broken(const struct linux_driver_queue *queue)
{
	return virtqueue_is_broken(queue->vq);
}

/* Readable buffers come first; there is at least one buffer. */
int linux_driver_add(struct linux_driver_queue *queue, const struct linux_driver_buf *bufs,
		     u32 readable, u32 writable, uintptr_t token)
{
	struct scatterlist sg[MAX_BUFS], *lists[2];
	u32 i, lists_out = 0, lists_in = 0;

	if (readable + writable > MAX_BUFS)
		return -EINVAL;
	if (readable) {
		sg_init_table(sg, readable);
		lists[lists_out++] = sg;
	}
	if (writable) {
		sg_init_table(sg + readable, writable);
		lists[lists_out + lists_in++] = sg + readable;
	}
	for (i = 0; i < readable + writable; i++)
		sg_set_buf(&sg[i], (void *)(uintptr_t)bufs[i].addr, bufs[i].len);
	return virtqueue_add_sgs(queue->vq, lists, lists_out, lists_in, (void *)token, GFP_ATOMIC);
}

bool linux_driver_kick_prepare(struct linux_driver_queue *queue)
{
	return virtqueue_kick_prepare(queue->vq);
}

uintptr_t linux_driver_get_buf(struct linux_driver_queue *queue, u32 *len)
{
	return (uintptr_t)virtqueue_get_buf(queue->vq, len);
}

void linux_driver_disable_cb(struct linux_driver_queue *queue)
{
	virtqueue_disable_cb(queue->vq);
}

bool linux_driver_enable_cb(struct linux_driver_queue *queue)
{
	return virtqueue_enable_cb(queue->vq);
}

bool linux_driver_enable_cb_delayed(struct linux_driver_queue *queue)
{
	return virtqueue_enable_cb_delayed(queue->vq);
}

/* An interrupt; returns whether it got as far as the driver's callback. */
bool linux_driver_interrupt(struct linux_driver_queue *queue)
{
	queue->called = false;
	vring_interrupt(0, queue->vq);
	return queue->called;
}
