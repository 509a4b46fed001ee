//! The device's client, and buffers on it.

use crate::error::{LoadError, StepError};
use burn::backend::WgpuDeviceKind;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeDevice;
use burn_cubecl::ops::numeric::zeros_client;
use burn_cubecl::tensor::CubeTensor;
use burn_wgpu::WgpuDevice;
use cubecl::bytes::Bytes;
use cubecl::client::Client;
use cubecl::features::Plane;
use cubecl::prelude::{BufferArg, CubeElement};
use cubecl::server::Handle;

/// A connection to a device; Burn's runtime owns what it connects to.
#[derive(Clone)]
pub(super) struct Gpu {
    pub(super) client: Client,
    device: CubeDevice,
}

impl Gpu {
    pub(super) fn new(device: CubeDevice) -> Self {
        Self { client: device.client(), device }
    }

    /// Allocates room for `len` values, without initializing it.
    pub(super) fn empty(&self, len: usize, dtype: DType) -> CubeTensor {
        self.tensor(self.client.empty(len * dtype.size()), len, dtype)
    }

    /// Copies words to the device; where there are none, the buffer still has one.
    pub(super) fn words(&self, words: &[u32]) -> CubeTensor {
        let words = if words.is_empty() { &[0] } else { words };
        let handle = self.client.create_from_slice(u32::as_bytes(words));
        self.tensor(handle, words.len(), DType::U32)
    }

    /// Copies singles to the device; where there are none, the buffer still has one.
    pub(super) fn singles(&self, values: &[f32]) -> CubeTensor {
        let values = if values.is_empty() { &[0.0] } else { values };
        let handle = self.client.create_from_slice(f32::as_bytes(values));
        self.tensor(handle, values.len(), DType::F32)
    }

    /// Allocates `len` words of zero.
    pub(super) fn zeros(&self, len: usize) -> CubeTensor {
        let (client, device) = (self.client.clone(), self.device.clone());
        zeros_client(client, device, Shape::new([len]), DType::U32)
    }

    fn tensor(&self, handle: Handle, len: usize, dtype: DType) -> CubeTensor {
        let (client, device) = (self.client.clone(), self.device.clone());
        CubeTensor::new_contiguous(client, device, Shape::new([len]), handle, dtype)
    }

    /// Refuses what the adapter cannot bind as one buffer.
    pub(super) fn check_size(&self, bytes: usize, what: &str) -> Result<(), LoadError> {
        let most = self.client.properties().memory.max_page_size;
        if bytes as u64 <= most {
            return Ok(());
        }
        let reason = format!("a {what} takes {bytes} bytes, the adapter binds {most} at once");
        Err(LoadError::Device { wanted: format!("{:?}", self.device), reason })
    }

    /// Returns true if the adapter is a program on the CPU, or does not state its kind.
    pub(super) fn is_software(&self) -> bool {
        let kind = match &self.device {
            CubeDevice::Wgpu(WgpuDevice { kind, .. }) => kind,
            _ => return false,
        };
        matches!(kind, WgpuDeviceKind::Cpu | WgpuDeviceKind::Other(_))
    }

    /// Returns true if the units of a cube form planes of at least four that can find a maximum
    /// together.
    pub(super) fn has_planes(&self) -> bool {
        let properties = self.client.properties();
        properties.features.plane.contains(Plane::Ops) && properties.hardware.plane_size_min >= 4
    }

    /// Overwrites a buffer behind everything queued.
    pub(super) fn write(&self, buffer: &Handle, bytes: &[u8]) {
        self.client.write(buffer, Bytes::from_bytes_vec(bytes.to_vec()));
    }

    /// Waits for everything queued.
    pub(super) fn wait(&self) -> Result<(), StepError> {
        cubecl::future::block_on(self.client.sync()).map_err(device_error)
    }

    /// Waits for everything queued, and copies buffers to the host.
    pub(super) fn read(&self, buffers: Vec<Handle>) -> Result<Vec<Vec<u8>>, StepError> {
        let bytes = self.client.read(buffers).map_err(device_error)?;
        Ok(bytes.into_iter().map(|bytes| bytes.to_vec()).collect())
    }
}

pub(super) fn device_error(error: impl std::fmt::Debug) -> StepError {
    StepError::Device { reason: format!("{error:?}") }
}

pub(super) fn singles(bytes: &[u8]) -> Vec<f32> {
    let (singles, _) = bytes.as_chunks::<4>();
    singles.iter().copied().map(f32::from_le_bytes).collect()
}

/// Turns a tensor into a kernel's argument.
pub(super) fn arg(tensor: &CubeTensor) -> BufferArg {
    tensor.clone().into_buffer_arg()
}
