//! Writing of a report to files.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

use super::render::{html, markdown};
use super::{Report, samples};

/// Files to write.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files<'a> {
    /// JSON.
    pub json: Option<&'a Path>,
    /// One page of HTML.
    pub html: Option<&'a Path>,
    /// Markdown.
    pub markdown: Option<&'a Path>,
    /// One CSV row per measured request.
    pub csv: Option<&'a Path>,
    /// Jaeger that the page links traces to.
    pub jaeger: Option<&'a str>,
}

/// Writes all files of `asked`.
pub fn write_all(asked: &Files<'_>, report: &Report) -> Result<()> {
    if let Some(path) = asked.json {
        write_file(path, |out| json(out, report))?;
    }
    if let Some(path) = asked.html {
        let page = html::render(report, asked.jaeger);
        write_file(path, |out| out.write_all(page.as_bytes()))?;
    }
    if let Some(path) = asked.markdown {
        write_file(path, |out| out.write_all(markdown::render(report).as_bytes()))?;
    }
    if let Some(path) = asked.csv {
        write_file(path, |out| samples::write_csv(out, &report.samples))?;
    }
    Ok(())
}

/// Writes indented JSON, with each long column of the samples on one line.
pub fn json(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let mut value = serde_json::to_value(report)?;
    let fields = value.as_object_mut().into_iter();
    let columns = fields.filter_map(|fields| fields.remove("samples")).next();
    let text = serde_json::to_string_pretty(&value)?;
    let open = text.strip_suffix("\n}").unwrap_or(&text);
    write!(out, "{open},\n  \"samples\": {{")?;
    let columns = columns.as_ref().and_then(|columns| columns.as_object());
    for (place, (name, column)) in columns.into_iter().flatten().enumerate() {
        let comma = if place == 0 { "" } else { "," };
        write!(out, "{comma}\n    {}: {column}", serde_json::Value::from(name.as_str()))?;
    }
    writeln!(out, "\n  }}\n}}")
}

/// Writes a file with `write`. Errors name the file.
pub fn write_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut out = BufWriter::new(file);
    write(&mut out)
        .and_then(|()| out.flush())
        .with_context(|| format!("cannot write {}", path.display()))
}
