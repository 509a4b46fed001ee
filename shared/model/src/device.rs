//! The choice of the device that runs the model, with its reason.

#[cfg(feature = "wgpu")]
pub(crate) mod adapters;

use crate::error::LoadError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The device that configuration asks for: `auto`, `cpu`, `wgpu` or `wgpu:N`; and, to compare with,
/// `reference`, `reference:wgpu` or `reference:wgpu:N`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// A real GPU where there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A graphics adapter, software adapters included: the given one, or the best.
    Wgpu(Option<usize>),
    /// Stock operations in single precision on the CPU.
    Reference,
    /// Stock operations in single precision on a graphics adapter, as in [`Self::Wgpu`].
    ReferenceWgpu(Option<usize>),
}

/// A text that names no device.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("device {text:?} is not auto, cpu, wgpu, wgpu:N, reference or reference:wgpu")]
pub struct ParseDeviceError {
    text: String,
}

impl FromStr for DeviceChoice {
    type Err = ParseDeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wgpu = |text: &str| match text {
            "wgpu" => Some(None),
            _ => text.strip_prefix("wgpu:")?.parse().ok().map(Some),
        };
        let choice = match text {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "reference" => Some(Self::Reference),
            _ => match text.strip_prefix("reference:") {
                Some(device) => wgpu(device).map(Self::ReferenceWgpu),
                None => wgpu(text).map(Self::Wgpu),
            },
        };
        choice.ok_or_else(|| ParseDeviceError { text: text.to_owned() })
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Cpu => formatter.write_str("cpu"),
            Self::Wgpu(None) => formatter.write_str("wgpu"),
            Self::Wgpu(Some(index)) => write!(formatter, "wgpu:{index}"),
            Self::Reference => formatter.write_str("reference"),
            Self::ReferenceWgpu(None) => formatter.write_str("reference:wgpu"),
            Self::ReferenceWgpu(Some(index)) => write!(formatter, "reference:wgpu:{index}"),
        }
    }
}

/// The device in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedDevice {
    /// Name, e.g. `cpu int16` or `wgpu:0 NVIDIA L4 (Vulkan)`.
    pub name: String,
    /// Reason why it was taken.
    pub reason: String,
}

/// The device of the model, with the operations that compute it.
pub(crate) enum Target {
    /// The `kernels` crate.
    Cpu,
    /// Stock Burn operations on the CPU.
    #[cfg(feature = "reference")]
    ReferenceCpu,
    /// CubeCL kernels on a graphics adapter.
    #[cfg(feature = "wgpu")]
    Wgpu(burn::tensor::Device),
    /// Stock Burn operations on a graphics adapter.
    #[cfg(all(feature = "reference", feature = "wgpu"))]
    ReferenceWgpu(burn::tensor::Device),
}

/// A target and its description.
pub(crate) struct Placement {
    pub(crate) target: Target,
    pub(crate) resolved: ResolvedDevice,
}

impl DeviceChoice {
    /// Returns the device this choice leads to on this machine, without loading anything.
    pub fn resolve(&self) -> Result<ResolvedDevice, LoadError> {
        self.place().map(|placement| placement.resolved)
    }

    pub(crate) fn place(&self) -> Result<Placement, LoadError> {
        match self {
            Self::Cpu => Ok(cpu("configured".into())),
            Self::Auto => Ok(auto()),
            Self::Wgpu(index) => self.adapter(*index),
            Self::Reference => self.reference_cpu(),
            Self::ReferenceWgpu(index) => self.reference_adapter(*index),
        }
    }

    #[cfg(feature = "wgpu")]
    fn adapter(&self, index: Option<usize>) -> Result<Placement, LoadError> {
        let (device, resolved) = adapters::open(index).map_err(|reason| self.missing(reason))?;
        Ok(Placement { target: Target::Wgpu(device), resolved })
    }

    #[cfg(not(feature = "wgpu"))]
    fn adapter(&self, _index: Option<usize>) -> Result<Placement, LoadError> {
        Err(self.missing(NO_WGPU.into()))
    }

    #[cfg(feature = "reference")]
    fn reference_cpu(&self) -> Result<Placement, LoadError> {
        let resolved = ResolvedDevice { name: "reference cpu".into(), reason: "configured".into() };
        Ok(Placement { target: Target::ReferenceCpu, resolved })
    }

    #[cfg(not(feature = "reference"))]
    fn reference_cpu(&self) -> Result<Placement, LoadError> {
        Err(self.missing(NO_REFERENCE.into()))
    }

    #[cfg(all(feature = "reference", feature = "wgpu"))]
    fn reference_adapter(&self, index: Option<usize>) -> Result<Placement, LoadError> {
        let (device, mut resolved) =
            adapters::open(index).map_err(|reason| self.missing(reason))?;
        resolved.name.insert_str(0, "reference ");
        Ok(Placement { target: Target::ReferenceWgpu(device), resolved })
    }

    #[cfg(not(all(feature = "reference", feature = "wgpu")))]
    fn reference_adapter(&self, _index: Option<usize>) -> Result<Placement, LoadError> {
        #[cfg(feature = "wgpu")]
        return Err(self.missing(NO_REFERENCE.into()));
        #[cfg(not(feature = "wgpu"))]
        Err(self.missing(NO_WGPU.into()))
    }

    fn missing(&self, reason: String) -> LoadError {
        LoadError::Device { wanted: self.to_string(), reason }
    }
}

#[cfg(not(feature = "wgpu"))]
const NO_WGPU: &str = "this program was built without graphics; build it with `--features wgpu`";

#[cfg(not(feature = "reference"))]
const NO_REFERENCE: &str =
    "this program was built without the reference operations; build it with `--features reference`";

fn cpu(reason: String) -> Placement {
    Placement { target: Target::Cpu, resolved: ResolvedDevice { name: "cpu".into(), reason } }
}

/// Takes the first real GPU, else the CPU.
#[cfg(feature = "wgpu")]
fn auto() -> Placement {
    match adapters::first_gpu() {
        Ok((device, resolved)) => Placement { target: Target::Wgpu(device), resolved },
        Err(reason) => cpu(reason),
    }
}

#[cfg(not(feature = "wgpu"))]
fn auto() -> Placement {
    cpu(match unused_graphics() {
        Some(sign) => format!("{sign} is here, but {NO_WGPU}"),
        None => "built without graphics".into(),
    })
}

/// Returns a sign of graphics hardware that this program cannot use because it was built without
/// the feature `wgpu`: a device file of a GPU, or else the Vulkan loader.
pub fn unused_graphics() -> Option<String> {
    if cfg!(feature = "wgpu") {
        return None;
    }
    gpu_file().or_else(vulkan_loader).map(|path| path.display().to_string())
}

fn gpu_file() -> Option<PathBuf> {
    let named = |folder: &str, prefix: &str| {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| {
                path.file_name()
                    .and_then(|name| name.to_str()?.strip_prefix(prefix))
                    .is_some_and(|number| number.parse::<u32>().is_ok())
            })
            .collect();
        files.sort();
        files.into_iter().next()
    };
    named("/dev", "nvidia").or_else(|| named("/dev/dri", "renderD"))
}

fn vulkan_loader() -> Option<PathBuf> {
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"]
        .iter()
        .map(|folder| Path::new(folder).join("libvulkan.so.1"))
        .find(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        for text in
            ["auto", "cpu", "wgpu", "wgpu:3", "reference", "reference:wgpu", "reference:wgpu:1"]
        {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        for text in ["", "CPU", "wgpu:", "wgpu:x", "reference:", "reference:cpu", "reference:1"] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }
}
