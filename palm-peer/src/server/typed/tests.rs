use super::*;
use crate::{error::CallError, server::Server};
use futures::executor::block_on;
use serde::Deserialize;
use serde_json::json;
use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
};

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct Order {
    item: String,
    count: u32,
}

fn bolts(count: u32) -> Order {
    let item = "bolt".to_owned();
    Order { item, count }
}

/// A server whose functions share how often they ran.
fn shop() -> Server<State<AtomicUsize>> {
    Server::new("shop")
        .with_state(AtomicUsize::new(0))
        .function(
            "take",
            async |runs: State<AtomicUsize>, Json(order): Json<Order>| {
                runs.fetch_add(1, Ordering::Relaxed);
                let left = 3_u32.checked_sub(order.count).ok_or("there are only 3")?;
                Ok(Json(bolts(left)))
            },
        )
        .blocking(
            "take_blocking",
            |runs: State<AtomicUsize>, Json(order): Json<Order>| {
                runs.fetch_add(1, Ordering::Relaxed);
                Ok(Json(bolts(order.count + 1)))
            },
        )
        .function(
            "both",
            async |_, (message, Json(order)): (Message, Json<Order>)| {
                Ok(format!("{:?} {}", message.idx(), order.count))
            },
        )
        .function("by_hand", |_, message: Message| async move {
            let order: Order = message.json()?;
            Ok(order.item)
        })
        .function("runs", async |runs: State<AtomicUsize>, _: Bytes| {
            Ok(Json(runs.load(Ordering::Relaxed)))
        })
        .function("unwritable", async |_, _: Bytes| {
            Ok(Json(HashMap::from([((1, 2), 3)])))
        })
}

#[test]
fn json_goes_in_and_out_with_the_state() {
    block_on(async {
        let shop = shop().local().expect("a valid server");
        let left: Order = shop
            .call_json("take", &bolts(1))
            .await
            .expect("one is taken");
        assert_eq!(left, bolts(2));
        let more = shop.call_json::<_, Order>("take_blocking", &bolts(1)).await;
        assert_eq!(more.expect("it runs"), bolts(2));
        assert_eq!(shop.call_json::<_, usize>("runs", &()).await, Ok(2));
        let order = r#"{"item":"bolt","count":1}"#;
        let both = shop.call("both", order).job(uuid::Uuid::nil(), 7).await;
        assert_eq!(both.expect("an answer"), "Some(7) 1");
        assert_eq!(
            shop.call("by_hand", order).await.expect("an answer"),
            "bolt"
        );
    });
}

#[test]
fn what_does_not_parse_is_told_with_the_reason_and_does_not_run() {
    let kind = |error: &CallError| (error.kind(), error.message().to_owned());
    block_on(async {
        let shop = shop().local().expect("a valid server");
        for function in ["take", "take_blocking", "both", "by_hand"] {
            let error = shop
                .call(function, r#"{"item":1}"#)
                .await
                .expect_err("a number");
            let (kind, message) = kind(&error);
            assert_eq!(kind, CallErrorKind::BadMessage, "{function}");
            assert!(
                message.contains("integer `1`, expected a string"),
                "{message}"
            );
        }
        assert_eq!(shop.call_json::<_, usize>("runs", &()).await, Ok(0));
        let error = shop
            .call("unwritable", "")
            .await
            .expect_err("keys are no strings");
        assert_eq!(kind(&error).0, CallErrorKind::Failed);
        let error = shop
            .call_json::<_, String>("runs", &())
            .await
            .expect_err("a number");
        assert_eq!(kind(&error).0, CallErrorKind::BadAnswer);
        let unwritable = HashMap::from([((1, 2), 3)]);
        let error = shop.call_json::<_, String>("runs", &unwritable).await;
        assert_eq!(
            kind(&error.expect_err("no JSON")).0,
            CallErrorKind::BadMessage
        );
    });
}

#[derive(Debug)]
struct Wrapped(ApplicationError);

impl fmt::Display for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wrapped: {}", self.0)
    }
}

impl Error for Wrapped {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

/// An argument of a user's own, which is validated.
struct Even(u32);

impl FromMessage for Even {
    fn from_message(message: Message) -> Result<Self, FunctionError> {
        let number: u32 = message.json()?;
        if number.is_multiple_of(2) {
            return Ok(Self(number));
        }
        Err(ApplicationError::new("odd", "an odd number").into())
    }
}

#[test]
fn codes_and_data_reach_the_caller_however_they_are_wrapped() {
    let no_item = || ApplicationError::new("no_item", "no bolt").with_data(json!([1]));
    let server = Server::new("shop")
        .function("plain", move |_: Message| async move {
            Err::<Bytes, _>(no_item().into())
        })
        .function("wrapped", move |_: Message| async move {
            Err::<Bytes, _>(Wrapped(no_item()).into())
        })
        .function("passed_on", move |_: Message| async move {
            let failure = failure(&no_item().into());
            Err::<Bytes, _>(CallError::new(failure, None).into())
        })
        .function("even", async |Even(number): Even| Ok(number.to_string()));
    block_on(async {
        let shop = server.local().expect("a valid server");
        for function in ["plain", "wrapped", "passed_on"] {
            let error = shop.call(function, "").await.expect_err("there is no bolt");
            assert_eq!(error.kind(), CallErrorKind::Failed);
            assert_eq!(
                (error.code(), error.data()),
                (Some("no_item"), Some(&json!([1])))
            );
            assert!(
                error.to_string().starts_with("failed (no_item): "),
                "{error}"
            );
        }
        assert_eq!(shop.call("even", "2").await.expect("an even number"), "2");
        let error = shop.call("even", "3").await.expect_err("an odd number");
        assert_eq!(
            (error.kind(), error.code()),
            (CallErrorKind::BadMessage, Some("odd"))
        );
        let error = shop.call("plain", "").await.expect_err("there is no bolt");
        assert_eq!(error.message(), "no bolt");
    });
}
