//! BENCHMARKS.md: parts that commands write, each between two marks of its own; the rest stays as it is.

use anyhow::{Context, Result};
use std::path::Path;

fn marks(part: &str) -> (String, String) {
    (format!("<!-- {part}: begin -->\n"), format!("<!-- {part}: end -->\n"))
}

/// `file` with `text` as its part of this name, at its end if it has none yet.
fn with(file: &str, part: &str, text: &str) -> String {
    let (begin, end) = marks(part);
    let text = format!("{begin}{}\n{end}", text.trim_end());
    match (file.find(&begin), file.find(&end)) {
        (Some(from), Some(to)) if from < to => format!("{}{text}{}", &file[..from], &file[to + end.len()..]),
        _ if file.is_empty() => text,
        _ => format!("{}\n\n{text}", file.trim_end()),
    }
}

/// Writes one part of `file`.
///
/// # Errors
/// Reading or writing it.
pub fn put(file: &Path, part: &str, text: &str) -> Result<()> {
    let before = match std::fs::read_to_string(file) {
        Ok(before) => before,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
    };
    std::fs::write(file, with(&before, part, text)).with_context(|| format!("writing {}", file.display()))?;
    println!("written: {}", file.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_replaced_alone() {
        let first = with("", "one", "1\n");
        assert_eq!(first, "<!-- one: begin -->\n1\n<!-- one: end -->\n");
        let both = with(&first, "two", "2");
        assert_eq!(both, format!("{first}\n<!-- two: begin -->\n2\n<!-- two: end -->\n"));
        assert_eq!(with(&both, "one", "new\n\n"), both.replace("\n1\n", "\nnew\n"));
        assert_eq!(with(&both, "two", "new"), both.replace("\n2\n", "\nnew\n"));
    }
}
