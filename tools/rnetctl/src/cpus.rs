// SPDX-License-Identifier: GPL-2.0
//! Lists of processors, such as `0-3,5`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use rustix::thread::CpuSet;

/// A list of processors that is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(BTreeSet<usize>);

impl CpuList {
    /// The list as the kernel takes it.
    #[must_use]
    pub fn set(&self) -> CpuSet {
        let mut set = CpuSet::new();
        for &cpu in &self.0 {
            set.set(cpu);
        }
        set
    }

    /// The list in a set of the kernel's; `None` for an empty one.
    #[must_use]
    pub fn of(set: &CpuSet) -> Option<Self> {
        let cpus: BTreeSet<_> = (0..CpuSet::MAX_CPU)
            .filter(|&cpu| set.is_set(cpu))
            .collect();
        (!cpus.is_empty()).then_some(Self(cpus))
    }
}

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut cpus = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |word: &str| match word.trim().parse::<usize>() {
                Ok(cpu) if cpu < CpuSet::MAX_CPU => Ok(cpu),
                Ok(_) => Err(format!("{word} is more than {}", CpuSet::MAX_CPU - 1)),
                Err(_) => Err(format!("{word:?} is no processor; a list is like 0-3,5")),
            };
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("{part} ends before it begins"));
            }
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|&next| next == last + 1) {
                last = next;
            }
            match last - first {
                0 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::CpuList;

    #[test]
    fn lists_are_read_and_written() {
        for (text, shown) in [
            ("0-3,5", "0-3,5"),
            ("5,3,4", "3-5"),
            ("7", "7"),
            ("1,1-1", "1"),
        ] {
            assert_eq!(text.parse::<CpuList>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            ",",
            "3-1",
            "x",
            "1-",
            "-1",
            "1024",
            "0-99999999999",
            "1-2-3",
        ] {
            assert!(text.parse::<CpuList>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_list_or_not(text: String) {
            let _ = text.parse::<CpuList>();
        }

        #[test]
        fn a_list_survives_the_kernels_form(cpus in prop::collection::btree_set(0_usize..1024, 1..20)) {
            let list = CpuList(cpus);
            prop_assert_eq!(list.to_string().parse::<CpuList>(), Ok(list.clone()));
            prop_assert_eq!(CpuList::of(&list.set()), Some(list));
        }
    }
}
