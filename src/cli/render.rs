//! What goes out: the only file that prints. Colour is for terminals; a pipe, a file and `NO_COLOR` get plain text.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the one place")]

use std::error::Error;
use std::fmt::Display;
use std::io::Write;

use anstyle::{AnsiColor, Style};

use crate::health::cause::Status;
use crate::telemetry::ErrorChain;

/// Terminals, mails and tickets are at least this wide.
pub(super) const WIDTH: usize = 100;

pub(super) const BOLD: Style = Style::new().bold();
pub(super) const DIM: Style = Style::new().dimmed();
pub(super) const HINT: Style = AnsiColor::Cyan.on_default();

/// Data, to stdout. Nobody reads it any more when the pipe is closed, and then there is nobody to tell.
pub(super) fn data(text: &str) {
    let mut out = anstream::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Whether a person looks at stdout.
pub(super) fn is_terminal() -> bool {
    use std::io::IsTerminal;
    std::io::stdout().is_terminal()
}

/// Wipes the screen for the next picture.
pub(super) fn redraw(text: &str) {
    if is_terminal() {
        data("\x1b[H\x1b[2J");
    }
    data(text);
}

/// Something to know beside the data.
pub(super) fn note(text: impl Display) {
    anstream::eprintln!("{BOLD}note:{BOLD:#} {text}");
}

/// What to do.
pub(super) fn hint(text: impl Display) {
    anstream::eprintln!("{HINT}hint:{HINT:#} {text}");
}

/// What went wrong, in one line with its causes.
pub(super) fn error(error: &(dyn Error + 'static)) {
    let red = status_style(Status::Unhealthy);
    anstream::eprintln!("{red}error:{red:#} {}", ErrorChain(error));
}

/// What went wrong, line by line.
pub(super) fn errors(lines: &[String]) {
    let red = status_style(Status::Unhealthy);
    for line in lines {
        anstream::eprintln!("{red}error:{red:#} {line}");
    }
}

pub(super) const fn status_style(status: Status) -> Style {
    match status {
        Status::Healthy => AnsiColor::Green.on_default(),
        Status::Degraded => AnsiColor::Yellow.on_default(),
        Status::Unhealthy => AnsiColor::Red.on_default().bold(),
        Status::Unknown | Status::Starting => AnsiColor::Magenta.on_default(),
    }
}

/// The status as a word that the eye finds without colour.
pub(super) fn status_word(status: Status) -> String {
    match status {
        Status::Unhealthy => status.name().to_uppercase(),
        _ => status.name().to_owned(),
    }
}

/// Breaks `text` at spaces so that it fits between column `indent` and [`WIDTH`]; the first line is not indented. A
/// word that is longer stays whole: it may be a path or a command to copy.
pub(super) fn wrap(text: &str, indent: usize) -> String {
    let width = WIDTH.saturating_sub(indent).max(20);
    let mut out = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_break_at_spaces_and_nothing_is_lost() {
        let text = "word ".repeat(60) + &"x".repeat(130);
        let wrapped = wrap(&text, 20);
        assert!(wrapped.lines().enumerate().all(|(n, line)| n == 0 || line.starts_with(&" ".repeat(20))));
        assert!(wrapped.lines().filter(|line| !line.contains('x')).all(|line| line.len() <= WIDTH));
        assert_eq!(wrapped.split_whitespace().collect::<Vec<_>>(), text.split_whitespace().collect::<Vec<_>>());
    }
}
