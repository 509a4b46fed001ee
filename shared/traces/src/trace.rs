//! A request trace: its format, its records and the sizes of their blocks.

use super::oddity::Oddities;

/// A trace format that can be read.
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
    /// Every format.
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
    /// Arrival, counted from the first record of the file.
    pub at_ns: i64,
    /// Prompt tokens, at least 1.
    pub input_tokens: u32,
    /// Output tokens; a few traces hold 0.
    pub output_tokens: u32,
    /// Session that the request is a turn of, if the trace has sessions.
    pub session: Option<u32>,
    /// Index of the turn in its session, from 0.
    pub turn: u32,
    /// Time from the end of the preceding turn. Where the trace has no response times, it is the
    /// whole gap between the two arrivals.
    pub think_ns: i64,
    /// Dense numbers of the prompt's blocks. The last one may be partly filled. Empty if the format
    /// has no blocks.
    pub blocks: Vec<u32>,
}

/// Tokens per block of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockSizes {
    /// The trace has no blocks.
    None,
    /// The same size for all. The last block of a prompt may hold fewer tokens.
    Uniform(u32),
    /// A size for each block, by block number.
    Each(Vec<u32>),
}

impl BlockSizes {
    /// Returns whether the trace has blocks.
    pub fn any(&self) -> bool {
        *self != Self::None
    }

    /// Returns the common size of all blocks, if there is one.
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

    /// Yields the blocks of a record with the tokens that its prompt has of each.
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

/// A trace that was read and checked.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Name of the file.
    pub name: String,
    /// Format of the file.
    pub format: Format,
    /// Tokens per block.
    pub sizes: BlockSizes,
    /// The requests in order of arrival.
    pub records: Vec<Record>,
    /// Original 64-bit ids by block number.
    pub block_ids: Vec<u64>,
    /// Digest of the bytes of all files.
    pub digest: [u8; 32],
    /// True if the trace has arrival times.
    pub timed: bool,
    /// True if the requests were drawn by a generator, within the requested window.
    pub generated: bool,
    /// Oddities that the reader passed over.
    pub oddities: Oddities,
    /// Notes for a reader of the figures.
    pub notes: Vec<String>,
}

#[cfg(test)]
mod synthetic {
    use super::*;

    impl Trace {
        /// Creates a synthetic trace in the Mooncake format.
        pub(crate) fn synthetic(
            sizes: BlockSizes,
            records: Vec<Record>,
            block_ids: Vec<u64>,
        ) -> Self {
            Self {
                name: "t".to_owned(),
                format: Format::Mooncake,
                sizes,
                records,
                block_ids,
                digest: [0; 32],
                timed: true,
                generated: false,
                oddities: Oddities::default(),
                notes: Vec::new(),
            }
        }
    }
}
