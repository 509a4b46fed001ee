//! Renderings of reports: text, Markdown, HTML, one JSON line per request.

pub mod html;
pub mod lines;
pub mod markdown;
pub mod merged;
pub mod search;
pub mod table;
