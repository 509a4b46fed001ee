//! Gate and up with SiLU between them, and sums into the residual stream.

use crate::oracle::{Wanted, check, double, multiply, norm};
use crate::random::{FORMATS, Random};
use crate::target::{Target, pick};
use model::ops::ServeOps;

const EPS: f32 = 1e-6;

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// The product of two numbers that may be off, the first through SiLU, which is nowhere steeper
/// than 1.1.
fn gated(gate: Wanted, up: Wanted) -> Wanted {
    let activated = silu(gate.value);
    let activated_slack = 1.1 * gate.slack + 2e-6 * activated.abs();
    let slack = activated_slack * (up.value.abs() + up.slack) + activated.abs() * up.slack;
    let value = activated * up.value;
    Wanted { value, slack: slack + 1e-6 * value.abs() }
}

pub(crate) fn gated_products_are_those_of_plain_loops<O: ServeOps>(target: &mut Target<O>) {
    let mut random = Random(21);
    for (index, format) in FORMATS.into_iter().enumerate() {
        let inputs = random.width(format);
        let width = random.between(1, 90);
        // Files mix formats here too.
        let other = FORMATS[(index + random.below(2)) % FORMATS.len()];
        let other = if inputs.is_multiple_of(other.block_values()) { other } else { format };
        let gate = random.matrix(format, width, inputs);
        let up = random.matrix(other, width, inputs);
        let packed = target.ops.linear(&[gate.clone(), up.clone()], None).unwrap();
        let weight = random.values(inputs);
        let vector = target.norm(&weight, EPS);
        let rows = random.between(2, 40);
        let x = random.rows(rows, inputs);
        let product = |target: &mut Target<O>, x: &[f32]| {
            target.begin(x.len() / inputs);
            let buffer = target.filled(inputs, x);
            let mut out = target.ops.buffer();
            target.ops.norm_gate_up(&buffer, &vector, &packed, &mut out);
            target.ops.read(&out)
        };
        let got = product(target, &x);
        assert_eq!(got.len(), rows * width);
        for (row, (x, got)) in x.chunks(inputs).zip(got.chunks(width)).enumerate() {
            let x = norm(&double(x), &weight, EPS);
            let gate = multiply(&x, &gate, None, target.activations);
            let up = multiply(&x, &up, None, target.activations);
            let wanted: Vec<Wanted> = gate.into_iter().zip(up).map(|(g, u)| gated(g, u)).collect();
            check(got, &wanted, &format!("{} {format:?} {other:?} row {row}", target.name));
        }
        for row in [0, rows - 1] {
            let alone = product(target, &pick(&x, inputs, &[row]));
            let together = &got[row * width..][..width];
            target.check_same(&alone, together, &format!("{format:?} row {row} of {rows}"));
        }
    }
}

pub(crate) fn residuals_are_added<O: ServeOps>(target: &mut Target<O>) {
    let mut random = Random(22);
    for format in FORMATS {
        for rows in [1, random.between(2, 70)] {
            let (inputs, width) = (random.width(format), random.between(1, 90));
            let weight = random.matrix(format, width, inputs);
            let packed = target.ops.linear(std::slice::from_ref(&weight), None).unwrap();
            let (x, before) = (random.rows(rows, inputs), random.values(rows * width));
            let sum = |target: &mut Target<O>, x: &[f32], before: &[f32]| {
                target.begin(x.len() / inputs);
                let buffer = target.filled(inputs, x);
                let mut residual = target.filled(width, before);
                target.ops.linear_residual(&buffer, &packed, &mut residual);
                target.ops.read(&residual)
            };
            let got = sum(target, &x, &before);
            for row in 0..rows {
                let products = multiply(
                    &double(&x[row * inputs..][..inputs]),
                    &weight,
                    None,
                    target.activations,
                );
                let wanted: Vec<Wanted> = products
                    .into_iter()
                    .zip(&before[row * width..])
                    .map(|(product, &before)| product.plus(f64::from(before)))
                    .collect();
                let what = format!("{} {format:?} row {row} of {rows}", target.name);
                check(&got[row * width..][..width], &wanted, &what);
            }
            let last = rows - 1;
            let (x, before) = (pick(&x, inputs, &[last]), pick(&before, width, &[last]));
            let alone = sum(target, &x, &before);
            target.check_same(&alone, &got[last * width..], &format!("{format:?} last of {rows}"));
        }
    }
}
