//! Request traces: what a record is, which format a file has, and reading it strictly.

mod azure;
mod lines;
mod mooncake;
pub mod shape;
pub mod stats;

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use lines::Lines;

/// The most requests a trace file may hold.
pub const MAX_RECORDS: usize = 10_000_000;

/// The file formats that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Mooncake JSON lines: time in ms, 512-token blocks named by `hash_ids`.
    Mooncake,
    /// Azure LLM inference CSV: wall-clock time, lengths only.
    Azure,
}

impl Format {
    /// The name and what its numbers mean, for people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Mooncake => "Mooncake JSONL, time stamps in milliseconds",
            Self::Azure => "Azure CSV, time stamps in wall-clock time with 100 ns digits",
        }
    }
}

/// One request of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Arrival, from the first record of the file.
    pub at_ns: i64,
    /// Prompt tokens, at least 1.
    pub input_tokens: u32,
    /// Output tokens; a few traces hold 0.
    pub output_tokens: u32,
    /// Interned names of the prompt's blocks, the last one perhaps partly filled. Empty when the
    /// format names no blocks.
    pub blocks: Vec<u32>,
}

impl Record {
    /// Its blocks and the tokens of each, in a trace whose full blocks hold `block_tokens`.
    pub fn blocks_with_tokens(
        &self,
        block_tokens: u32,
    ) -> impl Iterator<Item = (u32, u32)> + Clone {
        let input = self.input_tokens;
        self.blocks.iter().enumerate().map(move |(at, block)| {
            (*block, input.saturating_sub(at as u32 * block_tokens).min(block_tokens))
        })
    }
}

/// A trace file, read and checked.
#[derive(Clone, Debug)]
pub struct Trace {
    /// What the file is called.
    pub name: String,
    /// Its format.
    pub format: Format,
    /// Tokens in a full block; 0 when the format names no blocks.
    pub block_tokens: u32,
    /// The requests in order of arrival.
    pub records: Vec<Record>,
    /// The 64-bit names behind the interned ones.
    pub block_ids: Vec<u64>,
    /// Digest of the file's bytes.
    pub digest: [u8; 32],
}

/// Why a trace could not be read. Lines count from 1.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file could not be opened or read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is not what the format says.
    #[error("{path}, line {line}: {problem}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The first line fits none of the formats.
    #[error("{path}: neither Mooncake JSONL nor Azure CSV, the first line is {first_line:?}")]
    Unknown {
        /// The file.
        path: PathBuf,
        /// How it starts.
        first_line: String,
    },
    /// No record at all.
    #[error("{path}: the trace holds no request")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Gives 64-bit block names dense numbers in order of first appearance, exactly.
#[derive(Default)]
struct Interner {
    numbers: HashMap<u64, u32>,
    ids: Vec<u64>,
}

impl Interner {
    fn intern(&mut self, id: u64) -> Result<u32, String> {
        if let Some(number) = self.numbers.get(&id) {
            return Ok(*number);
        }
        let number = u32::try_from(self.ids.len()).map_err(|_| "too many blocks".to_owned())?;
        self.numbers.insert(id, number);
        self.ids.push(id);
        Ok(number)
    }
}

/// Reads the trace at `path`; `format` none means: find out from the first line.
pub fn read(path: &Path, format: Option<Format>, block_tokens: u32) -> Result<Trace, TraceError> {
    let io = |source| TraceError::Io { path: path.to_owned(), source };
    let mut lines = Lines::new(BufReader::new(File::open(path).map_err(io)?));
    let at =
        |line: usize, problem: String| TraceError::Line { path: path.to_owned(), line, problem };
    let mut parser: Option<Parser> = None;
    let mut interner = Interner::default();
    let mut records: Vec<Record> = Vec::new();
    while let Some(line) = lines.next_line().map_err(|e| e.locate(path))? {
        let (number, text) = (line.number, line.text);
        let Some(parser) = &mut parser else {
            let found = match format {
                Some(format) => format,
                None => detect(text).ok_or_else(|| unknown(path, text))?,
            };
            let mut fresh = Parser::new(found, block_tokens);
            fresh
                .start(text, &mut interner)
                .map_err(|p| at(number, p))?
                .into_iter()
                .for_each(|r| records.push(r));
            parser = Some(fresh);
            continue;
        };
        let record = parser.record(text, &mut interner).map_err(|p| at(number, p))?;
        if records.last().is_some_and(|last| last.at_ns > record.at_ns) {
            return Err(at(number, "the time stamp is earlier than the one before it".to_owned()));
        }
        if records.len() == MAX_RECORDS {
            return Err(at(number, format!("more than {MAX_RECORDS} requests")));
        }
        records.push(record);
    }
    let digest = lines.digest();
    let (Some(parser), Some(first)) = (parser, records.first()) else {
        return Err(TraceError::Empty { path: path.to_owned() });
    };
    let start_ns = first.at_ns;
    records.iter_mut().for_each(|record| record.at_ns -= start_ns);
    Ok(Trace {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        format: parser.format,
        block_tokens: if parser.format == Format::Mooncake { block_tokens } else { 0 },
        records,
        block_ids: interner.ids,
        digest,
    })
}

fn unknown(path: &Path, text: &str) -> TraceError {
    TraceError::Unknown { path: path.to_owned(), first_line: text.chars().take(80).collect() }
}

fn detect(first_line: &str) -> Option<Format> {
    if azure::is_header(first_line) {
        Some(Format::Azure)
    } else if mooncake::looks_right(first_line) {
        Some(Format::Mooncake)
    } else {
        None
    }
}

struct Parser {
    format: Format,
    block_tokens: u32,
}

impl Parser {
    fn new(format: Format, block_tokens: u32) -> Self {
        Self { format, block_tokens }
    }

    /// Takes the first line: a header or already a record.
    fn start(&mut self, text: &str, interner: &mut Interner) -> Result<Option<Record>, String> {
        match self.format {
            Format::Azure if azure::is_header(text) => Ok(None),
            Format::Azure => Err(format!("expected the header {}", azure::HEADER)),
            Format::Mooncake => self.record(text, interner).map(Some),
        }
    }

    fn record(&mut self, text: &str, interner: &mut Interner) -> Result<Record, String> {
        match self.format {
            Format::Azure => azure::record(text),
            Format::Mooncake => mooncake::record(text, self.block_tokens, interner),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read_text(text: &str) -> Result<Trace, TraceError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        read(file.path(), None, 512)
    }

    fn problem(text: &str) -> String {
        read_text(text).unwrap_err().to_string()
    }

    const GOOD: &str = r#"{"timestamp": 27, "input_length": 513, "output_length": 5, "hash_ids": [0, 18446744073709551615]}"#;

    #[test]
    fn mooncake_times_are_milliseconds_from_the_first_record() {
        let later =
            GOOD.replace("27", "1027").replace("[0, 18446744073709551615]", "[0, 4294967295]");
        let trace = read_text(&format!("{GOOD}\n{later}\n")).unwrap();
        assert_eq!(trace.format, Format::Mooncake);
        let times: Vec<i64> = trace.records.iter().map(|r| r.at_ns).collect();
        assert_eq!(times, [0, 1_000_000_000]);
        // 2^64-1 and 2^32-1 agree in their low half and must stay two blocks.
        assert_eq!(trace.block_ids, [0, u64::MAX, u64::from(u32::MAX)]);
        assert_eq!(trace.records[1].blocks, [0, 2]);
    }

    #[test]
    fn mooncake_errors_name_the_line() {
        for (bad, expected) in [
            (GOOD.replace("513", "1025"), "line 2: 1025 tokens make 3 blocks of 512"),
            (GOOD.replace("513", "0"), "line 2: input_length is 0"),
            (GOOD.replace("27", "-1"), "line 2: "),
            (GOOD.replace("27", "3"), "line 2: the time stamp is earlier"),
            (GOOD.replace("timestamp", "time"), "line 2: unknown field `time`"),
            (GOOD.replace("[0,", "[-1,"), "line 2: "),
            (GOOD.replace('}', ""), "line 2: "),
            (String::new(), "line 2: the line is empty"),
        ] {
            let text = format!("{GOOD}\n{bad}\n{GOOD}\n");
            assert!(problem(&text).contains(expected), "{expected}: {}", problem(&text));
        }
    }

    #[test]
    fn azure_rows_are_read_to_the_nanosecond() {
        let trace = read_text(
            "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-12-31 23:59:59.9999999,374,44\r\n\
             2024-01-01 00:00:01.0000000,5,1",
        )
        .unwrap();
        assert_eq!(trace.format, Format::Azure);
        assert_eq!(trace.records[1].at_ns, 1_000_000_100);
        assert_eq!((trace.records[0].input_tokens, trace.records[0].output_tokens), (374, 44));
    }

    #[test]
    fn azure_errors_name_the_line() {
        for (row, expected) in [
            ("2023-11-16 18:15:46.6805900,374", "line 2: expected 3 columns, found 2"),
            (
                "2023-13-16 18:15:46.6805900,374,44",
                "line 2: \"2023-13-16 18:15:46.6805900\" is not",
            ),
            ("2023-02-29 18:15:46,374,44", "is not a time"),
            ("2023-11-16 18:15:46.6805900,x,44", "line 2: ContextTokens"),
            ("2023-11-16 18:15:46.6805900,0,44", "line 2: ContextTokens is 0"),
        ] {
            let text = format!("{}\n{row}\n", azure::HEADER);
            assert!(problem(&text).contains(expected), "{expected}: {}", problem(&text));
        }
    }

    #[test]
    fn other_files_are_refused() {
        assert!(problem("hello\n").contains("neither Mooncake JSONL nor Azure CSV"));
        assert!(problem("").contains("holds no request"));
        assert!(problem(&format!("{}\n", azure::HEADER)).contains("holds no request"));
        let bailian = r#"{"chat_id":1,"parent_chat_id":-1,"timestamp":61.1,"input_length":5,"output_length":1,"type":"text","turn":1,"hash_ids":[1]}"#;
        assert!(problem(bailian).contains("neither"));
        let endless = "x".repeat(lines::MAX_LINE_BYTES + 1);
        assert!(problem(&endless).contains("line 1: longer than"));
        assert!(read(Path::new("/no/such/trace"), None, 512).is_err());
    }
}
