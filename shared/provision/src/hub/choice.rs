//! The choice of the files of a repository that make the model. Pure.

use std::collections::{BTreeMap, BTreeSet};

use modelfile::gguf_part_names;
use serde_json::Value;

pub(super) const INDEX: &str = "model.safetensors.index.json";
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
const OPTIONAL: [&str; 3] =
    ["tokenizer_config.json", "generation_config.json", "chat_template.jinja"];

/// The files to fetch. The first is the one to open.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// These files, one GGUF and its parts; the first is opened.
    Gguf(Vec<String>),
    /// These files; if the index is among them the shards it names too. Their directory is opened.
    Safetensors(Vec<String>),
}

impl Choice {
    pub(super) fn files(&self) -> &[String] {
        match self {
            Self::Gguf(files) | Self::Safetensors(files) => files,
        }
    }
}

/// Chooses from the files that a repository has.
pub(super) fn choose(files: &BTreeSet<String>, wanted: Option<&str>) -> Result<Choice, String> {
    let groups = gguf_groups(files);
    if let Some(wanted) = wanted {
        let parts = gguf_part_names(wanted);
        if !wanted.ends_with(".gguf") {
            return Err(format!("{wanted} is not a .gguf file; {}", list(&groups)));
        }
        return match parts.iter().find(|part| !files.contains(*part)) {
            Some(missing) => Err(format!("has no file {missing}; {}", list(&groups))),
            None => Ok(Choice::Gguf(parts)),
        };
    }
    let weights: Vec<&String> =
        files.iter().filter(|name| name.ends_with(".safetensors") && !name.contains('/')).collect();
    if files.contains("config.json") && !weights.is_empty() {
        return safetensors(files, weights);
    }
    let mut groups_left = groups.values();
    match (groups_left.next(), groups_left.next()) {
        (Some(only), None) => Ok(Choice::Gguf(only.clone())),
        (None, _) => Err("has neither safetensors with a config.json nor a GGUF".to_owned()),
        (Some(_), Some(_)) => Err(format!("name one of its files; {}", list(&groups))),
    }
}

fn safetensors(files: &BTreeSet<String>, weights: Vec<&String>) -> Result<Choice, String> {
    if let Some(missing) = NEEDED.iter().find(|name| !files.contains(**name)) {
        return Err(format!("has no {missing} beside its safetensors"));
    }
    let optional = OPTIONAL.into_iter().filter(|name| files.contains(*name));
    let mut chosen: Vec<String> = NEEDED.into_iter().chain(optional).map(str::to_owned).collect();
    let whole = "model.safetensors";
    if files.contains(INDEX) {
        chosen.push(INDEX.to_owned());
    } else if files.contains(whole) {
        chosen.push(whole.to_owned());
    } else {
        chosen.extend(weights.into_iter().cloned());
    }
    Ok(Choice::Safetensors(chosen))
}

/// The shards that an index names, all of which the repository must have.
pub(super) fn shards(index: &[u8], files: &BTreeSet<String>) -> Result<BTreeSet<String>, String> {
    let index: Value =
        serde_json::from_slice(index).map_err(|error| format!("{INDEX} is not JSON: {error}"))?;
    let map = index["weight_map"].as_object().ok_or(format!("{INDEX} has no weight_map"))?;
    map.values()
        .map(|file| match file.as_str() {
            Some(file) if files.contains(file) => Ok(file.to_owned()),
            _ => Err(format!("{INDEX} names {file}, which is not there")),
        })
        .collect()
}

/// The GGUF models by the name of their first part, each with all its parts. Projectors of images
/// are no models.
fn gguf_groups(files: &BTreeSet<String>) -> BTreeMap<String, Vec<String>> {
    let models = files.iter().filter(|name| {
        let base = name.rsplit('/').next().unwrap_or(name);
        name.ends_with(".gguf") && !base.starts_with("mmproj")
    });
    models
        .map(|name| gguf_part_names(name))
        .filter(|parts| parts.iter().all(|part| files.contains(part)))
        .map(|parts| (parts[0].clone(), parts))
        .collect()
}

fn list(groups: &BTreeMap<String, Vec<String>>) -> String {
    match groups.len() {
        0 => "it has no GGUF files".to_owned(),
        _ => {
            let names: Vec<&str> = groups.keys().map(String::as_str).collect();
            format!("its GGUF files are {}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn texts(choice: Choice) -> Vec<String> {
        choice.files().to_vec()
    }

    #[test]
    fn a_gguf_is_taken_by_name_or_because_it_is_the_only_one() {
        let one = files(&["README.md", "m.gguf", "mmproj-m.gguf", "config.json"]);
        assert_eq!(choose(&one, None), Ok(Choice::Gguf(vec!["m.gguf".into()])));
        assert_eq!(choose(&one, Some("m.gguf")), Ok(Choice::Gguf(vec!["m.gguf".into()])));
        let missing = choose(&one, Some("n.gguf")).unwrap_err();
        assert_eq!(missing, "has no file n.gguf; its GGUF files are m.gguf");
        let other = choose(&one, Some("config.json")).unwrap_err();
        assert!(other.starts_with("config.json is not a .gguf file"), "{other}");
        let two = files(&["a-Q4_0.gguf", "a-Q8_0.gguf"]);
        let unclear = choose(&two, None).unwrap_err();
        assert_eq!(unclear, "name one of its files; its GGUF files are a-Q4_0.gguf, a-Q8_0.gguf");
        assert!(choose(&files(&["README.md"]), None).unwrap_err().contains("neither"));
        assert!(choose(&files(&[]), Some("x.gguf")).unwrap_err().contains("no GGUF files"));
    }

    #[test]
    fn all_parts_of_a_split_gguf_come_together() {
        let parts = ["q/m-00001-of-00002.gguf", "q/m-00002-of-00002.gguf"];
        let all = files(&parts);
        assert_eq!(texts(choose(&all, None).unwrap()), parts);
        assert_eq!(texts(choose(&all, Some(parts[1])).unwrap()), parts);
        let error = choose(&files(&parts[..1]), Some(parts[0])).unwrap_err();
        assert!(error.contains(&format!("has no file {}", parts[1])), "{error}");
        assert!(choose(&files(&parts[..1]), None).is_err());
    }

    #[test]
    fn safetensors_come_with_their_companions() {
        let needed = ["config.json", "tokenizer.json"];
        let mut names = vec!["model.safetensors", "generation_config.json", "m.gguf"];
        names.extend(needed);
        let choice = texts(choose(&files(&names), None).unwrap());
        let wanted =
            ["config.json", "tokenizer.json", "generation_config.json", "model.safetensors"];
        assert_eq!(choice, wanted);
        assert!(matches!(choose(&files(&names), Some("m.gguf")), Ok(Choice::Gguf(_))));
        let error = choose(&files(&["model.safetensors", "config.json"]), None).unwrap_err();
        assert_eq!(error, "has no tokenizer.json beside its safetensors");

        let mut names = vec![INDEX, "a.safetensors", "b.safetensors", "consolidated.safetensors"];
        names.extend(needed);
        let all = files(&names);
        assert_eq!(texts(choose(&all, None).unwrap()), ["config.json", "tokenizer.json", INDEX]);
        let index = br#"{"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "a.safetensors"}}"#;
        assert_eq!(shards(index, &all), Ok(files(&["a.safetensors", "b.safetensors"])));
        for index in
            [r#"{"weight_map": {"x": "c.safetensors"}}"#, "[]", "{", r#"{"weight_map": {"x": 1}}"#]
        {
            assert!(shards(index.as_bytes(), &all).unwrap_err().contains(INDEX), "{index}");
        }
        names.retain(|name| *name != INDEX);
        assert_eq!(choose(&files(&names), None).unwrap().files().len(), 5);
    }
}
