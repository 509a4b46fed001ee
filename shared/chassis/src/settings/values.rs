//! The types of those settings that take one of a few words.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::key::{HasKind, Kind, Limit};

/// The computation behind a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// A model.
    Model,
    /// No model: steps only take the time that section `simulated` says.
    Simulated,
}

/// The instructions of the CPU's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Isa {
    /// The best that the processor has.
    Auto,
    /// AVX-512.
    Avx512,
    /// AVX2.
    Avx2,
    /// Plain Rust.
    Portable,
}

/// The precision of a quantized layer's inputs on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Activations {
    /// 16 bits for models of fewer than 2 billion parameters, 8 bits for the others.
    Auto,
    /// 8 bits, one multiplication for each weight.
    Int8,
    /// 16 bits, two multiplications for each weight.
    Int16,
}

/// The policy that decides whether prefill and decode run on different workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Disaggregate {
    /// Different workers wherever both roles exist.
    Always,
    /// One worker for both.
    Never,
    /// Whichever is predicted to cost less.
    Auto,
}

/// The source of the sampling parameters that a request leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum GenerationConfig {
    /// The model's files.
    File,
    /// None: the defaults of the API.
    None,
}

macro_rules! choices {
    ($($name:ident),*) => {$(
        impl HasKind for $name {
            const KIND: Kind = Kind::Choice(|text| Self::from_str(text, false).is_ok());
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&word(self))
            }
        }
    )*};
}

choices!(Engine, Isa, Activations, Disaggregate, GenerationConfig);

/// Returns the limit of a type that has a word for each of its values.
pub(super) fn one_of<T: ValueEnum>() -> impl Fn(&T) -> Limit {
    |_| {
        let words: Vec<String> = T::value_variants().iter().map(word).collect();
        let expected = match words.split_last() {
            Some((last, others)) if !others.is_empty() => {
                format!("{} or {last}", others.join(", "))
            }
            _ => words.concat(),
        };
        Limit { expected, holds: true }
    }
}

fn word<T: ValueEnum>(value: &T) -> String {
    value.to_possible_value().map(|word| word.get_name().to_owned()).unwrap_or_default()
}

/// The device that computes a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The best that this machine has.
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU, by its index where several exist.
    Wgpu(Option<usize>),
    /// Stock tensor operations on the CPU, to compare with.
    Reference,
    /// Stock tensor operations on a GPU, to compare with.
    ReferenceWgpu(Option<usize>),
}

impl Device {
    pub(super) const EXPECTED: &str = "auto, cpu, wgpu, wgpu:N, reference or reference:wgpu";
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let gpu = |name: &str| match name.split_once(':') {
            None if name == "wgpu" => Some(None),
            Some(("wgpu", index)) => index.parse().ok().map(Some),
            _ => None,
        };
        let device = match text {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "reference" => Some(Self::Reference),
            _ => match text.strip_prefix("reference:") {
                Some(name) => gpu(name).map(Self::ReferenceWgpu),
                None => gpu(text).map(Self::Wgpu),
            },
        };
        device.ok_or_else(|| format!("{text:?} is not a device, expected {}", Self::EXPECTED))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Reference => f.write_str("reference"),
            Self::Wgpu(None) => f.write_str("wgpu"),
            Self::Wgpu(Some(index)) => write!(f, "wgpu:{index}"),
            Self::ReferenceWgpu(None) => f.write_str("reference:wgpu"),
            Self::ReferenceWgpu(Some(index)) => write!(f, "reference:wgpu:{index}"),
        }
    }
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

impl HasKind for Device {
    const KIND: Kind = Kind::Choice(|text| text.parse::<Self>().is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_and_written_the_same() {
        for text in
            ["auto", "cpu", "wgpu", "wgpu:3", "reference", "reference:wgpu", "reference:wgpu:1"]
        {
            assert_eq!(text.parse::<Device>().unwrap().to_string(), text);
        }
        for text in ["", "gpu", "cpu:1", "wgpu:", "wgpu:x", "reference:", "reference:cpu"] {
            assert!(text.parse::<Device>().is_err(), "{text}");
        }
    }

    #[test]
    fn words_are_the_same_in_files_and_on_the_command_line() {
        for isa in Isa::value_variants() {
            assert_eq!(serde_json::to_value(isa).unwrap(), isa.to_string());
        }
        for device in [Device::Auto, Device::ReferenceWgpu(Some(2))] {
            assert_eq!(serde_json::to_value(device).unwrap(), device.to_string());
        }
    }
}
