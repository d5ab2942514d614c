//! `palm-cli rm`.

use super::world::{SOON, World, record};

#[test]
fn a_removed_server_ends_and_stays_out() {
    let world = World::new();
    let (stays, gone) = (world.server(), world.server());
    let endpoint = world.cli(&["status"]).done();
    let endpoint = endpoint
        .lines()
        .find(|line| line.starts_with(&gone.uuid))
        .and_then(|line| line.split_whitespace().nth(3));
    let said = world.cli(&["rm", &gone.uuid]).done();
    assert_eq!(
        said,
        format!(
            "Removed {} (printf at {})\n",
            gone.uuid,
            endpoint.expect("an endpoint")
        )
    );

    assert_eq!(gone.process.wait(SOON).code(), Some(77), "ends as evicted");
    gone.process.wait_for_line(
        |line| line.contains("removed from the mesh by an administrator"),
        SOON,
    );
    stays.process.wait_for_line(
        |line| {
            line == format!(
                "INFO:registry:Deleted server {} because an administrator removed it",
                gone.uuid
            )
        },
        SOON,
    );
    assert_eq!(
        world.keys("/servers/"),
        [format!("/servers/{}", stays.uuid)]
    );
    let note = world.stored(&format!("/departed/{}", gone.uuid));
    let note: serde_json::Value = serde_json::from_str(&note).expect("a note in JSON");
    assert_eq!(note["why"], "admin");
    assert!(stays.process.is_running());
    assert!(
        world
            .cli(&["rm", &gone.uuid])
            .failed(1)
            .contains(&stays.uuid),
        "it lists the servers"
    );
}

#[test]
fn the_beginning_of_a_uuid_is_enough() {
    let world = World::new();
    let server = world.server();
    assert!(
        world
            .cli(&["rm", &server.uuid[..6]])
            .done()
            .starts_with(&format!("Removed {} ", server.uuid))
    );
    assert_eq!(server.process.wait(SOON).code(), Some(77));
}

#[test]
fn invalid_records_can_be_removed() {
    let world = World::new();
    let server = world.server();
    let uuid = "abcd1111-0f5c-4278-bcc9-fa8caefadbb4";
    for name in ["junk", "x", uuid, "long-one"] {
        world.put(
            &format!("/servers/{name}"),
            &record(
                &server.uuid,
                &format!(r#", "x": "{}""#, "y".repeat(1024 * 1024)),
            ),
        );
        assert_eq!(
            world.cli(&["rm", name]).done(),
            format!("Removed {name} (broken)\n")
        );
    }
    assert_eq!(
        world.keys("/servers/"),
        [format!("/servers/{}", server.uuid)]
    );
    assert_eq!(world.keys("/departed/"), [format!("/departed/{uuid}")]);
    assert!(server.process.is_running());
}
