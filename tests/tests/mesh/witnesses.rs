//! `_probe`: servers that say whether they reach another one.

// Tests fail by panicking.
#![allow(clippy::expect_used)]

use crate::common::{Mesh, QUICK, SOON, put_ghost};
use futures::executor::block_on;
use palm_peer::{CallErrorKind, Client};
use palm_tests::{Etcd, python};
use serde_json::{Value, json};

/// Has `witness` probe another server.
fn probe(client: &Client, witness: &str, about: &str) -> Result<Value, CallErrorKind> {
    let answer = block_on(async {
        client
            .call(format!("{witness}._probe"), about.to_owned())
            .timeout(SOON)
            .await
    });
    answer
        .map(|json| serde_json::from_slice(&json).expect("JSON"))
        .map_err(|error| error.kind())
}

#[test]
fn a_witness_reports_whom_it_reaches_and_why_not() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/py", &QUICK);
    let server = mesh.start_in_line("printf", 1).remove(0);
    let python = python();
    let python = python.map(|python| {
        mesh.start_program(crate::python_stage::program(
            &python,
            "examples/python/server.py",
            &etcd.endpoint(),
        ))
    });
    let mut witnesses = vec![mesh.start_in_line("text", 1).remove(0)];
    witnesses.extend(python);
    let client = block_on(Client::connect(mesh.options())).expect("connects");
    let ghost = put_ghost(&mesh);
    for witness in &witnesses {
        mesh.await_published(&[&witness.uuid]);
        assert_eq!(
            probe(&client, &witness.uuid, &server.uuid),
            Ok(json!({"reached": true}))
        );
        let found = probe(&client, &witness.uuid, &ghost).expect("an answer");
        assert!(
            found["reached"] == false && found["reason"].is_string(),
            "{found}"
        );
        for wrong in ["", "not a uuid", "e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4"] {
            assert_eq!(
                probe(&client, &witness.uuid, wrong),
                Err(CallErrorKind::Failed),
                "{wrong:?}"
            );
        }
    }
}
