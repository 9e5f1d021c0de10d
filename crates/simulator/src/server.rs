//! The one server: tells metadata requests from Taskcluster's, applies faults, remembers everything.

use crate::cloud::{Cloud, CloudKind, Launch};
use crate::fault::{Fault, Rule};
use crate::record::Record;
use crate::taskcluster::{OPERATOR, Request as ApiRequest, Taskcluster};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where the machine stands.
    pub kind: CloudKind,
    /// How long every answer takes.
    pub latency: Duration,
}

/// Everything that changes.
#[derive(Debug)]
pub struct World {
    /// The cloud.
    pub cloud: Cloud,
    /// The deployment.
    pub taskcluster: Taskcluster,
    /// What goes wrong.
    pub rules: Vec<Rule>,
    /// Whether answers that are held ([`Fault::Hold`]) may come.
    pub released: bool,
    /// How long every answer takes.
    pub latency: Duration,
    /// What was asked.
    pub records: Vec<Record>,
}

struct Shared {
    world: Mutex<World>,
    recorded: Condvar,
    /// Wakes requests that wait for a change.
    changed: Notify,
}

/// A running simulation. Ends when dropped.
pub struct Simulator {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Simulator {
    /// Starts a simulation on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// Where there is none.
    pub fn start(setup: &Setup) -> io::Result<Self> {
        Self::start_on(setup, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Starts a simulation on this address.
    ///
    /// # Errors
    /// Where it can't be had.
    pub fn start_on(setup: &Setup, address: SocketAddr) -> io::Result<Self> {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let mut world = World::new(setup, &format!("http://{address}"));
        world.taskcluster.launch(&world.cloud);
        let shared = Arc::new(Shared { world: Mutex::new(world), recorded: Condvar::new(), changed: Notify::new() });
        let (stop, stopped) = oneshot::channel();
        let served = Arc::clone(&shared);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("simulator".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, served) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens: the metadata service and the root URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client that may do everything in this deployment.
    ///
    /// # Errors
    /// Where there can't be one.
    pub fn operator(&self) -> io::Result<taskcluster_api::Client> {
        let root_url = self.url().parse().map_err(io::Error::other)?;
        let client = taskcluster_api::Client::new(root_url).map_err(io::Error::other)?;
        Ok(client.with_credentials(taskcluster_api::Credentials::new(OPERATOR.0, OPERATOR.1)))
    }

    /// Looks at the state, or changes it. What waits for a change looks again.
    pub fn world<T>(&self, with: impl FnOnce(&mut World) -> T) -> T {
        let result = with(&mut self.shared.lock());
        self.shared.changed.notify_waiters();
        result
    }

    /// Adds a fault: requests whose `METHOD path` holds `matches` go wrong `times` times.
    pub fn fault(&self, matches: &str, times: usize, fault: Fault) {
        self.world(|world| world.rules.push(Rule { matches: matches.to_owned(), fault, after: 0, times }));
    }

    /// What was asked so far.
    pub fn records(&self) -> Vec<Record> {
        self.shared.lock().records.clone()
    }

    /// How often something was asked: `METHOD path` holds `matches`.
    pub fn count(&self, matches: &str) -> usize {
        self.shared.lock().records.iter().filter(|record| record.what().contains(matches)).count()
    }

    /// Waits until something was asked that often, or for so long. Whether it was.
    pub fn wait_for(&self, matches: &str, times: usize, limit: Duration) -> bool {
        let asked =
            |world: &mut World| world.records.iter().filter(|record| record.what().contains(matches)).count() < times;
        let waited = self.shared.recorded.wait_timeout_while(self.shared.lock(), limit, asked);
        let (world, result) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(world);
        !result.timed_out()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    fn new(setup: &Setup, url: &str) -> Self {
        let machine_id = match setup.kind {
            CloudKind::Aws => "i-0123456789abcdef0",
            CloudKind::Azure => "vm-simulated-0001",
            CloudKind::Google => "1234567890123456789",
            CloudKind::Static | CloudKind::Standalone => "machine-1",
        };
        let (provider_id, worker_group) = match setup.kind {
            CloudKind::Aws => ("community-aws", "us-west-2b"),
            CloudKind::Azure => ("community-azure", "uswest"),
            CloudKind::Google => ("community-google", "us-west1-a"),
            CloudKind::Static | CloudKind::Standalone => ("static", "rack-1"),
        };
        let launch = Launch {
            worker_pool_id: "proj-simulated/ci".to_owned(),
            provider_id: provider_id.to_owned(),
            worker_group: worker_group.to_owned(),
            root_url: url.to_owned(),
        };
        let standalone = ("project/simulated/worker".to_owned(), "canary-standalone-access-token".to_owned());
        Self {
            cloud: Cloud {
                kind: setup.kind,
                public: true,
                machine_id: machine_id.to_owned(),
                spot_action: None,
                termination_time: None,
                life_cycle: "spot".to_owned(),
                rebalance: None,
                lifecycle_target: None,
                maintenance: Vec::new(),
                preempted: false,
                maintenance_event: "NONE".to_owned(),
                machine_type: "n1-standard-4".to_owned(),
                events: Vec::new(),
                acknowledged: Vec::new(),
                launch,
            },
            taskcluster: Taskcluster::new(&format!("{:_<44}", "canary-static-secret-"), standalone),
            rules: Vec::new(),
            released: false,
            latency: setup.latency,
            records: Vec::new(),
        }
    }
}

async fn serve(listener: StdListener, shared: Arc<Shared>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let connected = Instant::now();
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(|request| handle(&shared, connected, request));
            // A dropped connection is an error here, and is meant.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Body = StreamBody<Trickle>;

/// A body that comes in one piece, or byte by byte.
struct Trickle {
    rest: Bytes,
    pause: Option<Duration>,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Trickle {
    fn body(text: String, pause: Option<Duration>) -> Body {
        StreamBody::new(Self { rest: text.into(), pause, timer: None })
    }
}

impl futures_core::Stream for Trickle {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let Some(pause) = self.pause else {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.rest)))));
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
        if timer.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.timer = None;
        let byte = self.rest.split_to(1);
        Poll::Ready(Some(Ok(Frame::data(byte))))
    }
}

/// The connection is closed without an answer.
#[derive(Debug)]
struct Dropped;

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("dropped on purpose")
    }
}

impl std::error::Error for Dropped {}

/// Waits to the moment, for what is measured against it: a timer alone comes up to two milliseconds late.
async fn wait_until(moment: Instant) {
    const COARSE: Duration = Duration::from_millis(2);
    if let Some(left) = moment.checked_duration_since(Instant::now() + COARSE) {
        tokio::time::sleep(left).await;
    }
    while Instant::now() < moment {
        tokio::task::yield_now().await;
    }
}

async fn handle(shared: &Shared, connected: Instant, request: Request<Incoming>) -> Result<Response<Body>, Dropped> {
    let began = Instant::now();
    let method = request.method().as_str().to_owned();
    let path = request.uri().path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    let headers: BTreeMap<String, String> = request
        .headers()
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
        .collect();
    let body = request.into_body().collect().await.map_err(|_| Dropped)?.to_bytes();
    let what = format!("{method} {path}");
    let (number, faults, latency) = {
        let mut world = shared.lock();
        let is_poll = ["wait_for_change=true", "/scheduledevents"].iter().any(|poll| path.contains(poll));
        world.records.push(Record {
            method: method.clone(),
            path: path.clone(),
            connected,
            began,
            ended: None,
            status: None,
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
            is_poll,
        });
        let number = world.records.len() - 1;
        let mut faults = Vec::new();
        for rule in &mut world.rules {
            if rule.applies(&what) {
                faults.push(rule.fault.clone());
            }
            // What else may go wrong does so with the next request: with this one nothing can any more.
            if matches!(faults.last(), Some(Fault::Answer { .. } | Fault::Drop)) {
                break;
            }
        }
        (number, faults, world.latency)
    };
    shared.recorded.notify_all();
    wait_until(began + latency).await;
    let mut pause = None;
    let mut lose = false;
    for fault in faults {
        match fault {
            Fault::Delay(delay) => tokio::time::sleep(delay).await,
            Fault::Hold => wait_until_changed(shared, |world| world.released).await,
            Fault::Drop => return Err(Dropped),
            Fault::LoseAnswer => lose = true,
            Fault::SlowBody(between) => pause = Some(between),
            Fault::Answer { status, headers, body } => return Ok(reply(shared, number, status, &headers, body, None)),
        }
    }
    if path.contains("wait_for_change=true") {
        wait_for_change(shared, &path).await;
    }
    let (status, extra, text) = {
        let mut world = shared.lock();
        let World { cloud, taskcluster, .. } = &mut *world;
        let payload = serde_json::from_slice(&body).unwrap_or(Value::Null);
        match cloud.answer(&method, &path, &headers, &payload) {
            Some(answer) => (answer.status, answer.headers, answer.body),
            None => {
                let request = ApiRequest {
                    method: &method,
                    path: &path,
                    host: headers.get("host").map_or("", String::as_str),
                    authorization: headers.get("authorization").map(String::as_str),
                    content_type: headers.get("content-type").map_or("", String::as_str),
                    body: &body,
                };
                let (status, body) = taskcluster.answer(cloud, &request);
                let date = httpdate::fmt_http_date(taskcluster.now());
                (status, vec![("date", date), ("content-type", "application/json".to_owned())], body.to_string())
            }
        }
    };
    if lose {
        return Err(Dropped);
    }
    Ok(reply(shared, number, status, &extra, text, pause))
}

fn reply(
    shared: &Shared,
    number: usize,
    status: u16,
    headers: &[(&'static str, String)],
    body: String,
    pause: Option<Duration>,
) -> Response<Body> {
    {
        let mut world = shared.lock();
        if let Some(record) = world.records.get_mut(number) {
            record.ended = Some(Instant::now());
            record.status = Some(status);
        }
    }
    shared.recorded.notify_all();
    let mut response = Response::new(Trickle::body(body, pause));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    for (name, value) in headers {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(*name, value);
        }
    }
    response
}

async fn wait_until_changed(shared: &Shared, reached: impl Fn(&World) -> bool) {
    loop {
        let changed = shared.changed.notified();
        if reached(&shared.lock()) {
            return;
        }
        changed.await;
    }
}

/// Google's hanging GET: answers when what it waits for is no longer as it was, or after its time.
async fn wait_for_change(shared: &Shared, path: &str) {
    let parameter = |name: &str| {
        path.split(['?', '&']).find_map(|part| part.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
    };
    let seconds = parameter("timeout_sec").and_then(|text| text.parse().ok()).unwrap_or(3600);
    let last = parameter("last_etag");
    let path = path.split('?').next().unwrap_or_default();
    let wait = wait_until_changed(shared, |world| Some(world.cloud.etag(path)) != last);
    let _ = tokio::time::timeout(Duration::from_secs(seconds), wait).await;
}
