//! `ferryfs status --json`, read by the names that the contract gives.

use serde_json::Value;

/// A status report. Numbers are looked up by path, `gc/relocated`, so that a name that is missing is an error that says which.
#[derive(Clone, Debug)]
pub struct Status(pub Value);

impl Status {
    /// Parses the report.
    pub fn parse(text: &str) -> anyhow::Result<Status> {
        serde_json::from_str(text).map(Status).map_err(|error| anyhow::anyhow!("status is not JSON: {error}: {text}"))
    }

    /// Any value.
    pub fn value(&self, path: &str) -> anyhow::Result<&Value> {
        self.0.pointer(&format!("/{path}")).ok_or_else(|| anyhow::anyhow!("status has no `{path}`: {}", self.0))
    }

    /// A number.
    pub fn number(&self, path: &str) -> anyhow::Result<u64> {
        self.value(path)?.as_u64().ok_or_else(|| anyhow::anyhow!("status: `{path}` is not a number: {}", self.0))
    }

    /// A fraction.
    pub fn fraction(&self, path: &str) -> anyhow::Result<f64> {
        self.value(path)?.as_f64().ok_or_else(|| anyhow::anyhow!("status: `{path}` is not a number: {}", self.0))
    }

    /// A text.
    pub fn text(&self, path: &str) -> anyhow::Result<&str> {
        self.value(path)?.as_str().ok_or_else(|| anyhow::anyhow!("status: `{path}` is not a text: {}", self.0))
    }

    /// Whether any device's copies are carried out by our own process: figures from such a volume are simulated.
    pub fn simulated(&self) -> bool {
        self.devices().any(|d| d.get("simulated").and_then(Value::as_bool).unwrap_or(false))
    }

    /// The devices of the volume.
    pub fn devices(&self) -> impl Iterator<Item = &Value> {
        self.0.pointer("/volume/devices").and_then(Value::as_array).into_iter().flatten()
    }

    /// Difference of a counter to an earlier report of the same mount.
    pub fn since(&self, earlier: &Status, path: &str) -> anyhow::Result<u64> {
        let (now, then) = (self.number(path)?, earlier.number(path)?);
        now.checked_sub(then).ok_or_else(|| anyhow::anyhow!("status: counter `{path}` went back from {then} to {now}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_looked_up_and_missing_ones_named() {
        let text = r#"{"gc":{"relocated":5,"write_amplification":1.5},"volume":{"devices":[{"simulated":true}]}}"#;
        let status = Status::parse(text).unwrap();
        assert_eq!(status.number("gc/relocated").unwrap(), 5);
        assert_eq!(status.fraction("gc/write_amplification").unwrap(), 1.5);
        assert!(status.simulated());
        assert!(status.number("gc/offloaded").unwrap_err().to_string().contains("gc/offloaded"));
    }
}
