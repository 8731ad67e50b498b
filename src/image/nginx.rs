//! Which server blocks of nginx's configuration lack the agent's include, or have it too late. Pure: reads what `nginx -T`
//! prints.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

/// The folder whose files every server block includes.
const INCLUDED: &str = "dr-agent.d/";

/// One of nginx's directives, or the end of a block.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Directive(Vec<String>),
    Open(Vec<String>),
    Close,
}

/// The server blocks for HTTP in which something is wrong, each by its name or its address.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// They include no file of the agent.
    pub without: Vec<String>,
    /// They include it behind a directive that can end the rules of the block, of which the fence is one.
    pub late: Vec<String>,
}

/// What is wrong with the server blocks.
#[must_use]
pub fn faults(dump: &str) -> Faults {
    let files = files(dump);
    let main = files.first().map_or("", |(name, _)| name);
    let folder = main.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut reader = Reader { files: &files, folder, ..Reader::default() };
    // The first file includes the others; what it does not, as far as is understood here, is judged by itself.
    for (name, text) in &files {
        if !reader.seen.contains(name) {
            reader.read(name, text);
        }
    }
    reader.faults
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

/// A server block that is being read.
struct Server {
    depth: usize,
    name: Option<String>,
    listen: Option<String>,
    has_include: bool,
    /// The first directive before the include that can keep it from having an effect.
    before: Option<String>,
}

impl Server {
    fn is_told(&mut self, directive: &str) {
        if !self.has_include && matches!(directive, "rewrite" | "return" | "break" | "if") {
            self.before.get_or_insert_with(|| directive.to_owned());
        }
    }
}

/// Reads files in the order in which nginx does: an included one where it is included.
#[derive(Default)]
struct Reader<'a> {
    files: &'a [(&'a str, &'a str)],
    /// Where names without a root begin: the first file's folder.
    folder: &'a str,
    seen: BTreeSet<&'a str>,
    /// The files that are being read, each included by the one before it.
    stack: Vec<&'a str>,
    blocks: Vec<String>,
    server: Option<Server>,
    faults: Faults,
}

impl<'a> Reader<'a> {
    fn read(&mut self, name: &'a str, text: &'a str) {
        self.seen.insert(name);
        self.stack.push(name);
        let outside = self.blocks.len();
        for part in Parts::of(text) {
            match part {
                Part::Open(words) => self.open(words.into_iter().next().unwrap_or_default()),
                // A file ends no block that it did not begin.
                Part::Close if self.blocks.len() == outside => {}
                Part::Close => self.close(),
                Part::Directive(words) => self.directive(&words),
            }
        }
        self.blocks.truncate(outside);
        self.server.take_if(|server| server.depth > outside);
        self.stack.pop();
    }

    /// The server block, where the reader stands in it and in no block inside of it.
    fn server(&mut self) -> Option<&mut Server> {
        self.server.as_mut().filter(|server| server.depth == self.blocks.len())
    }

    fn open(&mut self, name: String) {
        if let Some(server) = self.server() {
            server.is_told(&name);
        }
        let is_http = !self.blocks.iter().any(|block| block == "stream" || block == "mail");
        self.blocks.push(name);
        if is_http && self.blocks.last().is_some_and(|name| name == "server") {
            let depth = self.blocks.len();
            self.server = Some(Server { depth, name: None, listen: None, has_include: false, before: None });
        }
    }

    fn close(&mut self) {
        self.blocks.pop();
        let Some(ended) = self.server.take_if(|server| self.blocks.len() < server.depth) else { return };
        let name = ended.name.or(ended.listen).unwrap_or_else(|| "a server without a name".to_owned());
        match ended.before {
            _ if !ended.has_include => self.faults.without.push(name),
            Some(before) => self.faults.late.push(format!("{name} (`{before}`)")),
            None => {}
        }
    }

    fn directive(&mut self, words: &[String]) {
        let [directive, first] = [0, 1].map(|at| words.get(at).map(String::as_str).unwrap_or_default());
        if let Some(server) = self.server() {
            match directive {
                "server_name" if first != "_" => server.name = Some(first.to_owned()),
                "listen" => server.listen = Some(format!("listen {first}")),
                "include" => server.has_include |= first.contains(INCLUDED),
                other => server.is_told(other),
            }
        }
        if directive == "include" && !first.contains(INCLUDED) {
            self.include(first);
        }
    }

    fn include(&mut self, pattern: &str) {
        let full = if pattern.starts_with('/') { pattern.to_owned() } else { format!("{}/{pattern}", self.folder) };
        let files = self.files;
        for (name, text) in files.iter().filter(|(name, _)| is_like(full.as_bytes(), name.as_bytes())) {
            // A circle is one that nginx refuses.
            if !self.stack.contains(name) {
                self.read(name, text);
            }
        }
    }
}

/// Whether `name` is one of those that `pattern` means, in which `*` and `?` are anything within one folder.
fn is_like(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) if is_like(rest, name) => true,
        (Some((b'*', _)), Some((c, more))) => *c != b'/' && is_like(pattern, more),
        (Some((b'?', rest)), Some((c, more))) => *c != b'/' && is_like(rest, more),
        (Some((p, rest)), Some((c, more))) => p == c && is_like(rest, more),
        _ => false,
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

    fn servers_without(dump: &str) -> Vec<String> {
        faults(dump).without
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

    /// The directives of nginx's rewrite module run in the order in which they stand, also across files.
    #[test]
    fn the_include_comes_before_what_could_end_the_rules() {
        let include = "include /etc/nginx/dr-agent.d/*.conf;";
        for (before, named) in [
            ("rewrite ^/shop/(.*)$ /index last;", "rewrite"),
            ("if ($a) { break; }", "if"),
            ("set $a b; return 301 https://$host; break;", "return"),
            ("break;", "break"),
            ("include snippets/old.conf;", "rewrite"),
        ] {
            let of = |rules: &str| {
                let main = format!("http {{ server {{ listen 80; server_name a; {rules} }} }}");
                faults(&dump(&[
                    ("/etc/nginx/nginx.conf", &main),
                    ("/etc/nginx/snippets/old.conf", "rewrite ^/old /new;"),
                    ("/etc/nginx/dr-agent.d/dr-agent.conf", "rewrite ^ /dr-agent-fence last;"),
                ]))
            };
            let late = Faults { without: Vec::new(), late: vec![format!("a (`{named}`)")] };
            assert_eq!(of(&format!("{before} {include}")), late);
            assert_eq!(of(&format!("{include} {before}")), Faults::default());
            assert_eq!(of(&format!("set $a b; location / {{ {before} }} root /x; {include}")), Faults::default());
            assert_eq!(of(before), Faults { without: vec!["a".to_owned()], late: Vec::new() });
        }
    }

    #[test]
    fn what_does_not_speak_http_needs_none() {
        let text = dump(&[("/etc/nginx/nginx.conf", "stream { server { listen 3306; proxy_pass $x; } } http { }")]);
        assert!(servers_without(&text).is_empty());
        // In files of their own, of which one includes the next.
        let text = dump(&[
            ("/etc/nginx/nginx.conf", "mail { include mail.conf; }\nstream { include /etc/nginx/stream.d/*.conf; }"),
            ("/etc/nginx/mail.conf", "server { listen 25; }"),
            ("/etc/nginx/stream.d/db.conf", "include stream.d/more/*;\nserver { listen 3306; proxy_pass $x; }"),
            ("/etc/nginx/stream.d/more/replica", "server { listen 3307; }"),
        ]);
        assert_eq!(servers_without(&text), [""; 0]);
    }

    #[test]
    fn a_text_that_breaks_off_is_no_trouble() {
        for text in [
            "server {",
            "server { listen \"80",
            "}}}",
            "include",
            "include /x; include;",
            "# configuration file x",
            "server ${",
        ] {
            assert!(servers_without(&dump(&[("/x", text)])).is_empty(), "{text}");
        }
        let text = dump(&[("/x", "stream { include /y; server { listen 1; } }"), ("/y", "}")]);
        assert_eq!(servers_without(&text), [""; 0], "a file that was misread spoils no other");
    }

    #[test]
    fn patterns() {
        let is_like = |pattern: &str, name: &str| is_like(pattern.as_bytes(), name.as_bytes());
        assert!(is_like("/a/*.conf", "/a/b.conf") && is_like("/a/*", "/a/") && is_like("*x*", "yxz"));
        assert!(is_like("/a/?.conf", "/a/b.conf") && is_like("/*/b.*", "/a/b.conf"));
        assert!(!is_like("/a/*.conf", "/a/b.conf.bak") && !is_like("/a", "/ab") && !is_like("/a/?", "/a/"));
        assert!(!is_like("/a/*.conf", "/a/b/c.conf"), "folders are not anything");
    }
}
