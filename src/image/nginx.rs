//! Which server blocks of nginx's configuration lack the agent's include. Pure: reads what `nginx -T` prints.

use std::iter::Peekable;
use std::str::Chars;

/// The folder whose files every server block includes.
const INCLUDED: &str = "dr-agent.d/";

/// Where names without a root begin.
const PREFIX: &str = "/etc/nginx/";

/// One of nginx's directives, or the end of a block.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Directive(Vec<String>),
    Open(Vec<String>),
    Close,
}

/// The server blocks for HTTP that include no file of the agent, each by its name or its address.
#[must_use]
pub fn servers_without(dump: &str) -> Vec<String> {
    let files = files(dump);
    // A file may bring the include along: then including that file is as good.
    let bring: Vec<&str> = files.iter().filter(|(_, text)| brings(text)).map(|(name, _)| *name).collect();
    files.iter().flat_map(|(_, text)| lacking(text, &bring)).collect()
}

/// `# configuration file PATH:` begins each file.
fn files(dump: &str) -> Vec<(&str, &str)> {
    let mut files = Vec::new();
    let mut rest = dump;
    while let Some((_, after)) = rest.split_once("# configuration file ") {
        let Some((name, text)) = after.split_once(":\n") else { break };
        let end = text.find("\n# configuration file ").map_or(text.len(), |at| at + 1);
        files.push((name, &text[..end]));
        rest = &text[end..];
    }
    files
}

/// Whether the text has the include outside of all blocks.
fn brings(text: &str) -> bool {
    let mut depth = 0_u32;
    Parts::of(text).any(|part| {
        match &part {
            Part::Open(_) => depth += 1,
            Part::Close => depth = depth.saturating_sub(1),
            Part::Directive(words) => return depth == 0 && includes(words).is_some_and(|file| file.contains(INCLUDED)),
        }
        false
    })
}

fn includes(words: &[String]) -> Option<&str> {
    match words {
        [include, file] if include == "include" => Some(file),
        _ => None,
    }
}

/// A server block that is being read.
struct Server {
    depth: usize,
    name: Option<String>,
    listen: Option<String>,
    has_include: bool,
}

fn lacking(text: &str, bring: &[&str]) -> Vec<String> {
    let mut lacking = Vec::new();
    let mut blocks: Vec<String> = Vec::new();
    let mut server: Option<Server> = None;
    for part in Parts::of(text) {
        match part {
            Part::Open(words) => {
                let name = words.first().cloned().unwrap_or_default();
                let is_http = !blocks.iter().any(|block| block == "stream" || block == "mail");
                if name == "server" && is_http {
                    let depth = blocks.len() + 1;
                    server = Some(Server { depth, name: None, listen: None, has_include: false });
                }
                blocks.push(name);
            }
            Part::Close => {
                blocks.pop();
                if let Some(ended) = server.take_if(|server| blocks.len() < server.depth)
                    && !ended.has_include
                {
                    lacking.push(ended.name.or(ended.listen).unwrap_or_else(|| "a server without a name".to_owned()));
                }
            }
            Part::Directive(words) => {
                let Some(server) = server.as_mut().filter(|server| server.depth == blocks.len()) else { continue };
                match (words.first().map(String::as_str), words.get(1)) {
                    (Some("server_name"), Some(name)) if name != "_" => server.name = Some(name.clone()),
                    (Some("listen"), Some(listen)) => server.listen = Some(format!("listen {listen}")),
                    _ => {}
                }
                if let Some(file) = includes(&words) {
                    let full = if file.starts_with('/') { file.to_owned() } else { format!("{PREFIX}{file}") };
                    server.has_include |= file.contains(INCLUDED) || bring.iter().any(|name| is_like(&full, name));
                }
            }
        }
    }
    lacking
}

/// Whether `name` is one of those that `pattern`, in which `*` is anything, means.
fn is_like(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| is_like(after, &rest[at..]))
        }),
    }
}

/// The directives of a text.
struct Parts<'a> {
    chars: Peekable<Chars<'a>>,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Self {
        Self { chars: text.chars().peekable() }
    }

    /// A word up to a space or a sign that ends it.
    fn word(&mut self, first: char) -> String {
        let mut word = String::new();
        if matches!(first, '"' | '\'') {
            while let Some(c) = self.chars.next().filter(|c| *c != first) {
                word.extend(if c == '\\' { self.chars.next() } else { Some(c) });
            }
            return word;
        }
        word.push(first);
        let mut in_variable = false;
        while let Some(&c) = self.chars.peek() {
            let starts_variable = c == '{' && word.ends_with('$');
            if !in_variable && !starts_variable && (c.is_whitespace() || matches!(c, ';' | '{' | '}')) {
                break;
            }
            in_variable = (in_variable || starts_variable) && c != '}';
            word.push(c);
            self.chars.next();
        }
        word
    }
}

impl Iterator for Parts<'_> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        let mut words = Vec::new();
        loop {
            match self.chars.next()? {
                c if c.is_whitespace() => {}
                '#' => while self.chars.next_if(|c| *c != '\n').is_some() {},
                ';' => return Some(Part::Directive(words)),
                '{' => return Some(Part::Open(words)),
                '}' => return Some(Part::Close),
                c => words.push(self.word(c)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(files: &[(&str, &str)]) -> String {
        let text = |(name, text): &(&str, &str)| format!("# configuration file {name}:\n{text}\n");
        "nginx: the configuration file /etc/nginx/nginx.conf syntax is ok\n".to_owned()
            + &files.iter().map(text).collect::<String>()
    }

    #[test]
    fn every_server_block_needs_the_include() {
        let text = dump(&[
            (
                "/etc/nginx/nginx.conf",
                "events {}\nhttp {\n log_format x '{\"a\": \"$b\"; }';\n include /etc/nginx/conf.d/*.conf;\n\
                 upstream app { server 10.0.0.1:80; server 10.0.0.2:80; }\n\
                 server { listen 80 default_server; server_name _; include /etc/nginx/dr-agent.d/*.conf; }\n}\n",
            ),
            (
                "/etc/nginx/conf.d/shop.conf",
                "server {\n  listen 443 ssl;\n  server_name shop.example.com www.example.com;\n\
                   # include /etc/nginx/dr-agent.d/*.conf;\n\
                   location / { if ($a = \"x{\") { return 200 'a } b'; } root /srv/${host}/x; \
                   include /etc/nginx/dr-agent.d/*.conf; }\n}\n\
                 server { listen 8080; include \"dr-agent.d/dr-agent.conf\"; }\n\
                 server { listen 81; return 301 https://$host; }\n",
            ),
        ]);
        assert_eq!(servers_without(&text), ["shop.example.com", "listen 81"]);
    }

    #[test]
    fn an_include_may_come_with_another_file() {
        let text = dump(&[
            ("/etc/nginx/nginx.conf", "http { server { listen 80; include snippets/*.conf; } server { listen 81; } }"),
            ("/etc/nginx/snippets/health.conf", "include /etc/nginx/dr-agent.d/*.conf;"),
            ("/etc/nginx/dr-agent.d/dr-agent.conf", "location = /health/live { return 200 ok; }"),
        ]);
        assert_eq!(servers_without(&text), ["listen 81"]);
    }

    #[test]
    fn what_does_not_speak_http_needs_none() {
        let text = dump(&[("/etc/nginx/nginx.conf", "stream { server { listen 3306; proxy_pass $x; } } http { }")]);
        assert!(servers_without(&text).is_empty());
    }

    #[test]
    fn a_text_that_breaks_off_is_no_trouble() {
        for text in ["server {", "server { listen \"80", "}}}", "include", "# configuration file x", "server ${"] {
            assert!(servers_without(&dump(&[("/x", text)])).is_empty(), "{text}");
        }
    }

    #[test]
    fn patterns() {
        assert!(is_like("/a/*.conf", "/a/b.conf") && is_like("/a/*", "/a/") && is_like("*x*", "yxz"));
        assert!(!is_like("/a/*.conf", "/a/b.conf.bak") && !is_like("/a", "/ab"));
    }
}
