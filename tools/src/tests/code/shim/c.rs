// SPDX-License-Identifier: GPL-2.0
//! Reading a C header of prototypes, plain structs and numbers.

use std::collections::VecDeque;

use anyhow::{Context, Result, bail, ensure};

use super::{Declarations, Function, PREFIXES, Structure, Type};

/// C types that are passed by value, and what Rust calls them.
const PLAIN: [(&str, &str); 14] = [
    ("bool", "bool"),
    ("char", "c_char"),
    ("int", "c_int"),
    ("unsigned int", "c_uint"),
    ("long", "c_long"),
    ("unsigned long", "c_ulong"),
    ("size_t", "usize"),
    ("u8", "u8"),
    ("u16", "u16"),
    ("u32", "u32"),
    ("u64", "u64"),
    ("s32", "i32"),
    ("s64", "i64"),
    // A typedef of the struct by which Rust knows it.
    ("poll_table", "struct poll_table_struct"),
];

/// Parses the header `text`.
///
/// # Errors
///
/// What is neither an include, a number of ours, a struct's name, nor a struct or function of ours.
pub(super) fn parse(text: &str) -> Result<Declarations> {
    let mut found = Declarations::default();
    let mut guard = Guard::Missing;
    let mut code = String::new();
    for line in without_comments(text)?.lines() {
        match line.trim_start().strip_prefix('#') {
            Some(directive) => found.constants.extend(preprocess(directive, &mut guard)?),
            None => {
                code.push_str(line);
                code.push('\n');
            }
        }
    }
    ensure!(guard == Guard::Closed, "no include guard around all");
    let mut tokens = Tokens(tokens(&code)?);
    while !tokens.0.is_empty() {
        tokens.declaration(&mut found)?;
    }
    Ok(found)
}

/// How far the include guard has been read.
#[derive(PartialEq, Eq)]
enum Guard {
    Missing,
    Asked(String),
    Open,
    Closed,
}

/// Reads a preprocessor directive, and returns the constant that it defines.
fn preprocess(directive: &str, guard: &mut Guard) -> Result<Option<(String, u64)>> {
    let words: Vec<_> = directive.split_whitespace().collect();
    *guard = match (words.as_slice(), &*guard) {
        (["ifndef", name], Guard::Missing) => Guard::Asked((*name).to_owned()),
        (["define", name], Guard::Asked(asked)) if asked == name => Guard::Open,
        (["endif"], Guard::Open) => Guard::Closed,
        (["include", _], Guard::Open) => Guard::Open,
        (["define", name, value], Guard::Open) => {
            ensure!(is_ours(name), "#{directive}: not a name of ours");
            let value = number(value).with_context(|| format!("#{directive}"))?;
            return Ok(Some(((*name).to_owned(), value)));
        }
        _ => bail!("#{directive}: not understood"),
    };
    Ok(None)
}

/// Replaces each comment by a space.
fn without_comments(text: &str) -> Result<String> {
    let mut parts = text.split("/*");
    let mut code = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (_, after) = part.split_once("*/").context("a comment without end")?;
        code.push(' ');
        code.push_str(after);
    }
    ensure!(!code.contains("//"), "a comment to the end of a line");
    Ok(code)
}

/// Splits `code` into names, numbers and signs.
fn tokens(code: &str) -> Result<VecDeque<String>> {
    let mut tokens = VecDeque::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let len = match rest.find(|c: char| !is_of_word(c)) {
            Some(0) => {
                ensure!("*()[]{},;".contains(first), "{first:?}: not understood");
                1
            }
            Some(len) => len,
            None => rest.len(),
        };
        let (token, after) = rest.split_at(len);
        tokens.push_back(token.to_owned());
        rest = after.trim_start();
    }
    Ok(tokens)
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_ours(name: &str) -> bool {
    let ours = |prefix| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty())
    };
    PREFIXES.into_iter().any(ours) && name.chars().all(is_of_word)
}

/// The value of a decimal or hexadecimal number.
fn number(text: &str) -> Result<u64> {
    let value = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        // C reads a leading zero as octal.
        None if text.len() > 1 && text.starts_with('0') => bail!("{text}: octal"),
        None => text.parse(),
    };
    value.with_context(|| format!("{text}: not a number"))
}

/// The tokens that are left to be read.
struct Tokens(VecDeque<String>);

impl Tokens {
    /// Takes the next token if it is `wanted`.
    fn skip(&mut self, wanted: &str) -> bool {
        let found = self.0.front().is_some_and(|token| token == wanted);
        if found {
            self.0.pop_front();
        }
        found
    }

    /// Takes the next token, which has to be `wanted`.
    fn expect(&mut self, wanted: &str) -> Result<()> {
        ensure!(
            self.skip(wanted),
            "{:?} where {wanted:?} is expected",
            self.0.front()
        );
        Ok(())
    }

    /// Takes the next token, which has to be a name or a number.
    fn word(&mut self) -> Result<String> {
        let token = self.0.pop_front().context("the text ends early")?;
        ensure!(token.starts_with(is_of_word), "{token:?}: not a name");
        Ok(token)
    }

    /// Takes a declaration and adds it to `found`, unless it is that of a struct's name.
    fn declaration(&mut self, found: &mut Declarations) -> Result<()> {
        let [word, _, after] = [0, 1, 2].map(|index| self.0.get(index).map(String::as_str));
        match (word, after) {
            (Some("struct"), Some(";")) => {
                self.0.drain(..3);
            }
            (Some("struct"), Some("{")) => found.structures.push(self.structure()?),
            _ => found.functions.push(self.function()?),
        }
        Ok(())
    }

    /// Takes the definition of a struct.
    fn structure(&mut self) -> Result<Structure> {
        self.expect("struct")?;
        let name = self.word()?;
        ensure!(is_ours(&name), "struct {name}: not a name of ours");
        self.expect("{")?;
        let mut fields = Vec::new();
        while !self.skip("}") {
            fields.push(self.parameter().with_context(|| name.clone())?);
            self.expect(";").with_context(|| name.clone())?;
        }
        self.expect(";")?;
        let name = format!("struct {name}");
        Ok(Structure { name, fields })
    }

    /// Takes the declaration of a function.
    fn function(&mut self) -> Result<Function> {
        let result = self.kind()?;
        let name = self.word()?;
        let parameters = self.parameters().with_context(|| name.clone())?;
        ensure!(is_ours(&name), "{name}: not a name of ours");
        Ok(Function {
            name,
            parameters,
            result,
        })
    }

    /// Takes a function's parameters, and the end of its declaration.
    fn parameters(&mut self) -> Result<Vec<(String, Type)>> {
        let mut parameters = Vec::new();
        self.expect("(")?;
        let nothing = [0, 1].map(|index| self.0.get(index).map(String::as_str));
        if nothing == [Some("void"), Some(")")] {
            self.0.pop_front();
        } else {
            parameters.push(self.parameter()?);
            while self.skip(",") {
                parameters.push(self.parameter()?);
            }
        }
        self.expect(")")?;
        self.expect(";")?;
        Ok(parameters)
    }

    /// Takes a parameter or a field; one may be a pointer to an array.
    fn parameter(&mut self) -> Result<(String, Type)> {
        let constant = self.skip("const");
        let kind = self.kind_after(constant)?;
        if !self.skip("(") {
            ensure!(kind != Type::Nothing, "void by value");
            return Ok((self.word()?, kind));
        }
        self.expect("*")?;
        let name = self.word()?;
        self.expect(")")?;
        self.expect("[")?;
        let array = Type::array(kind, number(&self.word()?)?);
        self.expect("]")?;
        Ok((name, Type::pointer(!constant, array)))
    }

    /// Takes a type.
    fn kind(&mut self) -> Result<Type> {
        let constant = self.skip("const");
        self.kind_after(constant)
    }

    /// Takes a type, whose innermost part is `constant` as has been read.
    fn kind_after(&mut self, mut constant: bool) -> Result<Type> {
        let mut word = self.word()?;
        if word == "struct" || word == "unsigned" {
            word = format!("{word} {}", self.word()?);
        }
        let mut kind = match PLAIN.iter().find(|(c, _)| *c == word) {
            Some((_, rust)) => Type::plain(rust),
            None if word == "void" && self.0.front().is_some_and(|next| next == "*") => {
                Type::plain("c_void")
            }
            None if word == "void" => Type::Nothing,
            None if word.starts_with("struct ") => Type::plain(&word),
            None => bail!("{word}: not understood"),
        };
        while self.skip("*") {
            kind = Type::pointer(!constant, kind);
            constant = self.skip("const");
        }
        Ok(kind)
    }
}
