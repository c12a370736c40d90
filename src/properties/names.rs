//! Names, paths, their form for people, and patterns.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::holds;
use crate::fs::filter::{Filter, Flaw, Patterns};
use crate::fs::tree::Root;
use crate::model::error::Side;
use crate::model::path::{Name, RelPath, Shown, is_reserved};

/// Makes any bytes, with a preference for those with a meaning.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(
        prop_oneof![
            Just(b'/'),
            Just(b'.'),
            Just(0),
            Just(b'\\'),
            Just(b'\n'),
            b'a'..b'd',
            any::<u8>()
        ],
        0..12,
    )
}

fn name() -> impl Strategy<Value = Name> {
    bytes().prop_filter_map("no name", |bytes| Name::new(&bytes))
}

fn path() -> impl Strategy<Value = RelPath> {
    let short = prop_oneof![Just(&b"a"[..]), Just(&b"ab"[..]), Just(&b"\xff"[..])];
    vec(short, 0..5).prop_map(|names| RelPath::new(&names.join(&b'/')).unwrap())
}

#[test]
fn a_path_is_made_of_names_and_falls_into_them_again() {
    holds(&bytes(), |bytes| {
        let parts: Vec<_> = bytes.split(|byte| *byte == b'/').collect();
        let are_names = parts.iter().all(|part| Name::new(part).is_some());
        let path = RelPath::new(&bytes);
        assert_eq!(path.is_some(), are_names || bytes.is_empty());
        let Some(path) = path else { return };
        assert_eq!(path.as_bytes(), bytes);
        assert_eq!(
            path.ancestors_and_self().count(),
            if bytes.is_empty() { 0 } else { parts.len() }
        );
        match path.split() {
            Some((dir, name)) => assert_eq!(dir.join(&name), path),
            None => assert!(path.is_root()),
        }
    });
}

#[test]
fn what_lies_within_a_directory_goes_along_and_comes_back() {
    holds(&(path(), path(), path()), |(path, from, to)| {
        let is_within =
            from.is_root() || path == from || path.ancestors_and_self().any(|above| above == from);
        assert_eq!(path.is_within(&from), is_within);
        match path.rebased(&from, &to) {
            Some(moved) if !to.is_root() => assert_eq!(moved.rebased(&to, &from), Some(path)),
            Some(_) => {}
            None => assert!(from.is_root() || !is_within),
        }
    });
}

#[test]
fn what_is_shown_is_one_line_and_can_be_told_back() {
    holds(&bytes(), |bytes| {
        let shown = Shown(&bytes).to_string();
        assert!(
            !shown.contains(|c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c))
        );
        assert_eq!(told_back(&shown), bytes, "{shown}");
    });
}

/// Undoes the escapes, as a reader of the log does.
fn told_back(shown: &str) -> Vec<u8> {
    let (mut told, mut rest) = (Vec::new(), shown);
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c != '\\' {
            told.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let kind = rest.as_bytes()[0];
        rest = &rest[1..];
        match kind {
            b'\\' => told.push(b'\\'),
            b'n' => told.push(b'\n'),
            b't' => told.push(b'\t'),
            b'r' => told.push(b'\r'),
            b'x' => {
                told.push(u8::from_str_radix(&rest[..2], 16).unwrap());
                rest = &rest[2..];
            }
            _ => {
                let (digits, after) = rest[1..].split_once('}').unwrap();
                let c = char::from_u32(u32::from_str_radix(digits, 16).unwrap()).unwrap();
                told.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = after;
            }
        }
    }
    told
}

#[test]
fn a_reserved_name_is_one_that_a_number_makes() {
    let altered = (any::<u64>(), 0..29_usize, any::<u8>()).prop_map(|(number, at, byte)| {
        let mut bytes = Name::reserved(number).as_bytes().to_vec();
        bytes[at] = byte;
        bytes
    });
    holds(&altered, |bytes| {
        let digits = std::str::from_utf8(bytes.get(9..25).unwrap_or_default()).unwrap_or_default();
        let number = u64::from_str_radix(digits, 16);
        assert_eq!(
            is_reserved(&bytes),
            number.is_ok_and(|number| Name::reserved(number).as_bytes() == bytes)
        );
    });
}

fn patterns(lines: &[String]) -> Result<Patterns, Flaw> {
    let mut patterns = Patterns::default();
    lines.iter().try_for_each(|line| patterns.add(line.as_bytes()))?;
    Ok(patterns)
}

#[test]
fn any_line_is_a_pattern_or_is_refused() {
    let line = "[a-c/*?!#{}\\[\\]\\\\ .^-]{0,12}|.{0,12}";
    holds(&(vec(line, 0..4), name(), any::<bool>()), |(lines, name, is_dir)| {
        if let Ok(rules) = patterns(&lines) {
            let filter = Filter::new(rules, false);
            filter.at(&RelPath::root()).excludes(name.as_bytes(), is_dir);
        }
    });
}

#[test]
fn any_bytes_are_a_file_of_patterns() {
    let top = tempfile::tempdir().unwrap();
    let root = Root::new(top.path(), Side::Source);
    let text = vec(prop_oneof![any::<u8>(), select(b"*?!#{}[]\\/ab\n".to_vec())], 0..40);
    holds(&(text, name(), any::<bool>()), |(text, name, is_dir)| {
        std::fs::write(top.path().join(".gitignore"), text).unwrap();
        let filter = Filter::new(Patterns::default(), true);
        filter.refresh(&RelPath::root(), &root.open_source().unwrap().0, |_| true);
        filter.at(&RelPath::root()).excludes(name.as_bytes(), is_dir);
    });
}

#[test]
fn a_name_with_its_special_characters_escaped_excludes_itself_alone() {
    let text = || {
        "[ab*?!#{}\\[\\]\\\\ ,^-]{1,4}"
            .prop_filter("no name", |text| Name::new(text.as_bytes()).is_some())
    };
    holds(&(text(), text()), |(text, other)| {
        let escaped: String = text.chars().flat_map(|c| ['\\', c]).collect();
        let filter = Filter::new(patterns(&[format!("/{escaped}")]).unwrap(), false);
        let root = filter.at(&RelPath::root());
        assert!(root.excludes(text.as_bytes(), false), "{escaped} against {text}");
        assert_eq!(
            root.excludes(other.as_bytes(), false),
            other == text,
            "{escaped} against {other}"
        );
    });
}
