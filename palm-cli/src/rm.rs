//! `palm-cli rm`: takes a server out of the mesh.

use crate::{
    args::Rm,
    failure::Failure,
    find::{describe, find},
    screen::Screen,
};
use palm_peer::Admin;

/// Does what the command line says.
pub(crate) async fn run(rm: &Rm, admin: &Admin, screen: &mut Screen) -> Result<(), Failure> {
    let entries = admin.servers().await?;
    let removed = admin.remove(&find(&entries, &rm.server)?.name).await?;
    Ok(screen.line(&format!("Removed {}", describe(&removed)))?)
}
