//! The subjects in Python: pyzmq's echo, and pylm. Their clients print figures as one line of JSON.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use palm_tests::{Process, free_port, made_python};
use serde_json::Value;

use crate::{
    Outcome,
    measure::{Load, Subject, Turn},
};

const SOON: Duration = Duration::from_secs(30);

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("benches/table")
        .join(name)
}

/// Returns the output of a line of code in the Python of this name; `None` if it is not installed.
pub(crate) fn says(name: &str, code: &str) -> Option<String> {
    let output = Command::new(made_python(name).ok()?)
        .args(["-c", code])
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A server in Python, and the script that loads it.
pub(crate) struct Python {
    interpreter: PathBuf,
    script: PathBuf,
    endpoint: String,
    _server: Process,
}

impl Python {
    /// A ROUTER of pyzmq that echoes.
    pub(crate) fn pyzmq() -> Outcome<Self> {
        let (interpreter, script) = (made_python("python")?, script("echo.py"));
        let server = Process::builder(&interpreter)
            .arg(&script)
            .arg("serve")
            .start();
        let (endpoint, _) = server.wait_for_line(|line| line.starts_with("tcp://"), SOON);
        Ok(Self {
            interpreter,
            script,
            endpoint,
            _server: server,
        })
    }

    /// A server of pylm with its own function `echo`.
    pub(crate) fn pylm() -> Outcome<Self> {
        let (interpreter, script) = (made_python("pylm")?, script("original.py"));
        let [cache, pull, publish] = [(); 3].map(|()| format!("tcp://127.0.0.1:{}", free_port()));
        let server = Process::builder(&interpreter).arg(&script).args([
            "serve",
            cache.as_str(),
            pull.as_str(),
            publish.as_str(),
        ]);
        let server = server.start();
        server.wait_for_line(|line| line == "ready", SOON);
        Ok(Self {
            interpreter,
            script,
            endpoint: cache,
            _server: server,
        })
    }
}

impl Subject for Python {
    fn turn(&mut self, load: &Load) -> Outcome<Turn> {
        let numbers = [
            load.in_flight().to_string(),
            load.size().to_string(),
            load.time.as_secs_f64().to_string(),
        ];
        let client = Process::builder(&self.interpreter)
            .arg(&self.script)
            .args(["ask", self.endpoint.as_str()])
            .args(&numbers)
            .start();
        let (line, _) = client.wait_for_line(|line| line.starts_with('{'), SOON + load.time);
        let figures: Value = serde_json::from_str(&line)?;
        let figure = |name| figures[name].as_f64().unwrap_or(f64::NAN);
        Ok(Turn {
            p50: figure("p50"),
            p99: figure("p99"),
            per_second: figure("per_second"),
            count: figure("count"),
            ended: figure("cpu"),
            cpu: f64::NAN,
            load: f64::NAN,
        })
    }
}
