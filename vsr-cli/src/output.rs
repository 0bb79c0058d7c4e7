//! One report, three ways to print it: a table for people, JSON for programs, plain for scripts.

use std::io::{self, IsTerminal as _, Write as _};

use clap::ValueEnum;
use serde_json::Value;

use crate::table::{Table, Tone};

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned tables, coloured on a terminal (`NO_COLOR` is honoured).
    Table,
    /// One JSON value on one line, with stable field names and raw numbers.
    Json,
    /// The tables as tab-separated lines.
    Plain,
}

/// A part of a report, as people see it.
#[derive(Clone, Debug)]
pub(crate) enum Block {
    /// A heading above a table; not printed by [`Format::Plain`].
    Title(String),
    /// A table.
    Table(Table),
    /// A line with its tone.
    Line(String, Tone),
    /// Text that is printed as it is.
    Text(String),
}

/// What a command found out.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// For programs.
    pub(crate) json: Value,
    /// For people.
    pub(crate) blocks: Vec<Block>,
}

impl Report {
    /// The whole text in `format`, with ANSI styles where it is a table.
    pub(crate) fn render(&self, format: Format) -> String {
        if format == Format::Json {
            return format!("{}\n", self.json);
        }
        let mut text = String::new();
        for (index, block) in self.blocks.iter().enumerate() {
            match (block, format) {
                (Block::Title(_), Format::Plain) => {}
                (Block::Title(title), _) => {
                    if index > 0 {
                        text.push('\n');
                    }
                    text.push_str(&Tone::Strong.paint(title));
                    text.push('\n');
                }
                (Block::Table(table), Format::Plain) => text.push_str(&table.plain()),
                (Block::Table(table), _) => text.push_str(&table.render()),
                (Block::Line(line, _), Format::Plain) => {
                    text.push_str(line);
                    text.push('\n');
                }
                (Block::Line(line, tone), _) => {
                    text.push_str(&tone.paint(line));
                    text.push('\n');
                }
                (Block::Text(body), _) => {
                    text.push_str(body);
                    if !body.ends_with('\n') {
                        text.push('\n');
                    }
                }
            }
        }
        text
    }
}

/// Standard output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    format: Format,
}

impl Screen {
    /// That prints in `format`.
    pub(crate) const fn new(format: Format) -> Self {
        Self { format }
    }

    /// How it prints.
    pub(crate) const fn format(self) -> Format {
        self.format
    }

    /// Whether a person is looking.
    pub(crate) fn is_terminal(self) -> bool {
        io::stdout().is_terminal()
    }

    /// Prints a report.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(crate) fn show(self, report: &Report) -> io::Result<()> {
        self.write(&report.render(self.format))
    }

    /// Prints text; styles are removed where they do not belong.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(crate) fn write(self, text: &str) -> io::Result<()> {
        let mut out = anstream::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        match written {
            // `vsr-cli ... | head` is no failure.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Report {
        let mut table = Table::new(&["a", ">b"]);
        table.row(vec!["x".into(), "1".into()]);
        Report {
            json: serde_json::json!({"a": "x", "b": 1}),
            blocks: vec![
                Block::Title("first".to_owned()),
                Block::Table(table),
                Block::Line("fine".to_owned(), Tone::Good),
                Block::Text("raw".to_owned()),
            ],
        }
    }

    #[test]
    fn json_is_one_line_in_the_order_of_the_fields() {
        assert_eq!(sample().render(Format::Json), "{\"a\":\"x\",\"b\":1}\n");
    }

    #[test]
    fn plain_leaves_out_titles_and_styles() {
        assert_eq!(sample().render(Format::Plain), "a\tb\nx\t1\nfine\nraw\n");
    }

    #[test]
    fn a_table_has_its_title_above() {
        let text = anstream::adapter::strip_str(&sample().render(Format::Table)).to_string();
        assert_eq!(text, "first\n a  b\n ─  ─\n x  1\nfine\nraw\n");
    }
}
