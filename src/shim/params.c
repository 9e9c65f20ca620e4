// SPDX-License-Identifier: GPL-2.0
/*
 * Module parameters. `module!` offers only such as sysfs does not show; those of a C file belong to
 * the module that the file is linked into.
 */

#include <linux/compiler.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

#include "helpers.h"

/* A device has two queues; a thread more would have none to run. */
#define MAX_THREADS 2

static unsigned int threads_per_device = 1;

static int set_threads(const char *value, const struct kernel_param *param)
{
	return param_set_uint_minmax(value, param, 1, MAX_THREADS);
}

static const struct kernel_param_ops threads_ops = {
	.set = set_threads,
	.get = param_get_uint,
};

module_param_cb(threads_per_device, &threads_ops, &threads_per_device, 0644);
__MODULE_PARM_TYPE(threads_per_device, "uint");
MODULE_PARM_DESC(threads_per_device,
		 "Threads that a device starts with: 1 for both queues (default), or 2, one for each; "
		 "a change is for devices that get an owner later");

unsigned int rnet_threads_per_device(void)
{
	return READ_ONCE(threads_per_device);
}

static unsigned int watchdog_ms;

module_param(watchdog_ms, uint, 0644);
MODULE_PARM_DESC(watchdog_ms,
		 "Milliseconds between two looks for queues whose kick got lost (default 0: none); "
		 "a change is for devices that get an owner later");

unsigned int rnet_watchdog_ms(void)
{
	return READ_ONCE(watchdog_ms);
}
