//! Models from a hub, fetched by the command and served by their name.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use modelfile::Family;
use serde_json::json;
use testbed::{HubFault, HubServer, wait_for};
use tinymodel::TinyModel;

use crate::harness::{System, block_on, require_nats_server, tandem, turn};
use crate::http::{ask, get};

const REPO: &str = "acme/tiny-1";

/// Starts a hub with a tiny Qwen3 in one GGUF file.
fn hub() -> HubServer {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("tiny.gguf");
    TinyModel::of(Family::Qwen3).write_gguf(&path).expect("the model is written");
    let bytes = std::fs::read(&path).expect("it is there");
    HubServer::start(REPO, "c0ffee", [("tiny.gguf".to_owned(), bytes)]).expect("the hub starts")
}

fn fetch_model(hub: &HubServer, home: &Path, reference: &str) -> Command {
    let mut command = tandem();
    command.args(["fetch-model", "--model", reference]);
    command.env("HF_ENDPOINT", hub.url()).env("HF_HOME", home).env_remove("HF_TOKEN");
    command
}

#[testbed::test]
fn a_model_is_fetched_by_name_and_only_once() {
    let hub = hub();
    let home = tempfile::tempdir().expect("a directory");
    hub.fault("tiny.gguf", HubFault::CutAfter(100_000));
    let fetch = |reference: &str| fetch_model(&hub, home.path(), reference).output().expect("runs");

    let output = fetch("hf:acme/tiny-1:tiny.gguf");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("going on") && said.contains("100 %"), "{said}");
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let wanted = home.path().join("hub/models--acme--tiny-1/snapshots/c0ffee/tiny.gguf");
    assert_eq!(Path::new(&path), wanted);
    modelfile::ModelFile::open(&wanted).expect("it is whole");

    let requests = hub.requests().len();
    assert!(fetch("hf:acme/tiny-1").status.success());
    assert_eq!(hub.requests().len(), requests + 1, "{:?}", hub.requests());
    for (reference, wanted) in [
        ("hf:acme/tiny-1:none.gguf", "its GGUF files are tiny.gguf"),
        ("hf:acme/none", "status 404"),
        ("acme", "hf:owner/repo"),
    ] {
        let output = fetch(reference);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(wanted), "{said}");
    }
    hub.require_token("right");
    let said = fetch("hf:acme/tiny-1");
    assert!(String::from_utf8_lossy(&said.stderr).contains("set HF_TOKEN"));
    let mut allowed = fetch_model(&hub, home.path(), "hf:acme/tiny-1");
    assert!(allowed.env("HF_TOKEN", "right").output().expect("runs").status.success());
}

#[testbed::test]
fn a_system_serves_a_model_that_only_a_hub_has() {
    let _turn = turn();
    let hub = hub();
    let home = tempfile::tempdir().expect("a directory");
    require_nats_server();
    let home_text = home.path().to_str().expect("a plain path");
    let environment = [("HF_ENDPOINT", hub.url()), ("HF_HOME", home_text.to_owned())];
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let system = System::serve(format!("hf:{REPO}").as_ref(), &[], &environment);

    let models = block_on(get(&format!("{}/v1/models", system.base))).expect("an answer");
    assert!(models.1.contains("tiny-qwen3"), "{models:?}");
    let body =
        json!({ "prompt": "the cats and", "max_tokens": 4, "temperature": 0, "ignore_eos": true });
    let answer = block_on(ask(&system.base, "/v1/completions", &body));
    assert_eq!(answer["usage"]["completion_tokens"], 4, "{answer:#}");
    // Fetched once, before the workers started.
    let requests = hub.requests();
    let downloads = requests.iter().filter(|request| *request == "/cdn/tiny.gguf from 0");
    assert_eq!(downloads.count(), 1, "{requests:?}");
    assert!(system.stop().success());
}

#[testbed::test]
fn an_end_in_the_middle_of_a_download_is_not_held_up() {
    let hub = hub();
    let home = tempfile::tempdir().expect("a directory");
    hub.fault("tiny.gguf", HubFault::Silent);
    let mut up = tandem()
        .args(["up", "--tethered", "--listen", "127.0.0.1:0", "--model", "hf:acme/tiny-1"])
        .env("HF_ENDPOINT", hub.url())
        .env("HF_HOME", home.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    wait_for(Duration::from_secs(60), || match hub.requests() {
        requests if requests.contains(&"/cdn/tiny.gguf from 0".to_owned()) => Ok(()),
        requests => Err(format!("only {requests:?}")),
    });
    drop(up.stdin.take());
    // The hub's timeout is a minute.
    let status = wait_for(Duration::from_secs(20), || match up.try_wait() {
        Ok(Some(status)) => Ok(status),
        _ => Err("still running".to_owned()),
    });
    assert!(status.success(), "{status}");
}

#[testbed::test]
fn doctor_says_what_would_be_fetched() {
    let hub = hub();
    let home = tempfile::tempdir().expect("a directory");
    let doctor = || {
        let mut command = tandem();
        command.args(["doctor", "--model", "hf:acme/tiny-1", "--device", "cpu"]);
        command.env("HF_ENDPOINT", hub.url()).env("HF_HOME", home.path());
        let output = command.output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = doctor();
    assert!(said.contains(&format!("hf:acme/tiny-1 will be fetched from {}", hub.url())), "{said}");
    assert!(hub.requests().is_empty(), "{:?}", hub.requests());
    let fetched = fetch_model(&hub, home.path(), "hf:acme/tiny-1").output().expect("it runs");
    assert!(fetched.status.success());
    let said = doctor();
    assert!(said.contains("tiny-qwen3: qwen3, 2 layers"), "{said}");
}
