//! `start-worker check`: every mistake at once.

use crate::cli::{CheckArguments, CheckFormat};
use crate::error::Stage;
use crate::preflight;
use crate::runner_config::{self, Problem, RunnerConfigError, Severity};
use anstyle::{AnsiColor, Style};
use serde_json::json;
use std::io::{self, Write};
use std::path::Path;

/// Checks a runner config. The answer is the exit code.
///
/// # Errors
/// Where the file can't be read; as JSON that is one of the problems.
pub fn check(arguments: &CheckArguments) -> Result<u8, RunnerConfigError> {
    let path = &arguments.runner_config;
    let problems = match (runner_config::load(path), arguments.format) {
        (Ok(mut loaded), _) => {
            let found = preflight::problems(&loaded);
            loaded.problems.extend(found);
            Problem::sort(&mut loaded.problems);
            loaded.problems
        }
        (Err(error), CheckFormat::Json) => {
            vec![Problem::of_file(Severity::Error, crate::error::Chain(&error).to_string())]
        }
        (Err(error), CheckFormat::Text) => return Err(error),
    };
    // A reader that went away is no failure of the check.
    let _ = match arguments.format {
        CheckFormat::Text => print_text(path, &problems),
        CheckFormat::Json => print_json(path, &problems),
    };
    let failed = problems.iter().any(Problem::is_error);
    Ok(if failed { Stage::RunnerConfig.exit_code() } else { 0 })
}

fn count(problems: &[Problem], severity: Severity) -> usize {
    problems.iter().filter(|problem| problem.severity == severity).count()
}

fn print_text(path: &Path, problems: &[Problem]) -> io::Result<()> {
    let mut out = anstream::stderr().lock();
    let bold = Style::new().bold();
    for problem in problems {
        let (word, style) = match problem.severity {
            Severity::Error => ("error", AnsiColor::Red.on_default().bold()),
            Severity::Warning => ("warning", AnsiColor::Yellow.on_default().bold()),
        };
        let place = match (problem.line, problem.column) {
            (Some(line), Some(column)) => format!("{}:{line}:{column}", path.display()),
            (_, _) => path.display().to_string(),
        };
        writeln!(out, "{bold}{place}:{bold:#} {style}{word}:{style:#} {problem}")?;
    }
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let (errors, warnings) = (count(problems, Severity::Error), count(problems, Severity::Warning));
    if errors + warnings == 0 {
        let green = AnsiColor::Green.on_default().bold();
        writeln!(out, "{bold}{}:{bold:#} {green}ok{green:#}", path.display())
    } else {
        writeln!(out, "{}: {}, {}", path.display(), plural(errors, "error"), plural(warnings, "warning"))
    }
}

fn print_json(path: &Path, problems: &[Problem]) -> io::Result<()> {
    let document = json!({
        "file": path.display().to_string(),
        "ok": count(problems, Severity::Error) == 0,
        "problems": problems,
    });
    writeln!(io::stdout().lock(), "{document:#}")
}
