//! What start-worker costs, measured: a row a figure, with its limit and what the Go program takes (`docs/performance.md`
//! says how that was found). Times are of processes as a whole, and the median of several runs counts; on a noisy machine
//! the ratios hold, the times don't. `cargo bench --bench figures [-- WORD …]` prints those whose name holds a word.

mod boot;
mod files;
mod herd;
mod idle;
mod measure;
mod relay;
mod size;
mod table;

use table::Table;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let mut table = Table::begin(words);
    let programs = measure::Programs::build();
    boot::measure(&programs, &mut table);
    relay::measure(&programs, &mut table);
    idle::measure(&programs, &mut table);
    files::measure(&programs, &mut table);
    herd::measure(&programs, &mut table);
    size::measure(&programs, &mut table);
    table.end();
}
