//! The graphics adapters of this machine, as Burn's wgpu runtime lists them.

use super::ResolvedDevice;
use burn::backend::{CubeDevice, DispatchDevice, WgpuDeviceKind};
use burn::tensor::{Device, DeviceType};
use burn_wgpu::WgpuDevice;

/// A graphics adapter that is not opened yet.
struct Adapter {
    device: Device,
    /// Its kind, as the graphics API names it.
    kind: String,
    is_software: bool,
}

/// Opens adapter `index`, or the best one: the first real GPU, else the first adapter. Fails with
/// a list of the adapters found.
pub(super) fn open(index: Option<usize>) -> Result<(Device, ResolvedDevice), String> {
    let adapters = list();
    if adapters.is_empty() {
        return Err("no graphics adapter found".into());
    }
    let best = adapters.iter().position(|adapter| !adapter.is_software).unwrap_or(0);
    let index = index.unwrap_or(best);
    if index >= adapters.len() {
        return Err(format!("the adapters are {}", describe(&adapters)));
    }
    Ok(open_at(adapters, index, "configured"))
}

/// Opens the first real GPU. Fails with the reason why there is none.
pub(super) fn first_gpu() -> Result<(Device, ResolvedDevice), String> {
    let adapters = list();
    match adapters.iter().position(|adapter| !adapter.is_software) {
        Some(index) => Ok(open_at(adapters, index, "the first real GPU")),
        None if adapters.is_empty() => Err("no graphics adapter found".into()),
        None => Err(format!("only software adapters found: {}", describe(&adapters))),
    }
}

/// Opens the adapter, which reveals its name.
fn open_at(mut adapters: Vec<Adapter>, index: usize, reason: &str) -> (Device, ResolvedDevice) {
    let Adapter { device, kind, .. } = adapters.swap_remove(index);
    let title = device.identity().map_or(kind, |identity| identity.name);
    let name = format!("wgpu:{index} {title}");
    (device, ResolvedDevice { name, reason: reason.into() })
}

fn describe(adapters: &[Adapter]) -> String {
    let names: Vec<String> = adapters
        .iter()
        .enumerate()
        .map(|(index, adapter)| format!("wgpu:{index} {}", adapter.kind))
        .collect();
    names.join(", ")
}

/// Lists the adapters of the graphics API that the runtime settles on, real GPUs or not.
fn list() -> Vec<Adapter> {
    Device::enumerate(DeviceType::Wgpu)
        .into_iter()
        .filter_map(|device| {
            let DispatchDevice::Cube(CubeDevice::Wgpu(WgpuDevice { kind, .. })) =
                device.as_dispatch()
            else {
                return None;
            };
            // An adapter that calls itself neither GPU nor CPU may be either; `auto` does not bet on it.
            let is_software = matches!(kind, WgpuDeviceKind::Cpu | WgpuDeviceKind::Other(_));
            Some(Adapter { kind: format!("{kind:?}"), is_software, device })
        })
        .collect()
}
