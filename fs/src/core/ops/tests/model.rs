//! A naive filesystem: full paths to nodes, everything else counted on demand.

use crate::format::item::Timestamp;
use crate::volume::{Caller, RenameFlags};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub size: u64,
    pub target: Vec<u8>,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
}

impl Node {
    pub fn new(mode: u32, rdev: u32, target: &[u8], who: &Caller, now: Timestamp) -> Self {
        Self { mode, uid: who.uid, gid: who.gid, rdev, size: target.len() as u64, target: target.to_vec(), mtime: now, ctime: now }
    }
}

/// What a path shows.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub node: Node,
    pub nlink: u32,
}

#[derive(Default)]
pub struct Model {
    /// Full path ("" is the root) to number of a node.
    pub paths: BTreeMap<String, u64>,
    pub nodes: BTreeMap<u64, Node>,
    next: u64,
}

type Res<T> = Result<T, &'static str>;

impl Model {
    pub fn new(root: Node) -> Self {
        Self { paths: BTreeMap::from([(String::new(), 1)]), nodes: BTreeMap::from([(1, root)]), next: 2 }
    }
    pub fn is_dir(&self, path: &str) -> bool {
        self.paths.get(path).is_some_and(|n| self.nodes[n].mode & libc::S_IFMT == libc::S_IFDIR)
    }
    fn node(&mut self, path: &str) -> &mut Node {
        let n = self.paths[path];
        self.nodes.get_mut(&n).expect("a node")
    }
    fn children(&self, path: &str) -> Vec<String> {
        let prefix = format!("{path}/");
        self.paths.keys().filter(|p| p.strip_prefix(&prefix).is_some_and(|rest| !rest.contains('/'))).cloned().collect()
    }
    /// Everything, as it must look.
    pub fn seen(&self) -> BTreeMap<String, Seen> {
        let look = |(path, n): (&String, &u64)| {
            let mut node = self.nodes[n].clone();
            let nlink = if self.is_dir(path) {
                let children = self.children(path);
                node.size = children.len() as u64 * 32;
                2 + children.iter().filter(|c| self.is_dir(c)).count() as u32
            } else {
                self.paths.values().filter(|m| *m == n).count() as u32
            };
            (path.clone(), Seen { node, nlink })
        };
        self.paths.iter().map(look).collect()
    }
    fn touch(&mut self, path: &str, now: Timestamp) {
        let node = self.node(path);
        (node.mtime, node.ctime) = (now, now);
    }
    fn parent_check(&self, dir: &str) -> Res<()> {
        match self.paths.contains_key(dir) {
            false => Err("NotFound"),
            true if !self.is_dir(dir) => Err("NotADirectory"),
            true => Ok(()),
        }
    }

    /// Makes `node`, whose birth is its ctime.
    pub fn create(&mut self, dir: &str, name: &str, mut node: Node) -> Res<()> {
        self.parent_check(dir)?;
        let path = format!("{dir}/{name}");
        if self.paths.contains_key(&path) {
            return Err("Exists");
        }
        let above = self.node(dir).clone();
        let now = node.ctime;
        if above.mode & 0o2000 != 0 {
            node.gid = above.gid;
            if node.mode & libc::S_IFMT == libc::S_IFDIR {
                node.mode |= 0o2000;
            }
        }
        self.nodes.insert(self.next, node);
        self.paths.insert(path, self.next);
        self.next += 1;
        self.touch(dir, now);
        Ok(())
    }
    pub fn link(&mut self, from: &str, dir: &str, name: &str, now: Timestamp) -> Res<()> {
        let Some(&n) = self.paths.get(from) else { return Err("NotFound") };
        self.parent_check(dir)?;
        let path = format!("{dir}/{name}");
        if self.paths.contains_key(&path) {
            return Err("Exists");
        }
        if self.is_dir(from) {
            return Err("NotPermitted");
        }
        self.paths.insert(path, n);
        self.nodes.get_mut(&n).expect("a node").ctime = now;
        self.touch(dir, now);
        Ok(())
    }
    pub fn remove(&mut self, dir: &str, name: &str, want_dir: bool, now: Timestamp) -> Res<()> {
        self.parent_check(dir)?;
        let path = format!("{dir}/{name}");
        match (self.paths.contains_key(&path), self.is_dir(&path)) {
            (false, _) => return Err("NotFound"),
            (_, true) if !want_dir => return Err("IsADirectory"),
            (_, false) if want_dir => return Err("NotADirectory"),
            _ => {}
        }
        if !self.children(&path).is_empty() {
            return Err("NotEmpty");
        }
        self.drop_name(&path, now);
        self.touch(dir, now);
        Ok(())
    }
    fn drop_name(&mut self, path: &str, now: Timestamp) {
        self.node(path).ctime = now;
        self.paths.remove(path);
    }
    /// Takes a path and all below it out of the tree.
    fn take(&mut self, path: &str) -> Vec<(String, u64)> {
        let below = format!("{path}/");
        let all: Vec<_> = self.paths.iter().filter(|(p, _)| *p == path || p.starts_with(&below)).map(|(p, n)| (p.clone(), *n)).collect();
        all.into_iter().map(|(p, n)| (self.paths.remove(&p).map(|_| p[path.len()..].to_string()).expect("was there"), n)).collect()
    }
    fn plant(&mut self, path: &str, branch: Vec<(String, u64)>) {
        self.paths.extend(branch.into_iter().map(|(rest, n)| (format!("{path}{rest}"), n)));
    }
    pub fn rename(&mut self, dir: &str, name: &str, newdir: &str, newname: &str, flags: RenameFlags, now: Timestamp) -> Res<()> {
        // The test resolves both directories by path before it renames.
        if !self.paths.contains_key(dir) || !self.paths.contains_key(newdir) {
            return Err("NotFound");
        }
        if flags.exchange && (flags.no_replace || flags.whiteout) {
            return Err("Invalid");
        }
        self.parent_check(dir)?;
        self.parent_check(newdir)?;
        let (old, new) = (format!("{dir}/{name}"), format!("{newdir}/{newname}"));
        let Some(&moved) = self.paths.get(&old) else { return Err("NotFound") };
        let target = self.paths.get(&new).copied();
        match target {
            Some(_) if flags.no_replace => return Err("Exists"),
            None if flags.exchange => return Err("NotFound"),
            _ => {}
        }
        if new.starts_with(&format!("{old}/")) || flags.exchange && old.starts_with(&format!("{new}/")) {
            return Err("Invalid");
        }
        if target == Some(moved) {
            return Ok(());
        }
        let old_branch;
        if flags.exchange {
            old_branch = self.take(&old);
            let new_branch = self.take(&new);
            self.plant(&old, new_branch);
            self.node(&old).ctime = now;
        } else {
            if target.is_some() {
                match (self.is_dir(&old), self.is_dir(&new)) {
                    (true, false) => return Err("NotADirectory"),
                    (false, true) => return Err("IsADirectory"),
                    _ if !self.children(&new).is_empty() => return Err("NotEmpty"),
                    _ => self.drop_name(&new, now),
                }
            }
            old_branch = self.take(&old);
            if flags.whiteout {
                self.create(dir, name, Node::new(libc::S_IFCHR, 0, b"", &Caller::default(), now))?;
            }
        }
        self.plant(&new, old_branch);
        self.node(&new).ctime = now;
        self.touch(dir, now);
        self.touch(newdir, now);
        Ok(())
    }
    pub fn change(&mut self, path: &str, now: Timestamp, change: impl Fn(&mut Node)) -> Res<()> {
        if !self.paths.contains_key(path) {
            return Err("NotFound");
        }
        let node = self.node(path);
        node.ctime = now;
        change(node);
        Ok(())
    }
    pub fn truncate(&mut self, path: &str, size: u64, root: bool, now: Timestamp) -> Res<()> {
        match self.paths.get(path).map(|n| self.nodes[n].mode & libc::S_IFMT) {
            None => return Err("NotFound"),
            Some(libc::S_IFREG) => {}
            Some(libc::S_IFDIR) => return Err("IsADirectory"),
            Some(_) => return Err("Invalid"),
        }
        if size > 16 << 40 {
            return Err("FileTooLarge");
        }
        self.change(path, now, |node| {
            (node.size, node.mtime) = (size, now);
            if !root {
                node.mode &= if node.mode & 0o010 != 0 { !0o6000 } else { !0o4000 };
            }
        })
    }
}
