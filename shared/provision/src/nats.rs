//! A private nats-server: its own port, its own JetStream directory, ended with its owner.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::fetch::last_lines;
use crate::tether::{Tethered, tether};

const STOP_LIMIT: Duration = Duration::from_secs(2);
const START_LIMIT: Duration = Duration::from_secs(20);

/// The program, store and port of a private server.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// The nats-server program.
    pub program: PathBuf,
    /// The directory of JetStream's files; `None` is one that is removed with the server.
    pub store: Option<PathBuf>,
    /// The port on 127.0.0.1; 0 lets the server take a free one.
    pub port: u16,
}

impl NatsOptions {
    /// A free port and a temporary store.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), store: None, port: 0 }
    }
}

/// The reason for which a private server did not start.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum NatsError {
    /// A file or directory of the server could not be used.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The process ended before it answered.
    #[error("{} ended with {status} before it answered:\n{log}", program.display())]
    Ended { program: PathBuf, status: String, log: String },
    /// The process runs but does not answer.
    #[error("{} did not answer within {limit_s} s:\n{log}", program.display())]
    Silent { program: PathBuf, limit_s: u64, log: String },
}

/// A running private nats-server with JetStream; stopped when dropped or when this process ends.
#[derive(Debug)]
pub struct NatsServer {
    process: Option<Tethered>,
    options: NatsOptions,
    monitor_port: u16,
    folder: TempDir,
}

impl NatsServer {
    /// Starts a server and waits until it answers.
    pub fn start(options: NatsOptions) -> Result<Self, NatsError> {
        let folder = tempfile::Builder::new()
            .prefix("tandem-nats-")
            .tempdir()
            .map_err(|source| NatsError::Io { path: std::env::temp_dir(), source })?;
        let mut server = Self { process: None, options, monitor_port: 0, folder };
        server.restart()?;
        Ok(server)
    }

    /// The URL that clients connect to.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.options.port)
    }

    /// The URL of the server's HTTP monitoring (`/healthz`, `/varz`, `/jsz`).
    pub fn monitor_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.monitor_port)
    }

    /// Returns the directory of JetStream's files.
    pub fn store(&self) -> PathBuf {
        self.options.store.clone().unwrap_or_else(|| self.folder.path().join("jetstream"))
    }

    /// The end of the server's log.
    pub fn log(&self) -> String {
        let text = fs::read(self.folder.path().join("log")).unwrap_or_default();
        last_lines(&String::from_utf8_lossy(&text), 12)
    }

    /// Returns whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| matches!(process.try_wait(), Ok(None)))
    }

    /// Ends the process and keeps port and store, for a later [`restart`](Self::restart).
    pub fn stop(&mut self) -> Result<(), NatsError> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.stop().map_err(|source| self.io_error(&self.options.program, source))
    }

    /// Starts the process again, on the same port and store as before.
    pub fn restart(&mut self) -> Result<(), NatsError> {
        self.stop()?;
        let ports = self.folder.path().join("ports");
        let _ = fs::remove_dir_all(&ports);
        fs::create_dir_all(&ports).map_err(|source| self.io_error(&ports, source))?;
        let config = self.folder.path().join("nats.conf");
        let text = self.config(&ports);
        fs::write(&config, text).map_err(|source| self.io_error(&config, source))?;
        let log_path = self.folder.path().join("log");
        let log = File::create(&log_path).map_err(|source| self.io_error(&log_path, source))?;
        let error_log = log.try_clone().map_err(|source| self.io_error(&log_path, source))?;

        let mut command = Command::new(&self.options.program);
        command.arg("--config").arg(&config);
        let mut wrapped = tether(&command, STOP_LIMIT);
        wrapped.stdout(Stdio::from(log)).stderr(Stdio::from(error_log));
        let process = Tethered::spawn(&mut wrapped, STOP_LIMIT)
            .map_err(|source| self.io_error(&self.options.program, source))?;
        self.process = Some(process);
        self.wait_until_it_answers(&ports)
    }

    fn config(&self, ports: &Path) -> String {
        let quoted = |path: &Path| format!("{:?}", path.display().to_string());
        let port = match self.options.port {
            0 => "-1".to_owned(),
            port => port.to_string(),
        };
        let monitor = match self.monitor_port {
            0 => "-1".to_owned(),
            port => port.to_string(),
        };
        format!(
            "server_name: tandem-private\nlisten: \"127.0.0.1:{port}\"\n\
             http: \"127.0.0.1:{monitor}\"\nports_file_dir: {ports}\n\
             max_payload: 8MB\nmax_pending: 128MB\nwrite_deadline: \"10s\"\n\
             ping_interval: \"2s\"\nping_max: 2\nlame_duck_duration: \"30s\"\n\
             jetstream {{\n  store_dir: {store}\n  max_memory_store: 1GB\n  max_file_store: 40GB\n  \
             max_buffered_size: 256MB\n}}\n",
            ports = quoted(ports),
            store = quoted(&self.store()),
        )
    }

    fn wait_until_it_answers(&mut self, ports: &Path) -> Result<(), NatsError> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some((port, monitor_port)) = read_ports(ports)
                && answers(port)
            {
                self.options.port = port;
                self.monitor_port = monitor_port;
                return Ok(());
            }
            let status =
                self.process.as_mut().and_then(|process| process.try_wait().ok().flatten());
            if let Some(status) = status {
                self.process = None;
                return Err(NatsError::Ended {
                    program: self.options.program.clone(),
                    status: status.to_string(),
                    log: self.log(),
                });
            }
            if Instant::now() >= deadline {
                return Err(NatsError::Silent {
                    program: self.options.program.clone(),
                    limit_s: START_LIMIT.as_secs(),
                    log: self.log(),
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn io_error(&self, path: &Path, source: io::Error) -> NatsError {
        NatsError::Io { path: path.to_owned(), source }
    }
}

/// The server writes the ports it took into one JSON file of this directory.
fn read_ports(folder: &Path) -> Option<(u16, u16)> {
    let path = fs::read_dir(folder).ok()?.next()?.ok()?.path();
    let ports: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let port_of = |kind: &str| ports[kind][0].as_str()?.rsplit_once(':')?.1.parse::<u16>().ok();
    Some((port_of("nats")?, port_of("monitoring")?))
}

/// Returns whether a NATS server with JetStream answers at the port.
fn answers(port: u16) -> bool {
    greeting(port)
        .is_ok_and(|text| text.starts_with("INFO ") && text.contains("\"jetstream\":true"))
}

/// Reads the first line that a server sends, of at most 64 KiB.
fn greeting(port: u16) -> io::Result<String> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut greeting = Vec::new();
    let mut buffer = [0; 1024];
    while !greeting.contains(&b'\n') && greeting.len() < 64 * 1024 {
        let filled = stream.read(&mut buffer)?;
        if filled == 0 {
            break;
        }
        greeting.extend_from_slice(&buffer[..filled]);
    }
    Ok(String::from_utf8_lossy(&greeting).into_owned())
}
