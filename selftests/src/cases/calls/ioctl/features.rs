// SPDX-License-Identifier: GPL-2.0

//! Feature negotiation, in one word and as an array.

use crate::cases::common::{Case, Context, accepts, case, check, refuses};
use crate::driver::uapi::{self, feature};
use crate::driver::vhost::Vhost;
use crate::sys::mapping::{Mapping, PAGE};
use anyhow::Result;
use std::io;

pub(crate) const CASES: &[Case] = &[
    case("ioctl.features", 20, features),
    case("ioctl.features_array", 20, array),
    case("ioctl.features_array_set", 20, array_set),
    case("ioctl.backend_features", 20, backend),
];

/// What both drivers must offer for a guest to run as it does today.
const REQUIRED: u64 = feature::NOTIFY_ON_EMPTY
    | feature::INDIRECT
    | feature::EVENT_IDX
    | feature::ANY_LAYOUT
    | feature::VERSION_1
    | feature::MRG_RXBUF
    | feature::RING_RESET;

fn features(ctx: &Context) -> Result<()> {
    let vhost = ctx.open()?;
    let offered = accepts("GET_FEATURES", vhost.features())?;
    check(offered & REQUIRED == REQUIRED, || {
        format!("offered {offered:#x}, missing {:#x}", REQUIRED & !offered)
    })?;
    for bit in 0..64 {
        let mask = 1 << bit;
        let result = vhost.set_features(mask);
        if offered & mask != 0 {
            accepts(&format!("feature {bit}"), result)?;
        } else {
            refuses(&format!("feature {bit}"), libc::EOPNOTSUPP, result)?;
        }
    }
    accepts("no features", vhost.set_features(0))?;
    accepts(
        "all features but logging",
        vhost.set_features(offered & !feature::LOG_ALL),
    )?;
    let unknown = 1 << 63;
    refuses(
        "an unknown bit",
        libc::EOPNOTSUPP,
        vhost.set_features(offered | unknown),
    )?;
    check(vhost.features()? == offered, || {
        "what is offered depends on what is accepted".into()
    })
}

/// A mapping whose last page ends with a features array of the given words.
fn at_end(count: u64, words: &[u64]) -> Result<(Mapping, usize)> {
    let map = Mapping::new(PAGE)?;
    let offset = PAGE - 8 * (words.len() + 1);
    map.write(offset, &count.to_ne_bytes());
    for (i, word) in words.iter().enumerate() {
        map.write(offset + 8 * (i + 1), &word.to_ne_bytes());
    }
    Ok((map, offset))
}

fn get_array(vhost: &Vhost, count: u64, room: usize) -> Result<(io::Result<()>, Vec<u64>)> {
    let (map, offset) = at_end(count, &vec![u64::MAX; room])?;
    let result = vhost.raw(uapi::GET_FEATURES_ARRAY.number(), &map, offset);
    let words = (0..room).map(|i| {
        let mut bytes = [0; 8];
        map.read(offset + 8 * (i + 1), &mut bytes);
        u64::from_ne_bytes(bytes)
    });
    Ok((result, words.collect()))
}

fn array(ctx: &Context) -> Result<()> {
    let vhost = ctx.open()?;
    let offered = vhost.features()?;
    let (result, full) = get_array(&vhost, 2, 2)?;
    accepts("an array of two", result)?;
    check(full[0] == offered, || {
        format!("{:#x} in the array, {offered:#x} without", full[0])
    })?;
    for count in [0usize, 1, 2, 3, 4, 100] {
        let (result, words) = get_array(&vhost, count as u64, count + 1)?;
        accepts(&format!("an array of {count}"), result)?;
        let (asked, beyond) = words.split_at(count);
        let expected = full.iter().copied().chain(std::iter::repeat(0));
        check(expected.zip(asked).all(|(want, got)| want == *got), || {
            format!("an array of {count} reads {asked:x?}")
        })?;
        check(beyond == [u64::MAX], || {
            format!("an array of {count} was written beyond")
        })?;
    }
    for count in [3, 1000, 1 << 40, 1 << 61, u64::MAX] {
        let (result, _) = get_array(&vhost, count, 2)?;
        refuses(
            &format!("an array of {count} in room for two"),
            libc::EFAULT,
            result,
        )?;
    }
    Ok(())
}

fn array_set(ctx: &Context) -> Result<()> {
    let vhost = ctx.open()?;
    let set = |count: u64, words: &[u64]| -> Result<io::Result<()>> {
        let (map, offset) = at_end(count, words)?;
        Ok(vhost.raw(uapi::SET_FEATURES_ARRAY.number(), &map, offset))
    };
    let good = feature::VERSION_1 | feature::EVENT_IDX;
    accepts("no words", set(0, &[])?)?;
    accepts("one word", set(1, &[good])?)?;
    accepts("two words", set(2, &[good, 0])?)?;
    accepts("four words", set(4, &[good, 0, 0, 0])?)?;
    refuses("an unknown bit", libc::EOPNOTSUPP, set(1, &[1 << 63])?)?;
    refuses(
        "an unknown bit above 64",
        libc::EOPNOTSUPP,
        set(2, &[good, 1 << 63])?,
    )?;
    for at in 2..6 {
        let mut words = [good, 0, 0, 0, 0, 0];
        words[at] = 1;
        let what = format!("a bit in word {at}");
        refuses(&what, libc::EOPNOTSUPP, set(6, &words)?)?;
    }
    refuses("more words than room", libc::EFAULT, set(3, &[good, 0])?)?;
    refuses("many words", libc::EFAULT, set(1 << 20, &[good, 0])?)?;
    refuses("a wrapping count", libc::EFAULT, set(u64::MAX, &[good, 0])?)?;
    refuses("a huge count", libc::EFAULT, set(1 << 61, &[good, 0])?)?;
    accepts("one word after failures", set(1, &[good])?)
}

fn backend(ctx: &Context) -> Result<()> {
    let vhost = ctx.open()?;
    let offered = accepts("GET_BACKEND_FEATURES", vhost.backend_features())?;
    for bit in 0..64 {
        let mask = 1 << bit;
        let result = vhost.set_backend_features(mask);
        if offered & mask != 0 {
            accepts(&format!("backend feature {bit}"), result)?;
        } else {
            refuses(&format!("backend feature {bit}"), libc::EOPNOTSUPP, result)?;
        }
    }
    accepts("no backend features", vhost.set_backend_features(0))
}
