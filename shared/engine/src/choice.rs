//! The device settings as the choices of the model crate, which does not depend on settings.

use chassis::settings::{Activations, Device, Isa};
use model::{ActivationsChoice, DeviceChoice, IsaChoice, Precision};

/// Returns the model's choice for the setting `device`.
pub fn device(setting: Device) -> DeviceChoice {
    match setting {
        Device::Auto => DeviceChoice::Auto,
        Device::Cpu => DeviceChoice::Cpu,
        Device::Wgpu(index) => DeviceChoice::Wgpu(index),
        Device::Reference => DeviceChoice::Reference,
        Device::ReferenceWgpu(index) => DeviceChoice::ReferenceWgpu(index),
    }
}

/// Returns the model's choice for the setting `isa`.
pub(crate) fn isa(setting: Isa) -> IsaChoice {
    match setting {
        Isa::Auto => IsaChoice::Auto,
        Isa::Avx512 => IsaChoice::Only(model::Isa::Avx512),
        Isa::Avx2 => IsaChoice::Only(model::Isa::Avx2),
        Isa::Portable => IsaChoice::Only(model::Isa::Portable),
    }
}

/// Returns the model's choice for the setting `activations`.
pub(crate) fn activations(setting: Activations) -> ActivationsChoice {
    match setting {
        Activations::Auto => ActivationsChoice::Auto,
        Activations::Int8 => ActivationsChoice::Only(Precision::Int8),
        Activations::Int16 => ActivationsChoice::Only(Precision::Int16),
    }
}
