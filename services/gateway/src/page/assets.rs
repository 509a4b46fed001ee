//! The files of the page. They are part of the program, are revalidated by digest, and may load nothing
//! else.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use axum::extract::{Path, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;

/// Content security policy: scripts, styles, images and connections of this origin only; no inline
/// script or style, no frames, no forms.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

struct Asset {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
}

const INDEX: Asset =
    Asset { name: "index.html", kind: HTML, text: include_str!("static/index.html") };

const FILES: [Asset; 13] = [
    Asset { name: "page.css", kind: CSS, text: include_str!("static/page.css") },
    Asset { name: "chat.css", kind: CSS, text: include_str!("static/chat.css") },
    Asset { name: "icon.svg", kind: SVG, text: include_str!("static/icon.svg") },
    Asset { name: "main.js", kind: SCRIPT, text: include_str!("static/main.js") },
    Asset { name: "dom.js", kind: SCRIPT, text: include_str!("static/dom.js") },
    Asset { name: "format.js", kind: SCRIPT, text: include_str!("static/format.js") },
    Asset { name: "live.js", kind: SCRIPT, text: include_str!("static/live.js") },
    Asset { name: "spark.js", kind: SCRIPT, text: include_str!("static/spark.js") },
    Asset { name: "figures.js", kind: SCRIPT, text: include_str!("static/figures.js") },
    Asset { name: "fleet.js", kind: SCRIPT, text: include_str!("static/fleet.js") },
    Asset { name: "chat.js", kind: SCRIPT, text: include_str!("static/chat.js") },
    Asset { name: "answer.js", kind: SCRIPT, text: include_str!("static/answer.js") },
    Asset { name: "waterfall.js", kind: SCRIPT, text: include_str!("static/waterfall.js") },
];

/// Responds with the page.
pub(super) async fn index(headers: HeaderMap) -> Response {
    serve(&INDEX, &headers)
}

/// Responds with a file of the page.
pub(super) async fn file(Path(name): Path<String>, request: Request) -> Response {
    match FILES.iter().find(|file| file.name == name) {
        Some(file) => serve(file, request.headers()),
        None => {
            let name: String = name.chars().take(100).collect();
            ApiError::new(StatusCode::NOT_FOUND, format!("no such path: /page/{name}"))
                .into_response()
        }
    }
}

fn serve(asset: &Asset, request: &HeaderMap) -> Response {
    let tag = tag(asset.text);
    let headers = [
        (header::CONTENT_TYPE, asset.kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::ETAG, tag.as_str()),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        super::NO_SNIFF,
    ];
    if is_cached(request, &tag) {
        (StatusCode::NOT_MODIFIED, headers).into_response()
    } else {
        (headers, asset.text).into_response()
    }
}

/// Returns the entity tag of a text: the same in every run of one program.
fn tag(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

/// Returns true if the client has the version `tag` already.
fn is_cached(request: &HeaderMap, tag: &str) -> bool {
    let tags = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok());
    let mut tags = tags.flat_map(|tags| tags.split(',')).map(str::trim);
    tags.any(|held| held == "*" || held.trim_start_matches("W/") == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cached_version_is_recognized() {
        let asked =
            |value: &str| HeaderMap::from_iter([(header::IF_NONE_MATCH, value.parse().unwrap())]);
        let tag = tag("text");
        assert_ne!(tag, super::tag("other text"));
        for held in [tag.clone(), format!("\"x\", W/{tag}"), "*".to_owned()] {
            assert!(is_cached(&asked(&held), &tag), "{held}");
        }
        assert!(!is_cached(&asked("\"x\""), &tag));
        assert!(!is_cached(&HeaderMap::new(), &tag));
    }

    #[test]
    fn every_file_that_the_page_names_is_there_and_none_comes_from_elsewhere() {
        let mut named = 0;
        for asset in std::iter::once(&INDEX).chain(&FILES) {
            for (at, _) in asset.text.match_indices("\"page/") {
                let name = asset.text[at + "\"page/".len()..].split('"').next().unwrap();
                assert!(FILES.iter().any(|file| file.name == name), "{}: {name}", asset.name);
                named += 1;
            }
            for (at, _) in asset.text.match_indices("from \"./") {
                let name = asset.text[at + "from \"./".len()..].split('"').next().unwrap();
                assert!(FILES.iter().any(|file| file.name == name), "{}: {name}", asset.name);
                named += 1;
            }
            let elsewhere = ["src=\"http", "url(", "@import", "import(\"http", "from \"http"];
            for what in elsewhere {
                assert!(!asset.text.contains(what), "{} has {what}", asset.name);
            }
        }
        assert!(FILES.len() <= named, "{named}");
    }

    #[test]
    fn nothing_becomes_markup_or_code_by_accident() {
        for asset in std::iter::once(&INDEX).chain(&FILES) {
            let ways = [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "Function(",
                "<script>",
                "style=\"",
                " onclick",
                "javascript:",
            ];
            for way in ways {
                assert!(!asset.text.contains(way), "{} has {way}", asset.name);
            }
        }
    }
}
