// SPDX-License-Identifier: GPL-2.0
//! `cargo xtask`: builds the lab and the module, runs VMs, tests and the demo.
//!
//! From the bottom up, each folder imports only from those named before it:
//!
//! - `progress`, `cause`, `steps` and `process`: how far a program is, and why it failed, by what it
//!   wrote; steps of a longer job on show; child processes with time limits and logs.
//! - `lab/`: the directory that holds what is built once: the Debian system, kernels, the module, the
//!   programs that run in VMs, and initial file systems.
//! - `vm/`: the level 1 VM, which boots a kernel of the lab; what runs its processors, its kernel log,
//!   the devices that are tested in it, and QEMU guests inside it (level 2).
//! - `tests/` and `bench/`: what `check` runs, and what is measured. Neither imports from the other.
//!   `tests/code/` checks the source and the object code.
//! - `main`: the command line.

mod bench;
mod cause;
mod lab;
mod process;
mod progress;
mod steps;
mod tests;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::lab::arch::Arch;
use crate::lab::flavor::Flavor;
use crate::lab::layers::Layer;
use crate::lab::paths::Lab;
use crate::lab::{build, packages};
use crate::tests::code::{misuse, stack, unsafe_code};
use crate::tests::extent::Extent;
use crate::tests::guests::Kinds;
use crate::tests::tally::Tally;
use crate::tests::{check, conformance, demo, fuzz, guests, libvirt, soak};
use crate::vm::accel::Accel;
use crate::vm::device;
use crate::vm::level1::{Outcome, Output, Vm};

/// Builds, runs and tests vhost-rnet in a lab of its own.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build what is missing of the lab.
    Lab {
        /// Also take newer packages, and the newest kernel.
        #[arg(long)]
        update: bool,
    },
    /// Build the module and the programs that run in the VM.
    Build {
        #[command(flatten)]
        kernel: KernelArgs,
    },
    /// Build the Debian packages into target/debian.
    Deb,
    /// Show a guest's traffic through /dev/vhost-rnet, vhost-net and vhost=off.
    Demo {
        /// Backends to run instead: vhost devices, or "off".
        backends: Vec<String>,
    },
    /// Run the tests of host, kernel and guest.
    Check {
        /// Also run tests on the debug kernel and on the series before the newest, but for the longest, and
        /// some on arm64.
        #[arg(long)]
        debug: bool,
        /// Also run the longest, more guests, the packages, and tests on the KCSAN kernel.
        #[arg(long, requires = "debug")]
        long: bool,
    },
    /// Run the tests that need a VM on the debug and KCSAN kernels.
    CheckDebug,
    /// Compare the results of calls on both devices.
    Conformance {
        /// Options of the program that compares; --help for a list.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Fuzz a device in the VM, and vring on the host; fails on a finding.
    Fuzz(fuzz::FuzzArgs),
    /// Use a device for a long time, and fail if resources leak.
    Soak {
        /// How long to run, in minutes.
        #[arg(long, default_value_t = 60)]
        minutes: u64,
        /// The device.
        #[arg(long, default_value = device::RNET)]
        device: String,
    },
    /// Run tests of the kernel and of rust-vmm, and DPDK, on both devices.
    Programs,
    /// Build the Debian packages, install and remove them, and load the module.
    Packages,
    /// Run a guest of libvirt.
    Libvirt {
        /// The device it runs on.
        #[arg(long, default_value = device::RNET)]
        device: String,
    },
    /// Run QEMU guests of all kinds.
    Guests {
        /// The device they run on.
        #[arg(long, default_value = device::RNET)]
        device: String,
        /// The architecture of the guests, and of the VM around them.
        #[arg(long, default_value = "amd64")]
        arch: Arch,
        /// Packages to take QEMU from, for the guests and for the VM around them.
        #[arg(long, conflicts_with = "arch")]
        with: Option<Layer>,
        /// Only kinds whose name contains one of these.
        filter: Vec<String>,
    },
    /// Move a guest between QEMUs.
    Migrate {
        /// Pairs of devices with a colon between them, and ":packed" for packed rings [default: all].
        ways: Vec<String>,
    },
    /// Measure both modules: instructions, time, and guests; writes a report.
    Bench(bench::BenchArgs),
    /// Count instructions, and fail if a ratio to vhost-net got worse.
    BenchQuick(bench::QuickArgs),
    /// List the module's unsafe code, with the reason why it is sound.
    Unsafe,
    /// Check that the compiler refuses wrong use of the types in src/kapi.
    Misuse,
    /// List the largest stack frames of the module's functions.
    Stack,
    /// Open a shell in a VM with the module loaded.
    Shell,
    /// Run a command in a VM.
    Vm(VmArgs),
}

/// The kernel of a VM, which `build` installs or builds, with the module for it.
#[derive(Args)]
struct KernelArgs {
    /// The kernel: packaged, debug, kcsan, or a series, such as 7.2, whose newest package is taken.
    #[arg(long, default_value_t)]
    kernel: Flavor,
    /// The architecture; that of arm64 has the packaged kernel, on an emulated processor.
    #[arg(long, default_value = "amd64", conflicts_with = "kernel")]
    arch: Arch,
}

impl KernelArgs {
    /// The kernel that is asked for.
    ///
    /// # Errors
    ///
    /// When there is no package yet, and for a series that is newer.
    fn resolved(&self, lab: &Lab) -> Result<Flavor> {
        match self.arch {
            Arch::Amd64 => self.kernel.resolved(lab),
            Arch::Arm64 => Ok(Flavor::Arm64),
        }
    }
}

/// The VM to run a command in.
#[derive(Args)]
struct VmArgs {
    #[command(flatten)]
    kernel: KernelArgs,
    /// Directory for the logs of this run [default: a new one in the lab].
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,
    /// Packages that the VM has in addition.
    #[arg(long)]
    with: Option<Layer>,
    /// Make one instruction one virtual nanosecond, on one processor.
    #[arg(long)]
    icount: bool,
    /// Number of processors.
    #[arg(long, default_value_t = 2)]
    smp: u32,
    /// Memory size, in QEMU's notation.
    #[arg(long, default_value = "3G")]
    mem: String,
    /// Seconds after which the VM is killed.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// The command; a single word is a line for the VM's shell.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    let lab = Lab::locate()?;
    match task {
        Task::Lab { update } => {
            lab::ensure(&lab, update)?;
            println!(
                "The lab is ready: kernel {}, {}",
                lab.release()?,
                lab.dir().display()
            );
            Ok(ExitCode::SUCCESS)
        }
        Task::Build { kernel } => {
            lab::ensure(&lab, false)?;
            let kernel = kernel.resolved(&lab)?;
            prepare_for(&lab, kernel)?;
            println!("Built into {}", kernel.artifacts(&lab).display());
            Ok(ExitCode::SUCCESS)
        }
        Task::Deb => {
            lab::ensure(&lab, false)?;
            for package in packages::build(&lab)? {
                println!("{}", package.display());
            }
            Ok(ExitCode::SUCCESS)
        }
        Task::Demo { backends } => {
            lab::ensure(&lab, false)?;
            let backends = if backends.is_empty() {
                vec![device::RNET, device::C_VHOST, device::NO_VHOST]
            } else {
                backends.iter().map(String::as_str).collect()
            };
            if backends.contains(&device::RNET) {
                build::packaged(&lab)?;
            } else {
                build::programs(&lab, Arch::Amd64)?;
            }
            demo::run(&lab, &backends)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Check { debug: false, .. } => check_on(&lab, &[Flavor::Packaged], Extent::Short),
        Task::Check { debug: true, long } => {
            lab::ensure(&lab, false)?;
            // Installed before the tests begin: VMs run from the file system that apt changes.
            let previous = Flavor::previous(&lab)?;
            let mut before = Tally::default();
            let mut kernels = vec![Flavor::Packaged, Flavor::Debug];
            kernels.extend(previous);
            match lab::arm64::install(&lab) {
                Ok(()) => kernels.push(Flavor::Arm64),
                Err(error) => before.failed.push(format!("arm64: {error:#}")),
            }
            let extent = if long {
                kernels.push(Flavor::Kcsan);
                Extent::Long
            } else {
                Extent::Short
            };
            if previous.is_none() {
                let why = "older series: Debian has no kernel before the newest";
                before.skipped.push(why.to_owned());
            }
            Ok(passed(check::run(&lab, &kernels, extent, before)))
        }
        Task::CheckDebug => check_on(&lab, &[Flavor::Debug, Flavor::Kcsan], Extent::Long),
        Task::Conformance { options } => {
            prepare(&lab)?;
            ended(&conformance::compare(&lab, &options, Output::Show)?)
        }
        Task::Fuzz(args) => {
            lab::ensure(&lab, false)?;
            Ok(passed(fuzz::run(&lab, &args)?))
        }
        Task::Soak { minutes, device } => {
            prepare(&lab)?;
            soak::run(&lab, &device, minutes)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Programs => {
            prepare(&lab)?;
            Ok(passed(check::run_programs(&lab)))
        }
        Task::Packages => {
            prepare(&lab)?;
            Ok(passed(check::run_packages(&lab)))
        }
        Task::Libvirt { device } => {
            prepare(&lab)?;
            Layer::Libvirt.ensure(&lab)?;
            ended(&libvirt::guest(&lab, &device, Output::Show)?)
        }
        Task::Guests {
            device,
            arch,
            with,
            filter,
        } => {
            prepare_for(&lab, Flavor::newest(arch))?;
            if let Some(layer) = with {
                layer.ensure(&lab)?;
            }
            let kinds = Kinds {
                arch,
                layer: with,
                filter: &filter,
                ..Kinds::of(&device)
            };
            ended(&guests::kinds(&lab, &kinds, Output::Show)?)
        }
        Task::Migrate { ways } => {
            prepare(&lab)?;
            let ways = match ways.as_slice() {
                [] => guests::ways(Extent::Long),
                _ => ways,
            };
            ended(&guests::migrations(&lab, &ways, Output::Show)?)
        }
        Task::Bench(args) => {
            bench::full(&lab, &args)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::BenchQuick(args) => Ok(passed(bench::quick(&lab, &args)?)),
        Task::Unsafe => {
            unsafe_code::report(&build::checkout())?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Misuse => {
            prepare(&lab)?;
            steps::step("misuse", || misuse::check(&lab, &build::checkout()))?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Stack => {
            prepare(&lab)?;
            stack::report(&lab)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Shell => {
            prepare(&lab)?;
            shell(&lab)
        }
        Task::Vm(args) => run_vm(&lab, args),
    }
}

/// Runs the tests on `kernels`.
fn check_on(lab: &Lab, kernels: &[Flavor], extent: Extent) -> Result<ExitCode> {
    lab::ensure(lab, false)?;
    Ok(passed(check::run(lab, kernels, extent, Tally::default())))
}

/// Makes sure of the lab, and builds the module and the programs for the packaged kernel.
fn prepare(lab: &Lab) -> Result<()> {
    prepare_for(lab, Flavor::Packaged)
}

/// As [`prepare`], for a kernel of choice, which is made if need be.
fn prepare_for(lab: &Lab, kernel: Flavor) -> Result<()> {
    lab::ensure(lab, false)?;
    kernel.ensure(lab)?;
    steps::step("module and programs", || build::all(lab, kernel))
}

/// The exit code that says whether everything passed.
fn passed(all: bool) -> ExitCode {
    match all {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Gives a shell in the VM; leaving it powers the VM off.
fn shell(lab: &Lab) -> Result<ExitCode> {
    let script = format!(
        "{}echo 'vhost_rnet is loaded, /artifacts has the tools; leave with ^D.'\nexec bash -l\n",
        device::insmod(Flavor::Packaged)
    );
    // A shell that was forgotten ends after a day.
    let outcome = Vm::new(lab, "shell")
        .nested()
        .limit(Duration::from_secs(24 * 3600))
        .output(Output::Terminal)
        .run(&script)?;
    println!(
        "\nThe kernel's log is in {}",
        outcome.kernel_log().display()
    );
    outcome.check_kernel()?;
    Ok(ExitCode::SUCCESS)
}

fn run_vm(lab: &Lab, args: VmArgs) -> Result<ExitCode> {
    let script = match args.command.as_slice() {
        [line] => line.clone(),
        words => process::shell_quote(words),
    };
    let kernel = args.kernel.resolved(lab)?;
    if let Some(layer) = args.with {
        layer.ensure(lab)?;
    }
    let mut vm = Vm::new(lab, "vm")
        .layer(args.with)
        .flavor(kernel)
        .cards(kernel.has_card_drivers())
        .log_dir(args.log)
        .smp(args.smp)
        .memory(&args.mem)
        .limit(Duration::from_secs(args.timeout))
        .output(Output::Show);
    if args.icount {
        vm = vm.accel(Accel::Icount);
    }
    ended(&vm.run(&script)?)
}

/// The exit code of the command that ran in a VM.
///
/// # Errors
///
/// Reports of bugs in the log of the VM's kernel.
fn ended(outcome: &Outcome) -> Result<ExitCode> {
    outcome.check_kernel()?;
    Ok(ExitCode::from(u8::try_from(outcome.status).unwrap_or(1)))
}
