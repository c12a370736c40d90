//! The log as a record for machines: JSON with stable keys, and enough to know from it what the
//! replica holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::histories::world::World;
use crate::support::json::Json;
use crate::support::{
    Daemon, EXIT_LIMIT, Kind, LogLine, Run, Scratch, Snapshot, Tree, set_mode, set_mtime,
};
use rustix::process::Signal;

const ONCE: [&str; 9] =
    ["--once", "--max-delete", "100%", "--log-format", "json", "source", "replica", "60", "log"];

/// A run that writes JSON; what the file has of it.
#[track_caller]
fn logged(scratch: &Scratch, code: i32) -> (Run, Vec<Json>) {
    let before = fs::read_to_string(scratch.log()).unwrap_or_default();
    let run = scratch.run(ONCE).expect(code);
    let log = fs::read_to_string(scratch.log()).expect("valid UTF-8");
    let lines = Json::parse_lines(log.strip_prefix(&before).expect("appended"));
    (run, lines)
}

fn is_action(line: &Json) -> bool {
    matches!(line.text("op"), "created" | "updated" | "removed")
}

/// A source whose second sync has an action of each kind, a warning, a silent difference and a
/// Problem.
fn eventful() -> Scratch {
    let tree = Tree::new()
        .file("size", "before")
        .file("md5", "before")
        .file("mode", "before")
        .file("silent", "before")
        .file("gone", "before")
        .file("kind", "before")
        .file("bad", "before")
        .file("tree/a/b", "text")
        .symlink("target", "before");
    let scratch = Scratch::ordinary().with_source(&tree);
    scratch.sync();
    let at = |name: &str| scratch.source().join(name);
    fs::write(at("size"), "longer than before").unwrap();
    fs::write(at("md5"), "BEFORE").unwrap();
    set_mode(&at("mode"), 0o600);
    fs::remove_file(at("gone")).unwrap();
    fs::remove_file(at("kind")).unwrap();
    fs::create_dir(at("kind")).unwrap();
    fs::remove_file(at("target")).unwrap();
    std::os::unix::fs::symlink("behind", at("target")).unwrap();
    fs::remove_dir_all(at("tree")).unwrap();
    fs::write(at("new"), "text").unwrap();
    Tree::new().fifo("fifo").make(&scratch.source());
    let silent = scratch.replica().join("silent");
    let time = Snapshot::of(&scratch.replica()).get("silent").unwrap().mtime;
    fs::write(&silent, "bEfore").unwrap();
    set_mtime(&silent, time.0, time.1);
    scratch.own(&scratch.source());
    // Ownership set, unreadable now.
    fs::write(at("bad"), "longer than before").unwrap();
    set_mode(&at("bad"), 0);
    scratch
}

#[test]
fn every_line_of_console_and_file_is_one_object() {
    let scratch = eventful();
    let (run, file) = logged(&scratch, 1);
    let console: Vec<Json> =
        [&run.stdout, &run.stderr].iter().flat_map(|text| Json::parse_lines(text)).collect();
    assert!(!run.stderr.is_empty(), "warnings and errors go to stderr\n{run}");
    for line in file.iter().chain(&console) {
        for key in ["timestamp", "level", "op"] {
            assert!(!line.text(key).is_empty(), "no {key}: {line:?}");
        }
        // The same form as in the text log.
        let text = format!("{} {} {}", line.text("timestamp"), line.text("level"), line.text("op"));
        LogLine::parse(&text);
    }
    let of = |lines: &[Json]| -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for line in lines {
            let path = line.text("path");
            *counts
                .entry(format!("{} {} {path}", line.text("level"), line.text("op")))
                .or_default() += 1;
        }
        counts
    };
    assert_eq!(of(&file), of(&console), "both say the same\n{run}");
    for line in ["ERROR problem bad", "WARN silent silent", "INFO removed tree"] {
        assert_eq!(of(&file).get(line), Some(&1), "{line}\n{run}");
    }
}

#[test]
fn an_action_has_its_keys() {
    let scratch = eventful();
    let (run, file) = logged(&scratch, 1);
    let wanted = [
        ("size", "updated", "file", "size", Some(18.0)),
        ("md5", "updated", "file", "md5", Some(6.0)),
        ("silent", "updated", "file", "md5", Some(6.0)),
        ("mode", "updated", "file", "metadata", None),
        ("new", "created", "file", "new", Some(4.0)),
        ("gone", "removed", "file", "removed", None),
        ("kind", "updated", "dir", "kind", None),
        ("target", "updated", "symlink", "target", None),
        ("tree", "removed", "dir", "removed", None),
    ];
    let actions: Vec<&Json> = file.iter().filter(|line| is_action(line)).collect();
    for (path, op, kind, reason, bytes) in wanted {
        let found: Vec<_> = actions.iter().filter(|line| line.text("path") == path).collect();
        assert_eq!(found.len(), 1, "{path}\n{run}");
        let line = found[0];
        let said = (line.text("op"), line.text("kind"), line.text("reason"), line.number("bytes"));
        assert_eq!(said, (op, kind, reason, bytes), "{line:?}");
        assert_eq!(line.text("detector"), "sweep", "{line:?}");
        assert!(line.number("lag").is_some_and(|lag| (0.0..60.0).contains(&lag)), "{line:?}");
    }
    assert_eq!(actions.len(), wanted.len(), "{run}");
    let tree = actions.iter().find(|line| line.text("path") == "tree").unwrap();
    assert_eq!(tree.number("entries"), Some(3.0), "{tree:?}");
}

/// Takes the backslashes away that stand before quotes.
fn without_quote_escapes(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('"') => out.push('"'),
                other => out.extend(['\\'].into_iter().chain(other)),
            },
            _ => out.push(c),
        }
    }
    out
}

const ODD: [&[u8]; 11] = [
    b"line\nbreak",
    b"quote\"quote",
    b"\xff\xfe bytes",
    b"back\\slash",
    b"back\\\"both",
    b"ends in \\",
    b"\ttab\r",
    b"\x1b[31mred",
    "right\u{202e}left".as_bytes(),
    "caf\u{e9} \u{1f600}".as_bytes(),
    b"key=value path=\"x\"",
];

#[test]
fn odd_names_are_escaped_as_in_the_text_log() {
    let tree = ODD.iter().fold(Tree::new(), |tree, name| tree.file(name, "text"));
    let scratch = Scratch::new().with_source(&tree);
    let (_, json) = logged(&scratch, 0);
    fs::remove_dir_all(scratch.replica()).unwrap();
    fs::remove_file(scratch.log()).unwrap();
    scratch.once(&["60", "log"]).expect(0);
    let text = LogLine::parse_all(&fs::read_to_string(scratch.log()).unwrap());

    let created = json.iter().filter(|line| is_action(line));
    let in_json: BTreeSet<String> = created.map(|line| line.text("path").to_owned()).collect();
    let created = text.iter().filter(|line| line.is_action());
    let in_text: BTreeSet<String> =
        created.map(|line| without_quote_escapes(line.get("path"))).collect();
    assert_eq!(in_json, in_text);
    let read: BTreeSet<Vec<u8>> = in_json.iter().map(|path| unescape(path)).collect();
    assert_eq!(
        read,
        ODD.iter().map(|name| name.to_vec()).collect(),
        "a reader gets the names back"
    );
    let unprintable = |c: &char| c.is_control() || *c == '\u{202e}';
    assert_eq!(in_json.iter().find(|path| path.chars().any(|c| unprintable(&c))), None);
}

/// The bytes of a path as the log shows it.
fn unescape(path: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = path;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = &rest[at + 1..];
        let used = match escape.as_bytes()[0] {
            b'x' => {
                out.push(u8::from_str_radix(&escape[1..3], 16).unwrap());
                3
            }
            b'u' => {
                let end = escape.find('}').unwrap();
                let c = char::from_u32(u32::from_str_radix(&escape[2..end], 16).unwrap()).unwrap();
                out.extend_from_slice(c.to_string().as_bytes());
                end + 1
            }
            plain => {
                let known = [(b'n', b'\n'), (b't', b'\t'), (b'r', b'\r'), (b'\\', b'\\')];
                let found = known.iter().find(|(letter, _)| *letter == plain);
                out.push(found.unwrap_or_else(|| panic!("unknown escape in {path}")).1);
                1
            }
        };
        rest = &escape[used..];
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

/// What the replica holds, by the log alone: the kind of each path.
#[derive(Default)]
struct Ledger(BTreeMap<Vec<u8>, String>);

impl Ledger {
    #[track_caller]
    fn enter(&mut self, line: &Json) {
        let path = unescape(line.text("path"));
        if path == b"." {
            return;
        }
        let (op, kind) = (line.text("op"), line.text("kind"));
        match op {
            "created" => {
                let before = self.0.insert(path.clone(), kind.to_owned());
                assert_eq!(before, None, "created, but it stands: {line:?}");
                self.assert_parent(&path, line);
            }
            "updated" => {
                let before = self.0.insert(path.clone(), kind.to_owned());
                assert!(before.is_some(), "updated, but it does not stand: {line:?}");
                if kind != "dir" {
                    self.drop_below(&path);
                }
            }
            "removed" => {
                let before = self.0.remove(&path);
                assert_eq!(before.as_deref(), Some(kind), "removed: {line:?}");
                self.drop_below(&path);
            }
            _ => {}
        }
    }

    #[track_caller]
    fn assert_parent(&self, path: &[u8], line: &Json) {
        if let Some(at) = path.iter().rposition(|byte| *byte == b'/') {
            let parent = self.0.get(&path[..at]).map(String::as_str);
            assert_eq!(parent, Some("dir"), "created in what does not stand: {line:?}");
        }
    }

    fn drop_below(&mut self, path: &[u8]) {
        let prefix = [path, b"/"].concat();
        self.0.retain(|other, _| !other.starts_with(&prefix));
    }

    #[track_caller]
    fn assert_is(&self, snapshot: &Snapshot) {
        let kind = |kind: &Kind| match kind {
            Kind::File(_) => "file",
            Kind::Dir => "dir",
            Kind::Symlink(_) => "symlink",
            Kind::Special => "special",
        };
        let entries = snapshot.entries.iter().filter(|(name, _)| !name.is_empty());
        let held: BTreeMap<Vec<u8>, String> =
            entries.map(|(name, entry)| (name.clone(), kind(&entry.kind).to_owned())).collect();
        let only = |a: &BTreeMap<Vec<u8>, String>, b: &BTreeMap<Vec<u8>, String>| -> Vec<String> {
            let missing = a.iter().filter(|(name, kind)| b.get(*name) != Some(*kind));
            missing.map(|(name, kind)| format!("{kind} \"{}\"", name.escape_ascii())).collect()
        };
        let (by_log, on_disk) = (only(&self.0, &held), only(&held, &self.0));
        assert!(
            by_log.is_empty() && on_disk.is_empty(),
            "only in the log: {by_log:?}\nonly held: {on_disk:?}"
        );
    }
}

/// A history of runs and sweeps; after each run, the log says what the replica holds.
fn read_along(seed: u64) {
    println!("seed {seed}");
    let scratch = Scratch::new().with_source(&Tree::new().file("first", "text"));
    let mut world = World::new(&scratch, seed);
    let mut ledger = Ledger::default();
    world.plant(30);
    for _ in 0..8 {
        let (_, lines) = logged(&scratch, 0);
        for line in &lines {
            ledger.enter(line);
        }
        ledger.assert_is(&Snapshot::of(&scratch.replica()));
        world.operate(12);
    }
    // The same while a daemon sweeps.
    let before = fs::read_to_string(scratch.log()).unwrap().len();
    let arguments = [
        "--max-delete",
        "100%",
        "--log-format",
        "json",
        "--interval-only",
        "source",
        "replica",
        "0.1",
        "log",
    ];
    let daemon = Daemon::spawn(scratch.command(arguments));
    for _ in 0..7 {
        world.operate(12);
        scratch.wait_twins();
    }
    daemon.signal(Signal::TERM);
    daemon.wait(EXIT_LIMIT).expect(0);
    let log = fs::read_to_string(scratch.log()).unwrap();
    for line in &Json::parse_lines(&log[before..]) {
        ledger.enter(line);
    }
    ledger.assert_is(&Snapshot::of(&scratch.replica()));
}

#[test]
fn a_reader_of_the_log_knows_what_the_replica_holds() {
    for seed in [7, 8] {
        read_along(seed);
    }
}

#[test]
#[ignore = "takes minutes; TWINDIR_SEEDS says how many"]
fn a_reader_of_many_logs_knows_what_the_replicas_hold() {
    let seeds = crate::support::how_many("TWINDIR_SEEDS", 100);
    for seed in 1000..1000 + seeds {
        read_along(seed);
    }
}
