//! `dr-agent authority`, `fence`, `drill` and `key`: who owns the data, and what a person may do about it.

use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal, Write as _};
use std::path::Path;
use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use super::time::show_span;
use super::{AuthorityCommand, Exit, FenceCommand, Format, client, close, render};
use crate::authority::lag::seconds;
use crate::authority::notice::Notice;
use crate::authority::run::Order;
use crate::group::keys;

pub(super) fn authority(socket: &Path, command: AuthorityCommand) -> Exit {
    match command {
        AuthorityCommand::Show(args) => show(socket, args.format),
        AuthorityCommand::Init(args) => {
            if args.force && !confirmed("init without knowing the other region", args.yes.as_deref()) {
                return Exit::Usage;
            }
            obey(socket, &Order::Init { reason: args.reason, force: args.force })
        }
        AuthorityCommand::Claim(args) => {
            if !confirmed("claim", args.yes.as_deref()) {
                return Exit::Usage;
            }
            obey(socket, &Order::Claim { reason: args.reason })
        }
    }
}

pub(super) fn fence(socket: &Path, command: FenceCommand) -> Exit {
    match command {
        FenceCommand::Status(args) => show(socket, args.format),
        FenceCommand::Close(args) => {
            let seconds = args.span.as_secs();
            let exit = obey(socket, &Order::Close { reason: args.reason, seconds, is_drill: false, force: false });
            if exit != Exit::Ok {
                return exit;
            }
            render::note(format_args!("it ends by itself in {}", show_span(args.span)));
            render::hint("`dr-agent fence release` ends it; leaving this command does not");
            if args.detach {
                return Exit::Ok;
            }
            client::block_on(close::watch(socket)).unwrap_or_else(|error| error.show())
        }
        FenceCommand::Release(args) => release(socket, &args.reason, args.yes.as_deref()),
    }
}

/// The end of a planned close is asked for first; where that is not all that closes, a person must say what is lost.
fn release(socket: &Path, reason: &str, yes: Option<&str>) -> Exit {
    let order = |loses| Order::Release { reason: reason.to_owned(), loses };
    match client::block_on(ask(socket, &order(false))) {
        Err(client::Error::Refused { text, .. }) if text.starts_with("this is a claim") => {
            render::note(text);
            if confirmed("release", yes) { obey(socket, &order(true)) } else { Exit::Usage }
        }
        answer => told(answer),
    }
}

/// The region answers as if it were closed.
pub(super) fn drill(socket: &Path, reason: String, span: Duration, force: bool) -> Exit {
    let exit = obey(socket, &Order::Close { reason, seconds: span.as_secs(), is_drill: true, force });
    if exit == Exit::Ok {
        let span = show_span(span);
        render::note(format_args!("the region answers 503 for {span}; users of this region are still served"));
    }
    exit
}

/// A key for `key_file`, on stdout.
pub(super) fn generate_key() -> Exit {
    let (Some(one), Some(two)) = (keys::nonce(), keys::nonce()) else {
        render::errors(&["the system has no randomness to give".to_owned()]);
        return Exit::Unknown;
    };
    render::data(&format!("{one}{two}\n"));
    Exit::Ok
}

/// The word that a person must type, or has given on the command line: it cannot be a habit.
fn confirmed(word: &str, given: Option<&str>) -> bool {
    let is_same = |text: &str| text.trim() == word;
    if let Some(given) = given {
        return is_same(given) || {
            render::errors(&[format!("`--yes` must be: {word}")]);
            false
        };
    }
    if !std::io::stdin().is_terminal() {
        render::errors(&[format!("this cannot be taken back: say `--yes '{word}'`")]);
        return false;
    }
    render::note(format_args!("this cannot be taken back. Type `{word}` to do it:"));
    drop(std::io::stderr().flush());
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    read.is_ok() && is_same(&line)
}

async fn ask(socket: &Path, order: &Order) -> Result<Value, client::Error> {
    // A structure of texts and numbers always becomes JSON.
    let body = serde_json::to_vec(order).unwrap_or_default();
    let answer = client::ask(socket, Method::POST, "/authority", body).await?;
    serde_json::from_slice(&answer).map_err(client::Error::Unreadable)
}

fn obey(socket: &Path, order: &Order) -> Exit {
    told(client::block_on(ask(socket, order)))
}

fn told(answer: Result<Value, client::Error>) -> Exit {
    match answer {
        Ok(value) => {
            render::data(&text(&value["authority"]));
            Exit::Ok
        }
        Err(error) => error.show(),
    }
}

/// All about authority, as JSON.
pub(super) async fn shown(socket: &Path) -> Result<Value, client::Error> {
    let mut answer = ask(socket, &Order::Show).await?;
    Ok(answer["authority"].take())
}

fn show(socket: &Path, format: Format) -> Exit {
    match client::block_on(shown(socket)) {
        Ok(shown) => {
            render::data(&match format {
                Format::Json => format!("{shown:#}\n"),
                Format::Text => text(&shown),
            });
            match shown["summary"]["state"].as_str() {
                Some("SUPERSEDED") => Exit::Unhealthy,
                Some("AMBIGUOUS" | "UNCLAIMED") => Exit::Degraded,
                _ => Exit::Ok,
            }
        }
        Err(error) => error.show(),
    }
}

fn text(shown: &Value) -> String {
    let mut out = String::new();
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        value => value.to_string(),
    };
    let claim = |value: &Value| match value["epoch"].as_u64() {
        Some(epoch) => format!("epoch {epoch} of {}", word(&value["region"])),
        None => "none".to_owned(),
    };
    let summary = &shown["summary"];
    let since = shown["since"].as_str().map(|since| format!(", since {since}")).unwrap_or_default();
    let lines = [
        ("state", word(&summary["state"]) + &since),
        ("region", format!("{}, the other one is {}", word(&shown["region"]), word(&shown["other"]))),
        ("gate", word(&shown["gate"])),
        ("database here", word(&summary["role"])),
        ("its newest row", claim(&shown["own"]["claim"])),
        ("highest known", claim(&shown["known"])),
        ("promoted", word(&summary["promoted"])),
        ("automatic claim", word(&summary["claim"])),
    ];
    for (name, value) in lines {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{name:<16} {}", render::wrap(&value, 17));
    }
    for (name, list) in [("because", &summary["why"]), ("alarm", &summary["alarms"]), ("problem", &shown["problems"])] {
        for value in list.as_array().into_iter().flatten() {
            let _ = writeln!(out, "{name:<16} {}", render::wrap(&word(value), 17));
        }
    }
    if let Some(seconds) = shown["lag"]["ms"].as_u64().map(seconds) {
        let _ = writeln!(out, "{:<16} {seconds:.1} s, by the {}", "replica lag", word(&shown["lag"]["by"]));
    }
    if let Ok(notice) = serde_json::from_value::<Notice>(shown["notice"].clone()) {
        let since = notice.since.map_or_else(|| "-".to_owned(), |since| since.to_string());
        for (name, text) in [("what happened", &notice.happened), ("since", &since), ("what is lost", &notice.lost)] {
            let _ = writeln!(out, "{name:<16} {}", render::wrap(text, 17));
        }
        for next in &notice.next {
            let _ = writeln!(out, "{:<16} {}", "what to do", render::wrap(next, 17));
        }
    }
    let close = &shown["close"]["progress"];
    if !close["until"].is_null() {
        let open = close["open"].as_array().map_or(0, Vec::len);
        let _ = writeln!(out, "{:<16} until {}", "planned close", word(&close["until"]));
        let _ = writeln!(out, "{:<16} {open}", "not closed yet");
        let silent = close["silent"].as_array().map_or(0, Vec::len);
        let _ = writeln!(out, "{:<16} {silent}", "do not answer");
        let _ = writeln!(out, "{:<16} {}", "other stopped", word(&close["other_stopped"]));
        let _ = writeln!(out, "{:<16} {}", "old sessions", word(&close["sessions"]));
        let _ = writeln!(out, "{:<16} {}", "nobody writes", word(&close["quiet"]));
        let _ = writeln!(out, "{:<16} {}", "replica has all", word(&close["has_all"]));
        let now = shown["close"]["promote_now"].as_bool() == Some(true);
        let _ = writeln!(out, "{:<16} {}", "promote now", if now { "yes" } else { "not yet" });
    }
    out
}

/// What an order may take: two rounds of all sources and a claim between them. The agent gives itself 18 s.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_closes_this_region_is_said_with_what_to_do() {
        let notice = Notice {
            happened: "epoch 2 is us-east-1's".to_owned(),
            since: Some("2026-11-24T21:42:07Z".parse().unwrap()),
            lost: "nothing".to_owned(),
            next: vec!["look".to_owned(), "rebuild".to_owned()],
        };
        let shown = serde_json::json!({
            "summary": {"state": "SUPERSEDED", "role": "superseded", "promoted": false, "claim": "Superseded: x"},
            "region": "ap-south-1", "other": "us-east-1", "gate": "closed: users get 503", "known": {"epoch": 2, "region": "us-east-1"},
            "own": {"claim": {"epoch": 1, "region": "ap-south-1"}}, "since": "2026-11-24T21:42:08Z",
            "notice": notice, "problems": [], "close": {"progress": {"until": null}},
        });
        insta::assert_snapshot!(text(&shown), @r"
        state            SUPERSEDED, since 2026-11-24T21:42:08Z
        region           ap-south-1, the other one is us-east-1
        gate             closed: users get 503
        database here    superseded
        its newest row   epoch 1 of ap-south-1
        highest known    epoch 2 of us-east-1
        promoted         false
        automatic claim  Superseded: x
        what happened    epoch 2 is us-east-1's
        since            2026-11-24T21:42:07Z
        what is lost     nothing
        what to do       look
        what to do       rebuild
        ");
    }
}
