//! One suite of tests for every implementation of the fused operations, against plain loops in
//! double precision: random shapes, every format, any company.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what helps a test may fail like a test"
)]

mod attend;
mod gate;
mod head;
mod kv;
mod linear;
mod oracle;
mod random;
mod target;

use kernels::Isa;
use model::Precision;
use model::ops::cpu::CpuOps;
use model::ops::reference::ReferenceOps;
#[cfg(feature = "wgpu")]
use model::ops::wgpu::WgpuOps;
use target::{Activations, Target};

testbed::suite!();

/// The whole suite for one implementation, given how to open it.
macro_rules! suite {
    ($name:ident, $open:expr) => {
        mod $name {
            use super::*;

            suite!(@each $open, linear: products_are_those_of_plain_loops);
            suite!(@each $open, linear: rows_of_every_format_are_looked_up);
            suite!(@each $open, linear: company_changes_no_product);
            suite!(@each $open, gate: gated_products_are_those_of_plain_loops);
            suite!(@each $open, gate: residuals_are_added);
            suite!(@each $open, attend: attention_is_that_of_plain_loops);
            suite!(@each $open, attend: long_contexts_are_read_to_their_end);
            suite!(@each $open, attend: chunks_and_company_change_nothing);
            suite!(@each $open, head: the_most_likely_tokens_are_found);
            suite!(@each $open, head: ties_go_to_the_lower_token);
            suite!(@each $open, kv: pages_leave_and_enter_bit_by_bit);
            suite!(@each $open, kv: keys_and_values_lie_where_the_layout_says);
        }
    };
    (@each $open:expr, $module:ident: $test:ident) => {
        #[testbed::test]
        fn $test() {
            let mut target = $open;
            println!("device: {}", target.name);
            crate::$module::$test(&mut target);
        }
    };
}

suite!(reference_cpu, reference());
#[cfg(feature = "wgpu")]
suite!(reference_wgpu, reference_on_adapter());
suite!(cpu_avx512, kernels(Isa::Avx512, Precision::Int8));
suite!(cpu_avx2, kernels(Isa::Avx2, Precision::Int8));
suite!(cpu_portable, kernels(Isa::Portable, Precision::Int8));
suite!(cpu_avx512_int16, kernels(Isa::Avx512, Precision::Int16));
suite!(cpu_avx2_int16, kernels(Isa::Avx2, Precision::Int16));
suite!(cpu_portable_int16, kernels(Isa::Portable, Precision::Int16));
#[cfg(feature = "wgpu")]
suite!(wgpu, graphics());

fn reference() -> Target<ReferenceOps> {
    let ops = ReferenceOps::on_cpu();
    let name = "reference cpu".into();
    Target { ops, name, activations: Activations::Single, is_exact: true }
}

#[cfg(feature = "wgpu")]
fn reference_on_adapter() -> Target<ReferenceOps> {
    let (device, name) = adapter();
    let name = format!("reference {name}");
    // Stock matrix multiplication on a graphics adapter chooses its order by the number of rows.
    let (ops, is_exact) = (ReferenceOps::on(device), false);
    Target { ops, name, activations: Activations::Single, is_exact }
}

fn kernels(isa: Isa, precision: Precision) -> Target<CpuOps> {
    // No setup gives a machine other instructions: their lack is a skip even where all is required.
    let ops = CpuOps::new(2, isa, precision)
        .unwrap_or_else(|error| testbed::skip(format!("{isa} instructions: {error}")));
    let name = format!("cpu {isa} {precision}");
    let activations = match precision {
        Precision::Int8 => Activations::Int8,
        Precision::Int16 => Activations::Int16,
    };
    Target { ops, name, activations, is_exact: true }
}

#[cfg(feature = "wgpu")]
fn graphics() -> Target<WgpuOps> {
    let (device, name) = adapter();
    let ops = WgpuOps::new(&device).unwrap();
    Target { ops, name, activations: Activations::Single, is_exact: true }
}

#[cfg(feature = "wgpu")]
fn adapter() -> (burn::tensor::Device, String) {
    use burn::tensor::{Device, DeviceType};
    let device = Device::enumerate(DeviceType::Wgpu).into_iter().next().ok_or("no adapter");
    let device = testbed::require("a graphics adapter", device);
    let title = device.identity().map_or_else(|| format!("{device:?}"), |identity| identity.name);
    (device, format!("wgpu {title}"))
}
