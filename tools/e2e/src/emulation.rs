// SPDX-License-Identifier: GPL-2.0
//! Recognising a kernel crash that is a bug of the emulated processor.

/// The mark of our module's functions in a stack trace.
pub const OURS: &str = "[vhost_rnet]";

/// The message about a stack overflow.
const STACK_ENDED: &str = "stack guard page";

/// Where the exception entry first reads the current task, as stack traces name the place.
const ENTRY: &str = "RIP: 0010:irqentry_enter+";

/// Returns whether the emulated processor, and not our code, has crashed the kernel with this `log`.
///
/// QEMU's emulation of SVM may deliver an interrupt twice. The second one arrives in the entry code
/// of the first, where interrupts are off and the kernel's GS base is not yet loaded. The exception
/// entry then reads no valid current task, faults itself, and recurses until the stack overflows. If
/// our code had caused such a crash, its functions would be on a stack.
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
