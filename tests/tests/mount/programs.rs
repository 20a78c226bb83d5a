//! Real programs at work in the mount.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tests::skip::has_program;
use tests::{Builder, Mounted};

const LIMIT: Duration = Duration::from_secs(300);

/// Runs a shell script that must succeed, in `directory`, with nothing of the machine's configuration; gives its output.
fn shell(directory: &Path, script: &str) -> String {
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(directory);
    command.env("HOME", directory).env("GIT_CONFIG_NOSYSTEM", "1").env("LC_ALL", "C");
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(name);
    }
    match harness::run(&mut command, LIMIT).and_then(harness::Outcome::ok) {
        Ok(outcome) => outcome.stdout,
        Err(error) => panic!("{error:#}"),
    }
}

/// A copy of the sources of this project, a real tree that is always there, as they are now: somebody may be at work on them.
fn sources() -> TempDir {
    let copy = TempDir::new().unwrap();
    // What changes or goes while it is read is what it happens to be; what tar says of that is no matter.
    let script = format!(
        "tar -C '{}' --exclude=./target --exclude=./.git --exclude=./bench/out  -cf - . 2>/dev/null | tar -xf - || :",
        concat!(env!("CARGO_MANIFEST_DIR"), "/..")
    );
    shell(copy.path(), &script);
    let files: usize = shell(copy.path(), "find . -name '*.rs' | wc -l").trim().parse().unwrap();
    assert!(files > 100, "{files} sources were copied");
    copy
}

#[test]
fn git_makes_commits_clones_and_checks_repositories() {
    if !has_program("git") {
        return;
    }
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    shell(
        mounted.root(),
        "git init -q -b main one
         cd one
         git config user.email someone@example.org
         git config user.name Someone
         for d in 1 2 3 4 5; do
             mkdir d$d
             for f in 1 2 3 4 5 6 7 8 9; do seq $((d * f * 100)) > d$d/f$f; done
             git add .
             git commit -qm \"commit $d\"
         done
         git mv d1 moved
         git commit -qm moved
         git gc -q
         git clone -q . ../two",
    );
    mounted.remount();
    let log = shell(mounted.root(), "cd two; git fsck --full --strict 2>&1; git status --porcelain; git log --oneline | wc -l");
    assert_eq!(log.lines().last().map(str::trim), Some("6"), "{log}");
    let check = shell(mounted.root(), "cd one; git fsck --full 2>&1; git status --porcelain; diff -r --exclude=.git . ../two");
    assert!(!check.contains("error") && !check.contains("missing"), "{check}");
    mounted.finish();
}

#[test]
fn a_database_keeps_its_integrity() {
    if !has_program("sqlite3") {
        return;
    }
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    for (name, journal) in [("wal", "wal"), ("rollback", "delete")] {
        let script = format!(
            "sqlite3 {name}.db 'pragma journal_mode={journal}; create table t(id integer primary key, v text);' > /dev/null
             for round in 1 2 3 4 5; do
                 sqlite3 {name}.db \"pragma synchronous=extra; begin; with recursive n(i) as (select 1 union all select i+1 from n where i<2000)
                     insert into t(v) select hex(randomblob(50)) from n; update t set v = v || 'x' where id % 3 = 0;
                     delete from t where id % 7 = 0; commit;\"
             done"
        );
        shell(mounted.root(), &script);
    }
    mounted.crash();
    for name in ["wal", "rollback"] {
        let said = shell(mounted.root(), &format!("sqlite3 {name}.db 'pragma integrity_check; select count(*) from t;'"));
        let mut lines = said.lines();
        assert_eq!(lines.next(), Some("ok"));
        let rows: u32 = lines.next().unwrap().parse().unwrap();
        assert_eq!(rows, 8572, "{name}: all that was committed");
    }
    shell(mounted.root(), "sqlite3 wal.db 'vacuum; pragma integrity_check;' | grep -qx ok");
    mounted.finish();
}

#[test]
fn a_compiler_builds_and_the_program_runs() {
    if !has_program("gcc") {
        return;
    }
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let said = shell(
        mounted.root(),
        r#"mkdir src obj
           for n in 1 2 3 4 5 6 7 8; do echo "int f$n(int x) { return x * $n; }" > src/f$n.c; done
           { for n in 1 2 3 4 5 6 7 8; do echo "int f$n(int);"; done
             echo '#include <stdio.h>'
             echo 'int main(void) { int s = 0;'
             for n in 1 2 3 4 5 6 7 8; do echo "s += f$n(2);"; done
             printf '%s\n' 'printf("%d\n", s); return 0; }'; } > src/main.c
           for f in src/*.c; do gcc -O2 -c $f -o obj/$(basename $f .c).o; done
           ar rcs obj/libf.a obj/f?.o
           gcc -o program obj/main.o -Lobj -lf
           ./program"#,
    );
    assert_eq!(said.trim(), "72");
    mounted.finish();
}

#[test]
fn cargo_builds_a_package() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let Some(mounted) = Builder::default().format("--size 1G --zone-size 8M").mount() else {
        return;
    };
    let package = mounted.path("package");
    fs::create_dir_all(package.join("src")).unwrap();
    fs::write(package.join("Cargo.toml"), "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n").unwrap();
    fs::write(
        package.join("src/lib.rs"),
        "//! A library.\npub fn answer() -> u32 { 42 }\n#[test] fn right() { assert_eq!(answer(), 42); }\n",
    )
    .unwrap();
    fs::write(package.join("src/main.rs"), "fn main() { println!(\"{}\", small::answer()); }\n").unwrap();
    let mut command = Command::new(&cargo);
    command.args(["test", "--offline", "--quiet", "--target-dir", "target"]).current_dir(&package);
    for name in ["CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_MANIFEST_DIR"] {
        command.env_remove(name);
    }
    harness::run(&mut command, LIMIT).unwrap().ok().unwrap();
    let mut command = Command::new(&cargo);
    command.args(["run", "--offline", "--quiet", "--target-dir", "target"]).current_dir(&package);
    assert_eq!(harness::run(&mut command, LIMIT).unwrap().ok().unwrap().stdout, "42\n");
    mounted.finish();
}

#[test]
fn tar_unpacks_a_real_tree_and_nothing_differs() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let sources = sources();
    let sources = sources.path().display();
    shell(mounted.root(), &format!("mkdir tree; tar -C '{sources}' -cf - . | tar -C tree -xf -"));
    mounted.remount();
    let compare = format!("diff -r '{sources}' tree");
    assert_eq!(shell(mounted.root(), &compare), "");
    shell(mounted.root(), "cp -a tree copy; diff -r tree copy; mv copy moved; rm -r tree; sync; sync -f moved");
    fs::File::open(mounted.root()).unwrap().sync_all().unwrap();
    mounted.crash();
    assert_eq!(shell(mounted.root(), &compare.replace(" tree", " moved")), "");
    mounted.finish();
}

#[test]
fn ordinary_tools_agree_with_each_other() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    shell(
        mounted.root(),
        "seq 200000 > numbers
         sort -R numbers | sort -n > sorted
         cmp numbers sorted
         dd if=/dev/urandom of=random bs=64k count=100 2>/dev/null
         cp --sparse=always random a; cp --reflink=never random b; cat random > c
         cmp random a; cmp random b; cmp random c
         gzip -k random; gunzip -c random.gz | cmp - random
         split -b 100000 random part.; cat part.* | cmp - random
         ln numbers hard; ln -s numbers soft; cmp hard soft
         touch -d '2001-02-03 04:05:06.789' numbers
         test \"$(stat -c %y hard | cut -c1-23)\" = '2001-02-03 04:05:06.789'
         truncate -s 1T huge; test \"$(stat -c %s huge)\" = 1099511627776; rm huge
         find . -type f | wc -l > /dev/null; du -s . > /dev/null; df . > /dev/null
         rm -rf ./*",
    );
    mounted.finish();
}
