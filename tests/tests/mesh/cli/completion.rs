//! `palm-cli completion`, and the man pages.

use super::world::{World, run};
use palm_tests::binary;

/// What bash offers for a line with the cursor at its end.
fn in_bash(world: &World, line: &str) -> Vec<String> {
    let script = format!(
        "palm-cli() {{ '{cli}' \"$@\"; }}
         source <(palm-cli completion bash)
         COMP_LINE='{line}' COMP_POINT={length}
         _palm_cli
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        cli = binary("palm-cli").display(),
        length = line.len(),
    );
    let env = [("PALM_ETCD", &*world.etcd.endpoint())];
    let said = run("bash", &["-c", &script], &env, b"").done();
    let lines = said.lines().filter(|line| !line.is_empty());
    lines.map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_servers_and_functions() {
    let world = World::new();
    let text = world.server_of("text", "");
    for (line, candidates) in [
        ("palm-cli stat", &["status", "stats"][..]),
        ("palm-cli status --wa", &["--watch"]),
        ("palm-cli --tls=re", &["required"]),
        ("palm-cli status ", &["text"]),
        ("palm-cli call ", &["text.count", "text.shout"]),
        (
            "palm-cli job text.count,te",
            &["text.count,text.count", "text.count,text.shout"],
        ),
        ("palm-cli call text.shout ", &[]),
        ("palm-cli frobnicate ", &[]),
    ] {
        assert_eq!(in_bash(&world, line), candidates, "{line}");
    }
    let begun = format!("palm-cli rm {}", &text.uuid[..4]);
    assert_eq!(in_bash(&world, &begun), [text.uuid.as_str()]);
    // Without etcd there are no servers to offer, and nothing is said.
    let nowhere = "palm-cli --etcd http://127.0.0.1:1 status ";
    assert_eq!(in_bash(&world, nowhere), [""; 0]);
}

#[test]
fn every_shell_has_a_script() {
    let nowhere = [("PALM_ETCD", "http://127.0.0.1:1")];
    for shell in ["bash", "zsh", "fish"] {
        let script = run(binary("palm-cli"), &["completion", shell], &nowhere, b"").done();
        assert!(script.contains("__complete"), "{shell}: {script}");
        // Where the shell is installed, it must accept the script.
        let check = format!("command -v {shell} >/dev/null || exit 0; {shell} -n");
        run("bash", &["-c", &check], &[], script.as_bytes()).done();
    }
    let words = run(binary("palm-cli"), &["completion", "csh"], &nowhere, b"").failed(2);
    assert!(words.contains("bash, zsh and fish"), "{words}");
}

#[test]
fn man_pages_have_every_command_and_option() {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let path = folder.path().to_str().expect("text");
    run(binary("palm-cli"), &["__man", path], &[], b"").done();
    let page = |name: &str| {
        let path = folder.path().join(format!("{name}.1"));
        let text = std::fs::read_to_string(&path).expect("a page");
        let lint = "command -v groff >/dev/null || exit 0; groff -man -z 2>&1";
        let complaints = run("bash", &["-c", lint], &[], text.as_bytes()).done();
        assert_eq!(complaints, "", "{name}");
        text.replace("\\-", "-").replace("\\&", "")
    };
    let overview = page("palm-cli");
    let commands = [
        "status",
        "rm",
        "reset",
        "call",
        "job",
        "wait",
        "stats",
        "logs",
        "metrics",
        "completion",
    ];
    for command in commands {
        assert!(
            overview.contains(&format!("palm-cli-{command}(1)")),
            "{overview}"
        );
        let help = run(binary("palm-cli"), &[command, "--help"], &[], b"").done();
        let text = page(&format!("palm-cli-{command}"));
        let words = help
            .split_whitespace()
            .filter(|word| word.starts_with("--"));
        for option in words.map(|word| word.trim_end_matches([',', ';', ')', ']'])) {
            assert!(text.contains(option), "{command} {option}: {text}");
        }
    }
}
