//! A process's connections to NATS: one for control and tokens, two more for blocks when needed.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::{self, context::ContextBuilder};
use async_nats::{Client, ConnectOptions, Event};
use protocol::{Backoff, NatsUrl};
use tokio::sync::{OnceCell, Semaphore, watch};

use crate::counters::{BusCounters, Counters};
use crate::deferred::DeferredWork;

/// Longest wait for an answer of JetStream: acknowledged puts, streams, consumers.
pub(crate) const JETSTREAM_TIMEOUT: Duration = Duration::from_secs(5);
/// Most unacknowledged bytes of puts: 8 MiB, in units of [`PUT_UNIT_BYTES`].
pub(crate) const PUT_WINDOW_UNITS: u32 = 256;
/// Least size that a frame counts as.
pub(crate) const PUT_UNIT_BYTES: usize = 32 << 10;
/// Messages a control subscription holds for a slow handler before the client drops them.
const CONTROL_SUBSCRIPTION_MESSAGES: usize = 16_384;
/// Messages of a data subscription: the blocks of some hundred short prompts. The server keeps what
/// exceeds it, or it is fetched again.
const DATA_SUBSCRIPTION_MESSAGES: usize = 4_096;
/// Commands queued to the socket; with blocks, each may be 2 MiB.
const DATA_COMMANDS: usize = 64;
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// Between tries of the first connection.
const CONNECT_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(250), max: Duration::from_secs(5) };
/// Between tries to make a lost connection again.
const RECONNECT_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(20), max: Duration::from_secs(1) };

/// Options of the connection to NATS.
#[derive(Clone, Debug)]
pub struct BusOptions {
    /// The address of the servers.
    pub url: NatsUrl,
    /// Name of this client, shown by the server; also the prefix of its private inboxes.
    pub name: String,
    /// Longest try.
    pub connect_timeout: Duration,
}

/// A connection that failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum ConnectError {
    /// The server did not finish the handshake in time.
    #[error("{url} did not answer within {timeout_ms} ms")]
    Timeout { url: NatsUrl, timeout_ms: u64 },
    /// The connection was refused, the host not found, or the client not authorized.
    #[error("connect to {url}: {source}")]
    Failed { url: NatsUrl, source: async_nats::ConnectError },
}

/// The connections of one process. Cheap to clone; reconnects by itself.
#[derive(Clone)]
pub struct Bus {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    options: BusOptions,
    pub(crate) counters: Arc<Counters>,
    pub(crate) deferred: DeferredWork,
    pub(crate) control: Link,
    upload: OnceCell<Link>,
    download: OnceCell<Link>,
    pub(crate) put_window: Semaphore,
    /// Running pulls.
    pub(crate) pulls: Arc<AtomicUsize>,
}

/// One connection, and JetStream over it.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) client: Client,
    pub(crate) jetstream: jetstream::Context,
    /// True while the connection is up, by its events.
    up: watch::Receiver<bool>,
}

/// The purpose of a connection.
#[derive(Clone, Copy, PartialEq)]
enum Purpose {
    Control,
    Upload,
    Download,
}

impl Bus {
    /// Connects once, within `options.connect_timeout`.
    pub async fn connect(options: BusOptions) -> Result<Self, ConnectError> {
        let counters = Arc::new(Counters::default());
        let control = open(&options, Purpose::Control, &counters).await?;
        let inner = Inner {
            options,
            deferred: DeferredWork::start(),
            counters,
            control,
            upload: OnceCell::new(),
            download: OnceCell::new(),
            put_window: Semaphore::new(PUT_WINDOW_UNITS as usize),
            pulls: Arc::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Connects, however long it takes, with logged waits of up to 5 s between tries; returns `None` if
    /// `stop` resolves first.
    pub async fn connect_with_retry(
        options: BusOptions,
        stop: impl Future<Output = ()>,
    ) -> Option<Self> {
        let mut stop = std::pin::pin!(stop);
        for failures in 0.. {
            let tried = tokio::select! {
                tried = Self::connect(options.clone()) => tried,
                () = &mut stop => return None,
            };
            let wait = CONNECT_BACKOFF.delay(failures);
            match tried {
                Ok(bus) => return Some(bus),
                Err(error) => {
                    let retry_in_ms = wait.as_millis() as u64;
                    tracing::warn!(%error, retry_in_ms, "failed to connect to NATS, retrying");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = &mut stop => return None,
            }
        }
        None
    }

    /// Returns true while every connection in use is up.
    pub fn connected(&self) -> bool {
        let Inner { control, upload, download, .. } = &*self.inner;
        [Some(control), upload.get(), download.get()].into_iter().flatten().all(Link::connected)
    }

    /// Returns the counters of these connections since the start.
    pub fn counters(&self) -> BusCounters {
        self.inner.counters.snapshot()
    }
}

impl Inner {
    /// Returns the connection that carries blocks into the store.
    pub(crate) async fn upload(&self) -> Result<&Link, ConnectError> {
        self.upload.get_or_try_init(|| open(&self.options, Purpose::Upload, &self.counters)).await
    }

    /// Returns the connection that carries blocks out of the store.
    pub(crate) async fn download(&self) -> Result<&Link, ConnectError> {
        self.download
            .get_or_try_init(|| open(&self.options, Purpose::Download, &self.counters))
            .await
    }
}

impl Link {
    pub(crate) fn connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Waits until the connection is up; `None` when it is closed for good.
    pub(crate) async fn wait_until_up(&self) -> Option<()> {
        self.up.clone().wait_for(|up| *up).await.ok().map(drop)
    }

    /// Resolves when the connection is lost or restored from now on: the server's state for it is then
    /// gone.
    pub(crate) fn changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut up = self.up.clone();
        up.mark_unchanged();
        async move {
            let _closed_for_good_is_a_change = up.changed().await;
        }
    }
}

async fn open(
    options: &BusOptions,
    purpose: Purpose,
    counters: &Arc<Counters>,
) -> Result<Link, ConnectError> {
    let url = options.url.clone();
    let (up_sender, up) = watch::channel(true);
    let connecting = connect_options(options, purpose, Arc::clone(counters), up_sender);
    let servers: Vec<&str> = options.url.servers().collect();
    let connecting = connecting.connect(servers);
    let client = match tokio::time::timeout(options.connect_timeout, connecting).await {
        Ok(Ok(client)) => client,
        Ok(Err(source)) => return Err(ConnectError::Failed { url, source }),
        Err(_) => {
            let timeout_ms = options.connect_timeout.as_millis() as u64;
            return Err(ConnectError::Timeout { url, timeout_ms });
        }
    };
    let jetstream = ContextBuilder::new()
        .timeout(JETSTREAM_TIMEOUT)
        .ack_timeout(JETSTREAM_TIMEOUT)
        .max_ack_inflight(2 * PUT_WINDOW_UNITS as usize)
        .build(client.clone());
    Ok(Link { client, jetstream, up })
}

fn connect_options(
    options: &BusOptions,
    purpose: Purpose,
    counters: Arc<Counters>,
    up_sender: watch::Sender<bool>,
) -> ConnectOptions {
    let suffix = match purpose {
        Purpose::Control => "",
        Purpose::Upload => " upload",
        Purpose::Download => " download",
    };
    let name = format!("{}{suffix}", options.name);
    let event_name = name.clone();
    let connecting = ConnectOptions::new()
        .name(name)
        .custom_inbox_prefix(format!("_INBOX_{}", subject_token(&options.name)))
        .connection_timeout(options.connect_timeout)
        .ping_interval(PING_INTERVAL)
        .request_timeout(Some(Duration::from_secs(10)))
        .reconnect_delay_callback(|attempts| {
            RECONNECT_BACKOFF.delay(u32::try_from(attempts).unwrap_or(u32::MAX))
        })
        .event_callback(move |event| {
            note_event(&event_name, &counters, &event);
            let up = match event {
                Event::Connected => Some(true),
                Event::Disconnected | Event::Closed => Some(false),
                _ => None,
            };
            if let Some(up) = up {
                up_sender.send_if_modified(|was| std::mem::replace(was, up) != up);
            }
            std::future::ready(())
        });
    match purpose {
        Purpose::Control => connecting.subscription_capacity(CONTROL_SUBSCRIPTION_MESSAGES),
        Purpose::Upload | Purpose::Download => connecting
            .subscription_capacity(DATA_SUBSCRIPTION_MESSAGES)
            .client_capacity(DATA_COMMANDS),
    }
}

fn note_event(connection: &str, counters: &Counters, event: &Event) {
    match event {
        Event::Connected => tracing::info!(connection, "connected to NATS"),
        Event::Disconnected => {
            counters.disconnected();
            tracing::warn!(connection, "disconnected from NATS");
        }
        Event::SlowConsumer(_) => {
            counters.slow_consumer();
            tracing::error!(connection, %event, "lost messages: a subscription is read too slowly");
        }
        Event::ServerError(error) => tracing::error!(connection, %error, "NATS server error"),
        Event::ClientError(error) => tracing::warn!(connection, %error, "NATS client error"),
        Event::LameDuckMode | Event::Draining | Event::Closed => {
            tracing::info!(connection, %event, "NATS connection changed its state");
        }
    }
}

/// Returns `name` with every character replaced that a subject token cannot carry.
fn subject_token(name: &str) -> String {
    let chars = name.chars().take(64);
    chars.map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inbox_prefix_is_one_token() {
        assert_eq!(subject_token("prefill 1.a>*"), "prefill_1_a__");
    }
}
