//! A private systemd, booted in separate namespaces.
//!
//! It shares the machine's programs and network, but not its units, journal, `/run` or `/tmp`, and
//! changes nothing outside. It runs systemd, journald and the units of the test.

use std::{
    fmt, fs,
    io::{self, BufRead, BufReader},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::symlink,
            net::{SocketAddr, UnixDatagram},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long a boot may take before it counts as impossible here.
const BOOT: Duration = Duration::from_secs(30);
/// How long one command inside may take, in seconds.
const COMMAND: &str = "90";
/// Where the units lie, inside.
const UNITS: &str = "etc/systemd/system";

/// The least that systemd, journald and a service with default dependencies ask for.
const BASE: &[(&str, &str)] = &[
    (
        "basic.target",
        "[Unit]\nRequires=sysinit.target\nAfter=sysinit.target\n",
    ),
    (
        "multi-user.target",
        "[Unit]\nRequires=basic.target\nAfter=basic.target\n",
    ),
    ("network-online.target", ""),
    ("shutdown.target", "[Unit]\nDefaultDependencies=no\n"),
    (
        "sysinit.target",
        "[Unit]\nDefaultDependencies=no\nRequires=systemd-journald.service\nAfter=systemd-journald.service\n",
    ),
    (
        "systemd-journald.socket",
        "[Unit]\nDefaultDependencies=no\n[Socket]\nListenDatagram=/run/systemd/journal/socket\n\
         ListenStream=/run/systemd/journal/stdout\nPassCredentials=yes\nReceiveBuffer=8M\n",
    ),
];

/// Keeps the journal in the private `/run`, whole, and off the kernel's own log and audit.
const JOURNALD: &str = "[Journal]\nStorage=volatile\nAudit=\nReadKMsg=no\nRateLimitIntervalSec=0\nForwardToSyslog=no\n";
/// No core files: a watchdog's SIGABRT would write one.
const MANAGER: &str = "[Manager]\nDefaultLimitCORE=0\n";

/// Why this machine cannot boot a private systemd: it is not there, or the namespaces
/// are not allowed.
#[derive(Debug)]
pub struct Unavailable(String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no private systemd here: {}", self.0)
    }
}

impl std::error::Error for Unavailable {}

/// What a file inside holds.
#[derive(Debug, Clone, Copy)]
pub enum Holds<'a> {
    /// This text.
    Text(&'a str),
    /// A copy of this file of the machine's, with its mode.
    CopyOf(&'a Path),
}

/// A running private systemd. Dropping it ends every process in it, and removes everything.
#[derive(Debug)]
pub struct PrivateSystemd {
    /// Lives for as long as its standard input does, and cleans up after that.
    holder: Child,
    init: String,
    _dir: TempDir,
}

impl PrivateSystemd {
    /// Boots with these units (name, or `name.d/file.conf` for a drop-in, and text) and files (path
    /// and what it holds).
    ///
    /// The network is the machine's, so that a server started outside is reached on 127.0.0.1 as
    /// ever. Returns once systemd says that it has booted.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] where namespaces, mounts or systemd are not to be had: the test should
    /// say so and return.
    ///
    /// # Panics
    ///
    /// When a file's path is not below `/etc` or `/usr/local/lib`, or the temporary folder
    /// cannot be written.
    pub fn boot(units: &[(&str, &str)], files: &[(&str, Holds<'_>)]) -> Result<Self, Unavailable> {
        let init = program("systemd")?;
        let journald = program("systemd-journald")?;
        let dir = TempDir::with_prefix("palm-systemd-").expect("a temporary folder");
        stage(dir.path(), &journald, units, files).expect("writing the private systemd's files");

        // The cgroup and the socket take the folder's name, which is unique.
        let name = dir
            .path()
            .file_name()
            .expect("a folder has a name")
            .to_owned();
        let ready = SocketAddr::from_abstract_name(name.as_encoded_bytes())
            .and_then(|address| UnixDatagram::bind_addr(&address))
            .expect("a socket for systemd's READY=1");
        ready
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("a time-out that is not zero");

        let log = dir.path().join("log");
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh"])
            .arg(dir.path().join("outside.sh"))
            .args([dir.path(), Path::new(&name), &init])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).expect("the log of the boot"))
            .process_group(0) // Ctrl-C is for the test; this one cleans up when the test is gone.
            .spawn()
            .map_err(|error| Unavailable(format!("unshare: {error}")))?;
        let log = fs::File::open(&log).expect("the log of the boot");

        let mut pid = String::new();
        let _ = BufReader::new(holder.stdout.take().expect("piped")).read_line(&mut pid);
        let systemd = Self {
            holder,
            init: pid.trim().into(),
            _dir: dir,
        };
        match systemd.booted(&ready) {
            Ok(()) => Ok(systemd),
            Err(what) => {
                drop(systemd);
                let said = io::read_to_string(log).unwrap_or_default();
                Err(Unavailable(format!("{what}: {}", said.trim())))
            }
        }
    }

    fn booted(&self, ready: &UnixDatagram) -> Result<(), String> {
        // A process that has ended has no program any more, even before its exit status is read.
        let program = Path::new("/proc").join(&self.init).join("exe");
        let start = Instant::now();
        let mut said = [0; 4096];
        while start.elapsed() < BOOT {
            if self.init.is_empty() || fs::read_link(&program).is_err() {
                return Err("it ended instead of booting".into());
            }
            let n = ready.recv(&mut said).unwrap_or(0);
            if said[..n]
                .split(|&byte| byte == b'\n')
                .any(|line| line == b"READY=1")
            {
                return Ok(());
            }
        }
        Err(format!("it did not boot within {BOOT:?}"))
    }

    /// Runs a command inside as root, for 90 s at most, with no more of an environment than
    /// systemd's tools need.
    ///
    /// # Panics
    ///
    /// When nsenter cannot be started.
    pub fn run(&self, command: &[&str]) -> Output {
        Command::new("timeout")
            .args(["--kill-after=1", COMMAND, "nsenter", "--target", &self.init])
            .args(["--mount", "--pid", "--ipc", "--uts", "--cgroup", "--"])
            .args(command)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env(
                "SYSTEMD_UNIT_PATH",
                format!("/{UNITS}:/run/systemd/transient"),
            )
            .env("SYSTEMD_PAGER", "")
            .env("SYSTEMD_COLORS", "0")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .output()
            .expect("nsenter, from util-linux")
    }

    /// Runs `systemctl` with these arguments.
    pub fn systemctl(&self, arguments: &[&str]) -> Output {
        self.run(&[&["systemctl"], arguments].concat())
    }

    /// The last lines that a unit has logged, as `journalctl` prints them.
    #[must_use]
    pub fn journal(&self, unit: &str, lines: usize) -> String {
        self.journalctl(&["-n", &lines.to_string(), "-u", unit])
    }

    /// What `journalctl` prints with these arguments, once all that was logged so far
    /// is in the journal.
    #[must_use]
    pub fn journalctl(&self, arguments: &[&str]) -> String {
        let _ = self.run(&["journalctl", "--sync"]);
        text(&self.run(&[&["journalctl"], arguments].concat()).stdout)
    }

    /// A property of a unit, as `systemctl show` has it; empty when it has none.
    #[must_use]
    pub fn property(&self, unit: &str, name: &str) -> String {
        let shown = self.systemctl(&["show", "--value", "--property", name, "--", unit]);
        text(&shown.stdout).trim_end().to_owned()
    }

    /// The main process of a unit, if it has one, by its id inside: for [`run`](Self::run), not
    /// for the outside.
    #[must_use]
    pub fn main_pid(&self, unit: &str) -> Option<u32> {
        self.property(unit, "MainPID")
            .parse()
            .ok()
            .filter(|&pid| pid != 0)
    }

    /// The id of its process 1, outside.
    #[must_use]
    pub fn init_pid(&self) -> &str {
        &self.init
    }
}

impl Drop for PrivateSystemd {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "--- the private systemd's journal ends:\n{}",
                self.journalctl(&["-n", "80"])
            );
        }
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// Where the distribution keeps systemd's programs.
fn program(name: &str) -> Result<PathBuf, Unavailable> {
    ["/usr/lib/systemd", "/lib/systemd"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
        .ok_or_else(|| Unavailable(format!("{name} is not installed")))
}

/// Lays out what `inside.sh` puts in place.
fn stage(
    dir: &Path,
    journald: &Path,
    units: &[(&str, &str)],
    files: &[(&str, Holds<'_>)],
) -> io::Result<()> {
    fs::write(dir.join("outside.sh"), include_str!("systemd/outside.sh"))?;
    fs::write(dir.join("inside.sh"), include_str!("systemd/inside.sh"))?;
    let staged = dir.join("staged");
    fs::create_dir_all(staged.join("lib"))?;

    let write = |path: PathBuf, holds: Holds<'_>| {
        fs::create_dir_all(path.parent().expect("a file lies in a folder"))?;
        match holds {
            Holds::Text(text) => fs::write(path, text),
            Holds::CopyOf(source) => symlink(fs::canonicalize(source)?, path),
        }
    };
    let service = format!(
        "[Unit]\nDefaultDependencies=no\nRequires=systemd-journald.socket\nAfter=systemd-journald.socket\n\
         [Service]\nType=notify\nExecStart={}\nStandardOutput=null\nFileDescriptorStoreMax=512\n",
        journald.display()
    );
    let journald = [("systemd-journald.service", service.as_str())];
    for (name, text) in BASE.iter().chain(&journald).chain(units) {
        write(staged.join(UNITS).join(name), Holds::Text(text))?;
    }
    // Drop-ins, because those of the distribution win over the main files.
    write(
        staged.join("etc/systemd/journald.conf.d/zz-tests.conf"),
        Holds::Text(JOURNALD),
    )?;
    write(
        staged.join("etc/systemd/system.conf.d/zz-tests.conf"),
        Holds::Text(MANAGER),
    )?;
    for (path, holds) in files {
        let below = |top: &str, to: &str| {
            path.strip_prefix(top)
                .map(|rest| staged.join(to).join(rest))
        };
        let to = below("/etc/", "etc").or_else(|| below("/usr/local/lib/", "lib"));
        write(
            to.unwrap_or_else(|| panic!("{path}: only /etc and /usr/local/lib are private")),
            *holds,
        )?;
    }
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
