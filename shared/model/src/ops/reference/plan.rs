//! The inputs of every layer's attention, put onto the device once a step.

use super::groups::{Group, groups};
use super::int_tensor;
use super::kv::Slots;
use crate::ops::Step;
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};

pub(super) struct Plan {
    /// `[rows, 1, head_dim / 2]`
    pub(super) cos: Tensor<3>,
    pub(super) sin: Tensor<3>,
    pub(super) slots: Slots,
    pub(super) groups: Vec<PlannedGroup>,
}

pub(super) struct PlannedGroup {
    pub(super) group: Group,
    pub(super) pages: Tensor<1, Int>,
    /// The latest mask, and the window that it is for.
    mask: Option<(Option<usize>, Tensor<4, Bool>)>,
}

impl Plan {
    pub(super) fn new(step: &Step, frequencies: &[f64], device: &Device) -> Self {
        let (cos, sin) = turns(&step.positions, frequencies, device);
        let places =
            step.spans.iter().flat_map(|span| span.rows.clone().map(|row| step.slot(span, row)));
        let groups = groups(step).into_iter().map(|group| PlannedGroup {
            pages: int_tensor(&group.pages, device),
            group,
            mask: None,
        });
        Self { cos, sin, slots: Slots::new(places.collect()), groups: groups.collect() }
    }
}

impl PlannedGroup {
    /// `[sequences, 1, queries, context]`, true where a query may not look.
    pub(super) fn hidden(&mut self, window: Option<usize>) -> Tensor<4, Bool> {
        if let Some((cached, mask)) = &self.mask
            && *cached == window
        {
            return mask.clone();
        }
        let context = self.group.context();
        let flags: Vec<bool> = self
            .group
            .visible
            .iter()
            .flat_map(|&end| {
                let seen = end.saturating_sub(window.unwrap_or(end))..end;
                (0..context).map(move |token| !seen.contains(&token))
            })
            .collect();
        let shape = [self.group.sequences, 1, self.group.queries, context];
        let mask = Tensor::from_data(TensorData::new(flags, shape), &self.pages.device());
        self.mask.insert((window, mask)).1.clone()
    }
}

/// Cosines and sines of each position, `[rows, 1, head_dim / 2]` each.
fn turns(positions: &[u32], frequencies: &[f64], device: &Device) -> (Tensor<3>, Tensor<3>) {
    let shape = [positions.len(), 1, frequencies.len()];
    let angles = positions
        .iter()
        .flat_map(|&position| frequencies.iter().map(move |f| f64::from(position) * f));
    let (sin, cos): (Vec<f32>, Vec<f32>) =
        angles.map(f64::sin_cos).map(|(sin, cos)| (sin as f32, cos as f32)).unzip();
    let tensor = |values| Tensor::from_data(TensorData::new(values, shape), (device, DType::F32));
    (tensor(cos), tensor(sin))
}
