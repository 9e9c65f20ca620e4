// SPDX-License-Identifier: GPL-2.0
//! How much of the kernel stack each function of the module takes.
//!
//! The stack has 16 KiB for a whole call chain, from the system call or worker through the module into
//! the network stack. The sizes are read from the object code, so that they include inlined functions.
//! The kernel's own script, `scripts/checkstack.pl`, counts the end of a frame on x86 as another one.

use std::cmp::Reverse;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::lab::flavor::MODULE;
use crate::lab::paths::{INSIDE, Lab};
use crate::process;

/// The most that a function may take, in bytes.
const MAX_FRAME: u64 = 1024;

/// Time limit of disassembling the module.
const LIMIT: Duration = Duration::from_secs(120);

/// The stack frame of a function.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    function: String,
    bytes: u64,
}

/// The number of functions in a list of the largest.
const LISTED: usize = 20;

/// Lists the functions of the module in the artifacts that take most.
///
/// # Errors
///
/// Those of [`check`].
pub fn report(lab: &Lab) -> Result<()> {
    let mut frames = survey(lab)?;
    frames.sort_by_key(|frame| Reverse(frame.bytes));
    for Frame { function, bytes } in frames.iter().take(LISTED) {
        println!("{bytes:>5}  {function}");
    }
    verdict(&frames)
}

/// Checks that no function of the module in the artifacts takes more than [`MAX_FRAME`].
///
/// # Errors
///
/// The names of those that do, or of one whose frame has no fixed size.
pub fn check(lab: &Lab) -> Result<()> {
    verdict(&survey(lab)?)
}

/// Reads the frames of the module in the artifacts.
fn survey(lab: &Lab) -> Result<Vec<Frame>> {
    let module = format!("{INSIDE}/artifacts/{}", MODULE);
    let log = lab.logs().join("stack.log");
    let options = ["--disassemble", "--demangle", "--no-show-raw-insn"];
    let mut objdump = lab
        .chroot()
        .command(&[&["objdump"], &options[..], &[module.as_str()]].concat());
    process::run_logged_anew(&mut objdump, &log, LIMIT)?;
    frames(&std::fs::read_to_string(&log)?)
}

/// Fails if one of `frames` is too large, or there are none.
fn verdict(frames: &[Frame]) -> Result<()> {
    // No frame at all means the wrong file, or code for another architecture.
    ensure!(!frames.is_empty(), "no stack frames at all");
    let large = frames.iter().filter(|frame| frame.bytes > MAX_FRAME);
    let large: Vec<_> = large
        .map(|Frame { function, bytes }| format!("{bytes} bytes in {function}"))
        .collect();
    ensure!(
        large.is_empty(),
        "more than {MAX_FRAME} bytes of stack:\n{}",
        large.join("\n")
    );
    Ok(())
}

/// Reads the frames in what `objdump` tells of x86-64 code; functions without one are left out.
fn frames(text: &str) -> Result<Vec<Frame>> {
    let mut frames = Vec::new();
    let mut function: Option<&str> = None;
    let mut bytes = 0;
    for line in text.lines() {
        let title = line
            .split_once(" <")
            .and_then(|(_, title)| title.strip_suffix(">:"));
        if title.is_some() {
            frames.extend(ended(function, bytes));
            function = title;
            bytes = 0;
        } else if let Some((_, instruction)) = line.split_once(":\t") {
            let more = growth(instruction).with_context(|| function.unwrap_or("?").to_owned())?;
            bytes += more;
        }
    }
    frames.extend(ended(function, bytes));
    Ok(frames)
}

/// The frame of a function that has been read.
fn ended(function: Option<&str>, bytes: u64) -> Option<Frame> {
    let function = function.filter(|_| bytes != 0)?.to_owned();
    Some(Frame { function, bytes })
}

/// By how many bytes an instruction makes the stack grow.
fn growth(instruction: &str) -> Result<u64> {
    let (operation, operands) = instruction.split_once(' ').unwrap_or((instruction, ""));
    if operation.starts_with("push") {
        return Ok(8);
    }
    let Some(by) = operands.trim().strip_suffix(",%rsp") else {
        return Ok(0);
    };
    let number = by
        .strip_prefix("$0x")
        .map(|hex| u64::from_str_radix(hex, 16))
        .transpose()?;
    match (operation, number) {
        ("sub", Some(bytes)) => Ok(bytes),
        // An addition of a negative number, which the compiler uses where it is shorter.
        ("add", Some(bytes)) if bytes >> 63 != 0 => Ok(bytes.wrapping_neg()),
        // The end of a frame.
        ("add" | "mov" | "lea", _) => Ok(0),
        // Alignment, by as much as this at most.
        ("and", Some(mask)) => Ok(!mask),
        _ => bail!("{instruction}: a frame of unknown size"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Frame, frames, verdict};

    const CODE: &str = "\
vhost_rnet.ko:     file format elf64-x86-64

Disassembly of section .text:

0000000000000000 <__pfx_small>:
   0:\tnop

0000000000000010 <small>:
  10:\tendbr64
  14:\tpush   %rbx
  15:\tpush   %r14
  17:\tsub    $0x28,%rsp
  1b:\tmov    %rdi,%rax
  1e:\tadd    $0x28,%rsp
  22:\tpop    %r14
  24:\tadd    $0x28,%rsp
  28:\tjmp    2d <small+0x1d>

0000000000000030 <<vhost_rnet::A as kernel::B<u8>>::large>:
  30:\tpush   %rbp
  31:\tmov    %rsp,%rbp
  34:\tand    $0xffffffffffffffe0,%rsp
  38:\tsub    $0x3e0,%rsp
  3f:\tadd    $0xffffffffffffff80,%rsp
  43:\tlea    -0x10(%rbp),%rsp
  47:\tmov    %rbp,%rsp
  4a:\tcall   4f <small>
  4f:\tsub    $0x8,%eax
  52:\tret
";

    #[test]
    fn frames_are_read() {
        let read = frames(CODE).unwrap();
        let sizes: Vec<_> = read
            .iter()
            .map(|frame| (frame.function.as_str(), frame.bytes))
            .collect();
        let large = "<vhost_rnet::A as kernel::B<u8>>::large";
        assert_eq!(sizes, [("small", 0x38), (large, 8 + 0x1f + 0x3e0 + 0x80)]);
    }

    #[test]
    fn large_frames_are_named() {
        let frame = |bytes| Frame {
            function: "f".to_owned(),
            bytes,
        };
        verdict(&[frame(1024)]).unwrap();
        let told = verdict(&[frame(8), frame(1025)]).unwrap_err();
        assert!(told.to_string().contains("1025 bytes in f"));
        assert!(verdict(&[]).is_err());
    }

    #[test]
    fn frames_of_unknown_size_are_failures() {
        let grows = CODE.replace("sub    $0x3e0,%rsp", "sub    %rax,%rsp");
        let told = format!("{:#}", frames(&grows).unwrap_err());
        assert!(told.contains("large: sub"), "{told}");
    }
}
