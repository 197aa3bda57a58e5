//! Takes the one file out of a reply's text: the exact tagged block first, else a single fenced one.
//!
//! The tag's id is random per call, so contents cannot close the block. A fenced block is believed only when it is the only
//! one, by CommonMark's own rule: a fence is closed by one at least as long, so a longer fence protects shorter ones inside.
//! Bytes are kept as they are but for the one line break after the opening tag. Nothing is ever repaired or guessed.

use super::Rejection;
use super::elision::is_prose;

/// The contents of the file `path` in `text`, whose block has to carry `id`.
pub(super) fn file_contents<'a>(text: &'a str, path: &str, id: &str) -> Result<&'a str, Rejection> {
    let exact = format!("<file path=\"{path}\" id=\"{id}\">");
    if let Some(start) = text.find(&exact) {
        return tagged(text, start, exact.len(), path, id);
    }
    let mut foreign = None;
    for (start, line) in lines(text) {
        let Some(tag) = Tag::parse(line) else { continue };
        if tag.id == id {
            if normal(tag.path) != path {
                return Err(Rejection::ForeignPath { found: cut(tag.path), path: path.to_owned() });
            }
            return tagged(text, start + tag.start, tag.length, path, id);
        }
        foreign.get_or_insert(tag.path);
    }
    match foreign {
        Some(found) if normal(found) != path => {
            Err(Rejection::ForeignPath { found: cut(found), path: path.to_owned() })
        }
        Some(_) => Err(Rejection::WrongId { id: id.to_owned() }),
        None => fenced(text, path, id),
    }
}

fn tagged<'a>(text: &'a str, start: usize, length: usize, path: &str, id: &str) -> Result<&'a str, Rejection> {
    let many = || Rejection::ManyBlocks { path: path.to_owned() };
    let (before, body) = (&text[..start], &text[start + length..]);
    let close = format!("</file-{id}>");
    let Some(end) = body.find(&close) else { return Err(Rejection::Unterminated { id: id.to_owned() }) };
    let (contents, after) = (&body[..end], &body[end + close.len()..]);
    let second = |text: &str| lines(text).any(|(_, line)| Tag::parse(line).is_some());
    // Nobody but the two tags may use the id: a second use is a second block, or one inside the other.
    if contents.contains(id) || after.contains(id) || second(before) || second(after) {
        return Err(many());
    }
    let contents = contents.strip_prefix("\r\n").or_else(|| contents.strip_prefix('\n')).unwrap_or(contents);
    Ok(without_wrapping_fence(contents, path))
}

/// Some models fence the contents inside the tags as well. No source file begins and ends with a fence; prose may.
fn without_wrapping_fence<'a>(contents: &'a str, path: &str) -> &'a str {
    if is_prose(path) {
        return contents;
    }
    match fences(contents).as_slice() {
        [Fence { contents: Some(inner), outer }] => {
            let outside = [&contents[..outer.start], &contents[outer.end..]];
            if outside.iter().all(|text| text.trim().is_empty()) { inner } else { contents }
        }
        _ => contents,
    }
}

fn fenced<'a>(text: &'a str, path: &str, id: &str) -> Result<&'a str, Rejection> {
    match fences(text).as_slice() {
        [] => Err(Rejection::NoBlock { path: path.to_owned(), id: id.to_owned() }),
        [Fence { contents: None, .. }] => Err(Rejection::Unterminated { id: id.to_owned() }),
        [Fence { contents: Some(contents), outer }] => {
            let info = text[outer.start..].lines().next().unwrap_or_default();
            match labelled_path(info) {
                Some(found) if normal(found) != path => {
                    Err(Rejection::ForeignPath { found: cut(found), path: path.to_owned() })
                }
                _ => Ok(contents),
            }
        }
        _ => Err(Rejection::ManyBlocks { path: path.to_owned() }),
    }
}

/// The only fenced block of `text`, if it has exactly one and that one is closed.
pub(super) fn only_fence(text: &str) -> Option<&str> {
    match fences(text).as_slice() {
        [Fence { contents, .. }] => *contents,
        _ => None,
    }
}

/// The path a fence's first line names, as in "```python path=src/a.py".
fn labelled_path(info: &str) -> Option<&str> {
    info.split_whitespace().find_map(|word| {
        let (key, value) = word.split_once('=')?;
        matches!(key, "path" | "file" | "filename" | "title").then(|| value.trim_matches(['"', '\'']))
    })
}

struct Fence<'a> {
    /// `None` when the fence is never closed.
    contents: Option<&'a str>,
    /// From the first byte of the opening line to the end of the closing one.
    outer: std::ops::Range<usize>,
}

/// All top-level fenced blocks (CommonMark 0.31, section 4.5), indented ones excluded.
fn fences(text: &str) -> Vec<Fence<'_>> {
    let mut found = Vec::new();
    let mut open: Option<(usize, usize, char, usize)> = None;
    for (start, line) in lines(text) {
        let bare = line.trim_end();
        let unindented = bare.trim_start_matches(' ');
        let mark = unindented.chars().next().filter(|c| matches!(c, '`' | '~'));
        let Some(mark) = mark.filter(|_| bare.len() - unindented.len() <= 3) else { continue };
        let info = unindented.trim_start_matches(mark);
        let length = unindented.len() - info.len();
        match open {
            Some((outer, body, fence, needed)) if mark == fence && length >= needed && info.is_empty() => {
                found.push(Fence { contents: Some(&text[body..start]), outer: outer..start + line.len() });
                open = None;
            }
            Some(_) => {}
            None if length >= 3 && !(mark == '`' && info.contains('`')) => {
                open = Some((start, start + line.len(), mark, length));
            }
            None => {}
        }
    }
    if let Some((outer, ..)) = open {
        found.push(Fence { contents: None, outer: outer..text.len() });
    }
    found
}

/// The lines of `text` with their offsets, line breaks included.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut offset = 0;
    text.split_inclusive('\n').map(move |line| {
        let start = offset;
        offset += line.len();
        (start, line)
    })
}

struct Tag<'a> {
    path: &'a str,
    id: &'a str,
    /// Offset in its line.
    start: usize,
    length: usize,
}

impl<'a> Tag<'a> {
    /// A line that begins with `<file path="…" id="…">`, in whatever order and quotes.
    fn parse(line: &'a str) -> Option<Self> {
        let start = line.len() - line.trim_start().len();
        let tag = &line[start..];
        let mut rest = tag.strip_prefix("<file ")?;
        let (mut path, mut id) = (None, None);
        loop {
            rest = rest.trim_start_matches(' ');
            if let Some(after) = rest.strip_prefix('>') {
                return Some(Self { path: path?, id: id?, start, length: tag.len() - after.len() });
            }
            let (key, after) = rest.split_once('=')?;
            let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''))?;
            let (value, after) = after[1..].split_once(quote)?;
            match key {
                "path" => path = Some(value),
                "id" => id = Some(value),
                _ => {}
            }
            rest = after;
        }
    }
}

fn normal(path: &str) -> &str {
    path.strip_prefix("./").unwrap_or(path)
}

fn cut(text: &str) -> String {
    text.chars().take(120).collect()
}
