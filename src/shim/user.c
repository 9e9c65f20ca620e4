// SPDX-License-Identifier: GPL-2.0
/*
 * User memory: single values, the parts of split and packed rings, and copies.
 */

#include <linux/pagemap.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include <linux/unaligned.h>
#include <linux/virtio_ring.h>
#include <asm/futex.h>

#include "helpers.h"
#include "place.h"

bool rnet_access_ok(u64 addr, u64 len)
{
	return access_ok((void __user *)addr, len);
}

int rnet_get_u16(u64 addr, u16 *value)
{
	u16 __user *from = (u16 __user *)addr;

	might_fault();
	scoped_user_read_access(from, efault)
		unsafe_get_user(*value, from, efault);
	return 0;
efault:
	return -EFAULT;
}

int rnet_put_u16(u64 addr, u16 value)
{
	u16 __user *to = (u16 __user *)addr;

	might_fault();
	scoped_user_write_access(to, efault)
		unsafe_put_user(value, to, efault);
	return 0;
efault:
	return -EFAULT;
}

/* The value is read before everything that is read after this call. */
int rnet_get_u16_acquire(u64 addr, u16 *value)
{
	int ret = rnet_get_u16(addr, value);

	smp_rmb();
	return ret;
}

/* Everything that was written before this call is visible to others before the value is read. */
int rnet_get_u16_after_mb(u64 addr, u16 *value)
{
	smp_mb();
	return rnet_get_u16(addr, value);
}

/* Orders all earlier accesses before later writes. */
static __always_inline void rnet_release_mb(void)
{
	/* On x86, no store is reordered before an earlier access. */
	if (IS_ENABLED(CONFIG_X86))
		smp_wmb();
	else
		smp_mb();
}

/* Everything that was read or written before this call is ordered before the write of the value. */
int rnet_put_u16_release(u64 addr, u16 value)
{
	rnet_release_mb();
	return rnet_put_u16(addr, value);
}

/*
 * Reads up to n entries of an available ring, and the descriptor of each. It stops at an entry that
 * is outside of the table, and returns the number before it.
 */
int rnet_get_entries(u64 ring, u64 table, u32 size, u16 *index, u64 (*descs)[2], size_t n)
{
	u64 __user (*desc)[2] = (u64 __user (*)[2])table;
	u16 __user *from = (u16 __user *)ring;
	size_t i;

	might_fault();
	/* The scope checks and masks only its first address. */
	if (!access_ok(from, n * sizeof(*from)) || !access_ok(desc, size * sizeof(*desc)))
		return -EFAULT;
	scoped_user_read_access_size(from, n * sizeof(*from), efault) {
		for (i = 0; i < n; i++) {
			__le16 entry;

			unsafe_get_user(entry, (__le16 __user *)&from[i], efault);
			index[i] = le16_to_cpu(entry);
			if (index[i] >= size)
				break;
			unsafe_get_user(descs[i][0], &desc[index[i]][0], efault);
			unsafe_get_user(descs[i][1], &desc[index[i]][1], efault);
		}
	}
	return i;
efault:
	return -EFAULT;
}

int rnet_gather_descs(u64 table, const u16 *index, u64 (*descs)[2], size_t n)
{
	u64 __user (*from)[2] = (u64 __user (*)[2])table;
	size_t i;

	might_fault();
	scoped_user_read_access_size(from, sizeof(*from), efault) {
		for (i = 0; i < n; i++) {
			/* The scope has checked only the first address. */
			if (!access_ok(from[index[i]], sizeof(*from)))
				goto efault;
			unsafe_get_user(descs[i][0], &from[index[i]][0], efault);
			unsafe_get_user(descs[i][1], &from[index[i]][1], efault);
		}
	}
	return 0;
efault:
	return -EFAULT;
}

int rnet_put_used(u64 addr, const u32 (*used)[2], size_t n)
{
	u32 __user (*to)[2] = (u32 __user (*)[2])addr;
	size_t i;

	might_fault();
	if (!access_ok(to, n * sizeof(*to)))
		return -EFAULT;
	scoped_user_write_access_size(to, n * sizeof(*to), efault) {
		for (i = 0; i < n; i++) {
			unsafe_put_user(used[i][0], &to[i][0], efault);
			unsafe_put_user(used[i][1], &to[i][1], efault);
		}
	}
	return 0;
efault:
	return -EFAULT;
}

/* All earlier reads and writes, and those of the elements, are ordered before the index. */
int rnet_publish_used(u64 addr, const u32 (*used)[2], size_t n, u64 index_addr, u16 index)
{
	u32 __user (*to)[2] = (u32 __user (*)[2])addr;
	u16 __user *index_to = (u16 __user *)index_addr;
	size_t i;

	might_fault();
	/* The scope checks only its first address. */
	if (!access_ok(to, n * sizeof(*to)) || !access_ok(index_to, sizeof(*index_to)))
		return -EFAULT;
	scoped_user_write_access_size(to, n * sizeof(*to), efault) {
		for (i = 0; i < n; i++) {
			unsafe_put_user(used[i][0], &to[i][0], efault);
			unsafe_put_user(used[i][1], &to[i][1], efault);
		}
		rnet_release_mb();
		unsafe_put_user(index, index_to, efault);
	}
	return 0;
efault:
	return -EFAULT;
}

/*
 * Reads up to n descriptors of a packed ring, as long as their second word, which has the
 * flags, has the given bits under the mask. That word is read before everything that follows.
 */
int rnet_get_available(u64 ring, u64 mask, u64 bits, u64 (*descs)[2], size_t n)
{
	u64 __user (*from)[2] = (u64 __user (*)[2])ring;
	u64 (*const end)[2] = descs + n;
	u64 (*to)[2] = descs;

	might_fault();
	if (!access_ok(from, n * sizeof(*from)))
		return -EFAULT;
	scoped_user_read_access_size(from, n * sizeof(*from), efault) {
		u64 __user (*at)[2] = from;

		for (; to != end; to++, at++) {
			u64 word;

			unsafe_get_user(word, &(*at)[1], efault);
			if ((word & mask) != bits)
				break;
			(*to)[1] = word;
			smp_rmb();
			unsafe_get_user((*to)[0], &(*at)[0], efault);
		}
	}
	return to - descs;
efault:
	return -EFAULT;
}

/* Flags in the second word of a used descriptor: on laps of wrap counter 1, and if written to. */
#define PACKED_LAP (BIT_ULL(48 + VRING_PACKED_DESC_F_AVAIL) | BIT_ULL(48 + VRING_PACKED_DESC_F_USED))
#define PACKED_WRITE ((u64)VRING_DESC_F_WRITE << 48)

/* The second word of a used descriptor: length and id, with the flags in the upper bits. */
static __always_inline __le64 packed_word(u64 used, u64 lap)
{
	u64 flags = (u32)used ? lap | PACKED_WRITE : lap;

	return cpu_to_le64((used & (BIT_ULL(48) - 1)) | flags);
}

/*
 * Marks descriptors of a packed ring as used, from a position on, which is the offset of a
 * descriptor and the wrap counter. Each used entry is one word. From the low end upwards, it has
 * the length, the id, and the number of descriptors to the next one. Everything that was read or
 * written before this call, and the other descriptors, are ordered before the first descriptor.
 * Returns the position after the last one.
 */
int rnet_publish_packed(u64 ring, u32 size, u32 position, const u32 (*used)[2], size_t n)
{
	__le64 __user (*to)[2] = (__le64 __user (*)[2])ring;
	u32 first = position & (BIT(VRING_PACKED_EVENT_F_WRAP_CTR) - 1);
	u64 lap = first == position ? 0 : PACKED_LAP;
	u64 first_lap = lap, word;
	u32 at = first;
	size_t i = 0;

	might_fault();
	if (!n)
		return position;
	/* The scope checks only its first address. */
	if (!access_ok(to, size * sizeof(*to)))
		return -EFAULT;
	scoped_user_write_access_size(to, size * sizeof(*to), efault) {
		word = get_unaligned_le64(used[0]);
		for (;;) {
			at += word >> 48;
			if (unlikely(at >= size)) {
				/* More than a lap only if a driver does not await its buffers. */
				if (at / size & 1)
					lap ^= PACKED_LAP;
				at %= size;
			}
			if (++i == n)
				break;
			word = get_unaligned_le64(used[i]);
			unsafe_put_user(packed_word(word, lap), &to[at][1], efault);
		}
		word = get_unaligned_le64(used[0]);
		rnet_release_mb();
		unsafe_put_user(packed_word(word, first_lap), &to[first][1], efault);
	}
	return at | (lap ? BIT(VRING_PACKED_EVENT_F_WRAP_CTR) : 0);
efault:
	return -EFAULT;
}

/* Tests whether a word can be written, by writing its own value back; nothing else writes it. */
int rnet_touch_u64(u64 addr)
{
	u64 __user *at = (u64 __user *)addr;
	u64 value;

	might_fault();
	scoped_user_rw_access(at, efault) {
		unsafe_get_user(value, at, efault);
		unsafe_put_user(value, at, efault);
	}
	return 0;
efault:
	return -EFAULT;
}

int rnet_get_u32(u64 addr, u32 *value)
{
	u32 __user *from = (u32 __user *)addr;

	might_fault();
	scoped_user_read_access(from, efault)
		unsafe_get_user(*value, from, efault);
	return 0;
efault:
	return -EFAULT;
}

/* Everything that was written before this call is visible to others before the value is read. */
int rnet_get_u32_after_mb(u64 addr, u32 *value)
{
	smp_mb();
	return rnet_get_u32(addr, value);
}

int rnet_put_u32(u64 addr, u32 value)
{
	u32 __user *to = (u32 __user *)addr;

	might_fault();
	scoped_user_write_access(to, efault)
		unsafe_put_user(value, to, efault);
	return 0;
efault:
	return -EFAULT;
}

/*
 * These use the copies without object checks. The caller sized the kernel buffer for the same copy,
 * so hardened usercopy would find nothing and would cost a page lookup per packet.
 */
int rnet_copy_from_user(void *to, u64 from, size_t len)
{
	return _inline_copy_from_user(to, (void __user *)from, len) ? -EFAULT : 0;
}

int rnet_copy_to_user(u64 to, const void *from, size_t len)
{
	return _inline_copy_to_user((void __user *)to, from, len) ? -EFAULT : 0;
}

int rnet_copy_to_segments(const struct iovec *seg, size_t n, size_t skip, const void *from,
			  size_t len)
{
	struct rnet_place to = { seg, n, skip };

	return rnet_write_on(&to, from, len);
}

int rnet_copy_from_segments(void *to, size_t room, const struct iovec *seg, size_t n, size_t skip)
{
	/* In the common case, one segment has all bytes. */
	if (n && skip < seg->iov_len && seg->iov_len - skip >= room)
		return _inline_copy_from_user(to, seg->iov_base + skip, room) ? -EFAULT : 0;
	for (; n && room; n--, seg++) {
		size_t len = seg->iov_len;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		len = min(len - skip, room);
		if (_inline_copy_from_user(to, seg->iov_base + skip, len))
			return -EFAULT;
		skip = 0;
		room -= len;
		to += len;
	}
	return room ? -EFAULT : 0;
}

int rnet_clear_user(u64 addr, u64 len)
{
	return clear_user((void __user *)addr, len) ? -EFAULT : 0;
}

/*
 * Sets bits of a word that others change, too. Everything that was written before this call is
 * written before the bits. It tries once: -EAGAIN if others were faster, -EFAULT if the word is not
 * mapped, or, on some architectures, not faulted in yet, -EINVAL for an address that no word can
 * have.
 *
 * A futex operation is the one atomic access to user memory that every architecture has.
 */
int rnet_user_or_u32(u64 addr, u32 mask)
{
	u32 __user *to = (u32 __user *)addr;
	int old;

	might_fault();
	/* Not all futex operations check the address. */
	if (!IS_ALIGNED(addr, sizeof(*to)) || !access_ok(to, sizeof(*to)))
		return -EINVAL;
	smp_wmb();
	return arch_futex_atomic_op_inuser(FUTEX_OP_OR, mask, &old, to);
}

/* Faults in memory for writing, without writing to it. */
int rnet_fault_in_writable(u64 addr, size_t len)
{
	return fault_in_safe_writeable((const char __user *)addr, len) ? -EFAULT : 0;
}

/* Copies words from the last to the first, each in a single load, and before all later ones. */
static int peek_words(void *to, const void *from, size_t size, size_t n)
{
	switch (size) {
	case sizeof(u16):
		while (n--)
			((u16 *)to)[n] = smp_load_acquire(&((const u16 *)from)[n]);
		return 0;
	case sizeof(u32):
		while (n--)
			((u32 *)to)[n] = smp_load_acquire(&((const u32 *)from)[n]);
		return 0;
	case sizeof(u64):
		while (n--)
			((u64 *)to)[n] = smp_load_acquire(&((const u64 *)from)[n]);
		return 0;
	default:
		return -EINVAL;
	}
}

/*
 * Copies n aligned words of 2, 4 or 8 bytes from the memory of another process, if they are
 * resident. It waits neither for the lock of the mappings nor for a page.
 */
int rnet_peek(struct mm_struct *mm, u64 addr, void *to, size_t size, size_t n)
{
	int ret = 0;

	if (addr & (size - 1))
		return -EINVAL;
	if (!mmap_read_trylock(mm))
		return -EAGAIN;
	while (n && !ret) {
		size_t now = min(n, (PAGE_SIZE - offset_in_page(addr)) / size);
		struct page *page;
		void *from;

		if (get_user_pages_remote(mm, addr, 1, FOLL_NOFAULT, &page, NULL) != 1) {
			ret = -EFAULT;
			break;
		}
		from = kmap_local_page(page);
		ret = peek_words(to, from + offset_in_page(addr), size, now);
		kunmap_local(from);
		put_page(page);
		addr += now * size;
		to += now * size;
		n -= now;
	}
	mmap_read_unlock(mm);
	return ret;
}
