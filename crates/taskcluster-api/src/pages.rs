//! Lists that come in pages.

use crate::client::{Call, Client};
use crate::endpoint::Endpoint;
use crate::error::{ApiError, Decode, Failure};
use futures_core::Stream;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// What a list's call answers: some of the items, and what to ask with for more.
pub trait PageBody: DeserializeOwned + Send + 'static {
    /// What is listed.
    type Item: Send + 'static;

    /// The items, and the token of the next page where there is one.
    fn into_page(self) -> Page<Self::Item>;
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The items. A page may be empty, or shorter than the limit, although another one follows.
    pub items: Vec<T>,
    /// What the next page is asked for with; none after the last one.
    pub continuation_token: Option<String>,
}

/// A list that has not been asked for yet.
///
/// [`List::items`] streams it whole, [`List::pages`] page by page, [`List::page`] gets one page. One request is under
/// way at a time.
#[derive(Debug)]
#[must_use = "a list asks for nothing until its items or pages are"]
pub struct List<B> {
    client: Client,
    endpoint: &'static Endpoint,
    arguments: Vec<String>,
    query: Vec<(&'static str, String)>,
    limit: Option<u32>,
    continuation_token: Option<String>,
    body: std::marker::PhantomData<fn() -> B>,
}

impl<B> Clone for List<B> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            endpoint: self.endpoint,
            arguments: self.arguments.clone(),
            query: self.query.clone(),
            limit: self.limit,
            continuation_token: self.continuation_token.clone(),
            body: std::marker::PhantomData,
        }
    }
}

impl<B: PageBody> List<B> {
    pub(crate) fn new(client: &Client, endpoint: &'static Endpoint, arguments: &[&str]) -> Self {
        Self {
            client: client.clone(),
            endpoint,
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            query: Vec::new(),
            limit: None,
            continuation_token: None,
            body: std::marker::PhantomData,
        }
    }

    pub(crate) fn filter(mut self, name: &'static str, value: Option<String>) -> Self {
        self.query.extend(value.map(|value| (name, value)));
        self
    }

    /// At most so many items a page; the service has a limit of its own.
    pub fn limit(self, items: u32) -> Self {
        Self { limit: Some(items), ..self }
    }

    /// Begins where an earlier listing ended: with the token of the page to be had next.
    pub fn after(self, continuation_token: Option<String>) -> Self {
        Self { continuation_token, ..self }
    }

    /// One page.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn page(self) -> Result<Page<B::Item>, ApiError> {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let limit = self.limit.map(|limit| limit.to_string());
        let mut query: Vec<(&str, &str)> = self.query.iter().map(|(name, value)| (*name, value.as_str())).collect();
        query.extend(limit.as_deref().map(|limit| ("limit", limit)));
        query.extend(self.continuation_token.as_deref().map(|token| ("continuationToken", token)));
        let call = Call { endpoint: self.endpoint, arguments: &arguments, query: &query, body: None };
        let page = self.client.call::<B>(&call).await?.into_page();
        if page.continuation_token.is_some() && page.continuation_token == self.continuation_token {
            let problem = "it is the token that was asked with, and would be for ever".to_owned();
            let failure = Failure::Decode(Decode { path: "continuationToken".to_owned(), problem });
            return Err(self.client.error(&call, failure));
        }
        Ok(page)
    }

    /// Page by page.
    pub fn pages(self) -> Pages<B> {
        Pages { state: State::At(self.continuation_token.clone()), list: self }
    }

    /// Item by item.
    pub fn items(self) -> Items<B> {
        Items { token: self.continuation_token.clone(), pages: self.pages(), here: VecDeque::new() }
    }

    /// All of it.
    ///
    /// # Errors
    /// The first error: what had come by then is lost. [`List::items`] keeps it.
    pub async fn all(self) -> Result<Vec<B::Item>, ApiError> {
        let (mut all, mut pages) = (Vec::new(), self.pages());
        while let Some(page) = pages.next().await {
            all.extend(page?.items);
        }
        Ok(all)
    }
}

type Fetch<T> = Pin<Box<dyn Future<Output = Result<Page<T>, ApiError>> + Send>>;

enum State<T> {
    /// The page of this token is next; the first one where there is none.
    At(Option<String>),
    /// It has been asked for.
    Fetching(Option<String>, Fetch<T>),
    /// That was all.
    Done,
    /// The page of this token failed.
    Failed(Option<String>),
}

/// A list's pages. A stream, or [`Pages::next`] without any crate for streams.
#[must_use = "a stream does nothing unless it is polled"]
pub struct Pages<B: PageBody> {
    list: List<B>,
    state: State<B::Item>,
}

impl<B: PageBody> Pages<B> {
    /// The next page; none after the last one, or after an error. Dropping the future loses nothing: the next one goes
    /// on with the same request.
    pub async fn next(&mut self) -> Option<Result<Page<B::Item>, ApiError>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Whether the last page has come.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// The token of the page that comes next, or that failed: what [`List::after`] takes to go on from here. None at
    /// the first page, and where [`Pages::is_done`].
    pub fn continuation_token(&self) -> Option<&str> {
        match &self.state {
            State::At(token) | State::Fetching(token, _) | State::Failed(token) => token.as_deref(),
            State::Done => None,
        }
    }
}

impl<B: PageBody> fmt::Debug for Pages<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").field("list", &self.list.endpoint.name).finish_non_exhaustive()
    }
}

impl<B: PageBody> Stream for Pages<B> {
    type Item = Result<Page<B::Item>, ApiError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match &mut self.state {
                State::At(token) => {
                    let token = token.take();
                    let list = List { continuation_token: token.clone(), ..self.list.clone() };
                    self.state = State::Fetching(token, Box::pin(list.page()));
                }
                State::Fetching(token, fetch) => {
                    let result = ready!(fetch.as_mut().poll(context));
                    self.state = match &result {
                        Ok(Page { continuation_token: Some(next), .. }) => State::At(Some(next.clone())),
                        Ok(Page { continuation_token: None, .. }) => State::Done,
                        Err(_) => State::Failed(token.take()),
                    };
                    return Poll::Ready(Some(result));
                }
                State::Done | State::Failed(_) => return Poll::Ready(None),
            }
        }
    }
}

/// A list's items. A stream, or [`Items::next`] without any crate for streams.
#[must_use = "a stream does nothing unless it is polled"]
pub struct Items<B: PageBody> {
    pages: Pages<B>,
    /// The token of the page that the items are of.
    token: Option<String>,
    here: VecDeque<B::Item>,
}

impl<B: PageBody> Items<B> {
    /// The next item; none after the last one, or after an error. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<B::Item, ApiError>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// What [`List::after`] takes to go on from here, after an error or later. In the middle of a page it is that page's
    /// own token, so that its items come again rather than are lost. None at the first page, and where
    /// [`Items::is_done`].
    pub fn continuation_token(&self) -> Option<&str> {
        if self.here.is_empty() { self.pages.continuation_token() } else { self.token.as_deref() }
    }

    /// Whether every item has come.
    pub fn is_done(&self) -> bool {
        self.here.is_empty() && self.pages.is_done()
    }
}

impl<B: PageBody> fmt::Debug for Items<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pages.fmt(f)
    }
}

// The items are never pinned.
impl<B: PageBody> Unpin for Items<B> {}
impl<B: PageBody> Unpin for Pages<B> {}

impl<B: PageBody> Stream for Items<B> {
    type Item = Result<B::Item, ApiError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(item) = self.here.pop_front() {
                return Poll::Ready(Some(Ok(item)));
            }
            // While a page is under way this is its token.
            let token = self.pages.continuation_token().map(str::to_owned);
            match ready!(Pin::new(&mut self.pages).poll_next(context)) {
                Some(Ok(page)) => {
                    self.token = token;
                    self.here = page.items.into();
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// The answer of a list's call: `{<items>: […], continuationToken}`.
macro_rules! page_body {
    ($(#[$doc:meta])* $name:ident, $items:ident: $item:ty, $json:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// The items.
            #[serde(rename = $json)]
            pub $items: Vec<$item>,
            /// What the next page is asked for with.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub continuation_token: Option<String>,
        }

        impl crate::pages::PageBody for $name {
            type Item = $item;

            fn into_page(self) -> crate::pages::Page<$item> {
                // Some services end a list with an empty token.
                let continuation_token = self.continuation_token.filter(|token| !token.is_empty());
                crate::pages::Page { items: self.$items, continuation_token }
            }
        }
    };
}

pub(crate) use page_body;
