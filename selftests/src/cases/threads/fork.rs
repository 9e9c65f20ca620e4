// SPDX-License-Identifier: GPL-2.0

//! What kind of thread a worker is (`VHOST_SET_FORK_FROM_OWNER`).

use crate::cases::common::workers::{KTHREAD, TASK, restart};
use crate::cases::common::{
    Case, Context, Kind, Role, Skip, accepts, case, check, lets_c_off, owners, refuses, role,
};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::{self, feature};
use crate::driver::vhost::Vhost;
use crate::host::cgroup::Group;
use crate::host::procfs;
use crate::runner;
use crate::sys::ioctl::BadPointer;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    case("fork.calls", 20, calls),
    case("fork.kthread", 60, kthread),
    case("fork.cgroup", 30, cgroup),
    case("fork.kill", 120, killed),
    case("fork.memory", 60, memory),
];

pub(crate) const ROLES: &[Role] = &[
    role("kthread-traffic", kthread_traffic),
    role("adopt-with-kthread", adopt_with_kthread),
    role("adopt-with-task", adopt_with_task),
];

/// A device without owner, if it lets its owner choose.
fn open(ctx: &Context) -> Result<Vhost> {
    let vhost = ctx.open()?;
    match vhost.fork_from_owner() {
        // Nobody owns the device, and the call is unknown, in a kernel without
        // CONFIG_VHOST_ENABLE_FORK_OWNER_CONTROL.
        Err(error) if ctx.kind == Kind::C && error.raw_os_error() == Some(libc::EPERM) => {
            Err(Skip("this kernel does not offer the choice".into()).into())
        }
        Err(error) => Err(error).context("GET_FORK_FROM_OWNER"),
        Ok(_) => Ok(vhost),
    }
}

/// Fails unless `vhost` says that workers are of that kind.
fn expect(vhost: &Vhost, want: u8) -> Result<()> {
    let got = accepts("GET_FORK_FROM_OWNER", vhost.fork_from_owner())?;
    check(got == want, || {
        format!("workers are of kind {got}, not {want}")
    })
}

fn calls(ctx: &Context) -> Result<()> {
    let vhost = open(ctx)?;
    expect(&vhost, TASK)?;
    for value in [KTHREAD, TASK, KTHREAD] {
        accepts("SET_FORK_FROM_OWNER", vhost.set_fork_from_owner(value))?;
        expect(&vhost, value)?;
    }
    for value in [2, 128, 255] {
        let result = vhost.set_fork_from_owner(value);
        refuses(
            "SET_FORK_FROM_OWNER of an unknown kind",
            libc::EINVAL,
            result,
        )?;
    }
    let (get, set) = (uapi::GET_FORK_FROM_OWNER, uapi::SET_FORK_FROM_OWNER);
    for pointer in [BadPointer::Null, BadPointer::Kernel, BadPointer::Top] {
        for number in [get.number(), set.number()] {
            refuses("a bad pointer", libc::EFAULT, vhost.bad(number, pointer))?;
        }
    }
    expect(&vhost, KTHREAD)?;
    accepts("SET_OWNER", vhost.set_owner())?;
    for value in [KTHREAD, TASK, 2] {
        let result = vhost.set_fork_from_owner(value);
        refuses("SET_FORK_FROM_OWNER with an owner", libc::EBUSY, result)?;
    }
    let result = vhost.bad(set.number(), BadPointer::Null);
    refuses("SET_FORK_FROM_OWNER with an owner", libc::EBUSY, result)?;
    expect(&vhost, KTHREAD)?;
    // The choice is for one owner.
    accepts("RESET_OWNER", vhost.reset_owner())?;
    expect(&vhost, TASK)?;
    accepts("SET_OWNER", vhost.set_owner())?;
    expect(&vhost, TASK)
}

/// A device on the move whose worker is a kernel thread.
fn start(ctx: &Context, features: u64) -> Result<NetDevice> {
    let device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1 | features))?;
    restart(&device, KTHREAD)?;
    Ok(device)
}

/// Waits until this process has as many kernel threads and threads of its own to work for it.
fn expect_workers(kernel: usize, own: usize) -> Result<()> {
    Deadline::patient().until(
        &format!("{kernel} kernel threads and {own} own threads"),
        || Ok(procfs::kernel_workers()?.len() == kernel && procfs::workers()?.len() == own),
    )
}

fn kthread(ctx: &Context) -> Result<()> {
    drop(open(ctx)?);
    let plan = Plan::new(ctx.seed, 400, |n| 60 + (n % 1400) as usize);
    for features in [0, feature::EVENT_IDX | feature::MRG_RXBUF] {
        let mut device = start(ctx, features)?;
        expect_workers(1, 0)?;
        traffic::exchange(&mut device, plan)?;
        restart(&device, TASK)?;
        expect_workers(0, 1)?;
        traffic::exchange(&mut device, plan)?;
        restart(&device, KTHREAD)?;
        expect_workers(1, 0)?;
        drop(device);
        expect_workers(0, 0)?;
    }
    Ok(())
}

/// What a kernel thread uses counts for its owner's control groups.
fn cgroup(ctx: &Context) -> Result<()> {
    let vhost = open(ctx)?;
    let group = Group::new("rnet-owner")?;
    let groups_of = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cgroup")).context("groups");
    group.enter()?;
    let check_group = || -> Result<()> {
        accepts("SET_FORK_FROM_OWNER", vhost.set_fork_from_owner(KTHREAD))?;
        accepts("SET_OWNER", vhost.set_owner())?;
        let worker = procfs::kernel_workers()?;
        let worker = worker.first().context("there is no kernel thread")?;
        let (ours, its) = (groups_of(std::process::id())?, groups_of(worker.tid)?);
        check(ours == its && ours.contains("rnet-owner"), || {
            format!("the owner is in {ours}, its worker in {its}")
        })?;
        accepts("RESET_OWNER", vhost.reset_owner())
    };
    let result = check_group();
    group.leave()?;
    group.remove()?;
    result
}

fn kthread_traffic(ctx: &Context) -> Result<()> {
    let device = start(ctx, feature::EVENT_IDX)?;
    owners::until_killed(ctx, device, |_| Ok(()))
}

/// A worker that nobody can kill ends with its owner all the same.
fn killed(ctx: &Context) -> Result<()> {
    drop(open(ctx)?);
    for round in 0..ctx.times(20) {
        let child = owners::start(ctx, "kthread-traffic", Stdio::null())?;
        let name = format!("Name:\tvhost-{}", child.id());
        owners::kill(child, Duration::from_millis(round % 20 * 3))?;
        Deadline::patient().until("the kernel thread to end", || {
            let mut left = false;
            for entry in fs::read_dir("/proc").context("list processes")? {
                let status = fs::read_to_string(entry?.path().join("status"));
                left |= status.is_ok_and(|status| status.lines().next() == Some(&name));
            }
            Ok(!left)
        })?;
        owners::still_works(ctx).with_context(|| format!("after kill {round}"))?;
    }
    Ok(())
}

/// Becomes the owner of an inherited device, and waits to be killed while the parent has it open.
fn adopt(kind: u8) -> Result<()> {
    let vhost = Vhost::from_fd(io::stdin().as_fd().try_clone_to_owned()?);
    accepts("SET_FORK_FROM_OWNER", vhost.set_fork_from_owner(kind))?;
    accepts("SET_OWNER", vhost.set_owner())?;
    owners::say_ready()?;
    loop {
        std::thread::park();
    }
}

fn adopt_with_kthread(_ctx: &Context) -> Result<()> {
    adopt(KTHREAD)
}

fn adopt_with_task(_ctx: &Context) -> Result<()> {
    adopt(TASK)
}

/// Who keeps the memory of an owner that was killed, and for how long.
///
/// Whether a process still has its memory shows in whether its executable can be opened for
/// writing.
fn memory(ctx: &Context) -> Result<()> {
    drop(open(ctx)?);
    let program = std::env::temp_dir().join(format!("owner-{}", std::process::id()));
    let in_use = || -> Result<bool> {
        match OpenOptions::new().write(true).open(&program) {
            Ok(_) => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) => Ok(true),
            Err(error) => Err(error).context("open the program"),
        }
    };
    // A kernel thread needs it until it is stopped. vhost holds on to it for its threads of the
    // owner too, which have ended; we have no use for it then.
    let kept_by_tasks = lets_c_off(ctx)?;
    for (name, kept) in [
        ("adopt-with-kthread", true),
        ("adopt-with-task", kept_by_tasks),
    ] {
        for _ in 0..5 {
            fs::copy(std::env::current_exe()?, &program).context("copy this program")?;
            let mut command = Command::new(&program);
            command.args(runner::again(ctx, "--role", name)?.get_args());
            let vhost = ctx.open()?;
            let stdin = Stdio::from(vhost.as_fd().try_clone_to_owned()?);
            let child = owners::start_as(command, name, stdin)?;
            check(in_use()?, || "the owner runs, but not the program".into())?;
            owners::kill(child, Duration::ZERO)?;
            if kept {
                check(in_use()?, || format!("{name}: the memory is gone"))?;
            } else {
                Deadline::patient().until("the owner's memory to go", || Ok(!in_use()?))?;
            }
            drop(vhost);
            Deadline::patient().until("all memory to go", || Ok(!in_use()?))?;
            fs::remove_file(&program)?;
        }
    }
    Ok(())
}
