use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use super::*;

fn is_matched(pattern: &str, path: &str, is_dir: bool) -> bool {
    let mut patterns = Patterns::default();
    patterns.add(pattern.as_bytes()).unwrap();
    patterns.excludes(path.as_bytes(), is_dir).is_some()
}

#[test]
fn a_pattern_that_never_matches_is_refused() {
    for (pattern, flaw) in [
        ("a[", Flaw::Unclosed),
        ("a[]", Flaw::Unclosed),
        ("a[!", Flaw::Unclosed),
        ("a[!]", Flaw::Unclosed),
        ("a[b-", Flaw::Unclosed),
        ("a[b\\", Flaw::Unclosed),
        ("a[[:alpha:]", Flaw::Unclosed),
        ("a[[:alpha:", Flaw::Unclosed),
        ("[z-a]", Flaw::Range),
        ("x[a-c\\z-y]", Flaw::Range),
        ("[[:vowel:]]", Flaw::Class),
        ("[[:ALPHA:]]", Flaw::Class),
        ("a\\", Flaw::Escape),
        ("a*\\\\\\", Flaw::Escape),
    ] {
        assert_eq!(Patterns::default().add(pattern.as_bytes()), Err(flaw), "{pattern}");
    }
    for pattern in [
        "a]",
        "[]]",
        "[!]a]",
        "[a-]",
        "[-a]",
        "[\\]]",
        "[[]",
        "[[:]",
        "[a-c-e]",
        "[[:alpha:]-z]",
        "\\[",
        "a\\\\",
    ] {
        assert_eq!(Patterns::default().add(pattern.as_bytes()), Ok(()), "{pattern}");
    }
}

#[test]
fn stars_beyond_what_the_matcher_follows_are_refused() {
    let stars = |number: usize| "*a".repeat(number);
    assert!(is_matched(&stars(MANY_STARS - 1), &"a".repeat(MANY_STARS - 1), false));
    assert_eq!(Patterns::default().add(stars(MANY_STARS).as_bytes()), Err(Flaw::Stars));
    let text = format!("*.o\n{}\n", stars(MANY_STARS));
    let unsupported = |text: &[u8]| Patterns::read(text).unsupported().to_vec();
    assert_eq!(unsupported(text.as_bytes()), [(2, Flaw::Stars)]);
    assert_eq!(
        unsupported(b"b**//\n# two\n\na\nc**//\n"),
        [(1, Flaw::Slashes), (5, Flaw::Slashes)]
    );
    assert_eq!(unsupported(b"b**/\n**/\n"), []);
    assert_eq!(unsupported(b"*.o\n[z-a]\na[\n"), []);
}

#[test]
fn lines_end_as_git_has_it() {
    let text =
        b"\xef\xbb\xbfone\r\ntwo \n# three\n\\#four\nfive\\ \n\n   \nsix\t\nse\0ven\r\r\n\xff";
    let patterns = Patterns::read(text);
    for path in [&b"one"[..], b"two", b"#four", b"five ", b"six\t", b"se", b"\xff"] {
        assert_eq!(patterns.excludes(path, false), Some(true), "{path:?}");
    }
    assert_eq!(patterns.all.len(), 7);
}

/// A git work tree with entries of many names, to compare with the installed git.
struct Git {
    top: tempfile::TempDir,
    /// Paths of files, and of directories with a slash at the end.
    paths: Vec<Vec<u8>>,
}

impl Git {
    /// Returns `None` if git is not installed.
    fn new() -> Option<Self> {
        let top = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        let mut add = |path: &[u8], is_dir: bool| {
            let at = top.path().join("tree").join(std::ffi::OsStr::from_bytes(path));
            if is_dir {
                std::fs::create_dir_all(at).unwrap();
            } else {
                std::fs::create_dir_all(at.parent().unwrap()).unwrap();
                std::fs::write(at, "").unwrap();
            }
            paths.push([path, if is_dir { &b"/"[..] } else { b"" }].concat());
        };
        for name in NAMES {
            add(name.as_bytes(), false);
        }
        for byte in (1..=255_u8).filter(|byte| !b"/.".contains(byte)) {
            add(&[b'-', byte], false);
        }
        for path in PATHS {
            add(path.trim_end_matches('/').as_bytes(), path.ends_with('/'));
        }
        let git = Self { top, paths };
        git.run(&["init", "-q", "tree"], b"").map(|_| git)
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(self.top.path());
        command
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("HOME", self.top.path());
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
            command.env_remove(name);
        }
        let pipe = Stdio::piped;
        let mut child = command.stdin(pipe()).stdout(pipe()).stderr(Stdio::null()).spawn().ok()?;
        child.stdin.take().unwrap().write_all(input).unwrap();
        Some(child.wait_with_output().unwrap().stdout)
    }

    /// Returns the paths that the pattern matches in git, as excluded or as not excluded (`!`).
    fn matched(&self, pattern: &[u8]) -> Vec<&[u8]> {
        std::fs::write(self.top.path().join("tree/.git/info/exclude"), [pattern, b"\n"].concat())
            .unwrap();
        let bare = |path: &Vec<u8>| [path.strip_suffix(b"/").unwrap_or(path), b"\0"].concat();
        let input: Vec<u8> = self.paths.iter().flat_map(bare).collect();
        let arguments = [
            "-C",
            "tree",
            "check-ignore",
            "--no-index",
            "--stdin",
            "-z",
            "--verbose",
            "--non-matching",
        ];
        let output = self.run(&arguments, &input).unwrap();
        let fields: Vec<&[u8]> = output.split(|byte| *byte == 0).collect();
        let told: Vec<_> = fields.chunks_exact(4).map(|of_path| !of_path[0].is_empty()).collect();
        assert_eq!(told.len(), self.paths.len(), "{}", String::from_utf8_lossy(pattern));
        self.paths.iter().zip(told).filter(|(_, told)| *told).map(|(path, _)| &path[..]).collect()
    }

    /// Does the same by [`Patterns`]. A path also counts if a directory above it is excluded.
    fn matched_here(&self, pattern: &[u8]) -> Vec<&[u8]> {
        let patterns = Patterns::read(pattern);
        let is_matched = |path: &[u8]| {
            let below = path.strip_suffix(b"/").unwrap_or(path);
            let slashes =
                below.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
            let above = |at: usize| patterns.excludes(&below[..at], true);
            slashes.map(above).any(|found| found == Some(true))
                || patterns.excludes(below, path.ends_with(b"/")).is_some()
        };
        self.paths.iter().map(Vec::as_slice).filter(|path| is_matched(path)).collect()
    }

    /// Returns the patterns that match other paths in git, and both results.
    fn differences(&self, patterns: impl IntoIterator<Item = Vec<u8>>) -> Vec<String> {
        let shown = |paths: Vec<&[u8]>| {
            paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect::<Vec<_>>()
        };
        let mut differences = Vec::new();
        for pattern in patterns {
            let (git, here) = (self.matched(&pattern), self.matched_here(&pattern));
            if git != here {
                let pattern = String::from_utf8_lossy(&pattern).into_owned();
                differences.push(format!(
                    "{pattern:?}\n git  {:?}\n here {:?}",
                    shown(git),
                    shown(here)
                ));
            }
        }
        differences
    }
}

#[rustfmt::skip]
const NAMES: [&str; 40] = [
    "a", "b", "c", "d", "e", "n", "m", "z", "A", "Z", "0", "5", "_", "]", "[", "^", "!", "#", "\\", "*", "?", "?a",
    "*a", "**", "foo", "foobar", "fooxbar", "foo*bar", "foo\\bar", "bar", "barfoo", "data1", "dataX", "x y", "x ",
    " x", "$", "aXb", "[ab]", "é",
];

#[rustfmt::skip]
const PATHS: [&str; 34] = [
    "data2/keep", "data/", "d1/keep", "dirx/bar/", "foo1/bar", "foo2/x/bar", "fooy/bar/baz", "p/foo/bar",
    "p/q/foo/bar", "p/q/r/bar", "p/fooz/bar", "deep/a/b/c/d/e", "deep/-/]", "deep/ab/ba/", "deep/foo/",
    "deep/data/keep", "s/t/u/v.o", "s/v.o", "s/.hidden", ".hidden", "s/.o", "XXX/abcd/", "ab/cXd/ef", "ab/cYYd/ef",
    "abc/d", "ab/c/d", "aab/cd", "-/x", "!x/y", "#x/y", "t a/b c", "t a /b", "u\\v/w", "[x]/y",
];

fn patterns() -> Vec<Vec<u8>> {
    let mut all: Vec<String> = Vec::new();
    // Each part alone, anchored, for directories, with `!`, and within and after other parts.
    #[rustfmt::skip]
    let parts = [
    "a", "foo", "?", "??", "*", "**", "***", "*o", "f*", "*a*", "**o", "a**b", "f?o", "[abc]", "[!abc]", "[^abc]",
    "[a-e]", "[!a-e]", "[^a-z]", "[a-e-n]", "[e-]", "[-a]", "[]a]", "[!]a]", "[\\]]", "[\\]a]", "[\\\\]", "[\\-a]",
    "[a\\-z]", "[a-\\e]", "[\\a-e]", "[[]", "[[a]", "[]-a]", "[^]-a]", "[z-a]", "[a-a]", "[!-]", "[!!]", "[^^]",
    "[,-.]", "[*]", "[?]", "[.]", "[/]", "[!/]", "[a-z", "[", "[]", "[!", "[!]", "[a", "[\\", "a[", "[-", "[a-",
    "[a-]", "\\", "\\a", "\\*", "\\?", "\\[", "\\[ab\\]", "\\\\", "a\\", "\\]", "\\-", "\\foo", "f\\oo",
    "[[:alpha:]]", "[[:digit:]]", "[[:upper:]]", "[[:lower:]]", "[[:alnum:]]", "[[:space:]]", "[[:blank:]]",
    "[[:punct:]]", "[[:print:]]", "[[:graph:]]", "[[:cntrl:]]", "[[:xdigit:]]", "[![:alpha:]]", "[^[:digit:]]",
    "[[:digit:][:upper:]]", "[a[:digit:]b]", "[[:digit:]-z]", "[a-[:digit:]]", "[[:vowel:]]", "[[:alpha:]",
    "[[:alpha]", "[:alpha:]", "[[:]", "[[:a]", "[[:]a]", "[[::]]", "[[:alpha:]a-e-n]", "[\\[:alpha:]]", "[[:ALPHA:]]",
    "{a,b}", "(a|b)", "+(a)", "$", "~", "é", "[é]",
    ];
    for part in parts {
        all.extend([part.to_owned(), format!("/{part}"), format!("{part}/"), format!("!{part}")]);
        all.extend([
            format!("-{part}"),
            format!("foo{part}bar"),
            format!("data{part}*"),
            format!("{part}/{part}"),
        ]);
        all.extend([
            format!("**/{part}"),
            format!("{part}/**"),
            format!("deep/{part}/*"),
            format!("p/{part}/bar"),
        ]);
    }
    #[rustfmt::skip]
    let lines = [
    "data[!0-9]*", "foo[^a-z]bar", "foo**/bar", "foo\\/", "foo\\/bar", "foo/\\bar", "p/**/bar", "p/**/**/bar",
    "p**/bar", "**/foo**", "**foo", "**/foo/**/bar", "*/foo", "*/*/foo", "/*/foo", "/**/foo", "foo/**", "foo**",
    "f**/b*r", "**/**/bar", "**/*/bar", "s/**.o", "*.o", "/*.o", "s/*.o", "s/*", ".*", "s/.*", "*/", "**/", "/", "//",
    "///", "a//b", "/ab//c", "", " ", "  ", "\t", "!", "!!", "!/", "\\!", "\\!x", "\\#", "\\#x", "#", "#x", "!#x",
    " x", "x ", "x\\ ", "x\\  ", "x \\", "x y", "x\\ y", "t a", "t*b", "t a /b", "t\\ a/*", "\\*\\*", "[*][*]",
    "foo\\*bar", "foo\\\\bar", "foo[\\*]bar", "foo[*\\\\]bar", "a[]]b", "-[[:space:]", "-[\t-\r]", "-[ -~]", "-[!-~]",
    "-[^ -~]", "-[\\t-z]", "ab/c*d/ef", "ab/c**d/ef", "ab/c?d/ef", "a*/c*d/*f", "**/c*d/**", "ab**/d", "a**/d",
    "a*b/c*", "*b/c*", "*/c*/d", "u\\\\v/w", "u*/w", "\\[x]/y", "[[]x]/y", "./a", "a/.", "../a", "a/..", "deep/./a",
    "deep/a/b/c/d/e", "deep/**/e", "deep/*/*/*/*/e", "d**e", "/deep", "deep/", "/deep/", "XXX/*/", "XXX/**", "xxx",
    "**/X*", "-\x01", "-[\x01-\x1f]", "-\u{7f}", "a\r", "a\0b",
    ];
    all.extend(lines.map(str::to_owned));
    let mut bytes: Vec<Vec<u8>> = all.into_iter().map(String::into_bytes).collect();
    bytes.extend([
        b"-\xff".to_vec(),
        b"-[\x80-\xff]".to_vec(),
        b"-[\xe9]".to_vec(),
        b"\xe9".to_vec(),
        b"-[^\x01-\x7f]".to_vec(),
    ]);
    bytes
}

#[test]
fn they_match_what_git_matches() {
    let Some(git) = Git::new() else { return println!("skipped: there is no git") };
    let all = patterns();
    let number = all.len();
    let differences = git.differences(all);
    assert!(
        differences.is_empty(),
        "{} of {number} differ\n{}",
        differences.len(),
        differences.join("\n")
    );
}

/// Returns patterns of one to seven random pieces, if the matcher supports them.
fn random_patterns(seed: u64, number: usize) -> Vec<Vec<u8>> {
    #[rustfmt::skip]
    const PIECES: [&str; 30] = [
        "a", "b", "foo", "bar", "*", "*", "**", "**/", "/**", "?", "[", "]", "[!", "[^", "-", "\\", "/", "/", "!", "#", " ", "x", "d",
        "[:alpha:]", "[:digit:]", "[[:upper:]]", "[a-e]", "[]", "deep", "p",
    ];
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut piece = || PIECES[rng.usize(..PIECES.len())].to_owned();
    let lengths: Vec<usize> = (0..number).map(|index| 1 + index % 7).collect();
    let patterns = lengths
        .into_iter()
        .map(|length| (0..length).map(|_| piece()).collect::<String>().into_bytes());
    patterns.filter(|pattern| Patterns::read(pattern).unsupported().is_empty()).collect()
}

#[test]
fn random_ones_match_what_git_matches() {
    let Some(git) = Git::new() else { return println!("skipped: there is no git") };
    let differences = git.differences(random_patterns(1, 200));
    assert!(differences.is_empty(), "{} differ\n{}", differences.len(), differences.join("\n"));
}

#[test]
#[ignore = "long: asks git for many patterns"]
fn many_random_ones_match_what_git_matches() {
    let Some(git) = Git::new() else { return println!("skipped: there is no git") };
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let differences = git.differences(random_patterns(seed, 20_000));
    assert!(differences.is_empty(), "{} differ\n{}", differences.len(), differences.join("\n"));
}
