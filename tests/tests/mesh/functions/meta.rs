//! Metadata: it travels with messages from stage to stage, and with results back.

use crate::in_process::{InProcess, Stranger, client, sees, settings};
use futures::{StreamExt as _, executor::block_on};
use palm_peer::{Answer, CallErrorKind, FunctionError, IntoAnswer as _, Json, Message, Server};
use palm_tests::Etcd;
use serde_json::{Value, json};

/// Answers the metadata that it gets, and sets `by` and, if it is told to, `set`.
async fn note(message: Message) -> Result<Answer, FunctionError> {
    let seen: serde_json::Map<String, Value> = message
        .meta()
        .iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let mut answer = Json(seen).into_answer()?;
    let stage = message.stage().to_string();
    answer.meta_mut().insert("by", stage);
    if let Some(bytes) = message.meta().get("set") {
        answer.meta_mut().insert("more", "x".repeat(bytes.parse()?));
    }
    Ok(answer)
}

fn server(name: &str) -> Server {
    Server::new(name)
        .function("note", note)
        .blocking("block", |message: Message| {
            let user = message.meta().get("user").unwrap_or("nobody");
            Ok(Answer::new(user.to_owned()).with_meta("blocked", "yes"))
        })
}

fn seen(answer: &Answer) -> Value {
    serde_json::from_slice(answer).expect("JSON")
}

#[test]
fn meta_travels_with_a_call_and_back() {
    let etcd = Etcd::start();
    let _zoo = InProcess::start(server("zoo"), settings(&etcd));
    let client = client(settings(&etcd), "zoo", 1);
    block_on(async {
        let call = || client.call("zoo.note", "");
        let answer = call().answer().await.unwrap();
        assert_eq!(seen(&answer), json!({}));
        assert_eq!(answer.meta().iter().collect::<Vec<_>>(), [("by", "0")]);
        let answer = call().meta("user", "ada").meta("é \"\n", "\u{1}").answer();
        assert_eq!(
            seen(&answer.await.unwrap()),
            json!({"user": "ada", "é \"\n": "\u{1}"})
        );
        // Without the metadata of the answer, and with a key, whose header is never compact.
        let answer = call().meta("user", "ada").cache("key").await.unwrap();
        assert_eq!(answer, r#"{"user":"ada"}"#);
        let answer = client.call("zoo.block", "").meta("user", "ada").answer();
        let answer = answer.await.unwrap();
        assert_eq!(answer, "ada");
        assert_eq!(answer.meta().get("blocked"), Some("yes"));
        let echoed: Value = client
            .call_json("zoo.note", "")
            .meta("a", "b")
            .await
            .unwrap();
        assert_eq!(echoed, json!({"a": "b"}));
    });
}

#[test]
fn meta_passes_through_the_stages_of_a_job() {
    let etcd = Etcd::start();
    let _servers =
        ["one", "two", "three"].map(|name| InProcess::start(server(name), settings(&etcd)));
    let client = client(settings(&etcd), "one", 1);
    for name in ["two", "three"] {
        sees(&client, name, 1);
    }
    let job = |pipeline: &[&str]| client.job(pipeline.iter().copied());
    block_on(async {
        let pipeline = ["one.note", "two.block", "three.note"];
        let answers = job(&pipeline).meta("user", "ada").run_iter(["a", "b"]);
        let answers: Vec<_> = answers.unwrap().answers().collect().await;
        assert_eq!(answers.len(), 2);
        for (_, answer) in answers {
            let answer = answer.unwrap();
            // The second stage has kept what the first one set.
            let expected = json!({"user": "ada", "by": "0", "blocked": "yes"});
            assert_eq!(seen(&answer), expected);
            assert_eq!(answer.meta().iter().collect::<Vec<_>>(), [("by", "2")]);
        }
        let mut results = job(&pipeline).run_iter(["a"]).unwrap();
        let (_, result) = results.next().await.unwrap();
        assert_eq!(result.unwrap(), r#"{"blocked":"yes","by":"0"}"#);
        // Each of the stages sets less than it may.
        let long = job(&["one.note", "two.note"]).meta("set", "5000");
        let long = long.meta("long", "x".repeat(4000)).run_iter(["a"]);
        let (_, result) = long.unwrap().next().await.unwrap();
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.stage()), (CallErrorKind::TooLarge, 0));
    });
}

#[test]
fn metadata_beyond_the_limit_is_an_error() {
    let etcd = Etcd::start();
    let zoo = InProcess::start(server("zoo"), settings(&etcd));
    let client = client(settings(&etcd), "zoo", 1);
    let local = server("zoo").local().unwrap();
    let long = "x".repeat(8 * 1024);
    block_on(async {
        let call = client.call("zoo.note", "").meta("long", &*long);
        let locally = local.call("note", "").meta("long", &*long);
        for error in [call.await.unwrap_err(), locally.await.unwrap_err()] {
            assert_eq!(error.kind(), CallErrorKind::BadMessage, "{error}");
            assert!(
                error.message().contains("8196 bytes, 8192 at most"),
                "{error}"
            );
        }
        let error = client.call("zoo.note", "").meta("", "").await.unwrap_err();
        assert!(error.message().contains("empty name"), "{error}");
        let job = client
            .job(["zoo.note"])
            .meta("long", &*long)
            .run_iter(["a"]);
        assert_eq!(job.unwrap_err().kind(), CallErrorKind::BadMessage);
        // The longest that may be, both ways; each byte takes six in JSON.
        let call = client
            .call("zoo.note", "")
            .meta("long", "\u{1}".repeat(8188));
        assert_eq!(
            seen(&call.answer().await.unwrap())["long"]
                .as_str()
                .unwrap()
                .len(),
            8188
        );
        let call = client
            .call("zoo.note", "")
            .meta("set", "8185")
            .answer()
            .await;
        assert_eq!(call.unwrap().meta().bytes(), 8192);
        for call in [
            client.call("zoo.note", "").meta("set", "8186").await,
            local.call("note", "").meta("set", "8186").await,
        ] {
            let error = call.unwrap_err();
            assert_eq!(error.kind(), CallErrorKind::TooLarge, "{error}");
            assert!(
                error
                    .message()
                    .contains("the function answered meta of 8193"),
                "{error}"
            );
        }
    });
    let mut stranger = Stranger::at(zoo.peer.endpoint());
    for (meta, problem) in [
        (json!({"long": long}), "meta of 8196 bytes, 8192 at most"),
        (json!({"user": 7}), "meta \"user\": invalid type"),
        (json!({"user": null}), "meta \"user\": invalid type"),
        (json!(["user"]), "object of strings"),
        (json!("user"), "object of strings"),
    ] {
        let header = json!({"palm": 1, "pipeline": ["zoo.note"], "idx": 7, "meta": meta});
        let (answer, _) = stranger.ask([header.to_string(), String::new()]);
        assert_eq!(answer["error"]["kind"], "bad_message", "{answer}");
        assert_eq!(answer["idx"], 7, "{answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(problem), "{answer}");
    }
    let header = json!({"palm": 1, "pipeline": ["zoo.note"], "meta": null});
    let (answer, payload) = stranger.ask([header.to_string(), String::new()]);
    assert_eq!((&answer["error"], &payload[..]), (&Value::Null, &b"{}"[..]));
}

#[test]
fn middleware_reads_and_sets_meta() {
    let zoo = server("zoo").wrap(|next, message| async move {
        if message.meta().get("user").is_none() {
            return Ok("who is it?".into());
        }
        let name = next.function().to_owned();
        let mut answer = next.run(message.with_meta("checked", "yes")).await?;
        answer.meta_mut().insert("function", name);
        Ok(answer)
    });
    let zoo = zoo.local().unwrap();
    block_on(async {
        assert_eq!(zoo.call("note", "").await.unwrap(), "who is it?");
        let answer = zoo
            .call("note", "")
            .meta("user", "ada")
            .answer()
            .await
            .unwrap();
        assert_eq!(seen(&answer), json!({"checked": "yes", "user": "ada"}));
        let set: Vec<_> = answer.meta().iter().collect();
        assert_eq!(set, [("by", "0"), ("function", "note")]);
    });
}
