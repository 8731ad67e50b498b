//! agent.toml(5), from the commented configuration that the package brings: each table is a section, each key an entry
//! with what stands above it.

use roff::{Inline, Roff, bold, italic, roman};

/// What a line of the file is.
enum Line<'a> {
    /// Of a comment, without its mark.
    Words(&'a str),
    Table(&'a str),
    /// A key, what stands behind it, and whether that is a default.
    Key(&'a str, &'a str, bool),
    Empty,
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Self {
        // `#key` shows a default, `#: key` is an example, `# ` begins words.
        let (text, default) = match line.strip_prefix('#') {
            None => (line, true),
            Some("") => return Self::Words(""),
            Some(rest) if rest.starts_with(' ') => return Self::Words(&rest[1..]),
            Some(rest) => rest.strip_prefix(": ").map_or((rest, true), |rest| (rest, false)),
        };
        if text.is_empty() {
            Self::Empty
        } else if text.starts_with('[') {
            Self::Table(text)
        } else {
            let (key, value) = text.split_once(" = ").unwrap_or((text, ""));
            Self::Key(key, value, default)
        }
    }
}

/// The page of `file`, as of this day.
pub(crate) fn page(file: &str, date: &str) -> Roff {
    let mut roff = Roff::new();
    let source = format!("dr-agent {}", env!("CARGO_PKG_VERSION"));
    roff.control("TH", ["agent.toml", "5", date, source.as_str(), super::MANUAL]);
    roff.control("SH", ["NAME"]).text([roman("agent.toml - configuration of dr-agent")]);
    roff.control("SH", ["SYNOPSIS"]).text([bold("/etc/dr-agent/agent.toml")]);
    roff.control("SH", ["DESCRIPTION"]);
    let mut words: Vec<&str> = Vec::new();
    // The first line is the file's title.
    for line in file.lines().skip(1).map(Line::read) {
        match line {
            Line::Words(text) => words.push(text),
            Line::Empty => paragraph(&mut roff, &mut words),
            Line::Table(name) => {
                roff.control("SH", [name]);
                paragraph(&mut roff, &mut words);
            }
            Line::Key(key, value, default) => {
                let shown = [bold(key), roman(" = "), italic(value)];
                roff.control("TP", []).text(if default { shown.to_vec() } else { example(shown) });
                if !words.is_empty() {
                    roff.text([roman(words.join(" "))]);
                    words.clear();
                }
            }
        }
    }
    roff.control("SH", ["SEE ALSO"]).text([roman("dr-agent(8), dr-agent-config(8)")]);
    roff
}

fn example(shown: [Inline; 3]) -> Vec<Inline> {
    shown.into_iter().chain([roman("   (an example; no default)")]).collect()
}

/// Writes the words that were gathered: as they run, but for lines that are set in.
fn paragraph(roff: &mut Roff, words: &mut Vec<&str>) {
    if words.is_empty() {
        return;
    }
    roff.control("PP", []);
    for line in words.drain(..) {
        if line.starts_with("  ") {
            roff.control("br", []);
        }
        if line.is_empty() {
            roff.control("PP", []);
        } else {
            roff.text([roman(line)]);
        }
    }
}
