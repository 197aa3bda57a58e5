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
    let bound: Vec<BTreeSet<PathBuf>> = sources.iter().map(|source| named(root, source)).collect();
    let lost = texts.into_iter().filter(|text| !bound.iter().any(|bound| is_bound(text, bound)));
    lost.map(|text| format!("{}:1: nothing includes this file: bind it with include_str! or remove it", text.display()))
        .collect()
}

/// What the string literals of `source` name, seen from its folder as `include_str!` does.
fn named(root: &Path, source: &Source) -> BTreeSet<PathBuf> {
    let folder = root.join(&source.path).parent().map(Path::to_owned).unwrap_or_default();
    let mut found = BTreeSet::new();
    // A bare name is kept as such too, for macros that put a path together from folder, name and ending.
    literals(&source.tokens, &mut |_, text| found.extend([normal(&folder.join(text)), PathBuf::from(text)]));
    found
}

/// True when a source names `text` whole, or its folder and its name apart, as in `concat!("roles/", $name, ".md")`.
fn is_bound(text: &Path, named: &BTreeSet<PathBuf>) -> bool {
    let folder = text.parent().is_some_and(|folder| named.contains(folder));
    let name = text.file_stem().is_some_and(|name| named.contains(Path::new(name)));
    named.contains(text) || (folder && name)
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
    fn a_text_whose_path_a_macro_puts_together_is_bound_by_folder_and_name() {
        let root = Path::new("/house");
        let text = "macro_rules! r { ($n:literal) => { include_str!(concat!(\"../p/prompts/\", $n, \".md\")) } } \
                    const A: &str = r!(\"a\");";
        let sources = [Source::parse("src/x.rs", text)];
        let texts = ["p/prompts/a.md", "p/prompts/b.md"].map(|text| root.join(text)).into();
        let found = unbound(root, texts, &sources);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("b.md"), "{}", found[0]);
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
