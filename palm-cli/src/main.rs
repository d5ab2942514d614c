//! Shows and clears what a PALM mesh keeps in etcd, and calls its functions.
//!
//! Standard output carries what was asked for and nothing else; all words about it go to standard error.

mod args;
mod call;
mod failure;
mod find;
mod job;
mod reset;
mod rm;
mod screen;
mod status;
mod table;

use self::{
    args::{Args, Command},
    failure::Failure,
    screen::Screen,
};
use palm_peer::{Admin, Config};
use std::{env, process::ExitCode};

fn main() -> ExitCode {
    let mut screen = Screen::stdout();
    let outcome = run(&mut screen).and_then(|()| Ok(screen.flush()?));
    outcome.err().map_or(ExitCode::SUCCESS, failure::Failure::tell)
}

fn run(screen: &mut Screen) -> Result<(), Failure> {
    let args = match args::parse(env::args_os().skip(1))? {
        args::Parsed::Args(args) => args,
        args::Parsed::Help(text) => return Ok(screen.line(&text)?),
    };
    futures::executor::block_on(carry_out(&args, screen))
}

async fn carry_out(args: &Args, screen: &mut Screen) -> Result<(), Failure> {
    let options = args.options()?;
    for (name, meant) in Config::misspelt_variables() {
        failure::warn(&format!("the variable {name} has no effect: is {meant} meant?"));
    }
    match &args.command {
        Command::Status(status) => {
            status.check()?;
            status::run(status, &Admin::connect(options).await?, screen).await
        }
        Command::Rm(rm) => rm::run(rm, &Admin::connect(options).await?, screen).await,
        Command::Reset(reset) => reset::run(reset, options, screen).await,
        Command::Call(call) => call::run(call, options, screen).await,
        Command::Job(job) => job::run(job, options, screen).await,
    }
}
