//! `palm-cli rm`: removes a server from the mesh.

use crate::{
    args::Rm,
    error::CliError,
    find::{describe, find},
    screen::Screen,
};
use palm_peer::Admin;

/// Runs the command.
pub(crate) async fn run(rm: &Rm, admin: &Admin, screen: &mut Screen) -> Result<(), CliError> {
    let entries = admin.servers().await?;
    let removed = admin.remove(&find(&entries, &rm.server)?.name).await?;
    Ok(screen.line(&format!("Removed {}", describe(&removed)))?)
}
