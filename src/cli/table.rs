//! Text that fits: aligned tables, labelled facts and wrapped paragraphs.
//!
//! On a terminal everything fits its width: columns that may shrink do so, and a table that still does not fit becomes
//! one block of labelled lines per row. Pipes have no width, so that `grep` and `awk` see whole values. Widths count
//! what a terminal shows, not bytes.

use console::{measure_text_width, truncate_str};

use super::screen::printable;

/// Spaces between two columns.
const GAP: usize = 2;

/// A column that may shrink keeps at least this many places.
const MIN_SHRUNK: usize = 10;

/// How a column uses its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// Text in full.
    Left,
    /// Numbers in full.
    Right,
    /// Text that may be cut when the terminal is narrow.
    Shrink,
}

/// Rows under titles.
pub(super) struct Table {
    columns: Vec<(&'static str, Fit)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: &[(&'static str, Fit)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with one cell per column.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows.push(cells.into_iter().map(|cell| printable(&cell).replace(['\n', '\t'], " ")).collect());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table in at most `width` places per line.
    pub(super) fn render(&self, width: Option<usize>) -> String {
        let mut widths: Vec<usize> = self.columns.iter().map(|(title, _)| title.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(measure_text_width(cell));
            }
        }
        match width {
            Some(width) if !self.shrink(&mut widths, width) => self.stacked(width),
            _ => self.aligned(&widths),
        }
    }

    /// Takes places from the widest column that may shrink until all fit; false when they cannot.
    fn shrink(&self, widths: &mut [usize], width: usize) -> bool {
        let gaps = GAP * widths.len().saturating_sub(1);
        let mut over = (widths.iter().sum::<usize>() + gaps).saturating_sub(width);
        while over > 0 {
            let may = |&at: &usize| self.columns[at].1 == Fit::Shrink && widths[at] > MIN_SHRUNK;
            let Some(widest) = (0..widths.len()).filter(may).max_by_key(|&at| widths[at]) else { return false };
            widths[widest] -= 1;
            over -= 1;
        }
        true
    }

    fn aligned(&self, widths: &[usize]) -> String {
        let titles: Vec<String> = self.columns.iter().map(|(title, _)| (*title).to_owned()).collect();
        let line = |cells: &Vec<String>| {
            let mut text = String::new();
            for (at, cell) in cells.iter().enumerate() {
                let cell = truncate_str(cell, widths[at], "…");
                let space = " ".repeat(widths[at].saturating_sub(measure_text_width(&cell)));
                let last = at + 1 == cells.len();
                match self.columns[at].1 {
                    Fit::Right => text.extend([space.as_str(), &cell]),
                    Fit::Left | Fit::Shrink if last => text.push_str(&cell),
                    Fit::Left | Fit::Shrink => text.extend([&cell, space.as_str()]),
                }
                if !last {
                    text.push_str(&" ".repeat(GAP));
                }
            }
            text.trim_end().to_owned()
        };
        std::iter::once(line(&titles)).chain(self.rows.iter().map(line)).collect::<Vec<_>>().join("\n")
    }

    fn stacked(&self, width: usize) -> String {
        let block = |row: &Vec<String>| {
            let titles = self.columns.iter().map(|(title, _)| *title);
            let pairs: Vec<(&str, String)> =
                titles.zip(row.iter().cloned()).filter(|(_, cell)| !cell.is_empty()).collect();
            facts(&pairs, Some(width))
        };
        self.rows.iter().map(block).collect::<Vec<_>>().join("\n\n")
    }
}

/// One `label  value` per line, values aligned and wrapped below themselves.
pub(super) fn facts(pairs: &[(&str, String)], width: Option<usize>) -> String {
    let labels = pairs.iter().map(|(label, _)| label.len()).max().unwrap_or_default() + GAP;
    let lines = pairs.iter().map(|(label, value)| format!("{label:<labels$}{}", hang(value, labels, width)));
    lines.collect::<Vec<_>>().join("\n")
}

/// `text` wrapped, every line but the first moved in by `indent`, which the caller has written before the first.
pub(super) fn hang(text: &str, indent: usize, width: Option<usize>) -> String {
    let text = printable(text);
    let Some(width) = width else { return text };
    let room = width.saturating_sub(indent).max(MIN_SHRUNK);
    let lines: Vec<String> = text.lines().flat_map(|line| wrap(line, room)).collect();
    lines.join(&format!("\n{}", " ".repeat(indent)))
}

/// Lines of at most `room` places, broken between words, and inside words that are longer.
fn wrap(line: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in line.split(' ') {
        let wide = measure_text_width(word);
        let current = lines.len() - 1;
        if used > 0 && used + 1 + wide <= room {
            lines[current].push(' ');
            lines[current].push_str(word);
            used += 1 + wide;
            continue;
        }
        if !lines[current].is_empty() {
            lines.push(String::new());
        }
        used = 0;
        for c in word.chars() {
            let mut buffer = [0; 4];
            let places = measure_text_width(c.encode_utf8(&mut buffer));
            if used + places > room {
                lines.push(String::new());
                used = 0;
            }
            let current = lines.len() - 1;
            lines[current].push(c);
            used += places;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[("job", Fit::Left), ("name", Fit::Shrink), ("cost", Fit::Right)]);
        table.row(["0198c2f1".into(), "a long name of a job, 日本語 too".into(), "$0.12".into()]);
        table.row(["0198c2f2".into(), "short".into(), "$10.00".into()]);
        table
    }

    #[test]
    fn a_pipe_gets_whole_values_in_aligned_columns() {
        let text = table().render(None);
        let lines: Vec<&str> = text.lines().collect();
        assert!(text.contains("日本語 too"));
        assert!(lines[1].ends_with("$0.12") && lines[2].ends_with("$10.00"));
        assert_eq!(measure_text_width(lines[1]), measure_text_width(lines[2]));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in 14..80 {
            for line in table().render(Some(width)).lines() {
                assert!(measure_text_width(line) <= width.max(MIN_SHRUNK + 6), "{width}: {line:?}");
            }
        }
    }

    #[test]
    fn what_cannot_shrink_becomes_labelled_lines() {
        let text = table().render(Some(20));
        assert!(text.contains("job   0198c2f1"), "{text}");
        assert!(text.contains("cost  $10.00"), "{text}");
    }

    #[test]
    fn control_characters_do_not_break_a_row() {
        let mut table = Table::new(&[("name", Fit::Left)]);
        table.row(["a\nb\u{1b}[2Jc".into()]);
        assert_eq!(table.render(None), "name\na b[2Jc");
    }

    #[test]
    fn wrapped_lines_hang_below_their_value() {
        assert_eq!(facts(&[("why", "one two three".into())], Some(15)), "why  one two\n     three");
        assert_eq!(facts(&[("why", "abcdefghijklmnop".into())], Some(15)), "why  abcdefghij\n     klmnop");
        assert_eq!(facts(&[("why", "one two three".into())], None), "why  one two three");
    }
}
