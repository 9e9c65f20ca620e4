// SPDX-License-Identifier: GPL-2.0

//! The trace events of the module, as the kernel records them.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A recorded event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its name.
    pub name: String,
    fields: BTreeMap<String, String>,
}

impl Event {
    /// Reads a line of `trace`, if it is one of the module's events: those begin with the owner.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace().skip_while(|word| {
            // A thread's name may have anything, but its number and the time follow.
            !word.ends_with(':') || word.trim_end_matches(':').parse::<f64>().is_err()
        });
        let _time = words.next()?;
        let name = words.next()?.strip_suffix(':')?.to_owned();
        let pair = |word: &str| {
            let (key, value) = word.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        };
        let fields: BTreeMap<_, _> = words.map_while(pair).collect();
        fields
            .contains_key("owner")
            .then_some(Self { name, fields })
    }

    /// The value of a field, as it is shown.
    ///
    /// # Errors
    ///
    /// When the event has no such field.
    pub fn text(&self, field: &str) -> Result<&str> {
        let value = self.fields.get(field).map(String::as_str);
        value.with_context(|| format!("no {field} in {self:?}"))
    }

    /// The value of a field that is a number, with `0x` if it is hexadecimal.
    ///
    /// # Errors
    ///
    /// When the event has no such field, or another kind of value.
    pub fn number(&self, field: &str) -> Result<u64> {
        let text = self.text(field)?;
        let number = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        number.with_context(|| format!("{field} in {self:?}"))
    }
}

/// A recording of the module's events, in a buffer of its own, which ends when this is dropped.
#[derive(Debug)]
pub struct Recording {
    mount: PathBuf,
    instance: PathBuf,
}

impl Recording {
    /// Starts to record all events of `vhost_rnet`.
    ///
    /// # Errors
    ///
    /// When the kernel has no trace events, or the module none.
    pub fn start() -> Result<Self> {
        let mount = std::env::temp_dir().join(format!("tracefs-{}", std::process::id()));
        fs::create_dir(&mount)?;
        let status = Command::new("mount")
            .args(["-t", "tracefs", "none"])
            .arg(&mount)
            .status()?;
        if !status.success() {
            bail!("mounting tracefs: {status}");
        }
        let name = format!("rnet-{}", std::process::id());
        let recording = Self {
            instance: mount.join("instances").join(name),
            mount,
        };
        fs::create_dir(&recording.instance).context("an instance of tracefs")?;
        recording.enable(true)?;
        Ok(recording)
    }

    /// Has events recorded, or no more.
    ///
    /// # Errors
    ///
    /// When the module has none.
    pub fn enable(&self, on: bool) -> Result<()> {
        let path = self.instance.join("events/vhost_rnet/enable");
        fs::write(path, if on { "1" } else { "0" }).context("events of vhost_rnet")
    }

    /// The events of devices of this process so far.
    ///
    /// # Errors
    ///
    /// When some have been lost, or cannot be read.
    pub fn events(&self) -> Result<Vec<Event>> {
        let text = fs::read_to_string(self.instance.join("trace")).context("trace")?;
        if text.contains("LOST") {
            bail!("the buffer has overrun");
        }
        let own = std::process::id().to_string();
        let all = text.lines().filter(|line| !line.starts_with('#'));
        let mut events = Vec::new();
        for line in all {
            let event = Event::parse(line).with_context(|| format!("not understood: {line}"))?;
            if event.text("owner")? == own {
                events.push(event);
            }
        }
        Ok(events)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // What is left goes with the machine.
        let _ = self.enable(false);
        let _ = fs::remove_dir(&self.instance);
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
        let _ = fs::remove_dir(&self.mount);
    }
}

#[cfg(test)]
mod tests {
    use super::Event;

    #[test]
    fn a_line_has_a_name_and_fields() {
        let line = "  my vhost: 7-812   [001] d..1.    42.081123: miss: owner=812 device=3 queue=rx \
                    iova=0x1f000 access=write";
        let event = Event::parse(line).unwrap();
        assert_eq!(event.name, "miss");
        assert_eq!(event.number("device").unwrap(), 3);
        assert_eq!(event.number("iova").unwrap(), 0x1f000);
        assert_eq!(event.text("access").unwrap(), "write");
        assert!(event.number("access").is_err());
        assert!(event.text("perm").is_err());
    }

    #[test]
    fn others_are_none_of_ours() {
        let line = " sh-1 [000] ..... 1.5: sched_switch: prev_comm=sh";
        assert!(Event::parse(line).is_none());
        assert!(Event::parse("CPU:0 [LOST 5 EVENTS]").is_none());
    }
}
