//! The order of the code: each folder of `src` imports only from those before it, no files import
//! each other in a circle, and `src/lib.rs` and `docs/architecture.md` say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// From the bottom up. Those of one level know nothing of each other.
const ORDER: [&[&str]; 7] = [
    &["model"],
    &["plan"],
    &["fs"],
    &["report", "watch"],
    &["sweep", "writer"],
    &["daemon"],
    &["app"],
];

/// Of no folder: what benchmarks and tests take hold of.
const ASIDE: [&str; 2] = ["parts", "properties"];

/// The path of a module below the crate, as `plan::queue`.
type Module = Vec<String>;

/// What each file of the program imports, by its module.
struct House {
    files: BTreeMap<Module, BTreeSet<Module>>,
    texts: BTreeMap<Module, String>,
}

impl House {
    fn read() -> Self {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut paths = Vec::new();
        collect(&src, &mut paths);
        let mut texts = BTreeMap::new();
        for path in paths {
            let module = module_of(path.strip_prefix(&src).unwrap());
            let is_aside = module.first().is_none_or(|first| ASIDE.contains(&first.as_str()));
            let is_test = module.iter().any(|part| part == "tests" || part == "properties");
            if !is_aside && !is_test {
                texts.insert(module, fs::read_to_string(&path).unwrap());
            }
        }
        let modules: BTreeSet<Module> = texts.keys().cloned().collect();
        let imports = |module: &Module, text: &String| {
            let mut seen = Imports { here: module.clone(), paths: Vec::new() };
            seen.visit_file(&syn::parse_file(text).unwrap());
            let files = seen.paths.iter().filter_map(|path| file_of(path, &modules));
            files.filter(|other| other != module).collect()
        };
        let files =
            texts.iter().map(|(module, text)| (module.clone(), imports(module, text))).collect();
        Self { files, texts }
    }
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            paths.push(path);
        }
    }
}

fn module_of(path: &Path) -> Module {
    let mut module: Module =
        path.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if module.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        module.pop();
    }
    module
}

/// The file that holds what a path names: the longest part of it that is one.
fn file_of(path: &[String], modules: &BTreeSet<Module>) -> Option<Module> {
    (1..=path.len())
        .rev()
        .map(|length| path[..length].to_vec())
        .find(|module| modules.contains(module))
}

/// The paths of this crate that a file names, from the crate's root; what tests alone import is
/// left out.
struct Imports {
    here: Module,
    paths: Vec<Module>,
}

impl Imports {
    /// Notes a path that begins with `crate`, `super` or `self`.
    fn note(&mut self, path: &[String]) {
        let mut from = match path.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("super" | "self") => self.here.clone(),
            _ => return,
        };
        for part in path {
            match part.as_str() {
                "crate" | "self" => {}
                "super" => _ = from.pop(),
                part => from.push(part.to_owned()),
            }
        }
        self.paths.push(from);
    }

    fn note_tree(&mut self, tree: &syn::UseTree, before: &[String]) {
        let and = |ident: &syn::Ident| [before, &[ident.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.note_tree(&path.tree, &and(&path.ident)),
            syn::UseTree::Name(name) => self.note(&and(&name.ident)),
            syn::UseTree::Rename(rename) => self.note(&and(&rename.ident)),
            syn::UseTree::Glob(_) => self.note(before),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.note_tree(tree, before));
            }
        }
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|word| word == "test")
    })
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_for_tests(&item.attrs) {
            self.note_tree(&item.tree, &[]);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.note(
            &path.segments.iter().map(|segment| segment.ident.to_string()).collect::<Vec<_>>(),
        );
        visit::visit_path(self, path);
    }
}

fn level(module: &Module) -> usize {
    let is_in = |level: &&[&str]| level.contains(&module[0].as_str());
    ORDER
        .iter()
        .position(is_in)
        .unwrap_or_else(|| panic!("src/{} is no folder of the order", module[0]))
}

fn is_parent_and_child(one: &Module, other: &Module) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

#[test]
fn folders_import_only_from_those_before_them() {
    let house = House::read();
    assert!(house.files.len() > 50, "the program was read");
    let wrong: Vec<String> = house
        .files
        .iter()
        .flat_map(|(from, imports)| imports.iter().map(move |to| (from, to)))
        .filter(|(from, to)| from[0] != to[0] && level(to) >= level(from))
        .map(|(from, to)| format!("{} imports {}", from.join("::"), to.join("::")))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let house = House::read();
    // Those of which all imports are known to come to an end.
    let mut done: BTreeSet<&Module> = BTreeSet::new();
    loop {
        let ends = |(from, imports): &(&Module, &BTreeSet<Module>)| {
            !done.contains(from)
                && imports.iter().all(|to| done.contains(to) || is_parent_and_child(from, to))
        };
        let found: Vec<&Module> = house.files.iter().filter(ends).map(|(from, _)| from).collect();
        if found.is_empty() {
            break;
        }
        done.extend(found);
    }
    let in_circles: Vec<String> = house
        .files
        .iter()
        .filter(|(from, _)| !done.contains(from))
        .map(|(from, imports)| {
            let others =
                imports.iter().filter(|to| !done.contains(to) && !is_parent_and_child(from, to));
            format!(
                "{}: {}",
                from.join("::"),
                others.map(|to| to.join("::")).collect::<Vec<_>>().join(", ")
            )
        })
        .collect();
    assert!(in_circles.is_empty(), "{in_circles:#?}");
}

/// Those that make system calls on something else than entries.
const OTHER_CALLS: [&str; 2] = ["watch::inotify", "app::panics"];

#[test]
fn numbers_of_errors_are_known_to_the_file_system_alone() {
    let house = House::read();
    let wrong: Vec<String> = house
        .texts
        .iter()
        .filter(|(module, text)| module[0] != "fs" && text.contains("Errno"))
        .map(|(module, _)| module.join("::"))
        .filter(|module| !OTHER_CALLS.contains(&module.as_str()))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What takes times as arguments, and does nothing by itself.
const PURE: [&[&str]; 3] = [&["model"], &["plan"], &["daemon", "core"]];

/// Words for clocks, threads and channels.
const AROUND: [&str; 6] =
    ["Instant::now", ".elapsed()", "clock::", "std::thread", "crossbeam_channel", "std::fs"];

#[test]
fn the_core_and_what_it_goes_by_have_no_clocks_threads_or_channels() {
    let house = House::read();
    let is_within = |module: &Module, pure: &[&str]| {
        module.len() >= pure.len() && module.iter().zip(pure).all(|(part, pure)| part == pure)
    };
    let is_pure = |module: &Module| PURE.iter().any(|pure| is_within(module, pure));
    let wrong: Vec<String> = house
        .texts
        .iter()
        .filter(|(module, _)| is_pure(module))
        .flat_map(|(module, text)| {
            // What is after it are its tests.
            let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let used = AROUND.iter().filter(|word| text.contains(**word));
            used.map(|word| format!("{}: {word}", module.join("::"))).collect::<Vec<_>>()
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Permits that are given without a rule, and who may ask for them.
const WITHOUT_A_RULE: [(&str, &str); 2] = [
    ("RemovalPermit::in_backup", "writer::fs::backup"),
    ("RemovalPermit::for_unknown", "writer::fs::round::removable"),
];

#[test]
fn nobody_else_takes_a_permit_to_remove_without_asking_the_rules() {
    let house = House::read();
    for (permit, module) in WITHOUT_A_RULE {
        let users = house.texts.iter().filter(|(_, text)| text.contains(permit));
        let users: Vec<String> = users.map(|(module, _)| module.join("::")).collect();
        assert_eq!(users, [module], "{permit}");
    }
}

#[test]
fn the_list_of_modules_and_the_map_say_the_same() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lib = fs::read_to_string(root.join("src/lib.rs")).unwrap();
    let listed: Vec<&str> = lib
        .lines()
        .filter_map(|line| {
            line.strip_prefix("pub ").unwrap_or(line).strip_prefix("mod ")?.split(';').next()
        })
        .filter(|module| !ASIDE.contains(module))
        .collect();
    let mut expected: Vec<&str> = ORDER.concat();
    expected.reverse();
    assert_eq!(listed, expected, "src/lib.rs, from the top down");
    let map = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let map = map.split_whitespace().collect::<Vec<_>>().join(" ");
    let level = |names: &&[&str]| {
        names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    };
    let order = ORDER.iter().map(level).collect::<Vec<_>>().join(" < ");
    assert!(map.contains(&order), "docs/architecture.md lacks: {order}");
}

/// Calls that fail in unit tests alone.
const UNMAPPED: [&str; 1] = ["fs::tree::sys"];

#[test]
fn every_module_is_on_the_map() {
    let house = House::read();
    let map = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    let map = fs::read_to_string(map).unwrap();
    let named: BTreeSet<&str> =
        map.split('`').skip(1).step_by(2).flat_map(|name| name.split("::")).collect();
    let missing: Vec<String> = house
        .texts
        .keys()
        .filter(|module| module.last().is_some_and(|last| !named.contains(last.as_str())))
        .map(|module| module.join("::"))
        .filter(|module| !UNMAPPED.iter().any(|unmapped| module.starts_with(unmapped)))
        .collect();
    assert!(missing.is_empty(), "docs/architecture.md lacks {missing:?}");
}
