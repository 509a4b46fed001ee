//! Flags of every command with a report: its files for people.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::report::output::Files;

/// Files of a report for people.
#[derive(Debug, Args)]
pub struct PageArgs {
    /// Write the report as one self-contained page of HTML.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the report as Markdown.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Jaeger that the page links the traces of the slowest requests to, such as
    /// http://127.0.0.1:16686.
    #[arg(long, value_name = "URL")]
    pub jaeger: Option<String>,
}

impl PageArgs {
    /// Adds the files for programs.
    pub fn files<'a>(&'a self, json: Option<&'a Path>, csv: Option<&'a Path>) -> Files<'a> {
        Files {
            json,
            html: self.html.as_deref(),
            markdown: self.markdown.as_deref(),
            csv,
            jaeger: self.jaeger.as_deref(),
        }
    }
}
