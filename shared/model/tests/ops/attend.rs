//! Attention over paged contexts: mixed steps, windows, head norms, company.

mod case;
mod plain;

use crate::random::Random;
use crate::target::Target;
use case::{Case, Options, Run};
use model::ops::ServeOps;
use testbed::Extent;

const HEAD_DIMS: [usize; 7] = [8, 16, 20, 34, 64, 80, 128];

pub(crate) fn attention_is_that_of_plain_loops<O: ServeOps>(target: &mut Target<O>) {
    let mut random = Random(31);
    for head_dim in HEAD_DIMS {
        for _ in 0..Extent::from_env().pick(2, 4) {
            let options = Options { head_dim, sequences: random.between(1, 5), context: 200 };
            let case = Case::any(&mut random, options);
            let mut run = Run::new(target, &case);
            let all = case.whole();
            let got = run.step(target, &case, &all);
            plain::check_stored(&mut run, target, &case);
            for (index, (got, wanted)) in got.iter().zip(plain::attend(&run, &case)).enumerate() {
                let what = format!("{} {case} sequence {index}", target.name);
                crate::oracle::check(got, &wanted, &what);
            }
        }
    }
}

pub(crate) fn long_contexts_are_read_to_their_end<O: ServeOps>(target: &mut Target<O>) {
    let mut random = Random(32);
    let chunk = Extent::from_env().pick(4, 42);
    for window in [None, Some(4096), Some(77)] {
        let options = Options { head_dim: 64, sequences: 0, context: 0 };
        let mut case = Case::any(&mut random, options);
        case.window = window;
        for (position, rows) in [(8191, 1), (8150, chunk), (4095, 2)] {
            case.add_sequence(&mut random, position, rows);
        }
        let mut run = Run::new(target, &case);
        let got = run.step(target, &case, &case.whole());
        plain::check_stored(&mut run, target, &case);
        for (index, (got, wanted)) in got.iter().zip(plain::attend(&run, &case)).enumerate() {
            let what = format!("{} {case} sequence {index}", target.name);
            crate::oracle::check(got, &wanted, &what);
        }
    }
}

pub(crate) fn chunks_and_company_change_nothing<O: ServeOps>(target: &mut Target<O>) {
    let mut random = Random(33);
    for round in (0..8).step_by(Extent::from_env().pick(3, 1)) {
        let head_dim = HEAD_DIMS[round % HEAD_DIMS.len()];
        let options = Options { head_dim, sequences: random.between(2, 5), context: 700 };
        let case = Case::any(&mut random, options);
        let mut whole = Run::new(target, &case);
        let expected = whole.step(target, &case, &case.whole());
        for schedule in [Case::one_by_one, Case::alone, Case::any_schedule] {
            let mut run = Run::new(target, &case);
            let mut got = vec![Vec::new(); case.sequences.len()];
            for pieces in schedule(&case, &mut random) {
                let outputs = run.step(target, &case, &pieces);
                for (piece, output) in pieces.iter().zip(outputs) {
                    got[piece.sequence].extend(output);
                }
            }
            for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
                target.check_same(expected, got, &format!("{case} sequence {index}"));
            }
            if target.is_exact {
                let same = run.export_all(target) == whole.export_all(target);
                assert!(same, "{} {case}: other pages", target.name);
            }
        }
    }
}
