//! Which device runs the model, and why that one.

use crate::error::LoadError;
use burn::backend::{CubeDevice, DispatchDevice, WgpuDeviceKind};
use burn::tensor::{Device, DeviceType};
use burn_wgpu::WgpuDevice;
use std::fmt;
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
    /// What it is called, e.g. `cpu` or `wgpu:0 NVIDIA L4 (Vulkan)`.
    pub name: String,
    /// Why it was taken.
    pub reason: String,
}

/// Whose operations compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operations {
    Reference,
    Cpu,
    Wgpu,
}

/// Where the model lives, and whose operations compute it.
pub(crate) struct Placement {
    pub(crate) device: Device,
    pub(crate) operations: Operations,
    pub(crate) resolved: ResolvedDevice,
}

/// Whether a device is the CPU.
pub(crate) fn is_cpu(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_))
}

/// A graphics adapter that is not opened yet.
struct Adapter {
    device: Device,
    /// What the graphics API says it is.
    kind: String,
    is_software: bool,
}

impl DeviceChoice {
    /// The device this choice leads to on this machine, without loading anything.
    pub fn resolve(&self) -> Result<ResolvedDevice, LoadError> {
        self.place().map(|placement| placement.resolved)
    }

    pub(crate) fn place(&self) -> Result<Placement, LoadError> {
        match self {
            Self::Cpu => Ok(cpu("configured")),
            Self::Auto => {
                let adapters = adapters();
                match adapters.iter().position(|adapter| !adapter.is_software) {
                    Some(index) => Ok(gpu(adapters, index, "the first real GPU")),
                    None if adapters.is_empty() => Ok(cpu("no graphics adapter found")),
                    None => Ok(cpu(&format!("only software adapters found: {}", list(&adapters)))),
                }
            }
            Self::Wgpu(wanted) => self.adapter(*wanted),
            Self::Reference => Ok(reference(cpu("configured"))),
            Self::ReferenceWgpu(wanted) => self.adapter(*wanted).map(reference),
        }
    }

    fn adapter(&self, wanted: Option<usize>) -> Result<Placement, LoadError> {
        let adapters = adapters();
        let missing = |reason: String| LoadError::Device { wanted: self.to_string(), reason };
        if adapters.is_empty() {
            return Err(missing("no graphics adapter found".into()));
        }
        let best = adapters.iter().position(|adapter| !adapter.is_software).unwrap_or(0);
        let index = wanted.unwrap_or(best);
        if index >= adapters.len() {
            return Err(missing(format!("the adapters are {}", list(&adapters))));
        }
        Ok(gpu(adapters, index, "configured"))
    }
}

fn reference(mut placement: Placement) -> Placement {
    placement.operations = Operations::Reference;
    placement.resolved.name.insert_str(0, "reference ");
    placement
}

fn list(adapters: &[Adapter]) -> String {
    let names: Vec<String> =
        adapters.iter().enumerate().map(|(index, a)| format!("wgpu:{index} {}", a.kind)).collect();
    names.join(", ")
}

fn cpu(reason: &str) -> Placement {
    let resolved = ResolvedDevice { name: "cpu".into(), reason: reason.into() };
    Placement { device: Device::flex(), operations: Operations::Cpu, resolved }
}

/// Opens the adapter to learn its name.
fn gpu(mut adapters: Vec<Adapter>, index: usize, reason: &str) -> Placement {
    let Adapter { device, kind, .. } = adapters.swap_remove(index);
    let title = device.identity().map_or(kind, |identity| identity.name);
    let name = format!("wgpu:{index} {title}");
    let resolved = ResolvedDevice { name, reason: reason.into() };
    Placement { device, operations: Operations::Wgpu, resolved }
}

/// The adapters of the graphics API that the runtime settles on, real GPUs or not.
fn adapters() -> Vec<Adapter> {
    Device::enumerate(DeviceType::Wgpu)
        .into_iter()
        .filter_map(|device| {
            let DispatchDevice::Cube(CubeDevice::Wgpu(WgpuDevice { kind, .. })) =
                device.as_dispatch()
            else {
                return None;
            };
            // What names itself neither GPU nor CPU may be either; `auto` does not bet on it.
            let is_software = matches!(kind, WgpuDeviceKind::Cpu | WgpuDeviceKind::Other(_));
            Some(Adapter { kind: format!("{kind:?}"), is_software, device })
        })
        .collect()
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
