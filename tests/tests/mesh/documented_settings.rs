//! The tables of settings in the documentation are those of the program. `UPDATE_DOCS=1`
//! writes them anew.

use palm_peer::{Config, Setting, SettingScope};
use std::{collections::BTreeSet, env, fs, path::PathBuf};

const BEGIN: &str = "<!-- settings: made by UPDATE_DOCS=1 cargo test -p palm-tests --test mesh documented_settings -->\n";
const END: &str = "<!-- end of settings -->\n";

/// Variables that are no settings of [`Config`].
const OTHERS: [&str; 10] = [
    "PALM_",
    "PALM_ARGS",
    "PALM_LOG",
    "PALM_LOG_FORMAT",
    "PALM_PORTS",
    "PALM_PROBE_PERIODE",
    "PALM_SERVER",
    "PALM_TEST_PANIC",
    "PALM_TESTS_PYTHON",
    "PALM_TEST_TLS",
];

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(name)
}

fn shown(default: &str) -> String {
    let is_plain = default == "none" || default.contains(' ') || default.parse::<u64>().is_ok();
    if is_plain {
        default.to_owned()
    } else {
        format!("`{default}`")
    }
}

fn row(setting: &Setting, with_value: bool) -> String {
    let value = if with_value {
        format!(" {}", setting.value.to_uppercase())
    } else {
        String::new()
    };
    let description = setting
        .description
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let description = description.trim_end_matches('.').replace('|', "\\|");
    format!(
        "| `{}{value}` | `{}` | {} | {description} |\n",
        setting.flag(),
        setting.variable(),
        shown(setting.default)
    )
}

fn table(head: &str, settings: impl Iterator<Item = &'static Setting>, with_value: bool) -> String {
    let rows: String = settings.map(|setting| row(setting, with_value)).collect();
    format!("| {head} | variable | default | what |\n|---|---|---|---|\n{rows}")
}

/// Compares what is between the marks with the table, or writes it there.
fn check(name: &str, table: &str) {
    let text = fs::read_to_string(path(name)).expect(name);
    let (head, rest) = text.split_once(BEGIN).expect("the mark before the table");
    let (found, tail) = rest.split_once(END).expect("the mark behind the table");
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path(name), format!("{head}{BEGIN}\n{table}\n{END}{tail}")).expect(name);
    } else {
        assert_eq!(
            found.trim(),
            table.trim(),
            "{name} is not up to date: run the test once with UPDATE_DOCS=1"
        );
    }
}

#[test]
fn operations_has_the_table_of_all_settings() {
    check(
        "docs/operations.md",
        &table("flag", Config::SETTINGS.iter(), false),
    );
}

#[test]
fn cli_has_the_table_of_the_meshs_settings() {
    check(
        "docs/cli.md",
        &table(
            "option",
            Config::SETTINGS
                .iter()
                .filter(|setting| setting.scope == SettingScope::Mesh),
            true,
        ),
    );
}

#[test]
fn every_variable_in_the_documentation_exists() {
    let known: BTreeSet<String> = Config::SETTINGS.iter().map(Setting::variable).collect();
    let folder = |name: &str| {
        fs::read_dir(path(name))
            .expect(name)
            .map(|file| file.expect("a file").path())
    };
    let mut files = vec![
        path("README.md"),
        path("ARCHITECTURE.md"),
        path("CONTRIBUTING.md"),
        path("CHANGELOG.md"),
    ];
    files.extend(folder("docs"));
    files.extend(folder("systemd"));
    for file in files.into_iter().filter(|file| file.is_file()) {
        let text = fs::read_to_string(&file).expect("text");
        for (pos, _) in text.match_indices("PALM_") {
            let name: String = text[pos..]
                .chars()
                .take_while(|c| c.is_ascii_uppercase() || *c == '_')
                .collect();
            let exists = known.contains(&name) || OTHERS.contains(&name.as_str());
            assert!(
                exists,
                "{} speaks of {name}, which is no setting",
                file.display()
            );
        }
    }
}
