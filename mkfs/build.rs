//! Gives the built program the name by which mkfs(8) finds it, beside the one that Cargo can build.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let (Some(out), Some(profile)) = (std::env::var_os("OUT_DIR"), std::env::var_os("PROFILE")) else { return };
    // OUT_DIR lies somewhere below target/<profile>, where the programs go.
    let Some(directory) = Path::new(&out).ancestors().find(|directory| directory.file_name() == Some(&profile)) else { return };
    let link = directory.join("mkfs.ferryfs");
    let _ = std::fs::remove_file(&link);
    if let Err(error) = std::os::unix::fs::symlink("mkfs-ferryfs", &link) {
        println!("cargo:warning=cannot link {}: {error}", link.display());
    }
}
