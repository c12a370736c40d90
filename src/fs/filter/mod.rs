//! Which entries are excluded: neither mirrored from the source nor deleted from the replica,
//! neither walked nor watched.
//!
//! Patterns are those of gitignore(5). Patterns of the command line take precedence. On request,
//! files of patterns in the source come next, the deeper ones first.

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

/// Most bytes that are read of a file of patterns. The rest of it is not read.
const LONGEST_INTERVAL: usize = 16 * 1024 * 1024;

/// How many patterns of a file that are ignored are logged. The others are only counted.
const MOST_NAMED: usize = 5;

/// All rules. A filter is cheap to clone, and clones share the rules that were read from the
/// source.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Directory and name of the log file, if that lies inside the source.
    pub log: Option<(RelPath, Name)>,
    /// `--exclude` and `--exclude-from`.
    given: Option<Arc<Patterns>>,
    /// `--gitignore`: the rules of those directories of the source that have some.
    nested: Option<Arc<RwLock<Nested>>>,
    /// Files of patterns for which patterns that are ignored were logged.
    named: Arc<Mutex<BTreeSet<RelPath>>>,
}

type Nested = BTreeMap<RelPath, Arc<DirRules>>;

/// The rules that one directory of the source holds.
#[derive(Debug)]
struct DirRules {
    /// Contents of the three files, to notice changes.
    texts: [Vec<u8>; 3],
    ignore: Patterns,
    gitignore: Patterns,
    /// `.git/info/exclude`
    exclude: Patterns,
    /// Whether a git repository begins here: the files that git reads above it do not apply below.
    is_repository: bool,
}

impl Filter {
    pub fn new(given: Patterns, nested: bool) -> Self {
        let given = Some(given).filter(|given| !given.is_empty()).map(Arc::new);
        Self { log: None, given, nested: nested.then(Arc::default), named: Arc::default() }
    }

    /// Whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        self.log.is_none() && self.given.is_none() && self.nested.is_none()
    }

    /// Returns a copy that does not share the rules that it reads from now on.
    pub fn detached(&self) -> Self {
        let copy = |nested: &Arc<RwLock<Nested>>| {
            Arc::new(RwLock::new(nested.read().unwrap_or_else(PoisonError::into_inner).clone()))
        };
        Self { nested: self.nested.as_ref().map(copy), ..self.clone() }
    }

    /// Returns `.git/info` below `dir`, if `dir` is a repository: it holds rules, and may itself be
    /// excluded.
    pub fn dir_of_rules(&self, dir: &RelPath) -> Option<RelPath> {
        let nested = self.nested.as_ref()?.read().unwrap_or_else(PoisonError::into_inner);
        let info = [&b".git"[..], b"info"].into_iter().filter_map(Name::new);
        nested.get(dir)?.is_repository.then(|| info.fold(dir.clone(), |at, name| at.join(&name)))
    }

    /// Returns the rules that apply to the names in `dir` now.
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

    /// Whether a directory, or one above it, is excluded.
    pub fn excludes_dir(&self, dir: &RelPath) -> bool {
        let excluded = |at: RelPath| {
            at.split().is_some_and(|(above, name)| self.at(&above).excludes(name.as_bytes(), true))
        };
        !self.is_empty() && dir.ancestors_and_self().any(excluded)
    }

    /// Returns the directory whose rules the entry `name` in `dir` holds; `None` if it holds none.
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

    /// Reads the rules that the directory `dir`, opened as `open`, holds. Returns whether they have
    /// changed. `has`: whether the directory may have an entry of this name. If a file cannot be
    /// read, the rules stay as they are: the round that copies it reports a problem.
    pub fn refresh(
        &self,
        dir: &RelPath,
        open: &impl ReplicaView,
        has: impl Fn(&[u8]) -> bool,
    ) -> bool {
        let Some(nested) = &self.nested else { return false };
        let is_repository = has(GIT) && open.observe(GIT) != Observed::Absent;
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
            self.log_unsupported(dir, name, patterns, text.len() >= LONGEST_INTERVAL);
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

    /// Logs which patterns of a file are ignored, once for each file. `is_cut`: whether the file
    /// is longer than [`LONGEST_INTERVAL`].
    fn log_unsupported(&self, dir: &RelPath, name: &str, patterns: &Patterns, is_cut: bool) {
        let unsupported = patterns.unsupported();
        if unsupported.is_empty() && !is_cut {
            return;
        }
        let Some(path) = RelPath::new(name.as_bytes()).map(|name| dir.below(&name)) else { return };
        if !self.named.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone()) {
            return;
        }
        for (line, flaw) in unsupported.iter().take(MOST_NAMED) {
            tracing::warn!(op = "warning", path = %path, line, "the pattern in line {line} is ignored, since {flaw}");
        }
        if let Some(more) = unsupported.len().checked_sub(MOST_NAMED).filter(|more| *more > 0) {
            let more = counted(more as u64, "more pattern is", "more patterns are");
            tracing::warn!(op = "warning", path = %path, "{more} ignored");
        }
        if is_cut {
            tracing::warn!(op = "warning", path = %path, "only the first {} MiB are read", LONGEST_INTERVAL >> 20);
        }
    }
}

/// Reads a file of patterns, up to [`LONGEST_INTERVAL`] bytes. Returns an empty text if `name` is absent or
/// no regular file, and `None` if it cannot be read.
fn text_of(dir: &impl ReplicaView, name: &[u8]) -> Option<Vec<u8>> {
    let (file, entry) = match dir.open_file(name) {
        Ok((ReplicaFile::Readable(file), entry)) => (file, entry),
        Err(error) if error.is_absence() || error.kind == FsErrorKind::SymlinkLoop => {
            return Some(Vec::new());
        }
        Err(error) if error.kind == FsErrorKind::Invalid => return Some(Vec::new()),
        Ok((ReplicaFile::Told { .. }, _)) | Err(_) => return None,
    };
    let size = usize::try_from(entry.size).unwrap_or(LONGEST_INTERVAL).min(LONGEST_INTERVAL);
    let mut text = vec![0; size];
    let read = file.read_at(&mut text, 0).ok()?;
    text.truncate(read);
    Some(text)
}

/// The rules for the names in one directory.
pub struct DirFilter<'a> {
    filter: &'a Filter,
    dir: RelPath,
    /// The directories with rules of their own, from `dir` upwards: the deepest first.
    chain: Vec<(RelPath, Arc<DirRules>)>,
}

impl DirFilter<'_> {
    /// Whether the entry `name` of the directory is excluded.
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

    /// Whether the entry of this name is excluded on either side. `sides`: for source and replica,
    /// whether the entry is a directory; `None` if it is absent.
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

    /// Whether a path is excluded. One that ends in `/` is a directory.
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

    /// Returns a filter that has read the rules of a source with these files.
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
