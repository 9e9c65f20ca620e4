// SPDX-License-Identifier: GPL-2.0
//! Whether the Rust declarations of the C shim match its header.
//!
//! Neither compiler sees both `src/shim/helpers.h` and the Rust declarations of its functions, so that
//! only this compares them. A declaration that it cannot parse is a failure.

use std::fmt::{self, Display, Formatter};
use std::path::Path;

use anyhow::{Context, Result, ensure};

mod c;
mod rust;

/// The file with the declarations in C.
const HEADER: &str = "src/shim/helpers.h";

/// The file with the declarations in Rust.
const RUST: &str = "src/kapi/shim.rs";

/// The prefixes of the names of functions and constants.
const PREFIXES: [&str; 2] = ["rnet_", "RNET_"];

/// A type as both languages have it; the names are those of Rust's `kernel::ffi`, and C's for structs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Type {
    Nothing,
    Plain(String),
    Array(Box<Type>, u64),
    Pointer { mutable: bool, to: Box<Type> },
}

/// A function's declaration.
#[derive(Debug, PartialEq, Eq)]
struct Function {
    name: String,
    parameters: Vec<(String, Type)>,
    result: Type,
}

/// A struct whose fields both languages access.
#[derive(Debug, PartialEq, Eq)]
struct Structure {
    /// Its name in C, with `struct`.
    name: String,
    fields: Vec<(String, Type)>,
}

/// What one of the languages declares.
#[derive(Debug, Default, PartialEq, Eq)]
struct Declarations {
    functions: Vec<Function>,
    structures: Vec<Structure>,
    constants: Vec<(String, u64)>,
}

impl Type {
    fn plain(name: &str) -> Self {
        Self::Plain(name.to_owned())
    }

    fn array(of: Self, len: u64) -> Self {
        Self::Array(Box::new(of), len)
    }

    fn pointer(mutable: bool, to: Self) -> Self {
        let to = Box::new(to);
        Self::Pointer { mutable, to }
    }
}

impl Display for Type {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(f, "()"),
            Self::Plain(name) => write!(f, "{name}"),
            Self::Array(of, len) => write!(f, "[{of}; {len}]"),
            Self::Pointer { mutable: true, to } => write!(f, "*mut {to}"),
            Self::Pointer { mutable: false, to } => write!(f, "*const {to}"),
        }
    }
}

impl Display for Function {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let parameters = listed(&self.parameters);
        write!(f, "{}({parameters}) -> {}", self.name, self.result)
    }
}

impl Display for Structure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {{ {} }}", self.name, listed(&self.fields))
    }
}

/// Formats names with their types on one line.
fn listed(names: &[(String, Type)]) -> String {
    let named = names.iter().map(|(name, kind)| format!("{name}: {kind}"));
    named.collect::<Vec<_>>().join(", ")
}

/// Checks that both files of the checkout `root` declare the same.
///
/// # Errors
///
/// The differences, or what could not be read.
pub fn check(root: &Path) -> Result<()> {
    let read = |name: &str| {
        std::fs::read_to_string(root.join(name)).with_context(|| format!("reading {name}"))
    };
    compare(&read(HEADER)?, &read(RUST)?)
}

/// Checks that the header and the Rust file with these texts declare the same.
fn compare(header: &str, rust: &str) -> Result<()> {
    let c = c::parse(header).context(HEADER)?;
    let rust = rust::parse(rust).context(RUST)?;
    for declarations in [&c, &rust] {
        // The shim has some: a parser that found none is wrong.
        ensure!(!declarations.functions.is_empty(), "no functions at all");
    }
    let functions = differences(&c.functions, &rust.functions, |function| &function.name);
    let structures = differences(&c.structures, &rust.structures, |structure| &structure.name);
    let constants = differences(&c.constants, &rust.constants, |(name, _)| name);
    let show = |(name, value): &(String, u64)| format!("{name} = {value}");
    let wrong: Vec<_> = functions
        .into_iter()
        .map(|pair| told(pair, Function::to_string))
        .chain(
            structures
                .into_iter()
                .map(|pair| told(pair, Structure::to_string)),
        )
        .chain(constants.into_iter().map(|pair| told(pair, show)))
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// A place in two lists where they differ.
type Pair<'a, T> = (Option<&'a T>, Option<&'a T>);

/// Returns what differs, or is in one list only. Lists of the same items in another order differ.
fn differences<'a, T: PartialEq>(
    c: &'a [T],
    rust: &'a [T],
    name: impl Fn(&T) -> &str,
) -> Vec<Pair<'a, T>> {
    let find = |list: &'a [T], item: &T| list.iter().find(|other| name(other) == name(item));
    let mut wrong: Vec<_> = c
        .iter()
        .map(|item| (Some(item), find(rust, item)))
        .filter(|(ours, theirs)| ours != theirs)
        .collect();
    let unknown = rust.iter().filter(|item| find(c, item).is_none());
    wrong.extend(unknown.map(|item| (None, Some(item))));
    if wrong.is_empty() {
        // The same items, but for their order or number.
        let len = c.len().max(rust.len());
        let pairs = (0..len).map(|index| (c.get(index), rust.get(index)));
        wrong.extend(pairs.filter(|(ours, theirs)| ours != theirs));
    }
    wrong
}

/// A line about a difference.
fn told<T>((c, rust): Pair<'_, T>, show: impl Fn(&T) -> String) -> String {
    let [c, rust] = [c, rust].map(|item| item.map_or("nothing".to_owned(), &show));
    format!("{HEADER} has {c}, {RUST} has {rust}")
}

#[cfg(test)]
mod tests {
    use super::{check, compare};

    const C: &str = "\
/* A comment. */
#ifndef RNET_HELPERS_H
#define RNET_HELPERS_H
#include <linux/types.h>
struct socket;
struct rnet_frames {
	void *start;
	const u16 *index;
	size_t len;
};
#define RNET_FRAMES 64 /* at once */
#define RNET_FLAG 0x10
bool rnet_ok(u64 addr, unsigned int len);
void rnet_stop(void);
void *rnet_new(unsigned int order, const u32 (*used)[2],
\t       void **packets, const struct iovec *seg);
#endif
";

    const RUST: &str = "\
pub(super) const RNET_FRAMES: usize = 64;
pub(super) const RNET_FLAG: c_uint = 0x10;
const OTHER: usize = 1 + 1;
#[repr(C)]
struct CPtrRing {
    _opaque: [u8; 0],
}
/// Documented.
#[repr(C)]
#[derive(Clone, Copy)]
struct CFrames {
    start: *mut c_void,
    pub(super) index: *const u16,
    len: usize,
}
unsafe extern \"C\" {
    /// Documented.
    pub(super) fn rnet_ok(addr: u64, len: c_uint) -> bool;
    pub(super) fn rnet_stop();
    pub(super) fn rnet_new(
        order: c_uint,
        used: *const RawUsed,
        packets: *mut *mut c_void,
        seg: *const Segment,
    ) -> *mut c_void;
    pub(super) fn tun_get_socket(file: *mut bindings::file) -> *mut bindings::socket;
}
";

    /// The complaint about the two texts, with one replacement made in each.
    fn complaint(c: (&str, &str), rust: (&str, &str)) -> String {
        assert!(C.contains(c.0) && RUST.contains(rust.0));
        let result = compare(&C.replace(c.0, c.1), &RUST.replace(rust.0, rust.1));
        format!("{:#}", result.expect_err("the two texts differ"))
    }

    /// Asserts that a change on one side alone is complained about, with `word`.
    fn c_only(from: &str, to: &str, word: &str) {
        let told = complaint((from, to), ("", ""));
        assert!(told.contains(word), "{told}");
    }

    fn rust_only(from: &str, to: &str, word: &str) {
        let told = complaint(("", ""), (from, to));
        assert!(told.contains(word), "{told}");
    }

    #[test]
    fn this_checkout_agrees() {
        check(&crate::lab::build::checkout()).unwrap();
    }

    #[test]
    fn equal_declarations_agree() {
        compare(C, RUST).unwrap();
    }

    #[test]
    fn functions_of_one_side_are_found() {
        c_only("void rnet_stop(void);", "", "has nothing");
        rust_only("    pub(super) fn rnet_stop();\n", "", "has nothing");
        c_only("rnet_stop", "rnet_stops", "rnet_stops");
        let twice = "void rnet_stop(void);\nvoid rnet_stop(void);";
        c_only("void rnet_stop(void);", twice, "has nothing");
        assert!(compare("", "").is_err());
    }

    #[test]
    fn types_are_compared() {
        c_only("u64 addr", "u32 addr", "addr: u32");
        c_only("bool rnet_ok", "int rnet_ok", "-> c_int");
        c_only("unsigned int len", "int len", "len: c_int");
        c_only("void rnet_stop", "int rnet_stop", "-> c_int");
        c_only("const u32 (*used)[2]", "u32 (*used)[2]", "*mut [u32; 2]");
        c_only("const u32 (*used)[2]", "const u32 (*used)[3]", "[u32; 3]");
        c_only(
            "const u32 (*used)[2]",
            "const u64 (*used)[2]",
            "*const [u64; 2]",
        );
        c_only("const struct iovec *seg", "struct iovec *seg", "*mut");
        c_only("struct iovec", "struct bio_vec", "struct bio_vec");
        c_only("void **packets", "void *packets", "packets: *mut c_void");
        c_only("void **packets", "void *const *packets", "*const *mut");
        rust_only("*const Segment", "*mut Segment", "*mut struct iovec");
        rust_only("*const RawUsed", "*const RawDesc", "*const [u64; 2]");
        rust_only(") -> *mut c_void;", ");", "-> ()");
        rust_only("*const Segment", "*const bindings::file", "struct file");
    }

    #[test]
    fn parameters_and_their_order_are_compared() {
        c_only(
            "u64 addr, unsigned int len",
            "unsigned int len, u64 addr",
            "rnet_ok(len",
        );
        c_only(
            "u64 addr, unsigned int len",
            "u64 addr",
            "rnet_ok(addr: u64)",
        );
        rust_only("len: c_uint", "size: c_uint", "size: c_uint");
        c_only("rnet_stop(void)", "rnet_stop(int now)", "now: c_int");
        let first = "void rnet_stop(void);\nbool rnet_ok(u64 addr, unsigned int len);\n";
        let c = C.replace("void rnet_stop(void);\n", "");
        let c = c.replace("bool rnet_ok(u64 addr, unsigned int len);\n", first);
        assert!(compare(&c, RUST).is_err());
    }

    #[test]
    fn constants_are_compared() {
        c_only("RNET_FRAMES 64", "RNET_FRAMES 65", "RNET_FRAMES = 65");
        rust_only("= 0x10", "= 17", "RNET_FLAG = 17");
        rust_only("RNET_FLAG", "FLAG", "has nothing");
        c_only("#define RNET_FLAG 0x10", "", "has nothing");
    }

    #[test]
    fn structures_are_compared() {
        c_only("size_t len;", "u32 len;", "len: u32");
        c_only("size_t len;", "size_t n;", "n: usize");
        c_only("size_t len;", "", "index: *const u16 }");
        c_only("const u16 *index", "u16 *index", "*mut u16");
        c_only("struct rnet_frames {", "struct rnet_other {", "rnet_other");
        rust_only("    len: usize,\n", "", "has struct rnet_frames");
        rust_only("    len: usize,\n}", "}", "has struct rnet_frames");
        let unknown = "_opaque: [u8; 0]";
        rust_only("start: *mut c_void", unknown, "neither a name");
    }

    #[test]
    fn what_is_not_understood_is_a_failure() {
        for (from, to) in [
            ("u64 addr", "__be64 addr"),
            ("u64 addr", "u64 addr[2]"),
            ("u64 addr", "int (*addr)(void)"),
            ("u64 addr", "u64"),
            ("u64 addr", "u64 addr, ..."),
            ("rnet_stop(void)", "rnet_stop()"),
            ("rnet_stop(void)", "rnet_stop(void) __must_check"),
            ("void rnet_stop", "static inline void rnet_stop"),
            ("void rnet_stop", "volatile void rnet_stop"),
            ("rnet_stop", "stop"),
            ("void rnet_stop(void);", "void rnet_stop(void) { }"),
            ("void rnet_stop(void);", "extern int rnet_state;"),
            ("struct socket;", "struct socket { int a; };"),
            ("size_t len;", "size_t len : 3;"),
            ("size_t len;", "size_t len[2];"),
            ("size_t len;", "union { size_t len; };"),
            ("size_t len;\n}", "size_t len;\n} __packed"),
            ("struct socket;", "typedef int rnet_t;"),
            ("struct socket;", "#ifdef CONFIG_NET"),
            ("struct socket;", "#ifndef RNET_OTHER"),
            ("RNET_FRAMES 64", "RNET_FRAMES (1 << 6)"),
            ("RNET_FRAMES 64", "FRAMES 64"),
            ("RNET_FRAMES 64", "RNET_FRAMES(n) 64"),
            ("#endif\n", ""),
            ("/* A comment. */", "/* A comment."),
        ] {
            complaint((from, to), ("", ""));
        }
        for (from, to) in [
            ("addr: u64", "addr: Option<u64>"),
            ("addr: u64", "addr: &u64"),
            ("addr: u64", "addr: [u64; 2]"),
            ("addr: u64", "addr: CUnknown"),
            ("addr: u64", "addr: other::u64"),
            ("addr: u64", "addr: c_void"),
            ("addr: u64", "_: u64"),
            ("addr: u64", "addr: u64, ..."),
            ("    /// Documented.", "    #[cfg(CONFIG_NET)]"),
            ("    /// Documented.", "    #[link_name = \"rnet_other\"]"),
            ("    /// Documented.", "    static rnet_state: c_int;"),
            ("unsafe extern \"C\"", "unsafe extern \"system\""),
            (
                "unsafe extern \"C\"",
                "#[cfg(CONFIG_NET)] unsafe extern \"C\"",
            ),
            ("usize = 64", "usize = 60 + 4"),
            ("-> bool", "-> c_void"),
            ("#[repr(C)]\n#[derive", "#[derive"),
            ("#[repr(C)]\n#[derive", "#[repr(C, packed)]\n#[derive"),
            ("#[derive(Clone, Copy)]", "#[cfg(CONFIG_NET)]"),
            ("struct CFrames {", "struct Segment {"),
            ("struct CFrames {", "struct CUnknown {"),
            ("struct CFrames {", "union CFrames {"),
            ("const OTHER: usize = 1 + 1;", "mod inner {}"),
        ] {
            complaint(("", ""), (from, to));
        }
    }
}
