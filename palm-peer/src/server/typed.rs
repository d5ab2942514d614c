//! What functions take and return, and their errors.

use super::message::{FunctionError, Message};
use bytes::Bytes;
use palm_proto::types::{
    answer::Answer,
    message::{CallErrorKind, CallFailure},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{error::Error, fmt, ops::Deref, sync::Arc};

/// What a function can take as its argument: a [`Message`], its payload as [`Bytes`] or [`String`],
/// or [`Json`]; and `(Message, …)` for a function that needs both. For another format, implement it
/// for a type of your own.
///
/// A payload that is not of this form is answered with `bad_message` and the reason; the function
/// does not run.
#[diagnostic::on_unimplemented(
    message = "a function cannot take `{Self}`",
    note = "it takes a `Message`, `Bytes`, `String`, `Json<T>` with `T: DeserializeOwned`, or `(Message, …)`"
)]
pub trait FromMessage: Sized {
    /// Reads the payload of a message.
    ///
    /// # Errors
    /// When it is not of this form. The text goes to the caller.
    fn from_message(message: Message) -> Result<Self, FunctionError>;
}

impl FromMessage for Message {
    fn from_message(message: Message) -> Result<Self, FunctionError> {
        Ok(message)
    }
}

impl FromMessage for Bytes {
    fn from_message(message: Message) -> Result<Self, FunctionError> {
        Ok(message.into_payload())
    }
}

impl FromMessage for String {
    fn from_message(message: Message) -> Result<Self, FunctionError> {
        Ok(Self::from_utf8(message.into_payload().into())?)
    }
}

impl<T: DeserializeOwned> FromMessage for Json<T> {
    fn from_message(message: Message) -> Result<Self, FunctionError> {
        Ok(Self(serde_json::from_slice(message.payload())?))
    }
}

impl<A: FromMessage> FromMessage for (Message, A) {
    fn from_message(message: Message) -> Result<Self, FunctionError> {
        let argument = A::from_message(message.clone())?;
        Ok((message, argument))
    }
}

/// What a function can return: whatever is bytes, such as [`String`], `&'static str`, `Vec<u8>` and
/// [`Bytes`]; [`Json`]; or an [`Answer`], which has metadata besides. For another format, implement it
/// for a type of your own.
#[diagnostic::on_unimplemented(
    message = "a function cannot return `{Self}`",
    note = "it returns an `Answer`, what is `Into<Bytes>`, such as a `String`, or `Json<T>` with `T: Serialize`"
)]
pub trait IntoAnswer {
    /// Returns the answer.
    ///
    /// # Errors
    /// When it cannot be written in its format; the call fails.
    fn into_answer(self) -> Result<Answer, FunctionError>;
}

impl<T: Into<Answer>> IntoAnswer for T {
    fn into_answer(self) -> Result<Answer, FunctionError> {
        Ok(self.into())
    }
}

impl<T: Serialize> IntoAnswer for Json<T> {
    fn into_answer(self) -> Result<Answer, FunctionError> {
        Ok(Answer::new(serde_json::to_vec(&self.0)?))
    }
}

/// JSON, as the argument or the result of a function. Callers use
/// [`Client::call_json`](crate::Client::call_json).
///
/// ```
/// use palm_peer::{FunctionError, Json, Server};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Point { x: f64, y: f64 }
///
/// async fn mirror(Json(point): Json<Point>) -> Result<Json<Point>, FunctionError> {
///     Ok(Json(Point { x: -point.x, ..point }))
/// }
///
/// # async fn test() -> Result<(), FunctionError> {
/// let plane = Server::new("plane").function("mirror", mirror).local()?;
/// let mirrored: Point = plane.call_json("mirror", &Point { x: 1.0, y: 2.0 }).await?;
/// assert_eq!(mirrored.x, -1.0);
/// # Ok(()) }
/// # palm_peer::block_on(test()).expect("it mirrors");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

/// The state of a server, which all its functions share; from
/// [`Server::with_state`](crate::Server::with_state). Cheap to clone.
///
/// Functions run concurrently, so what changes in it needs a lock or an atomic.
#[derive(Debug)]
pub struct State<S>(Arc<S>);

impl<S> State<S> {
    /// Creates it, for the unit test of a function.
    pub fn new(state: S) -> Self {
        Self(Arc::new(state))
    }
}

impl<S> Clone for State<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> Deref for State<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.0
    }
}

/// An error of a function with a code for the caller's program, and data. It reaches the caller of a
/// call or job as `failed`, with [`CallError::code`](crate::CallError::code) and
/// [`CallError::data`](crate::CallError::data), also when it is the
/// [source](std::error::Error::source) of another error, and when another function that made the call
/// returns the caller's error with `?`.
///
/// ```
/// use palm_peer::{ApplicationError, FunctionError, Server, serde_json::json};
///
/// async fn take(item: String) -> Result<&'static str, FunctionError> {
///     let error = ApplicationError::new("no_item", format!("there is no {item}"));
///     Err(error.with_data(json!({ "nearest": "nut" })).into())
/// }
///
/// # async fn test() -> Result<(), FunctionError> {
/// let shop = Server::new("shop").function("take", take).local()?;
/// let error = shop.call("take", "bolt").await.expect_err("there is no bolt");
/// assert_eq!(error.code(), Some("no_item"));
/// assert_eq!(error.data().map(|data| &data["nearest"]), Some(&json!("nut")));
/// # Ok(()) }
/// # palm_peer::block_on(test()).expect("the error reaches the caller");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplicationError {
    code: String,
    message: String,
    data: Option<Value>,
}

impl ApplicationError {
    /// Creates an error with a code for programs, of which 128 bytes reach the caller, and a message
    /// for people.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            data: None,
        }
    }

    /// Adds data: up to 16 KiB of JSON, nested up to 32 deep. What is more does not reach the caller,
    /// and the message says so.
    #[must_use]
    pub fn with_data(mut self, data: impl Into<Value>) -> Self {
        self.data = Some(data.into());
        self
    }

    /// Returns the code.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// Returns the data.
    #[must_use]
    pub fn data(&self) -> Option<&Value> {
        self.data.as_ref()
    }
}

impl fmt::Display for ApplicationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for ApplicationError {}

/// The payload of a message is not what the function takes.
#[derive(Debug)]
pub(super) struct BadPayload(FunctionError);

impl fmt::Display for BadPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the payload is not what the function takes: {}", self.0)
    }
}

impl Error for BadPayload {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

/// Reads the argument of a function.
pub(super) fn argument<A: FromMessage>(message: Message) -> Result<A, FunctionError> {
    A::from_message(message).map_err(|error| BadPayload(error).into())
}

/// Returns the error of a function as its caller gets it.
pub(super) fn failure(error: &FunctionError) -> CallFailure {
    let kind = if error.is::<BadPayload>() {
        CallErrorKind::BadMessage
    } else {
        CallErrorKind::Failed
    };
    let failure = CallFailure::new(kind, error.to_string());
    match details(&**error) {
        Some((code, data)) => failure.with_details(code, data.cloned()),
        None => failure,
    }
}

/// Returns the code and the data of the first error of a chain that has a code.
fn details<'a>(error: &'a (dyn Error + 'static)) -> Option<(&'a str, Option<&'a Value>)> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<ApplicationError>() {
            return Some((error.code(), error.data()));
        }
        if let Some(error) = error.downcast_ref::<crate::error::CallError>()
            && let Some(code) = error.code()
        {
            return Some((code, error.data()));
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests;
