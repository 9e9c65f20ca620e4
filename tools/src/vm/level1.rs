// SPDX-License-Identifier: GPL-2.0
//! The level 1 VM: the packaged kernel, with the lab's rootfs as userland.
//!
//! A run has a directory of its own (`/out` inside), which holds the logs of
//! kernel and QEMU, the command, and its exit status. The command writes to
//! virtio ports, so that kernel messages, which go to the serial console, do not
//! mix with its output.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rnet_e2e::emulation;
use selftests::host::kmsg::Begun;
use selftests::host::nics;

use crate::lab::chroot::{self, Access};
use crate::lab::flavor::Flavor;
use crate::lab::initramfs;
use crate::lab::layers::Layer;
use crate::lab::paths::{INSIDE, Lab};
use crate::process;
use crate::progress;
use crate::vm::accel::{self, Accel};
use crate::vm::klog;

/// Second half of the VM's init.
const MAIN: &str = include_str!("../../vm/level1-main.sh");

/// What is written to a layer while a VM runs from it, in the run's directory.
const SCRATCH: &str = "scratch";

/// Where the command's output goes, in addition to its log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// To our own standard output and error.
    Show,
    /// To the logs only.
    Quiet,
    /// The command is a shell on our terminal; there is no log of it.
    Terminal,
}

/// The description of one run of a VM.
pub struct Vm<'a> {
    lab: &'a Lab,
    name: String,
    log_dir: Option<PathBuf>,
    flavor: Flavor,
    accel: Option<Accel>,
    smp: u32,
    memory: String,
    limit: Duration,
    output: Output,
    needs_nested: bool,
    cards: bool,
    layer: Option<Layer>,
    again: Option<Box<Again<'a>>>,
}

/// Returns the command that repeats a test case or episode, if there is one.
type Again<'a> = dyn Fn(&Begun) -> Option<String> + 'a;

/// How a run ended.
pub struct Outcome {
    /// The command's exit status.
    pub status: i32,
    /// What the command printed on its standard output.
    pub stdout: String,
    /// Memory leaks, and lines of the kernel's log that report a bug, each below the test case or
    /// episode during which they came.
    pub kernel_trouble: Vec<String>,
    /// The run's directory.
    pub dir: PathBuf,
}

impl Outcome {
    /// The kernel's log.
    pub fn kernel_log(&self) -> PathBuf {
        self.dir.join("kernel.log")
    }

    /// Fails if the kernel reported a bug.
    pub fn check_kernel(&self) -> Result<()> {
        if !self.kernel_trouble.is_empty() {
            bail!(
                "the VM's kernel complained, see {}:\n{}",
                self.kernel_log().display(),
                self.kernel_trouble.join("\n")
            );
        }
        Ok(())
    }

    /// Fails unless the command succeeded.
    pub fn check_status(&self) -> Result<()> {
        if self.status != 0 {
            bail!(
                "the command in the VM ended with {}, see {}\n{}",
                self.status,
                self.dir.display(),
                process::tail(&self.dir.join("stderr.log"))
            );
        }
        Ok(())
    }
}

impl<'a> Vm<'a> {
    /// Describes a run called `name` with the usual sizes.
    pub fn new(lab: &'a Lab, name: &str) -> Self {
        Self {
            lab,
            // The name is also that of a directory.
            name: name.replace(" /dev/", "-").replace(' ', "-"),
            log_dir: None,
            flavor: Flavor::Packaged,
            accel: None,
            smp: 2,
            memory: "3G".to_owned(),
            limit: Duration::from_secs(600),
            output: Output::Quiet,
            needs_nested: false,
            cards: false,
            layer: None,
            again: None,
        }
    }

    /// Puts the logs into `dir` instead of a new directory in the lab.
    #[must_use]
    pub fn log_dir(mut self, dir: Option<PathBuf>) -> Self {
        self.log_dir = dir;
        self
    }

    /// Runs another kernel than the packaged one.
    #[must_use]
    pub fn flavor(mut self, flavor: Flavor) -> Self {
        self.flavor = flavor;
        self
    }

    /// Uses `accel` instead of the best that works here.
    #[must_use]
    pub fn accel(mut self, accel: Accel) -> Self {
        self.accel = Some(accel);
        self
    }

    /// Sets the number of processors.
    #[must_use]
    pub fn smp(mut self, smp: u32) -> Self {
        self.smp = smp;
        self
    }

    /// Sets the memory size, in QEMU's notation.
    #[must_use]
    pub fn memory(mut self, memory: &str) -> Self {
        self.memory = memory.to_owned();
        self
    }

    /// Sets the time after which the VM is killed, for the packaged kernel.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sets where the command's output goes.
    #[must_use]
    pub fn output(mut self, output: Output) -> Self {
        self.output = output;
        self
    }

    /// Asks for a VM that can run KVM guests itself.
    #[must_use]
    pub fn nested(mut self) -> Self {
        self.needs_nested = true;
        self
    }

    /// Adds the network cards of the selftests, of which two each are connected.
    #[must_use]
    pub fn cards(mut self, cards: bool) -> Self {
        self.cards = cards;
        self
    }

    /// Takes userland, and the QEMU that the VM runs on, from the rootfs with this layer over it.
    #[must_use]
    pub fn layer(mut self, layer: Option<Layer>) -> Self {
        self.layer = layer;
        self
    }

    /// Sets the function that returns the command to repeat a test case or episode; reports of kernel
    /// bugs show it.
    #[must_use]
    pub fn again(mut self, again: impl Fn(&Begun) -> Option<String> + 'a) -> Self {
        self.again = Some(Box::new(again));
        self
    }

    /// Boots, runs the shell script `script` inside, and waits for the end.
    ///
    /// If an emulated processor with guests inside has crashed the kernel, the run is repeated once.
    pub fn run(&self, script: &str) -> Result<Outcome> {
        let accel = match self.accel {
            Some(accel) => accel,
            None => accel::best(self.lab, self.flavor.arch(), self.needs_nested)?,
        };
        let dir = self.prepare(script)?;
        let ran = self.attempt(accel, &dir);
        let emulated = accel == Accel::Tcg && self.needs_nested;
        if ran.is_ok() || !emulated || !emulation::killed(&kernel_log(&dir)) {
            return ran;
        }
        eprintln!(
            "  {}: the emulated processor failed, see {}; once more",
            self.name,
            dir.display()
        );
        self.attempt(accel, &self.prepare(script)?)
    }

    /// Boots once with the prepared directory `dir`.
    fn attempt(&self, accel: Accel, dir: &Path) -> Result<Outcome> {
        let mut command = self.qemu(accel, dir)?;
        if self.output != Output::Terminal {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        } else {
            command.stdin(Stdio::inherit());
        }
        let start = Instant::now();
        let mut child = command.spawn().context("starting QEMU")?;
        let readers = self.readers(&mut child, dir)?;
        let limit = self.limit * self.flavor.patience();
        let far = || {
            progress::of_cases(&process::text(&dir.join("stdout.log")))
                .or_else(|| progress::of_lines(&process::text(&dir.join("stderr.log")), None))
        };
        let ended = process::wait_timeout(&mut child, limit, far)?;
        let stdout = join(readers)?;
        if self.layer.is_some() {
            chroot::remove(&dir.join(SCRATCH))?;
        }

        let log = kernel_log(dir);
        // Only the debug kernel writes a list of leaks.
        let leaked = std::fs::read_to_string(dir.join("kmemleak")).unwrap_or_default();
        let mut kernel_trouble = klog::leaks(&leaked);
        kernel_trouble.extend(klog::report(&log, |begun| self.told(begun)));
        match (ended, std::fs::read_to_string(dir.join("status"))) {
            (Some(_), Ok(status)) => Ok(Outcome {
                status: status.trim().parse()?,
                stdout,
                kernel_trouble,
                dir: dir.to_owned(),
            }),
            (ended, _) => {
                let why = match ended {
                    None => format!("not finished after {} s", limit.as_secs()),
                    Some(status) => format!(
                        "VM ended ({status}) after {:.1} s without a result",
                        start.elapsed().as_secs_f64()
                    ),
                };
                let last = klog::last_begun(&log).map(|begun| self.told(&begun));
                kernel_trouble.extend(last.map(|told| format!("the last that began: {told}")));
                let lines = kernel_trouble.iter().map(|line| format!("{line}\n"));
                Err(anyhow!(
                    "{why}, see {}\n{}kernel.log ends:\n{}qemu.log ends:\n{}",
                    dir.display(),
                    lines.collect::<String>(),
                    process::tail(&dir.join("kernel.log")),
                    process::tail(&dir.join("stderr.log"))
                ))
            }
        }
    }

    /// Describes what began, with the command that repeats it.
    fn told(&self, begun: &Begun) -> String {
        match self.again.as_ref().and_then(|again| again(begun)) {
            Some(command) => format!("{begun} (again: {command})"),
            None => begun.to_string(),
        }
    }

    /// Makes the run's directory with the files that the VM reads from it.
    fn prepare(&self, script: &str) -> Result<PathBuf> {
        let dir = match &self.log_dir {
            Some(dir) => {
                std::fs::create_dir_all(dir)?;
                dir.canonicalize()?
            }
            None => self.lab.new_run(&self.name)?,
        };
        // Files of an earlier run in the same directory must not count as results of this one.
        for old in ["status", "kernel.log", "interactive", "size", "kmemleak"] {
            match std::fs::remove_file(dir.join(old)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        std::fs::write(dir.join("init"), MAIN)?;
        std::fs::write(dir.join("run"), script)?;
        if self.output == Output::Terminal {
            let term = std::env::var("TERM").unwrap_or("linux".to_owned());
            std::fs::write(dir.join("interactive"), term)?;
            std::fs::write(dir.join("size"), terminal_size())?;
        }
        std::fs::create_dir_all(self.flavor.artifacts(self.lab))?;
        Ok(dir)
    }

    /// Returns the command that starts QEMU in the lab's rootfs.
    fn qemu(&self, accel: Accel, dir: &Path) -> Result<Command> {
        // The rootfs is shared as seen below the lab's bind mount, where it has
        // none of the mounts that the chroot has on top of it.
        let initrd = initramfs::level1(self.lab, self.flavor)?;
        let image = self.flavor.image(self.lab)?;
        let arch = self.flavor.arch();
        let machine = accel.machine(arch);
        let mut args: Vec<String> = machine.split_whitespace().map(str::to_owned).collect();
        let smp = match accel {
            Accel::Icount => 1,
            Accel::Tcg | Accel::Kvm => self.smp,
        };
        let mut add = |text: &str| args.extend(text.split_whitespace().map(str::to_owned));
        add("-nodefaults -no-user-config -display none -no-reboot");
        add(&format!("-smp {smp} -m {}", self.memory));
        add(&format!("-kernel {INSIDE}/{image}"));
        add(&format!("-initrd {INSIDE}/{initrd}"));
        add("-serial file:/out/kernel.log");
        let mut shared = vec![
            (
                "root",
                format!("{INSIDE}/{}", arch.rootfs()),
                ",readonly=on",
            ),
            (
                "artifacts",
                format!("{INSIDE}/{}", arch.artifacts()),
                ",readonly=on",
            ),
            ("out", "/out".to_owned(), ""),
        ];
        shared.extend(
            self.layer
                .map(|layer| ("layer", layer.inside(), ",readonly=on")),
        );
        for (tag, path, access) in shared {
            add(&format!(
                "-fsdev local,id={tag},path={path},security_model=none,multidevs=remap{access}"
            ));
            add(&format!(
                "-device virtio-9p-pci,fsdev={tag},mount_tag={tag}"
            ));
        }
        let cards = nics::ALL.iter().filter(|_| self.cards);
        for (number, card) in cards.enumerate() {
            let id = format!("nic{number}");
            add(&format!("-netdev hubport,id={id},hubid={}", card.pair));
            // Each has a bus of its own: a card with several functions takes several slots.
            add(&format!(
                "-device pcie-root-port,id={id}-bus,chassis={number}"
            ));
            // No ROM for network boot: it takes time and is not always installed.
            add(&format!(
                "-device {},netdev={id},mac={},bus={id}-bus,romfile=",
                card.model,
                card.address()
            ));
        }
        add("-device virtio-serial-pci");
        if self.output == Output::Terminal {
            add("-chardev stdio,id=terminal,signal=off -device virtconsole,chardev=terminal");
        } else {
            // Chardevs of type file: "stdio" disconnects at the end of its input.
            for (name, fd) in [("stdout", 1), ("stderr", 2)] {
                add(&format!("-chardev file,id={name},path=/proc/self/fd/{fd}"));
                add(&format!(
                    "-device virtserialport,chardev={name},name={name}"
                ));
            }
        }
        // The kernel panics, and so ends the run, on its first oops. Time limits
        // are long, for emulated processors on a busy machine.
        args.push("-append".into());
        args.push(format!(
            "{} panic=-1 oops=panic mitigations=off watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120 \
             random.trust_cpu=on sysctl.kernel.hung_task_warnings=-1 \
             sysctl.kernel.hung_task_timeout_secs={} {} {}",
            arch.command_line(),
            30 * self.flavor.patience(),
            self.flavor.command_line(),
            self.layer.map_or("", |_| "rnet.layer")
        ));
        let chroot = match self.layer {
            // The chroot is written to, if only at its mount points.
            Some(layer) => layer.chroot(self.lab).layer(&dir.join(SCRATCH)),
            None => self.lab.chroot(),
        };
        Ok(chroot.bind(dir, "/out", Access::ReadWrite).command(&args))
    }

    /// Starts threads that copy the VM's output to the logs, and to our own output if asked for.
    fn readers(&self, child: &mut Child, dir: &Path) -> Result<Vec<JoinHandle<Result<Vec<u8>>>>> {
        let show = self.output == Output::Show;
        let mut readers = Vec::new();
        if let Some(from) = child.stdout.take() {
            let log = File::create(dir.join("stdout.log"))?;
            let to = show.then(|| Box::new(std::io::stdout()) as Box<dyn Write + Send>);
            readers.push(std::thread::spawn(move || copy(from, log, to)));
        }
        if let Some(from) = child.stderr.take() {
            let log = File::create(dir.join("stderr.log"))?;
            let to = show.then(|| Box::new(std::io::stderr()) as Box<dyn Write + Send>);
            readers.push(std::thread::spawn(move || copy(from, log, to)));
        }
        Ok(readers)
    }
}

/// The kernel's log of the run in `dir`.
fn kernel_log(dir: &Path) -> String {
    process::text(&dir.join("kernel.log"))
}

/// Copies `from` to `log` and `to` until its end; returns all of it.
fn copy(
    mut from: impl Read,
    mut log: File,
    mut to: Option<Box<dyn Write + Send>>,
) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        let len = from.read(&mut buffer)?;
        let Some(chunk) = buffer.get(..len).filter(|chunk| !chunk.is_empty()) else {
            return Ok(all);
        };
        all.extend_from_slice(chunk);
        log.write_all(chunk)?;
        if let Some(to) = &mut to {
            to.write_all(chunk)?;
            to.flush()?;
        }
    }
}

/// Waits for the readers; returns what the first one, standard output, read.
fn join(readers: Vec<JoinHandle<Result<Vec<u8>>>>) -> Result<String> {
    let mut first = None;
    for reader in readers {
        let bytes = reader.join().map_err(|_| anyhow!("a reader panicked"))??;
        first.get_or_insert(bytes);
    }
    Ok(String::from_utf8_lossy(&first.unwrap_or_default()).into_owned())
}

/// Returns "rows columns" of our terminal.
fn terminal_size() -> String {
    let stdin = std::io::stdin();
    match rustix::termios::tcgetwinsize(&stdin) {
        Ok(size) if stdin.is_terminal() && size.ws_row > 0 => {
            format!("{} {}\n", size.ws_row, size.ws_col)
        }
        _ => "24 80\n".to_owned(),
    }
}
