//! The private nats-server: really answers, keeps its port over a restart, leaves nothing behind.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use provision::{NatsError, NatsOptions, NatsServer};

testbed::suite!();

/// Publishes to itself over the plain text protocol and gives what came back.
fn echo(url: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(url.trim_start_matches("nats://"))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"CONNECT {\"verbose\":false}\r\nSUB room 1\r\nPUB room 5\r\nhello\r\n")?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if line == "hello" {
            return Ok(line);
        }
    }
    Ok(String::new())
}

#[testbed::test]
fn a_private_server_answers_and_comes_back_on_the_same_port() {
    let mut server = testbed::nats_server();
    let url = server.url();
    assert_eq!(echo(&url).unwrap(), "hello");
    assert!(server.is_running());

    server.stop().unwrap();
    assert!(!server.is_running());
    echo(&url).expect_err("a stopped server does not answer");

    server.restart().unwrap();
    assert_eq!(server.url(), url);
    assert_eq!(echo(&url).unwrap(), "hello");

    let store = server.store();
    assert!(store.exists());
    drop(server);
    echo(&url).expect_err("a dropped server does not answer");
    assert!(!store.exists());
}

#[testbed::test]
fn two_servers_do_not_meet() {
    let (one, other) = (testbed::nats_server(), testbed::nats_server());
    assert_ne!(one.url(), other.url());
    assert_ne!(one.store(), other.store());
    assert_eq!(echo(&one.url()).unwrap(), "hello");
    assert_eq!(echo(&other.url()).unwrap(), "hello");
}

#[testbed::test]
fn a_program_that_is_no_server_is_reported_with_its_output() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("fake");
    std::fs::write(&program, "#!/bin/sh\necho cannot do this >&2\nexit 3\n").unwrap();
    std::process::Command::new("chmod").arg("+x").arg(&program).status().unwrap();
    let error = NatsServer::start(NatsOptions::new(&program)).unwrap_err();
    assert!(matches!(error, NatsError::Ended { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("cannot do this") && text.contains("3"), "{text}");
}
