//! The admin port: four small pages over HTTP/1.1, for Prometheus, Kubernetes and people.
//!
//! | path | answer |
//! | --- | --- |
//! | `/livez` | 200 while the loop turns |
//! | `/readyz` | 200 while the replica takes part and commits, else 503 and the reason |
//! | `/metrics` | OpenMetrics text |
//! | `/status` | JSON, [`crate::inspect::Status`] |
//!
//! It runs on the replica's own thread, so it is bounded in every way: so many connections, so many
//! bytes and headers of a request, so much time for a request's head, for an answer to be taken and
//! for an idle connection. A request's body is never read.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use vsr_types::memory::{Level, Pool};

use crate::metrics;

/// What the pages are made from.
pub trait Source {
    /// The body of `/status`, JSON.
    fn status(&self) -> String;
    /// The body of `/metrics`.
    fn metrics(&self) -> String;
    /// Whether the loop turns; if not, why one thinks so.
    ///
    /// # Errors
    /// The reason, for people.
    fn live(&self) -> Result<String, String>;
    /// Whether the replica takes part and commits; if not, why not.
    ///
    /// # Errors
    /// The reason, for people.
    fn ready(&self) -> Result<(), String>;
    /// Flips a bit, for tests: see [`crate::flip`].
    ///
    /// # Errors
    /// Why not.
    #[cfg(feature = "flip")]
    fn flip(&self, path: &str) -> Result<String, String>;
}

/// The bounds of the port.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most connections at once; one more is closed at once.
    pub connections: usize,
    /// How long a request's head may take.
    pub head_timeout: Duration,
    /// How long a connection may live, idle or not. A scraper simply connects again.
    pub connection_timeout: Duration,
    /// The most bytes of a request's head.
    pub head_size: usize,
    /// The most headers of a request.
    pub headers: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            // Prometheus, a kubelet and a few people are six; 32 leave room, and cost 512 KiB.
            connections: 32,
            head_timeout: Duration::from_secs(5),
            connection_timeout: Duration::from_secs(60),
            // The least that hyper takes; a scraper's head has a few hundred bytes.
            head_size: 8 * 1024,
            headers: 32,
        }
    }
}

impl Bounds {
    /// The memory that the port may take.
    #[must_use]
    pub const fn pools(&self) -> [Pool; 1] {
        [Pool {
            part: "admin port",
            name: "admin connections",
            purpose: "a request's head and a page of each connection, while it is open",
            setting: "fixed",
            unit: "connections",
            count: self.connections,
            size: 2 * self.head_size,
            is_later: true,
        }]
    }
}

/// How many connections are open, and how many were at most.
#[derive(Debug, Default)]
pub struct Open {
    now: Cell<usize>,
    most: Cell<usize>,
}

impl Open {
    /// How much of [`Bounds::pools`] is used.
    #[must_use]
    pub const fn levels(&self) -> [Level; 1] {
        [Level::new(
            "admin connections",
            self.now.get(),
            self.most.get(),
        )]
    }
}

/// Counts open connections; dropping a ticket closes one.
struct Ticket(Rc<Open>);

impl Ticket {
    fn take(open: &Rc<Open>, bound: usize) -> Option<Self> {
        let now = open.now.get() + 1;
        if now > bound {
            return None;
        }
        open.now.set(now);
        open.most.set(open.most.get().max(now));
        Some(Self(Rc::clone(open)))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.now.set(self.0.now.get() - 1);
    }
}

/// Serves the pages until it is dropped, and counts in `open`. Must run on a `LocalSet`.
pub async fn serve(listener: TcpListener, source: Rc<dyn Source>, bounds: Bounds, open: Rc<Open>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: accepting again at once would spin.
                tracing::warn!(%error, "the admin port cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(ticket) = Ticket::take(&open, bounds.connections) else {
            tracing::debug!("the admin port is full");
            continue;
        };
        let source = Rc::clone(&source);
        tokio::task::spawn_local(async move {
            connection(stream, source, bounds).await;
            drop(ticket);
        });
    }
}

async fn connection(stream: TcpStream, source: Rc<dyn Source>, bounds: Bounds) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(&request, source.as_ref());
        async move { Ok::<_, Infallible>(response) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head_timeout)
        .max_buf_size(bounds.head_size)
        .max_headers(bounds.headers)
        .half_close(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(bounds.connection_timeout, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an admin connection ended early"),
        Err(_) => tracing::debug!("an admin connection lived too long"),
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

const INDEX: &str = "vsr-node\n\n\
    /livez    200 while the loop turns\n\
    /readyz   200 while this replica takes part and commits, else 503 and the reason\n\
    /metrics  OpenMetrics text, for Prometheus\n\
    /status   JSON, what `vsr-cli status` shows\n";

fn answer(request: &Request<Incoming>, source: &dyn Source) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = page(
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "only GET and HEAD\n".into(),
        );
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/" => page(StatusCode::OK, TEXT, INDEX.into()),
        "/livez" => match source.live() {
            Ok(text) => page(StatusCode::OK, TEXT, format!("{text}\n")),
            Err(reason) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n")),
        },
        "/readyz" => match source.ready() {
            Ok(()) => page(StatusCode::OK, TEXT, "ready\n".into()),
            Err(reason) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n")),
        },
        "/metrics" => page(StatusCode::OK, metrics::CONTENT_TYPE, source.metrics()),
        "/status" => page(StatusCode::OK, "application/json", source.status()),
        #[cfg(feature = "flip")]
        path if path.starts_with("/flip/") => {
            let done = source.flip(path.trim_start_matches("/flip/"));
            let code = match done {
                Ok(_) => StatusCode::OK,
                Err(_) => StatusCode::NOT_FOUND,
            };
            page(code, TEXT, done.unwrap_or_else(|error| error))
        }
        _ => page(
            StatusCode::NOT_FOUND,
            TEXT,
            format!("no such page\n\n{INDEX}"),
        ),
    }
}

fn page(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
