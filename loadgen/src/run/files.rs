//! Flags that every command with a report has: where it is written for people.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::report::output::Files;

/// Where a report is written for people.
#[derive(Debug, Args)]
pub struct PageArgs {
    /// Write it as one page of HTML that needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write it as Markdown.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Where the page's slowest requests link to their traces, such as http://127.0.0.1:16686.
    #[arg(long, value_name = "URL")]
    pub jaeger: Option<String>,
}

impl PageArgs {
    /// These files and, where given, the ones that are read by programs.
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
