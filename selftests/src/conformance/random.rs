// SPDX-License-Identifier: GPL-2.0

//! The calls of the table in any order.

use super::step::{Action, Argument, Caller, Fd, Field, Step};
use super::{Both, Pair, calls, differences, ioctls::of};
use crate::driver::ring::Format;
use crate::driver::uapi::feature;
use anyhow::Result;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Steps from which sequences are drawn.
#[derive(Debug)]
pub struct Pool {
    defined: Vec<Step>,
    strange: Vec<Step>,
    /// That of rings in an orderly set-up.
    format: Format,
}

/// How far sequences went on the in-tree device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Depth {
    /// Steps taken.
    pub steps: usize,
    /// Steps that succeeded.
    pub succeeded: usize,
    /// Queues that were bound to a backend.
    pub bound: usize,
}

impl Depth {
    fn count(&mut self, step: &Step, both: &Both) {
        let succeeded = both.c.result.is_ok();
        self.steps += 1;
        self.succeeded += usize::from(succeeded);
        let backend = step.argument_of(of("NET_SET_BACKEND"));
        let tap = backend.is_some_and(|argument| argument.fields.contains(&Field::fd(Fd::Tap)));
        self.bound += usize::from(succeeded && tap);
    }
}

/// A sequence on which the devices differ.
#[derive(Debug)]
pub struct Finding {
    /// The sequence, without steps that are not needed.
    pub steps: Vec<Step>,
    /// What the last of them did.
    pub last: Both,
}

impl Pool {
    /// The calls whose result depends on the calls before it only.
    #[must_use]
    pub fn new() -> Self {
        let mut defined = calls::defined();
        defined.retain(|step| !diverges(step) && !depends_on_worker(step));
        Self {
            defined,
            strange: calls::strange(),
            format: Format::Split,
        }
    }

    /// All calls, for one device alone; the long ones too, if nothing waits for them. Rings that
    /// are set up in order have that format.
    #[must_use]
    pub fn all(long: bool, format: Format) -> Self {
        let mut defined = calls::defined();
        if long {
            defined.extend(calls::long());
        }
        Self {
            defined,
            strange: calls::strange(),
            format,
        }
    }

    fn pick(steps: &[Step], rng: &mut SmallRng) -> Step {
        steps[rng.random_range(0..steps.len())].clone()
    }

    /// Any step.
    pub fn draw(&self, rng: &mut SmallRng) -> Step {
        match rng.random_range(0..100) {
            // Legal calls, or nothing would ever run.
            0..55 => legal(rng, self.format),
            55..95 => Self::pick(&self.defined, rng),
            _ => Self::pick(&self.strange, rng),
        }
    }

    /// The sequence of `len` steps that belongs to `seed`.
    #[must_use]
    pub fn sequence(&self, seed: u64, len: usize) -> Vec<Step> {
        let mut rng = SmallRng::seed_from_u64(seed);
        // Or a read would wait once there is an IOTLB.
        let mut steps = vec![Step::nonblocking()];
        let mut translated = false;
        while steps.len() < len {
            let mut step = self.draw(&mut rng);
            translated |= translates(&step);
            // What is there to read then is up to the workers.
            if translated && matches!(step.action, Action::Read(_) | Action::Poll) {
                continue;
            }
            step = step.by(match rng.random_range(0..40) {
                0 | 1 => Caller::Thread,
                2 => Caller::Child,
                _ => Caller::Main,
            });
            steps.push(step);
        }
        steps
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

/// A step of an orderly set-up of rings in a format.
fn legal(rng: &mut SmallRng, format: Format) -> Step {
    let index = rng.random_range(0..2);
    match rng.random_range(0..15) {
        0 | 1 => calls::ioctl("SET_OWNER", Vec::new()),
        2 | 3 => calls::usual_memory(),
        4 => calls::state("SET_VRING_NUM", index, 1 << rng.random_range(0..9)),
        5 | 6 => calls::addresses(index),
        7 => calls::file("SET_VRING_KICK", index, Fd::Kick),
        8..11 => calls::file("NET_SET_BACKEND", index, Fd::Tap),
        11 => calls::file("NET_SET_BACKEND", index, Fd::Unbind),
        12 => calls::state("GET_VRING_BASE", index, 0),
        // Seldom, since what follows has to begin anew.
        13 if rng.random_bool(0.2) => calls::ioctl("RESET_OWNER", Vec::new()),
        13 => calls::state("SET_VRING_BASE", index, rng.random_range(0..0x8000)),
        _ => {
            let bits = [
                feature::VERSION_1,
                feature::MRG_RXBUF,
                feature::EVENT_IDX,
                feature::IN_ORDER,
                feature::LOG_ALL,
            ];
            let word: u64 = bits.into_iter().filter(|_| rng.random_bool(0.3)).sum();
            let word = word | format.features();
            calls::ioctl("SET_FEATURES", vec![Field::long(word)])
        }
    }
}

/// Whether the devices go different ways after a call, as is meant.
fn diverges(step: &Step) -> bool {
    let mut all = differences::ALL.iter();
    all.any(|difference| difference.parts(step))
}

/// Whether what later calls return could depend on how far a worker has come.
fn depends_on_worker(step: &Step) -> bool {
    let word = |argument: &Argument| argument.word(1).unwrap_or(0);
    // The available index stays zero. From a base in the upper half it is so many buffers ahead
    // that they look real, and the worker takes them; from others it is a fault.
    if let Some(argument) = step.argument_of(of("SET_VRING_BASE")) {
        return word(argument) > 0x7fff;
    }
    // An event descriptor that both kicks a queue and is called by it never rests.
    if let Some(argument) = step.argument_of(of("SET_VRING_KICK")) {
        return argument.fields.get(1) == Some(&Field::fd(Fd::Call));
    }
    let kicked = [of("SET_VRING_CALL"), of("SET_VRING_ERR"), of("SET_LOG_FD")];
    kicked
        .iter()
        .filter_map(|number| step.argument_of(*number))
        .any(|argument| argument.fields.contains(&Field::fd(Fd::Kick)))
}

/// Whether a call may turn translation on.
fn translates(step: &Step) -> bool {
    let one = step.argument_of(of("SET_FEATURES"));
    let many = step.argument_of(of("SET_FEATURES_ARRAY"));
    one.or(many).is_some_and(|argument| {
        // CAST: bit 33, in the upper half.
        let bit = (feature::ACCESS_PLATFORM >> 32) as u32;
        (0..8).any(|word| argument.word(word).is_some_and(|word| word & bit != 0))
    })
}

/// Takes `steps` on both devices, opened anew; the first at which they differ without excuse.
fn first_difference(
    pair: &mut Pair,
    steps: &[Step],
    depth: &mut Depth,
) -> Result<Option<(usize, Both)>> {
    pair.reopen()?;
    for (at, step) in steps.iter().enumerate() {
        let both = pair.run(step)?;
        depth.count(step, &both);
        let excused = differences::ALL
            .iter()
            .any(|difference| difference.excuses(step, &both.c, &both.rnet));
        if !both.same() && !excused {
            return Ok(Some((at, both)));
        }
    }
    Ok(None)
}

/// Takes `steps` on both devices and adds to `depth`; if they differ, finds the steps that it
/// takes.
///
/// # Errors
///
/// When a step cannot be taken.
pub fn check(pair: &mut Pair, steps: &[Step], depth: &mut Depth) -> Result<Option<Finding>> {
    let Some((at, mut last)) = first_difference(pair, steps, depth)? else {
        return Ok(None);
    };
    let mut steps = steps[..=at].to_vec();
    // From the end, since late steps are built on early ones. The last is the difference itself.
    for without in (0..at).rev() {
        let mut fewer = steps.clone();
        fewer.remove(without);
        if let Some((at, both)) = first_difference(pair, &fewer, &mut Depth::default())? {
            fewer.truncate(at + 1);
            if fewer.last() == steps.last() {
                (steps, last) = (fewer, both);
            }
        }
    }
    Ok(Some(Finding { steps, last }))
}

#[cfg(test)]
mod tests {
    use super::Pool;

    #[test]
    fn a_seed_is_a_sequence() {
        let pool = Pool::new();
        assert_eq!(pool.sequence(1, 50), pool.sequence(1, 50));
        assert_ne!(pool.sequence(1, 50), pool.sequence(2, 50));
        assert_eq!(pool.sequence(3, 50).len(), 50);
    }
}
