//! Where cargo put the programs that a test starts.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

const BUILD: &str = "cargo build --workspace --bins --examples";

/// The program `name` of this workspace, of the profile that the running test has.
///
/// # Panics
///
/// When it is not there: cargo builds a test's own package only, so the others must be built before.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    built(&[name])
}

/// The example `name` of this workspace, of the profile that the running test has.
///
/// # Panics
///
/// As [`binary`].
#[must_use]
pub fn example(name: &str) -> PathBuf {
    built(&["examples", name])
}

/// The file of the repository at `path`, from its top level.
#[must_use]
pub fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A Python that has pyzmq; `None` where there cannot be one, which it says aloud, so that the test can pass it over.
///
/// # Panics
///
/// When nobody has tried to make one.
#[must_use]
pub fn python() -> Option<PathBuf> {
    let made = made_python("python");
    if let Err(why) = &made {
        assert!(why.starts_with("SKIPPED"), "{why}");
        eprintln!("{why}");
    }
    made.ok()
}

/// The Python that `scripts/NAME` made: `target/NAME/bin/python`.
///
/// # Errors
///
/// Why it is not there, in words: what the script said, or that nobody has run it.
pub fn made_python(name: &str) -> Result<PathBuf, String> {
    let profile = profile();
    let target = profile.parent().expect("a profile within the target folder");
    if let Ok(why) = fs::read_to_string(target.join(format!("{name}-skipped"))) {
        return Err(why.trim_end().to_owned());
    }
    let python = target.join(name).join("bin/python");
    if python.exists() { Ok(python) } else { Err(format!("run `scripts/{name}` first")) }
}

fn built(tail: &[&str]) -> PathBuf {
    let path = profile().join(tail.iter().collect::<PathBuf>());
    assert!(path.is_file(), "{} is missing: run `{BUILD}` first", path.display());
    path
}

/// The folder of the profile that the running test was built with, such as `target/debug`.
fn profile() -> PathBuf {
    let test = env::current_exe().expect("the path of the running test");
    let deps = test.ancestors().find(|folder| folder.ends_with("deps"));
    let profile = deps.and_then(Path::parent);
    profile.expect("a test that runs from the folder `deps` of a profile").to_owned()
}
