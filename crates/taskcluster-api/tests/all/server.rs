//! A server on loopback that answers as a test says, and remembers what it was asked.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use taskcluster_api::{Client, Credentials, Repeat, RetryPolicy};
use tokio::net::TcpListener;

/// What was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub authorization: Option<String>,
    pub body: Value,
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Never comes.
    pub hangs: bool,
}

impl Answer {
    pub fn json(status: u16, body: &Value) -> Self {
        Self { status, body: body.to_string().into_bytes(), ..Self::default() }
    }
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    connections: usize,
    /// How many requests are under way, and the most that ever were.
    under_way: (usize, usize),
}

/// A running server; ends with its runtime.
pub struct Server {
    url: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// Answers the request of that number, from 0, so.
    pub async fn start(answer: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, answer) = (Arc::clone(&state), Arc::new(answer));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                shared.lock().unwrap().connections += 1;
                let (shared, answer) = (Arc::clone(&shared), Arc::clone(&answer));
                tokio::spawn(async move {
                    let service = service_fn(|request| handle(&shared, &*answer, request));
                    let connection = hyper::server::conn::http1::Builder::new();
                    // A client that goes away is part of some tests.
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { url, state }
    }

    /// A client for it that signs, and tries again at once.
    pub fn client(&self) -> Client {
        let quick = RetryPolicy { first: std::time::Duration::ZERO, ..RetryPolicy::DEFAULT };
        Client::new(self.url.parse().unwrap())
            .unwrap()
            .with_credentials(Credentials::new("me", "canary-access-token"))
            .with_retry(RetryPolicy { longest: std::time::Duration::ZERO, repeat: Repeat::Idempotent, ..quick })
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// The most requests that were ever under way at once.
    pub fn most_under_way(&self) -> usize {
        self.state.lock().unwrap().under_way.1
    }

    pub fn connections(&self) -> usize {
        self.state.lock().unwrap().connections
    }
}

async fn handle(
    state: &Mutex<State>,
    answer: &(dyn Fn(usize, &Asked) -> Answer + Send + Sync),
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let uri = request.uri().clone();
    let url = reqwest::Url::parse(&format!("http://server{uri}")).unwrap();
    let asked = Asked {
        method: request.method().to_string(),
        path: uri.path().to_owned(),
        query: url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect(),
        authorization: request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned()),
        body: serde_json::from_slice(&request.into_body().collect().await.unwrap().to_bytes()).unwrap_or(Value::Null),
    };
    let number = {
        let mut state = state.lock().unwrap();
        state.asked.push(asked.clone());
        let (now, most) = state.under_way;
        state.under_way = (now + 1, most.max(now + 1));
        state.asked.len() - 1
    };
    // Whoever could have two under way at once has the time for it.
    tokio::task::yield_now().await;
    let answer = answer(number, &asked);
    if answer.hangs {
        std::future::pending::<()>().await;
    }
    state.lock().unwrap().under_way.0 -= 1;
    let mut response = Response::new(Full::from(answer.body));
    *response.status_mut() = hyper::StatusCode::from_u16(answer.status).unwrap();
    for (name, value) in answer.headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    Ok(response)
}
