//! Each `twindir` command that README.md and docs/ show is run, as it stands there, in a folder of
//! its own: `~` and `/` of its paths lie in that folder, and the directories that it names are made
//! first.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use rustix::process::Signal;

use crate::support::{DEADLINE, Daemon, Scratch, Tree, wait_until};

const MARKDOWN: Options = Options::ENABLE_TABLES;

const TOP: &str = env!("CARGO_MANIFEST_DIR");

/// A command of the docs: the words after `twindir`.
#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Debug)]
struct Shown {
    page: String,
    words: Vec<String>,
}

fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(Path::new(TOP).join("docs")).unwrap();
    let pages = docs.map(|entry| entry.unwrap().path());
    let mut pages: Vec<_> =
        pages.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    pages.push(Path::new(TOP).join("README.md"));
    pages
}

/// The lines of a page's code blocks, continued ones as one.
fn code_lines(page: &str) -> Vec<String> {
    let (mut is_code, mut code) = (false, String::new());
    for event in Parser::new_ext(page, MARKDOWN) {
        match event {
            Event::Start(Tag::CodeBlock(_)) => is_code = true,
            Event::End(TagEnd::CodeBlock) => is_code = false,
            Event::Text(text) if is_code => code.push_str(&text),
            _ => {}
        }
    }
    code.replace("\\\n", " ").lines().map(|line| line.trim().to_owned()).collect()
}

/// The `twindir` commands of a line of shell.
fn commands_in(line: &str) -> Vec<Vec<String>> {
    // What follows the five fields of a crontab.
    let is_field =
        |field: &&str| field.bytes().all(|byte| byte.is_ascii_digit() || b"*/,-".contains(&byte));
    let is_cron = line.split_whitespace().take_while(is_field).count() >= 5;
    let line =
        if is_cron { line.splitn(6, char::is_whitespace).last().unwrap_or_default() } else { line };
    let is_prompted = line.strip_prefix("$ ").unwrap_or(line);
    let Some(words) = shlex::split(is_prompted) else { return Vec::new() };
    let ends = |word: &String| {
        matches!(word.as_str(), "&&" | "||" | "|" | "&" | ";") || word.starts_with('>')
    };
    let commands = words.split(ends).map(|words| words.iter().map(String::as_str));
    commands
        .filter_map(|mut words| {
            let first =
                words.find(|word| !matches!(*word, "sudo" | "nohup" | "then" | "if" | "exec"))?;
            (first == "twindir").then(|| words.map(str::to_owned).collect())
        })
        .collect()
}

fn shown() -> BTreeSet<Shown> {
    let mut all = BTreeSet::new();
    for path in pages() {
        let page = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        for words in code_lines(&text).iter().flat_map(|line| commands_in(line)) {
            // Of a line of usage, or of output that begins with the program's name.
            if words.iter().any(|word| word.starts_with(['[', '<']) || word.ends_with(':')) {
                continue;
            }
            all.insert(Shown { page: page.clone(), words });
        }
    }
    all
}

/// The options that the help shows with a value.
fn options_with_value(help: &str) -> BTreeSet<String> {
    let mut options = BTreeSet::from(["--generate".to_owned()]);
    for line in help.lines().filter(|line| line.trim_start().starts_with('-')) {
        if line.contains(" <") {
            let names = line.split_whitespace().map(|word| word.trim_end_matches(','));
            options.extend(names.filter(|word| word.starts_with('-')).map(str::to_owned));
        }
    }
    options
}

/// A command, taken apart and with its paths in a folder.
struct Command {
    words: Vec<String>,
    operands: Vec<String>,
    /// Options and their values.
    options: Vec<(String, Option<String>)>,
}

impl Command {
    fn of(shown: &Shown, with_value: &BTreeSet<String>, root: &Path) -> Self {
        let here = |word: &str| match word.strip_prefix("~/").or(word.strip_prefix('/')) {
            Some(below) => root.join(below).to_str().unwrap().to_owned(),
            None => word.to_owned(),
        };
        let (mut words, mut operands, mut options) = (Vec::new(), Vec::new(), Vec::new());
        let mut rest = shown.words.iter().peekable();
        let mut are_options = true;
        while let Some(word) = rest.next() {
            if word == "#" {
                break;
            }
            words.push(here(word));
            if are_options && word == "--" {
                are_options = false;
            } else if are_options && word.starts_with('-') {
                let value = with_value.contains(word).then(|| rest.next().unwrap().clone());
                // Not every value that begins with a slash is a path.
                let is_text = matches!(word.as_str(), "--exclude" | "--on-sync" | "--on-problem");
                let value = value.map(|value| if is_text { value } else { here(&value) });
                words.extend(value.clone());
                options.push((word.clone(), value));
            } else {
                operands.push(here(word));
            }
        }
        Self { words, operands, options }
    }

    fn has(&self, any: &[&str]) -> bool {
        self.options.iter().any(|(option, _)| any.contains(&option.as_str()))
    }

    fn value(&self, option: &str) -> Option<&str> {
        self.options.iter().find(|(name, _)| name == option)?.1.as_deref()
    }
}

fn make_source(at: &Path) {
    Tree::new().file("f", "text").file("d/g", "more").file(".gitignore", "*.o\n").make(at);
}

/// Writes the settings that the docs have, with their paths in the folder. The two roots.
fn make_settings(at: &Path, root: &Path) -> [PathBuf; 2] {
    let example = fs::read_to_string(Path::new(TOP).join("docs/systemd/example.toml")).unwrap();
    let roots = [root.join("srv/photos"), root.join("mnt/backup/photos")];
    let text = ["/srv/", "/mnt/", "/var/"].iter().fold(example, |text, top| {
        text.replace(&format!("\"{top}"), &format!("\"{}{top}", root.display()))
    });
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    fs::write(at, text).unwrap();
    fs::create_dir_all(&roots[1]).unwrap();
    roots
}

#[track_caller]
fn try_it(shown: &Shown, with_value: &BTreeSet<String>) {
    let scratch = Scratch::new();
    let command = Command::of(shown, with_value, scratch.root());
    for option in ["--exclude-from", "--backup-dir"] {
        let Some(path) = command.value(option) else { continue };
        let path = scratch.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if option == "--exclude-from" {
            fs::write(path, "*.o\n").unwrap();
        }
    }
    let operands = &command.operands;
    let roots = match (command.value("--config"), operands.as_slice()) {
        (Some(file), _) => Some(make_settings(&scratch.path(file), scratch.root())),
        (None, [source, replica, ..]) => Some([scratch.path(source), scratch.path(replica)]),
        _ => None,
    };
    if let Some([source, replica]) = &roots {
        make_source(source);
        fs::create_dir_all(replica).unwrap();
    }
    let asked = command.value("--status").or(command.value("--wait"));
    let run = |words: &[String]| scratch.run(words);
    if let Some(replica) = asked {
        make_source(&scratch.source());
        let replica = scratch.path(replica);
        fs::create_dir_all(replica.parent().unwrap()).unwrap();
        let _daemon = Daemon::spawn(scratch.command(["source", replica.to_str().unwrap(), "1h"]));
        let is_there = || run(&command.words).code == Some(0);
        return wait_until(&format!("{shown:?} ends well"), DEADLINE, is_there);
    }
    if command.has(&["--check"]) {
        run(&command.words).expect(1);
        return;
    }
    if command.has(&["--once", "--dry-run", "-n", "--help", "-h", "--version", "-V", "--generate"])
    {
        run(&command.words).expect(0);
        return;
    }
    let [_, replica] = roots.unwrap_or_else(|| panic!("no roots: {shown:?}"));
    let daemon = Daemon::spawn(scratch.command(&command.words));
    let replica = replica.to_str().unwrap();
    wait_until(&format!("{shown:?} is in sync"), DEADLINE, || {
        scratch.run(["--status", replica]).code == Some(0)
    });
    daemon.signal(Signal::TERM);
    daemon.wait(Duration::from_secs(60)).expect(0);
}

#[test]
fn each_command_of_the_docs_works() {
    let help = Scratch::new().run(["--help"]).expect(0).stdout;
    let with_value = options_with_value(&help);
    let all: Vec<Shown> = shown().into_iter().collect();
    assert!(all.len() > 30, "only {} commands were found: {all:?}", all.len());
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(shown) =
                    all.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    try_it(shown, &with_value);
                }
            });
        }
    });
}

/// A page's links, and the anchors of its headings as GitHub makes them.
fn links_and_anchors(page: &str) -> (Vec<String>, BTreeSet<String>) {
    let (mut links, mut anchors, mut heading) = (Vec::new(), BTreeSet::new(), None::<String>);
    for event in Parser::new_ext(page, MARKDOWN) {
        match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                links.push(dest_url.to_string());
            }
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => anchors.extend(heading.take()),
            Event::Text(text) | Event::Code(text) => {
                let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
                let text = text.to_lowercase().chars().filter(kept).collect::<String>();
                if let Some(heading) = &mut heading {
                    heading.push_str(&text.replace(' ', "-"));
                }
            }
            _ => {}
        }
    }
    (links, anchors)
}

#[test]
fn each_link_of_the_docs_leads_somewhere() {
    let mut checked = 0;
    for path in pages().into_iter().chain([Path::new(TOP).join("CHANGELOG.md")]) {
        let (links, _) = links_and_anchors(&fs::read_to_string(&path).unwrap());
        for link in links.iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let file = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            assert!(file.exists(), "{}: {link}", path.display());
            if !anchor.is_empty() {
                let (_, anchors) = links_and_anchors(&fs::read_to_string(&file).unwrap());
                assert!(anchors.contains(anchor), "{}: {link}", path.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 50, "only {checked} links were found");
}
