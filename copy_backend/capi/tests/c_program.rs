//! The header against the definitions in Rust, and a C program that uses the library on files.

use copy_backend::profile::{Profile, RoadProfile};
use copy_backend::sizes::{Measured, Sample};
use copy_backend::{DeviceName, Road};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use zns::raw::{RawOptions, open_raw};

fn include() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("include")
}

/// The static library lies beside this test program, or one directory up.
fn library() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let found = own.ancestors().skip(1).take(2).flat_map(|directory| {
        let entries = std::fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().path()).filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with("libferrycopy") && name.ends_with(".a")
        })
    });
    // The newest, where builds of several kinds have left theirs.
    found.max_by_key(|path| std::fs::metadata(path).unwrap().modified().unwrap()).expect("cargo built a static library")
}

fn compile(source: &Path, program: &Path, libraries: &[PathBuf]) {
    let mut compiler = Command::new("cc");
    compiler.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-I"]).arg(include()).arg(source).args(libraries);
    compiler.args(["-lpthread", "-ldl", "-lm", "-lgcc_s", "-o"]).arg(program);
    let output = compiler.output().expect("a C compiler (cc) is installed: Rust needs one to link");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_header_has_the_sizes_offsets_and_values_of_the_library() {
    let mut source = String::from("#include <ferrycopy.h>\n");
    for (name, size, fields) in ferrycopy::STRUCTURES {
        source += &format!("_Static_assert(sizeof({name}) == {size}, \"{name}\");\n");
        for (field, offset) in *fields {
            source += &format!("_Static_assert(offsetof({name}, {field}) == {offset}, \"{name}.{field}\");\n");
        }
    }
    for (name, value) in ferrycopy::CONSTANTS {
        source += &format!("_Static_assert({name} == {value}, \"{name}\");\n");
    }
    source += "int main(void) { return 0; }\n";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("layout.c");
    std::fs::write(&file, source).unwrap();
    compile(&file, &directory.path().join("layout"), &[]);
}

/// Every name of the header is one of the library, and the other way round.
#[test]
fn the_header_names_what_the_library_has() {
    let header = std::fs::read_to_string(include().join("ferrycopy.h")).unwrap();
    let code = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let names = |text: &str, before: &str| {
        let mut names: Vec<String> = text
            .lines()
            .filter_map(|line| line.split_once(before).filter(|_| !line.starts_with(' ') && !line.starts_with("/*")))
            .map(|(_, rest)| rest.split('(').next().unwrap_or_default().trim_start_matches('*').to_owned())
            .collect();
        names.sort();
        names
    };
    let declared: Vec<String> = header
        .lines()
        .filter(|line| line.contains('(') && line.starts_with(|first: char| first.is_ascii_lowercase()) && !line.starts_with("extern"))
        .map(|line| line.split('(').next().unwrap_or_default().rsplit([' ', '*']).next().unwrap_or_default().to_owned())
        .collect();
    let mut declared = declared;
    declared.sort();
    let defined = names(&code, "extern \"C\" fn ");
    assert!(defined.len() > 10 && defined == declared, "{defined:?}\n{declared:?}");
    let constants: Vec<&str> = ferrycopy::CONSTANTS.iter().map(|(name, _)| *name).collect();
    for line in header.lines().filter_map(|line| line.strip_prefix("#define FERRYCOPY_")) {
        let name = format!("FERRYCOPY_{}", line.split(' ').next().unwrap());
        assert!(name == "FERRYCOPY_H" || constants.contains(&name.as_str()), "{name}");
    }
}

/// Two profiles as a calibration writes them: of the files that the program will use (it keeps them, and overwrites what is in them), and of others. By both,
/// 64 KiB are enough.
fn profiles(directory: &Path) {
    let name = |file: &str| {
        let path = directory.join(file);
        File::create(&path).unwrap().set_len(8 << 20).unwrap();
        DeviceName::of(&*open_raw(&path, &RawOptions::default()).unwrap())
    };
    for (file, from, to) in [("profile", "from", "to"), ("other", "one", "two")] {
        let sample = |bytes| Sample { bytes, ranges: 1, in_flight: 1, latency_us: bytes as f64 / 1e3, bytes_per_second: 1e9 };
        let measured = Measured { by_bytes: [64 << 10, 1 << 20].map(sample).into(), ..Measured::default() };
        let mut profile = Profile::default();
        profile.put(RoadProfile { from: name(from), to: name(to), road: Road::Host, simulated: false, measured });
        profile.save(&directory.join(file)).unwrap();
    }
}

#[test]
fn a_c_program_copies_waits_cancels_and_is_told_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("program");
    compile(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/program.c"), &program, &[library()]);
    profiles(directory.path());
    let output = Command::new(&program).current_dir(directory.path()).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("all is well"), "{said}");
}
