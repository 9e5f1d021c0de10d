//! The table, a row as soon as it is known.

use std::fmt;

/// Prints rows.
pub struct Table {
    words: Vec<String>,
    over: usize,
}

/// What a figure must not exceed, in its own unit.
#[derive(Clone, Copy)]
pub enum Limit {
    AtMost(f64),
    /// It is there to be looked at.
    None,
}

/// One figure.
pub struct Row<'a> {
    pub name: &'a str,
    pub unit: &'a str,
    /// What the Go program takes.
    pub go: Option<f64>,
    pub limit: Limit,
    pub ours: f64,
}

impl Table {
    /// Rows whose name holds one of the words; all where there are none.
    pub fn begin(words: Vec<String>) -> Self {
        println!("{:<58} {:>9} {:>9} {:>9}  unit", "figure", "Go", "limit", "ours");
        Self { words, over: 0 }
    }

    /// Whether a figure of that name is wanted.
    pub fn wants(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word.as_str()))
    }

    /// Prints a row.
    pub fn row(&mut self, row: &Row<'_>) {
        let limit = match row.limit {
            Limit::AtMost(limit) => Some(limit),
            Limit::None => None,
        };
        let over = limit.is_some_and(|limit| row.ours > limit);
        self.over += usize::from(over);
        let verdict = if over { "  OVER" } else { "" };
        println!(
            "{:<58} {:>9} {:>9} {:>9}  {}{verdict}",
            row.name,
            Figure(row.go),
            Figure(limit),
            Figure(Some(row.ours)),
            row.unit
        );
    }

    /// Says how many are over their limit.
    pub fn end(self) {
        match self.over {
            0 => println!("every figure is within its limit"),
            over => println!("{over} over their limits"),
        }
    }
}

/// A number with as many decimals as mean something.
struct Figure(Option<f64>);

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            None => "-".to_owned(),
            Some(number) if number.abs() >= 100.0 => format!("{number:.0}"),
            Some(number) if number.abs() >= 10.0 => format!("{number:.1}"),
            Some(number) => format!("{number:.2}"),
        };
        f.pad(&text)
    }
}
