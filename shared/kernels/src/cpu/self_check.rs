//! A comparison of an instruction set with the portable code, on the machine that is about to use it.
//!
//! Tests run only the instruction sets of the machines that they run on. A processor that computes
//! something else must not serve wrong answers, so it is asked before the first of them.

use super::{Cpu, SetupError};
use crate::format::{Format, PANEL_ROWS};
use crate::isa::{Available, Isa};
use crate::linear::{Linear, Part};
use crate::matrix::Matrix;
use crate::precision::Precision;

const FORMATS: [Format; 5] = [Format::Q4_0, Format::Q4_1, Format::Q8_0, Format::Q4_K, Format::Q6_K];
/// One block of the largest format, twice.
const INPUTS: usize = 512;
/// Two panels, and a part of a third.
const OUTPUTS: usize = 2 * PANEL_ROWS + 5;
/// A whole tile of every instruction set, and one row beside it.
const ROWS: usize = 7;

/// Compares the products of every quantized format, bit by bit.
pub(super) fn check(isa: Available, precision: Precision) -> Result<(), SetupError> {
    let Some(portable) = Available::new(Isa::Portable) else { return Ok(()) };
    if isa == portable {
        return Ok(());
    }
    let mut checked = Cpu::start(1, isa, precision)?;
    let mut reference = Cpu::start(1, portable, precision)?;
    for format in FORMATS {
        if !is_same(&products(&mut checked, format), &products(&mut reference, format)) {
            return Err(SetupError::Wrong { isa: isa.isa(), format });
        }
    }
    Ok(())
}

fn is_same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

fn products(cpu: &mut Cpu, format: Format) -> Vec<f32> {
    let count = OUTPUTS * INPUTS / format.block_values() * format.block_bytes();
    // The mask keeps every half precision number among them finite.
    let bytes: Vec<u8> = numbers().map(|number| number as u8 & 0x3b).take(count).collect();
    let values: Vec<f32> =
        numbers().map(|number| number as f32 / 2_048.0 - 1.0).take(ROWS * INPUTS).collect();
    let part = Part { format, outputs: OUTPUTS, inputs: INPUTS, bytes: &bytes };
    let weight = Linear::pack(&[part], None).expect("the rows are whole blocks");
    let mut x = Matrix::new();
    x.write(INPUTS, &values);
    let mut out = Matrix::new();
    cpu.norm_linear(&x, None, &weight, &mut out);
    out.to_vec()
}

/// Returns numbers of 12 bits without an order: a linear congruence, its upper bits.
fn numbers() -> impl Iterator<Item = u16> {
    std::iter::successors(Some(1_u32), |state| {
        Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223))
    })
    .map(|state| (state >> 20) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_of_this_machine_passes() {
        for isa in Isa::ALL.into_iter().filter_map(Available::new) {
            for precision in [Precision::Int8, Precision::Int16] {
                check(isa, precision).unwrap();
            }
        }
    }

    #[test]
    fn products_differ_from_row_to_row_and_are_finite() {
        let portable = Available::new(Isa::Portable).unwrap();
        let mut cpu = Cpu::start(1, portable, Precision::Int8).unwrap();
        for format in FORMATS {
            let products = products(&mut cpu, format);
            assert!(products.iter().all(|value| value.is_finite()), "{format:?}");
            assert_ne!(products[..OUTPUTS], products[OUTPUTS..2 * OUTPUTS], "{format:?}");
        }
    }

    #[test]
    fn one_bit_is_a_difference() {
        assert!(is_same(&[1.0, 2.0], &[1.0, 2.0]));
        assert!(!is_same(&[1.0, 2.0], &[1.0, f32::from_bits(2.0_f32.to_bits() + 1)]));
    }
}
