//! Which kernel modules a module needs, from `modules.dep`, in the order in which they are loaded.

use anyhow::{Context, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The modules of one kernel.
#[derive(Debug)]
pub struct ModuleList {
    directory: PathBuf,
    /// By name, with `-` as `_`: its file and those of the modules that it needs, the last one first to be loaded.
    needs: HashMap<String, (String, Vec<String>)>,
}

impl ModuleList {
    /// Reads the list of the kernel whose modules lie in `directory`.
    ///
    /// # Errors
    /// The list cannot be read.
    pub fn read(directory: &Path) -> Result<ModuleList> {
        let path = directory.join("modules.dep");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(ModuleList::parse(directory, &text))
    }

    fn parse(directory: &Path, text: &str) -> ModuleList {
        let needs = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(file, needs)| (name(file), (file.to_owned(), needs.split_whitespace().map(str::to_owned).collect())));
        ModuleList { directory: directory.to_path_buf(), needs: needs.collect() }
    }

    /// The files to load for `modules`, each once, in order. What is built into the kernel is on no list and needs no loading.
    pub fn to_load(&self, modules: &[&str]) -> Vec<PathBuf> {
        let mut files: Vec<&str> = Vec::new();
        for module in modules {
            if let Some((file, needs)) = self.needs.get(&name(module)) {
                for file in needs.iter().rev().chain([file]) {
                    if !files.contains(&file.as_str()) {
                        files.push(file);
                    }
                }
            }
        }
        files.into_iter().map(|file| self.directory.join(file)).collect()
    }
}

/// The name of a module by its file.
fn name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split('.').next().unwrap_or(base).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let text = "kernel/a-b.ko: kernel/c.ko kernel/d.ko\nkernel/c.ko: kernel/d.ko\nkernel/d.ko:\n";
        let list = ModuleList::parse(Path::new("/m"), text);
        let shown: Vec<String> = list.to_load(&["c", "a_b", "built-in"]).iter().map(|path| path.display().to_string()).collect();
        assert_eq!(shown, ["/m/kernel/d.ko", "/m/kernel/c.ko", "/m/kernel/a-b.ko"]);
    }
}
