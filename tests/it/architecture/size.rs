//! Files of at most 400 lines of code, functions of at most 70.
//!
//! Blank lines and comments are free, so that nobody saves on them; inline test modules are, too.

use syn::spanned::Spanned;
use syn::visit::Visit;

use super::source::Source;

const MAX_FILE: usize = 400;
const MAX_FUNCTION: usize = 70;

/// What is too long in a file.
pub(super) fn faults(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = source.code_lines_without_tests();
    let whole = source.code_lines(1, usize::MAX);
    // A test file is nothing but tests; its own lines count.
    let lines = if lines == 0 { whole } else { lines };
    if lines > MAX_FILE {
        let what = format!("{lines} lines of code; the limit is {MAX_FILE}: split it by what changes together");
        faults.push(source.fault(1, &what));
    }
    let mut functions = Functions { source, faults };
    functions.visit_file(&source.ast);
    functions.faults
}

struct Functions<'a> {
    source: &'a Source,
    faults: Vec<String>,
}

impl Functions<'_> {
    fn judge(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let first = signature.span().start().line;
        let lines = self.source.code_lines(first, block.span().end().line);
        if lines > MAX_FUNCTION {
            let name = &signature.ident;
            let what =
                format!("function {name} has {lines} lines of code; the limit is {MAX_FUNCTION}: name its steps");
            self.faults.push(self.source.fault(first, &what));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.judge(&item.sig, &item.block);
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.judge(&item.sig, &item.block);
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.judge(&item.sig, block);
        }
        syn::visit::visit_trait_item_fn(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(lines: usize) -> String {
        format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2))
    }

    #[test]
    fn a_long_function_is_found_wherever_it_stands() {
        assert!(faults(&Source::parse("src/x.rs", &function(MAX_FUNCTION))).is_empty());
        let long = function(MAX_FUNCTION + 1);
        for text in [long.clone(), format!("impl A {{\n{long}}}"), format!("mod a {{ trait B {{\n{long}}} }}")] {
            let found = faults(&Source::parse("src/x.rs", &text));
            assert_eq!(found.len(), 1, "{text}");
            assert!(found[0].contains("function f has 71 lines") && found[0].starts_with("src/x.rs:"), "{}", found[0]);
        }
    }

    #[test]
    fn a_long_file_is_found_and_its_comments_and_tests_are_free() {
        let code = "const A: u8 = 0;\n".repeat(MAX_FILE);
        let free = "// why\n\n".repeat(50) + "#[cfg(test)]\nmod tests {\n    fn f() {}\n}\n";
        assert!(faults(&Source::parse("src/x.rs", &(code.clone() + &free))).is_empty());
        assert_eq!(faults(&Source::parse("src/x.rs", &(code.clone() + "const B: u8 = 0;\n"))).len(), 1);
        assert_eq!(faults(&Source::parse("tests/it/x.rs", &(code + "const B: u8 = 0;\n"))).len(), 1);
    }
}
