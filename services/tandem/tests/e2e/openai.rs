//! The official Python client against the running system.

use std::path::PathBuf;
use std::process::Command;

use crate::harness::{shared, turn, workspace_file};

/// The exact client that the cases were written with.
const CLIENT: &str = "openai==3.54.0";

#[testbed::test]
fn the_official_python_client_is_content() {
    let _turn = turn();
    let (system, _) = shared();
    let packages = testbed::require("the openai client", client_packages());
    let output = Command::new("python3")
        .arg(workspace_file("services/gateway/tests/openai_client.py"))
        .args(["--base-url", &format!("{}/v1", system.base)])
        .env("PYTHONPATH", packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python3 starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success(), "{said}\n{complained}\n{}", system.everything());
}

/// Returns a directory with the client in it, which pip fills once.
fn client_packages() -> Result<PathBuf, String> {
    let cache = provision::Cache::locate().map_err(|error| error.to_string())?;
    let folder = cache.root().join("python").join(CLIENT.replace("==", "-"));
    if folder.join("openai").is_dir() {
        return Ok(folder);
    }
    let parent = folder.parent().ok_or("the cache has no parent")?;
    std::fs::create_dir_all(parent).map_err(|error| error.to_string())?;
    let scratch = parent.join(format!(".{}-{}", CLIENT.replace("==", "-"), std::process::id()));
    let output = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"])
        .arg(&scratch)
        .arg(CLIENT)
        .output()
        .map_err(|error| format!("python3: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    // Another test process may have been faster. Then its copy is used.
    let renamed = std::fs::rename(&scratch, &folder);
    if renamed.is_err() {
        let _ = std::fs::remove_dir_all(&scratch);
    }
    if folder.join("openai").is_dir() {
        Ok(folder)
    } else {
        Err(format!("{}: {renamed:?}", folder.display()))
    }
}
