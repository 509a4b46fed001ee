//! A Hugging Face hub on this machine, with one repository and the faults that a test asks for.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use protocol::hex;
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

const READ_LIMIT: Duration = Duration::from_secs(10);
/// Files from this size on lie behind a redirect, as large files do.
const LARGE_BYTES: usize = 4096;

/// A fault of the next responses that carry a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubFault {
    /// The connection ends after this number of bytes.
    CutAfter(usize),
    /// A byte is another.
    Damaged,
    /// Nothing comes any more after the header.
    Silent,
    /// The range that was asked for is ignored.
    Whole,
    /// An answer with this status instead.
    Status(u16),
}

#[derive(Debug, Default)]
struct State {
    repo: String,
    commit: String,
    files: BTreeMap<String, Vec<u8>>,
    token: Option<String>,
    faults: Vec<(String, HubFault)>,
    requests: Vec<String>,
}

/// The server; it ends when dropped.
#[derive(Debug)]
pub struct HubServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl HubServer {
    /// Serves `repo` (`owner/name`) with these files at `commit`.
    pub fn start(
        repo: &str,
        commit: &str,
        files: impl IntoIterator<Item = (String, Vec<u8>)>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State {
            repo: repo.to_owned(),
            commit: commit.to_owned(),
            files: files.into_iter().collect(),
            ..State::default()
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let shared = (state.clone(), stop.clone());
        let accepting = thread::Builder::new()
            .name("hub".to_owned())
            .spawn(move || accept(&listener, &shared.0, &shared.1))?;
        Ok(Self { address, state, stop, accepting: Some(accepting) })
    }

    /// Base URL, as `HF_ENDPOINT` takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on only who sends this token may read.
    pub fn require_token(&self, token: &str) {
        lock(&self.state).token = Some(token.to_owned());
    }

    /// Lets the next answer with bytes of `file` go wrong; several are taken in their order.
    pub fn fault(&self, file: &str, fault: HubFault) {
        lock(&self.state).faults.push((file.to_owned(), fault));
    }

    /// Publishes another commit in which `file` has other contents.
    pub fn publish(&self, commit: &str, file: &str, bytes: Vec<u8>) {
        let mut state = lock(&self.state);
        state.commit = commit.to_owned();
        state.files.insert(file.to_owned(), bytes);
    }

    /// The requests so far, as path and range.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.state).requests.clone()
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the accepting thread; if that fails it is gone already.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, state: &Arc<Mutex<State>>, stop: &Arc<AtomicBool>) {
    let mut connections: Vec<JoinHandle<()>> = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let (state, stop) = (state.clone(), stop.clone());
        connections.push(thread::spawn(move || {
            // A client that goes away in the middle is what the tests are about.
            let _ = answer(stream, &state, &stop);
        }));
    }
    for connection in connections {
        let _ = connection.join();
    }
}

/// One request of one connection.
struct Request {
    path: String,
    /// First byte, and last where one was named.
    range: Option<(usize, Option<usize>)>,
    token: Option<String>,
    host: String,
}

fn read_request(stream: &TcpStream) -> io::Result<Request> {
    stream.set_read_timeout(Some(READ_LIMIT))?;
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut request = Request { path, range: None, token: None, host: String::new() };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let ends = value.trim_start_matches("bytes=").split_once('-');
                request.range =
                    ends.and_then(|(start, end)| Some((start.parse().ok()?, end.parse().ok())));
            }
            "authorization" => {
                request.token = value.strip_prefix("Bearer ").map(str::to_owned);
            }
            "host" => request.host = value.to_owned(),
            _ => {}
        }
    }
    Ok(request)
}

fn answer(mut stream: TcpStream, state: &Mutex<State>, stop: &AtomicBool) -> io::Result<()> {
    let request = read_request(&stream)?;
    let Request { path, range, token, host } = &request;
    let mut state = lock(state);
    state.requests.push(match range {
        // A look at the size asks for the first byte alone.
        Some((start, None)) => format!("{path} from {start}"),
        _ => path.clone(),
    });
    if let Some(name) = path.strip_prefix("/cdn/").map(str::to_owned) {
        let bytes = state.files.get(&name).cloned();
        let Some(bytes) = bytes else { return status(&mut stream, 404) };
        let fault = take_fault(&mut state, &name, *range);
        drop(state);
        let response = Response { bytes: &bytes, header: "", range: *range, fault };
        return response.send(&mut stream, stop);
    }
    match (&state.token, token) {
        (Some(_), None) => return status(&mut stream, 401),
        (Some(wanted), Some(given)) if wanted != given => return status(&mut stream, 403),
        _ => {}
    }
    let State { repo, commit, files, .. } = &*state;
    let is_revision = |revision: &str| revision == "main" || revision == commit.as_str();
    if let Some(revision) = path.strip_prefix(&format!("/api/models/{repo}/revision/")) {
        if !is_revision(revision) {
            return status(&mut stream, 404);
        }
        let siblings: Vec<String> =
            files.keys().map(|name| format!("{{\"rfilename\": {name:?}}}")).collect();
        let body = format!(
            "{{\"id\": {repo:?}, \"sha\": {commit:?}, \"siblings\": [{}]}}",
            siblings.join(",")
        );
        let header =
            format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        return write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n{header}\r\n{body}");
    }
    let file = path
        .strip_prefix(&format!("/{repo}/resolve/"))
        .and_then(|rest| rest.split_once('/'))
        .filter(|(revision, _)| is_revision(revision))
        .and_then(|(_, file)| Some((file.to_owned(), files.get(file)?.clone())));
    let Some((file, bytes)) = file else { return status(&mut stream, 404) };
    let commit = commit.clone();
    if bytes.len() >= LARGE_BYTES {
        let etag = hex(&Sha256::digest(&bytes));
        // Another name of this machine, as the hub's large files lie on another host.
        let port = host.rsplit(':').next().unwrap_or_default();
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nconnection: close\r\ncontent-length: 0\r\n\
             location: http://localhost:{port}/cdn/{file}\r\nx-repo-commit: {commit}\r\n\
             x-linked-etag: \"{etag}\"\r\nx-linked-size: {}\r\netag: \"other\"\r\n\r\n",
            bytes.len()
        );
    }
    let fault = take_fault(&mut state, &file, *range);
    drop(state);
    let git = Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(&bytes);
    let header = format!("x-repo-commit: {commit}\r\netag: \"{}\"\r\n", hex(&git.finalize()));
    Response { bytes: &bytes, header: &header, range: *range, fault }.send(&mut stream, stop)
}

/// Takes the next fault of `file`; one that only looks at the size meets none.
fn take_fault(
    state: &mut State,
    file: &str,
    range: Option<(usize, Option<usize>)>,
) -> Option<HubFault> {
    let at = state.faults.iter().position(|(name, _)| name == file)?;
    matches!(range, Some((_, None)) | None).then(|| state.faults.remove(at).1)
}

/// A response with the bytes of a file, and the fault that it shows.
struct Response<'a> {
    bytes: &'a [u8],
    header: &'a str,
    range: Option<(usize, Option<usize>)>,
    fault: Option<HubFault>,
}

impl Response<'_> {
    /// Sends it; a silent one lasts until `stop` is set.
    fn send(self, stream: &mut TcpStream, stop: &AtomicBool) -> io::Result<()> {
        let Self { bytes, header, range, fault } = self;
        if let Some(HubFault::Status(code)) = fault {
            return status(stream, code);
        }
        let total = bytes.len();
        let range = range.filter(|_| fault != Some(HubFault::Whole));
        let (start, end) = range.map_or((0, total), |(start, last)| {
            (start, last.map_or(total, |last| total.min(last + 1)))
        });
        if start >= total {
            return status(stream, 416);
        }
        let mut body = bytes[start..end].to_vec();
        let (code, range) = match range {
            None => ("200 OK", String::new()),
            Some(_) => (
                "206 Partial Content",
                format!("content-range: bytes {start}-{}/{total}\r\n", end - 1),
            ),
        };
        write!(
            stream,
            "HTTP/1.1 {code}\r\nconnection: close\r\naccept-ranges: bytes\r\n{header}{range}\
         content-length: {}\r\n\r\n",
            body.len()
        )?;
        match fault {
            Some(HubFault::CutAfter(count)) => body.truncate(count),
            Some(HubFault::Damaged) => {
                if let Some(last) = body.last_mut() {
                    *last ^= 1;
                }
            }
            Some(HubFault::Silent) => {
                while !stop.load(Ordering::Acquire) {
                    thread::sleep(Duration::from_millis(10));
                }
                return Ok(());
            }
            _ => {}
        }
        stream.write_all(&body)?;
        stream.flush()
    }
}

fn status(stream: &mut TcpStream, code: u16) -> io::Result<()> {
    write!(stream, "HTTP/1.1 {code} Said\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
}
