//! The paths of the programs that tests start.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

const BUILD: &str = "cargo build --workspace --bins --examples";

/// Returns the path of the program `name` of this workspace, in the profile of the running test.
///
/// # Panics
///
/// When it is missing: cargo only builds the test's own package, so the others must
/// be built before.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    built(&[name])
}

/// Returns the path of the example `name` of this workspace, in the profile of the running test.
///
/// # Panics
///
/// As [`binary`].
#[must_use]
pub fn example(name: &str) -> PathBuf {
    built(&["examples", name])
}

/// Returns the file of the repository at `path`, from its top level.
#[must_use]
pub fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Returns a Python with pyzmq; `None` if there cannot be one, which is printed, so that the
/// test can be skipped.
///
/// # Panics
///
/// When `scripts/python` was not run.
#[must_use]
pub fn python() -> Option<PathBuf> {
    let made = made_python("python");
    if let Err(why) = &made {
        assert!(why.starts_with("SKIPPED"), "{why}");
        eprintln!("{why}");
    }
    made.ok()
}

/// Returns the Python that `scripts/NAME` made: `target/NAME/bin/python`.
///
/// # Errors
///
/// Why it is missing: the message of the script, or that it was not run.
pub fn made_python(name: &str) -> Result<PathBuf, String> {
    let profile = profile();
    let target = profile
        .parent()
        .expect("a profile within the target folder");
    if let Ok(why) = fs::read_to_string(target.join(format!("{name}-skipped"))) {
        return Err(why.trim_end().to_owned());
    }
    let python = target.join(name).join("bin/python");
    if python.exists() {
        Ok(python)
    } else {
        Err(format!("run `scripts/{name}` first"))
    }
}

fn built(tail: &[&str]) -> PathBuf {
    let path = profile().join(tail.iter().collect::<PathBuf>());
    assert!(
        path.is_file(),
        "{} is missing: run `{BUILD}` first",
        path.display()
    );
    path
}

/// Returns the directory of the running test's profile, such as `target/debug`.
fn profile() -> PathBuf {
    let test = env::current_exe().expect("the path of the running test");
    let deps = test.ancestors().find(|folder| folder.ends_with("deps"));
    let profile = deps.and_then(Path::parent);
    profile
        .expect("a test that runs from the folder `deps` of a profile")
        .to_owned()
}
