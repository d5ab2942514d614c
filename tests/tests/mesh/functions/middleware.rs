//! Code around functions.

use crate::in_process::echo;
use futures::executor::block_on;
use palm_peer::{
    Answer, ApplicationError, Bytes, CallErrorKind, Config, FunctionError, Json, Message, Next,
    Server,
};
use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};
use tower_layer::Layer;
use tower_service::Service;

fn server() -> Server {
    Server::new("zoo")
        .function("echo", echo)
        .function("fail", async |_: Message| -> Result<Bytes, FunctionError> {
            Err(ApplicationError::new("no_luck", "no such luck").into())
        })
        .function(
            "panic",
            async |_: Message| -> Result<Bytes, FunctionError> { panic!("inside") },
        )
        .function("json", async |Json(number): Json<u32>| Ok(Json(number + 1)))
        .blocking("block", |text: String| Ok(text.to_uppercase()))
}

#[test]
fn middleware_sees_every_message_and_answer_in_order() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noting = |name: &'static str| {
        let seen = Arc::clone(&seen);
        move |next: Next, message: Message| {
            let seen = Arc::clone(&seen);
            async move {
                seen.lock()
                    .unwrap()
                    .push(format!("{name} {}", next.function()));
                let answer = next.run(message).await;
                let outcome = answer
                    .as_ref()
                    .map_or_else(ToString::to_string, |_| "done".into());
                seen.lock().unwrap().push(format!("{name} {outcome}"));
                answer
            }
        }
    };
    let zoo = server().wrap(noting("outer")).wrap(noting("inner"));
    // Also around what is added later.
    let zoo = zoo.function("later", echo).local().unwrap();
    block_on(async {
        for (function, outcome) in [
            ("echo", "done"),
            ("later", "done"),
            ("block", "done"),
            ("fail", "no such luck"),
        ] {
            let answer = zoo.call(function, "x").await;
            assert_eq!(answer.is_ok(), outcome == "done", "{function}");
            let around = ["outer", "inner"].map(|name| format!("{name} {function}"));
            let back = ["inner", "outer"].map(|name| format!("{name} {outcome}"));
            assert_eq!(
                seen.lock().unwrap().drain(..).collect::<Vec<_>>(),
                [around, back].concat()
            );
        }
        assert!(zoo.call("_ping", "").await.is_ok());
        assert!(
            seen.lock().unwrap().is_empty(),
            "not around built-in functions"
        );
        let error = zoo.call("fail", "").await.unwrap_err();
        assert_eq!(error.code(), Some("no_luck"));
        let error = zoo.call("json", "x").await.unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::BadMessage);
        let error = zoo.call("panic", "").await.unwrap_err();
        assert_eq!(
            (error.kind(), error.message()),
            (CallErrorKind::Panicked, "inside")
        );
    });
}

#[test]
fn middleware_may_answer_retry_panic_and_be_cancelled() {
    let zoo = server().wrap(|next, message| async move {
        match &message.payload()[..] {
            b"answer" => Ok("answered".into()),
            b"twice" => {
                let first = next.run(message.clone()).await?;
                Ok([&first[..], &next.run(message).await?].concat().into())
            }
            b"panic" => panic!("around"),
            b"hang" => std::future::pending().await,
            _ => next.run(message).await,
        }
    });
    let zoo = zoo.local_with(Config::default().max_payload(9)).unwrap();
    block_on(async {
        assert_eq!(zoo.call("fail", "answer").await.unwrap(), "answered");
        let error = zoo.call("echo", "twice").await.unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::TooLarge, "10 bytes");
        let error = zoo.call("echo", "panic").await.unwrap_err();
        assert_eq!(
            (error.kind(), error.message()),
            (CallErrorKind::Panicked, "around")
        );
        let hanging = zoo
            .call("echo", "hang")
            .timeout(Duration::from_millis(20))
            .await;
        assert_eq!(hanging.unwrap_err().kind(), CallErrorKind::TimedOut);
    });
}

/// A layer as users write them, or take from tower.
struct Shout;

#[derive(Clone)]
struct Shouting<S> {
    inner: S,
    ready: bool,
}

impl<S> Layer<S> for Shout {
    type Service = Shouting<S>;

    fn layer(&self, inner: S) -> Shouting<S> {
        let ready = false;
        Shouting { inner, ready }
    }
}

impl<S> Service<Message> for Shouting<S>
where
    S: Service<Message, Response = Answer, Error = FunctionError, Future: Send + 'static>,
{
    type Response = Answer;
    type Error = FunctionError;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, FunctionError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), FunctionError>> {
        self.ready = true;
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, message: Message) -> Self::Future {
        assert!(self.ready, "it is only called when it is ready");
        let answer = self.inner.call(message);
        Box::pin(async move {
            let (payload, meta) = answer.await?.into_parts();
            Ok(Answer::from_parts(
                payload.to_ascii_uppercase().into(),
                meta,
            ))
        })
    }
}

#[test]
fn layers_of_tower_wrap_functions() {
    let zoo = server()
        .layer(Shout)
        .wrap(|next, message| async move {
            let answer = next.run(message).await?;
            Ok([&answer[..], b" inside"].concat().into())
        })
        .local()
        .unwrap();
    block_on(async {
        for _ in 0..2 {
            assert_eq!(zoo.call("echo", "hello").await.unwrap(), "HELLO INSIDE");
        }
        assert_eq!(
            zoo.call("fail", "").await.unwrap_err().code(),
            Some("no_luck")
        );
    });
}
