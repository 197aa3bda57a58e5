//! Statements out of the `sql/` files, cut at compile time.
//!
//! One file per store holds its statements, each under a line `-- name: <name>`. Cutting them in a `const` means that
//! a misspelt name does not compile and that nothing is parsed at run time. This file must never build a statement
//! from values: those are always bound.

const MARK: &[u8] = b"-- name: ";

/// The statement called `name` in the text of a `sql/` file.
pub(super) const fn statement(file: &'static str, name: &str) -> &'static str {
    let bytes = file.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if starts_with(bytes, at, MARK) && starts_with(bytes, at + MARK.len(), name.as_bytes()) {
            let start = at + MARK.len() + name.len();
            if start < bytes.len() && bytes[start] == b'\n' {
                let mut end = start + 1;
                while end < bytes.len() && !starts_with(bytes, end, MARK) {
                    end += 1;
                }
                return file.split_at(end).0.split_at(start + 1).1.trim_ascii();
            }
        }
        at += 1;
    }
    panic!("no statement of this name in the SQL file")
}

const fn starts_with(text: &[u8], at: usize, part: &[u8]) -> bool {
    if at + part.len() > text.len() {
        return false;
    }
    let mut i = 0;
    while i < part.len() {
        if text[at + i] != part[i] {
            return false;
        }
        i += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::statement;

    #[test]
    fn a_statement_ends_where_the_next_begins_and_names_match_whole() {
        const FILE: &str = "-- about\n-- name: get all\nSELECT 1;\n\n-- name: get\nSELECT\n  2\n";
        assert_eq!(statement(FILE, "get all"), "SELECT 1;");
        assert_eq!(statement(FILE, "get"), "SELECT\n  2");
    }
}
