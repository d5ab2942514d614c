use super::*;
use palm_peer::ServerStatus;

const ONE: &str = "e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4";

fn entry(server: &str, functions: &str) -> ServerEntry {
    let stored = format!(
        r#"{{"host": "127.0.0.1", "pid": 1, "when": "2016-02-16T11:28:59.088608", "leader": null,
        "server": "{server}", "ports": [5555], "kind": "registered", "functions": {functions},
        "uuid": "{ONE}", "configured": true}}"#
    );
    ServerEntry::new(format!("/servers/{ONE}"), stored, ServerStatus::Configured)
}

/// The candidates for a line that ends in the word that is typed.
fn completed(line: &str) -> Vec<String> {
    let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
    let typed = words.last().expect("a word").clone();
    let candidates = match wanted(&words) {
        Wanted::These(candidates) => candidates,
        Wanted::OfMesh(names, before) => {
            let entries = [entry("text", r#"["shout", "count", "_ping"]"#)];
            let candidates = names.candidates(&entries, &typed).into_iter();
            candidates
                .map(|candidate| candidate.behind(&before))
                .collect()
        }
    };
    let texts = candidates.into_iter().map(|candidate| candidate.text);
    texts.filter(|text| text.starts_with(&typed)).collect()
}

#[test]
fn a_line_is_completed_by_what_can_follow() {
    for (line, candidates) in [
        ("st", &["status", "stats"][..]),
        ("--prefix /x statu", &["status"]),
        ("--tls ", &["auto", "off", "required"]),
        ("status --tls=r", &["--tls=required"]),
        ("status --w", &["--watch", "--wide"]),
        ("status --et", &["--etcd"]),
        ("status ", &["text"]),
        ("status te", &["text"]),
        ("status e5c", &[ONE]),
        ("rm ", &[ONE]),
        ("wait text=2 ", &["text"]),
        ("call ", &["text.count", "text.shout"]),
        ("call text._", &["text._ping"]),
        ("call --timeout 2s text.sh", &["text.shout"]),
        ("call text.shout ", &[]),
        ("call text.shout -- ", &[]),
        (
            "job text.shout,te",
            &["text.shout,text.count", "text.shout,text.shout"],
        ),
        ("completion ", &["bash", "zsh", "fish"]),
        ("help st", &["status", "stats"]),
        ("frobnicate ", &[]),
    ] {
        assert_eq!(completed(line), candidates, "{line:?}");
    }
    let one = format!("{ONE}.shout");
    assert_eq!(
        completed("call e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4.s"),
        [one]
    );
}

#[test]
fn every_command_and_option_can_be_completed() {
    let commands = completed("");
    for command in info().commands {
        assert!(commands.contains(&command.name.to_owned()));
        let options = completed(&format!("{} --", command.name));
        for flag in command.command.flags {
            assert!(
                options.contains(&flag.long.to_owned()),
                "{} {}",
                command.name,
                flag.long
            );
        }
        for setting in mesh_settings() {
            assert!(options.contains(&setting.flag()), "{}", setting.name);
        }
    }
}
