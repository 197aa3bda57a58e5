//! Files say what they are for, and nothing is named after a junk drawer.
//!
//! A module called "utils" has no reason to stay small and none to be found; a file without an opening has no reason
//! to exist that a reader could check.

use proc_macro2::{TokenStream, TokenTree};

use super::source::Source;

const JUNK_DRAWERS: [&str; 6] = ["utils", "util", "helpers", "helper", "common", "misc"];

/// A file that does not open with at least two lines of `//!`.
pub(super) fn undescribed(source: &Source) -> Option<String> {
    let said = |line: &&str| line.strip_prefix("//!").is_some();
    let opening: Vec<&str> = source.text.lines().take_while(said).collect();
    let words = opening.iter().filter(|line| line.len() > "//! ".len()).count();
    (words < 2).then(|| {
        let what = "opens with less than two lines of //!: say what it is, why this way and what it must never do";
        source.fault(1, what)
    })
}

/// Files, folders and modules with names that say nothing.
pub(super) fn junk_drawers(source: &Source) -> Vec<String> {
    let parts = source.path.split(['/', '.']);
    let mut found: Vec<(usize, String)> = parts.map(|part| (1, part.to_owned())).collect();
    modules(&source.tokens, &mut found);
    found.retain(|(_, name)| JUNK_DRAWERS.contains(&name.as_str()));
    let fault = |(line, name): (usize, String)| source.fault(line, &format!("{name} is no name: name what it does"));
    found.into_iter().map(fault).collect()
}

fn modules(tokens: &TokenStream, found: &mut Vec<(usize, String)>) {
    let mut after_mod = false;
    for token in tokens.clone() {
        match token {
            TokenTree::Ident(name) => {
                if after_mod {
                    found.push((name.span().start().line, name.to_string()));
                }
                after_mod = name == "mod";
            }
            TokenTree::Group(group) => {
                after_mod = false;
                modules(&group.stream(), found);
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => after_mod = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_opening_is_found() {
        for text in ["", "fn f() {}\n", "//! One line.\n", "//! One.\n//!\nfn f() {}\n", "\n//! Late.\n//! Late.\n"] {
            assert!(undescribed(&Source::parse("src/x.rs", text)).is_some(), "{text:?}");
        }
        for text in ["//! One.\n//! Two.\n", "//! One.\n//!\n//! Two.\nfn f() {}\n"] {
            assert_eq!(undescribed(&Source::parse("src/x.rs", text)), None, "{text:?}");
        }
    }

    #[test]
    fn junk_drawers_are_found_as_files_folders_and_modules() {
        for (path, text) in [
            ("src/utils.rs", ""),
            ("src/helpers/mod.rs", ""),
            ("tests/it/common/mod.rs", ""),
            ("src/x.rs", "pub mod misc;"),
            ("src/x.rs", "mod a { mod util {} }"),
        ] {
            assert_eq!(junk_drawers(&Source::parse(path, text)).len(), 1, "{path} {text}");
        }
        let fine = Source::parse("src/commonplace.rs", "fn utils() { let helper = 1; }");
        assert_eq!(junk_drawers(&fine), Vec::<String>::new());
    }
}
