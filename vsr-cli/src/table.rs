//! Aligned tables, and the same tables as tab-separated lines.
//!
//! A small renderer of our own, because all it must do is align: no boxes, no wrapping, one rule
//! under the head. Colour is a property of the cell's meaning ([`Tone`]), and the stream that the
//! text goes to removes it where there is no terminal or where `NO_COLOR` is set.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use unicode_width::UnicodeWidthStr;

use crate::units;

/// What a cell means, which decides its colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    /// A plain fact.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
    /// Of little interest.
    Dim,
    /// What the reader came for.
    Strong,
}

impl Tone {
    const fn style(self) -> Style {
        let style = Style::new();
        match self {
            Self::Plain => style,
            Self::Good => style.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green))),
            Self::Warn => style.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow))),
            Self::Bad => style
                .fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red)))
                .bold(),
            Self::Dim => style.dimmed(),
            Self::Strong => style.bold(),
        }
    }

    /// `text` in this tone.
    pub(crate) fn paint(self, text: &str) -> String {
        let style = self.style();
        format!("{style}{text}{style:#}")
    }
}

/// One cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    raw: Option<String>,
    tone: Tone,
}

impl Cell {
    /// In a tone of its own.
    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            tone,
            ..text.into().into()
        }
    }

    /// A number: in groups of three for people, as it is for scripts.
    pub(crate) fn number(number: u64) -> Self {
        Self {
            raw: Some(number.to_string()),
            ..units::grouped(number).into()
        }
    }

    /// A time in nanoseconds: in a fitting unit for people, in microseconds for scripts.
    pub(crate) fn time(nanoseconds: f64) -> Self {
        let raw = Some(format!("{:.3}", nanoseconds / 1e3));
        Self {
            raw,
            ..units::time(nanoseconds).into()
        }
    }

    /// The same cell in another tone.
    pub(crate) fn tone(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self {
            text: text.into(),
            raw: None,
            tone: Tone::Plain,
        }
    }
}

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a head.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// Without rows. A title that begins with `>` makes a column of numbers.
    pub(crate) fn new<S: AsRef<str>>(titles: &[S]) -> Self {
        let column = |title: &S| match title.as_ref().strip_prefix('>') {
            Some(title) => (title.to_owned(), Align::Right),
            None => (title.as_ref().to_owned(), Align::Left),
        };
        Self {
            columns: titles.iter().map(column).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// When it has another number of cells than there are columns.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        assert_eq!(
            cells.len(),
            self.columns.len(),
            "a row has a cell for every column"
        );
        self.rows.push(cells);
    }

    /// Whether there is nothing to see.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Aligned, with ANSI styles.
    pub(crate) fn render(&self) -> String {
        let widths: Vec<usize> = self.widths();
        let mut text = String::new();
        let head = self
            .columns
            .iter()
            .map(|(title, _)| Cell::toned(title, Tone::Strong));
        self.line(&mut text, &widths, &head.collect::<Vec<_>>());
        let rule = widths
            .iter()
            .map(|&width| Cell::toned("\u{2500}".repeat(width), Tone::Dim));
        self.line(&mut text, &widths, &rule.collect::<Vec<_>>());
        for row in &self.rows {
            self.line(&mut text, &widths, row);
        }
        text
    }

    /// One line per row, cells separated by tabs, no styles: for `cut` and `awk`.
    pub(crate) fn plain(&self) -> String {
        let mut text = String::new();
        let titles: Vec<&str> = self
            .columns
            .iter()
            .map(|(title, _)| title.as_str())
            .collect();
        text.push_str(&titles.join("\t"));
        text.push('\n');
        for row in &self.rows {
            let cells: Vec<&str> = row
                .iter()
                .map(|cell| cell.raw.as_ref().unwrap_or(&cell.text).as_str())
                .collect();
            text.push_str(&cells.join("\t"));
            text.push('\n');
        }
        text
    }

    fn widths(&self) -> Vec<usize> {
        let width = |(index, (title, _)): (usize, &(String, Align))| {
            let cells = self.rows.iter().map(|row| row[index].text.width());
            cells.chain([title.width()]).max().unwrap_or(0)
        };
        self.columns.iter().enumerate().map(width).collect()
    }

    fn line(&self, text: &mut String, widths: &[usize], cells: &[Cell]) {
        let last = cells.len().saturating_sub(1);
        for (index, (cell, &width)) in cells.iter().zip(widths).enumerate() {
            let padding = " ".repeat(width.saturating_sub(cell.text.width()));
            let (before, after) = match self.columns[index].1 {
                Align::Left if index == last => ("", ""),
                Align::Left => ("", padding.as_str()),
                Align::Right => (padding.as_str(), ""),
            };
            if cell.text.is_empty() && index == last {
                break;
            }
            let gap = if index == 0 { " " } else { "  " };
            // Writing into a string does not fail.
            let _ = write!(text, "{gap}{before}{}{after}", cell.tone.paint(&cell.text));
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&["replica", ">op", "status"]);
        table.row(vec![
            "R0".into(),
            "1,234".into(),
            Cell::toned("normal", Tone::Good),
        ]);
        table.row(vec!["R10".into(), "7".into(), "-".into()]);
        table
    }

    #[test]
    fn words_stand_left_and_numbers_right() {
        let text = anstream::adapter::strip_str(&sample().render()).to_string();
        let expected = " replica     op  status\n \
                        ───────  ─────  ──────\n \
                        R0       1,234  normal\n \
                        R10          7  -\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn wide_characters_do_not_break_the_alignment() {
        let mut table = Table::new(&["key", "x"]);
        table.row(vec!["漢字".into(), "a".into()]);
        table.row(vec!["é".into(), "b".into()]);
        let text = anstream::adapter::strip_str(&table.render()).to_string();
        assert_eq!(text, " key   x\n ────  ─\n 漢字  a\n é     b\n");
    }

    #[test]
    fn a_tone_is_colour_and_nothing_else() {
        let text = sample().render();
        assert!(text.contains("\u{1b}[32mnormal\u{1b}[0m"), "{text:?}");
    }

    #[test]
    fn plain_is_tabs_without_styles() {
        assert_eq!(
            sample().plain(),
            "replica\top\tstatus\nR0\t1,234\tnormal\nR10\t7\t-\n"
        );
    }

    #[test]
    #[should_panic(expected = "a cell for every column")]
    fn a_short_row_is_a_bug() {
        sample().row(vec!["R0".into()]);
    }
}
