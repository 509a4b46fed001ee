//! Least squares in three unknowns, none of them negative.

/// Three numbers.
pub(super) type Vector = [f64; 3];

/// Choices of unknowns that may differ from 0, all of them first.
const FREE: [[bool; 3]; 7] = [
    [true, true, true],
    [true, true, false],
    [true, false, true],
    [false, true, true],
    [true, false, false],
    [false, true, false],
    [false, false, true],
];

pub(super) fn dot(a: &Vector, b: &Vector) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// Returns the `x >= 0` with the least `x·squares·x - 2·products·x`, of every choice of unknowns that
/// are 0 the best. `squares` is symmetric and positive definite.
pub(super) fn non_negative(squares: &[Vector; 3], products: &Vector) -> Vector {
    let mut best = ([0.0; 3], 0.0);
    for free in &FREE {
        let Some(x) = solve(squares, products, free) else { continue };
        if x.iter().any(|part| *part < 0.0) {
            continue;
        }
        // At a stationary point the objective is the negative of this.
        let gain = dot(products, &x);
        if best.1 < gain {
            best = (x, gain);
        }
        if free.iter().all(|free| *free) {
            break;
        }
    }
    best.0
}

/// Solves for the free unknowns by elimination; `None` where they do not determine anything.
fn solve(squares: &[Vector; 3], products: &Vector, free: &[bool; 3]) -> Option<Vector> {
    let mut rows = [[0.0; 4]; 3];
    for (at, row) in rows.iter_mut().enumerate() {
        if !free[at] {
            row[at] = 1.0;
            continue;
        }
        for column in 0..3 {
            row[column] = if free[column] { squares[at][column] } else { 0.0 };
        }
        row[3] = products[at];
    }
    // Positive definite: no pivot needs to be looked for.
    for at in 0..3 {
        let pivot = rows[at][at];
        if !(pivot.is_finite() && pivot > 0.0) {
            return None;
        }
        let row = rows[at].map(|part| part / pivot);
        rows[at] = row;
        for rest in
            rows.iter_mut().enumerate().filter(|(other, _)| *other != at).map(|(_, rest)| rest)
        {
            let share = rest[at];
            for (part, own) in rest.iter_mut().zip(row) {
                *part -= share * own;
            }
        }
    }
    let x = rows.map(|row| row[3]);
    x.iter().all(|part| part.is_finite()).then_some(x)
}
