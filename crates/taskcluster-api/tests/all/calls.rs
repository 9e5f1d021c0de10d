//! One call: errors, retries, deadlines, signatures.

use crate::server::{Answer, Asked, Server};
use serde_json::json;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use taskcluster_api::worker_manager::WorkerFilter;
use taskcluster_api::{
    Client, Credentials, ErrorClass, Failure, Repeat, ReportWorkerError, RetryPolicy, Secrets, WorkerManager,
    WorkerName,
};

fn worker() -> WorkerName {
    WorkerName {
        worker_pool_id: "proj-x/ci".parse().unwrap(),
        worker_group: "rack-1".parse().unwrap(),
        worker_id: "m-1".parse().unwrap(),
    }
}

fn report() -> ReportWorkerError {
    let (kind, title, description) = ("k".to_owned(), "t".to_owned(), "d".to_owned());
    ReportWorkerError { kind, title, description, extra: serde_json::Map::new() }
}

fn status(status: u16) -> Answer {
    let message = "no luck\n\n---\n\n* payload: canary";
    let time = "2026-11-21T10:20:30.000Z";
    let info =
        json!({"method": "worker", "params": {"workerId": "m-1"}, "payload": {"secret": "canary"}, "time": time});
    Answer::json(status, &json!({"code": "BadLuck", "message": message, "requestInfo": info}))
}

#[tokio::test]
async fn an_error_has_status_code_message_and_request() {
    let server = Server::start(|_, _| status(403)).await;
    let error = WorkerManager::new(server.client()).worker(&worker()).await.unwrap_err();
    assert_eq!((error.status(), error.class(), error.is_retryable()), (Some(403), ErrorClass::Refused, false));
    assert!(error.to_string().starts_with("worker (http://127.0.0.1:"), "{error}");
    assert_eq!(error.failure.to_string(), "answered 403 BadLuck: no luck");
    let info = error.refusal().unwrap().request_info.as_ref().unwrap();
    assert_eq!((info.method.as_str(), info.params["workerId"].as_str()), ("worker", "m-1"));
    assert_eq!(info.time.unwrap().to_string(), "2026-11-21T10:20:30Z");
    assert!(!format!("{error:?}").contains("canary"), "{error:?}");
}

#[tokio::test]
async fn an_idempotent_call_is_tried_five_more_times() {
    for refusal in [429, 500, 503] {
        let server = Server::start(move |_, _| status(refusal)).await;
        let error = WorkerManager::new(server.client()).worker(&worker()).await.unwrap_err();
        assert!(error.is_retryable());
        assert_eq!(server.asked().len(), 6);
    }
    let server = Server::start(|number, _| if number < 3 { status(502) } else { Answer::json(200, &json!({})) }).await;
    WorkerManager::new(server.client()).remove_worker(&worker()).await.unwrap();
    assert_eq!(server.asked().len(), 4);
    for refusal in [301, 400, 404, 410] {
        let elsewhere = Answer { headers: vec![("location", "/elsewhere".to_owned())], ..status(refusal) };
        let server = Server::start(move |_, _| elsewhere.clone()).await;
        let error = WorkerManager::new(server.client()).worker(&worker()).await.unwrap_err();
        assert_eq!((error.status(), server.asked().len()), (Some(refusal), 1));
    }
}

#[tokio::test]
async fn what_may_have_been_done_is_done_again_only_where_that_is_harmless_or_asked_for() {
    let server = Server::start(|_, _| status(502)).await;
    let service = WorkerManager::new(server.client());
    service.report_worker_error(&worker(), report()).await.unwrap_err();
    assert_eq!(server.asked().len(), 1);
    let any =
        RetryPolicy { first: Duration::ZERO, longest: Duration::ZERO, repeat: Repeat::Any, ..RetryPolicy::DEFAULT };
    let service = WorkerManager::new(server.client().with_retry(any));
    service.report_worker_error(&worker(), report()).await.unwrap_err();
    assert_eq!(server.asked().len(), 7);
    // Nothing was done where the service is too busy.
    let server = Server::start(|_, _| status(429)).await;
    WorkerManager::new(server.client()).report_worker_error(&worker(), report()).await.unwrap_err();
    assert_eq!(server.asked().len(), 6);
}

/// A refusal of a second try says nothing of the first.
#[tokio::test]
async fn what_an_earlier_try_may_have_done_is_not_undone_by_a_later_refusal() {
    let server = Server::start(|number, _| status(if number == 0 { 502 } else { 403 })).await;
    let error = WorkerManager::new(server.client()).remove_worker(&worker()).await.unwrap_err();
    assert_eq!((error.status(), error.is_certainly_undone()), (Some(403), false));
    let server = Server::start(|number, _| status(if number == 0 { 429 } else { 403 })).await;
    let error = WorkerManager::new(server.client()).remove_worker(&worker()).await.unwrap_err();
    assert_eq!((error.status(), error.is_certainly_undone()), (Some(403), true));
}

#[tokio::test]
async fn nobody_there_is_an_error_of_its_own() {
    // No other test can be given this port.
    let client = Client::new("http://127.0.0.1:1".parse().unwrap()).unwrap();
    let client =
        client.with_retry(RetryPolicy { first: Duration::ZERO, longest: Duration::ZERO, ..RetryPolicy::DEFAULT });
    let error = WorkerManager::new(client).report_worker_error(&worker(), report()).await.unwrap_err();
    assert!(matches!(error.failure, Failure::Connect(_)) && error.is_certainly_undone(), "{error:?}");
}

#[tokio::test]
async fn every_call_has_a_deadline() {
    let server = Server::start(|_, _| Answer { hangs: true, ..status(200) }).await;
    let client = server.client().with_timeout(Duration::from_millis(50)).with_retry(RetryPolicy::NONE);
    let error = WorkerManager::new(client).worker(&worker()).await.unwrap_err();
    assert!(matches!(error.failure, Failure::Timeout(_)) && error.is_retryable(), "{error:?}");
}

/// Whether a request arrives before its deadline is the machine's affair: on a busy one, it may not.
#[tokio::test]
async fn what_may_have_been_done_by_its_deadline_is_done_again_only_where_that_is_harmless() {
    let first_hangs = |number, _: &Asked| Answer { hangs: number == 0, ..Answer::json(200, &json!({})) };
    let server = Server::start(first_hangs).await;
    let quick = server.client().with_timeout(Duration::from_secs(1));
    WorkerManager::new(quick).report_worker_error(&worker(), report()).await.unwrap_err();
    assert!(server.asked().len() <= 1);
    let server = Server::start(first_hangs).await;
    let quick = server.client().with_timeout(Duration::from_secs(1));
    WorkerManager::new(quick).remove_worker(&worker()).await.unwrap();
    assert!(server.asked().len() >= 2);
}

#[tokio::test]
async fn no_try_begins_after_the_time_that_is_given() {
    let server = Server::start(|_, _| status(503)).await;
    let none = RetryPolicy { total: Duration::ZERO, ..RetryPolicy::persistent(Duration::ZERO) };
    WorkerManager::new(server.client().with_retry(none)).worker(&worker()).await.unwrap_err();
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn an_answer_is_bounded() {
    let server = Server::start(|_, _| Answer { status: 200, body: vec![b' '; 65 << 20], ..Answer::default() }).await;
    let error = WorkerManager::new(server.client()).worker(&worker()).await.unwrap_err();
    assert!(matches!(error.failure, Failure::TooLarge(_)) && !error.is_retryable(), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_is_wrong_is_described_by_place_and_type() {
    let answers = [
        (json!({"workers": [{}]}), "at `workers[0]`: missing field `workerPoolId`"),
        (json!({"workers": "canary"}), "at `workers`: found a string, expected a sequence"),
        (json!({"workers": [{"workerPoolId": "canary"}]}), "at `workers[0].workerPoolId`: its value is not valid"),
        (json!(["canary"]), "its value is not valid"),
    ];
    for (answer, expected) in answers {
        let server = Server::start(move |_, _| Answer::json(200, &answer)).await;
        let list = WorkerManager::new(server.client())
            .list_workers_for_worker_pool(&worker().worker_pool_id, WorkerFilter::default());
        let error = list.page().await.unwrap_err();
        let Failure::Decode(problem) = &error.failure else { panic!("{error:?}") };
        assert!(!error.is_retryable() && !problem.to_string().contains("canary"));
        if expected != "its value is not valid" {
            assert_eq!(problem.to_string(), expected);
        }
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_goes_on_nowhere() {
    let server = Server::start(|number, _| Answer { hangs: number == 0, ..Answer::json(200, &json!({})) }).await;
    let service = WorkerManager::new(server.client());
    {
        let worker = worker();
        let mut call = pin!(service.remove_worker(&worker));
        while server.asked().is_empty() {
            let now = std::future::poll_fn(|context| std::task::Poll::Ready(call.as_mut().poll(context))).await;
            assert!(now.is_pending());
            tokio::task::yield_now().await;
        }
    }
    service.remove_worker(&worker()).await.unwrap();
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn all_services_share_the_connections() {
    let server = Server::start(|_, _| Answer::json(200, &json!({}))).await;
    let client = server.client();
    let (manager, secrets) =
        (WorkerManager::new(client.clone()), Secrets::new(client.with_credentials(Credentials::new("other", "token"))));
    for _ in 0..20 {
        manager.ping().await.unwrap();
        secrets.remove("a").await.unwrap();
    }
    assert_eq!((server.asked().len(), server.connections()), (40, 1));
}

#[tokio::test]
async fn a_clock_that_is_off_is_corrected_by_the_services_own() {
    let ahead = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(3600));
    let server = Server::start(move |number, _| match number {
        0 => Answer {
            headers: vec![("date", ahead.clone())],
            ..Answer::json(401, &json!({"code": "AuthenticationFailed", "message": "Unauthorized: Stale timestamp"}))
        },
        _ => Answer::json(200, &json!({})),
    })
    .await;
    let client = server.client();
    let service = Secrets::new(client.clone());
    service.remove("a").await.unwrap();
    service.remove("a").await.unwrap();
    assert!((3590..=3610).contains(&client.clock_offset()), "{}", client.clock_offset());
    let times: Vec<i64> = server
        .asked()
        .iter()
        .map(|asked| {
            let header = asked.authorization.clone().unwrap();
            header.split("ts=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
        })
        .collect();
    assert!(times[1] - times[0] > 3500 && times[2] - times[0] > 3500, "{times:?}");
}

#[tokio::test]
async fn without_credentials_a_call_is_anonymous() {
    let server = Server::start(|_, _| Answer::json(200, &json!({}))).await;
    let url = server.client().root_url().clone();
    Secrets::new(Client::new(url).unwrap()).remove("a").await.unwrap();
    assert_eq!(server.asked()[0].authorization, None);
}

#[tokio::test]
async fn an_argument_cannot_make_another_call_of_it() {
    let server = Server::start(|_, _| Answer::json(200, &json!({}))).await;
    let secrets = Secrets::new(server.client());
    for name in ["", ".", ".."] {
        assert!(matches!(secrets.remove(name).await.unwrap_err().failure, Failure::Request(_)), "{name:?}");
    }
    secrets.remove("a/../b?c#d%2F").await.unwrap();
    assert_eq!(server.asked()[0].path, "/api/secrets/v1/secret/a%2F..%2Fb%3Fc%23d%252F");
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn only_the_url_of_a_get_is_signed() {
    use taskcluster_api::{ExposeSecret, endpoint};
    let server =
        Server::start(|_, _| Answer::json(200, &json!({"secret": {}, "expires": "2999-01-01T00:00:00Z"}))).await;
    let client = server.client();
    let minute = Duration::from_secs(60);
    let url = client.signed_url(&endpoint::secrets::GET, &["a b"], &[], minute).unwrap();
    assert!(!format!("{url:?}").contains("bewit"));
    // Anybody can, without any of this crate.
    let anybody = taskcluster_api::plain_http_client().unwrap().build().unwrap();
    let answer = anybody.get(url.expose_secret()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(server.asked()[0].path, "/api/secrets/v1/secret/a%20b");
    assert!(client.signed_url(&endpoint::secrets::SET, &["a"], &[], minute).is_err());
    assert!(client.signed_url(&endpoint::secrets::GET, &[], &[], minute).is_err());
    let anonymous = Client::new(client.root_url().clone()).unwrap();
    assert!(anonymous.signed_url(&endpoint::secrets::GET, &["a"], &[], minute).is_err());
}
