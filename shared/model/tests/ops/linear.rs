//! Norm and multiplication, and the rows of an embedding.

use crate::oracle::{check, double, multiply, norm};
use crate::random::{FORMATS, Random};
use crate::target::{Target, pick, plain_step, some_of};
use model::ops::ServeOps;
use modelfile::{DType, TensorData};

const EPS: f32 = 1e-5;

/// One to three matrices of any formats that fit the width, and a bias now and then.
fn parts(random: &mut Random, format: DType, inputs: usize) -> (Vec<TensorData>, Option<Vec<f32>>) {
    let mut parts = vec![];
    for index in 0..random.between(1, 3) {
        // Files mix formats within a layer.
        let other = FORMATS[random.below(FORMATS.len())];
        let fits = inputs.is_multiple_of(other.block_values());
        let format = if index > 0 && fits && random.coin() { other } else { format };
        let outputs = random.between(1, 70);
        parts.push(random.matrix(format, outputs, inputs));
    }
    let outputs = parts.iter().map(|part| part.shape[0]).sum();
    let bias = random.coin().then(|| random.values(outputs));
    (parts, bias)
}

pub(crate) fn products_are_those_of_plain_loops<O: ServeOps>(target: &mut Target<O>) {
    let mut random = Random(11);
    for format in FORMATS {
        for rows in [1, random.between(2, 15), random.between(16, 70)] {
            let inputs = random.width(format);
            let (parts, bias) = parts(&mut random, format, inputs);
            let x = random.rows(rows, inputs);
            let weight = random.values(inputs);
            target.begin(rows);
            let packed = target.ops.linear(&parts, bias.as_deref()).unwrap();
            let buffer = target.filled(inputs, &x);
            let vector = target.norm(&weight, EPS);
            let mut out = target.ops.buffer();
            target.ops.norm_linear(&buffer, &vector, &packed, &mut out);
            let got = target.ops.read(&out);
            let outputs: usize = parts.iter().map(|part| part.shape[0]).sum();
            for (row, (x, got)) in x.chunks(inputs).zip(got.chunks(outputs)).enumerate() {
                let x = norm(&double(x), &weight, EPS);
                let mut first = 0;
                for part in &parts {
                    let count = part.shape[0];
                    let bias = bias.as_ref().map(|bias| &bias[first..first + count]);
                    let wanted = multiply(&x, part, bias, target.activations);
                    let what = format!("{} {format:?} row {row} of {rows}", target.name);
                    check(&got[first..first + count], &wanted, &what);
                    first += count;
                }
            }
            assert_eq!(got.len(), rows * outputs);
        }
    }
}

pub(crate) fn rows_of_every_format_are_looked_up<O: ServeOps>(target: &mut Target<O>) {
    let mut random = Random(12);
    for format in FORMATS {
        let (inputs, vocab) = (random.width(format), random.between(20, 100));
        let table = random.matrix(format, vocab, inputs);
        let packed = target.ops.linear(std::slice::from_ref(&table), None).unwrap();
        for rows in [1, random.between(2, 70)] {
            let tokens: Vec<u32> = (0..rows).map(|_| random.below(vocab) as u32).collect();
            let step = plain_step(&tokens);
            target.ops.begin(&step, &[1.0]).unwrap();
            let mut x = target.ops.buffer();
            target.ops.embed(&step, &packed, &mut x);
            let got = target.ops.read(&x);
            assert_eq!(got.len(), rows * inputs);
            for (&token, got) in tokens.iter().zip(got.chunks(inputs)) {
                let wanted = table.row_to_f32(token as usize).unwrap();
                for (got, wanted) in got.iter().zip(wanted) {
                    let off = (got - wanted).abs();
                    // Scales and minima may be multiplied in another order.
                    assert!(off <= 1e-6, "{} {format:?}: {got}, not {wanted}", target.name);
                }
            }
        }
    }
}

pub(crate) fn company_changes_no_product<O: ServeOps>(target: &mut Target<O>) {
    let mut random = Random(13);
    for format in FORMATS {
        let (inputs, rows) = (random.width(format), random.between(17, 70));
        let (parts, bias) = parts(&mut random, format, inputs);
        let outputs: usize = parts.iter().map(|part| part.shape[0]).sum();
        let x = random.rows(rows, inputs);
        let weight = random.values(inputs);
        let packed = target.ops.linear(&parts, bias.as_deref()).unwrap();
        let vector = target.norm(&weight, EPS);
        let product = |target: &mut Target<O>, x: &[f32]| {
            target.begin(x.len() / inputs);
            let buffer = target.filled(inputs, x);
            let mut out = target.ops.buffer();
            target.ops.norm_linear(&buffer, &vector, &packed, &mut out);
            target.ops.read(&out)
        };
        let together = product(target, &x);
        let few = some_of(&mut random, rows);
        for company in [vec![few[0]], few, vec![rows - 1], (3..9).collect()] {
            let alone = product(target, &pick(&x, inputs, &company));
            let what = format!("{format:?} rows {company:?} of {rows}");
            target.check_same(&alone, &pick(&together, outputs, &company), &what);
        }
    }
}
