//! Values as text: the kind of thing on a line of its own with its simple fields, what it consists of below.

use serde_json::Value;
use std::fmt::Write;

/// A value of a dump for people.
pub fn text(value: &Value) -> String {
    let mut out = String::new();
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or("value");
    out.push_str(kind);
    fields(value, 1, &mut out);
    out
}

/// Simple fields behind one another, then the others, each on lines of its own.
fn fields(value: &Value, depth: usize, out: &mut String) {
    let Some(map) = value.as_object() else {
        let _ = writeln!(out, " {}", simple(value));
        return;
    };
    let (plain, nested): (Vec<_>, Vec<_>) = map.iter().filter(|(name, _)| *name != "kind").partition(|(_, value)| is_simple(value));
    // The key of an item says what it is: it comes first.
    let (first, rest): (Vec<_>, Vec<_>) = plain.into_iter().partition(|(name, _)| *name == "key");
    for (_, value) in first {
        let _ = write!(out, " {}:", simple(value));
    }
    for (name, value) in rest {
        let _ = write!(out, " {name}={}", simple(value));
    }
    out.push('\n');
    for (name, value) in nested {
        let _ = write!(out, "{}{name}:", "  ".repeat(depth));
        match value.as_array() {
            Some(list) => {
                out.push('\n');
                for element in list {
                    let _ = write!(out, "{}-", "  ".repeat(depth + 1));
                    fields(element, depth + 2, out);
                }
            }
            None => fields(value, depth + 1, out),
        }
    }
}

fn is_simple(value: &Value) -> bool {
    !value.is_object() && !value.is_array()
}

fn simple(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() || text.contains(|c: char| c.is_control() || c == ' ' || c == '"') => format!("{text:?}"),
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}
