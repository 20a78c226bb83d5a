//! A source tree that is made up, packed once, and a small program that cargo builds.

use super::loads::cool;
use crate::loops::{call, search_path, word};
use anyhow::{Context, Result, ensure};
use harness::content::Dice;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(600);
/// Files in a directory of the tree.
const IN_EACH: usize = 20;
/// Bytes of its smallest file; each doubling up to 64 KiB is as likely as the next, as in trees of real sources about.
const SMALLEST: u64 = 256;
/// Modules of the program, and functions in each.
const MODULES: usize = 40;
const FUNCTIONS: usize = 60;

/// Packed.
pub struct Tree {
    archive: PathBuf,
    files: usize,
    bytes: u64,
}

impl Tree {
    /// Makes one of so many files below `scratch`.
    ///
    /// # Errors
    /// Writing there; tar is missing.
    pub fn new(scratch: &Path, files: usize) -> Result<Tree> {
        let top = scratch.join("tree");
        let mut dice = Dice::new(7);
        let mut bytes = 0;
        for n in 0..files {
            let directory = top.join(format!("part-{}/module-{}", n / IN_EACH / 12, n / IN_EACH));
            if n % IN_EACH == 0 {
                std::fs::create_dir_all(&directory)?;
            }
            let size = (SMALLEST << dice.below(8)) + dice.below(SMALLEST);
            let line = format!("let value_{n} = the_function_of_module({n}, \"words of a source\");\n");
            let text: String = line.chars().cycle().take(size as usize).collect();
            std::fs::write(directory.join(format!("source_{n}.rs")), text)?;
            bytes += size;
        }
        let archive = scratch.join("tree.tar");
        call("tar", &["-cf", word(&archive)?, "-C", word(scratch)?, "tree"])?;
        std::fs::remove_dir_all(&top)?;
        Ok(Tree { archive, files, bytes })
    }

    /// Files per second: of unpacking, and of walking it cold while all of it is read.
    ///
    /// # Errors
    /// The filesystem's; another number of files or bytes than there should be.
    pub fn unpack_and_walk(&self, root: &Path) -> Result<Vec<f64>> {
        let rate = |started: Instant| self.files as f64 / started.elapsed().as_secs_f64();
        let started = Instant::now();
        call("tar", &["-xf", word(&self.archive)?, "-C", word(root)?])?;
        let unpacked = rate(started);
        cool(root)?;
        let started = Instant::now();
        let (files, bytes) = walk(&root.join("tree"))?;
        let walked = rate(started);
        ensure!((files, bytes) == (self.files, self.bytes), "{files} files of {bytes} bytes instead of {} of {}", self.files, self.bytes);
        Ok(vec![unpacked, walked])
    }

    /// Builds per minute.
    ///
    /// # Errors
    /// cargo's.
    pub fn build(&self, root: &Path) -> Result<f64> {
        let project = root.join("program");
        let sources = project.join("src");
        std::fs::create_dir_all(&sources)?;
        std::fs::write(
            project.join("Cargo.toml"),
            "[package]\nname = \"program\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n",
        )?;
        let mut main = String::new();
        for module in 0..MODULES {
            let mut text = String::new();
            for function in 0..FUNCTIONS {
                let _ = writeln!(
                    text,
                    "pub fn f{function}(x: u64) -> String {{ let mut v: Vec<u64> = (0..x).collect(); v.sort(); format!(\"{{:?}}\", v.iter().map(|n| n * {function}).collect::<Vec<_>>()) }}"
                );
            }
            std::fs::write(sources.join(format!("m{module}.rs")), text)?;
            let _ = writeln!(main, "mod m{module};");
        }
        let calls: String = (0..MODULES)
            .flat_map(|module| (0..FUNCTIONS).map(move |function| format!("println!(\"{{}}\", m{module}::f{function}(3));\n")))
            .collect();
        std::fs::write(sources.join("main.rs"), format!("{main}fn main() {{\n{calls}}}\n"))?;
        let mut command = Command::new("cargo");
        command.env("PATH", search_path()).env_remove("RUSTC_WRAPPER").env("CARGO_TARGET_DIR", project.join("target"));
        command.args(["build", "--offline", "--quiet"]).current_dir(&project);
        let started = Instant::now();
        harness::run(&mut command, LIMIT)?.ok()?;
        Ok(60.0 / started.elapsed().as_secs_f64())
    }
}

/// Files below a directory, and their bytes, every one of which is read.
fn walk(directory: &Path) -> Result<(usize, u64)> {
    let (mut files, mut bytes) = (0, 0);
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let (below, their) = walk(&entry.path())?;
            files += below;
            bytes += their;
        } else {
            let content = std::fs::read(entry.path())?;
            ensure!(entry.metadata()?.len() == content.len() as u64, "{} has another length", entry.path().display());
            files += 1;
            bytes += content.len() as u64;
        }
    }
    Ok((files, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_is_there_again() {
        let (scratch, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let tree = Tree::new(scratch.path(), 45).unwrap();
        call("tar", &["-xf", word(&tree.archive).unwrap(), "-C", word(root.path()).unwrap()]).unwrap();
        assert_eq!(walk(&root.path().join("tree")).unwrap(), (45, tree.bytes));
        std::fs::remove_file(root.path().join("tree/part-0/module-2/source_44.rs")).unwrap();
        assert_eq!(walk(&root.path().join("tree")).unwrap().0, 44);
    }
}
