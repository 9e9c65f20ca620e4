// SPDX-License-Identifier: GPL-2.0
//! Reading the Rust declarations of C functions.

use anyhow::{Context, Result, bail, ensure};
use syn::spanned::Spanned;

use super::{Declarations, Function, PREFIXES, Structure, Type};

/// Types of `kernel::ffi` and of Rust that C has too.
const PLAIN: [&str; 13] = [
    "bool", "c_char", "c_int", "c_uint", "c_long", "c_ulong", "usize", "u8", "u16", "u32", "u64",
    "i32", "i64",
];

/// Rust's names for C structs, beside those of `kernel::bindings`. The file itself asserts that a
/// `Segment` is laid out like this one.
const STRUCTS: [(&str, &str); 4] = [
    ("CBuffer", "struct rnet_buffer"),
    ("CFrames", "struct rnet_frames"),
    ("CPtrRing", "struct ptr_ring"),
    ("Segment", "struct iovec"),
];

/// Rust's names for arrays, as the file itself asserts.
const ARRAYS: [(&str, &str, u64); 2] = [("RawDesc", "u64", 2), ("RawUsed", "u32", 2)];

/// Parses `text`; only items whose names have one of our prefixes count.
///
/// # Errors
///
/// An item with one of our names that cannot be parsed.
pub(super) fn parse(text: &str) -> Result<Declarations> {
    let mut found = Declarations::default();
    for item in syn::parse_file(text)?.items {
        let line = item.span().start().line;
        read(&item, &mut found).with_context(|| format!("line {line}"))?;
    }
    Ok(found)
}

/// Adds what `item` declares.
fn read(item: &syn::Item, found: &mut Declarations) -> Result<()> {
    match item {
        syn::Item::Const(constant) if is_ours(&constant.ident) => {
            plain_attributes(&constant.attrs)?;
            found
                .constants
                .push((constant.ident.to_string(), number(&constant.expr)?));
        }
        syn::Item::ForeignMod(block) => {
            let abi = block.abi.name.as_ref().map(syn::LitStr::value);
            ensure!(abi.as_deref() == Some("C"), "functions of another ABI");
            plain_attributes(&block.attrs)?;
            for item in &block.items {
                found.functions.extend(foreign(item)?);
            }
        }
        syn::Item::Struct(item) => found.structures.extend(structure(item)?),
        // These declare nothing that C has.
        syn::Item::Use(_) | syn::Item::Const(_) => {}
        _ => bail!("neither a constant, a struct nor a block of C functions"),
    }
    Ok(())
}

/// Reads a struct; `None` if it is opaque to Rust.
fn structure(item: &syn::ItemStruct) -> Result<Option<Structure>> {
    let fields: Vec<_> = item.fields.iter().collect();
    match fields.as_slice() {
        [field] if field.ident.as_ref().is_some_and(|name| name == "_opaque") => return Ok(None),
        _ => {}
    }
    let name = item.ident.to_string();
    let read = || {
        let (layout, others): (Vec<_>, Vec<_>) = item
            .attrs
            .iter()
            .cloned()
            .partition(|attribute| attribute.path().is_ident("repr"));
        plain_attributes(&others)?;
        let [layout] = layout.as_slice() else {
            bail!("not one repr");
        };
        let layout: syn::Ident = layout.parse_args()?;
        ensure!(layout == "C", "not laid out as in C");
        let Type::Plain(c) = named(std::slice::from_ref(&name))? else {
            bail!("not known as a struct");
        };
        ensure!(item.generics.params.is_empty(), "generic");
        let fields = fields.iter().map(|field| {
            plain_attributes(&field.attrs)?;
            let name = field.ident.as_ref().context("a field without name")?;
            Ok((name.to_string(), kind(&field.ty)?))
        });
        Ok(Some(Structure {
            name: c,
            fields: fields.collect::<Result<_>>()?,
        }))
    };
    read().with_context(|| name.clone())
}

/// Reads a declaration in a block of C functions; `None` if it is not one of ours.
fn foreign(item: &syn::ForeignItem) -> Result<Option<Function>> {
    let syn::ForeignItem::Fn(function) = item else {
        bail!("not a function in a block of C functions");
    };
    let name = function.sig.ident.to_string();
    // Functions with other names, too: `link_name` could bind them to one of ours.
    plain_attributes(&function.attrs).with_context(|| name.clone())?;
    if !is_ours(&function.sig.ident) {
        return Ok(None);
    }
    let declared = signature(&function.sig).with_context(|| name.clone())?;
    Ok(Some(declared))
}

fn signature(signature: &syn::Signature) -> Result<Function> {
    ensure!(signature.variadic.is_none(), "variadic");
    let parameters = signature.inputs.iter().map(|input| {
        let syn::FnArg::Typed(input) = input else {
            bail!("self");
        };
        let syn::Pat::Ident(name) = &*input.pat else {
            bail!("a parameter without name");
        };
        Ok((name.ident.to_string(), kind(&input.ty)?))
    });
    Ok(Function {
        name: signature.ident.to_string(),
        parameters: parameters.collect::<Result<_>>()?,
        result: match &signature.output {
            syn::ReturnType::Default => Type::Nothing,
            syn::ReturnType::Type(_, result) => kind(result)?,
        },
    })
}

/// Reads a type that a function takes or returns.
fn kind(declared: &syn::Type) -> Result<Type> {
    match declared {
        syn::Type::Ptr(pointer) => {
            let to = match names(&pointer.elem)?.as_slice() {
                [name] if name == "c_void" => Type::plain("c_void"),
                _ => kind(&pointer.elem)?,
            };
            Ok(Type::pointer(
                matches!(pointer.mutability, syn::PointerMutability::Mut(_)),
                to,
            ))
        }
        _ => named(&names(declared)?),
    }
}

/// Finds the type with this path.
fn named(names: &[String]) -> Result<Type> {
    match names {
        [module, name] if module == "bindings" => Ok(Type::plain(&format!("struct {name}"))),
        [name] if PLAIN.contains(&name.as_str()) => Ok(Type::plain(name)),
        [name] => {
            let known = STRUCTS.iter().find(|(rust, _)| rust == name);
            let array = ARRAYS.iter().find(|(rust, ..)| rust == name);
            known
                .map(|(_, c)| Type::plain(c))
                .or_else(|| array.map(|(_, of, len)| Type::array(Type::plain(of), *len)))
                .with_context(|| format!("{name}: not known; `STRUCTS` may lack it"))
        }
        _ => bail!("{}: not known", names.join("::")),
    }
}

/// The names of a path without arguments; none for a pointer.
fn names(declared: &syn::Type) -> Result<Vec<String>> {
    match declared {
        syn::Type::Ptr(_) => Ok(Vec::new()),
        syn::Type::Path(path) if path.qself.is_none() => {
            let mut segments = path.path.segments.iter();
            ensure!(
                segments.all(|segment| segment.arguments.is_none()),
                "a type with arguments"
            );
            let segments = path.path.segments.iter();
            Ok(segments.map(|segment| segment.ident.to_string()).collect())
        }
        _ => bail!("neither a name nor a pointer"),
    }
}

/// Makes sure that no attribute but documentation, lints and derived traits is there: others may change
/// what is declared.
fn plain_attributes(attributes: &[syn::Attribute]) -> Result<()> {
    let plain = |attribute: &syn::Attribute| {
        let path = attribute.path();
        ["doc", "allow", "expect", "derive"]
            .into_iter()
            .any(|name| path.is_ident(name))
    };
    ensure!(
        attributes.iter().all(plain),
        "an attribute that is not understood"
    );
    Ok(())
}

/// The value of a number.
fn number(value: &syn::Expr) -> Result<u64> {
    let syn::Expr::Lit(syn::ExprLit {
        lit: syn::Lit::Int(number),
        ..
    }) = value
    else {
        bail!("not a number");
    };
    Ok(number.base10_parse()?)
}

fn is_ours(name: &syn::Ident) -> bool {
    let name = name.to_string();
    PREFIXES.into_iter().any(|prefix| name.starts_with(prefix))
}
