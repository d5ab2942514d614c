use super::*;

fn parsed(line: &str) -> Result<Parsed, CliError> {
    parse(line.split_whitespace().map(OsString::from))
}

fn args(line: &str) -> CommandLine {
    match parsed(line) {
        Ok(Parsed::Line(line)) => line,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn options_may_stand_on_either_side_of_the_command() {
    for line in [
        "--etcd http://a:1 --prefix /x status",
        "status --etcd http://a:1 --prefix=/x",
    ] {
        let given: Vec<_> = args(line)
            .flags
            .into_iter()
            .map(|(setting, value)| (setting.name, value))
            .collect();
        assert_eq!(
            given,
            [
                ("etcd", "http://a:1".to_owned()),
                ("prefix", "/x".to_owned())
            ],
            "{line}"
        );
    }
}

#[test]
fn a_payload_may_look_like_an_option() {
    for (line, payload, timeout) in [
        ("call a.b", None, None),
        ("call a.b x=y", Some("x=y"), None),
        ("call a.b -", Some("-"), None),
        ("call a.b - --timeout 3", Some("-"), Some("3")),
        ("call --timeout=3 a.b -- --etcd", Some("--etcd"), Some("3")),
    ] {
        let Command::Call(call) = args(line).command else {
            panic!("{line}")
        };
        assert_eq!(
            (call.payload.as_deref(), call.timeout.as_deref()),
            (payload, timeout),
            "{line}"
        );
    }
}

#[test]
fn job_limits_default_to_the_librarys() {
    for (line, window, attempts) in [
        ("job a.b", 1024, 3),
        ("job a.b,c.d --window=1 --attempts 1", 1, 1),
    ] {
        let Command::Job(job) = args(line).command else {
            panic!("{line}")
        };
        assert_eq!(
            (job.window.get(), job.attempts.get()),
            (window, attempts),
            "{line}"
        );
    }
    for line in [
        "job a.b --window 0",
        "job a.b --window many",
        "job a.b --attempts 0",
        "job a.b --attempts -1",
    ] {
        assert!(matches!(parsed(line), Err(CliError::Usage(_))), "{line}");
    }
}

#[test]
fn nonsense_on_the_command_line_is_a_usage_error() {
    for line in [
        "",
        "stat",
        "status --wacht",
        "rm",
        "rm a b",
        "reset --yes=1",
        "call",
        "call a.b c d",
        "job",
        "job a.b c",
    ] {
        assert!(matches!(parsed(line), Err(CliError::Usage(_))), "{line}");
    }
    for line in ["status --wide --json", "status a --json --watch"] {
        let Command::Status(status) = args(line).command else {
            panic!("{line}")
        };
        assert!(matches!(status.check(), Err(CliError::Usage(_))), "{line}");
    }
}

#[test]
fn help_has_every_setting_of_the_mesh() {
    for line in ["--help", "status --help"] {
        let Ok(Parsed::Text(help)) = parsed(line) else {
            panic!("{line}")
        };
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for setting in mesh_settings() {
            assert!(
                help.contains(&format!(
                    "{} {} (default {})",
                    setting.flag(),
                    setting.help,
                    setting.default
                )),
                "{line}: {}: {help}",
                setting.name
            );
        }
    }
    let timeout = Config::SETTINGS
        .iter()
        .find(|setting| setting.name == "timeout")
        .expect("a setting");
    for line in ["call --help", "job --help"] {
        let Ok(Parsed::Text(help)) = parsed(line) else {
            panic!("{line}")
        };
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            help.contains(&format!("PALM_TIMEOUT, or {})", timeout.default)),
            "{line}: {help}"
        );
    }
    assert!(
        matches!(parsed("status --etcd"), Err(CliError::Usage(_))),
        "a flag needs its value"
    );
    assert!(
        matches!(
            parsed("status --prefix /a --prefix /b"),
            Err(CliError::Usage(_))
        ),
        "a flag is given once"
    );
}

#[test]
fn help_and_version_are_no_errors() {
    for line in [
        "--help",
        "-h",
        "help",
        "status --help",
        "status -h",
        "help status",
    ] {
        let Ok(Parsed::Text(help)) = parsed(line) else {
            panic!("{line}")
        };
        assert!(help.starts_with("Usage: palm-cli"), "{line}: {help}");
    }
    let version = concat!("palm-cli ", env!("CARGO_PKG_VERSION"));
    for line in ["--version", "-V", "status -V"] {
        assert!(
            matches!(parsed(line), Ok(Parsed::Text(text)) if text == version),
            "{line}"
        );
    }
}

#[test]
fn errors_say_what_was_probably_meant() {
    for (line, message) in [
        (
            "stauts",
            "unknown command stauts (did you mean status?); there are status, ",
        ),
        ("help stauts", "(did you mean status?)"),
        (
            "version",
            "unknown command version (did you mean --version?)",
        ),
        (
            "frobnicate",
            "unknown command frobnicate; there are status, ",
        ),
        ("", "no command is given; there are status, "),
        (
            "status --wacht",
            "unknown option --wacht of status (did you mean --watch?)\nRun palm-cli status --help",
        ),
        (
            "status --ectd x",
            "unknown option --ectd of status (did you mean --etcd?)",
        ),
        (
            "--ectd x status",
            "unknown option --ectd (did you mean --etcd?)",
        ),
        ("status --colour", "unknown option --colour of status\n"),
        (
            "call a.b -5",
            "unknown option -5; a payload that begins with a dash goes after --, as in: palm-cli call TARGET -- -5",
        ),
        (
            "call a.b --timeout",
            "No value provided for option '--timeout'",
        ),
        ("status --etcd", "the option --etcd needs a value"),
    ] {
        match parsed(line) {
            Err(CliError::Usage(words)) => assert!(words.contains(message), "{line}: {words}"),
            other => panic!("{line}: {other:?}"),
        }
    }
}
