//! A request trace: its format, its records and the sizes of their blocks.

/// The formats that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Format {
    /// Mooncake JSON lines: time in ms, 512-token blocks named by `hash_ids`.
    Mooncake,
    /// Qwen-Bailian JSON lines: time in s, 16-token blocks, chats with parents.
    Bailian,
    /// Azure LLM inference CSV: wall-clock time, lengths only.
    Azure,
    /// BurstGPT CSV: time in s, lengths, with or without sessions.
    Burstgpt,
    /// Weka kv-cache-tester JSON: a document a session; a file or a folder.
    Weka,
    /// RAGPulse: JSON lines of chunks and tables of their lengths; a folder or its trace file.
    Ragpulse,
    /// ServeGen: a folder of clients that requests are drawn from.
    Servegen,
    /// Splitwise-sim CSV: time in s, lengths only.
    Splitwise,
    /// ShareGPT conversations or vLLM custom prompts: texts without times.
    Sharegpt,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 9] = [
        Self::Mooncake,
        Self::Bailian,
        Self::Azure,
        Self::Burstgpt,
        Self::Weka,
        Self::Ragpulse,
        Self::Servegen,
        Self::Splitwise,
        Self::Sharegpt,
    ];
}

/// One request of a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Arrival, from the first record of the file.
    pub at_ns: i64,
    /// Prompt tokens, at least 1.
    pub input_tokens: u32,
    /// Output tokens; a few traces hold 0.
    pub output_tokens: u32,
    /// The session it is a turn of, if the trace says.
    pub session: Option<u32>,
    /// Its place in the session, from 0.
    pub turn: u32,
    /// From the end of the turn before it; the whole gap between the two where the trace does not
    /// say how long the answer took.
    pub think_ns: i64,
    /// Interned names of the prompt's blocks, the last one perhaps partly filled. Empty when the
    /// format names no blocks.
    pub blocks: Vec<u32>,
}

/// How many tokens the blocks of a trace hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockSizes {
    /// The trace names no blocks.
    None,
    /// All the same, the last one of a prompt perhaps fewer.
    Uniform(u32),
    /// Each its own, by block number.
    Each(Vec<u32>),
}

impl BlockSizes {
    /// Whether there are blocks.
    pub fn any(&self) -> bool {
        *self != Self::None
    }

    /// The size of all blocks, if it is one.
    pub fn uniform(&self) -> Option<u32> {
        match self {
            Self::Uniform(tokens) => Some(*tokens),
            Self::None | Self::Each(_) => None,
        }
    }

    fn of(&self, block: u32) -> u32 {
        match self {
            Self::None => 0,
            Self::Uniform(tokens) => *tokens,
            Self::Each(tokens) => tokens.get(block as usize).copied().unwrap_or(0),
        }
    }

    /// The blocks of a record with the tokens that its prompt has of each.
    pub fn split<'a>(
        &'a self,
        record: &'a Record,
    ) -> impl Iterator<Item = (u32, u32)> + Clone + 'a {
        let mut left = record.input_tokens;
        record.blocks.iter().map(move |block| {
            let tokens = self.of(*block).min(left);
            left -= tokens;
            (*block, tokens)
        })
    }
}

/// A trace, read and checked.
#[derive(Clone, Debug)]
pub struct Trace {
    /// What the file is called.
    pub name: String,
    /// Its format.
    pub format: Format,
    /// Tokens of its blocks.
    pub sizes: BlockSizes,
    /// The requests in order of arrival.
    pub records: Vec<Record>,
    /// The 64-bit names behind the interned ones.
    pub block_ids: Vec<u64>,
    /// Digest of the bytes of all its files.
    pub digest: [u8; 32],
    /// Whether it says when requests arrive.
    pub timed: bool,
    /// Whether it was drawn by a generator, within the window asked for.
    pub generated: bool,
    /// Requests whose time stamp lay before the one above.
    pub out_of_order: usize,
    /// Prompts whose blocks do not add up to their length.
    pub coverage_bad: usize,
    /// What a reader of the figures must know.
    pub notes: Vec<String>,
}

#[cfg(test)]
impl Trace {
    /// A trace that no file holds, as a Mooncake one.
    pub(crate) fn made_up(sizes: BlockSizes, records: Vec<Record>, block_ids: Vec<u64>) -> Self {
        Self {
            name: "t".to_owned(),
            format: Format::Mooncake,
            sizes,
            records,
            block_ids,
            digest: [0; 32],
            timed: true,
            generated: false,
            out_of_order: 0,
            coverage_bad: 0,
            notes: Vec::new(),
        }
    }
}
