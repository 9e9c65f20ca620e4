// SPDX-License-Identifier: GPL-2.0
//! Reading from which modules a file imports.
//!
//! Paths count that begin with `crate`, `super` or `self`, in `use` declarations, other code, macros
//! and tests. Comments and string literals do not count.

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A path from a crate's root to what is named, with the line in which it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Import {
    /// The line, counted from 1.
    pub line: usize,
    /// Modules, and items of the last of them.
    pub path: Vec<String>,
}

/// Finds what `text`, the file of `module`, names.
///
/// # Errors
///
/// When the text is no Rust.
pub fn find(text: &str, module: &[String]) -> Result<Vec<Import>> {
    let tokens: TokenStream = text
        .parse()
        .map_err(|error| anyhow!("not Rust code: {error}"))?;
    let mut reader = Reader {
        here: module.to_vec(),
        found: Vec::new(),
    };
    reader.read(tokens);
    Ok(reader.found)
}

/// What has been found so far, and where we are.
struct Reader {
    /// The module around what is read, which may be within a file.
    here: Vec<String>,
    found: Vec<Import>,
}

impl Reader {
    /// Reads code.
    fn read(&mut self, code: TokenStream) {
        let tokens: Vec<_> = code.into_iter().collect();
        let mut rest = tokens.as_slice();
        while let Some((first, after)) = rest.split_first() {
            rest = match (first, after) {
                (TokenTree::Ident(word), [TokenTree::Ident(name), TokenTree::Group(body), ..])
                    if word == "mod" =>
                {
                    self.here.push(plain(name));
                    self.read(body.stream());
                    self.here.pop();
                    &after[2..]
                }
                (TokenTree::Ident(word), after) => match (self.base(word), separated(after)) {
                    (Some(base), Some(after)) => self.follow(word.span().start().line, base, after),
                    _ => after,
                },
                (TokenTree::Group(group), after) => {
                    self.read(group.stream());
                    after
                }
                (_, after) => after,
            };
        }
    }

    /// The module from which a path goes on that begins with `word`.
    fn base(&self, word: &proc_macro2::Ident) -> Option<Vec<String>> {
        let above = || self.here.split_last().map_or(&[][..], |(_, above)| above);
        match word.to_string().as_str() {
            "crate" => Some(Vec::new()),
            "self" => Some(self.here.clone()),
            "super" => Some(above().to_vec()),
            _ => None,
        }
    }

    /// Follows the path that goes on from `path` with `tokens`; answers what is behind it.
    fn follow<'a>(
        &mut self,
        line: usize,
        mut path: Vec<String>,
        mut tokens: &'a [TokenTree],
    ) -> &'a [TokenTree] {
        while let Some((TokenTree::Ident(name), after)) = tokens.split_first() {
            match plain(name).as_str() {
                "self" => {}
                "super" => drop(path.pop()),
                name => path.push(name.to_owned()),
            }
            match separated(after) {
                Some(after) => tokens = after,
                None => {
                    self.found.push(Import { line, path });
                    return after;
                }
            }
        }
        match tokens.split_first() {
            Some((TokenTree::Group(group), after)) if group.delimiter() == Delimiter::Brace => {
                let entries: Vec<_> = group.stream().into_iter().collect();
                for entry in entries.split(|token| is_punct(token, ',')) {
                    // None behind the last comma.
                    if let Some(first) = entry.first() {
                        self.follow(first.span().start().line, path.clone(), entry);
                    }
                }
                after
            }
            // Everything, as in `super::*`, or types behind a name, as in `crate::f::<u8>()`.
            _ => {
                self.found.push(Import { line, path });
                tokens
            }
        }
    }
}

/// What is behind `::`, if `tokens` begin with that.
fn separated(tokens: &[TokenTree]) -> Option<&[TokenTree]> {
    match tokens {
        [first, second, after @ ..] if is_punct(first, ':') && is_punct(second, ':') => Some(after),
        _ => None,
    }
}

fn is_punct(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == wanted)
}

/// A name as a file is called.
fn plain(name: &proc_macro2::Ident) -> String {
    name.to_string().trim_start_matches("r#").to_owned()
}

#[cfg(test)]
mod tests {
    use super::find;

    /// What a file of the module `a::b` names, as `line path`.
    fn found(text: &str) -> Vec<String> {
        let module = ["a", "b"].map(str::to_owned);
        let imports = find(text, &module).unwrap();
        let shown = imports.iter();
        shown
            .map(|import| format!("{} {}", import.line, import.path.join("::")))
            .collect()
    }

    #[test]
    fn uses_are_taken_apart() {
        let text = "use std::fs;\n\
                    use crate::c::{self, d::{E, F as G},\n    h::*};\n\
                    pub(crate) use super::i;\n\
                    pub(super) use self::j::K;\n\
                    use super::super::{l, super::m};\n\
                    use crate as n;\n";
        assert_eq!(
            found(text),
            [
                "2 c",
                "2 c::d::E",
                "2 c::d::F",
                "3 c::h",
                "4 a::i",
                "5 a::b::j::K",
                "6 l",
                "6 m"
            ]
        );
    }

    #[test]
    fn paths_in_code_are_found() {
        let text = "fn f(x: &crate::c::T) -> super::U {\n\
                    \x20   g!(\"{}\", crate::d::h::<u8>(x), [super::i::J]);\n\
                    }\n\
                    macro_rules! k { () => { $crate::l::m() } }\n\
                    impl T { fn n(self) { self.o(); crate::p() } }\n";
        assert_eq!(
            found(text),
            ["1 c::T", "1 a::U", "2 d::h", "2 a::i::J", "4 l::m", "5 p"]
        );
    }

    #[test]
    fn words_do_not_count() {
        let text = "//! See [`crate::c`].\n\
                    // Not super::d.\n\
                    /// Of [`self::e`].\n\
                    const F: &str = \"crate::g\";\n";
        assert!(found(text).is_empty());
        assert!(find("fn f( {", &[]).is_err());
    }

    #[test]
    fn modules_within_a_file_have_a_parent_there() {
        let text = "mod tests {\n    use super::{f, super::c};\n    mod g { use super::h; }\n}\n\
                    use super::d;\nmod r#type { use self::i; }\nmod e;\n";
        assert_eq!(
            found(text),
            [
                "2 a::b::f",
                "2 a::c",
                "3 a::b::tests::h",
                "5 a::d",
                "6 a::b::type::i"
            ]
        );
    }
}
