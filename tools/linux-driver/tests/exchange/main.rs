// SPDX-License-Identifier: GPL-2.0

//! Random exchanges between the kernel's driver and the rings of `vring`.
//!
//! Both sides take turns, also amid a turn of the other: before each access of the device, and at each
//! barrier of the driver. Each of them signals only when asked and, once it waits, does nothing until
//! it is signalled. Chains have to arrive as they were added, and to come back as they were used, in
//! order; nobody may wait while there is work for it.

mod between;
mod device;
mod driver;
mod memory;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use linux_driver::{Features, allocated, pause_with};

use between::{Between, Figures, Random, count};
use device::Device;
use driver::Driver;

/// Turns of an exchange.
const TURNS: u32 = 600;

/// Turns of a long exchange.
const LONG: u32 = 25_000;

/// Number of turns, on average, after which both sides settle.
const SETTLES: u32 = 150;

/// The largest number of turns of each side that settling takes.
const SETTLED: u32 = 100;

/// How often the other side acts at a place where it may, on average: once in so many times.
const AMID: u32 = 8;

/// Which exchange.
#[derive(Clone, Copy, Debug)]
struct Setup {
    size: u16,
    features: Features,
    seed: u64,
}

/// An exchange.
struct Exchange {
    setup: Setup,
    random: Random,
    between: Between,
    driver: RefCell<Driver>,
    device: RefCell<Device>,
    /// Whether one side may act amid a turn of the other.
    amid: Cell<bool>,
}

impl Exchange {
    /// An exchange with a new ring. Only one may exist in a thread.
    fn new(setup: Setup) -> Rc<Self> {
        let Setup {
            size,
            features,
            seed,
        } = setup;
        let driver = Driver::new(size, features);
        let device = Device::new(driver.queue.addrs(), size, features);
        let exchange = Rc::new(Self {
            setup,
            random: Random::new(seed),
            between: Between::default(),
            driver: RefCell::new(driver),
            device: RefCell::new(device),
            amid: Cell::new(true),
        });
        let of = Rc::downgrade(&exchange);
        pause_with(Some(Rc::new(move || {
            if let Some(exchange) = of.upgrade() {
                exchange.amid_driver();
            }
        })));
        exchange
    }

    /// Both sides take turns.
    fn run(&self, turns: u32) {
        for _ in 0..turns {
            if self.random.one_in(2) {
                self.driver.borrow_mut().turn(&self.between, &self.random);
            } else {
                self.device_turn(&mut self.device.borrow_mut());
            }
            if self.random.one_in(SETTLES) {
                self.settle();
            }
        }
        self.settle();
    }

    fn device_turn(&self, device: &mut Device) {
        device.turn(&self.between, &self.random, &|| self.amid_device());
    }

    /// A turn of the driver amid one of the device.
    fn amid_device(&self) {
        if self.amid.get() && self.random.one_in(AMID) {
            if let Ok(mut driver) = self.driver.try_borrow_mut() {
                count(&self.between.figures.amid_device);
                driver.turn(&self.between, &self.random);
            }
        }
    }

    /// A turn of the device amid one of the driver.
    fn amid_driver(&self) {
        if self.amid.get() && self.random.one_in(AMID) {
            if let Ok(mut device) = self.device.try_borrow_mut() {
                count(&self.between.figures.amid_driver);
                self.device_turn(&mut device);
            }
        }
    }

    /// Nothing more is made available, and each side goes on until it waits. Nothing may be left then.
    fn settle(&self) {
        self.amid.set(false);
        let (mut driver, mut device) = (self.driver.borrow_mut(), self.device.borrow_mut());
        let settled = (0..SETTLED).any(|_| {
            let driver = driver.settle(&self.between, &self.random);
            let device = device.settle(&self.between, &self.random);
            driver && device && !self.between.call.get()
        });
        assert!(settled, "both sides go on for ever");
        let left = self.between.offered.borrow().len();
        assert_eq!(left, 0, "chains available, but the device waits");
        let left = self.between.used.borrow().len();
        assert_eq!(left, 0, "chains used, but the driver waits");
        let free = driver.queue.num_free();
        assert_eq!(free, u32::from(self.setup.size), "free descriptors");
        self.between.note("settled", 0u64);
        self.amid.set(true);
    }
}

/// Tells which exchange failed, and its last events.
struct Report<'a>(&'a Exchange);

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Exchange { setup, between, .. } = self.0;
            eprintln!("{setup:?} after\n{between}");
        }
    }
}

/// Runs an exchange; returns its figures.
fn exchange(setup: Setup, turns: u32) -> Figures {
    let exchange = Exchange::new(setup);
    let figures = {
        let report = Report(&exchange);
        exchange.run(turns);
        report.0.between.figures.clone()
    };
    pause_with(None);
    drop(exchange);
    assert_eq!(allocated(), 0, "memory that the driver has not freed");
    figures
}

/// The features beside the layout.
const OTHERS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

/// Sizes of split rings.
const SPLIT: [u16; 6] = [1, 2, 4, 16, 128, 1024];

/// Sizes of packed rings.
const PACKED: [u16; 8] = [1, 2, 3, 5, 16, 63, 300, 1024];

/// The seeds: that of `$SEED`, or a few.
fn seeds() -> Vec<u64> {
    match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (0..4).collect(),
    }
}

/// Runs exchanges of all sizes and features of a layout, and one that is long.
fn exchanges(packed: bool, in_order: bool) {
    let sizes: &[u16] = if packed { &PACKED } else { &SPLIT };
    for (event_idx, indirect) in OTHERS {
        let features = Features {
            packed,
            in_order,
            event_idx,
            indirect,
        };
        let mut total = Figures::default();
        for &size in sizes {
            for seed in seeds() {
                let setup = Setup {
                    size,
                    features,
                    seed,
                };
                total = total + exchange(setup, TURNS);
            }
        }
        println!("{features:?}: {total:?}");
        // The exchanges of a single seed are too few to have everything in them.
        if seeds().len() > 1 {
            proves_something(features, &total);
        }
    }
}

/// Whether what is looked for can have happened in the exchanges with these figures.
fn proves_something(features: Features, figures: &Figures) {
    let enough = |figure: &Cell<u64>| figure.get() > 20;
    assert!(enough(&figures.amid_device) && enough(&figures.amid_driver));
    assert!(enough(&figures.stops) && enough(&figures.restarts) && enough(&figures.full));
    assert_eq!(features.in_order, enough(&figures.groups));
    // Both sides have been signalled, and have been spared signals.
    for (decisions, signals) in [
        (&figures.kick_decisions, &figures.kicks),
        (&figures.call_decisions, &figures.calls),
    ] {
        assert!(enough(signals) && decisions.get() > signals.get() + 20);
    }
}

/// An exchange of so many chains that indexes wrap, and a packed ring's wrap counters change many times.
fn long_exchange(packed: bool, in_order: bool) {
    for event_idx in [false, true] {
        let setup = Setup {
            size: if packed { 250 } else { 256 },
            features: Features {
                packed,
                in_order,
                event_idx,
                indirect: true,
            },
            seed: seeds()[0],
        };
        let figures = exchange(setup, LONG);
        println!("{setup:?}: {figures:?}");
        assert!(figures.chains.get() > 3 << 16);
    }
}

/// Makes the tests of a layout.
macro_rules! layout {
    ($name:ident, $packed:expr, $in_order:expr) => {
        mod $name {
            #[test]
            fn exchanges() {
                super::exchanges($packed, $in_order);
            }

            #[test]
            fn indexes_wrap() {
                super::long_exchange($packed, $in_order);
            }
        }
    };
}

layout!(split, false, false);
layout!(split_in_order, false, true);
layout!(packed, true, false);
layout!(packed_in_order, true, true);
