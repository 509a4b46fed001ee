//! Starts `tandem up` and reads what it says.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use testbed::{OtlpReceiver, try_for, wait_for};

/// Loading two copies of the model on two busy cores.
const READY_LIMIT: Duration = Duration::from_secs(180);
const STOP_LIMIT: Duration = Duration::from_secs(40);

/// The stages that a client waits for when no attempt is lost, in order.
pub(crate) const TO_FIRST_TOKEN: [&str; 7] = [
    "tokenize",
    "admit",
    "route",
    "prefill.queue",
    "prefill.kv_fetch",
    "prefill.compute",
    "first_token",
];

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime for the client side")
});

/// Runs the client side of a case.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

/// The command under test.
pub(crate) fn tandem() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    // A test must not depend on what the developer has configured.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = text.starts_with("TANDEM_") && text != "TANDEM_CACHE";
        if ours || text.starts_with("OTEL_") {
            command.env_remove(&name);
        }
    }
    command.current_dir(env!("CARGO_TARGET_TMPDIR"));
    command
}

/// Cases run one after the other.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}

/// The lines a process has written so far.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Collects in the background until the stream ends.
    pub(crate) fn collect(stream: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let sink = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                sink.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        lines
    }

    /// All of them as one text.
    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// The first line that `pick` takes something from.
    pub(crate) fn find<T>(&self, pick: impl FnMut(&String) -> Option<T>) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().find_map(pick)
    }
}

/// Programs and files that both tests and services need.
pub(crate) struct Needs {
    /// The model file.
    pub(crate) model: PathBuf,
}

impl Needs {
    /// Fetches what is not there yet.
    pub(crate) fn obtain() -> Self {
        let model = testbed::smollm2();
        require_nats_server();
        Self { model }
    }
}

/// Fetches the program that services start; without it, ends the test as ignored.
pub(crate) fn require_nats_server() {
    let program = provision::nats_server(&|line| eprintln!("{line}"));
    testbed::require("nats-server", program);
}

/// A running `tandem up`.
pub(crate) struct System {
    up: Child,
    /// Base URL of the gateway.
    pub(crate) base: String,
    /// Where its private nats-server is.
    pub(crate) nats_url: String,
    /// Lines of its standard output.
    pub(crate) said: Lines,
    /// Log lines of the services.
    pub(crate) logged: Lines,
}

impl System {
    /// Starts a system and waits until it is ready.
    pub(crate) fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let needs = Needs::obtain();
        Self::serve(needs.model.as_os_str(), arguments, environment)
    }

    /// The same for a model of one's own.
    pub(crate) fn serve(model: &OsStr, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let model = model.to_string_lossy();
        let device: &[&str] =
            if arguments.contains(&"--device") { &[] } else { &["--device", "cpu"] };
        Self::run(&[&["--model", &*model], device, arguments].concat(), environment)
    }

    /// Starts a system whose engines are simulated and waits until it is ready.
    pub(crate) fn simulated(arguments: &[&str]) -> Self {
        Self::simulated_in(arguments, &[])
    }

    /// The same with these variables in the environment.
    pub(crate) fn simulated_in(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        require_nats_server();
        Self::run(&[&["--engine", "simulated"][..], arguments].concat(), environment)
    }

    fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let listen = format!("127.0.0.1:{}", free_port());
        let mut command = tandem();
        command
            .args(["up", "--tethered", "--listen", &listen])
            .args(["--set", "telemetry.log=info"])
            .args(arguments)
            .envs(environment.iter().copied())
            // The open pipe is the tether: this process ends, and everything ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut up = command.spawn().expect("the command starts");
        let said = Lines::collect(up.stdout.take().expect("stdout is piped"));
        let logged = Lines::collect(up.stderr.take().expect("stderr is piped"));
        let mut system =
            Self { up, base: format!("http://{listen}"), nats_url: String::new(), said, logged };
        wait_for(READY_LIMIT, || system.check_ready());
        system
    }

    fn check_ready(&mut self) -> Result<(), String> {
        if let Ok(Some(status)) = self.up.try_wait() {
            panic!("`tandem up` ended with {status}:\n{}", self.everything());
        }
        let nats_url = self.said.find(|line| {
            line.split_whitespace().find(|word| word.starts_with("nats://")).map(str::to_owned)
        });
        self.nats_url = nats_url.unwrap_or_default();
        let ready = self.said.find(|line| line.contains("curl ").then_some(()));
        match (ready, self.nats_url.is_empty()) {
            (Some(()), false) => Ok(()),
            _ => Err(format!("it has only said:\n{}", self.everything())),
        }
    }

    /// Process id of `tandem up` itself.
    pub(crate) fn pid(&self) -> u32 {
        self.up.id()
    }

    /// All lines, for failure messages.
    pub(crate) fn everything(&self) -> String {
        format!("{}\n--- log ---\n{}", self.said.text(), self.logged.text())
    }

    /// Ends it in good order by closing the tether; how it ended.
    pub(crate) fn stop(mut self) -> std::process::ExitStatus {
        drop(self.up.stdin.take());
        wait_for(STOP_LIMIT, || match self.up.try_wait() {
            Ok(Some(status)) => Ok(status),
            _ => Err(format!("still running:\n{}", self.everything())),
        })
    }
}

impl Drop for System {
    fn drop(&mut self) {
        drop(self.up.stdin.take());
        let ended = try_for(STOP_LIMIT, || match self.up.try_wait() {
            Ok(None) => Err("still running".to_owned()),
            _ => Ok(()),
        });
        if ended.is_err() {
            let _ = self.up.kill();
            let _ = self.up.wait();
        }
    }
}

/// The system that most cases share, with a receiver for its spans. It ends with this process,
/// because the pipe to it does.
pub(crate) fn shared() -> &'static (System, OtlpReceiver) {
    static SHARED: OnceLock<(System, OtlpReceiver)> = OnceLock::new();
    SHARED.get_or_init(|| {
        let receiver = block_on(OtlpReceiver::start());
        let url = receiver.url();
        let system = System::start(&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url)]);
        (system, receiver)
    })
}

/// A file of the workspace.
pub(crate) fn workspace_file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}
