//! Command-line flags for the `main` of a server.

use crate::{
    error::{Error, ErrorKind},
    io::{executor, signal, timer},
    logging,
    server::Server,
};
use argh::FromArgs;
use log::LevelFilter;
use palm_proto::config::{self, Config, InvalidSetting, LogFormat};
use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

/// The exit status of a server that an administrator removed. A supervisor must not restart it.
pub const EVICTED: u8 = 77;

/// How long a server may take to exit after a second signal.
const HURRY_WITHIN: Duration = Duration::from_secs(2);

/// Declares [`Run`] by the table of all settings: a flag for each.
macro_rules! declare_run {
    // Of the help texts argh must see the literals themselves, which only a `tt`
    // leaves as they are.
    ($(
        $(#[doc = $doc:literal])*
        $scope:ident $name:ident: $type:ty = $default:expr, $default_text:tt, $read:path,
            $value:tt, $help:tt;
    )*) => {
        /// run the server until SIGTERM, SIGINT or SIGHUP; each flag overrides its PALM_*
        /// environment variable
        #[derive(FromArgs, Debug, Default, Clone)]
        #[argh(subcommand, name = "run")]
        // These comments are the help text, which has no mark-up.
        #[allow(rustdoc::bare_urls, clippy::doc_markdown)]
        pub struct Run {
            $(
                #[doc = $help]
                #[doc = " (default "]
                #[doc = $default_text]
                #[doc = ")"]
                #[argh(option, arg_name = $value)]
                $name: Option<String>,
            )*
            /// log everything
            #[argh(switch)]
            debug: bool,
            /// log what happens (the default)
            #[argh(switch)]
            info: bool,
        }

        impl Run {
            /// The flags that were given, each with the name of its setting.
            fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
                let all = [$((stringify!($name), &self.$name)),*];
                all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)))
            }
        }
    };
}

palm_proto::settings_table!(declare_run);

impl Run {
    /// Returns the configuration: the defaults, overridden by the environment,
    /// overridden by the flags.
    ///
    /// # Errors
    /// When the value of a variable or flag is invalid, or they contradict each other.
    pub fn config(&self) -> Result<Config, InvalidSetting> {
        let mut config = Config::from_env()?;
        for (name, value) in self.given() {
            config
                .set(name, value)
                .map_err(|error| error.named(format!("--{}", name.replace('_', "-"))))?;
        }
        config.validate()?;
        Ok(config)
    }

    /// Returns the log level: that of a flag, or that of `PALM_LOG`, or `INFO`.
    ///
    /// # Errors
    /// When `PALM_LOG` is not a level.
    pub fn log_level(&self) -> Result<LevelFilter, InvalidSetting> {
        if self.debug {
            return Ok(LevelFilter::Debug);
        }
        if self.info {
            return Ok(LevelFilter::Info);
        }
        config::log_level(std::env::var_os("PALM_LOG").as_deref())
    }

    /// Runs a server: logs to stderr, joins, serves until SIGTERM, SIGINT or SIGHUP, and shuts down
    /// gracefully. A second SIGTERM or SIGINT ends the drain at once, and the process within a
    /// second even if functions block it. The functions run where [`block_on`](crate::block_on)
    /// does; the calling thread waits. Returns the exit status: 0 after a graceful shutdown,
    /// [`EVICTED`] when an administrator removed the server, 1 for any other error, 2 for an
    /// invalid setting.
    ///
    /// ```no_run
    /// use palm_peer::{FunctionError, Message, Server, flags::Run};
    ///
    /// /// answers what it is sent
    /// #[derive(argh::FromArgs)]
    /// struct Echo {
    ///     #[argh(subcommand)]
    ///     run: Run,
    /// }
    ///
    /// fn main() -> std::process::ExitCode {
    ///     let echo: Echo = match palm_peer::flags::from_env() {
    ///         Ok(echo) => echo,
    ///         Err(exit) => return exit,
    ///     };
    ///     echo.run.main(Server::new("echo").function("echo", async |m: Message| Ok::<_, FunctionError>(m.into_payload())))
    /// }
    /// ```
    #[must_use]
    pub fn main<S>(&self, server: Server<S>) -> ExitCode {
        let settings = || Ok((self.log_level()?, LogFormat::from_env()?, self.config()?));
        let (level, format, config) = match settings() {
            Ok(settings) => settings,
            Err::<_, InvalidSetting>(error) => {
                // There is no logger yet. A closed stderr is ignored: the exit status remains.
                let _ = writeln!(io::stderr(), "{error}");
                return ExitCode::from(2);
            }
        };
        // A logger that the program has installed stays in place.
        let _ = logging::init(level, format);
        for (name, meant) in Config::misspelt_variables() {
            log::warn!("the variable {name} has no effect: did you mean {meant}?");
        }
        let status = match run_until_hurried(server, config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                log::error!("{}", error.report());
                ExitCode::from(status(&error))
            }
        };
        logging::flush(logging::FLUSH_WITHIN);
        status
    }
}

/// The command line of [`main`].
#[derive(FromArgs)]
/// a server of a PALM mesh
struct Program {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Run(Run),
}

/// The whole `main` of a server: reads the flags and the environment (`PROGRAM run --etcd …`, see
/// [`Run`]), logs to stderr, joins, serves until SIGTERM, SIGINT or SIGHUP, and leaves. Returns
/// the exit status of [`Run::main`]: that for a wrong command line is 2, and for `--help` 0.
///
/// A program with flags of its own embeds [`Run`] in them instead.
///
/// ```no_run
/// use palm_peer::{FunctionError, Message, Server};
///
/// async fn echo(message: Message) -> Result<palm_peer::Bytes, FunctionError> {
///     Ok(message.into_payload())
/// }
///
/// fn main() -> std::process::ExitCode {
///     palm_peer::main(Server::new("echo").function("echo", echo))
/// }
/// ```
#[must_use]
pub fn main<S>(server: Server<S>) -> ExitCode {
    match from_env() {
        Ok(Program {
            command: Command::Run(run),
        }) => run.main(server),
        Err(exit) => exit,
    }
}

/// Returns the command line of this process; for a wrong one and for `--help`, which are
/// reported, the exit status: 2 or 0. Unlike `argh::from_env`, it does not panic when the
/// output is closed, as by `| head`.
///
/// # Errors
/// The exit status, when the process is to end.
pub fn from_env<T: FromArgs>() -> Result<T, ExitCode> {
    let mut words = Vec::new();
    for word in std::env::args_os() {
        match word.into_string() {
            Ok(word) => words.push(word),
            Err(word) => {
                let _ = writeln!(io::stderr(), "{} is not valid UTF-8", word.display());
                return Err(ExitCode::from(2));
            }
        }
    }
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let (program, args) = words.split_first().unwrap_or((&"server", &[]));
    let program = program.rsplit('/').next().unwrap_or(program);
    // A closed output is ignored: the exit status remains.
    T::from_args(&[program], args).map_err(|exit| {
        let output = exit.output.trim_end();
        if exit.status.is_ok() {
            let _ = writeln!(io::stdout(), "{output}");
            ExitCode::SUCCESS
        } else {
            let _ = writeln!(
                io::stderr(),
                "{output}\nRun {program} --help for more information."
            );
            ExitCode::from(2)
        }
    })
}

/// Returns the exit status for an error.
fn status(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::Evicted => EVICTED,
        ErrorKind::InvalidConfig if !error.is_about_files() => 2,
        _ => 1,
    }
}

/// Runs the server. A thread ends the process after a second signal, even when the
/// executor is blocked.
fn run_until_hurried<S>(server: Server<S>, config: Config) -> Result<(), Error> {
    let shutdown = crate::signals()?;
    let seen = signal::seen();
    let blocked = async move {
        signal::hurry(seen).await;
        timer::sleep(HURRY_WITHIN).await;
    };
    executor::block_on_until(
        server.replace_state(()).run(config, shutdown),
        Box::pin(blocked),
    )
    .unwrap_or_else(|| {
        Err(Error::new(
            ErrorKind::Io,
            "a second signal: exiting at once, because functions block the executor",
        ))
    })
}
