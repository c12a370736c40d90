//! Names and paths as file systems store them: any bytes but `/` and NUL.
//!
//! A [`RelPath`] says where an entry lies below a root. Nothing below a root is opened by its full
//! path: only `fs::tree` turns a `RelPath` into a descriptor, relative to that of a directory.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Length in bytes of a reserved name: `.twindir.` + 16 hex digits + `.tmp` (I7).
const RESERVED_LEN: usize = 29;

/// One component of a path: not empty, not `.` or `..`, without `/` and NUL.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<[u8]>);

impl Name {
    /// Makes a name of one component. `None` if the bytes are no valid component.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let bad =
            matches!(bytes, b"" | b"." | b"..") || bytes.iter().any(|b| matches!(b, b'/' | 0));
        (!bad).then(|| Self(bytes.into()))
    }

    /// Makes the name of a temporary entry from a number (I7).
    pub fn reserved(number: u64) -> Self {
        Self(format!(".twindir.{number:016x}.tmp").into_bytes().into())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn is_reserved(&self) -> bool {
        is_reserved(&self.0)
    }
}

/// Returns whether a name has the form of twindir's temporary entries (I7).
pub fn is_reserved(name: &[u8]) -> bool {
    name.len() == RESERVED_LEN
        && name.starts_with(b".twindir.")
        && name.ends_with(b".tmp")
        && name[9..25].iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns the lowercase form of a name, to compare names as file systems do that ignore case.
pub fn fold_case(name: &[u8]) -> String {
    String::from_utf8_lossy(name).to_lowercase()
}

/// A path below a root: components joined by `/`; empty for the root itself.
///
/// Paths are ordered by their bytes. A directory comes before everything below it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelPath(Arc<[u8]>);

impl Default for RelPath {
    fn default() -> Self {
        Self::root()
    }
}

impl RelPath {
    pub fn root() -> Self {
        Self(Arc::from(&b""[..]))
    }

    /// Parses a path of valid components. `None` for an absolute path, `..`, `//` and the like.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let valid = bytes.is_empty() || bytes.split(|b| *b == b'/').all(|c| Name::new(c).is_some());
        valid.then(|| Self(bytes.into()))
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn join(&self, name: &Name) -> Self {
        self.join_bytes(name.as_bytes())
    }

    /// Appends `rel` to this path.
    pub fn below(&self, rel: &RelPath) -> Self {
        if rel.is_root() { self.clone() } else { self.join_bytes(rel.as_bytes()) }
    }

    fn join_bytes(&self, name: &[u8]) -> Self {
        if self.is_root() {
            return Self(name.into());
        }
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        bytes.push(b'/');
        bytes.extend_from_slice(name);
        Self(bytes.into())
    }

    /// Splits the path into its directory and its name in there. `None` for the root.
    pub fn split(&self) -> Option<(Self, Name)> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => (Self(self.0[..at].into()), Name(self.0[at + 1..].into())),
            None => (Self::root(), Name(self.0.clone())),
        })
    }

    /// Iterates from the ancestor just below the root down to this path, itself included.
    pub fn ancestors_and_self(&self) -> impl DoubleEndedIterator<Item = RelPath> + '_ {
        let is_end = |end: &usize| self.0.get(*end).is_none_or(|byte| *byte == b'/');
        (1..=self.0.len()).filter(is_end).map(|end| Self(self.0[..end].into()))
    }

    /// Replaces the leading `from` by `to`. `None` if this path is not within `from`, or if `from`
    /// is the root.
    pub fn rebased(&self, from: &RelPath, to: &RelPath) -> Option<Self> {
        let rest = self
            .0
            .strip_prefix(from.as_bytes())
            .filter(|_| self.is_within(from) && !from.is_root())?;
        Some(Self([to.as_bytes(), rest].concat().into()))
    }

    /// Returns whether this path is `dir` or lies below it.
    pub fn is_within(&self, dir: &RelPath) -> bool {
        dir.is_root()
            || self
                .0
                .strip_prefix(dir.as_bytes())
                .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }
}

/// Iterates over the items of `known` at `dir` and below, in the order of their paths.
pub fn within<'a, V>(
    known: &'a BTreeMap<RelPath, V>,
    dir: &RelPath,
) -> impl Iterator<Item = (&'a RelPath, &'a V)> {
    let alike = |path: &RelPath| path.as_bytes().starts_with(dir.as_bytes());
    // In the order of their bytes, `a-b` comes between `a` and `a/b`.
    known
        .range(dir..)
        .take_while(move |(path, _)| alike(path))
        .filter(move |(path, _)| path.is_within(dir))
}

/// A name or path, shown as one line of UTF-8. Control characters, invalid bytes and `\` are
/// escaped, so that the original can be restored.
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    '\n' => f.write_str("\\n")?,
                    '\t' => f.write_str("\\t")?,
                    '\r' => f.write_str("\\r")?,
                    c if c.is_ascii_control() => write!(f, "\\x{:02x}", c as u32)?,
                    c if is_unprintable(c) => write!(f, "\\u{{{:x}}}", c as u32)?,
                    c => f.write_char(c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Shows a path that the user has given, on one line.
pub fn shown(path: &std::path::Path) -> Shown<'_> {
    use std::os::unix::ffi::OsStrExt;
    Shown(path.as_os_str().as_bytes())
}

/// Returns whether `c` is a control character, separates lines or paragraphs, or changes the
/// direction of the text around it.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() { f.write_str(".") } else { Shown(&self.0).fmt(f) }
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Orders as the bytes do, so that a map can be searched without making a name.
impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Shown(&self.0).fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names and paths for tests, made of text.
#[cfg(test)]
pub mod testing {
    use super::{Name, RelPath};

    pub fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    pub fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::testing::path;

    #[test]
    fn only_single_components_are_names() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
            assert!(Name::new(bad).is_none(), "{bad:?}");
        }
        assert!(Name::new(b"...").is_some());
        assert!(RelPath::new(b"/etc").is_none());
        assert!(RelPath::new(b"a/../b").is_none());
        assert!(RelPath::new(b"a//b").is_none());
    }

    #[test]
    fn split_undoes_join() {
        let name = Name::new(b"c").unwrap();
        assert_eq!(path("a/b").join(&name).split(), Some((path("a/b"), name.clone())));
        assert_eq!(RelPath::root().join(&name).split(), Some((RelPath::root(), name)));
        assert_eq!(RelPath::root().split(), None);
    }

    #[test]
    fn lineage_goes_from_the_top_down() {
        let all: Vec<_> = path("a/bc/d").ancestors_and_self().collect();
        assert_eq!(all, [path("a"), path("a/bc"), path("a/bc/d")]);
        assert_eq!(RelPath::root().ancestors_and_self().count(), 0);
    }

    #[test]
    fn within_looks_at_whole_components() {
        assert!(path("a/b").is_within(&path("a")));
        assert!(path("a").is_within(&path("a")));
        assert!(!path("ab").is_within(&path("a")));
        assert!(path("ab").is_within(&RelPath::root()));
    }

    #[test]
    fn reserved_names_have_one_exact_form() {
        assert!(Name::reserved(u64::MAX).is_reserved());
        assert!(Name::reserved(0).is_reserved());
        assert!(!is_reserved(b".twindir.0123456789ABCDEF.tmp"));
        assert!(!is_reserved(b".twindir.0123456789abcdef0.tmp"));
        assert!(!is_reserved(b".twindir.tmp"));
    }

    #[test]
    fn shown_names_stay_on_one_line_of_utf8() {
        assert_eq!(Shown(b"a\nb\x1b[31m\xffz\\").to_string(), "a\\nb\\x1b[31m\\xffz\\\\");
        assert_eq!(Shown("grün \u{202e}x".as_bytes()).to_string(), "grün \\u{202e}x");
    }
}
