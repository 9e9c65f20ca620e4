// SPDX-License-Identifier: GPL-2.0

//! What `rnetctl` lists, counts, wakes and pins.

use super::{As, entry, id, is_c, json, rnetctl};
use crate::cases::common::counts::Counts;
use crate::cases::common::{Case, Context, Kind, case, check};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::TX;
use crate::host::procfs;
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use std::fs;

pub(crate) const CASES: &[Case] = &[
    case("rnetctl.list", 60, list),
    case("rnetctl.stat", 90, stat),
    case("rnetctl.wake", 60, wake),
    case("rnetctl.pin", 60, pin),
    case("rnetctl.refused", 90, refused),
];

fn start(ctx: &Context) -> Result<NetDevice> {
    NetDevice::start(
        &ctx.device,
        Setup::new(feature::VERSION_1 | feature::MRG_RXBUF),
    )
}

/// A device is listed with its process, interface, features and workers.
fn list(ctx: &Context) -> Result<()> {
    let device = start(ctx)?;
    let id = id(&device.vhost);
    let listed = json(&["list", "--json"])?;
    let entry = entry(&listed["devices"], &id)?;
    let kind = match ctx.kind {
        Kind::C => "vhost-net",
        Kind::Rnet => "vhost-rnet",
    };
    check(entry["kind"] == kind, || format!("{entry:#}"))?;
    check(entry["interfaces"] == serde_json::json!(["tap0"]), || {
        format!("{entry:#}")
    })?;
    let workers: Vec<_> = procfs::workers()?.iter().map(|it| it.tid).collect();
    let listed = entry["workers"].as_array().context("no workers")?;
    let tids: Vec<_> = listed.iter().map(|worker| worker["tid"].as_u64()).collect();
    let expected: Vec<_> = workers.iter().map(|&tid| Some(u64::from(tid))).collect();
    check(!tids.is_empty() && tids == expected, || {
        format!("{tids:?}, not {expected:?}")
    })?;
    let text = rnetctl(As::Root, &["list", "--features"])?.expect(0, &[&id, kind, "tap0"])?;
    if ctx.kind == Kind::Rnet {
        check(text.contains("mrg_rxbuf"), || text)?;
        check(entry["number"].is_u64(), || format!("{entry:#}"))?;
        check(entry["rx"]["started"] == true, || format!("{entry:#}"))?;
    }
    Ok(())
}

/// Counters are those of the traffic, in all forms.
fn stat(ctx: &Context) -> Result<()> {
    let mut device = start(ctx)?;
    let id = id(&device.vhost);
    if is_c(ctx, &["stat", &id])? {
        return Ok(());
    }
    let plan = Plan::new(ctx.seed, 70, |_| 100);
    traffic::exchange(&mut device, plan)?;
    Deadline::patient().until("all packets to be counted", || {
        let counted = |index| Ok::<_, anyhow::Error>(Counts::of(&device, index)?.packets);
        Ok(counted(TX)? == plan.count && counted(crate::driver::vhost::RX)? == plan.count)
    })?;
    let all = json(&["stat", "--json", "tap0"])?;
    let entry = entry(&all["devices"], &id)?;
    for queue in ["rx", "tx"] {
        let packets = &entry[queue]["counters"]["packets"];
        check(*packets == plan.count, || format!("{entry:#}"))?;
    }
    rnetctl(As::Root, &["stat", "--exact", &id])?.expect(0, &[&id, " 70 "])?;
    rnetctl(As::Root, &["stat", "-i", "0.1", "-c", "2", &id])?.expect(0, &["PACKETS/S"])?;
    let text = rnetctl(As::Root, &["stat", "--prometheus", &id])?.expect(
        0,
        &[
            "# TYPE vhost_rnet_packets_total counter\n",
            "# HELP vhost_rnet_packets_by_size_total ",
            "interface=\"tap0\",queue=\"tx\"} 70\n",
        ],
    )?;
    // Each line has a name, labels in braces, and a number.
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let value = line.rsplit_once(' ').map(|(_, value)| value.parse::<u64>());
        check(matches!(value, Some(Ok(_))), || line.to_owned())?;
    }
    Ok(())
}

/// A queue whose kick is lost moves its packet when it is woken.
fn wake(ctx: &Context) -> Result<()> {
    let (mut bytes, mut got) = (Vec::new(), Vec::new());
    for sequence in 0..3 {
        // A new device: one that has sent looks at its ring again before it comes to rest.
        let mut device = start(ctx)?;
        let id = id(&device.vhost);
        if is_c(ctx, &["wake", &id, "tx"])? {
            return Ok(());
        }
        procfs::idle()?;
        frame::build(ctx.seed, sequence, 100, &mut bytes);
        check(device.tx_post(NetHeader::default(), &bytes)?, || {
            "no room".into()
        })?;
        // The device is not told.
        let _ = device.tx.ring.publish();
        procfs::idle()?;
        check(device.peer.receive(&mut got)?.is_none(), || {
            "it moved without a kick".into()
        })?;
        rnetctl(As::Root, &["wake", &id, "tx"])?.expect(0, &["tx looks for work"])?;
        Deadline::patient().until("the frame", || Ok(device.peer.receive(&mut got)?.is_some()))?;
        frame::expect("woken", sequence, &bytes, &got)?;
    }
    Ok(())
}

/// Workers run where they are told to, and the program says where that is.
fn pin(ctx: &Context) -> Result<()> {
    let device = start(ctx)?;
    let id = id(&device.vhost);
    let worker = procfs::workers()?.first().context("no worker")?.tid;
    let allowed = || -> Result<String> {
        let status = fs::read_to_string(format!("/proc/self/task/{worker}/status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
        Ok(line.context("no list of processors")?.to_owned())
    };
    let before = allowed()?;
    rnetctl(As::Root, &["pin", &id, "0"])?.expect(0, &[&format!("worker {worker}"), " on 0\n"])?;
    check(allowed()? == "0", || format!("{:?}", allowed()))?;
    rnetctl(As::Root, &["pin", &id, &before])?.expect(0, &[&format!(" on {before}\n")])?;
    check(allowed()? == before, || format!("{:?}", allowed()))?;
    rnetctl(As::Root, &["pin", &id, "1000"])?.expect(1, &["may not run on any of 1000"])?;
    check(allowed()? == before, || format!("{:?}", allowed()))?;
    let by_queue = rnetctl(As::Root, &["pin", &id, "0", "--queue", "rx"])?;
    match ctx.kind {
        Kind::C => by_queue.expect(4, &["is not known"])?,
        Kind::Rnet => by_queue.expect(0, &[&format!("worker {worker}"), "rx"])?,
    };
    Ok(())
}

/// Words that mean no device, another user, a reader that goes away: a sentence and a status each.
fn refused(ctx: &Context) -> Result<()> {
    let device = start(ctx)?;
    let id = id(&device.vhost);
    let absent = "absent\x1b[2J";
    for command in ["stat", "explain", "wake"] {
        rnetctl(As::Root, &[command, absent])?
            .expect(3, &["no device is called \"absent\\u{1b}[2J\"", &id])?;
    }
    rnetctl(As::Root, &["pin", &id, "3-1"])?.expect(2, &["ends before it begins"])?;
    rnetctl(As::Root, &["fly"])?.expect(2, &["Usage"])?;
    rnetctl(As::Other, &["list"])?.expect(0, &["could not be looked at; run as root"])?;
    rnetctl(As::Other, &["explain", &id])?.expect(3, &["run as root"])?;
    let program = std::env::current_exe()?.with_file_name("rnetctl");
    let mut early = std::process::Command::new("bash");
    early.args([
        "-c",
        "\"$0\" completions bash | head -c 1 > /dev/null; exit ${PIPESTATUS[0]}",
    ]);
    let (text, status) =
        crate::runner::run(early.arg(program), Deadline::patient()).context("a broken pipe")?;
    check(status == Some(0) && text.is_empty(), || {
        format!("a reader that goes away: {status:?}\n{text}")
    })
}
