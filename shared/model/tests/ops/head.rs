//! Logits, whole or the most likely of them.

use crate::oracle::{check, double, multiply, norm};
use crate::random::{FORMATS, Random};
use crate::target::{Target, plain_step, some_of};
use model::ops::{HeadRow, Norm, ServeOps};
use model::{Candidate, RowOutput, StepOutput};
use modelfile::{DType, TensorData};
use testbed::Extent;

const EPS: f32 = 1e-5;

/// The result of the head for a wanted row.
#[derive(Debug, PartialEq)]
enum Found {
    Whole(Vec<f32>),
    Top(Vec<Candidate>),
}

struct Head<O: ServeOps> {
    weight: O::Linear,
    norm: Norm<O::Vector>,
    vocab: usize,
}

impl<O: ServeOps> Head<O> {
    fn compute(
        &self,
        target: &mut Target<O>,
        x: &[f32],
        width: usize,
        wanted: &[HeadRow],
    ) -> Vec<Found> {
        let mut step = plain_step(&vec![0; x.len() / width]);
        step.wanted = wanted.to_vec();
        target.ops.begin(&step, &[1.0]).unwrap();
        let buffer = target.filled(width, x);
        let mut out = StepOutput::default();
        out.clear(self.vocab);
        target.ops.head(&step, &buffer, &self.norm, &self.weight, &mut out).unwrap();
        out.rows()
            .map(|row| match row {
                RowOutput::Whole(logits) => Found::Whole(logits.to_vec()),
                RowOutput::Top(candidates) => Found::Top(candidates.to_vec()),
            })
            .collect()
    }

    fn whole(&self, target: &mut Target<O>, x: &[f32], width: usize) -> Vec<Vec<f32>> {
        let wanted: Vec<HeadRow> =
            (0..x.len() / width).map(|row| HeadRow { row, top: 0 }).collect();
        self.compute(target, x, width, &wanted)
            .into_iter()
            .map(|found| match found {
                Found::Whole(logits) => logits,
                Found::Top(_) => panic!("whole rows were wanted"),
            })
            .collect()
    }
}

/// The most likely of a row: falling, ties by id.
fn best(logits: &[f32], count: usize) -> Vec<Candidate> {
    let mut all: Vec<Candidate> = (0..).zip(logits.iter().copied()).collect();
    all.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
    all.truncate(count);
    all
}

pub(crate) fn the_most_likely_tokens_are_found<O: ServeOps>(target: &mut Target<O>) {
    let mut random = Random(41);
    for format in FORMATS {
        let (width, vocab) = (random.width(format), random.between(150, 5000));
        let table = random.matrix(format, vocab, width);
        let gain = random.values(width);
        let head = Head {
            weight: target.ops.linear(std::slice::from_ref(&table), None).unwrap(),
            norm: target.norm(&gain, EPS),
            vocab,
        };
        let rows = random.between(2, Extent::from_env().pick(12, 40));
        let x = random.rows(rows, width);
        let whole = head.whole(target, &x, width);
        for (row, (x, logits)) in x.chunks(width).zip(&whole).enumerate() {
            let x = norm(&double(x), &gain, EPS);
            let wanted = multiply(&x, &table, None, target.activations);
            check(logits, &wanted, &format!("{} {format:?} row {row}", target.name));
        }
        for _ in 0..3 {
            let tops = [0, 1, 1, 5, 64, 65, 128, vocab + 3];
            let wanted: Vec<HeadRow> = some_of(&mut random, rows)
                .into_iter()
                .map(|row| HeadRow { row, top: tops[random.below(tops.len())] })
                .collect();
            let found = head.compute(target, &x, width, &wanted);
            assert_eq!(found.len(), wanted.len());
            for (wanted, found) in wanted.iter().zip(found) {
                let what = format!("{format:?} {wanted:?}");
                check_found(target, &whole[wanted.row], wanted.top, found, &what);
            }
        }
        assert!(head.compute(target, &x, width, &[]).is_empty());
    }
}

fn check_found<O: ServeOps>(
    target: &Target<O>,
    logits: &[f32],
    top: usize,
    found: Found,
    what: &str,
) {
    match found {
        Found::Whole(row) => {
            assert_eq!(top, 0, "{what}");
            target.check_same(logits, &row, what);
        }
        Found::Top(candidates) => {
            let expected = best(logits, top);
            let values = |list: &[Candidate]| list.iter().map(|one| one.1).collect::<Vec<f32>>();
            target.check_same(&values(&expected), &values(&candidates), what);
            if target.is_exact {
                assert_eq!(candidates, expected, "{} {what}", target.name);
            }
        }
    }
}

pub(crate) fn ties_go_to_the_lower_token<O: ServeOps>(target: &mut Target<O>) {
    let mut random = Random(42);
    // Small whole numbers: sums are exact, so that equal rows have equal logits on every device.
    let (width, vocab, kinds) = (64, 3001, 7);
    let row = |random: &mut Random| -> Vec<f32> {
        (0..width).map(|_| random.between(0, 4) as f32 - 2.0).collect()
    };
    let rows: Vec<Vec<f32>> = (0..kinds).map(|_| row(&mut random)).collect();
    let values: Vec<f32> = (0..vocab).flat_map(|token| rows[token % kinds].clone()).collect();
    for format in [DType::F32, DType::F16, DType::Q8_0, DType::Q4_0] {
        let table = TensorData::rounded(format, &[vocab, width], &values);
        let head = Head {
            weight: target.ops.linear(std::slice::from_ref(&table), None).unwrap(),
            norm: target.norm(&vec![1.0; width], 0.0),
            vocab,
        };
        let signs: Vec<f32> = (0..width).map(|_| if random.coin() { 1.0 } else { -1.0 }).collect();
        let x = [signs, vec![1.0; width]].concat();
        let whole = head.whole(target, &x, width);
        for top in [1, 8, 60, 64, 1000] {
            let wanted = [HeadRow { row: 0, top }, HeadRow { row: 1, top }];
            for (row, found) in head.compute(target, &x, width, &wanted).into_iter().enumerate() {
                let expected = best(&whole[row], top);
                assert_eq!(found, Found::Top(expected.clone()), "{} {format:?}", target.name);
                // The most likely kind occurs some 428 times: its first tokens, in their order.
                let same = expected.iter().take_while(|one| one.1 == expected[0].1).count();
                assert!(same >= top.min(428), "{} {format:?}: {same} ties", target.name);
            }
        }
    }
    nothing_to_choose(target);
}

/// All logits are zero: the first tokens win.
fn nothing_to_choose<O: ServeOps>(target: &mut Target<O>) {
    let (width, vocab) = (32, 300);
    let table = TensorData::rounded(DType::Q8_0, &[vocab, width], &vec![0.0; vocab * width]);
    let head = Head {
        weight: target.ops.linear(&[table], None).unwrap(),
        norm: target.norm(&vec![1.0; width], EPS),
        vocab,
    };
    let found = head.compute(target, &vec![0.0; width], width, &[HeadRow { row: 0, top: 5 }]);
    let expected = (0..5).map(|token| (token, 0.0)).collect();
    assert_eq!(found, [Found::Top(expected)], "{}", target.name);
}
