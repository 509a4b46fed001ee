//! An OTLP trace receiver inside the test process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::tls_file;
use crate::tree::{SpanRecord, TraceTree};

#[derive(Debug, Default)]
struct Collected {
    spans: Mutex<Vec<SpanRecord>>,
    arrived: Notify,
}

impl Collected {
    fn snapshot(&self) -> Vec<SpanRecord> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Receiver(Arc<Collected>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut records: Vec<SpanRecord> =
            request.into_inner().resource_spans.into_iter().flat_map(SpanRecord::all_of).collect();
        self.0.spans.lock().unwrap_or_else(PoisonError::into_inner).append(&mut records);
        self.0.arrived.notify_waiters();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Receives spans over OTLP gRPC on a free port until dropped.
#[derive(Debug)]
pub struct OtlpReceiver {
    url: String,
    collected: Arc<Collected>,
    // Dropping the set aborts the server.
    _server: JoinSet<()>,
}

impl OtlpReceiver {
    /// Starts receiving.
    ///
    /// # Panics
    ///
    /// When no loopback port can be had.
    pub async fn start() -> Self {
        Self::serve(None).await
    }

    /// Starts receiving over TLS, with the certificate for `localhost` of
    /// [`tls_file`](crate::tls_file).
    ///
    /// # Panics
    ///
    /// When no loopback port can be had.
    pub async fn start_tls() -> Self {
        let read = |name| std::fs::read(tls_file(name)).expect("the files are in this crate");
        let identity = Identity::from_pem(read("server.pem"), read("server.key"));
        Self::serve(Some(ServerTlsConfig::new().identity(identity))).await
    }

    async fn serve(tls: Option<ServerTlsConfig>) -> Self {
        let listener =
            tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let url = match &tls {
            Some(_) => format!("https://localhost:{}", address.port()),
            None => format!("http://{address}"),
        };
        let mut builder = Server::builder();
        if let Some(tls) = tls {
            builder = builder.tls_config(tls).expect("the certificate is valid");
        }
        let collected = Arc::new(Collected::default());
        let service = TraceServiceServer::new(Receiver(Arc::clone(&collected)));
        let mut server = JoinSet::new();
        server.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let served = builder.add_service(service).serve_with_incoming(incoming).await;
            if let Err(error) = served {
                eprintln!("the OTLP receiver ended: {error}");
            }
        });
        Self { url, collected, _server: server }
    }

    /// Returns the value for `telemetry.otlp_endpoint`.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// All spans received so far, in order of arrival.
    pub fn spans(&self) -> Vec<SpanRecord> {
        self.collected.snapshot()
    }

    /// The spans of one trace, named by its 32 hexadecimal digits.
    pub fn spans_of_trace(&self, trace_id: &str) -> Vec<SpanRecord> {
        let mut spans = self.spans();
        spans.retain(|span| span.trace_id == trace_id);
        spans
    }

    /// The tree of one trace, as far as it has arrived.
    pub fn tree(&self, trace_id: &str) -> TraceTree {
        TraceTree::new(self.spans_of_trace(trace_id))
    }

    /// Waits until `condition` holds for all spans received; the spans then, or at the time limit.
    pub async fn wait_for(
        &self,
        limit: Duration,
        condition: impl Fn(&[SpanRecord]) -> bool,
    ) -> Result<Vec<SpanRecord>, Vec<SpanRecord>> {
        let wait = async {
            loop {
                let arrived = self.collected.arrived.notified();
                tokio::pin!(arrived);
                arrived.as_mut().enable();
                let spans = self.spans();
                if condition(&spans) {
                    return spans;
                }
                arrived.await;
            }
        };
        tokio::time::timeout(limit, wait).await.map_err(|_| self.spans())
    }
}
