//! Streaming reader of files with JSON documents, with the line of every error.

use std::cell::Cell;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use serde::de::DeserializeSeed;

use super::draft::Draft;
use super::error::{Problem, TraceError};
use super::input::{Guarded, skip_mark};

/// Slot for the problem that stopped a sink, because an error of the parser only carries text.
#[derive(Default)]
pub(crate) struct Stop {
    problem: Option<(Problem, u64)>,
    line: Rc<Cell<u64>>,
}

impl Stop {
    /// Returns the line that the parser has reached.
    pub(crate) fn line(&self) -> u64 {
        self.line.get()
    }

    /// Stores the problem and returns an error for the parser.
    pub(crate) fn note<E: serde::de::Error>(&mut self, problem: Problem) -> E {
        let error = E::custom(&problem);
        self.problem = Some((problem, self.line.get()));
        error
    }
}

/// A consumer of documents.
pub(crate) trait Sink {
    /// Returns the slot for the problem that stopped the sink.
    fn stop(&mut self) -> &mut Stop;
    /// Returns the trace that the documents are added to.
    fn draft(&mut self) -> &mut Draft;
}

/// A reader that counts lines. The parser's own count is late, because it reads ahead.
struct Counted {
    file: BufReader<Guarded>,
    line: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        let ends = buffer[..read].iter().filter(|b| **b == b'\n').count();
        self.line.set(self.line.get() + ends as u64);
        Ok(read)
    }
}

/// Passes every document of a file to `sink`, and adds the digest of the file to its trace.
pub(crate) fn read<S: Sink>(path: &Path, sink: &mut S) -> Result<(), TraceError>
where
    for<'s, 'de> &'s mut S: DeserializeSeed<'de, Value = ()>,
{
    let line = Rc::new(Cell::new(1));
    sink.stop().line = line.clone();
    let draft = sink.draft();
    draft.begin_file(path);
    let mut file = BufReader::new(Guarded::open(path)?);
    if skip_mark(&mut file).map_err(TraceError::io(path))? {
        draft.skipped_mark().map_err(|problem| draft.locate(problem))?;
    }
    let mut file = Counted { file, line };
    let mut parser = serde_json::Deserializer::from_reader(&mut file);
    while parser.end().is_err() {
        if let Err(error) = DeserializeSeed::deserialize(&mut *sink, &mut parser) {
            let problem = sink.stop().problem.take();
            return Err(locate(path, problem, &error));
        }
    }
    drop(parser);
    sink.draft().add_digest(file.file.get_ref().digest());
    Ok(())
}

fn locate(path: &Path, found: Option<(Problem, u64)>, error: &serde_json::Error) -> TraceError {
    let (problem, line) = found.unwrap_or_else(|| {
        let text = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let what = text.strip_suffix(&place).unwrap_or(&text);
        let value = format!("broken at column {}", error.column());
        (Problem::new("the document", value, what), error.line().max(1) as u64)
    });
    problem.at(path, line)
}
