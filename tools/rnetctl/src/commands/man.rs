// SPDX-License-Identifier: GPL-2.0
//! `rnetctl man`: the manual page.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_mangen::Man;

use crate::cli::Cli;
use crate::exit::Error;

/// The pages that say more.
const SEE_ALSO: &str = ".SH \"SEE ALSO\"\n.BR vhost\\-rnet (4)\n";

/// The macros for a section of a page, and for a part of a section.
const SECTION: &str = ".SH ";
const PART: &str = ".SS ";

/// Writes the page in the format of man(1): of the program, and then of each command.
///
/// # Errors
///
/// Those of `out`.
pub fn run(out: &mut dyn Write) -> Result<(), Error> {
    let mut program = Cli::command().disable_help_subcommand(true);
    // Gives commands the names by which they are called.
    program.build();
    let page = Man::new(program.clone()).section("8");
    page.render_title(out)?;
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_description_section(out)?;
    page.render_options_section(out)?;
    for command in program.get_subcommands() {
        writeln!(out, ".SH \"{}\"", command.get_name().to_uppercase())?;
        let page = Man::new(command.clone());
        rewritten(out, SECTION, PART, |text| {
            page.render_synopsis_section(text)
        })?;
        rewritten(out, SECTION, PART, |text| {
            page.render_description_section(text)
        })?;
        rewritten(out, SECTION, PART, |text| page.render_options_section(text))?;
    }
    // What follows the help on a terminal is about the exit status alone.
    rewritten(out, ".SH EXTRA", ".SH \"EXIT STATUS\"", |text| {
        page.render_extra_section(text)
    })?;
    Ok(out.write_all(SEE_ALSO.as_bytes())?)
}

/// Writes what `render` makes, with `from` replaced by `to`.
fn rewritten(
    out: &mut dyn Write,
    from: &str,
    to: &str,
    render: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut text = Vec::new();
    render(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    out.write_all(text.replace(from, to).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::run;

    #[test]
    fn the_page_has_each_command_with_its_options() {
        let mut out = Vec::new();
        run(&mut out).unwrap();
        let page = String::from_utf8(out).unwrap();
        assert!(page.contains(".TH rnetctl 8"), "{page}");
        for command in ["LIST", "STAT", "EXPLAIN", "TOP", "DOCTOR"] {
            assert!(page.contains(&format!("\n.SH \"{command}\"\n")), "{page}");
        }
        assert!(page.contains(".SH \"EXIT STATUS\"\nExit status: 0"));
        assert!(
            page.contains("rnetctl top") && page.contains("once"),
            "{page}"
        );
    }
}
