//! Shows and clears what a PALM mesh stores in etcd, and calls its functions.
//!
//! Standard output contains only results; messages go to standard error.

mod args;
mod call;
mod complete;
mod error;
mod find;
mod full_screen;
mod job;
mod logs;
mod man;
mod meta;
mod metrics;
mod reset;
mod rm;
mod screen;
mod stats;
mod status;
mod suggest;
mod table;
mod wait;

use self::{
    args::{Command, CommandLine},
    error::CliError,
    screen::Screen,
};
use palm_peer::{Admin, Config};
use std::{env, process::ExitCode};

fn main() -> ExitCode {
    let mut screen = Screen::stdout();
    let outcome = run(&mut screen).and_then(|()| Ok(screen.flush()?));
    outcome
        .err()
        .map_or(ExitCode::SUCCESS, error::CliError::report)
}

fn run(screen: &mut Screen) -> Result<(), CliError> {
    let args = match args::parse(env::args_os().skip(1))? {
        args::Parsed::Line(line) => line,
        args::Parsed::Text(text) => return Ok(screen.line(&text)?),
        args::Parsed::Complete(words) => {
            return futures::executor::block_on(complete::run(words, screen));
        }
        args::Parsed::Man(folder) => return man::write(&folder),
    };
    futures::executor::block_on(carry_out(&args, screen))
}

async fn carry_out(args: &CommandLine, screen: &mut Screen) -> Result<(), CliError> {
    let config = args.config()?;
    for (name, meant) in Config::misspelt_variables() {
        error::warn(&format!(
            "the variable {name} has no effect: did you mean {meant}?"
        ));
    }
    match &args.command {
        Command::Status(status) => {
            status.check()?;
            status::run(status, &Admin::connect(config).await?, screen).await
        }
        Command::Rm(rm) => rm::run(rm, &Admin::connect(config).await?, screen).await,
        Command::Reset(reset) => reset::run(reset, config, screen).await,
        Command::Call(call) => call::run(call, config, screen).await,
        Command::Job(job) => job::run(job, config, screen).await,
        Command::Stats(stats) => {
            stats.check()?;
            stats::run(stats, config, screen).await
        }
        Command::Logs(logs) => logs::run(logs, config, screen).await,
        Command::Metrics(metrics) => metrics::run(metrics, config, screen).await,
        Command::Completion(completion) => complete::script(completion, screen),
        Command::Wait(wait) => {
            wait.check()?;
            wait::run(wait, config, screen).await
        }
    }
}
