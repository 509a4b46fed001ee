//! Prints how accurate each device is on SmolLM2: `accuracy [device ...]`, all of them by default
//! (`"cpu int16"` is one).
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "an example that reports to its user, and shares what tests use"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use modelfile::ModelFile;
use support::accuracy::{golden_rows, measure, text};
use support::{DEVICES, load};

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let devices = if asked.is_empty() { DEVICES.map(str::to_owned).to_vec() } else { asked };
    let file = ModelFile::open(&testbed::smollm2()).unwrap();
    let text = text(&file);
    let mut reference = load(&file, "reference", 80);
    let rows = golden_rows(&mut reference);
    drop(reference);
    for device in devices {
        let mut model = load(&file, &device, 80);
        println!("{}", measure(&mut model, &rows, &text));
    }
}
