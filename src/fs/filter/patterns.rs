//! Patterns as in gitignore(5): parses lines, and matches paths. The wildcards are matched by the
//! crate `gix-glob`, in the same way as by git.

use std::collections::BTreeMap;

use gix_glob::wildmatch::Mode;

/// Fewest groups of stars in a pattern that the matcher does not support.
const MANY_STARS: usize = 64;

/// The bytes with which wildcards and escapes begin.
const SPECIAL: &[u8] = b"*?[\\";

const CLASSES: [&[u8]; 12] = [
    b"alnum", b"alpha", b"blank", b"cntrl", b"digit", b"graph", b"lower", b"print", b"punct",
    b"space", b"upper", b"xdigit",
];

/// Patterns in the order of their lines: the last one that matches decides.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    all: Vec<Pattern>,
    /// Indices of patterns that only match paths that end with this byte.
    by_last: BTreeMap<u8, Vec<usize>>,
    /// Indices of the other patterns.
    others: Vec<usize>,
    /// Numbers of the lines that git would follow and the matcher does not, from 1, each with the
    /// reason.
    unsupported: Vec<(usize, Flaw)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    /// The pattern without the parts that the other fields represent.
    text: Vec<u8>,
    /// Number of bytes at its beginning that are no wildcards.
    literal: usize,
    /// The line begins with `!`: a path that matches is not excluded.
    negated: bool,
    /// The line ends with `/`: it matches directories only.
    for_dirs: bool,
    /// It contains no slash: it matches names, in any directory.
    for_names: bool,
}

/// The reason why a pattern never matches, or not in the same way as in git.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Flaw {
    #[error("the class that begins with `[` is not closed by a `]`")]
    Unclosed,
    #[error("a range in `[...]` ends before it begins")]
    Range,
    #[error("`[:...:]` names no class of characters")]
    Class,
    #[error("the `\\` at its end escapes nothing")]
    Escape,
    #[error("it has more than {} groups of stars", MANY_STARS - 1)]
    Stars,
    #[error("it ends in `**//`")]
    Slashes,
}

impl Patterns {
    /// Parses a file of patterns. Patterns that can never match have no effect, as in git. Those
    /// that git would follow and the matcher does not are noted: see [`unsupported`](Self::unsupported()).
    pub fn read(text: &[u8]) -> Self {
        let mut patterns = Self::default();
        for (number, line) in (1..).zip(lines(text)) {
            let Some(pattern) = Pattern::parse(line) else { continue };
            let flaw = pattern.flaw().filter(|flaw| matches!(flaw, Flaw::Stars | Flaw::Slashes));
            patterns.unsupported.extend(flaw.map(|flaw| (number, flaw)));
            patterns.push(pattern);
        }
        patterns
    }

    /// Adds the pattern of one line.
    ///
    /// # Errors
    /// The [`Flaw`] of a pattern that would never match, or not as in git.
    pub fn add(&mut self, line: &[u8]) -> Result<(), Flaw> {
        if let Some(pattern) = Pattern::parse(line) {
            pattern.flaw().map_or(Ok(()), Err)?;
            self.push(pattern);
        }
        Ok(())
    }

    fn push(&mut self, pattern: Pattern) {
        let numbers = match pattern.last_byte() {
            Some(byte) => self.by_last.entry(byte).or_default(),
            None => &mut self.others,
        };
        numbers.push(self.all.len());
        self.all.push(pattern);
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether `path` is excluded; `None` if no pattern matches it. `path` is relative to the
    /// directory of the patterns.
    pub fn excludes(&self, path: &[u8], is_dir: bool) -> Option<bool> {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let last_of = |numbers: &[usize]| {
            let matches = |number: &&usize| self.all[**number].matches(path, name, is_dir);
            numbers.iter().rev().find(matches).copied()
        };
        let by_last = path.last().and_then(|byte| self.by_last.get(byte));
        let last = by_last.and_then(|numbers| last_of(numbers)).max(last_of(&self.others));
        last.map(|number| !self.all[number].negated)
    }

    /// Returns the numbers of the lines that git would follow and the matcher does not, from 1, each
    /// with the reason.
    pub fn unsupported(&self) -> &[(usize, Flaw)] {
        &self.unsupported
    }
}

/// Splits a file of patterns into its lines. A byte order mark, and a carriage return at the end of
/// a line, are dropped.
pub fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

impl Pattern {
    /// Parses a line. Returns `None` for an empty line and a comment.
    fn parse(line: &[u8]) -> Option<Self> {
        if line.first() == Some(&b'#') {
            return None;
        }
        // For git, a string ends at NUL.
        let line = line.split(|byte| *byte == 0).next().unwrap_or(line);
        let text = without_trailing_blanks(line);
        let (negated, text) = text.strip_prefix(b"!").map_or((false, text), |text| (true, text));
        let (for_dirs, text) = text.strip_suffix(b"/").map_or((false, text), |text| (true, text));
        let for_names = !text.contains(&b'/');
        let text = text.strip_prefix(b"/").unwrap_or(text).to_vec();
        let literal = text.iter().position(|byte| SPECIAL.contains(byte)).unwrap_or(text.len());
        (!text.is_empty()).then_some(Self { text, literal, negated, for_dirs, for_names })
    }

    /// Returns the byte with which every path that matches ends, if there is such a byte.
    fn last_byte(&self) -> Option<u8> {
        self.text.last().copied().filter(|byte| !b"*?]\\".contains(byte))
    }

    /// Whether it matches the entry at `path`. `name`: the last component of `path`.
    fn matches(&self, path: &[u8], name: &[u8], is_dir: bool) -> bool {
        if self.for_dirs && !is_dir {
            return false;
        }
        let (at, mode) = if self.for_names {
            (name, Mode::empty())
        } else {
            (path, Mode::NO_MATCH_SLASH_LITERAL)
        };
        // In git too, wildcards begin here. So a `**` right after a name counts as one after a
        // slash.
        let (literal, wild) = self.text.split_at(self.literal);
        match (at.strip_prefix(literal), wild) {
            (None, _) => false,
            (Some(rest), []) => rest.is_empty(),
            (Some(rest), [b'*', end @ ..])
                if self.for_names && !end.iter().any(|byte| SPECIAL.contains(byte)) =>
            {
                rest.ends_with(end)
            }
            (Some(rest), wild) => gix_glob::wildmatch(wild.into(), rest.into(), mode),
        }
    }

    fn flaw(&self) -> Option<Flaw> {
        let mut rest = &self.text[self.literal..];
        if self.for_dirs && rest.ends_with(b"**/") {
            return Some(Flaw::Slashes);
        }
        let mut stars = 0;
        while let Some((byte, after)) = rest.split_first() {
            rest = match byte {
                b'\\' if after.is_empty() => return Some(Flaw::Escape),
                b'\\' => &after[1..],
                b'*' => {
                    stars += 1;
                    let more = after.iter().take_while(|byte| **byte == b'*').count();
                    &after[more..]
                }
                b'[' => match skip_class(after) {
                    Ok(rest) => rest,
                    Err(flaw) => return Some(flaw),
                },
                _ => after,
            };
        }
        (stars >= MANY_STARS).then_some(Flaw::Stars)
    }
}

/// Returns the bytes after a class in brackets. `class`: the bytes after its `[`.
///
/// # Errors
/// The [`Flaw`] of the class.
fn skip_class(class: &[u8]) -> Result<&[u8], Flaw> {
    let mut rest = class.strip_prefix(b"!").or(class.strip_prefix(b"^")).unwrap_or(class);
    let mut begin = None;
    let mut is_first = true;
    loop {
        let (mut byte, after) = rest.split_first().ok_or(Flaw::Unclosed)?;
        rest = after;
        if *byte == b']' && !is_first {
            return Ok(rest);
        }
        is_first = false;
        if *byte == b'[' && rest.first() == Some(&b':') {
            let end = rest.iter().position(|byte| *byte == b']').ok_or(Flaw::Unclosed)?;
            if let Some(name) = rest[1..end].strip_suffix(b":") {
                if !CLASSES.contains(&name) {
                    return Err(Flaw::Class);
                }
                (rest, begin) = (&rest[end + 1..], None);
                continue;
            }
        }
        let is_range =
            *byte == b'-' && begin.is_some() && rest.first().is_some_and(|next| *next != b']');
        if is_range {
            (byte, rest) = rest.split_first().ok_or(Flaw::Unclosed)?;
        }
        if *byte == b'\\' {
            (byte, rest) = rest.split_first().ok_or(Flaw::Unclosed)?;
        }
        if is_range && begin.take().is_some_and(|begin| begin > *byte) {
            return Err(Flaw::Range);
        }
        begin = (!is_range).then_some(*byte);
    }
}

/// Strips blanks at the end of a line, except for one after a backslash.
fn without_trailing_blanks(line: &[u8]) -> &[u8] {
    let mut end = 0;
    let mut is_escaped = false;
    for (index, byte) in line.iter().enumerate() {
        if *byte != b' ' || is_escaped {
            end = index + 1;
        }
        is_escaped = *byte == b'\\' && !is_escaped;
    }
    &line[..end]
}

#[cfg(test)]
#[path = "patterns/tests.rs"]
mod tests;
