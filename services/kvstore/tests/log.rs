//! The log of a starting kvstore.

use std::io::Write;
use std::sync::{Arc, Mutex};

use chassis::Settings;
use tokio::net::TcpListener;

/// Log lines, shared with the subscriber that writes them.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no test panics while it writes").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_holds_no_password() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let mut settings = Settings::default();
    settings.nats.url = "nats://tandem:s3cret@127.0.0.1:1".into();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    kvstore::serve(settings, listener, std::future::ready(())).await.unwrap();
    let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("nats=nats://tandem:***@127.0.0.1:1"), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
}
