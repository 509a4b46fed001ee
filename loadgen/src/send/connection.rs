//! Connections to one server: pooled, driven by their user's task, with the times at which bytes
//! moved.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::OnceCell;
use tokio_rustls::client::TlsStream;

use crate::send::tls::Tls;

const NEVER: u64 = u64::MAX;

/// Times at which bytes of the current request moved, in nanoseconds from `base`.
#[derive(Debug)]
struct ByteTimes {
    base: Instant,
    first_write: AtomicU64,
    first_read: AtomicU64,
    last_read: AtomicU64,
}

impl ByteTimes {
    fn new() -> Self {
        let never = || AtomicU64::new(NEVER);
        Self { base: Instant::now(), first_write: never(), first_read: never(), last_read: never() }
    }

    fn now(&self) -> u64 {
        self.base.elapsed().as_nanos() as u64
    }

    fn reset(&self) {
        for moment in [&self.first_write, &self.first_read, &self.last_read] {
            moment.store(NEVER, Relaxed);
        }
    }

    fn wrote(&self) {
        if self.first_write.load(Relaxed) == NEVER {
            self.first_write.store(self.now(), Relaxed);
        }
    }

    fn read(&self) {
        let now = self.now();
        self.last_read.store(now, Relaxed);
        if self.first_read.load(Relaxed) == NEVER {
            self.first_read.store(now, Relaxed);
        }
    }

    fn at(&self, moment: &AtomicU64) -> Option<Instant> {
        let ns = moment.load(Relaxed);
        (ns != NEVER).then(|| self.base + Duration::from_nanos(ns))
    }
}

/// Transport of a connection.
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// Returns the stream inside.
    fn stream(&mut self) -> Pin<&mut dyn Stream> {
        match self {
            Self::Plain(stream) => Pin::new(stream),
            Self::Tls(stream) => Pin::new(stream.as_mut()),
        }
    }
}

/// A stream of both directions.
trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// A stream that records when its bytes move: those of HTTP, not those of TLS.
struct Watched {
    transport: Transport,
    times: Arc<ByteTimes>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = self.transport.stream().poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.times.read();
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = self.transport.stream().poll_write(cx, bytes);
        if matches!(polled, Poll::Ready(Ok(1..))) {
            self.times.wrote();
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = self.transport.stream().poll_write_vectored(cx, bytes);
        if matches!(polled, Poll::Ready(Ok(1..))) {
            self.times.wrote();
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport.stream().poll_shutdown(cx)
    }
}

/// One connection. It moves bytes only while one of its methods is awaited, so that no token has to
/// pass through a second task.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: http1::Connection<TokioIo<Watched>, Full<Bytes>>,
    ended: bool,
    times: Arc<ByteTimes>,
}

impl Connection {
    async fn open(transport: Transport) -> Result<Self, ConnectError> {
        let times = Arc::new(ByteTimes::new());
        let watched = Watched { transport, times: times.clone() };
        let (sender, driver) =
            http1::handshake(TokioIo::new(watched)).await.map_err(ConnectError::Handshake)?;
        Ok(Self { sender, driver, ended: false, times })
    }

    /// Sends a request and waits for the head of the response. Calls `progress` on every poll with
    /// the time of the first written byte, if there is one yet.
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
        mut progress: impl FnMut(Option<Instant>),
    ) -> Result<Response<Incoming>, hyper::Error> {
        self.times.reset();
        let mut answer = Box::pin(self.sender.send_request(request));
        std::future::poll_fn(|cx| {
            self.poll_driver(cx);
            progress(self.times.at(&self.times.first_write));
            answer.as_mut().poll(cx)
        })
        .await
    }

    /// Returns the next bytes of a body; `None` at its end.
    pub(crate) async fn next(
        &mut self,
        body: &mut Incoming,
    ) -> Result<Option<Bytes>, hyper::Error> {
        std::future::poll_fn(|cx| {
            loop {
                // Driving the connection before reading the body halves the polls of the body.
                self.poll_driver(cx);
                match std::task::ready!(Pin::new(&mut *body).poll_frame(cx)) {
                    None => return Poll::Ready(Ok(None)),
                    Some(Err(error)) => return Poll::Ready(Err(error)),
                    Some(Ok(frame)) => {
                        // A frame without data is a trailer, which has no meaning here.
                        if let Ok(data) = frame.into_data() {
                            return Poll::Ready(Ok(Some(data)));
                        }
                    }
                }
            }
        })
        .await
    }

    /// Returns the time at which the first byte of the response was read.
    pub(crate) fn first_read(&self) -> Option<Instant> {
        self.times.at(&self.times.first_read)
    }

    /// Returns the time at which bytes were last read.
    pub(crate) fn last_read(&self) -> Option<Instant> {
        self.times.at(&self.times.last_read)
    }

    /// Returns whether another request can be sent on the connection.
    async fn is_ready(&mut self) -> bool {
        std::future::poll_fn(|cx| {
            self.poll_driver(cx);
            Poll::Ready(())
        })
        .await;
        !self.ended && self.sender.is_ready()
    }

    fn poll_driver(&mut self, cx: &mut Context<'_>) {
        // The error is ignored, because the response or the body reports it.
        self.ended = self.ended || Pin::new(&mut self.driver).poll(cx).is_ready();
    }
}

/// A connection that could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("cannot find {host}: {reason}")]
    Lookup { host: String, reason: io::Error },
    #[error("not connected after {0:?}")]
    Late(Duration),
    #[error("cannot connect: {0}")]
    Io(io::Error),
    #[error("no TLS with {host}: {reason}{}", advice(reason))]
    Tls { host: String, reason: io::Error },
    #[error("http: {0}")]
    Handshake(hyper::Error),
}

/// Advises what to do about a failed TLS handshake.
fn advice(reason: &io::Error) -> &'static str {
    use rustls::{CertificateError, Error};
    let inner = reason.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "; name the authority that issued it with --ca-file"
        }
        Some(Error::InvalidMessage(_)) => "; if it speaks plain HTTP, write http://",
        _ => "",
    }
}

/// A pool of connections to one server. Only the number of requests in flight limits its size.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Host and port.
    authority: String,
    connect_timeout: Duration,
    /// TLS settings; `None` for plain HTTP.
    tls: Option<Tls>,
    addresses: OnceCell<Vec<SocketAddr>>,
    idle: Mutex<Vec<Connection>>,
    opened: AtomicU64,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Pool {
    pub(crate) fn new(authority: String, connect_timeout: Duration, tls: Option<Tls>) -> Self {
        Self {
            authority,
            connect_timeout,
            tls,
            addresses: OnceCell::new(),
            idle: Mutex::default(),
            opened: AtomicU64::new(0),
        }
    }

    /// Returns the number of connections opened so far.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// Returns the most recently used idle connection, or a new one.
    pub(crate) async fn take(&self) -> Result<Connection, ConnectError> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mut connection) = idle else { break };
            // A connection that the server has closed in the meantime is dropped here.
            if connection.is_ready().await {
                return Ok(connection);
            }
        }
        tokio::time::timeout(self.connect_timeout, self.open())
            .await
            .map_err(|_| ConnectError::Late(self.connect_timeout))?
    }

    /// Returns a connection to the pool, after its response was read to the end.
    pub(crate) async fn give_back(&self, mut connection: Connection) {
        if connection.is_ready().await {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
    }

    async fn open(&self) -> Result<Connection, ConnectError> {
        // One lookup for all: one per connection would delay thousands of streams.
        let addresses = self
            .addresses
            .get_or_try_init(|| async {
                Ok(lookup_host(&self.authority).await?.collect::<Vec<_>>())
            })
            .await
            .map_err(|reason| ConnectError::Lookup { host: self.authority.clone(), reason })?;
        let stream = TcpStream::connect(addresses.as_slice()).await.map_err(ConnectError::Io)?;
        stream.set_nodelay(true).map_err(ConnectError::Io)?;
        let transport = match &self.tls {
            None => Transport::Plain(stream),
            Some(tls) => {
                let host = || self.authority.clone();
                let agreed = tls.connect(stream).await;
                Transport::Tls(Box::new(
                    agreed.map_err(|reason| ConnectError::Tls { host: host(), reason })?,
                ))
            }
        };
        self.opened.fetch_add(1, Relaxed);
        Connection::open(transport).await
    }
}
