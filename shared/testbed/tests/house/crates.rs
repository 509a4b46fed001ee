//! The laws between crates, read from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

pub(crate) fn workspace() -> Metadata {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
    let mut command = MetadataCommand::new();
    command.manifest_path(manifest).no_deps().other_options(vec!["--offline".to_owned()]);
    command.exec().expect("cargo metadata reads the workspace")
}

/// Names of the crates that `package` is built with; those of its tests are left out.
fn dependencies(package: &Package) -> BTreeSet<String> {
    let dependencies = package.dependencies.iter();
    let dependencies = dependencies.filter(|it| it.kind != DependencyKind::Development);
    dependencies.map(|found| found.name.clone()).collect()
}

/// Returns the foreign crates that any package depends on, as Rust writes their names.
pub(crate) fn foreign() -> BTreeSet<String> {
    let packages = workspace().packages;
    let ours: BTreeSet<String> = packages.iter().map(|package| package.name.to_string()).collect();
    let all = packages.iter().flat_map(|package| &package.dependencies);
    all.filter(|it| !ours.contains(&it.name)).map(|it| it.name.replace('-', "_")).collect()
}

fn members() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let metadata = workspace();
    let root = metadata.workspace_root.clone();
    let packages = metadata.workspace_packages().into_iter().map(|package| {
        let folder = package.manifest_path.strip_prefix(&root).expect("inside the workspace");
        (package.name.to_string(), (folder.to_string(), dependencies(package)))
    });
    packages.collect()
}

fn is_service(folder: &str) -> bool {
    folder.starts_with("services/")
}

#[test]
fn no_service_depends_on_a_service_except_the_one_that_composes_them() {
    let members = members();
    for (name, (folder, dependencies)) in &members {
        if name == "tandem" {
            continue;
        }
        for dependency in dependencies {
            let service = members.get(dependency).is_some_and(|(folder, _)| is_service(folder));
            assert!(!service, "{folder} depends on the service {dependency}");
        }
    }
    assert!(members.values().filter(|(folder, _)| is_service(folder)).count() >= 5);
}

#[test]
fn what_decides_knows_nothing_that_acts() {
    let members = members();
    let acting = ["tokio", "tokio-util", "tokio-stream", "futures", "async-nats", "burn", "rand"];
    for pure in ["protocol", "scheduling", "simulation"] {
        let (_, dependencies) = &members[pure];
        for name in acting {
            assert!(!dependencies.contains(name), "{pure} depends on {name}");
        }
        let ours = dependencies.iter().filter(|name| members.contains_key(*name));
        let allowed = ["protocol", "scheduling"];
        let strange: Vec<_> = ours.filter(|name| !allowed.contains(&name.as_str())).collect();
        assert!(strange.is_empty(), "{pure} depends on {strange:?}");
    }
}

#[test]
fn what_is_dangerous_lives_with_its_owner() {
    let owners: [(&str, &[&str]); 7] = [
        ("async-nats", &["bus"]),
        ("burn", &["model"]),
        ("burn-wgpu", &["model"]),
        ("opentelemetry", &["chassis"]),
        ("opentelemetry_sdk", &["chassis"]),
        ("opentelemetry-otlp", &["chassis"]),
        // Settings of services, and flags of a load.
        ("config", &["chassis", "loadgen"]),
    ];
    for (name, (_, dependencies)) in members() {
        for (dependency, owners) in owners {
            let owned = !dependencies.contains(dependency) || owners.contains(&name.as_str());
            assert!(owned, "{name} depends on {dependency}, which belongs to {owners:?}");
        }
    }
}

#[test]
fn no_crate_ships_what_only_tests_need() {
    for (name, (_, dependencies)) in members() {
        for helper in ["testbed", "tinymodel", "proptest", "simulation"] {
            assert!(!dependencies.contains(helper), "{name} is built with {helper}");
        }
    }
}

#[test]
fn wire_types_live_in_protocol() {
    let members = members();
    for (name, (folder, dependencies)) in &members {
        let writes = dependencies.contains("rmp-serde");
        assert!(!writes || name == "protocol", "{folder} writes MessagePack of its own");
    }
}
