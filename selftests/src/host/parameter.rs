// SPDX-License-Identifier: GPL-2.0

//! Parameters of the module behind the device.

use anyhow::{Context, Result};
use std::path::PathBuf;
use std::{fs, io};

/// A parameter of `vhost_rnet`, which gets its old value back when this is dropped.
#[derive(Debug)]
pub struct Parameter {
    path: PathBuf,
    before: String,
}

impl Parameter {
    /// The parameter called `name`.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn new(name: &str) -> Result<Self> {
        let path = PathBuf::from("/sys/module/vhost_rnet/parameters").join(name);
        let before = fs::read_to_string(&path).with_context(|| format!("parameter {name}"))?;
        Ok(Self { path, before })
    }

    /// Its value, as text.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn get(&self) -> io::Result<String> {
        Ok(fs::read_to_string(&self.path)?.trim_end().to_owned())
    }

    /// Sets it.
    ///
    /// # Errors
    ///
    /// When the module refuses the value.
    pub fn set(&self, value: &str) -> io::Result<()> {
        fs::write(&self.path, value)
    }
}

impl Drop for Parameter {
    fn drop(&mut self) {
        // The value was one that the module takes.
        let _ = fs::write(&self.path, &self.before);
    }
}
