// SPDX-License-Identifier: GPL-2.0
//! The format that files of `/proc` and of debugfs share: lines with a key, a colon and a value.

use std::collections::BTreeMap;
use std::str::FromStr;

/// The values of such a file by key.
///
/// Lines without a colon are passed over: they belong to a format that this program does not know.
/// Of a key that comes twice, the last value counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(BTreeMap<String, String>);

impl Fields {
    /// Reads the lines of `bytes`. Bytes that are no UTF-8 are replaced.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        Self(
            lines
                .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
                .collect(),
        )
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The value of `key` as a decimal number or another type with a textual form; `None` when it
    /// is missing or is none.
    #[must_use]
    pub fn parsed<T: FromStr>(&self, key: &str) -> Option<T> {
        self.get(key)?.parse().ok()
    }

    /// The value of `key` as yes or no; `None` when it is missing or neither.
    #[must_use]
    pub fn yes(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            "yes" => Some(true),
            "no" => Some(false),
            _ => None,
        }
    }

    /// All keys and values, in the order of keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

#[cfg(test)]
mod tests {
    use super::Fields;

    #[test]
    fn keys_and_values_are_split_at_the_first_colon() {
        let fields = Fields::parse(b"a:\t1\nno colon\nb:  x:y \nyes:\tyes\n");
        assert_eq!(fields.parsed::<u64>("a"), Some(1));
        assert_eq!(fields.get("b"), Some("x:y"));
        assert_eq!(fields.yes("yes"), Some(true));
        assert_eq!(fields.yes("b"), None);
        assert_eq!(fields.iter().count(), 3);
    }
}
