//! Tables and lines of text for people.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};

/// Appends a line to a string, which cannot fail.
#[macro_export]
macro_rules! line {
    ($out:expr, $($arg:tt)*) => {{
        let _ = writeln!($out, $($arg)*);
    }};
}
pub use line;

/// Creates a table whose first `names` columns are aligned left and all others, figures, right.
pub fn table<T: Into<comfy_table::Row>>(header: T, names: usize) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(header);
    for column in table.column_iter_mut().skip(names) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
