//! Which device runs the model, and why that one.

use crate::error::LoadError;
use burn::backend::{CubeDevice, DispatchDevice, WgpuDeviceKind};
use burn::tensor::{Device, DeviceType};
use burn_wgpu::WgpuDevice;
use std::fmt;
use std::str::FromStr;

/// The device that configuration asks for: `auto`, `cpu`, `wgpu` or `wgpu:N`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// A real GPU where there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A graphics adapter, software adapters included: the given one, or the best.
    Wgpu(Option<usize>),
}

/// A text that names no device.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("device {text:?} is not auto, cpu, wgpu or wgpu:N")]
pub struct ParseDeviceError {
    text: String,
}

impl FromStr for DeviceChoice {
    type Err = ParseDeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "wgpu" => Ok(Self::Wgpu(None)),
            _ => match text.strip_prefix("wgpu:").and_then(|index| index.parse().ok()) {
                Some(index) => Ok(Self::Wgpu(Some(index))),
                None => Err(ParseDeviceError { text: text.to_owned() }),
            },
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Cpu => formatter.write_str("cpu"),
            Self::Wgpu(None) => formatter.write_str("wgpu"),
            Self::Wgpu(Some(index)) => write!(formatter, "wgpu:{index}"),
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

/// Where tensors live, and which of the two kinds that is.
pub(crate) struct Placement {
    pub(crate) device: Device,
    pub(crate) is_cpu: bool,
    pub(crate) resolved: ResolvedDevice,
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
            Self::Wgpu(wanted) => {
                let adapters = adapters();
                let missing =
                    |reason: String| LoadError::Device { wanted: self.to_string(), reason };
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
    }
}

fn list(adapters: &[Adapter]) -> String {
    let names: Vec<String> =
        adapters.iter().enumerate().map(|(index, a)| format!("wgpu:{index} {}", a.kind)).collect();
    names.join(", ")
}

fn cpu(reason: &str) -> Placement {
    let resolved = ResolvedDevice { name: "cpu".into(), reason: reason.into() };
    Placement { device: Device::flex(), is_cpu: true, resolved }
}

/// Opens the adapter to learn its name.
fn gpu(mut adapters: Vec<Adapter>, index: usize, reason: &str) -> Placement {
    let Adapter { device, kind, .. } = adapters.swap_remove(index);
    let title = device.identity().map_or(kind, |identity| identity.name);
    let name = format!("wgpu:{index} {title}");
    let resolved = ResolvedDevice { name, reason: reason.into() };
    Placement { device, is_cpu: false, resolved }
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
