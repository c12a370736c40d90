//! What is left alone: neither mirrored from the source, nor removed from the replica, nor walked,
//! nor watched.
//!
//! Patterns are those of gitignore(5). What the command line says comes first; then, on request,
//! what the source's own files say, the deeper ones first.

mod patterns;

pub use patterns::{Flaw, Patterns, lines};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::fs::view::{ReplicaFile, ReplicaView};
use crate::model::entry::Observed;
use crate::model::error::FsErrorKind;
use crate::model::human::counted;
use crate::model::log_name::is_log_name;
use crate::model::path::{Name, RelPath};

const IGNORE: &[u8] = b".ignore";
const GITIGNORE: &[u8] = b".gitignore";
const GIT: &[u8] = b".git";

/// Of a longer file of patterns, in bytes, only so much is read.
const LONGEST: usize = 16 * 1024 * 1024;

/// So many patterns of a file that are not heeded are named, the rest counted.
const MOST_NAMED: usize = 5;

/// All rules. Cheap to clone; the clones share what was read from the source.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Where the log file lies, if that is inside the source: its directory and its name.
    pub log: Option<(RelPath, Name)>,
    /// `--exclude` and `--exclude-from`.
    given: Option<Arc<Patterns>>,
    /// `--gitignore`: the rules of the source's directories that have some.
    nested: Option<Arc<RwLock<Nested>>>,
    /// The files of patterns of which was said that they cannot be followed to the letter.
    named: Arc<Mutex<BTreeSet<RelPath>>>,
}

type Nested = BTreeMap<RelPath, Arc<DirRules>>;

/// The rules that one directory of the source holds.
#[derive(Debug)]
struct DirRules {
    texts: [Vec<u8>; 3],
    ignore: Patterns,
    gitignore: Patterns,
    /// `.git/info/exclude`
    exclude: Patterns,
    /// Whether a repository begins here: what git reads above does not count below.
    is_repository: bool,
}

impl Filter {
    pub fn new(given: Patterns, nested: bool) -> Self {
        let given = Some(given).filter(|given| !given.is_empty()).map(Arc::new);
        Self { log: None, given, nested: nested.then(Arc::default), named: Arc::default() }
    }

    /// Whether there is any rule at all.
    pub fn is_empty(&self) -> bool {
        self.log.is_none() && self.given.is_none() && self.nested.is_none()
    }

    /// The same, with a memory of its own for what it reads from now on.
    pub fn detached(&self) -> Self {
        let copy = |nested: &Arc<RwLock<Nested>>| {
            Arc::new(RwLock::new(nested.read().unwrap_or_else(PoisonError::into_inner).clone()))
        };
        Self { nested: self.nested.as_ref().map(copy), ..self.clone() }
    }

    /// Where a directory of the source holds rules that lie in a directory of their own, which may
    /// itself be excluded.
    pub fn dir_of_rules(&self, dir: &RelPath) -> Option<RelPath> {
        let nested = self.nested.as_ref()?.read().unwrap_or_else(PoisonError::into_inner);
        let info = [&b".git"[..], b"info"].into_iter().filter_map(Name::new);
        nested.get(dir)?.is_repository.then(|| info.fold(dir.clone(), |at, name| at.join(&name)))
    }

    /// The rules as they are for the names in one directory.
    pub fn at(&self, dir: &RelPath) -> DirFilter<'_> {
        let mut chain = Vec::new();
        if let Some(nested) = &self.nested {
            let nested = nested.read().unwrap_or_else(PoisonError::into_inner);
            if !nested.is_empty() {
                let above = std::iter::once(RelPath::root()).chain(dir.ancestors_and_self());
                let ruled =
                    above.filter_map(|at| nested.get(&at).map(|rules| (at, Arc::clone(rules))));
                chain.extend(ruled);
                chain.reverse();
            }
        }
        DirFilter { filter: self, dir: dir.clone(), chain }
    }

    /// Whether a directory or one above it is left alone.
    pub fn excludes_dir(&self, dir: &RelPath) -> bool {
        let excluded = |at: RelPath| {
            at.split().is_some_and(|(above, name)| self.at(&above).excludes(name.as_bytes(), true))
        };
        !self.is_empty() && dir.ancestors_and_self().any(excluded)
    }

    /// The directory whose rules change with this entry, if it holds rules.
    pub fn governed_by(&self, dir: &RelPath, name: &Name) -> Option<RelPath> {
        self.nested.as_ref()?;
        match name.as_bytes() {
            IGNORE | GITIGNORE | GIT => Some(dir.clone()),
            b"exclude" => {
                let (git, info) = dir.split().filter(|(_, info)| info.as_bytes() == b"info")?;
                let (above, name) = git.split()?;
                (info.as_bytes() == b"info" && name.as_bytes() == GIT).then_some(above)
            }
            _ => None,
        }
    }

    /// Reads the rules that an open directory holds; whether they are others than before.
    /// `has`: whether there may be an entry of this name. What cannot be read leaves the rules as
    /// they were: copying it is a Problem that will be told.
    pub fn refresh(
        &self,
        dir: &RelPath,
        open: &impl ReplicaView,
        has: impl Fn(&[u8]) -> bool,
    ) -> bool {
        let Some(nested) = &self.nested else { return false };
        let is_repository = has(GIT) && open.look(GIT) != Observed::Absent;
        let info = RelPath::new(b".git/info").filter(|_| is_repository);
        let info = info.and_then(|info| open.open(&info).ok());
        let read = |name: &[u8]| if has(name) { text_of(open, name) } else { Some(Vec::new()) };
        let exclude = info.map_or(Some(Vec::new()), |info| text_of(&info, b"exclude"));
        let (Some(ignore), Some(gitignore), Some(exclude)) =
            (read(IGNORE), read(GITIGNORE), exclude)
        else {
            return false;
        };
        let texts = [ignore, gitignore, exclude];
        let any = is_repository || texts.iter().any(|text| !text.is_empty());
        let before = nested.read().unwrap_or_else(PoisonError::into_inner).get(dir).cloned();
        match before {
            None if !any => return false,
            Some(rules) if rules.texts == texts && rules.is_repository == is_repository => {
                return false;
            }
            _ => {}
        }
        let read = texts.each_ref().map(|text| Patterns::read(text));
        for ((text, patterns), name) in
            texts.iter().zip(&read).zip([".ignore", ".gitignore", ".git/info/exclude"])
        {
            self.name_unheeded(dir, name, patterns, text.len() >= LONGEST);
        }
        let [ignore, gitignore, exclude] = read;
        let rules = DirRules { texts, ignore, gitignore, exclude, is_repository };
        let mut nested = nested.write().unwrap_or_else(PoisonError::into_inner);
        if any {
            nested.insert(dir.clone(), Arc::new(rules));
        } else {
            nested.remove(dir);
        }
        true
    }

    /// Says of a file of patterns, once, that it cannot be followed to the letter.
    fn name_unheeded(&self, dir: &RelPath, name: &str, patterns: &Patterns, is_cut: bool) {
        let unheeded = patterns.unheeded();
        if unheeded.is_empty() && !is_cut {
            return;
        }
        let Some(path) = RelPath::new(name.as_bytes()).map(|name| dir.below(&name)) else { return };
        if !self.named.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone()) {
            return;
        }
        for (line, flaw) in unheeded.iter().take(MOST_NAMED) {
            tracing::warn!(op = "warning", path = %path, line, "the pattern in line {line} is not heeded, since {flaw}");
        }
        if let Some(more) = unheeded.len().checked_sub(MOST_NAMED).filter(|more| *more > 0) {
            let more = counted(more as u64, "more pattern is", "more patterns are");
            tracing::warn!(op = "warning", path = %path, "{more} not heeded");
        }
        if is_cut {
            tracing::warn!(op = "warning", path = %path, "only the first {} MiB are heeded", LONGEST >> 20);
        }
    }
}

/// A file of patterns; empty where there is none, `None` where it cannot be read.
fn text_of(dir: &impl ReplicaView, name: &[u8]) -> Option<Vec<u8>> {
    let (file, entry) = match dir.open_file(name) {
        Ok((ReplicaFile::Readable(file), entry)) => (file, entry),
        Err(error) if error.is_absence() || error.kind == FsErrorKind::SymlinkLoop => {
            return Some(Vec::new());
        }
        Err(error) if error.kind == FsErrorKind::Invalid => return Some(Vec::new()),
        Ok((ReplicaFile::Told { .. }, _)) | Err(_) => return None,
    };
    let size = usize::try_from(entry.size).unwrap_or(LONGEST).min(LONGEST);
    let mut text = vec![0; size];
    let read = file.read_at(&mut text, 0).ok()?;
    text.truncate(read);
    Some(text)
}

/// The rules for the names in one directory.
pub struct DirFilter<'a> {
    filter: &'a Filter,
    dir: RelPath,
    /// The directories above with rules of their own, the deepest first.
    chain: Vec<(RelPath, Arc<DirRules>)>,
}

impl DirFilter<'_> {
    pub fn excludes(&self, name: &[u8], is_dir: bool) -> bool {
        if self.filter.is_empty() {
            return false;
        }
        if let Some((log_dir, log)) = &self.filter.log
            && *log_dir == self.dir
            && is_log_name(name, log.as_bytes())
        {
            return true;
        }
        let Some(path) = Name::new(name).map(|name| self.dir.join(&name)) else { return false };
        let given =
            self.filter.given.as_ref().and_then(|given| given.excludes(path.as_bytes(), is_dir));
        given.or_else(|| self.by_nested(&path, is_dir)) == Some(true)
    }

    /// Whether either side's entry of this name is left alone. What stands on neither is not.
    pub fn excludes_either(&self, name: &[u8], sides: [Option<bool>; 2]) -> bool {
        sides.into_iter().flatten().any(|is_dir| self.excludes(name, is_dir))
    }

    fn by_nested(&self, path: &RelPath, is_dir: bool) -> Option<bool> {
        let (mut ignore, mut gitignore, mut exclude) = (None, None, None);
        let mut in_repository = false;
        for (at, rules) in &self.chain {
            let below = if at.is_root() {
                path.as_bytes()
            } else {
                &path.as_bytes()[at.as_bytes().len() + 1..]
            };
            ignore = ignore.or_else(|| rules.ignore.excludes(below, is_dir));
            if !in_repository {
                gitignore = gitignore.or_else(|| rules.gitignore.excludes(below, is_dir));
                exclude = exclude.or_else(|| rules.exclude.excludes(below, is_dir));
            }
            in_repository |= rules.is_repository;
        }
        ignore.or(gitignore).or(exclude)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tree::Root;
    use crate::model::error::Side;

    fn patterns(lines: &[&str]) -> Patterns {
        let mut patterns = Patterns::default();
        for line in lines {
            patterns.add(line.as_bytes()).unwrap();
        }
        patterns
    }

    /// Asks for a path; one that ends in `/` is a directory.
    fn excludes(filter: &Filter, path: &str) -> bool {
        let is_dir = path.ends_with('/');
        let path = RelPath::new(path.trim_end_matches('/').as_bytes()).unwrap();
        let (dir, name) = path.split().unwrap();
        filter.excludes_dir(&dir) || filter.at(&dir).excludes(name.as_bytes(), is_dir)
    }

    #[test]
    fn patterns_are_those_of_gitignore() {
        let lines = [
            "*.o",
            "!keep.o",
            "/top",
            "build/",
            "a/**/z",
            "# no pattern",
            "",
            "!",
            "x{1,2}",
            "[a{].b",
        ];
        let filter = Filter::new(patterns(&lines), false);
        for path in [
            "x.o",
            "deep/er/x.o",
            "top",
            "build/",
            "x/build/",
            "a/z",
            "a/b/c/z",
            "build/in/it",
            "x{1,2}",
        ] {
            assert!(excludes(&filter, path), "{path}");
        }
        for path in ["{.b", "a.b"] {
            assert!(excludes(&filter, path), "{path}");
        }
        for path in ["keep.o", "deep/top", "build", "z", "# no pattern", "x.o.c", "x1", "x2"] {
            assert!(!excludes(&filter, path), "{path}");
        }
    }

    #[test]
    fn without_rules_nothing_is_left_alone() {
        assert!(!excludes(&Filter::default(), "a/.gitignore"));
        assert!(!excludes(&Filter::new(Patterns::default(), true), "a/b"));
    }

    /// A source with these files, and a filter that has read their rules.
    fn nested(files: &[(&str, &str)], given: &[&str]) -> Filter {
        let top = tempfile::tempdir().unwrap();
        let filter = Filter::new(patterns(given), true);
        let root = Root::new(top.path(), Side::Source).open_source().unwrap().0;
        let mut dirs = vec![RelPath::root()];
        for (path, text) in files {
            let at = top.path().join(path);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::fs::write(at, text).unwrap();
            let path = RelPath::new(path.as_bytes()).unwrap();
            dirs.extend(path.split().unwrap().0.ancestors_and_self());
        }
        for dir in dirs {
            filter.refresh(&dir, &root.open(&dir).unwrap(), |_| true);
        }
        filter
    }

    #[test]
    fn the_deepest_file_decides() {
        let filter = nested(
            &[(".gitignore", "*.log\n/out\n"), ("sub/.gitignore", "!mine.log\n/out\n")],
            &[],
        );
        for path in ["a.log", "sub/a.log", "out", "sub/out"] {
            assert!(excludes(&filter, path), "{path}");
        }
        for path in ["sub/mine.log", "sub/deep/out", "other/out"] {
            assert!(!excludes(&filter, path), "{path}");
        }
    }

    #[test]
    fn each_kind_of_file_has_its_rank() {
        let filter = nested(
            &[
                (".git/info/exclude", "a\nb\nc\nd\n"),
                (".gitignore", "!a\nb\n"),
                (".ignore", "!b\nc\n"),
                ("x", ""),
            ],
            &["!c"],
        );
        for path in ["a", "b", "c"] {
            assert!(!excludes(&filter, path), "{path}");
        }
        assert!(excludes(&filter, "d"));
    }

    #[test]
    fn what_git_reads_above_a_repository_does_not_count_below() {
        let filter = nested(
            &[(".gitignore", "*.log\n"), (".ignore", "*.tmp\n"), ("repo/.git/HEAD", "")],
            &[],
        );
        assert!(excludes(&filter, "a.log") && excludes(&filter, "repo/a.tmp"));
        assert!(!excludes(&filter, "repo/a.log"));
    }

    #[test]
    fn it_is_known_which_entries_hold_rules() {
        let filter = Filter::new(Patterns::default(), true);
        let governed = |path: &str| {
            let (dir, name) = RelPath::new(path.as_bytes()).unwrap().split().unwrap();
            filter.governed_by(&dir, &name).map(|dir| dir.to_string())
        };
        assert_eq!(governed("a/.gitignore").as_deref(), Some("a"));
        assert_eq!(governed("a/.git/info/exclude").as_deref(), Some("a"));
        assert_eq!(governed("a/exclude"), None);
        assert_eq!(governed("a/b"), None);
    }
}
