//! The rules of the house, read off the sources themselves.
//!
//! Each rule is a function from a file to the violations in it, one line each.
//! `the_repository_is_tidy` applies all of them to every file of the repository;
//! `every_rule_catches_what_it_forbids` plants violations and sees them caught.
//!
//! Rust is read as tokens, so comments and strings do not count, and `use` trees
//! and chains of `super` are followed to the folder they name. Macros are not
//! expanded.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The folders of `src/`. One imports only from those on a line above its own.
const LAYERS: &[&[&str]] = &[
    &["base"],
    &["model"],
    &["config", "effect", "metrics", "wire"],
    &["log", "metadata"],
    &["raft", "replica", "rsm", "security"],
    &["controller", "group", "transaction"],
    &["mesh"],
    &["api", "connection"],
    &["shard"],
    &["runtime"],
    &["control"],
    &["node"],
    &["cli"],
    &["docs"],
];

/// The last of the folders that touch neither files, sockets, clocks, threads,
/// locks nor anything whose order differs from run to run.
const LAST_PURE: &str = "shard";

/// What those folders do not name, by the beginning of a path.
const IMPURE_PATHS: &[&[&str]] = &[
    &["std", "env"],
    &["std", "fs"],
    &["std", "net", "TcpListener"],
    &["std", "net", "TcpStream"],
    &["std", "net", "UdpSocket"],
    &["std", "process"],
    &["io_uring"],
    &["libc"],
    &["rand"],
    &["rustix"],
    &["socket2"],
];

/// What they do not name, wherever it comes from.
const IMPURE_NAMES: &[&str] = &["HashMap", "HashSet", "Mutex", "RwLock"];

/// Names of modules that say nothing about what is in them.
const EMPTY_NAMES: &[&str] =
    &["common", "helper", "helpers", "manager", "misc", "util", "utils", "shared"];

/// Where `unsafe` may be, each with a word on why it is sound.
const UNSAFE_PLACES: &[&str] = &["src/base/pages.rs", "src/base/pages/", "src/runtime/"];

/// The one file of the pure core that asks the system for something: memory, which is
/// asked for by `std` elsewhere.
const MEMORY: (&str, &[&str]) = ("src/base/pages/chunk.rs", &["libc"]);

/// Lines a file of Rust may have.
const LINES_MAX: usize = 1_000;

/// Longer files, and why.
const LONG_FILES: &[(&str, &str)] = &[];

/// Pages that others write and that are linked to already.
const PAGES_TO_COME: &[&str] = &[];

/// Paths of machines and hosts of package registries: the repository speaks of
/// itself alone. Joined here so that this file does not name them.
const FOREIGN: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Use", "rs/"),
    concat!("index.cra", "tes.io"),
    concat!("static.cra", "tes.io"),
    concat!("pypi", ".org"),
    concat!("registry.npm", "js"),
    concat!("proxy.gol", "ang"),
    concat!("arti", "factory"),
];

/// A file of the repository.
struct Source {
    /// From the repository's root, with `/`.
    path: String,
    text: String,
    /// Compiled for tests alone.
    is_test: bool,
}

#[test]
fn the_repository_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = load(root);
    assert!(sources.iter().any(|source| source.path == "src/lib.rs"), "the sources are found");
    let mut found: Vec<String> = sources.iter().flat_map(violations).collect();
    for source in &sources {
        found.extend(dead_links(source, &|path| {
            root.join(path).exists() || PAGES_TO_COME.contains(&path)
        }));
    }
    found.extend(pages_left_out(&sources));
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// All that is wrong with one file.
fn violations(source: &Source) -> Vec<String> {
    let mut found = foreign_words(source);
    if source.path.ends_with(".rs") {
        found.extend(missing_header(source));
        found.extend(too_long(source));
        if source.path.starts_with("src/") {
            let file = Parsed::new(source);
            found.extend(uphill_imports(source, &file));
            found.extend(empty_names(source, &file));
            found.extend(impurities(source, &file));
            found.extend(unsafe_places(source, &file));
        }
    }
    found
}

fn at(source: &Source, line: usize, what: &str) -> String {
    format!("{}:{line}: {what}", source.path)
}

/// The folder of `src/` that a file is in; none for `lib.rs` and `main.rs`.
fn folder(path: &str) -> Option<&str> {
    let (folder, _) = path.strip_prefix("src/")?.split_once('/')?;
    Some(folder)
}

fn layer(folder: &str) -> Option<usize> {
    LAYERS.iter().position(|line| line.contains(&folder))
}

fn uphill_imports(source: &Source, file: &Parsed) -> Vec<String> {
    let Some(own) = folder(&source.path) else { return vec![] };
    let Some(rank) = layer(own) else {
        return vec![at(source, 1, &format!("folder {own} has no place in the layers"))];
    };
    let mut found = vec![];
    for path in &file.paths {
        let Some(absolute) = path.in_crate() else { continue };
        match absolute.first().map(String::as_str) {
            None | Some("*") => {
                found.push(at(source, path.line, "names the whole crate, so every layer"));
            }
            Some(other) if other == own => {}
            Some(other) => match layer(other) {
                Some(above) if above < rank => {}
                Some(_) => {
                    let what = format!("{own} imports {other}, which is not above it");
                    found.push(at(source, path.line, &what));
                }
                None => found.push(at(source, path.line, &format!("{other} is no layer"))),
            },
        }
    }
    found
}

fn missing_header(source: &Source) -> Vec<String> {
    let headed = source.text.starts_with("//! ");
    if headed { vec![] } else { vec![at(source, 1, "has no header (`//! ...`)")] }
}

fn too_long(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    let excused = LONG_FILES.iter().any(|(path, _)| *path == source.path);
    let long = lines > LINES_MAX && !excused;
    let what = format!("has {lines} lines, more than {LINES_MAX}: it asks to be two files");
    if long { vec![at(source, lines, &what)] } else { vec![] }
}

fn empty_names(source: &Source, file: &Parsed) -> Vec<String> {
    let inside = source.path.trim_start_matches("src/").trim_end_matches(".rs");
    let outer = inside.split('/').map(|name| (1, name.to_owned()));
    let all = outer.chain(file.modules.iter().cloned());
    let empty = all.filter(|(_, name)| EMPTY_NAMES.contains(&name.as_str()));
    empty.map(|(line, name)| at(source, line, &format!("{name} says nothing"))).collect()
}

fn impurities(source: &Source, file: &Parsed) -> Vec<String> {
    let pure = folder(&source.path).and_then(layer) <= layer(LAST_PURE);
    if !pure || folder(&source.path).is_none() {
        return vec![];
    }
    let mut found = vec![];
    for path in &file.paths {
        let names: Vec<&str> = path.names.iter().map(String::as_str).collect();
        let clock = ["Instant", "SystemTime"]
            .iter()
            .any(|clock| names.windows(2).any(|pair| pair == [*clock, "now"]));
        let threads = names.starts_with(&["std", "thread"]) && !path.is_test;
        let memory = source.path == MEMORY.0 && names.starts_with(MEMORY.1);
        let impure = IMPURE_PATHS.iter().any(|impure| names.starts_with(impure));
        if clock || threads || (impure && !memory) {
            let what = format!("{} in the pure core", names.join("::"));
            found.push(at(source, path.line, &what));
        }
    }
    let named = file.tokens.iter().filter(|token| IMPURE_NAMES.contains(&token.text.as_str()));
    found.extend(named.map(|t| at(source, t.line, &format!("{} in the pure core", t.text))));
    found
}

fn unsafe_places(source: &Source, file: &Parsed) -> Vec<String> {
    let allowed = UNSAFE_PLACES.iter().any(|place| source.path.starts_with(place));
    let lines: Vec<&str> = source.text.lines().collect();
    let mut found = vec![];
    for token in file.tokens.iter().filter(|token| token.text == "unsafe") {
        let nearby = &lines[token.line.saturating_sub(8)..token.line];
        if !allowed {
            found.push(at(source, token.line, "unsafe outside of pages and runtime"));
        } else if !nearby.iter().any(|l| l.contains("// SAFETY: ") || l.contains("/// # Safety")) {
            found.push(at(source, token.line, "unsafe without a SAFETY comment"));
        }
    }
    found
}

fn foreign_words(source: &Source) -> Vec<String> {
    let lines = (1..).zip(source.text.lines());
    let pairs = lines.flat_map(|(n, line)| FOREIGN.iter().map(move |word| (n, line, *word)));
    let hits = pairs.filter(|(_, line, word)| line.to_ascii_lowercase().contains(word));
    hits.map(|(n, _, word)| at(source, n, &format!("speaks of {word}"))).collect()
}

/// Relative links of a page that lead nowhere. Links to items (`crate::...`) are
/// checked by rustdoc.
fn dead_links(source: &Source, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    if !source.path.ends_with(".md") {
        return vec![];
    }
    let (dir, _) = source.path.rsplit_once('/').unwrap_or(("", ""));
    let mut found = vec![];
    for (line, target) in links(&source.text) {
        let elsewhere = ["http://", "https://", "mailto:", "crate::"];
        if elsewhere.iter().any(|scheme| target.starts_with(scheme)) {
            continue;
        }
        let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
        let path = if file.is_empty() { source.path.clone() } else { join(dir, file) };
        if !exists(&path) {
            found.push(at(source, line, &format!("the link to {target} leads nowhere")));
        } else if file.is_empty() && !anchors(&source.text).contains(anchor) {
            found.push(at(source, line, &format!("there is no heading #{anchor}")));
        }
    }
    found
}

/// Pages that rustdoc does not see, so that nobody checks their links to items.
fn pages_left_out(sources: &[Source]) -> Vec<String> {
    let index = sources.iter().find(|source| source.path == "src/docs/mod.rs");
    let index = index.map_or("", |source| source.text.as_str());
    let pages = sources.iter().filter_map(|source| {
        let name = source.path.strip_prefix("src/docs/")?;
        name.ends_with(".md").then_some((source, name))
    });
    let left_out = pages.filter(|(_, name)| !index.contains(&format!("include_str!(\"{name}\")")));
    left_out.map(|(source, _)| at(source, 1, "is not included by src/docs/mod.rs")).collect()
}

/// Targets of the links of a page, with their lines; code does not count.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = vec![];
    let mut in_code = false;
    for (n, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        if let Some((_, target)) = line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")) {
            found.push((n, target.trim().to_owned()));
        }
        // A closing bracket inside of code belongs to no link.
        let mut plain = String::new();
        for (at, part) in line.split('`').enumerate() {
            plain.push_str(if at % 2 == 0 { part } else { "code" });
        }
        for rest in plain.split("](").skip(1) {
            if let Some((target, _)) = rest.split_once(')') {
                found.push((n, target.to_owned()));
            }
        }
    }
    found
}

/// The anchors of a page's headings, as its readers make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let slug = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(slug).collect()
}

/// `path` as seen from `dir`, without `..`.
fn join(dir: &str, path: &str) -> String {
    let mut whole = PathBuf::new();
    for part in Path::new(dir).join(path).components() {
        match part {
            Component::ParentDir => drop(whole.pop()),
            part => whole.push(part),
        }
    }
    whole.to_string_lossy().into_owned()
}

/// Every text file of the repository.
fn load(root: &Path) -> Vec<Source> {
    let mut sources = vec![];
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory of the repository") {
            let path = entry.expect("an entry of the repository").path();
            let name = path.strip_prefix(root).expect("below the root").to_string_lossy();
            let name = name.replace('\\', "/");
            if [".git", "target", "corelane-data"].contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                dirs.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                sources.push(Source { path: name, text, is_test: false });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    let test_modules: BTreeSet<Vec<String>> = sources
        .iter()
        .filter(|source| source.path.starts_with("src/") && source.path.ends_with(".rs"))
        .flat_map(|source| Parsed::new(source).test_files)
        .collect();
    for source in &mut sources {
        let module = module_of(&source.path);
        source.is_test = (1..=module.len()).any(|len| test_modules.contains(&module[..len]));
    }
    sources
}

/// The module that a file of `src/` is: `src/log/flush.rs` is `log::flush`.
fn module_of(path: &str) -> Vec<String> {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut names: Vec<String> = inside.split('/').map(str::to_owned).collect();
    names.pop_if(|last| ["mod", "lib", "main"].contains(&last.as_str()));
    names
}

/// One token of Rust.
struct Token {
    text: String,
    line: usize,
    /// In code that is compiled for tests alone.
    is_test: bool,
}

/// A path that some code names.
struct NamedPath {
    /// As written, with `use` trees unfolded.
    names: Vec<String>,
    /// The module it is written in.
    module: Vec<String>,
    line: usize,
    is_test: bool,
}

impl NamedPath {
    /// From the crate's root, if it is a path of this crate.
    fn in_crate(&self) -> Option<Vec<String>> {
        let mut whole = match self.names.first()?.as_str() {
            "crate" => vec![],
            "self" | "super" => self.module.clone(),
            _ => return None,
        };
        for name in &self.names {
            match name.as_str() {
                "crate" | "self" => {}
                "super" => drop(whole.pop()),
                name => whole.push(name.to_owned()),
            }
        }
        Some(whole)
    }
}

/// A file of Rust as far as the rules need it.
struct Parsed {
    tokens: Vec<Token>,
    paths: Vec<NamedPath>,
    /// Modules that are declared or defined in the file, with their lines.
    modules: Vec<(usize, String)>,
    /// Modules in files of their own that are compiled for tests alone.
    test_files: Vec<Vec<String>>,
}

impl Parsed {
    fn new(source: &Source) -> Self {
        let mut tokens = tokens(&source.text);
        mark_tests(&mut tokens, source.is_test);
        let mut file = Self { tokens, paths: vec![], modules: vec![], test_files: vec![] };
        // Inline modules that are open, with the depth of their braces.
        let mut open: Vec<(String, usize)> = vec![];
        let (mut depth, mut at) = (0_usize, 0);
        let outer = module_of(&source.path);
        while at < file.tokens.len() {
            let text = |at: usize| file.tokens.get(at).map_or("", |token| token.text.as_str());
            let inner = open.iter().map(|(name, _)| name.clone());
            let module: Vec<String> = outer.iter().cloned().chain(inner).collect();
            let (line, is_test) = (file.tokens[at].line, file.tokens[at].is_test);
            let before = if at == 0 { "" } else { text(at - 1) };
            match text(at) {
                "{" => depth += 1,
                "}" => {
                    depth = depth.saturating_sub(1);
                    open.pop_if(|(_, at)| *at == depth);
                }
                "mod" if [";", "{"].contains(&text(at + 2)) => {
                    let name = text(at + 1).to_owned();
                    if text(at + 2) == "{" {
                        open.push((name.clone(), depth));
                    } else if is_test {
                        file.test_files.push([&module[..], std::slice::from_ref(&name)].concat());
                    }
                    file.modules.push((line, name));
                }
                "use" if text(at + 1) != "<" => {
                    let mut trees = vec![];
                    at = unfold(&file.tokens, at + 1, &[], &mut trees);
                    let named = trees.into_iter().map(|names| {
                        let module = module.clone();
                        NamedPath { names, module, line, is_test }
                    });
                    file.paths.extend(named);
                    continue;
                }
                name if is_name(name) && text(at + 1) == "::" && before != "::" => {
                    let mut names = vec![name.to_owned()];
                    while text(at + 1) == "::" && is_name(text(at + 2)) {
                        names.push(text(at + 2).to_owned());
                        at += 2;
                    }
                    file.paths.push(NamedPath { names, module, line, is_test });
                }
                _ => {}
            }
            at += 1;
        }
        file
    }
}

/// Unfolds the `use` tree that begins at token `at` behind `prefix`; returns
/// where it ends.
fn unfold(tokens: &[Token], mut at: usize, prefix: &[String], out: &mut Vec<Vec<String>>) -> usize {
    let mut names = prefix.to_vec();
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "::" => {}
            "as" => at += 1,
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at = unfold(tokens, at, &names, out);
                    if tokens.get(at).is_some_and(|token| token.text == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            name if is_name(name) || name == "*" => names.push(name.to_owned()),
            _ => break,
        }
        at += 1;
    }
    out.push(names);
    at
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Marks the items behind `#[cfg(test)]`.
fn mark_tests(tokens: &mut [Token], all: bool) {
    for token in &mut *tokens {
        token.is_test = all;
    }
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    for start in 0..tokens.len() {
        let ahead = tokens[start..].iter().map(|token| token.text.as_str());
        if !ahead.take(mark.len()).eq(mark) {
            continue;
        }
        let (mut depth, mut at) = (0_i32, start + mark.len());
        while let Some(token) = tokens.get_mut(at) {
            token.is_test = true;
            match token.text.as_str() {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth -= 1,
                _ => {}
            }
            // An item ends with a semicolon or with its braces.
            if depth == 0 && [";", "}"].contains(&token.text.as_str()) {
                break;
            }
            at += 1;
        }
    }
}

/// The tokens of a file: names, `::`, and other characters one by one, without
/// comments, strings, characters and lifetimes.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let (mut at, mut line, mut out) = (0, 1, vec![]);
    while at < chars.len() {
        let start = at;
        let next = |ahead: usize| chars.get(at + ahead).copied().unwrap_or('\0');
        let found = match chars[at] {
            '/' if next(1) == '/' => {
                at = end_of(&chars, at, |rest| rest[0] == '\n');
                None
            }
            '/' if next(1) == '*' => {
                let mut depth = 0;
                at = 2 + end_of(&chars, at, |rest| {
                    match rest {
                        ['/', '*', ..] => depth += 1,
                        ['*', '/', ..] => depth -= 1,
                        _ => {}
                    }
                    depth == 0
                });
                None
            }
            '"' => {
                let mut escaped = true; // The opening quote ends nothing.
                at = 1 + end_of(&chars, at, |rest| {
                    let ends = rest[0] == '"' && !escaped;
                    escaped = rest[0] == '\\' && !escaped;
                    ends
                });
                None
            }
            'r' if next(1) == '"' || (next(1) == '#' && "#\"".contains(next(2))) => {
                let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
                let end: Vec<char> = std::iter::once('"').chain(vec!['#'; hashes]).collect();
                at = end.len() + end_of(&chars, at + hashes + 2, |rest| rest.starts_with(&end));
                None
            }
            '\'' if next(1) == '\\' || next(2) == '\'' => {
                at = 1 + end_of(&chars, at + 2 + usize::from(next(1) == '\\'), |r| r[0] == '\'');
                None
            }
            '\'' => {
                at = end_of(&chars, at + 1, |rest| !is_word(rest[0]));
                None
            }
            c if is_word(c) => {
                at = end_of(&chars, at, |rest| !is_word(rest[0]));
                let word: String = chars[start..at].iter().collect();
                // What stands before a string's quote is part of the string.
                let prefix = ["b", "c", "br", "cr"].contains(&word.as_str())
                    && matches!(chars.get(at), Some('"' | '\''));
                if word.ends_with('r') && prefix {
                    at -= 1;
                }
                (!prefix).then_some(word)
            }
            ':' if next(1) == ':' => {
                at += 2;
                Some("::".to_owned())
            }
            c => {
                at += 1;
                (!c.is_whitespace()).then(|| c.to_string())
            }
        };
        out.extend(found.map(|text| Token { text, line, is_test: false }));
        at = at.min(chars.len());
        line += chars[start..at].iter().filter(|c| **c == '\n').count();
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The first place from `at` on where `ends` holds, or the end.
fn end_of(chars: &[char], at: usize, mut ends: impl FnMut(&[char]) -> bool) -> usize {
    (at..chars.len()).find(|at| ends(&chars[*at..])).unwrap_or(chars.len())
}

fn source(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned(), is_test: false }
}

#[test]
fn every_rule_catches_what_it_forbids() {
    let long = "//! A file.\n".repeat(LINES_MAX + 1);
    let machine = format!("//! See {}here.\n", FOREIGN[0]);
    let host = format!("//! From {}.\n", FOREIGN[6]);
    // (path, text, what is said about it)
    let planted = [
        ("src/log/a.rs", "//! A.\nuse crate::replica::Replicas;\n", ":2: log imports replica"),
        ("src/log/a.rs", "//! A.\nuse crate::{base::time, api};\n", ":2: log imports api"),
        ("src/log/a.rs", "//! A.\nfn f(_: crate::metadata::Image) {}\n", "log imports metadata"),
        ("src/log/a.rs", "//! A.\nuse super::super::shard::Shard;\n", "log imports shard"),
        ("src/log/mod.rs", "//! A.\nuse super::{base, api::Answer as A};\n", "log imports api"),
        ("src/log/a.rs", "//! A.\nmod b {\n    use super::super::super::raft;\n}\n", "raft"),
        ("src/log/a.rs", "//! A.\n#[cfg(test)]\nmod tests { use crate::mesh::Mail; }\n", "mesh"),
        ("src/log/a.rs", "//! A.\nuse crate::*;\n", "names the whole crate"),
        ("src/log/a.rs", "//! A.\nuse crate::attic::Old;\n", "attic is no layer"),
        ("src/attic/a.rs", "//! A.\n", "folder attic has no place"),
        ("src/log/a.rs", "// A.\n", "has no header"),
        ("src/log/a.rs", "use std::rc::Rc;\n//! A.\n", "has no header"),
        ("src/log/utils.rs", "//! A.\n", "utils says nothing"),
        ("src/log/helpers/a.rs", "//! A.\n", "helpers says nothing"),
        ("src/log/a.rs", "//! A.\npub mod common;\n", ":2: common says nothing"),
        ("src/log/a.rs", "//! A.\nuse std::{fs, io};\n", "std::fs in the pure core"),
        ("src/log/a.rs", "//! A.\nuse std::net::{SocketAddr, TcpStream};\n", "TcpStream"),
        ("src/log/a.rs", "//! A.\nfn f() { std::time::Instant::now(); }\n", "Instant::now"),
        ("src/shard/a.rs", "//! A.\nfn f() { SystemTime::now(); }\n", "SystemTime::now"),
        ("src/log/a.rs", "//! A.\nfn f() { std::thread::yield_now() }\n", "std::thread"),
        ("src/log/a.rs", "//! A.\ntype T = Arc<Mutex<u8>>;\n", "Mutex in the pure core"),
        ("src/base/a.rs", "//! A.\nuse std::collections::HashMap;\n", "HashMap in the pure core"),
        ("src/log/a.rs", "//! A.\nfn f() { unsafe { g() } }\n", "outside of pages"),
        ("src/base/a.rs", "//! A.\nfn f() { libc::getpid(); }\n", "libc::getpid in the pure core"),
        ("src/base/pages/chunk.rs", "//! A.\nuse std::fs;\n", "std::fs in the pure core"),
        ("src/runtime/a.rs", "//! A.\n\nfn f() { unsafe { g() } }\n", "without a SAFETY comment"),
        ("src/log/a.rs", &long, "lines, more than 1000"),
        ("src/log/a.rs", &machine, ":1: speaks of"),
        ("README.md", &host, ":1: speaks of"),
    ];
    for (path, text, expected) in planted {
        let found = violations(&source(path, text)).join("\n");
        assert!(found.contains(expected), "{path}: {text:?}: found only {found:?}");
    }
    let exists = |path: &str| path == "src/docs/there.md" || path == "src/docs/a.md";
    let page = |text| dead_links(&source("src/docs/a.md", text), &exists);
    assert!(
        page("# One\n[a](there.md) [b](../docs/there.md#x) [c](#one) `[d](gone.md)`").is_empty()
    );
    for dead in ["[a](gone.md)", "[a](../there.md)", "x\n[a]: gone.md", "[a](#none)"] {
        assert_eq!(page(dead).len(), 1, "{dead}");
    }
    let pages = |text| [source("src/docs/a.md", ""), source("src/docs/mod.rs", text)];
    assert_eq!(pages_left_out(&pages("//! Pages.\n")).len(), 1);
    assert!(pages_left_out(&pages("#![doc = include_str!(\"a.md\")]\n")).is_empty());
}

#[test]
fn what_is_allowed_is_not_reported() {
    let good = [
        ("src/log/a.rs", "//! A.\nuse crate::base::time::Now;\nuse super::Log;\n"),
        ("src/log/a.rs", "//! A.\n#[cfg(test)]\nmod tests {\n    use super::*;\n}\n"),
        ("src/log/a.rs", "//! A.\n// use crate::shard; /* unsafe */\n/* Mutex /* */ HashMap */\n"),
        (
            "src/log/a.rs",
            "//! A.\nconst A: &str = \"\\\"crate::shard::x unsafe\";\nuse self::b::C;\n",
        ),
        ("src/log/a.rs", "//! A.\nconst A: &str = r#\"\" Mutex\"#; const B: char = '\"';\n"),
        (
            "src/log/a.rs",
            "//! A.\nfn f<'a>(_: &'a [u8]) -> impl Sized + use<'a> { b\"HashMap\" }\n",
        ),
        (
            "src/log/a.rs",
            "//! A.\n#[cfg(test)]\nmod tests { fn f() { std::thread::yield_now() } }\n",
        ),
        ("src/node/mod.rs", "//! A.\nuse std::{fs, thread};\nuse crate::shard::Shard;\n"),
        ("src/runtime/a.rs", "//! A.\n// SAFETY: it is.\nconst A: () = unsafe { b() };\n"),
        ("src/lib.rs", "//! A.\npub mod base;\n"),
    ];
    for (path, text) in good {
        let found = violations(&source(path, text));
        assert!(found.is_empty(), "{path}: {text:?}: {found:?}");
    }
}
