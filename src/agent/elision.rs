//! Finds remarks that stand for code the model left out ("rest unchanged").
//!
//! Only lines that are nothing but a comment count, and only phrases that make no sense in a complete file: a false alarm
//! costs a paid attempt, so in doubt a line passes. Prose formats are searched for HTML comments alone.

/// What opens a line that is a comment in some language; longest first where one begins another.
const OPENERS: [&str; 11] = ["{/*", "<!--", "<%--", "//", "/*", "(*", "--", "#", "*", ";", "%"];
/// In prose the other openers are headings, lists and rules.
const PROSE_OPENERS: [&str; 1] = ["<!--"];
/// Phrases that mean it whatever stands around them.
const CERTAIN: [&str; 14] = [
    "rest unchanged",
    "remaining code unchanged",
    "rest of code unchanged",
    "rest of the code unchanged",
    "rest of the file unchanged",
    "rest of the code remains",
    "rest of the file remains",
    "rest of the code stays",
    "rest of the implementation remains",
    "existing code here",
    "existing code remains",
    "omitted for brevity",
    "same code as before",
    "rest of your code",
];
/// Words that mean it after an ellipsis ("// ... existing code ...").
const AFTER_ELLIPSIS: [&str; 10] = [
    "existing",
    "rest of",
    "the rest",
    "rest unchanged",
    "remaining",
    "unchanged",
    "omitted",
    "same as",
    "previous code",
    "other code",
];
/// Words that mean it before one ("# rest of the code ...").
const BEFORE_ELLIPSIS: [&str; 5] =
    ["rest of the", "remaining code", "remaining methods", "remaining implementation", "unchanged"];

/// The first line (from 1) of `text` that stands for something left out, if any.
pub(super) fn find<'a>(path: &str, text: &'a str) -> Option<(usize, &'a str)> {
    let openers: &[&str] = if is_prose(path) { &PROSE_OPENERS } else { &OPENERS };
    text.lines()
        .enumerate()
        .find(|(_, line)| stands_for_code(line.trim(), openers))
        .map(|(index, line)| (index + 1, line))
}

/// True for files in which a fence or a `#` line is ordinary content.
pub(super) fn is_prose(path: &str) -> bool {
    let extension = path.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    matches!(extension.as_str(), "md" | "markdown" | "mdx" | "rst" | "txt" | "adoc")
}

fn stands_for_code(line: &str, openers: &[&str]) -> bool {
    let Some(comment) = openers.iter().find_map(|opener| line.strip_prefix(opener)) else { return false };
    // Long comment lines are prose about the code; the remarks meant here are short.
    if comment.len() > 160 {
        return false;
    }
    let closers: &[char] = &['/', '*', '-', '>', '}', '%', ')', '#', ';', '!'];
    let comment = comment.trim_start_matches(closers).trim_end_matches(closers).trim().to_ascii_lowercase();
    let comment = comment.trim_matches(|c| matches!(c, '(' | '[' | ']')).trim();
    let opens = comment.starts_with("...") || comment.starts_with('…');
    let ends = comment.ends_with("...") || comment.ends_with('…');
    CERTAIN.iter().any(|phrase| comment.contains(phrase))
        || (opens && AFTER_ELLIPSIS.iter().any(|phrase| comment.contains(phrase)))
        || (ends && BEFORE_ELLIPSIS.iter().any(|phrase| comment.contains(phrase)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remarks_in_place_of_code_are_found_in_every_comment_style() {
        for line in [
            "// ... existing code ...",
            "    # … rest of the file",
            "/* rest unchanged */",
            "<!-- ... remaining markup ... -->",
            "{/* ... existing JSX ... */}",
            "-- rest of the code remains the same",
            "# Remaining code unchanged",
            "// (rest of the implementation remains as it was)",
            "# ... (unchanged)",
            "// rest of the methods...",
            "; implementation omitted for brevity",
        ] {
            assert_eq!(find("a.py", &format!("x\n{line}\ny")), Some((2, line)), "{line}");
        }
    }

    #[test]
    fn ordinary_lines_pass() {
        for line in [
            "// Closes existing connections...",
            "# Keep the rest of the arguments for the handler",
            "print('... existing code ...')",
            "// the value remains unchanged when the key exists",
            "x = rest_unchanged  # fine",
            "# ...",
            "*args, **rest",
        ] {
            assert_eq!(find("a.py", line), None, "{line}");
        }
        assert_eq!(find("README.md", "# Rest unchanged\n* ... existing users\n"), None);
        assert!(find("README.md", "<!-- rest unchanged -->").is_some());
    }
}
