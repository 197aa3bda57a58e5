//! A Rust file taken apart: its text, its tokens and its syntax tree, and which lines are code.
//!
//! A line is code if a token other than a doc comment stands on it. Reading fails loudly: a file that cannot be read or
//! parsed must not slip through.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::spanned::Spanned;

/// One Rust file.
pub(super) struct Source {
    /// Relative to the root of the package, with forward slashes.
    pub(super) path: String,
    pub(super) text: String,
    pub(super) tokens: TokenStream,
    pub(super) ast: syn::File,
    code: BTreeSet<usize>,
    tests: Vec<RangeInclusive<usize>>,
}

impl Source {
    pub(super) fn read(root: &Path, path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let relative = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        Self::parse(&relative, &text)
    }

    pub(super) fn parse(path: &str, text: &str) -> Self {
        let ast = syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}"));
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
        let lines: Vec<&str> = text.lines().collect();
        let mut code = BTreeSet::new();
        mark_code(&tokens, &lines, &mut code);
        let mut tests = Vec::new();
        mark_tests(&ast.items, &mut tests);
        Self { path: path.to_owned(), text: text.to_owned(), tokens, ast, code, tests }
    }

    /// Number of code lines between two lines, both included.
    pub(super) fn code_lines(&self, first: usize, last: usize) -> usize {
        self.code.range(first..=last).count()
    }

    /// Number of code lines outside of inline test modules.
    pub(super) fn code_lines_without_tests(&self) -> usize {
        self.code.iter().filter(|line| !self.is_test(**line)).count()
    }

    /// True for lines of inline test modules, and for all of a file that is only compiled for tests.
    pub(super) fn is_test(&self, line: usize) -> bool {
        !self.path.starts_with("src/")
            || self.path.ends_with("tests.rs")
            || self.tests.iter().any(|range| range.contains(&line))
    }

    /// A fault of this file.
    pub(super) fn fault(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

/// All files below some folders of `root`, sorted.
pub(super) fn files(root: &Path, folders: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).filter(|it| it.exists()).collect();
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() { pending.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn mark_code(tokens: &TokenStream, lines: &[&str], code: &mut BTreeSet<usize>) {
    let mut tokens = tokens.clone().into_iter().peekable();
    while let Some(token) = tokens.next() {
        if starts_comment(token.span(), lines) {
            // A doc comment arrives as `#[doc = "…"]` or `#![doc = "…"]`, whose tokens all begin where it begins.
            while tokens.next_if(|next| starts_comment(next.span(), lines)).is_some() {}
            continue;
        }
        match token {
            TokenTree::Group(group) => {
                if group.delimiter() != Delimiter::None {
                    code.insert(group.span_open().start().line);
                    code.insert(group.span_close().end().line);
                }
                mark_code(&group.stream(), lines, code);
            }
            other => code.extend(other.span().start().line..=other.span().end().line),
        }
    }
}

fn starts_comment(span: Span, lines: &[&str]) -> bool {
    let at = span.start();
    let rest = lines.get(at.line - 1).map(|line| line.chars().skip(at.column).take(2).collect::<String>());
    rest.is_some_and(|start| start == "//" || start == "/*")
}

fn mark_tests(items: &[syn::Item], tests: &mut Vec<RangeInclusive<usize>>) {
    for item in items {
        let syn::Item::Mod(module) = item else { continue };
        let is_test = module.attrs.iter().any(|attribute| {
            attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|name| name == "test")
        });
        match &module.content {
            Some(_) if is_test => tests.push(module.span().start().line..=module.span().end().line),
            Some((_, inner)) => mark_tests(inner, tests),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_counts_as_code() {
        let text = "//! About.\n//! More.\n\nuse a::b; // why\n\n/// Docs\n/// more docs\nfn f() {\n    // comment\n\n    \
                    g(\"two\n lines\");\n    /* block\n    */\n}\n";
        let source = Source::parse("src/x.rs", text);
        assert_eq!(source.code.iter().copied().collect::<Vec<_>>(), [4, 8, 11, 12, 15]);
        assert_eq!(source.code_lines(8, 15), 4);
    }

    #[test]
    fn inline_test_modules_are_set_apart() {
        let text =
            "fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n#[cfg(unix)]\nmod other {\n    fn h() {}\n}\n";
        let source = Source::parse("src/x.rs", text);
        assert_eq!(source.code_lines_without_tests(), 5);
        assert!(source.is_test(4) && !source.is_test(8));
    }
}
