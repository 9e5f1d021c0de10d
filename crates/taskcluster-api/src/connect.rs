//! Connections: one can be made ahead of its first request, and each says in the timeline what it took.

use std::any::Any;
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Instrument, Span};

/// A connection that has waited longer for its first request may have been closed by the other side.
const FRESH: Duration = Duration::from_secs(2);

/// The target of the spans that make a timeline: no part of the log.
pub const TIMELINE: &str = "timeline";

/// Where the connections of one client to one host come from.
#[derive(Clone, Default)]
pub(crate) struct Connections(Arc<Shared>);

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connections")
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something has become of the one that is made ahead.
    settled: Notify,
}

#[derive(Default)]
struct State {
    ahead: Ahead,
    /// The thread that is polling the request whose connection is to be made ahead: what is asked for there and then is
    /// asked for by it.
    asking: Option<ThreadId>,
    /// Whether a connection was ever asked for.
    used: bool,
}

/// The connection that is made ahead.
#[derive(Default)]
enum Ahead {
    /// There is none.
    #[default]
    None,
    /// It is being made.
    Making,
    /// It waits for its request since then.
    Ready(Instant, Box<dyn Any + Send>),
}

impl Connections {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a connection ahead: that for `request`, which is dropped as soon as there is one and never sent. Does nothing
    /// where there has been a connection before, over which it would be sent.
    pub(crate) async fn make_ahead<T>(&self, request: impl Future<Output = T>) {
        if self.state().used {
            return;
        }
        let settled = self.0.settled.notified();
        let mut request = std::pin::pin!(request);
        let asking = std::future::poll_fn(|context| {
            self.state().asking = Some(thread::current().id());
            let polled = request.as_mut().poll(context);
            self.state().asking = None;
            polled
        });
        tokio::select! {
            () = settled => {}
            // It failed. Whoever needs a connection tries by itself, and says why it can't have one.
            _ = asking => {}
        }
    }

    /// Whether a connection that is asked for now is the one to be made ahead.
    fn begin(&self) -> bool {
        let mut state = self.state();
        let is_ahead = state.asking == Some(thread::current().id()) && !state.used;
        state.used = true;
        if is_ahead {
            state.ahead = Ahead::Making;
        }
        is_ahead
    }

    /// The one that was made ahead, after waiting for it where it is being made.
    async fn take<C: 'static>(&self) -> Option<C> {
        loop {
            let settled = self.0.settled.notified();
            {
                let mut state = self.state();
                match mem::take(&mut state.ahead) {
                    Ahead::Ready(since, connection) if since.elapsed() < FRESH => {
                        return connection.downcast().ok().map(|connection| *connection);
                    }
                    Ahead::None | Ahead::Ready(..) => return None,
                    Ahead::Making => state.ahead = Ahead::Making,
                }
            }
            settled.await;
        }
    }
}

impl<S> Layer<S> for Connections {
    type Service = Connector<S>;

    fn layer(&self, inner: S) -> Connector<S> {
        Connector { inner, connections: self.clone() }
    }
}

/// Makes connections.
#[derive(Clone)]
pub(crate) struct Connector<S> {
    inner: S,
    connections: Connections,
}

impl<S, D> Service<D> for Connector<S>
where
    S: Service<D> + Clone + Send + 'static,
    S::Response: Send + 'static,
    S::Future: Send + 'static,
    D: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, destination: D) -> Self::Future {
        let connections = self.connections.clone();
        // The one that was found to be ready.
        let inner = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, inner);
        let is_ahead = connections.begin();
        // Whose part it is, is known here and now; that it is needed, only later.
        let request = Span::current();
        let span = move || tracing::info_span!(target: TIMELINE, parent: &request, "connect", ahead = is_ahead);
        if is_ahead {
            let making = Making(connections);
            return Box::pin(async move {
                let connection = inner.call(destination).instrument(span()).await?;
                making.done(connection);
                // Its request is not sent.
                std::future::pending().await
            });
        }
        Box::pin(async move {
            if let Some(connection) = connections.take().await {
                return Ok(connection);
            }
            inner.call(destination).instrument(span()).await
        })
    }
}

/// A connection that is being made ahead: whoever waits for it hears of it, even where it comes to nothing.
struct Making(Connections);

impl Making {
    fn done<C: Send + 'static>(self, connection: C) {
        self.0.state().ahead = Ahead::Ready(Instant::now(), Box::new(connection));
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if matches!(state.ahead, Ahead::Making) {
            state.ahead = Ahead::None;
        }
        drop(state);
        self.0.0.settled.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Counts the connections that it makes; each takes a turn of the scheduler.
    #[derive(Clone, Default)]
    struct Counting(Arc<AtomicUsize>);

    impl Service<()> for Counting {
        type Response = usize;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<usize, Infallible>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, (): ()) -> Self::Future {
            let number = self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                tokio::task::yield_now().await;
                Ok(number)
            })
        }
    }

    #[tokio::test]
    async fn a_connection_is_made_ahead_once_and_used_once() {
        let connections = Connections::default();
        let mut connector = connections.layer(Counting::default());
        let mut ahead = connector.clone();
        connections.make_ahead(async move { ahead.call(()).await }).await;
        assert_eq!([connector.call(()).await, connector.call(()).await], [Ok(0), Ok(1)]);
    }

    #[tokio::test]
    async fn a_request_waits_for_the_connection_that_is_being_made() {
        let connections = Connections::default();
        let counting = Counting::default();
        let mut connector = connections.layer(counting.clone());
        let mut ahead = connector.clone();
        let making = connections.make_ahead(async move { ahead.call(()).await });
        let request = async { connector.call(()).await };
        let ((), request) = tokio::join!(making, request);
        assert_eq!((request, counting.0.load(Ordering::Relaxed)), (Ok(0), 1));
    }

    #[tokio::test]
    async fn where_there_was_a_connection_before_none_is_made_ahead() {
        let connections = Connections::default();
        let mut connector = connections.layer(Counting::default());
        assert_eq!(connector.call(()).await, Ok(0));
        connections.make_ahead(std::future::pending::<()>()).await;
        assert_eq!(connector.call(()).await, Ok(1));
    }

    #[tokio::test]
    async fn a_connection_ahead_that_is_given_up_holds_nobody_up() {
        let connections = Connections::default();
        let mut connector = connections.layer(Counting::default());
        let mut ahead = connector.clone();
        {
            let mut making = std::pin::pin!(connections.make_ahead(async move { ahead.call(()).await }));
            let mut context = Context::from_waker(std::task::Waker::noop());
            assert!(making.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(connector.call(()).await, Ok(1));
    }
}
