//! Code around the functions of a server.

use super::message::{Function, FunctionError, Message, Outcome};
use futures::FutureExt as _;
#[cfg(feature = "tower")]
use futures::future::BoxFuture;
use palm_proto::types::answer::Answer;
#[cfg(feature = "tower")]
use std::task::{Context, Poll};
use std::{fmt, future::Future, sync::Arc};

/// Wraps a function: returns what runs instead of it.
pub(super) type Wrap = Box<dyn Fn(Next) -> Function + Send + Sync>;

/// The rest of what a message passes: further middleware, and then the function. From
/// [`Server::wrap`](crate::Server::wrap). Cheap to clone.
#[derive(Clone)]
pub struct Next {
    name: Arc<str>,
    function: Function,
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next")
            .field("function", &self.name)
            .finish_non_exhaustive()
    }
}

impl Next {
    pub(super) fn new(name: &str, function: Function) -> Self {
        let name = name.into();
        Self { name, function }
    }

    /// Returns the name of the function.
    #[must_use]
    pub fn function(&self) -> &str {
        &self.name
    }

    /// Runs the rest. Dropping the future cancels it, except for a blocking function, which runs to
    /// its end.
    ///
    /// # Errors
    /// The error of the function, as it returned it.
    pub async fn run(&self, message: Message) -> Result<Answer, FunctionError> {
        (self.function)(message).await
    }
}

/// Returns the wrap of a middleware closure.
pub(super) fn closure<F, Fut>(middleware: F) -> Wrap
where
    F: Fn(Next, Message) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    let middleware = Arc::new(middleware);
    Box::new(move |next| {
        let middleware = Arc::clone(&middleware);
        Arc::new(move |message| middleware(next.clone(), message).boxed())
    })
}

/// The innermost service of a layer.
#[cfg(feature = "tower")]
impl tower_service::Service<Message> for Next {
    type Response = Answer;
    type Error = FunctionError;
    type Future = BoxFuture<'static, Outcome>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), FunctionError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, message: Message) -> Self::Future {
        (self.function)(message)
    }
}

/// Returns the wrap of a layer.
#[cfg(feature = "tower")]
pub(super) fn layer<L>(layer: L) -> Wrap
where
    L: tower_layer::Layer<Next> + Send + Sync + 'static,
    L::Service: tower_service::Service<
            Message,
            Response: Into<Answer>,
            Error: Into<FunctionError>,
            Future: Send,
        > + Clone
        + Send
        + 'static,
{
    use std::{future::poll_fn, sync::Mutex};
    use tower_service::Service as _;

    Box::new(move |next| {
        // A service need not be `Sync`.
        let service = Mutex::new(layer.layer(next));
        Arc::new(move |message| {
            let mut service = crate::sync::lock(&service).clone();
            async move {
                let ready = poll_fn(|cx| service.poll_ready(cx)).await;
                ready.map_err(Into::into)?;
                let answer = service.call(message).await;
                answer.map(Into::into).map_err(Into::into)
            }
            .boxed()
        })
    })
}
