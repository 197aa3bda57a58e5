//! Filling the named places of a prompt file.
//!
//! One pass over the template: a value is copied, never scanned, so that text which happens to contain `{{name}}` cannot
//! pull another value in. The templates are files of this repository; a test checks that every place is known.

/// `template` with every `{{name}}` replaced by the value of that name; unknown names stay as they are.
pub(super) fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(template.len() + values.iter().map(|(_, value)| value.len()).sum::<usize>());
    let mut rest = template;
    while let Some(start) = rest.find("{{") {
        let Some(length) = rest[start + 2..].find("}}") else { break };
        let name = &rest[start + 2..start + 2 + length];
        let end = start + 2 + length + 2;
        out.push_str(&rest[..start]);
        match values.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => out.push_str(value),
            None => out.push_str(&rest[start..end]),
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// `text` between tags that end in `id`, which the text cannot know and therefore not close.
pub(super) fn fence(id: &str, name: &str, text: &str) -> String {
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("<data-{id} name=\"{}\">\n{text}{newline}</data-{id}>\n", attribute(name))
}

/// The start of `text`, at most `bytes` long and never ending inside a character.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// `name` as it may stand between double quotes of a tag: one line, no quote, no angle bracket.
fn attribute(name: &str) -> String {
    name.chars().filter(|c| !c.is_control() && !matches!(c, '"' | '<' | '>')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_pull_in_another_value() {
        assert_eq!(fill("a {{x}} {{y}} {{z", &[("x", "{{y}}"), ("y", "2")]), "a {{y}} 2 {{z");
        assert_eq!(fill("{{unknown}}", &[]), "{{unknown}}");
    }

    #[test]
    fn a_fence_always_closes_on_a_line_of_its_own() {
        assert_eq!(fence("k", "a\"b\n", "x"), "<data-k name=\"ab\">\nx\n</data-k>\n");
        assert_eq!(fence("k", "p", ""), "<data-k name=\"p\">\n</data-k>\n");
    }
}
