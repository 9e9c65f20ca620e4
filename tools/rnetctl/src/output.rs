// SPDX-License-Identifier: GPL-2.0
//! What is written: tables, JSON and names that cannot disturb a terminal.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table as Layout};

/// Headings.
pub const HEADING: Style = Style::new().bold();
/// What works.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// What somebody should look at.
pub const WARNING: Style = AnsiColor::Yellow.on_default();
/// What is broken.
pub const BAD: Style = AnsiColor::Red.on_default();

/// Standard output, without colours unless it is a terminal and `NO_COLOR` is not set.
#[must_use]
pub fn stdout() -> anstream::AutoStream<io::StdoutLock<'static>> {
    anstream::AutoStream::auto(io::stdout().lock())
}

/// Writes a sentence to standard error, with the program's name in front.
///
/// # Errors
///
/// Those of standard error.
pub fn complain(sentence: &str) -> io::Result<()> {
    let mut stderr = anstream::AutoStream::auto(io::stderr().lock());
    writeln!(stderr, "rnetctl: {}", lines_escaped(sentence))
}

/// `text` with characters that a terminal would obey, or that would break a line, written as
/// `\n`, `\u{1b}`, ...; a backslash is doubled.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\\' || is_disturbing(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Like [`escaped()`] for text of several lines that this program has made: line ends and
/// backslashes stay.
fn lines_escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && is_disturbing(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Whether `c` is a control character, or one that changes the order in which others are shown.
#[must_use]
pub fn is_disturbing(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}' ..= '\u{202e}' | '\u{2066}' ..= '\u{2069}')
}

/// A table without lines between cells.
pub struct Table {
    headings: Vec<&'static str>,
    right: Vec<usize>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    #[must_use]
    pub fn new(headings: &[&'static str]) -> Self {
        Self {
            headings: headings.to_vec(),
            right: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// Sets columns to the right, for numbers.
    #[must_use]
    pub fn right(mut self, columns: &[usize]) -> Self {
        self.right.extend(columns);
        self
    }

    /// Adds a row; its cells are escaped here.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows
            .push(cells.into_iter().map(|cell| escaped(&cell)).collect());
    }

    /// The table's lines, the first of which is that of the headings.
    #[must_use]
    pub fn render(&self) -> String {
        let mut layout = Layout::new();
        layout
            .load_preset(NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(&self.headings)
            .add_rows(&self.rows);
        for (at, column) in layout.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if self.right.contains(&at) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text = String::new();
        for line in layout.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Writes the table, with its headings in bold.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let text = self.render();
        let (head, rows) = text.split_once('\n').unwrap_or((&text, ""));
        write!(out, "{HEADING}{head}{HEADING:#}\n{rows}")
    }
}

/// Writes `value` as JSON of several lines. Characters that could disturb a terminal are escaped.
///
/// # Errors
///
/// Those of `out`.
pub fn json(out: &mut dyn Write, value: &impl serde::Serialize) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    writeln!(out, "{}", json_escaped(&text))
}

/// Like [`json()`] in one line.
///
/// # Errors
///
/// Those of `out`.
pub fn json_line(out: &mut dyn Write, value: &impl serde::Serialize) -> io::Result<()> {
    let text = serde_json::to_string(value)?;
    writeln!(out, "{}", json_escaped(&text))
}

/// JSON in which only line ends between values are control characters. `serde_json` escapes those
/// of ASCII; the others can only be inside strings.
fn json_escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && is_disturbing(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// `number` in at most five characters with a prefix of 1000: `999`, `1.5K`, `12.0M`.
#[must_use]
pub fn short(number: f64) -> String {
    let mut value = number;
    for prefix in ["", "K", "M", "G", "T", "P"] {
        if value < 999.95 || prefix == "P" {
            if prefix.is_empty() && value.fract() == 0.0 {
                return format!("{value}");
            }
            return format!("{value:.1}{prefix}");
        }
        value /= 1000.0;
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Table, escaped, is_disturbing, json, short};

    #[test]
    fn odd_characters_are_escaped() {
        assert_eq!(
            escaped("a\x1b[2Jb\n\\\u{202e}é"),
            "a\\u{1b}[2Jb\\n\\\\\\u{202e}é"
        );
        let mut out = Vec::new();
        json(&mut out, &"a\x1b\u{9b}\u{202e}\n").unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\"a\\u001b\\u009b\\u202e\\n\"\n"
        );
    }

    #[test]
    fn a_table_has_columns() {
        let mut table = Table::new(&["NAME", "COUNT"]).right(&[1]);
        table.row(["one\n".to_owned(), "1".to_owned()]);
        table.row(["three".to_owned(), "1000".to_owned()]);
        assert_eq!(
            table.render(),
            "NAME   COUNT\none\\n      1\nthree   1000\n"
        );
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 999.0, 1000.0, 1500.0, 999_960.0, 2.5e12, 1e20].map(short);
        assert_eq!(
            shown,
            ["0", "999", "1.0K", "1.5K", "1.0M", "2.5T", "100000.0P"]
        );
        assert_eq!(short(0.26), "0.3");
    }

    proptest! {
        #[test]
        fn what_is_escaped_disturbs_nothing(text: String) {
            prop_assert!(!escaped(&text).chars().any(is_disturbing));
        }
    }
}
