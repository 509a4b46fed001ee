//! Models from a hub on this machine: whole, cut off, refused, gone, changed.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use modelfile::ModelFile;
use provision::hub::{self, HubError, HubEvent, HubOptions, HubRef};
use testbed::{HubFault, HubServer};
use tinymodel::TinyModel;

const REPO: &str = "acme/tiny-1";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const NEXT: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// A hub with what `write` puts into a directory, and an empty cache.
struct Stage {
    server: HubServer,
    cache: tempfile::TempDir,
}

impl Stage {
    fn new(write: impl FnOnce(&Path)) -> Self {
        let source = tempfile::tempdir().unwrap();
        write(source.path());
        let files = fs::read_dir(source.path()).unwrap().map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        });
        let server = HubServer::start(REPO, COMMIT, files).unwrap();
        Self { server, cache: tempfile::tempdir().unwrap() }
    }

    fn gguf() -> Self {
        Self::new(|folder| {
            TinyModel::default().write_gguf(&folder.join("tiny.gguf")).unwrap();
        })
    }

    fn options(&self) -> HubOptions {
        HubOptions {
            endpoint: self.server.url(),
            cache: Some(self.cache.path().join("hub")),
            retry_wait: Duration::from_millis(1),
            ..HubOptions::default()
        }
    }

    fn fetch_as(&self, text: &str, options: &HubOptions) -> Result<PathBuf, HubError> {
        hub::fetch(&text.parse().unwrap(), options, &mut |_| {})
    }

    fn fetch(&self, text: &str) -> Result<PathBuf, HubError> {
        self.fetch_as(text, &self.options())
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        let repo = self.cache.path().join("hub/models--acme--tiny-1");
        repo.join("snapshots").join(commit)
    }

    /// Requests for bytes of files, from the first on.
    fn downloads(&self) -> usize {
        self.server.requests().iter().filter(|request| request.contains(" from ")).count()
    }
}

#[test]
fn a_gguf_lands_in_the_usual_cache_and_is_fetched_once() {
    let stage = Stage::gguf();
    let mut seen = Vec::new();
    let reference: HubRef = format!("hf:{REPO}:tiny.gguf").parse().unwrap();
    let path = hub::fetch(&reference, &stage.options(), &mut |event| seen.push(event)).unwrap();

    assert_eq!(path, stage.snapshot(COMMIT).join("tiny.gguf"));
    let blob = fs::read_link(&path).unwrap();
    assert!(blob.starts_with("../../blobs"), "{}", blob.display());
    ModelFile::open(&path).unwrap().tensor("blk.0.attn_q.weight").unwrap();
    let total = fs::metadata(&path).unwrap().len();
    let last = HubEvent::Bytes { file: "tiny.gguf".into(), done: total, total };
    assert_eq!(seen.last(), Some(&last));
    let main = stage.cache.path().join("hub/models--acme--tiny-1/refs/main");
    assert_eq!(fs::read_to_string(main).unwrap(), COMMIT);

    let downloads = stage.downloads();
    assert_eq!(stage.fetch(&format!("hf:{REPO}")).unwrap(), path);
    assert_eq!(stage.fetch(&format!("hf:{REPO}@{COMMIT}:tiny.gguf")).unwrap(), path);
    assert_eq!(stage.downloads(), downloads, "{:?}", stage.server.requests());
}

#[test]
fn a_download_that_is_cut_off_goes_on_where_it_ended() {
    let stage = Stage::gguf();
    for _ in 0..3 {
        stage.server.fault("tiny.gguf", HubFault::CutAfter(50_000));
    }
    stage.server.fault("tiny.gguf", HubFault::Status(503));
    let mut notes = Vec::new();
    let reference = format!("hf:{REPO}").parse().unwrap();
    let path = hub::fetch(&reference, &stage.options(), &mut |event| {
        if let HubEvent::Note(note) = event {
            notes.push(note);
        }
    });
    ModelFile::open(&path.unwrap()).unwrap().tensor("output_norm.weight").unwrap();
    assert_eq!(notes.len(), 4, "{notes:?}");
    assert!(notes[3].contains("status 503"), "{notes:?}");
    let requests = stage.server.requests();
    for start in [0, 50_000, 100_000, 150_000] {
        let wanted = format!("/cdn/tiny.gguf from {start}");
        assert!(requests.contains(&wanted), "{wanted} in {requests:?}");
    }
}

#[test]
fn an_interrupted_process_is_continued_by_the_next() {
    let stage = Stage::gguf();
    stage.server.fault("tiny.gguf", HubFault::CutAfter(70_000));
    let impatient = HubOptions { fruitless_max: 0, ..stage.options() };
    let error = stage.fetch_as(&format!("hf:{REPO}"), &impatient).unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    assert!(!stage.snapshot(COMMIT).join("tiny.gguf").exists());
    ModelFile::open(&stage.fetch(&format!("hf:{REPO}")).unwrap()).unwrap();
    let requests = stage.server.requests();
    assert!(requests.contains(&"/cdn/tiny.gguf from 70000".to_owned()), "{requests:?}");
}

#[test]
fn damaged_and_repeated_bytes_are_found_and_fetched_again() {
    let stage = Stage::gguf();
    stage.server.fault("tiny.gguf", HubFault::Damaged);
    // A server that starts over where it was asked to go on.
    stage.server.fault("tiny.gguf", HubFault::CutAfter(60_000));
    stage.server.fault("tiny.gguf", HubFault::Whole);
    let mut notes = Vec::new();
    let reference = format!("hf:{REPO}").parse().unwrap();
    let path = hub::fetch(&reference, &stage.options(), &mut |event| {
        if let HubEvent::Note(note) = event {
            notes.push(note);
        }
    });
    ModelFile::open(&path.unwrap()).unwrap();
    assert!(notes[0].contains("the hub says"), "{notes:?}");
    assert!(notes[2].contains("bytes, the hub says"), "{notes:?}");

    // One that is always wrong is given up.
    let stage = Stage::gguf();
    for _ in 0..9 {
        stage.server.fault("tiny.gguf", HubFault::Damaged);
    }
    let error = stage.fetch(&format!("hf:{REPO}")).unwrap_err();
    assert!(matches!(error, HubError::Damaged { .. }), "{error}");
    assert!(!stage.snapshot(COMMIT).join("tiny.gguf").exists());
}

#[test]
fn a_process_that_ended_before_the_check_leaves_nothing_that_looks_whole() {
    let stage = Stage::gguf();
    let path = stage.fetch(&format!("hf:{REPO}")).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, &bytes).unwrap();
    let lock = stage.cache.path().join("hub/.locks/models--acme--tiny-1/tandem.lock");
    fs::write(&lock, path.display().to_string()).unwrap();
    assert_eq!(stage.fetch(&format!("hf:{REPO}")).unwrap(), path);
    assert_ne!(fs::read(&path).unwrap(), bytes);
    assert_eq!(fs::read_to_string(&lock).unwrap(), "");
}

#[test]
fn refusals_say_what_was_asked_and_what_to_do() {
    let stage = Stage::gguf();
    let error = stage.fetch(&format!("hf:{REPO}:other.gguf")).unwrap_err().to_string();
    let wanted = format!("{REPO}: has no file other.gguf; its GGUF files are tiny.gguf");
    assert_eq!(error, wanted);
    let error = stage.fetch("hf:acme/none").unwrap_err().to_string();
    assert!(error.contains("hf:acme/none at http://127.0.0.1"), "{error}");
    assert!(error.ends_with("status 404: there is no such repository"), "{error}");
    let error = stage.fetch(&format!("hf:{REPO}@v2")).unwrap_err().to_string();
    assert!(error.contains("@v2") && error.contains("404"), "{error}");

    stage.server.require_token("right");
    let error = stage.fetch(&format!("hf:{REPO}")).unwrap_err().to_string();
    assert!(error.contains("status 401") && error.contains("set HF_TOKEN"), "{error}");
    let wrong = HubOptions { token: Some("wrong".into()), ..stage.options() };
    let error = stage.fetch_as(&format!("hf:{REPO}"), &wrong).unwrap_err().to_string();
    assert!(error.contains("status 403") && error.contains("the token that was sent"), "{error}");
    let right = HubOptions { token: Some("right".into()), ..stage.options() };
    stage.fetch_as(&format!("hf:{REPO}"), &right).unwrap();
    // A refusal counts, whatever the cache has.
    let error = stage.fetch(&format!("hf:{REPO}")).unwrap_err();
    assert!(matches!(error, HubError::Denied { status: 401, .. }), "{error}");
    // The token that the hub's own tools have stored.
    fs::write(stage.cache.path().join("token"), "right\n").unwrap();
    stage.fetch(&format!("hf:{REPO}")).unwrap();
}

#[test]
fn the_cache_serves_when_the_hub_cannot() {
    let stage = Stage::gguf();
    let offline = HubOptions { offline: true, ..stage.options() };
    let error = stage.fetch_as(&format!("hf:{REPO}"), &offline).unwrap_err().to_string();
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    let nowhere = HubOptions { endpoint: "http://127.0.0.1:1".into(), ..stage.options() };
    let error = stage.fetch_as(&format!("hf:{REPO}"), &nowhere).unwrap_err().to_string();
    assert!(error.contains(&format!("hf:{REPO} at http://127.0.0.1:1")), "{error}");

    let path = stage.fetch(&format!("hf:{REPO}")).unwrap();
    let requests = stage.server.requests().len();
    assert_eq!(stage.fetch_as(&format!("hf:{REPO}"), &offline).unwrap(), path);
    assert_eq!(stage.fetch_as(&format!("hf:{REPO}:tiny.gguf"), &offline).unwrap(), path);
    assert!(stage.fetch_as(&format!("hf:{REPO}:more.gguf"), &offline).is_err());
    assert_eq!(stage.server.requests().len(), requests);
    let mut notes = 0;
    let reference = format!("hf:{REPO}").parse().unwrap();
    let again = hub::fetch(&reference, &nowhere, &mut |_| notes += 1).unwrap();
    assert_eq!((again, notes), (path, 1));
}

#[test]
fn a_hub_that_falls_silent_is_given_up() {
    let stage = Stage::gguf();
    stage.server.fault("tiny.gguf", HubFault::Silent);
    let options = HubOptions { stall_limit: Duration::from_millis(300), ..stage.options() };
    let error = stage.fetch_as(&format!("hf:{REPO}"), &options).unwrap_err();
    assert!(matches!(error, HubError::Stalled { .. }), "{error}");
}

#[test]
fn all_parts_of_a_split_gguf_are_fetched() {
    let stage = Stage::new(|folder| {
        TinyModel::default().write_gguf_split(folder, 3).unwrap();
    });
    let path = stage.fetch(&format!("hf:{REPO}:tiny-00002-of-00003.gguf")).unwrap();
    assert_eq!(path, stage.snapshot(COMMIT).join("tiny-00001-of-00003.gguf"));
    ModelFile::open(&path).unwrap().tensor("output_norm.weight").unwrap();
    assert_eq!(stage.fetch(&format!("hf:{REPO}")).unwrap(), path);
}

#[test]
fn shards_are_fetched_with_everything_beside_them() {
    let stage = Stage::new(|folder| {
        TinyModel::default().write_sharded_safetensors(folder, 2).unwrap();
        fs::write(folder.join("README.md"), "not needed").unwrap();
        fs::write(folder.join("consolidated.safetensors"), "not needed").unwrap();
    });
    let path = stage.fetch(&format!("hf:{REPO}")).unwrap();
    assert_eq!(path, stage.snapshot(COMMIT));
    let file = ModelFile::open(&path).unwrap();
    assert_eq!(file.name(), "tiny-1");
    file.tokenizer().unwrap();
    file.tensor("output_norm.weight").unwrap();
    assert!(!path.join("README.md").exists() && !path.join("consolidated.safetensors").exists());
    let offline = HubOptions { offline: true, ..stage.options() };
    assert_eq!(stage.fetch_as(&format!("hf:{REPO}"), &offline).unwrap(), path);
    // Without one of its shards the cache's copy is not a model.
    fs::remove_file(path.join("model-00002-of-00002.safetensors")).unwrap();
    assert!(stage.fetch_as(&format!("hf:{REPO}"), &offline).is_err());
    assert_eq!(stage.fetch(&format!("hf:{REPO}")).unwrap(), path);
    ModelFile::open(&path).unwrap();
}

#[test]
fn a_new_commit_brings_only_what_changed() {
    let stage = Stage::new(|folder| {
        TinyModel::default().write_safetensors(folder).unwrap();
    });
    let old = stage.fetch(&format!("hf:{REPO}")).unwrap();
    let downloads = stage.downloads();
    stage.server.publish(NEXT, "tokenizer_config.json", b"{\"add_bos_token\": true}".to_vec());
    let new = stage.fetch(&format!("hf:{REPO}")).unwrap();
    assert_eq!((&old, &new), (&stage.snapshot(COMMIT), &stage.snapshot(NEXT)));
    assert_eq!(stage.downloads(), downloads + 1, "{:?}", stage.server.requests());
    assert!(!ModelFile::open(&old).unwrap().special().add_bos);
    assert!(ModelFile::open(&new).unwrap().special().add_bos);
}

#[test]
fn two_at_once_fetch_once() {
    let stage = Stage::gguf();
    let paths: Vec<PathBuf> = std::thread::scope(|scope| {
        let fetch = || stage.fetch(&format!("hf:{REPO}")).unwrap();
        let threads = [scope.spawn(fetch), scope.spawn(fetch)];
        threads.map(|thread| thread.join().unwrap()).to_vec()
    });
    assert_eq!(paths[0], paths[1]);
    let requests = stage.server.requests();
    let downloads = requests.iter().filter(|request| *request == "/cdn/tiny.gguf from 0").count();
    assert_eq!(downloads, 1, "{requests:?}");
}

#[test]
fn a_path_that_is_no_reference_is_left_alone() {
    let path = Path::new("model.gguf");
    assert_eq!(provision::hub::model(path).unwrap(), path);
    let error = provision::hub::model(Path::new("hf:nonsense")).unwrap_err();
    assert!(error.to_string().contains("hf:owner/repo"), "{error}");
}
