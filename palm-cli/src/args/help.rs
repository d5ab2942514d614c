//! The part of the help that is the same for all commands.

use super::mesh_settings;

/// Where the texts begin, and how wide a line is: as in argh's layout.
const INDENT: usize = 20;
const WIDTH: usize = 80;

/// Returns the options that all commands have.
pub(super) fn options() -> String {
    let settings = mesh_settings().map(|setting| {
        let text = format!("{} (default {})", setting.help, setting.default);
        (setting.flag(), text)
    });
    let version = ("-V, --version".to_owned(), "print the version".to_owned());
    let mut help = "\nOptions, before or after the command:\n".to_owned();
    for (name, text) in settings.chain([version]) {
        let mut line = format!("  {name:<width$}", width = INDENT - 2);
        for word in text.split(' ') {
            if line.len() + word.len() >= WIDTH {
                help.push_str(line.trim_end());
                help.push('\n');
                line = " ".repeat(INDENT);
            }
            line.push_str(word);
            line.push(' ');
        }
        help.push_str(line.trim_end());
        help.push('\n');
    }
    help
}
