//! Medians and plain tables, for all measurements.

use comfy_table::{Cell, CellAlignment, Table, presets};
use traces::quantile::quantile;

/// Returns the figures in ascending order.
pub(super) fn sorted(mut figures: Vec<f64>) -> Vec<f64> {
    figures.sort_unstable_by(f64::total_cmp);
    figures
}

/// Returns the median, or NaN for no figures.
pub(super) fn median(figures: Vec<f64>) -> f64 {
    quantile(&sorted(figures), 0.5).unwrap_or(f64::NAN)
}

/// Returns a table without borders, with names to the left and figures to the right.
pub(super) fn plain<C: Into<Cell>>(header: impl IntoIterator<Item = C>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.into_iter().collect::<Vec<C>>());
    table.column_iter_mut().skip(1).for_each(|column| {
        column.set_cell_alignment(CellAlignment::Right);
    });
    table
}

/// Renders a table without spaces at the ends of its lines.
pub(super) fn render(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_between_the_middle_figures() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(vec![40.0, 9.0, 50.0]), 40.0);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn figures_stand_to_the_right_of_names() {
        let mut table = plain(["way", "ms"]);
        table.add_row(["a long name", "94.4"]);
        assert_eq!(render(&table), " way            ms\n a long name  94.4");
    }
}
