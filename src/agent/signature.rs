//! The interface of a source file in a few lines: what another file may call, without the bodies.
//!
//! Simple line rules per language instead of a parser: a missed line costs a little context, while a parser per language
//! would cost a dependency each. Whatever the rules do not know is shown by its first lines. The result is context for a
//! model and nothing else; no check may rest on it.

use super::template::cut;

/// Most lines of one interface.
const MAX_LINES: usize = 200;
/// Lines longer than this many bytes are cut: nobody writes such a signature by hand.
const MAX_LINE_BYTES: usize = 300;
/// Lines shown of a file whose language is not known.
const FIRST_LINES: usize = 20;
/// Most lines that one signature with open brackets may go on for, such as the columns of a table.
const MAX_CONTINUATION: usize = 60;

/// The lines of `text` that other files depend on, chosen by the extension of `path`; at most 200 lines.
#[must_use]
pub fn signatures(path: &str, text: &str) -> String {
    let Some(is_signature) = rule(path) else {
        return text.lines().take(FIRST_LINES).fold(String::new(), push);
    };
    let (mut out, mut shown, mut open, mut more) = (String::new(), 0, 0_i32, 0);
    for line in text.lines() {
        let continues = open > 0 && more < MAX_CONTINUATION;
        if !continues && !is_signature(line) {
            open = 0;
            continue;
        }
        more = if continues { more + 1 } else { 0 };
        open = (if continues { open } else { 0 }) + balance(line);
        out = push(out, line);
        shown += 1;
        if shown == MAX_LINES {
            break;
        }
    }
    out
}

fn push(mut out: String, line: &str) -> String {
    out.push_str(cut(line.trim_end(), MAX_LINE_BYTES));
    out.push('\n');
    out
}

/// Opened minus closed round brackets.
fn balance(line: &str) -> i32 {
    line.bytes().fold(0, |open, byte| match byte {
        b'(' => open + 1,
        b')' => open - 1,
        _ => open,
    })
}

fn rule(path: &str) -> Option<fn(&str) -> bool> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let extension = name.rsplit_once('.')?.1.to_ascii_lowercase();
    Some(match extension.as_str() {
        "py" | "pyi" => python,
        "rs" => rust,
        "js" | "jsx" | "mjs" | "cjs" | "ts" | "tsx" | "vue" | "svelte" => javascript,
        "go" => go,
        "java" | "kt" | "cs" | "scala" | "swift" | "dart" => java,
        "c" | "h" | "cc" | "cpp" | "hpp" | "hh" => c,
        "rb" | "php" | "ex" | "lua" => script,
        "md" | "markdown" => |line| line.starts_with('#'),
        "sql" => sql,
        _ => return None,
    })
}

fn starts(line: &str, words: &[&str]) -> bool {
    let line = line.trim_start();
    words.iter().any(|word| line.starts_with(word))
}

fn at_margin(line: &str) -> bool {
    line.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn python(line: &str) -> bool {
    let assigns =
        at_margin(line) && line.contains('=') && !starts(line, &["if ", "for ", "while ", "assert ", "return "]);
    assigns || starts(line, &["def ", "async def ", "class ", "@"])
}

fn rust(line: &str) -> bool {
    starts(line, &["pub ", "impl ", "impl<", "trait ", "macro_rules!"])
}

fn javascript(line: &str) -> bool {
    let top = ["const ", "let ", "function ", "async function ", "class ", "interface ", "type ", "enum "];
    starts(line, &["export ", "module.exports", "exports."]) || (at_margin(line) && starts(line, &top))
}

fn go(line: &str) -> bool {
    at_margin(line) && starts(line, &["func ", "type ", "package ", "var ", "const "])
}

fn java(line: &str) -> bool {
    let words = [
        "public ",
        "protected ",
        "internal ",
        "open ",
        "abstract ",
        "class ",
        "interface ",
        "enum ",
        "struct ",
        "record ",
        "object ",
        "trait ",
        "protocol ",
        "fun ",
        "func ",
        "def ",
        "data ",
        "sealed ",
        "package ",
        "namespace ",
    ];
    starts(line, &words)
}

fn c(line: &str) -> bool {
    let words = ["typedef ", "#define ", "class ", "struct ", "enum ", "namespace ", "template", "using ", "public:"];
    starts(line, &words) || (at_margin(line) && line.contains('(') && !line.starts_with("return"))
}

fn script(line: &str) -> bool {
    starts(line, &["def ", "defmodule ", "class ", "module ", "function ", "local function ", "interface ", "public "])
}

fn sql(line: &str) -> bool {
    line.trim_start().get(..6).is_some_and(|word| {
        let word = word.to_ascii_uppercase();
        word == "CREATE" || word.starts_with("ALTER ")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_language_shows_its_interface_and_hides_its_bodies() {
        let table = [
            ("a.py", "import os\nLIMIT = 3\ndef f(a,\n      b):\n    secret = 1\nclass C:\n    def m(self): ...\n", 5),
            (
                "a.rs",
                "use x;\npub fn f(a: u8) -> u8 {\n    a\n}\nfn hidden() {}\npub struct S {\n    pub x: u8,\n}\n",
                3,
            ),
            ("a.ts", "import x\nexport function f(a: string) {\n  const hidden = 1;\n}\nclass C {}\n", 2),
            ("a.go", "package p\nfunc F(a int) error {\n\treturn nil\n}\ntype T struct {}\n", 3),
            ("A.java", "import x;\npublic class A {\n    public int f() {\n        return 1;\n    }\n}\n", 2),
            ("a.h", "#include <x>\n#define N 3\nint f(int a,\n      int b);\n", 3),
            ("a.md", "# A\ntext\n## B\n", 2),
            ("a.sql", "-- c\ncreate table t (\n  id int,\n  name text\n);\ninsert into t values (1);\n", 4),
            ("a.yaml", &"k: v\n".repeat(50), FIRST_LINES),
        ];
        for (path, text, lines) in table {
            let shown = signatures(path, text);
            assert_eq!(shown.lines().count(), lines, "{path}:\n{shown}");
            assert!(!shown.contains("secret") && !shown.contains("hidden"), "{path}:\n{shown}");
        }
    }

    #[test]
    fn the_result_is_bounded_whatever_the_input() {
        assert_eq!(signatures("a.py", &"def f(\n".repeat(10_000)).lines().count(), MAX_LINES);
        assert!(signatures("a.py", &format!("def {}", "ü".repeat(10_000))).len() <= MAX_LINE_BYTES + 1);
        assert_eq!(signatures("Makefile", "all:\n\tx\n"), "all:\n\tx\n");
    }
}
