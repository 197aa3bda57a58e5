//! Queries, scripts and prompts are files bound with `include_str!`, and no such file lies about unused.
//!
//! A text file that nothing includes is dead; a query in a string literal escapes review and tools. Test code may hold
//! small queries, because it has to look at stores from outside.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};

use super::source::Source;

/// How statements begin that belong into a file; looked for in upper case at the start of string literals.
const STATEMENTS: [&str; 8] = [
    "SELECT ",
    "INSERT INTO ",
    "INSERT OR ",
    "UPDATE ",
    "DELETE FROM ",
    "CREATE TABLE ",
    "CREATE INDEX ",
    "REDIS.CALL(",
];

/// True for files that have to be bound.
pub(super) fn is_text(path: &Path) -> bool {
    let is_prompt = path.components().any(|part| part.as_os_str() == "prompts");
    is_prompt || path.extension().is_some_and(|end| end == "sql" || end == "lua")
}

/// Text files that no source includes.
pub(super) fn unbound(root: &Path, texts: Vec<PathBuf>, sources: &[Source]) -> Vec<String> {
    let bound: BTreeSet<PathBuf> = sources.iter().flat_map(|source| included(root, source)).collect();
    let lost = texts.into_iter().filter(|text| !bound.contains(text));
    lost.map(|text| format!("{}:1: nothing includes this file: bind it with include_str! or remove it", text.display()))
        .collect()
}

/// Files that `source` includes, resolved as the compiler does.
fn included(root: &Path, source: &Source) -> Vec<PathBuf> {
    let folder = root.join(&source.path).parent().map(Path::to_owned).unwrap_or_default();
    let mut found = Vec::new();
    literals(&source.tokens, &mut |_, text| found.push(normal(&folder.join(text))));
    found
}

/// String literals of product code that look like statements of a store.
pub(super) fn queries_in_code(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    literals(&source.tokens, &mut |line, text| {
        let start: String = text.trim_start().chars().take(20).collect::<String>().to_uppercase();
        let is_statement = STATEMENTS.iter().any(|statement| start.starts_with(statement));
        // "Update the …" is a sentence; the statement sets something.
        let is_sentence = start.starts_with("UPDATE ") && !text.to_uppercase().contains(" SET ");
        if is_statement && !is_sentence && !source.is_test(line) {
            faults.push(
                source.fault(line, "a query in a string literal: put it into a file and bind it with include_str!"),
            );
        }
    });
    faults
}

/// Calls `each` with line and value of every string literal, doc comments aside.
fn literals(tokens: &TokenStream, each: &mut impl FnMut(usize, &str)) {
    let mut previous_is_doc = false;
    for token in tokens.clone() {
        match &token {
            TokenTree::Group(group) => literals(&group.stream(), each),
            TokenTree::Literal(literal) if !previous_is_doc => {
                if let syn::Lit::Str(text) = syn::Lit::new(literal.clone()) {
                    each(literal.span().start().line, &text.value());
                }
            }
            _ => {}
        }
        previous_is_doc = match token {
            TokenTree::Ident(name) => name == "doc",
            TokenTree::Punct(mark) => previous_is_doc && mark.as_char() == '=',
            TokenTree::Group(_) | TokenTree::Literal(_) => false,
        };
    }
}

/// `path` without `.` and `..`, by text alone.
fn normal(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_nothing_includes_is_found() {
        let root = Path::new("/house");
        let text = "//! See \"unused.sql\".\nconst A: &str = include_str!(\"sql/used.sql\"); fn f() { include_str!(\"../../prompts/p.md\"); }";
        let sources = [Source::parse("src/backend/x.rs", text)];
        let texts = ["src/backend/sql/used.sql", "prompts/p.md", "src/backend/sql/unused.sql"];
        let texts: Vec<PathBuf> = texts.map(|text| root.join(text)).into();
        assert!(texts.iter().all(|text| is_text(text)));
        let found = unbound(root, texts, &sources);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("/house/src/backend/sql/unused.sql:1:"), "{}", found[0]);
    }

    #[test]
    fn a_query_in_code_is_found_and_a_sentence_is_none() {
        for text in ["fn f() { q(\"select a from b\") }", "const A: &str = r#\"\n  UPDATE a\n SET b = 1\"#;"] {
            assert_eq!(queries_in_code(&Source::parse("src/x.rs", text)).len(), 1, "{text}");
        }
        for text in [
            "/// SELECT 1\nfn f() { say(\"Update the file\", \"selected\") }",
            "#[cfg(test)]\nmod tests { fn f() { q(\"SELECT 1\") } }",
        ] {
            assert_eq!(queries_in_code(&Source::parse("src/x.rs", text)), Vec::<String>::new(), "{text}");
        }
    }
}
