//! Where text goes: results to standard output, everything else to standard error.
//!
//! A reader that closes its pipe has read enough: that is the end of the program, not a fault. Colour and bars are for
//! terminals only, and `NO_COLOR` is honoured.

use std::io::{ErrorKind, IsTerminal, Write};

use crate::config::Environment;

/// The process's outputs.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    /// Standard error is a terminal: live bars are drawn.
    pub live: bool,
    /// Standard input and standard error are terminals: questions can be asked.
    pub interactive: bool,
    /// Standard output is a terminal.
    pub terminal: bool,
    /// Places per line of standard output; none when it is not a terminal.
    pub width: Option<usize>,
    colour: bool,
}

impl Screen {
    /// The real outputs of this process.
    #[must_use]
    pub(super) fn of_process() -> Self {
        let environment = Environment::of_process();
        let dumb = environment.get("TERM") == Some("dumb");
        let live = std::io::stderr().is_terminal() && !dumb;
        let terminal = std::io::stdout().is_terminal();
        let no_colour = environment.get("NO_COLOR").is_some_and(|value| !value.is_empty());
        let interactive = live && std::io::stdin().is_terminal();
        Self { live, interactive, terminal, width: width(&environment), colour: live && !no_colour }
    }

    /// A result: one or more lines to standard output.
    pub(super) fn result(&self, text: &str) {
        let written = write_line(&mut std::io::stdout().lock(), text);
        if written.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe) {
            std::process::exit(0);
        }
    }

    /// Records for a spreadsheet, each line ended as RFC 4180 wants it.
    pub(super) fn records(&self, text: &str) {
        let mut output = std::io::stdout().lock();
        let mut write = || {
            text.lines().try_for_each(|line| write!(output, "{}\r\n", printable(line)))?;
            output.flush()
        };
        if write().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe) {
            std::process::exit(0);
        }
    }

    /// Progress or explanation: one or more lines to standard error.
    pub(super) fn note(&self, text: &str) {
        // Nobody may be listening, and a paid job does not stop because of that.
        let _ = write_line(&mut std::io::stderr().lock(), text);
    }

    /// A failure, in red on a terminal.
    pub(super) fn error(&self, text: &str) {
        if self.colour {
            let rest = text.strip_prefix("error").unwrap_or(text);
            let head = if rest.len() < text.len() { "\u{1b}[31;1merror\u{1b}[0m" } else { "" };
            self.note(&format!("{head}{rest}"));
        } else {
            self.note(text);
        }
    }

    /// `text` in bold, if standard output and standard error are terminals.
    #[must_use]
    pub(super) fn bold(&self, text: &str) -> String {
        if self.colour && self.terminal { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// What `COLUMNS` says, else what the terminal says.
fn width(environment: &Environment) -> Option<usize> {
    let asked = environment.get("COLUMNS").and_then(|text| text.parse().ok()).filter(|columns| *columns > 0);
    asked.or_else(|| console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns)))
}

fn write_line(output: &mut dyn Write, text: &str) -> std::io::Result<()> {
    writeln!(output, "{}", printable(text))?;
    output.flush()
}

/// `text` without control characters that could take over a terminal; much of what is printed comes from models.
#[must_use]
pub(super) fn printable(text: &str) -> String {
    let is_ours = |rest: &str| ["[0m", "[1m", "[31;1m"].iter().any(|code| rest.starts_with(code));
    let keep = |(at, c): (usize, char)| match c {
        '\n' | '\t' => Some(c),
        '\u{1b}' if is_ours(&text[at + 1..]) => Some(c),
        c if c.is_control() => None,
        c => Some(c),
    };
    text.char_indices().filter_map(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_others_are_not_printed() {
        assert_eq!(printable("a\u{1b}[2Jb\rc\u{7}\n\td"), "a[2Jbc\n\td");
        assert_eq!(printable("\u{1b}[1mx\u{1b}[0m"), "\u{1b}[1mx\u{1b}[0m");
    }
}
