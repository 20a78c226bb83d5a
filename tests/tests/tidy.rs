//! Keeps the house in order: what reads well today must not creep away tomorrow.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// No file may be longer; the target is 600 lines.
const LONGEST: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Every text file of the project that we wrote: relative path and contents.
fn files() -> Vec<(PathBuf, String)> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), "target" | ".git" | "out" | "golden" | "corpus" | "proptest-regressions") {
                    walk(&path, found);
                }
            } else if !matches!(name.as_str(), "Cargo.lock" | ".git") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &mut found);
    found.sort();
    let relative = |path: &PathBuf| path.strip_prefix(root()).unwrap().to_path_buf();
    found.iter().filter_map(|path| Some((relative(path), std::fs::read_to_string(path).ok()?))).collect()
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut files = files();
    files.retain(|(path, _)| path.extension().is_some_and(|extension| extension == "rs"));
    assert!(files.len() > 20, "the sources were not found");
    files
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs")))
}

fn none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn files_are_of_a_size_that_one_can_read() {
    let long = sources()
        .into_iter()
        .map(|(path, text)| (text.lines().count(), path))
        .filter(|(lines, _)| *lines > LONGEST)
        .map(|(lines, path)| format!("{} has {lines} lines; the target is 600", path.display()));
    none("files over 800 lines", long.collect());
}

#[test]
fn every_file_opens_by_saying_what_it_is() {
    let silent = sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(path, _)| path.display().to_string());
    none("files that do not begin with //!", silent.collect());
}

#[test]
fn no_module_is_named_for_nothing() {
    let nameless = sources().into_iter().filter(|(path, _)| {
        path.components().any(|part| {
            let name = part.as_os_str().to_string_lossy();
            matches!(name.trim_end_matches(".rs"), "utils" | "util" | "common" | "helpers" | "helper" | "misc")
        })
    });
    none("modules named utils, common or helpers", nameless.map(|(path, _)| path.display().to_string()).collect());
}

#[test]
fn nothing_is_left_undone() {
    // Written in two parts, so that this file does not find itself.
    let forbidden = [["todo", "!("].concat(), ["unimplemented", "!("].concat(), ["dbg", "!("].concat()];
    let mut found = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            if forbidden.iter().any(|word| code.contains(word.as_str())) {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    none("unfinished code", found);
}

#[test]
fn no_path_of_somebodys_machine_is_in_the_project() {
    let forbidden = [["/ho", "me/"].concat(), ["/ro", "ot/"].concat(), ["/Us", "ers/"].concat(), ["/wo", "rk/"].concat()];
    let mut found = Vec::new();
    for (path, text) in files() {
        for (number, line) in text.lines().enumerate() {
            if forbidden.iter().any(|word| line.contains(word.as_str())) {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    none("paths of a machine", found);
}

#[test]
fn the_core_can_do_no_input_or_output() {
    let forbidden = [
        "std::time",
        "std::thread",
        "std::fs",
        "std::net",
        "std::process",
        "std::io",
        "unsafe ",
        "ZonedDevice",
        "copy_backend",
        "rustix",
        "io_uring",
        "rand::",
        "getrandom",
        "SystemTime",
        "Instant::now",
    ];
    let mut found = Vec::new();
    for (path, text) in sources().into_iter().filter(|(path, _)| path.starts_with("fs/src/core") && !is_test(path)) {
        for (number, line) in text.lines().enumerate() {
            // What only tests use may be anything.
            if line.trim() == "#[cfg(test)]" {
                break;
            }
            let code = line.split("//").next().unwrap_or("");
            if let Some(word) = forbidden.iter().find(|word| code.contains(*word)) {
                found.push(format!("{}:{}: {word}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    none("the core owns no device, clock, thread or random source, and calls no crate that does", found);
}

#[test]
fn crates_depend_only_downwards() {
    // Each crate and those of ours that it may depend on; an arrow that is not drawn here is not allowed.
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("zns", &[][..]),
        ("copy_backend", &["zns"]),
        ("ferrycopy_capi", &["zns", "copy_backend"]),
        ("gc", &["zns", "copy_backend"]),
        ("fs", &["zns", "copy_backend", "gc"]),
        ("mkfs", &["zns", "copy_backend", "gc", "fs"]),
        ("harness", &[]),
        ("scsi_target", &[]),
        ("guest", &["harness"]),
        ("tests", &["scsi_target", "zns", "copy_backend", "gc", "fs", "mkfs", "harness", "guest"]),
        ("bench", &["zns", "copy_backend", "gc", "fs", "mkfs", "harness"]),
        ("xtask", &["harness", "guest"]),
    ]);
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let ours: BTreeSet<&str> = packages.iter().map(|package| package["name"].as_str().unwrap()).collect();
    let mut found = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let Some(allowed) = allowed.get(name) else {
            found.push(format!("{name} has no place in the order of crates: give it one here"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let on = dependency["name"].as_str().unwrap();
            // What only tests of a crate use does not shape it.
            if ours.contains(on) && !allowed.contains(&on) && dependency["kind"] != "dev" {
                found.push(format!("{name} depends on {on}"));
            }
        }
    }
    none("dependencies that point the wrong way", found);
}

/// `file: test` between backquotes, as SEMANTICS.md names the tests of its statements.
fn named_tests(text: &str) -> Vec<(&str, &str)> {
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let is_file = |file: &str| file.split('/').all(is_name);
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|quoted| quoted.split_once(": "))
        .filter(|(file, test)| is_file(file) && is_name(test))
        .collect()
}

#[test]
fn the_tests_that_semantics_names_exist() {
    let text = std::fs::read_to_string(root().join("SEMANTICS.md")).unwrap();
    let named = named_tests(&text);
    assert!(named.len() > 40, "only {} tests are named", named.len());
    let missing = named.into_iter().filter(|(file, test)| {
        let path = if file.contains('/') { format!("{file}.rs") } else { format!("tests/tests/mount/{file}.rs") };
        // In a module of tests they are indented.
        let lines = |source: String| source.lines().map(str::trim_start).collect::<Vec<_>>().join("\n");
        !std::fs::read_to_string(root().join(path)).is_ok_and(|source| lines(source).contains(&format!("#[test]\nfn {test}()")))
    });
    none("tests that SEMANTICS.md names and nobody has", missing.map(|(file, test)| format!("{file}: {test}")).collect());
}

#[test]
fn every_statement_of_semantics_names_a_test() {
    let text = std::fs::read_to_string(root().join("SEMANTICS.md")).unwrap();
    let statements: Vec<_> = text.split("\n\n").flat_map(|part| part.split("\n* ")).filter(|part| !part.starts_with('#')).collect();
    // The introduction, and what nothing can show: that something does not happen in a crash, or is not told.
    let exempt = ["FerryFS behaves as POSIX", "**Deviation: syncfs(2)", "**Deviation:** statx(2)"];
    let bare = statements.into_iter().filter(|part| !exempt.iter().any(|start| part.starts_with(start)) && named_tests(part).is_empty());
    none("statements without a test", bare.map(|part| part.chars().take(80).collect()).collect());
}
