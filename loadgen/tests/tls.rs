//! Runs against a server with TLS, whose certificate is checked.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use loadgen::calibrate::null::{NullOptions, NullServer};
use loadgen::cli::{Cli, Command};
use loadgen::cli::{Ending, run::execute as run};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/testbed/data/tls").join(name)
}

/// Starts the null server behind TLS, with a certificate for `localhost`. Each handshake takes
/// `slow` longer.
struct Front {
    port: u16,
    _null: NullServer,
    _tasks: JoinSet<()>,
}

async fn front(slow: Duration) -> Front {
    let certificate = CertificateDer::from_pem_file(file("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let options = NullOptions { ttft: Duration::ZERO, itl: Duration::ZERO, ..Default::default() };
    let null = NullServer::start("127.0.0.1:0", options).await.unwrap();
    let behind = null.address();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                tokio::time::sleep(slow).await;
                // A client that does not trust the certificate closes the connection here.
                let Ok(mut outside) = acceptor.accept(stream).await else { return };
                let mut inside = TcpStream::connect(behind).await.unwrap();
                let _ended = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    Front { port, _null: null, _tasks: tasks }
}

/// Runs `loadgen run` with these arguments; returns its report and its ending.
async fn load(arguments: &str) -> Result<(Value, Ending), String> {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("report.json");
    let fixed = format!(
        "loadgen run --progress none --lag-limit 60s --rate 100 --requests 20 --json {}",
        json.display()
    );
    let words = fixed.split(' ').chain(arguments.split_whitespace());
    let Command::Run(args) = Cli::try_parse_from(words).unwrap().command else { panic!("no run") };
    let (_stop, stopped) = mpsc::channel(1);
    let (_, ending) = run(&args, stopped).await.map_err(|error| format!("{error:#}"))?;
    Ok((serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap(), ending))
}

#[tokio::test]
async fn a_load_behind_tls_counts_the_handshake_as_connecting() {
    let slow = Duration::from_millis(150);
    let front = front(slow).await;
    let authority = file("authority.pem");
    let url = format!("--url https://localhost:{}/v1", front.port);
    let (report, ending) = load(&format!("{url} --ca-file {}", authority.display())).await.unwrap();
    assert_eq!(ending, Ending::Good, "{report}");
    assert_eq!(
        (&report["counts"]["completed"], &report["counts"]["failed"]),
        (&20.into(), &0.into())
    );
    assert_eq!(report["workload"]["url"], format!("https://localhost:{}", front.port));
    // The first requests had no connection yet; the server's TTFT is zero.
    let at_least = |value: &Value| value.as_f64().unwrap() >= slow.as_secs_f64() * 1e3;
    assert!(at_least(&report["schedule"]["connect_ms"]["max"]), "{}", report["schedule"]);
    assert!(at_least(&report["latency"]["ttft_service_ms"]["max"]), "{}", report["latency"]);
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused() {
    let front = front(Duration::ZERO).await;
    let refused = load(&format!("--url https://localhost:{}", front.port)).await.unwrap_err();
    assert!(refused.contains("no TLS with localhost"), "{refused}");
    assert!(refused.contains("UnknownIssuer; name the authority"), "{refused}");
    // The certificate is for localhost, not for this address.
    let authority = file("authority.pem");
    let url = format!("--url https://127.0.0.1:{}", front.port);
    let other = load(&format!("{url} --ca-file {}", authority.display())).await.unwrap_err();
    assert!(other.contains("certificate not valid for name"), "{other}");
}

#[tokio::test]
async fn the_authorities_of_the_system_are_asked_unless_others_are_named() {
    let front = front(Duration::ZERO).await;
    let url = format!("https://localhost:{}", front.port);
    let arguments = ["run", "--progress", "none", "--lag-limit", "60s", "--rate", "100"];
    let program = tokio::process::Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(arguments)
        .args(["--requests", "5", "--url", &url])
        // The variable with which OpenSSL, and programs like it, find the system's authorities.
        .env("SSL_CERT_FILE", file("authority.pem"))
        .kill_on_drop(true)
        .output();
    let done = tokio::time::timeout(Duration::from_secs(60), program).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stdout));
}

#[tokio::test]
async fn what_cannot_be_tls_is_named() {
    let front = front(Duration::ZERO).await;
    // Like other servers without TLS, it responds to an unknown request in plain HTTP.
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain_port = plain.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        // Reads to the end, so that no reset discards the response.
        let _ended = stream.read_to_end(&mut Vec::new()).await;
    });
    let authority = file("authority.pem");

    let https = format!("https://localhost:{}", front.port);
    let plain = format!("https://localhost:{}", plain_port);
    for (url, ca, expected) in [
        (plain.as_str(), authority.as_path(), "if it speaks plain HTTP, write http://"),
        ("http://localhost:1", authority.as_path(), "--ca-file is for https://"),
        (https.as_str(), file("nowhere.pem").as_path(), "nowhere.pem"),
        (https.as_str(), file("server.key").as_path(), "expected one or more"),
    ] {
        let refused = load(&format!("--url {url} --ca-file {}", ca.display())).await.unwrap_err();
        assert!(refused.contains(expected), "{expected}: {refused}");
    }
}
