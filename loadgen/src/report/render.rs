//! Reports for people and programs: text, Markdown, HTML, one JSON line for each request.

pub mod html;
pub mod lines;
pub mod markdown;
pub mod merged;
pub mod search;
pub mod table;
