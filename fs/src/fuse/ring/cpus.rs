//! Which processors there are: the kernel wants a queue for each that could ever be there.

use std::io;

/// Processors, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cpus {
    /// How many the kernel has queues for; the number of a queue is that of a processor.
    pub(super) possible: usize,
    /// Those that run.
    pub(super) online: Vec<usize>,
}

/// Asks sysfs.
///
/// # Errors
/// No such answer there.
pub(super) fn cpus() -> io::Result<Cpus> {
    let list = |name: &str| {
        let text = std::fs::read_to_string(format!("/sys/devices/system/cpu/{name}"))?;
        numbers(text.trim()).ok_or_else(|| io::Error::other(format!("sysfs has {text:?} for the list of processors that are {name}")))
    };
    Ok(Cpus { possible: list("possible")?.len(), online: list("online")? })
}

/// The numbers of a list such as `0-3,6`.
fn numbers(list: &str) -> Option<Vec<usize>> {
    /// More than any kernel is built for.
    const MOST: usize = 1 << 16;
    let mut all = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        if last >= MOST {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_understood() {
        assert_eq!(numbers("0"), Some(vec![0]));
        assert_eq!(numbers("0-2,5"), Some(vec![0, 1, 2, 5]));
        for wrong in ["", "a", "0-", "0-4000000000", "1-x"] {
            assert_eq!(numbers(wrong), None, "{wrong}");
        }
        let here = cpus().unwrap();
        assert!(!here.online.is_empty() && here.possible >= here.online.len());
    }
}
