//! Failures: clients that leave, workers and stores that are killed, files that cannot be read.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testbed::{Extent, wait_for};

use crate::fleet::{assert_at_rest, status, workers};
use crate::harness::{Lines, Needs, System, block_on, free_port, shared, tandem, turn};
use crate::http::{Stream, ask, get, text_of};
use crate::processes::{service_below, tree_of};

/// The default deadline of a request, and a margin.
const REQUEST_LIMIT: Duration = Duration::from_secs(130);
const RESTART_LIMIT: Duration = Duration::from_secs(90);
const REST_LIMIT: Duration = Duration::from_secs(20);

fn story(max_tokens: u32) -> Value {
    json!({ "prompt": "Once upon a time there was a lighthouse keeper who",
            "temperature": 0, "max_tokens": max_tokens, "ignore_eos": true })
}

#[testbed::test]
fn a_client_that_goes_away_frees_both_legs() {
    let _turn = turn();
    let (system, _) = shared();
    block_on(async {
        let mut stream = Stream::open(&system.base, "/v1/completions", &story(1500)).await;
        for _ in 0..3 {
            stream.next().await.expect("it has only begun");
        }
    });
    // 1500 tokens would take far longer than this.
    assert_at_rest(system, REST_LIMIT);
}

/// Kills the worker of a kind in the middle of a stream. The stream must end well or say why.
fn killed_in_mid_stream(kind: &str) {
    let _turn = turn();
    let system = System::start(&[], &[]);
    let story = story(Extent::from_env().pick(60, 120));
    let undisturbed = block_on(ask(&system.base, "/v1/completions", &story));
    let victim = service_below(system.pid(), kind).expect("it runs");
    let begun = Instant::now();
    let events = block_on(async {
        let mut stream = Stream::open(&system.base, "/v1/completions", &story).await;
        let mut events = Vec::new();
        for _ in 0..5 {
            events.push(stream.next().await.expect("it has only begun"));
        }
        victim.kill();
        events.extend(stream.rest().await);
        events
    });
    assert!(begun.elapsed() < REQUEST_LIMIT);
    let failure = events.iter().find_map(|event| event["error"]["message"].as_str());
    let expected = undisturbed["choices"][0]["text"].as_str().expect("text");
    let text = text_of(&events);
    match failure {
        // Never a wrong token, even in a stream that could not be finished.
        Some(message) => {
            eprintln!("{kind} killed: the stream ended with {message:?}");
            assert!(!message.is_empty() && expected.starts_with(&text), "{text:?}");
        }
        None => assert_eq!(text, expected),
    }

    let ready_again = wait_for(RESTART_LIMIT, || {
        let next = service_below(system.pid(), kind).filter(|next| *next != victim);
        let status = status(&system.nats_url)?;
        let mut workers = workers(&status).into_iter();
        let is_ready = workers.any(|worker| worker["role"] == kind && worker["ready"] == true);
        match next {
            Some(next) if is_ready => Ok(next),
            _ => Err(format!("{status:#}\n{}", system.everything())),
        }
    });
    assert_ne!(ready_again.pid, victim.pid);
    let killed = system.said.find(|line| line.contains("signal 9").then(|| line.clone()));
    assert!(killed.is_some_and(|line| line.contains(kind)), "{}", system.everything());
    let again = block_on(ask(&system.base, "/v1/completions", &story));
    assert_eq!(again["choices"][0]["text"], expected);
    assert_at_rest(&system, REST_LIMIT);
}

#[testbed::test]
fn decode_killed_in_mid_stream() {
    killed_in_mid_stream("decode");
}

#[testbed::test]
fn prefill_killed_in_mid_stream() {
    killed_in_mid_stream("prefill");
}

#[testbed::test]
fn prefill_killed_before_the_first_token() {
    let _turn = turn();
    let system = System::start(&[], &[]);
    // Long enough that the kill comes while it is being computed.
    let (tokens, kill_after_ms) = Extent::from_env().pick((1200, 300), (3000, 1000));
    let prompt: Vec<u32> = (0..tokens).map(|place| 1000 + (place * 7919) % 39_000).collect();
    let body = json!({ "prompt": prompt, "temperature": 0, "max_tokens": 8, "ignore_eos": true });
    let victim = service_below(system.pid(), "prefill").expect("it runs");
    let text = block_on(async {
        let asking = ask(&system.base, "/v1/completions", &body);
        tokio::pin!(asking);
        let early = tokio::time::timeout(Duration::from_millis(kill_after_ms), &mut asking).await;
        assert!(early.is_err(), "the prompt was too short to kill anybody in the midst of it");
        victim.kill();
        asking.await["choices"][0]["text"].clone()
    });
    let again = block_on(ask(&system.base, "/v1/completions", &body));
    assert_eq!(text, again["choices"][0]["text"]);
    assert_at_rest(&system, RESTART_LIMIT);
}

#[testbed::test]
fn a_model_that_cannot_be_read_ends_up_at_once() {
    let _turn = turn();
    Needs::obtain();
    let folder = tempfile::tempdir().expect("a directory");
    let model = folder.path().join("broken.gguf");
    std::fs::write(&model, b"GGUF\x03\0\0\0 and then nothing that makes sense").expect("written");
    let listen = format!("127.0.0.1:{}", free_port());
    let begun = Instant::now();
    let output = tandem()
        .args(["up", "--device", "cpu", "--listen", &listen, "--model"])
        .arg(&model)
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(60), "it tried for {:?}", begun.elapsed());
    assert!(said.contains("cannot serve") && said.contains("broken.gguf"), "{said}");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(!shown.contains("nats"), "the model is opened before anything starts: {shown}");
}

#[testbed::test]
fn the_store_killed_comes_back_and_knows_what_is_stored() {
    let _turn = turn();
    let system = System::start(&[], &[]);
    let prompt: Vec<u32> = (0..64).map(|place| 2000 + place * 13).collect();
    let body = json!({ "prompt": prompt, "temperature": 0, "max_tokens": 4 });
    let first = block_on(ask(&system.base, "/v1/completions", &body));
    let victim = service_below(system.pid(), "kvstore").expect("it runs");
    victim.kill();
    // Without a store a request is computed, not lost.
    let without = block_on(ask(&system.base, "/v1/completions", &body));
    assert_eq!(without["choices"][0]["text"], first["choices"][0]["text"]);
    wait_for(RESTART_LIMIT, || {
        let status = status(&system.nats_url)?;
        if status["kvstore"]["caught_up"] == true && status["kvstore"]["blocks"] != 0 {
            Ok(())
        } else {
            Err(format!("{status:#}\n{}", system.everything()))
        }
    });
    assert_at_rest(&system, REST_LIMIT);
}

#[testbed::test]
fn the_whole_tree_goes_with_a_killed_up() {
    let _turn = turn();
    let system = System::start(&[], &[]);
    let tree = tree_of(system.pid());
    for kind in ["gateway", "prefill", "decode", "kvstore", "nats-server"] {
        let runs = tree.iter().any(|one| one.command_line().iter().any(|it| it.contains(kind)));
        assert!(runs, "{kind} is not below `tandem up`: {tree:?}");
    }
    tree.iter().find(|one| one.pid as u32 == system.pid()).expect("itself").kill();
    wait_for(Duration::from_secs(20), || {
        let left: Vec<_> = tree.iter().filter(|one| one.is_alive()).collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err(left.iter().map(|one| one.command_line().join(" ")).collect())
        }
    });
}

#[testbed::test]
fn the_tether_ends_everything_in_good_order() {
    let _turn = turn();
    let system = System::start(&[], &[]);
    let tree = tree_of(system.pid());
    let said = system.said.clone();
    let status = system.stop();
    assert!(status.success(), "{status}: {}", said.text());
    assert!(tree.iter().all(|one| !one.is_alive()), "{}", said.text());
    assert!(!said.text().contains("killed"), "something had to be killed:\n{}", said.text());
}

#[testbed::test]
fn a_taken_port_is_named_at_once() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let taken = listener.local_addr().expect("a bound listener has an address").to_string();
    let begun = Instant::now();
    let output = tandem().args(["up", "--listen", &taken]).output().expect("it runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&taken), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(10), "it began something before it looked");
}

/// A process that is killed when this is dropped.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[testbed::test]
fn without_nats_a_service_says_so_and_is_not_ready() {
    let _turn = turn();
    let model = testbed::smollm2();
    for kind in ["kvstore", "prefill", "decode", "gateway"] {
        let port = free_port();
        let key = if kind == "gateway" { "gateway.listen" } else { "health.listen" };
        let mut child = tandem()
            .args([kind, "--set", "nats.url=nats://127.0.0.1:1", "--set", "device=cpu"])
            .args(["--set", &format!("model.path={}", model.display())])
            .args(["--set", &format!("{key}=127.0.0.1:{port}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let logged = Lines::collect(child.stderr.take().expect("stderr is piped"));
        let service = Service(child);
        wait_for(Duration::from_secs(60), || {
            let answer = block_on(get(&format!("http://127.0.0.1:{port}/ready")));
            let named = logged.text().contains("nats://127.0.0.1:1");
            match answer {
                Some((503, _)) if named => Ok(()),
                Some((200, body)) => panic!("{kind} is ready without NATS: {body}"),
                other => Err(format!("{kind}: {other:?}\n{}", logged.text())),
            }
        });
        drop(service);
    }
}
