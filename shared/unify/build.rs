//! Nothing is built here: cargo unifies features of build dependencies only where there is a build script.

fn main() {}
