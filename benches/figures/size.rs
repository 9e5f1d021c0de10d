//! How large the program is.

use crate::measure::Programs;
use crate::table::{Limit, Row, Table};
use std::fs;

pub fn measure(programs: &Programs, table: &mut Table) {
    let name = "size: the program, stripped";
    if table.wants(name) {
        #[expect(clippy::cast_precision_loss, reason = "megabytes")]
        let megabytes = fs::metadata(&programs.start_worker).expect("start-worker").len() as f64 / 1e6;
        table.row(&Row { name, unit: "MB", go: Some(11.8), limit: Limit::AtMost(5.0), ours: megabytes });
    }
}
