/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The trace events of the module. Each names the device by its number and its owner by the process
 * id. Strings come from Rust, with a length and without a zero at their end.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM vhost_rnet

#if !defined(RNET_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define RNET_TRACE_H

#include <linux/tracepoint.h>
#include <linux/vhost_types.h>

/* What all events about a queue have. */
#define RNET_QUEUE_PROTO u64 device, int owner, const char *queue, size_t queue_len
#define RNET_QUEUE_ARGS device, owner, queue, queue_len
#define RNET_QUEUE_FIELDS                                                                          \
	__field(u64, device)                                                                       \
	__field(int, owner)                                                                        \
	__string_len(queue, queue, queue_len)
#define RNET_QUEUE_ASSIGN                                                                          \
	do {                                                                                       \
		__entry->device = device;                                                          \
		__entry->owner = owner;                                                            \
		__assign_str(queue);                                                               \
	} while (0)
#define RNET_QUEUE_FORMAT "owner=%d device=%llu queue=%s"
#define RNET_QUEUE_VALUES __entry->owner, __entry->device, __get_str(queue)

#define rnet_show_access(access)                                                                   \
	__print_symbolic(access, { VHOST_ACCESS_RO, "read" }, { VHOST_ACCESS_WO, "write" },        \
			 { VHOST_ACCESS_RW, "read_write" })

DECLARE_EVENT_CLASS(rnet_queue,
	TP_PROTO(RNET_QUEUE_PROTO),
	TP_ARGS(RNET_QUEUE_ARGS),
	TP_STRUCT__entry(RNET_QUEUE_FIELDS),
	TP_fast_assign(RNET_QUEUE_ASSIGN;),
	TP_printk(RNET_QUEUE_FORMAT, RNET_QUEUE_VALUES)
);

/* A queue starts on a backend, or goes on after a fault. */
DEFINE_EVENT(rnet_queue, queue_start,
	TP_PROTO(RNET_QUEUE_PROTO),
	TP_ARGS(RNET_QUEUE_ARGS)
);

/* The watchdog has a queue look for work. */
DEFINE_EVENT(rnet_queue, watchdog,
	TP_PROTO(RNET_QUEUE_PROTO),
	TP_ARGS(RNET_QUEUE_ARGS)
);

TRACE_EVENT(queue_stop,
	TP_PROTO(RNET_QUEUE_PROTO, const char *reason, size_t reason_len),
	TP_ARGS(RNET_QUEUE_ARGS, reason, reason_len),
	TP_STRUCT__entry(
		RNET_QUEUE_FIELDS
		__string_len(reason, reason, reason_len)
	),
	TP_fast_assign(
		RNET_QUEUE_ASSIGN;
		__assign_str(reason);
	),
	TP_printk(RNET_QUEUE_FORMAT " reason=%s", RNET_QUEUE_VALUES, __get_str(reason))
);

/* A fault that the owner is told of. Not every one has an address. */
TRACE_EVENT(fault,
	TP_PROTO(RNET_QUEUE_PROTO, const char *name, size_t name_len, bool has_addr, u64 addr),
	TP_ARGS(RNET_QUEUE_ARGS, name, name_len, has_addr, addr),
	TP_STRUCT__entry(
		RNET_QUEUE_FIELDS
		__string_len(name, name, name_len)
		__field(bool, has_addr)
		__field(u64, addr)
	),
	TP_fast_assign(
		RNET_QUEUE_ASSIGN;
		__assign_str(name);
		__entry->has_addr = has_addr;
		__entry->addr = addr;
	),
	TP_printk(RNET_QUEUE_FORMAT " name=%s has_addr=%d addr=0x%llx", RNET_QUEUE_VALUES,
		  __get_str(name), __entry->has_addr, __entry->addr)
);

/* The owner is asked for a translation. */
TRACE_EVENT(miss,
	TP_PROTO(RNET_QUEUE_PROTO, u64 iova, u8 access),
	TP_ARGS(RNET_QUEUE_ARGS, iova, access),
	TP_STRUCT__entry(
		RNET_QUEUE_FIELDS
		__field(u64, iova)
		__field(u8, access)
	),
	TP_fast_assign(
		RNET_QUEUE_ASSIGN;
		__entry->iova = iova;
		__entry->access = access;
	),
	TP_printk(RNET_QUEUE_FORMAT " iova=0x%llx access=%s", RNET_QUEUE_VALUES, __entry->iova,
		  rnet_show_access(__entry->access))
);

/* The owner has given the translation that a queue waits for. */
TRACE_EVENT(answer,
	TP_PROTO(RNET_QUEUE_PROTO, u64 iova, u64 size, u8 perm),
	TP_ARGS(RNET_QUEUE_ARGS, iova, size, perm),
	TP_STRUCT__entry(
		RNET_QUEUE_FIELDS
		__field(u64, iova)
		__field(u64, size)
		__field(u8, perm)
	),
	TP_fast_assign(
		RNET_QUEUE_ASSIGN;
		__entry->iova = iova;
		__entry->size = size;
		__entry->perm = perm;
	),
	TP_printk(RNET_QUEUE_FORMAT " iova=0x%llx size=0x%llx perm=%s", RNET_QUEUE_VALUES,
		  __entry->iova, __entry->size, rnet_show_access(__entry->perm))
);

TRACE_EVENT(round_end,
	TP_PROTO(RNET_QUEUE_PROTO, u64 packets, u64 bytes, const char *why, size_t why_len),
	TP_ARGS(RNET_QUEUE_ARGS, packets, bytes, why, why_len),
	TP_STRUCT__entry(
		RNET_QUEUE_FIELDS
		__field(u64, packets)
		__field(u64, bytes)
		__string_len(why, why, why_len)
	),
	TP_fast_assign(
		RNET_QUEUE_ASSIGN;
		__entry->packets = packets;
		__entry->bytes = bytes;
		__assign_str(why);
	),
	TP_printk(RNET_QUEUE_FORMAT " packets=%llu bytes=%llu why=%s", RNET_QUEUE_VALUES,
		  __entry->packets, __entry->bytes, __get_str(why))
);

DECLARE_EVENT_CLASS(rnet_worker,
	TP_PROTO(u64 device, int owner, u32 worker, int tid),
	TP_ARGS(device, owner, worker, tid),
	TP_STRUCT__entry(
		__field(u64, device)
		__field(int, owner)
		__field(u32, worker)
		__field(int, tid)
	),
	TP_fast_assign(
		__entry->device = device;
		__entry->owner = owner;
		__entry->worker = worker;
		__entry->tid = tid;
	),
	TP_printk("owner=%d device=%llu worker=%u tid=%d", __entry->owner, __entry->device,
		  __entry->worker, __entry->tid)
);

DEFINE_EVENT(rnet_worker, worker_start,
	TP_PROTO(u64 device, int owner, u32 worker, int tid),
	TP_ARGS(device, owner, worker, tid)
);

DEFINE_EVENT(rnet_worker, worker_end,
	TP_PROTO(u64 device, int owner, u32 worker, int tid),
	TP_ARGS(device, owner, worker, tid)
);

#endif

/* The folder of this file is in the include path of trace.c alone; Kbuild sees to that. */
#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
