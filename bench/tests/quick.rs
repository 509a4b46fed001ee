//! The quickest case of the path, as a user runs it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

testbed::suite!();

/// Returns the program under test; without the `tandem` that it measures, ends the test as ignored.
fn bench() -> Command {
    let bench = Path::new(env!("CARGO_BIN_EXE_tandem-bench"));
    let tandem = bench.with_file_name("tandem");
    let built = if tandem.is_file() { Ok(()) } else { Err("build it with cargo build -p tandem") };
    testbed::require("tandem", built);
    let nats = provision::nats_server(&|line| eprintln!("{line}"));
    testbed::require("nats-server", nats);
    Command::new(bench)
}

#[testbed::test]
fn the_path_is_measured_without_a_model() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("path.json");
    let output = bench().args(["--path", "--quick", "--json"]).arg(&file).output();
    let output = output.expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let json: Value =
        serde_json::from_slice(&std::fs::read(&file).expect("it is written")).expect("JSON");
    let cases = json["path"].as_array().expect("cases");
    assert_eq!(cases.len(), 4, "{json:#}");
    for case in cases {
        assert!(case["requests_per_second"].as_f64().expect("a number") > 0.0, "{case:#}");
        let cpu = &case["cpu_ms_per_request_by_process"];
        assert!(cpu["nats-server"].as_f64().expect("a number") > 0.0, "{case:#}");
        assert!(case["messages_per_request"].as_f64().expect("a number") > 10.0, "{case:#}");
    }
}
