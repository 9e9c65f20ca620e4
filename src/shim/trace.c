// SPDX-License-Identifier: GPL-2.0
/*
 * Trace events, each of which costs a call of a function that returns at once while the event is
 * off: `declare_trace!` of rust/kernel needs the events in its own bindings, and a static branch in
 * Rust a file that kernel packages do not have.
 */

#include "helpers.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

void rnet_trace_queue_start(u64 device, int owner, const char *queue, size_t queue_len)
{
	trace_queue_start(device, owner, queue, queue_len);
}

void rnet_trace_queue_stop(u64 device, int owner, const char *queue, size_t queue_len,
			   const char *reason, size_t reason_len)
{
	trace_queue_stop(device, owner, queue, queue_len, reason, reason_len);
}

void rnet_trace_fault(u64 device, int owner, const char *queue, size_t queue_len, const char *name,
		      size_t name_len, bool has_addr, u64 addr)
{
	trace_fault(device, owner, queue, queue_len, name, name_len, has_addr, addr);
}

void rnet_trace_miss(u64 device, int owner, const char *queue, size_t queue_len, u64 iova, u8 access)
{
	trace_miss(device, owner, queue, queue_len, iova, access);
}

void rnet_trace_answer(u64 device, int owner, const char *queue, size_t queue_len, u64 iova,
		       u64 size, u8 perm)
{
	trace_answer(device, owner, queue, queue_len, iova, size, perm);
}

bool rnet_traces_rounds(void)
{
	return trace_round_end_enabled();
}

void rnet_trace_round_end(u64 device, int owner, const char *queue, size_t queue_len, u64 packets,
			  u64 bytes, const char *why, size_t why_len)
{
	trace_round_end(device, owner, queue, queue_len, packets, bytes, why, why_len);
}

void rnet_trace_watchdog(u64 device, int owner, const char *queue, size_t queue_len)
{
	trace_watchdog(device, owner, queue, queue_len);
}

void rnet_trace_worker_start(u64 device, int owner, u32 worker, int tid)
{
	trace_worker_start(device, owner, worker, tid);
}

void rnet_trace_worker_end(u64 device, int owner, u32 worker, int tid)
{
	trace_worker_end(device, owner, worker, tid);
}
