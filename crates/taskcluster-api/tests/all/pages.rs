//! Lists that come in pages.

use crate::server::{Answer, Asked, Server};
use futures_core::Stream;
use serde_json::json;
use std::future::Future;
use std::pin::{Pin, pin};
use taskcluster_api::{Failure, RetryPolicy, Secrets};

/// `a b`, `c`, nothing, `d`: pages may be empty.
fn alphabet(asked: &Asked) -> Answer {
    let token = asked.query.iter().find(|(name, _)| name == "continuationToken").map(|(_, value)| value.as_str());
    let (names, next) = match token {
        None => (vec!["a", "b"], Some("page/2+")),
        Some("page/2+") => (vec!["c"], Some("3")),
        Some("3") => (vec![], Some("4")),
        Some("4") => (vec!["d"], Some("")),
        Some(other) => panic!("{other}"),
    };
    Answer::json(200, &json!({"secrets": names, "continuationToken": next}))
}

#[tokio::test]
async fn a_list_is_asked_for_page_by_page_until_there_is_no_token() {
    let server = Server::start(|_, asked| alphabet(asked)).await;
    let secrets = Secrets::new(server.client());
    assert_eq!(secrets.list().all().await.unwrap(), ["a", "b", "c", "d"]);
    assert_eq!(server.asked().len(), 4);
    // Nothing is asked for before it is wanted.
    let mut items = secrets.list().limit(2).items();
    assert_eq!(server.asked().len(), 4);
    assert_eq!(items.next().await.unwrap().unwrap(), "a");
    assert_eq!((items.continuation_token(), items.is_done()), (None, false), "the first page, whose b has not come");
    assert_eq!(items.next().await.unwrap().unwrap(), "b");
    assert_eq!(server.asked().len(), 5);
    assert_eq!(server.asked()[4].query, [("limit".to_owned(), "2".to_owned())]);
    assert_eq!(items.continuation_token(), Some("page/2+"));
    // A new list goes on from there.
    let token = items.continuation_token().map(str::to_owned);
    let mut rest = secrets.list().after(token).items();
    assert_eq!(rest.next().await.unwrap().unwrap(), "c");
    assert_eq!(rest.next().await.unwrap().unwrap(), "d");
    assert!(rest.next().await.is_none() && rest.is_done());
}

#[tokio::test]
async fn it_is_a_stream() {
    let server = Server::start(|_, asked| alphabet(asked)).await;
    let mut stream = pin!(Secrets::new(server.client()).list().pages());
    let mut sizes = Vec::new();
    while let Some(page) = std::future::poll_fn(|context| stream.as_mut().poll_next(context)).await {
        sizes.push(page.unwrap().items.len());
    }
    assert_eq!(sizes, [2, 1, 0, 1]);
}

#[tokio::test]
async fn an_error_ends_it_and_its_token_resumes_it() {
    let server =
        Server::start(|number, asked| if number == 1 { Answer::json(400, &json!({})) } else { alphabet(asked) }).await;
    let secrets = Secrets::new(server.client());
    let mut items = secrets.list().items();
    for expected in ["a", "b"] {
        assert_eq!(items.next().await.unwrap().unwrap(), expected);
    }
    assert_eq!(items.next().await.unwrap().unwrap_err().status(), Some(400));
    assert!(items.next().await.is_none());
    assert_eq!(server.asked().len(), 2);
    let token = items.continuation_token().map(str::to_owned);
    assert_eq!(secrets.list().after(token).all().await.unwrap(), ["c", "d"]);
}

#[tokio::test]
async fn a_token_that_leads_nowhere_is_an_error_and_no_endless_list() {
    let server = Server::start(|_, _| Answer::json(200, &json!({"secrets": [], "continuationToken": "again"}))).await;
    let error = Secrets::new(server.client()).list().all().await.unwrap_err();
    assert!(matches!(&error.failure, Failure::Decode(problem) if problem.path == "continuationToken"), "{error:?}");
    assert_eq!(server.asked().len(), 2);
}

/// A future of `next` that is dropped loses no page, and never has two requests under way.
#[tokio::test]
async fn a_next_that_is_dropped_loses_nothing() {
    let server = Server::start(|_, asked| alphabet(asked)).await;
    let mut items = Secrets::new(server.client().with_retry(RetryPolicy::NONE)).list().items();
    let mut found = Vec::new();
    loop {
        let polled = {
            let mut next = Box::pin(items.next());
            std::future::poll_fn(|context| std::task::Poll::Ready(Pin::new(&mut next).poll(context))).await
        };
        match polled {
            std::task::Poll::Ready(Some(item)) => found.push(item.unwrap()),
            std::task::Poll::Ready(None) => break,
            std::task::Poll::Pending => tokio::task::yield_now().await,
        }
    }
    assert_eq!(found, ["a", "b", "c", "d"]);
    assert_eq!((server.asked().len(), server.most_under_way()), (4, 1));
}
