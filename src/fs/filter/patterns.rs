//! Patterns as in gitignore(5): what a line says, and whether it matches a path. The wildcards
//! themselves are matched by `gix-glob`, which does that as git does.

use std::collections::BTreeMap;

use gix_glob::wildmatch::Mode;

/// So many groups of stars in a pattern are more than the matcher follows.
const MANY_STARS: usize = 64;

/// What wildcards, and escapes, begin with.
const SPECIAL: &[u8] = b"*?[\\";

const CLASSES: [&[u8]; 12] = [
    b"alnum", b"alpha", b"blank", b"cntrl", b"digit", b"graph", b"lower", b"print", b"punct",
    b"space", b"upper", b"xdigit",
];

/// Lines of patterns, in their order: the last one that matches decides.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    all: Vec<Pattern>,
    /// The numbers of those that match only what ends with this byte.
    by_last: BTreeMap<u8, Vec<usize>>,
    /// The numbers of the rest.
    others: Vec<usize>,
    /// The lines that git would follow and the matcher does not, counted from 1, and why.
    unheeded: Vec<(usize, Flaw)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    /// Without what is said by the other fields.
    text: Vec<u8>,
    /// How many of its first bytes stand for themselves.
    literal: usize,
    takes_back: bool,
    for_dirs: bool,
    /// It has no slash within: it is a name's, in whatever directory.
    for_names: bool,
}

/// Why a pattern would never match, or not as git has it.
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
    /// Reads a file of patterns, in which those that never match are passed over, as git does it.
    pub fn read(text: &[u8]) -> Self {
        let mut patterns = Self::default();
        for (number, line) in (1..).zip(lines(text)) {
            let Some(pattern) = Pattern::parse(line) else { continue };
            let flaw = pattern.flaw().filter(|flaw| matches!(flaw, Flaw::Stars | Flaw::Slashes));
            patterns.unheeded.extend(flaw.map(|flaw| (number, flaw)));
            patterns.push(pattern);
        }
        patterns
    }

    /// Adds one line.
    ///
    /// # Errors
    /// What is wrong with it.
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

    /// Whether a path, relative to where the patterns hold, is left alone; `None` where no pattern
    /// says anything.
    pub fn excludes(&self, path: &[u8], is_dir: bool) -> Option<bool> {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let last_of = |numbers: &[usize]| {
            let matches = |number: &&usize| self.all[**number].matches(path, name, is_dir);
            numbers.iter().rev().find(matches).copied()
        };
        let by_last = path.last().and_then(|byte| self.by_last.get(byte));
        let last = by_last.and_then(|numbers| last_of(numbers)).max(last_of(&self.others));
        last.map(|number| !self.all[number].takes_back)
    }

    /// The lines of the file that git would follow and the matcher does not, counted from 1, and
    /// why.
    pub fn unheeded(&self) -> &[(usize, Flaw)] {
        &self.unheeded
    }
}

/// The lines of a file of patterns.
pub fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

impl Pattern {
    /// `None` for an empty line and a comment.
    fn parse(line: &[u8]) -> Option<Self> {
        if line.first() == Some(&b'#') {
            return None;
        }
        // To git, a string ends there.
        let line = line.split(|byte| *byte == 0).next().unwrap_or(line);
        let text = without_trailing_blanks(line);
        let (takes_back, text) = text.strip_prefix(b"!").map_or((false, text), |text| (true, text));
        let (for_dirs, text) = text.strip_suffix(b"/").map_or((false, text), |text| (true, text));
        let for_names = !text.contains(&b'/');
        let text = text.strip_prefix(b"/").unwrap_or(text).to_vec();
        let literal = text.iter().position(|byte| SPECIAL.contains(byte)).unwrap_or(text.len());
        (!text.is_empty()).then_some(Self { text, literal, takes_back, for_dirs, for_names })
    }

    /// The byte with which all ends that it matches, where that is plain.
    fn last_byte(&self) -> Option<u8> {
        self.text.last().copied().filter(|byte| !b"*?]\\".contains(byte))
    }

    /// Whether it matches the path of an entry whose name is given too.
    fn matches(&self, path: &[u8], name: &[u8], is_dir: bool) -> bool {
        if self.for_dirs && !is_dir {
            return false;
        }
        let (at, mode) = if self.for_names {
            (name, Mode::empty())
        } else {
            (path, Mode::NO_MATCH_SLASH_LITERAL)
        };
        // Also in git the wildcards begin here, so that a `**` right after a name counts as one
        // after a slash.
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

/// What follows a class in brackets, of which the first one is gone.
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

/// Blanks at the end of a line are not of its pattern, unless a backslash stands before them.
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
