// SPDX-License-Identifier: GPL-2.0
//! What a command line of QEMU says about network devices.

use std::collections::BTreeMap;

use crate::host::process::comma_parts;

/// Properties by name. The first word of an option, which needs no name, is under `""`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options(BTreeMap<String, String>);

impl Options {
    /// Reads `word,name=value,...`, or the JSON that QEMU also takes. `key` is the name of the first
    /// word, should it be given.
    fn parse(text: &str, key: &str) -> Self {
        if text.trim_start().starts_with('{') {
            return Self::from_json(text, key);
        }
        let mut options = BTreeMap::new();
        for (at, part) in comma_parts(text).into_iter().enumerate() {
            match part.split_once('=') {
                Some((name, value)) if name == key => {
                    options.insert(String::new(), value.to_owned())
                }
                Some((name, value)) => options.insert(name.to_owned(), value.to_owned()),
                None if at == 0 => options.insert(String::new(), part),
                // A property without a value is switched on.
                None => options.insert(part, "on".to_owned()),
            };
        }
        Self(options)
    }

    fn from_json(text: &str, key: &str) -> Self {
        let Ok(serde_json::Value::Object(object)) = serde_json::from_str(text) else {
            return Self::default();
        };
        let entries = object.into_iter().map(|(name, value)| {
            let value = match value {
                serde_json::Value::String(text) => text,
                serde_json::Value::Bool(true) => "on".to_owned(),
                serde_json::Value::Bool(false) => "off".to_owned(),
                other => other.to_string(),
            };
            (if name == key { String::new() } else { name }, value)
        });
        Self(entries.collect())
    }

    /// The value of a property.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The first word.
    pub fn kind(&self) -> &str {
        self.get("").unwrap_or_default()
    }

    /// Whether a property is switched on or off; `None` if it is not given, or neither.
    pub fn switch(&self, name: &str) -> Option<bool> {
        match self.get(name)? {
            "on" | "yes" | "true" => Some(true),
            "off" | "no" | "false" => Some(false),
            _ => None,
        }
    }

    /// A number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }
}

/// A network backend, and the guest's device on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Netdev {
    /// Its properties.
    pub backend: Options,
    /// Those of the device, if one is on the command line.
    pub device: Option<Options>,
}

impl Netdev {
    /// Its name.
    pub fn id(&self) -> &str {
        self.backend.get("id").unwrap_or("nic")
    }

    /// Whether packets go by a vhost device in the kernel, by the rules of QEMU.
    pub fn has_vhost(&self) -> bool {
        self.backend.switch("vhost").unwrap_or_else(|| {
            !self.vhost_descriptors().is_empty() || self.backend.switch("vhostforce") == Some(true)
        })
    }

    /// The open vhost devices that QEMU was handed.
    pub fn vhost_descriptors(&self) -> Vec<&str> {
        ["vhostfd", "vhostfds"]
            .iter()
            .filter_map(|name| self.backend.get(name))
            .flat_map(|list| list.split(':'))
            .collect()
    }

    /// The number of queue pairs that the backend has.
    pub fn pairs(&self) -> u64 {
        let descriptors = self.backend.get("fds").map(|list| list.split(':').count());
        self.backend
            .number("queues")
            .or_else(|| descriptors.and_then(|count| u64::try_from(count).ok()))
            .unwrap_or(1)
    }
}

/// What matters of a command line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CommandLine {
    /// The network backends.
    pub netdevs: Vec<Netdev>,
    /// The number of virtual processors.
    pub processors: u64,
    /// The guest's name.
    pub name: Option<String>,
    /// Whether libvirt has made it.
    pub of_libvirt: bool,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Slots for memory that may be plugged in.
    pub slots: u64,
}

/// Reads a command line.
pub fn parse(arguments: &[String]) -> CommandLine {
    let mut line = CommandLine {
        processors: 1,
        ..CommandLine::default()
    };
    let mut devices = Vec::new();
    let next = arguments.iter().skip(1).map(String::as_str);
    for (option, value) in arguments.iter().zip(next) {
        let Some(option) = option.strip_prefix('-') else {
            continue;
        };
        match option.strip_prefix('-').unwrap_or(option) {
            "netdev" | "nic" => line.netdevs.push(Netdev {
                backend: Options::parse(value, "type"),
                device: None,
            }),
            "device" => devices.push(Options::parse(value, "driver")),
            "smp" => line.processors = processors(&Options::parse(value, "cpus")),
            "m" => {
                let memory = Options::parse(value, "size");
                line.memory = size(memory.kind());
                line.slots = memory.number("slots").unwrap_or(0);
            }
            "name" => {
                let name = Options::parse(value, "guest");
                line.name = Some(name.kind().to_owned()).filter(|name| !name.is_empty());
            }
            _ => {}
        }
    }
    // libvirt keeps the guest's secrets and sockets in folders of its own.
    line.of_libvirt = arguments.iter().any(|word| word.contains("/libvirt/"));
    for netdev in &mut line.netdevs {
        let id = netdev.backend.get("id");
        netdev.device = devices
            .iter()
            .find(|device| id.is_some() && device.get("netdev") == id)
            .cloned();
    }
    line
}

/// The number of processors that `-smp` asks for.
fn processors(topology: &Options) -> u64 {
    topology.number("").unwrap_or_else(|| {
        ["sockets", "dies", "clusters", "cores", "threads"]
            .iter()
            .filter_map(|level| topology.number(level))
            .fold(1, u64::saturating_mul)
    })
}

/// A size in QEMU's form, in MiB if there is no letter, in bytes.
fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let number: u64 = digits.parse().ok()?;
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "b" => 1,
        "k" => 1 << 10,
        "" | "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::{CommandLine, Options, parse, size};

    fn line(text: &str) -> CommandLine {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        parse(&words)
    }

    #[test]
    fn options_have_a_first_word_names_and_switches() {
        let options = Options::parse("tap,id=n0,vhost=on,script=a,,b,odd", "type");
        assert_eq!(options.kind(), "tap");
        assert_eq!(options.get("script"), Some("a,b"));
        assert_eq!(options.switch("vhost"), Some(true));
        assert_eq!(options.switch("odd"), Some(true));
        assert_eq!(options.switch("id"), None);
        assert_eq!(Options::parse("id=n0,type=tap", "type").kind(), "tap");
        let json = r#"{"type":"tap","fd":"33","vhost":true,"queues":2,"x":{}}"#;
        let options = Options::parse(json, "type");
        assert_eq!((options.kind(), options.number("queues")), ("tap", Some(2)));
        assert_eq!(options.switch("vhost"), Some(true));
        assert_eq!(Options::parse("{odd", "type"), Options::default());
    }

    #[test]
    fn devices_find_their_backends() {
        let found = line(
            "qemu-system-x86_64 -name guest=db,debug-threads=on -smp 4,sockets=4 -m size=2097152k,slots=8 \
             -netdev tap,id=n0,fds=3:4,vhost=on,vhostfds=5:6 --netdev user,id=n1 \
             -device virtio-net-pci,netdev=n0,mq=on -device e1000,netdev=n1 -nic tap,model=virtio-net-pci \
             -object {\"file\":\"/var/lib/libvirt/x\"}",
        );
        assert_eq!(found.processors, 4);
        assert_eq!((found.memory, found.slots), (Some(2 << 30), 8));
        assert_eq!(
            (found.name.as_deref(), found.of_libvirt),
            (Some("db"), true)
        );
        let [first, second, third] = found.netdevs.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(
            (first.id(), first.pairs(), first.has_vhost()),
            ("n0", 2, true)
        );
        assert_eq!(first.vhost_descriptors(), ["5", "6"]);
        let device = first.device.as_ref().expect("a device");
        assert_eq!(device.switch("mq"), Some(true));
        assert_eq!(second.backend.kind(), "user");
        assert_eq!((third.id(), third.has_vhost()), ("nic", false));
    }

    #[test]
    fn vhost_is_on_as_for_qemu() {
        for (netdev, on) in [
            ("tap", false),
            ("tap,vhost=off", false),
            ("tap,vhost=on", true),
            ("tap,vhostfd=3", true),
            ("tap,vhostforce=on", true),
            ("tap,vhostforce=off", false),
            ("tap,vhost=off,vhostfd=3", false),
        ] {
            let found = line(&format!("qemu -netdev {netdev}"));
            assert_eq!(found.netdevs[0].has_vhost(), on, "{netdev}");
        }
    }

    #[test]
    fn numbers_of_processors_and_sizes_are_those_of_qemu() {
        for (smp, count) in [
            ("2", 2),
            ("cpus=3", 3),
            ("sockets=2,cores=2,threads=2", 8),
            ("odd", 1),
        ] {
            assert_eq!(line(&format!("qemu -smp {smp}")).processors, count, "{smp}");
        }
        assert_eq!(line("qemu").processors, 1);
        assert_eq!(size("512"), Some(512 << 20));
        assert_eq!(size("2G"), Some(2 << 30));
        assert_eq!(size("99999999999T"), None);
        assert_eq!(size("2X"), None);
        assert_eq!(size(""), None);
        assert_eq!(size("é"), None);
    }

    #[test]
    fn an_option_without_its_value_is_passed_over() {
        assert!(line("qemu -netdev").netdevs.is_empty());
        assert_eq!(parse(&[]).processors, 1);
    }
}
