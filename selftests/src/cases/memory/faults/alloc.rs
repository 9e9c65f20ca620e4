// SPDX-License-Identifier: GPL-2.0

//! Every allocation and copy fails once, in calls and in the worker; words of rings, which are no
//! copies, fail in `guest.tx_closed_ring` and `guest.rx_closed_ring`.
//!
//! Only a kernel with fault injection can do that; see `Documentation/fault-injection`.

use crate::cases::common::{Case, Context, Kind, Skip, accepts, case, check, lets_c_off};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::iotlb::{Message, VERSION_1};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{self, RX, TX, Vhost};
use crate::host::procfs;
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::sys::mapping::Mapping;
use crate::wait::Deadline;
use anyhow::{Context as _, Result, bail};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

pub(crate) const CASES: &[Case] = &[
    case("faults.alloc_setup", 900, setup),
    case("faults.alloc_live", 600, live),
    case("faults.alloc_worker", 600, worker),
];

/// No call allocates more often.
const MOST: u32 = 400;

/// All pages, single ones too, and those for which the kernel may wait.
pub(super) const PAGES: &[(&str, &str)] = &[
    ("ignore-gfp-wait", "N"),
    ("ignore-gfp-highmem", "N"),
    ("min-order", "0"),
    ("verbose", "0"),
];

/// Sets what of one kind may fail, and when.
pub(super) fn set_kind(kind: &str, settings: &[(&str, &str)]) -> Result<()> {
    for (name, value) in settings {
        let path = format!("/sys/kernel/debug/{kind}/{name}");
        fs::write(&path, value).with_context(|| path.clone())?;
    }
    Ok(())
}

/// A thread whose `nth` allocation or copy from now on can be made to fail.
struct Injector(File);

impl Injector {
    /// For a thread of this process.
    fn new(tid: u32) -> Result<Self> {
        let path = format!("/proc/self/task/{tid}/fail-nth");
        if !fs::exists(&path)? {
            return Err(Skip("this kernel has no fault injection".into()).into());
        }
        // Also what may sleep, and also single pages; and without a trace for each.
        set_kind("failslab", &[("ignore-gfp-wait", "N"), ("verbose", "0")])?;
        set_kind("fail_page_alloc", PAGES)?;
        set_kind("fail_usercopy", &[("verbose", "0")])?;
        let file = File::options().read(true).write(true).open(&path)?;
        Ok(Self(file))
    }

    /// For the calling thread.
    fn here() -> Result<Self> {
        // The first thread of a process has its number.
        Self::new(std::process::id())
    }

    fn set(&self, nth: u32) -> Result<()> {
        let text = nth.to_string();
        let mut written = self.0.write_at(text.as_bytes(), 0);
        // What was to fail is in the thread that writes, and it was this.
        if written.as_ref().is_err_and(is_efault) {
            written = self.0.write_at(text.as_bytes(), 0);
        }
        written.context("writing fail-nth")?;
        Ok(())
    }

    /// Whether something has failed since; nothing more will.
    fn fired(&self) -> Result<bool> {
        let mut text = [0; 16];
        let fired = match self.0.read_at(&mut text, 0) {
            Ok(len) => text[..len].trim_ascii() == b"0",
            // It is this that failed, so nothing before has.
            Err(error) if is_efault(&error) => false,
            Err(error) => return Err(error).context("reading fail-nth"),
        };
        self.set(0)?;
        Ok(fired)
    }

    /// Runs `call` with its `nth` allocation or copy failing; its answer, and whether it had so
    /// many.
    fn fail<T>(&self, nth: u32, call: impl FnOnce() -> T) -> Result<(T, bool)> {
        self.set(nth)?;
        let answer = call();
        Ok((answer, self.fired()?))
    }
}

/// Makes ever later allocations or copies of an `attempt` fail, until it has no more of them; how
/// many failed. An attempt is told which is to fail, and answers whether it succeeded, and whether
/// it had so many.
fn each(what: &str, mut attempt: impl FnMut(u32) -> Result<(bool, bool)>) -> Result<u32> {
    for nth in 1..=MOST {
        let done = attempt(nth).with_context(|| format!("fault {nth} of {what}"))?;
        match done {
            (_, true) => {}
            (true, false) => return Ok(nth - 1),
            (false, false) => bail!("{what} fails by itself"),
        }
    }
    bail!("{what} never succeeds")
}

fn is(error: &io::Error, errno: i32) -> bool {
    error.raw_os_error() == Some(errno)
}

fn is_efault(error: &io::Error) -> bool {
    is(error, libc::EFAULT)
}

/// Fails unless a call that something failed in tells so.
fn expect_told<T>(what: &str, result: &Result<T>) -> Result<()> {
    let Err(error) = result else {
        // Not everything is needed.
        return Ok(());
    };
    let Some(error) = error.downcast_ref::<io::Error>() else {
        bail!("{what}: {error:#}");
    };
    let told = [libc::ENOMEM, libc::EFAULT, libc::EAGAIN];
    check(
        error
            .raw_os_error()
            .is_some_and(|errno| told.contains(&errno)),
        || format!("{what}: {error}"),
    )
}

/// A call, of a device with its memory table.
///
/// Nothing is allocated for the call itself, which would fail in its place.
type Step = (&'static str, fn(&NetDevice, &Mapping) -> io::Result<()>);

/// The calls that set a device up, in order.
const STEPS: &[Step] = &[
    ("SET_OWNER", |device, _| device.vhost.set_owner()),
    ("SET_FEATURES", |device, _| {
        device.vhost.set_features(device.setup.features)
    }),
    ("SET_MEM_TABLE", |device, table| {
        device.vhost.set_memory_from(table)
    }),
    ("SET_VRING_NUM", |device, _| {
        device.vhost.set_num(TX, u32::from(device.setup.tx_size))
    }),
    ("SET_VRING_BASE", |device, _| device.vhost.set_base(TX, 0)),
    ("SET_VRING_ADDR", |device, _| {
        device.vhost.set_addr(device.address(&device.tx))
    }),
    ("SET_VRING_CALL", |device, _| {
        device
            .vhost
            .set_call(TX, device.tx.call.as_fd().as_raw_fd())
    }),
    ("SET_VRING_ERR", |device, _| {
        device.vhost.set_err(TX, device.tx.err.as_fd().as_raw_fd())
    }),
    ("SET_VRING_KICK", |device, _| {
        device
            .vhost
            .set_kick(TX, device.tx.kick.as_fd().as_raw_fd())
    }),
    ("NET_SET_BACKEND", |device, _| {
        device.vhost.set_backend(TX, device.tap.number())
    }),
];

/// Whatever fails while a device is set up: the call says so, and works when it is made again.
fn setup(ctx: &Context) -> Result<()> {
    let injector = Injector::here()?;
    let mut injected = each("open", |nth| {
        let (vhost, fired) = injector.fail(nth, || ctx.open())?;
        expect_told("open", &vhost)?;
        Ok((vhost.is_ok(), fired))
    })?;
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    let table = vhost::memory_table(&device.memory.table(), 0)?;
    for (at, (what, step)) in STEPS.iter().enumerate() {
        injected += each(what, |nth| {
            // The last one, if it came so far.
            let _ = device.vhost.set_backend(TX, -1);
            device.tx.ring.reset(0);
            device.tx.forget_buffers()?;
            device.vhost = ctx.open()?;
            for (what, before) in &STEPS[..at] {
                accepts(what, before(&device, &table))?;
            }
            let (result, fired) = injector.fail(nth, || step(&device, &table))?;
            let done = result.is_ok();
            expect_told(what, &result.map_err(Into::into))?;
            let rest = if done { at + 1 } else { at };
            for (what, after) in &STEPS[rest..] {
                accepts(what, after(&device, &table))?;
            }
            traffic::transmit(&mut device, Plan::new(ctx.seed, 5, |_| 100))?;
            Ok((done, fired))
        })?;
    }
    injected += iotlb(ctx, &injector)?;
    expect_many(injected)
}

/// Whatever fails while IO addresses are set up and given up again: the call says so, and works
/// when it is made again. Answers how much did.
fn iotlb(ctx: &Context, injector: &Injector) -> Result<u32> {
    // Never next to each other, so that they cannot become one.
    let update = |number: u64| Message::update(number << 13, 4096, 1 << 20);
    let platform = feature::VERSION_1 | feature::ACCESS_PLATFORM;
    let vhost = ctx.owned()?;
    let every = |what: &str, call: &dyn Fn(u32) -> io::Result<()>| {
        each(what, |nth| {
            let (result, fired) = injector.fail(nth, || call(nth))?;
            let done = result.is_ok();
            // The in-tree driver takes a message of which it could not read all for a wrong one.
            if !result.as_ref().is_err_and(|error| is(error, libc::EINVAL)) {
                expect_told(what, &result.map_err(Into::into))?;
            }
            if !done {
                accepts(what, call(nth))?;
            }
            if fired && what == "RESET_OWNER" {
                accepts("SET_OWNER", vhost.set_owner())?;
            }
            Ok((done, fired))
        })
    };
    Ok(every("SET_FEATURES", &|_| vhost.set_features(platform))?
        + every("an update", &|nth| {
            vhost.send(VERSION_1, update(nth.into()))
        })?
        + every("RESET_OWNER", &|_| vhost.reset_owner())?)
}

/// Fails if hardly anything was made to.
fn expect_many(injected: u32) -> Result<()> {
    println!("injected {injected}");
    // Each device has more places than that.
    check(injected >= 10, || "hardly anything failed".into())
}

/// Calls on a running device that leave it as it is.
const LIVE: &[Step] = &[
    ("SET_FEATURES", |device, _| {
        device.vhost.set_features(device.setup.features)
    }),
    ("SET_MEM_TABLE", |device, table| {
        device.vhost.set_memory_from(table)
    }),
    ("SET_VRING_ADDR", |device, _| {
        device.vhost.set_addr(device.address(&device.rx))
    }),
    ("SET_VRING_CALL", |device, _| {
        device
            .vhost
            .set_call(RX, device.rx.call.as_fd().as_raw_fd())
    }),
    ("SET_VRING_KICK", |device, _| {
        device
            .vhost
            .set_kick(RX, device.rx.kick.as_fd().as_raw_fd())
    }),
    ("SET_LOG_BASE", |device, _| device.vhost.set_log_base(0)),
    ("SET_LOG_FD", |device, _| {
        device.vhost.set_log_fd(device.rx.err.as_fd().as_raw_fd())
    }),
    ("SET_LOG_FD to -1", |device, _| device.vhost.set_log_fd(-1)),
    ("GET_VRING_BASE", |device, _| {
        device.vhost.base(RX).map(drop)
    }),
    ("NET_SET_BACKEND", |device, _| {
        device.vhost.set_backend(TX, device.tap.number())
    }),
];

/// Whatever fails in a call on a running device: the device goes on.
fn live(ctx: &Context) -> Result<()> {
    let injector = Injector::here()?;
    let setup = Setup::new(feature::VERSION_1 | feature::EVENT_IDX);
    let mut device = NetDevice::start(&ctx.device, setup)?;
    let table = vhost::memory_table(&device.memory.table(), 0)?;
    let mut injected = 0;
    for (what, call) in LIVE {
        injected += each(what, |nth| {
            let (result, fired) = injector.fail(nth, || call(&device, &table))?;
            let done = result.is_ok();
            expect_told(what, &result.map_err(Into::into))?;
            traffic::exchange(&mut device, Plan::new(ctx.seed, 10, |_| 300))?;
            Ok((done, fired))
        })?;
    }
    injected += workers(ctx, &injector, &device.vhost)?;
    traffic::exchange(&mut device, Plan::new(ctx.seed, 10, |_| 300))?;
    expect_many(injected)
}

/// A worker that could not be started is not there, nor its id used up.
fn workers(ctx: &Context, injector: &Injector, vhost: &Vhost) -> Result<u32> {
    if ctx.kind == Kind::C {
        // The in-tree driver has none but the first.
        return Ok(0);
    }
    each("NEW_WORKER", |nth| {
        let (result, fired) = injector.fail(nth, || vhost.new_worker())?;
        let done = result.is_ok();
        match result {
            Ok(id) => {
                check(id == 1, || format!("worker {id}"))?;
                accepts("FREE_WORKER", vhost.free_worker(id))?;
            }
            Err(error) => expect_told("NEW_WORKER", &Err::<(), _>(error.into()))?,
        }
        procfs::expect_workers(1)?;
        Ok((done, fired))
    })
}

/// Whatever fails in the worker: a frame may be lost or late, and the queue goes on.
fn worker(ctx: &Context) -> Result<()> {
    if lets_c_off(ctx)? {
        // vhost_add_used_n() gives up, and its caller goes on: the guest never sees those chains
        // again.
        return Err(Skip("vhost-net loses chains when it cannot write used entries".into()).into());
    }
    let mut injected = 0;
    for (features, len, limit) in [
        (0, 200, i32::MAX),
        // A frame of its own, and one too large for those of a batch.
        (feature::MRG_RXBUF, 200, 100_000),
        (feature::MRG_RXBUF, 60_000, i32::MAX),
    ] {
        let mut setup = Setup::new(feature::VERSION_1 | features);
        setup.tx_buffers = (32, 1 << 16);
        let mut device = NetDevice::start(&ctx.device, setup)?;
        device.tap.set_send_buffer(limit)?;
        let worker = procfs::workers()?;
        let injector = Injector::new(worker.first().context("no worker")?.tid)?;
        let mut quiet = 0;
        for nth in 1..=MOST {
            // What is kept for the next frames is given back, so that it has to be allocated.
            device.unbind(TX)?;
            device.bind(TX)?;
            device.rx_fill()?;
            device.rx.flush()?;
            procfs::idle()?;
            injector.set(nth)?;
            let mut bytes = Vec::new();
            frame::build(ctx.seed, 0, len, &mut bytes);
            device.tx_post(NetHeader::default(), &bytes)?;
            device.tx.flush()?;
            device.peer.send(NetHeader::default(), &bytes)?;
            procfs::idle()?;
            let fired = injector.fired()?;
            injected += u32::from(fired);
            recover(ctx, &mut device, &bytes).with_context(|| format!("fault {nth}"))?;
            // Not every round allocates the same.
            quiet = if fired { 0 } else { quiet + 1 };
            if quiet == 5 {
                break;
            }
        }
        check(quiet == 5, || {
            "there is always something more to fail".into()
        })?;
    }
    println!("injected {injected}");
    check(injected > 0, || "nothing failed".into())
}

/// Takes what is left of one frame each way, whole if it came, and moves others.
fn recover(ctx: &Context, device: &mut NetDevice, sent: &[u8]) -> Result<()> {
    Deadline::patient().until("the chain to come back", || {
        device.tx_reap()?;
        Ok(device.tx.ring.pending() == 0)
    })?;
    procfs::idle()?;
    let mut got = Vec::new();
    while device.peer.receive(&mut got)?.is_some() {
        frame::expect("transmitted", 0, sent, &got)?;
    }
    while device.rx_take(&mut got)?.is_some() {
        frame::expect("received", 0, sent, &got)?;
    }
    device.rx.err.take()?;
    device.tx.err.take()?;
    traffic::exchange(device, Plan::new(ctx.seed, 5, |_| 100))
}
