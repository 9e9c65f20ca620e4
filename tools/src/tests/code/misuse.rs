// SPDX-License-Identifier: GPL-2.0
//! Whether the compiler refuses wrong uses of the types of `src/kapi`.
//!
//! Each file of `tools/compile-fail` is added as a module to a copy of the kernel module's source,
//! which the kernel's compiler then checks without generating code. A comment gives the code of the
//! error that is expected on its line, as in `//~ E0597`, or on the line above, as in `//~^ E0597`. Of
//! several codes, one or more have to come, since compilers differ. A file without such a comment has
//! to compile. Any other error is a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::lab::build::{self, Mode, SOURCE};
use crate::lab::chroot::Access;
use crate::lab::flavor::Flavor;
use crate::lab::paths::{INSIDE, Lab};
use crate::process;

/// Where the files are, in the checkout.
const FILES: &str = "tools/compile-fail";

/// The module that a file becomes.
const NAME: &str = "misuse";

/// Files that are compiled at a time.
const LANES: usize = 2;

/// Time limit of one compilation, on a slow machine.
const LIMIT: Duration = Duration::from_secs(120);

/// The codes of the errors in each line that has some.
type Errors = BTreeMap<usize, BTreeSet<String>>;

/// Checks that all files of the checkout `root` compile or fail as they say. The module has to have
/// been built from it.
///
/// # Errors
///
/// All files with an unexpected error, or without an expected one.
pub fn check(lab: &Lab, root: &Path) -> Result<()> {
    let output = build::output_name(Flavor::Packaged, Mode::Normal);
    let saved = lab.dir().join(&output).join("src/.main.o.cmd");
    let saved =
        std::fs::read_to_string(&saved).with_context(|| format!("reading {}", saved.display()))?;
    let command = format!("cd {INSIDE}/{output}\n{}", compile_command(&saved)?);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root.join(FILES)).context(FILES)? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        let expected = expected(&text).with_context(|| path.display().to_string())?;
        files.push((path, expected));
    }
    // Both kinds are needed: a compiler that refuses everything would pass without the first.
    let (correct, wrong): (Vec<_>, Vec<_>) =
        files.iter().partition(|(_, errors)| errors.is_empty());
    ensure!(
        !correct.is_empty() && !wrong.is_empty(),
        "no file that has to compile, or none that must not"
    );
    let left = Mutex::new(files.iter());
    let told = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                loop {
                    let next = left.lock().expect("no lane panics").next();
                    let Some((file, expected)) = next else { break };
                    if let Err(error) = compile(lab, root, &command, file, expected) {
                        let error = format!("{}: {error:#}", file.display());
                        told.lock().expect("no lane panics").push(error);
                    }
                }
            });
        }
    });
    let told = told.into_inner().expect("no lane panics");
    ensure!(told.is_empty(), "{}", told.join("\n"));
    Ok(())
}

/// Compiles the module with `file` in it, and compares the errors.
fn compile(lab: &Lab, root: &Path, command: &str, file: &Path, expected: &Errors) -> Result<()> {
    let copy = tempfile::tempdir()?;
    copy_tree(&root.join("src"), &copy.path().join("src"))?;
    let main = copy.path().join("src/main.rs");
    let text = std::fs::read_to_string(&main)?;
    std::fs::write(&main, format!("{text}\nmod {NAME};\n"))?;
    std::fs::copy(file, copy.path().join(format!("src/{NAME}.rs")))?;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let log = lab.logs().join(format!("{NAME}-{stem}.log"));
    let mut rustc = lab
        .chroot()
        .bind(copy.path(), SOURCE, Access::ReadOnly)
        .command(&["sh", "-ec", command]);
    // The kernel's makefile sets this, too.
    rustc.env("RUSTC_BOOTSTRAP", "1");
    let compiled = process::run_logged_anew(&mut rustc, &log, LIMIT);
    let found = errors(&std::fs::read_to_string(&log)?)?;
    // A failure without an error in the source: the compiler could not be run.
    if found.is_empty() {
        compiled?;
    }
    compare(expected, &found)
}

/// Fails unless each line has one of the errors `expected` there, and no others are `found`.
fn compare(expected: &Errors, found: &Errors) -> Result<()> {
    for (line, codes) in expected {
        let found = found.get(line);
        ensure!(found.is_some(), "line {line}: no error, {codes:?} expected");
    }
    for (line, codes) in found {
        let fits = expected.get(line).is_some_and(|all| codes.is_subset(all));
        ensure!(fits, "line {line}: {codes:?} not expected");
    }
    Ok(())
}

/// The errors that the comments of `text` expect.
fn expected(text: &str) -> Result<Errors> {
    let mut errors = Errors::new();
    for (index, line) in text.lines().enumerate() {
        if let Some((_, codes)) = line.split_once("//~") {
            let (above, codes) = match codes.strip_prefix('^') {
                Some(codes) => (1, codes),
                None => (0, codes),
            };
            let codes: BTreeSet<_> = codes.split_whitespace().map(str::to_owned).collect();
            let good = !codes.is_empty() && codes.iter().all(|code| is_code(code));
            ensure!(good, "{line:?}: not error codes");
            errors.insert(index + 1 - above, codes);
        }
    }
    Ok(errors)
}

/// The errors in the compiler's short messages.
fn errors(log: &str) -> Result<Errors> {
    let mut errors = Errors::new();
    for line in log.lines() {
        let Some((place, error)) = line.split_once("error") else {
            continue;
        };
        // The summary line.
        if place.is_empty() && error.starts_with(": aborting due to") {
            continue;
        }
        let at = place
            .strip_suffix(": ")
            .and_then(|place| place.strip_prefix(&format!("{SOURCE}/src/{NAME}.rs:")))
            .and_then(|place| place.split(':').next()?.parse().ok());
        let code = error
            .strip_prefix('[')
            .and_then(|error| error.split_once(']'))
            .filter(|(code, _)| is_code(code));
        match (at, code) {
            (Some(at), Some((code, _))) => {
                errors.entry(at).or_default().insert(code.to_owned());
            }
            // In another file, or without a code.
            _ => bail!("{line}"),
        }
    }
    Ok(errors)
}

fn is_code(code: &str) -> bool {
    code.len() == 5
        && code
            .strip_prefix('E')
            .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Turns the command with which the kernel's build system compiled the module, which it has `saved`,
/// into one that only checks for errors.
fn compile_command(saved: &str) -> Result<String> {
    let (_, command) = saved
        .lines()
        .next()
        .and_then(|line| line.split_once("savedcmd_src/main.o := "))
        .context("no command of a build")?;
    // The commands after the first one process the object file.
    let command = command.split(';').next().unwrap_or_default();
    let mut words: Vec<_> = command.split(' ').filter(|word| !word.is_empty()).collect();
    let before = words.len();
    words.retain(|word| !word.starts_with("--emit="));
    ensure!(
        before == words.len() + 2 && words.contains(&"rustc"),
        "not the command that is known: {command}"
    );
    words.extend(["--emit=metadata=/tmp/misuse.rmeta", "--error-format=short"]);
    Ok(words.join(" "))
}

/// Copies the files below `from`, without those that belong to other crates.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "vring" {
                copy_tree(&entry.path(), &target)?;
            }
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Errors, compare, compile_command, errors, expected};

    fn map(errors: &[(usize, &[&str])]) -> Errors {
        let owned = |codes: &[&str]| codes.iter().map(|&code| code.to_owned()).collect();
        errors
            .iter()
            .map(|(line, codes)| (*line, owned(codes)))
            .collect()
    }

    #[test]
    fn expectations_are_read() {
        let text = "fn f() {\n    g(); //~ E0597\n    // E0001\n}\nh(); //~E0277 E0495\n\n\
                    //~^ E0001\n";
        assert_eq!(
            expected(text).unwrap(),
            map(&[(2, &["E0597"]), (5, &["E0277", "E0495"]), (6, &["E0001"])])
        );
        assert!(expected("f(); //~ error").is_err());
        assert!(expected("f(); //~").is_err());
    }

    #[test]
    fn errors_are_read() {
        let log = "/src/src/rx.rs:1:1: warning: unused\n\
                   /src/src/misuse.rs:12:5: error[E0597]: `a` does not live long enough\n\
                   /src/src/misuse.rs:12:9: error[E0597]: `b` does not live long enough\n\
                   /src/src/misuse.rs:12:9: error[E0495]: cannot infer\n\
                   error: aborting due to 3 previous errors; 1 warning emitted\n";
        assert_eq!(errors(log).unwrap(), map(&[(12, &["E0495", "E0597"])]));
        for other in [
            "/src/src/rx.rs:1:1: error[E0597]: not in the file",
            "/src/src/misuse.rs:1:1: error: without a code",
            "error: couldn't create a temp dir",
            "error[E0463]: can't find crate for `kernel`",
        ] {
            assert!(errors(other).is_err(), "{other}");
        }
    }

    #[test]
    fn differences_are_failures() {
        let wanted = map(&[(1, &["E0495", "E0597"])]);
        let good = |found: &[(usize, &[&str])]| compare(&wanted, &map(found)).is_ok();
        assert!(good(&[(1, &["E0597"])]));
        assert!(good(&[(1, &["E0495", "E0597"])]));
        assert!(!good(&[]));
        assert!(!good(&[(1, &["E0277"])]));
        assert!(!good(&[(1, &["E0277", "E0597"])]));
        assert!(!good(&[(2, &["E0597"])]));
        assert!(!good(&[(1, &["E0597"]), (2, &["E0597"])]));
        assert!(compare(&map(&[]), &map(&[])).is_ok());
        assert!(compare(&map(&[]), &wanted).is_err());
    }

    #[test]
    fn the_command_only_looks_for_errors() {
        let saved = "savedcmd_src/main.o := A=b rustc -O --emit=dep-info=src/.main.o.d \
                     --emit=obj=src/main.o /src/src/main.rs  ; objtool src/main.o\n\nmore\n";
        assert_eq!(
            compile_command(saved).unwrap(),
            "A=b rustc -O /src/src/main.rs --emit=metadata=/tmp/misuse.rmeta --error-format=short"
        );
        assert!(compile_command("").is_err());
        assert!(compile_command("savedcmd_src/main.o := gcc -c main.c\n").is_err());
    }
}
