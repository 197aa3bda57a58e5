//! Which relative paths a plan may name.
//!
//! Paths come from a model, so they are judged as text, before any file system sees them: a path is legal only if it
//! names the same file inside the output directory on Linux, macOS and Windows. The rules follow Microsoft's "Naming
//! Files, Paths, and Namespaces" and Git's `verify_path` (CVE-2014-9390: `.git` in disguise). Sandboxed writing is the
//! workspace's work; this file must never touch a disk and never repair a path, only refuse it.

use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::ProtocolError;

/// Longest path in bytes; leaves room for an output root below Windows' 260 characters in the usual case and far
/// below Linux' 4,096.
pub const MAX_PATH_BYTES: usize = 400;

/// Longest component in bytes; file systems stop at 255, and temporary names need a suffix.
pub const MAX_COMPONENT_BYTES: usize = 200;

/// Deepest nesting.
pub const MAX_COMPONENTS: usize = 16;

/// Device names that Windows resolves in every directory, whatever extension follows.
const DEVICES: [&str; 6] = ["con", "prn", "aux", "nul", "conin$", "conout$"];

/// Checks that `path` is a plain relative path that is safe on every platform.
///
/// # Errors
/// [`ProtocolError::Field`] with field `path`: what is wrong with it and what would be right.
pub fn check(path: &str) -> Result<(), ProtocolError> {
    judge(path).map_err(|why| {
        let shown: String = path.chars().take(80).collect();
        ProtocolError::field(
            "path",
            format!("{shown:?} {why}; use a plain relative path with forward slashes such as src/main.rs"),
        )
    })
}

/// The form under which two paths that a case-insensitive file system confuses are equal: NFC, with case removed by
/// way of upper case, so that `ſ` meets `s` and `ß` meets `ss` as they do on NTFS and APFS.
#[must_use]
pub fn fold(path: &str) -> String {
    if path.is_ascii() {
        return path.to_ascii_lowercase();
    }
    path.nfc().flat_map(char::to_uppercase).flat_map(char::to_lowercase).nfc().collect()
}

fn judge(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("is empty".into());
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(format!("is {} bytes long, the limit is {MAX_PATH_BYTES}", path.len()));
    }
    if path.starts_with('/') {
        return Err("is absolute".into());
    }
    if path.starts_with('~') {
        return Err("starts with '~', which shells expand to a home directory".into());
    }
    if let Some(found) = path.chars().find(|&c| is_forbidden(c)) {
        return Err(format!("contains {found:?}, which is not allowed in portable file names"));
    }
    if !is_nfc(path) {
        return Err("is not in Unicode normal form C, so two spellings would name one file".into());
    }
    let components = path.split('/').count();
    if components > MAX_COMPONENTS {
        return Err(format!("has {components} components, the limit is {MAX_COMPONENTS}"));
    }
    path.split('/').enumerate().try_for_each(|(depth, component)| judge_component(component, depth))
}

/// Control characters, what Windows forbids, and invisible format characters (zero-width, bidirectional, byte order
/// mark) that make two different names look alike or make HFS+ see `.git`.
fn is_forbidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '<' | '>' | ':' | '"' | '|' | '?' | '*' | '\\')
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn judge_component(component: &str, depth: usize) -> Result<(), String> {
    if component.is_empty() {
        return Err("has an empty component".into());
    }
    if component == "." || component == ".." {
        return Err(format!("has the component {component:?}, which does not name a file"));
    }
    if component.len() > MAX_COMPONENT_BYTES {
        return Err(format!("has a component of {} bytes, the limit is {MAX_COMPONENT_BYTES}", component.len()));
    }
    if component.ends_with(['.', ' ']) {
        return Err(format!("has the component {component:?}, whose last character Windows drops"));
    }
    let folded = fold(component);
    if is_device(&folded) {
        return Err(format!("has the component {component:?}, which is a device on Windows"));
    }
    if folded == ".git" || folded == "git~1" {
        return Err(format!("has the component {component:?}, which belongs to Git"));
    }
    if depth == 0 && folded.starts_with(".codeswarm") {
        return Err(format!("starts with {component:?}, which belongs to CodeSwarm"));
    }
    Ok(())
}

/// `folded` is a component in lower case; Windows looks at what stands before the first dot, less trailing spaces.
fn is_device(folded: &str) -> bool {
    let stem = folded.split('.').next().unwrap_or(folded).trim_end_matches(' ');
    let numbered = |prefix| {
        stem.strip_prefix(prefix).is_some_and(|rest| {
            let mut rest = rest.chars();
            matches!((rest.next(), rest.next()), (Some('0'..='9' | '¹' | '²' | '³'), None))
        })
    };
    DEVICES.contains(&stem) || numbered("com") || numbered("lpt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_every_hostile_path_and_names_it() {
        let long_component = "x".repeat(MAX_COMPONENT_BYTES + 1);
        let long_path = vec!["x".repeat(100); 4].join("/");
        let deep = vec!["d"; MAX_COMPONENTS + 1].join("/");
        #[rustfmt::skip]
        let hostile = [
            "", "/", "/etc/passwd", "//server/share/x", "\\\\server\\share\\x", "\\x", "a\\b", "C:", "C:/x", "c:x.rs",
            "..", "../x", "a/../x", "a/..", ".", "./x", "a/./x", "a/.", "a//b", "a/", "~", "~/x", "~root/x",
            "a\0b", "a\nb", "a\tb", "a\u{7f}b", "a\u{85}b", "CON", "con", "con.txt", "Aux.tar.gz", "src/NUL", "PRN.rs",
            "COM1", "com9.log", "lpt0", "LPT5.x", "COM¹", "lpt³.txt", "nul .txt", "CONIN$", "a.", "a ", "dir./x", "dir /x", "...",
            "a<b", "a>b", "a:b", "a\"b", "a|b", "what?", "*.rs", "x.rs:stream", ".git", ".git/config", ".GIT/hooks/x",
            "a/.Git/x", "sub/.git", "git~1/config", "GIT~1", ".g\u{200c}it/x", ".gıt/x", ".codeswarm", ".codeswarm/db",
            ".CodeSwarm-tmp/x", ".codeswarm.lock", "src/u\u{308}.py", "a\u{202e}b", "\u{feff}x", "a\u{2028}b",
            &long_component, &long_path, &deep,
        ];
        assert!(hostile.len() >= 40);
        for path in hostile {
            match check(path) {
                Err(ProtocolError::Field { field, why }) => {
                    assert_eq!(field, "path");
                    assert!(why.contains("use a plain relative path"), "{why}");
                }
                other => panic!("{path:?} gave {other:?}"),
            }
        }
    }

    #[test]
    fn accepts_the_paths_of_ordinary_projects() {
        let edge = "x".repeat(MAX_COMPONENT_BYTES);
        #[rustfmt::skip]
        let legal = [
            "src/main.rs", "README.md", ".gitignore", ".gitattributes", ".github/x.yml", ".github/workflows/ci.yml",
            "src/ünï.py", "src/日本.txt", "a b/c d.txt", "Makefile", "com.rs", "com10", "lpt", "console.js", "null.rs",
            "auxiliary/x", "src/.codeswarm", "a..b", "..a", "...a", "a~b", "x/~y", "@scope/pkg.json", "[id]/page.tsx",
            "(group)/page.tsx", "a+b&c,d;e=f!.txt", "$x.rs", "a'b", "#x", "%41", "-x", "git~2", ".gitmodules", &edge,
        ];
        for path in legal {
            assert_eq!(check(path), Ok(()), "{path:?}");
        }
    }

    #[test]
    fn paths_that_some_file_system_confuses_fold_to_one() {
        for (a, b) in [("SRC/Main.rs", "src/main.RS"), ("Ünï", "u\u{308}nï"), ("straße", "STRASSE"), ("ſ", "S")] {
            assert_eq!(fold(a), fold(b), "{a} {b}");
        }
        assert_ne!(fold("a/b"), fold("a-b"));
    }
}
