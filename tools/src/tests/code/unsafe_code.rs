// SPDX-License-Identifier: GPL-2.0
//! Where the module has `unsafe` code, and why that is sound.
//!
//! The compiler and clippy check the same rules in the code that they compile.
//! This reads the source, and so includes macros and code that is not compiled.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use proc_macro2::{Span, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::source::{self, Source};

/// The only place for `unsafe` code.
const ALLOWED: &str = "src/kapi";

/// The only file that declares C functions, where they are compared with C's declarations.
const FOREIGN: &str = "src/kapi/shim.rs";

/// Crate roots, and the level of the lint `unsafe_code` that each has to set.
const ROOTS: [(&str, &str); 2] = [("src/vring/vring.rs", "forbid"), ("src/main.rs", "deny")];

/// The kinds of `unsafe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Block,
    Function,
    Impl,
    Trait,
    Extern,
    Attribute,
    Macro,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Function => "fn",
            Self::Impl => "impl",
            Self::Trait => "trait",
            Self::Extern => "extern",
            Self::Attribute => "attribute",
            Self::Macro => "macro",
        }
    }
}

/// One `unsafe` in a file.
#[derive(Debug, PartialEq, Eq)]
struct Site {
    line: usize,
    kind: Kind,
    /// First line of the reason given.
    why: Option<String>,
}

/// All `unsafe` code of the module.
struct Survey {
    /// The sites in each file.
    sites: BTreeMap<String, Vec<Site>>,
    /// Sites outside the allowed places, or without a reason.
    wrong: Vec<String>,
}

/// Lists the `unsafe` code of the checkout `root`, and how much there is.
///
/// # Errors
///
/// Those of [`check`].
pub fn report(root: &Path) -> Result<()> {
    let survey = survey(root)?;
    for (name, sites) in &survey.sites {
        for Site { line, kind, why } in sites {
            let why = why.as_deref().unwrap_or("?");
            println!("{name}:{line}: {}: {why}", kind.name());
        }
    }
    println!();
    let mut all = BTreeMap::new();
    for (name, sites) in &survey.sites {
        let mut here = BTreeMap::new();
        for site in sites {
            *here.entry(site.kind).or_insert(0) += 1;
            *all.entry(site.kind).or_insert(0) += 1;
        }
        print_sum(name, &here);
    }
    print_sum("all", &all);
    survey.verdict()
}

/// Checks that all `unsafe` code of the checkout `root` is where it belongs and
/// has a reason.
///
/// # Errors
///
/// What is wrong, or could not be read.
pub fn check(root: &Path) -> Result<()> {
    survey(root)?.verdict()
}

impl Survey {
    fn verdict(&self) -> Result<()> {
        // The module has some: a survey that found none has read the wrong folder.
        ensure!(!self.sites.is_empty(), "no unsafe code at all");
        ensure!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
        Ok(())
    }
}

fn survey(root: &Path) -> Result<Survey> {
    let mut sites = BTreeMap::new();
    let mut wrong = Vec::new();
    for Source { name, text } in source::read(root, "src")? {
        let found = scan(&text).with_context(|| format!("parsing {name}"))?;
        for Site { line, kind, why } in &found {
            if !Path::new(&name).starts_with(ALLOWED) {
                wrong.push(format!("{name}:{line}: unsafe code outside {ALLOWED}"));
            }
            if *kind == Kind::Extern && name != FOREIGN {
                wrong.push(format!("{name}:{line}: C functions outside {FOREIGN}"));
            }
            if why.is_none() {
                wrong.push(format!("{name}:{line}: no word on why this is sound"));
            }
        }
        if !found.is_empty() {
            sites.insert(name, found);
        }
    }
    for (name, level) in ROOTS {
        let text = std::fs::read_to_string(root.join(name))?;
        if !sets_level(&text, level)? {
            wrong.push(format!("{name}: no #![{level}(unsafe_code)]"));
        }
    }
    Ok(Survey { sites, wrong })
}

/// Prints how much of each kind `name` has.
fn print_sum(name: &str, kinds: &BTreeMap<Kind, usize>) {
    let sum: usize = kinds.values().sum();
    let kinds = kinds.iter().map(|(kind, n)| format!("{} {n}", kind.name()));
    println!(
        "{name:<26}{sum:>4}  ({})",
        kinds.collect::<Vec<_>>().join(", ")
    );
}

/// Whether the crate root `text` sets the lint `unsafe_code` to `level`.
fn sets_level(text: &str, level: &str) -> Result<bool> {
    let file = syn::parse_file(text)?;
    let mut set = false;
    for attribute in file.attrs {
        if attribute.path().is_ident(level) {
            attribute.parse_nested_meta(|lint| {
                set |= lint.path.is_ident("unsafe_code");
                Ok(())
            })?;
        }
    }
    Ok(set)
}

/// Finds the `unsafe` code in `text`, in the order of lines.
fn scan(text: &str) -> Result<Vec<Site>> {
    let file = syn::parse_file(text)?;
    let mut scan = Scan {
        lines: text.lines().collect(),
        begin: 1,
        sites: Vec::new(),
    };
    scan.visit_file(&file);
    scan.sites.sort_by_key(|site| site.line);
    Ok(scan.sites)
}

/// A walk through a file.
struct Scan<'a> {
    lines: Vec<&'a str>,
    /// Where the innermost statement, item or match arm begins.
    begin: usize,
    sites: Vec<Site>,
}

impl Scan<'_> {
    fn push(&mut self, kind: Kind, at: Span, why: Option<String>) {
        let line = at.start().line;
        self.sites.push(Site { line, kind, why });
    }

    /// Adds a site whose reason is in a comment right above it, or above the
    /// statement that it is in.
    fn push_commented(&mut self, kind: Kind, at: Span) {
        let here = self.comment_above(at.start().line);
        let why = here.or_else(|| self.comment_above(self.begin));
        self.push(kind, at, why);
    }

    /// Adds a site whose requirements are in its documentation.
    fn push_documented(&mut self, kind: Kind, at: Span, attributes: &[syn::Attribute]) {
        let mut docs = attributes.iter().filter_map(doc_line);
        let heading = docs.any(|line| line.trim() == "# Safety");
        let why = docs.find(|line| !line.trim().is_empty());
        let why = why.filter(|_| heading).map(|line| line.trim().to_owned());
        self.push(kind, at, why);
    }

    /// The first line of the reason in the comment that ends above `line`;
    /// attributes may lie between.
    fn comment_above(&self, line: usize) -> Option<String> {
        let above = self.lines.get(..line.checked_sub(1)?)?.iter().rev();
        above
            .map(|line| line.trim())
            .take_while(|line| line.starts_with("//") || line.starts_with("#["))
            .find_map(|line| line.strip_prefix("// SAFETY:"))
            .map(|why| why.trim().to_owned())
    }

    /// Does `walk` in the statement, item or match arm at `at`.
    fn within(&mut self, at: Span, walk: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.begin, at.start().line);
        walk(self);
        self.begin = outer;
    }

    /// Looks for the word `unsafe` in the tokens of a macro call.
    fn look_into(&mut self, tokens: &TokenStream) {
        for token in tokens.clone() {
            match token {
                TokenTree::Group(group) => self.look_into(&group.stream()),
                TokenTree::Ident(word) if word == "unsafe" => {
                    self.push_commented(Kind::Macro, word.span());
                }
                _ => {}
            }
        }
    }
}

/// The text of a line of documentation.
fn doc_line(attribute: &syn::Attribute) -> Option<String> {
    let syn::Meta::NameValue(pair) = &attribute.meta else {
        return None;
    };
    match &pair.value {
        syn::Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(text),
            ..
        }) if pair.path.is_ident("doc") => Some(text.value()),
        _ => None,
    }
}

impl<'ast> Visit<'ast> for Scan<'_> {
    fn visit_stmt(&mut self, stmt: &'ast syn::Stmt) {
        self.within(stmt.span(), |scan| visit::visit_stmt(scan, stmt));
    }

    fn visit_item(&mut self, item: &'ast syn::Item) {
        self.within(item.span(), |scan| visit::visit_item(scan, item));
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        self.within(item.span(), |scan| visit::visit_impl_item(scan, item));
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        self.within(arm.span(), |scan| visit::visit_arm(scan, arm));
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.push_commented(Kind::Block, block.unsafe_token.span);
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        if let syn::Safety::Unsafe(word) = function.sig.safety {
            self.push_documented(Kind::Function, word.span, &function.attrs);
        }
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if let syn::Safety::Unsafe(word) = function.sig.safety {
            self.push_documented(Kind::Function, word.span, &function.attrs);
        }
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let syn::Safety::Unsafe(word) = function.sig.safety {
            self.push_documented(Kind::Function, word.span, &function.attrs);
        }
        visit::visit_trait_item_fn(self, function);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        if let Some(word) = item.unsafety {
            self.push_documented(Kind::Trait, word.span, &item.attrs);
        }
        visit::visit_item_trait(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if let Some(word) = item.unsafety {
            self.push_commented(Kind::Impl, word.span);
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_item_foreign_mod(&mut self, block: &'ast syn::ItemForeignMod) {
        // Without the word, as older editions have it, it is as unsafe.
        self.push_commented(Kind::Extern, block.abi.extern_token.span);
        visit::visit_item_foreign_mod(self, block);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("unsafe") {
            self.push_commented(Kind::Attribute, attribute.path().span());
        } else if let syn::Meta::List(list) = &attribute.meta {
            self.look_into(&list.tokens);
        }
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.look_into(&call.tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Site, scan, sets_level};

    fn site(line: usize, kind: Kind, why: Option<&str>) -> Site {
        let why = why.map(str::to_owned);
        Site { line, kind, why }
    }

    #[test]
    fn reasons_are_found() {
        let text = "\
fn f() {
    // Why it is done.
    //
    // SAFETY: above the statement,
    // on two lines.
    let a = g(unsafe { h() });
    g(1)
        // SAFETY: above the block.
        .or_else(|| unsafe { h() });
    match a {
        // SAFETY: above the arm.
        1 => unsafe { h() },
        _ => unsafe { h() },
    }
}
/// Does it.
///
/// # Safety
///
/// Only on Sundays.
unsafe fn k() {}
/// No requirements told.
unsafe fn l() {}
// SAFETY: plain data.
unsafe impl Send for A {}

unsafe impl Sync for A {}
// SAFETY: as in the header.
#[allow(improper_ctypes)]
unsafe extern \"C\" {
    fn c(callback: unsafe extern \"C\" fn());
}
";
        assert_eq!(
            scan(text).unwrap(),
            [
                site(6, Kind::Block, Some("above the statement,")),
                site(9, Kind::Block, Some("above the block.")),
                site(12, Kind::Block, Some("above the arm.")),
                site(13, Kind::Block, None),
                site(21, Kind::Function, Some("Only on Sundays.")),
                site(23, Kind::Function, None),
                site(25, Kind::Impl, Some("plain data.")),
                site(27, Kind::Impl, None),
                site(30, Kind::Extern, Some("as in the header.")),
            ]
        );
    }

    #[test]
    fn a_reason_counts_for_one_statement() {
        let text = "\
fn f() {
    // SAFETY: this one.
    unsafe { g() };
    unsafe { g() };
    // SAFETY: not next to it.

    unsafe { g() };
}
";
        let why: Vec<_> = scan(text).unwrap().into_iter().map(|s| s.why).collect();
        assert_eq!(why, [Some("this one.".to_owned()), None, None]);
    }

    #[test]
    fn macros_and_attributes_are_seen_into() {
        let text = "\
macro_rules! m {
    () => { unsafe { g() } };
}
fn f() {
    m!({ [unsafe { g() }] });
    // SAFETY: told.
    n!(unsafe { g() });
}
#[unsafe(no_mangle)]
fn k() {}
#[cfg_attr(all(), unsafe(no_mangle))]
fn l() {}
";
        assert_eq!(
            scan(text).unwrap(),
            [
                site(2, Kind::Macro, None),
                site(5, Kind::Macro, None),
                site(7, Kind::Macro, Some("told.")),
                site(9, Kind::Attribute, None),
                site(11, Kind::Macro, None),
            ]
        );
    }

    #[test]
    fn words_in_text_do_not_count() {
        let text =
            "//! No `unsafe` here.\n#![forbid(unsafe_code)]\nconst A: &str = \"unsafe {}\";\n";
        assert_eq!(scan(text).unwrap(), []);
    }

    #[test]
    fn levels_are_read() {
        let forbids = "#![no_std]\n#![forbid(missing_docs, unsafe_code)]\n";
        assert!(sets_level(forbids, "forbid").unwrap());
        assert!(!sets_level(forbids, "deny").unwrap());
        assert!(!sets_level("// #![forbid(unsafe_code)]\n", "forbid").unwrap());
    }
}
