//! Files of one or more JSON documents, read piece by piece with the line of every error.

use std::io::BufReader;
use std::path::Path;

use serde::de::DeserializeSeed;

use super::error::{Problem, TraceError};
use super::input::Guarded;

/// Where a reader leaves what it found wrong, since a parser only carries text.
#[derive(Default)]
pub(super) struct Stop(Option<Problem>);

impl Stop {
    /// Keeps the problem; an error for the parser.
    pub(super) fn note<E: serde::de::Error>(&mut self, problem: Problem) -> E {
        let error = E::custom(&problem);
        self.0 = Some(problem);
        error
    }
}

/// What takes the content of documents.
pub(super) trait Sink {
    /// What it found wrong.
    fn stop(&mut self) -> &mut Stop;
}

/// Lets `sink` read every document of a file; the digest of the file.
pub(super) fn read<S: Sink>(path: &Path, sink: &mut S) -> Result<[u8; 32], TraceError>
where
    for<'s, 'de> &'s mut S: DeserializeSeed<'de, Value = ()>,
{
    let mut file = BufReader::new(Guarded::open(path, false)?);
    let mut parser = serde_json::Deserializer::from_reader(&mut file);
    while parser.end().is_err() {
        if let Err(error) = DeserializeSeed::deserialize(&mut *sink, &mut parser) {
            let problem = sink.stop().0.take();
            return Err(locate(path, problem, &error));
        }
    }
    drop(parser);
    Ok(file.get_ref().digest())
}

fn locate(path: &Path, problem: Option<Problem>, error: &serde_json::Error) -> TraceError {
    let line = error.line().max(1) as u64;
    let problem = problem.unwrap_or_else(|| {
        let text = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let what = text.strip_suffix(&place).unwrap_or(&text);
        Problem::new("the document", format!("broken at column {}", error.column()), what)
    });
    problem.at(path, line)
}
