// SPDX-License-Identifier: GPL-2.0
//! How emulated processors that run guests kill kernels.

/// How a function of ours is named in a stack.
pub const OURS: &str = "[vhost_rnet]";

/// What is said of a stack that was too short.
const STACK_ENDED: &str = "stack guard page";

/// The place where exceptions first look at the current task, as registers and stacks have it.
const ENTRY: &str = "RIP: 0010:irqentry_enter+";

/// Tells whether an emulated processor, and nothing of ours, has killed the kernel that said `log`.
///
/// QEMU's emulation of SVM may deliver an interrupt twice. The second one comes in the entry of the
/// first, where interrupts are off and the kernel's GS base is not there yet: the entry of exceptions
/// then finds no current task, and faults itself, until the stack ends. A kernel that our code has led
/// there has functions of ours on a stack.
pub fn killed(log: &str) -> bool {
    log.contains(STACK_ENDED) && log.contains(ENTRY) && !log.contains(OURS)
}

#[cfg(test)]
mod tests {
    use super::killed;

    /// What a kernel says that died `at` a place, with `stack` below.
    fn died(at: &str, stack: &str) -> String {
        format!(
            "[ 1.0] vhost_rnet: loading out-of-tree module taints kernel.\r\n\
             [ 3.1] BUG: TASK stack guard page was hit at ffffc90000a4fff8 (stack is \
             ffffc90000a50000..ffffc90000a54000)\r\n\
             [ 3.1] Oops: stack guard page: 0000 [#1] SMP NOPTI\r\n\
             [ 3.1] RIP: 0010:{at}\r\n\
             [ 3.1] Call Trace:\r\n\
             [ 3.1]  {stack}\r\n\
             [ 3.1] Modules linked in: kvm_amd ccp kvm vhost_rnet(OE) vhost_net\r\n\
             [ 3.1] ---[ end trace 0000000000000000 ]---\r\n\
             [ 3.1] RIP: 0010:{at}\r\n\
             [ 3.1] Kernel panic - not syncing: Fatal exception in interrupt\r\n"
        )
    }

    #[test]
    fn an_emulated_processor_is_told_from_our_faults() {
        let entry = "irqentry_enter+0x15/0x80";
        let interrupted = format!("RIP: 0010:{entry}");
        assert!(killed(&died(entry, "? schedule+0x28/0xa0")));
        // The stack may end a few bytes further.
        assert!(killed(&died("error_entry+0x1e/0x170", &interrupted)));
        assert!(!killed(&died(
            "error_entry+0x1e/0x170",
            "? schedule+0x28/0xa0"
        )));
        let ours = "? _RNv10vhost_rnet+0x1/0x2 [vhost_rnet]";
        assert!(!killed(&died(entry, ours)));
        // Without the end of a stack, the entry is one function among others.
        let oops = died(entry, "").replace("stack guard page", "Oops");
        assert!(!killed(&oops));
        assert!(!killed(""));
    }
}
