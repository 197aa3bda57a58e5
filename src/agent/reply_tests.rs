//! What counts as a file or a plan in a reply, and why everything else is refused.
//!
//! Tables of replies as models really write them: tags, fences, refusals, cut-offs. What is accepted is compared byte for
//! byte, and each refusal with its own reason, so that no case passes for another's.

use super::*;
use crate::error::Coded;
use crate::protocol::{Contract, FeatureId, FilePlan, Priority, TaskSpec};

fn reply(text: &str) -> LlmReply {
    LlmReply { text: text.into(), stop: StopReason::EndTurn, usage: None, model: "m".into(), request_id: None }
}

fn want(path: &str) -> ReplyFormat {
    ReplyFormat::File { path: path.into(), id: "k7f3a2".into(), max_bytes: 1000 }
}

fn file_of(path: &str, text: &str) -> Result<String, Rejection> {
    extract(&want(path), &reply(text)).map(|product| {
        assert_eq!(product.parsed, Parsed::File);
        String::from_utf8(product.bytes.to_vec()).unwrap()
    })
}

#[test]
fn the_tagged_block_gives_the_bytes_as_they_are() {
    for (inner, bytes) in [
        ("\nx = 1\n", "x = 1\n"),
        ("\r\nx = 1\r\n", "x = 1\r\n"),
        ("\n\n  x = 1", "\n  x = 1"),
        ("x = 1", "x = 1"),
        ("\n</file>\n</file-other>\n<file a=\"b\">\n", "</file>\n</file-other>\n<file a=\"b\">\n"),
        ("\ns = \"\"\"\n```\n\"\"\"\n", "s = \"\"\"\n```\n\"\"\"\n"),
    ] {
        let text = format!("Here it is.\n<file path=\"a.py\" id=\"k7f3a2\">{inner}</file-k7f3a2>\n");
        assert_eq!(file_of("a.py", &text).as_deref(), Ok(bytes), "{inner:?}");
    }
}

#[test]
fn a_tag_with_other_quotes_order_or_a_dotted_path_is_understood() {
    let text = "<file id='k7f3a2' path='./a.py'>\nx\n</file-k7f3a2>";
    assert_eq!(file_of("a.py", text).as_deref(), Ok("x\n"));
}

#[test]
fn a_fence_inside_the_tags_is_taken_off_unless_the_file_is_prose() {
    let text = |path| format!("<file path=\"{path}\" id=\"k7f3a2\">\n```\nx\n```\n</file-k7f3a2>");
    assert_eq!(file_of("a.py", &text("a.py")).as_deref(), Ok("x\n"));
    assert_eq!(file_of("a.md", &text("a.md")).as_deref(), Ok("```\nx\n```\n"));
}

#[test]
fn exactly_one_fenced_block_will_do_when_there_are_no_tags() {
    assert_eq!(file_of("a.py", "Sure.\n```python\nx = 1\n```\nDone.").as_deref(), Ok("x = 1\n"));
    assert_eq!(file_of("a.py", "```python path=a.py\nx\n```").as_deref(), Ok("x\n"));
    let nested = "````markdown\n# A\n```sh\nls\n```\n````\n";
    assert_eq!(file_of("README.md", nested).as_deref(), Ok("# A\n```sh\nls\n```\n"));
}

#[test]
fn every_other_shape_is_refused_for_its_own_reason() {
    let open = "<file path=\"a.py\" id=\"k7f3a2\">\n";
    let block = format!("{open}x\n</file-k7f3a2>\n");
    let other = "<file path=\"b.py\" id=\"zzzzzz\">\ny\n</file-zzzzzz>\n";
    let table = [
        ("I cannot see the file.".to_owned(), "CS-REPLY-007"),
        (format!("{block}{block}"), "CS-REPLY-008"),
        (format!("{block}{other}"), "CS-REPLY-008"),
        (format!("{other}{block}"), "CS-REPLY-008"),
        (format!("{open}{block}"), "CS-REPLY-008"),
        ("```\na\n```\n```\nb\n```".into(), "CS-REPLY-008"),
        ("```markdown\n# A\n```sh\nls\n```\n```\n".into(), "CS-REPLY-008"),
        ("<file path=\"b.py\" id=\"k7f3a2\">\nx\n</file-k7f3a2>".into(), "CS-REPLY-009"),
        ("<file path=\"../a.py\" id=\"k7f3a2\">\nx\n</file-k7f3a2>".into(), "CS-REPLY-009"),
        (other.into(), "CS-REPLY-009"),
        ("```py path=b.py\nx\n```".into(), "CS-REPLY-009"),
        (block.replace("k7f3a2", "k7f3a3"), "CS-REPLY-010"),
        (format!("{open}x\n"), "CS-REPLY-011"),
        (format!("{open}x\n</file>"), "CS-REPLY-011"),
        ("```\nx\n".into(), "CS-REPLY-011"),
        (format!("{open}# ... rest unchanged ...\n</file-k7f3a2>"), "CS-REPLY-012"),
        (format!("{open}a\nb\0\n</file-k7f3a2>"), "CS-REPLY-013"),
        (format!("{open}{}\n</file-k7f3a2>", "x".repeat(1000)), "CS-REPLY-014"),
        (format!("{open} \n</file-k7f3a2>"), "CS-REPLY-015"),
    ];
    for (text, code) in table {
        let rejection = file_of("a.py", &text).unwrap_err();
        assert_eq!(rejection.code(), code, "{text}\n{rejection}");
        assert!(rejection.feedback().len() > 20 && !rejection.feedback().contains('\n'));
    }
    let rejection = file_of("a.py", &format!("{open}a\nb\0\n</file-k7f3a2>")).unwrap_err();
    assert_eq!(rejection, Rejection::NotText { line: 2, code: 0 });
}

#[test]
fn a_reply_the_model_did_not_end_itself_is_refused_even_when_the_block_is_whole() {
    let whole = "<file path=\"a.py\" id=\"k7f3a2\">\nx\n</file-k7f3a2>";
    for (stop, text, code) in [
        (StopReason::MaxTokens, whole, "CS-REPLY-001"),
        (StopReason::ContextWindow, whole, "CS-REPLY-002"),
        (StopReason::Refusal(Some("cyber".into())), whole, "CS-REPLY-003"),
        (StopReason::Other("pause_turn".into()), whole, "CS-REPLY-004"),
        (StopReason::MaxTokens, " \n", "CS-REPLY-005"),
        (StopReason::EndTurn, " \n", "CS-REPLY-006"),
    ] {
        let rejection = extract(&want("a.py"), &LlmReply { stop, ..reply(text) }).unwrap_err();
        assert_eq!(rejection.code(), code);
    }
    assert!(Rejection::Truncated.feedback().contains("truncated"));
    assert!(Rejection::Truncated.feedback().contains("Write less"));
    assert!(Rejection::Refused { category: Some("cyber".into()) }.to_string().contains("cyber"));
}

#[test]
fn files_in_known_formats_have_to_parse() {
    let of = |path: &str, inner: &str| {
        file_of(path, &format!("<file path=\"{path}\" id=\"k7f3a2\">\n{inner}\n</file-k7f3a2>"))
    };
    assert!(of("a.json", "{\"a\": 1}").is_ok());
    assert_eq!(of("a.json", "{\"a\": 1,}").unwrap_err().code(), "CS-REPLY-016");
    assert!(of("tsconfig.json", "{\"a\": 1,} // comment").is_ok());
    assert!(of("Cargo.toml", "[package]\nname = \"a\"").is_ok());
    assert_eq!(of("Cargo.toml", "[package\n").unwrap_err().code(), "CS-REPLY-016");
    assert!(of("pkg/__init__.py", "").is_ok());

    let product = extract(&want("a.json"), &reply("```json\n{}\n```")).unwrap();
    assert!(product.checks.contains(&"parses-json".to_owned()));
}

fn feature(id: &str, paths: &[&str]) -> FeatureSpec {
    FeatureSpec {
        id: FeatureId::new(id).unwrap(),
        name: "Name".into(),
        description: "Does it.".into(),
        priority: Priority::Normal,
        files: paths.iter().map(|path| FilePlan { path: (*path).into(), purpose: "p".into() }).collect(),
        depends_on: vec![],
        metadata: vec![],
    }
}

fn plan() -> StrategicPlan {
    StrategicPlan {
        name: "demo".into(),
        summary: "A demo.".into(),
        contract: Contract { language: "Python 3.12".into(), identifiers: vec![], rules: vec![] },
        features: vec![feature("core", &["a.py", "b.py"]), feature("docs", &["README.md"])],
    }
}

fn task(id: &str, path: &str) -> TaskSpec {
    TaskSpec {
        id: id.into(),
        path: path.into(),
        agent: "coder".into(),
        title: "t".into(),
        instructions: "i".into(),
        depends_on: vec![],
        estimated_tokens: 100,
    }
}

#[test]
fn a_strategic_plan_is_taken_bare_or_fenced_and_stored_in_one_canonical_form() {
    let format = ReplyFormat::Plan { features: (2, 15), tasks: (1, 8) };
    let json = serde_json::to_string_pretty(&plan()).unwrap();
    let bare = extract(&format, &reply(&json)).unwrap();
    let fenced = extract(&format, &reply(&format!("Here:\n```json\n{json}\n```\n"))).unwrap();
    assert_eq!(bare, fenced);
    assert_eq!(bare.parsed, Parsed::Plan(plan()));
    assert_eq!(bare.bytes, serde_json::to_vec(&plan()).unwrap());
}

#[test]
fn plans_that_are_no_json_of_another_shape_or_against_the_rules_are_refused() {
    let json = serde_json::to_string(&plan()).unwrap();
    let code = |format: &ReplyFormat, text: &str| extract(format, &reply(text)).unwrap_err().code();
    let format = ReplyFormat::Plan { features: (2, 15), tasks: (1, 8) };
    assert_eq!(code(&format, "I would plan five features."), "CS-REPLY-017");
    assert_eq!(code(&format, &json[..json.len() - 1]), "CS-REPLY-017");
    assert_eq!(code(&format, "{\"name\": \"x\"}"), "CS-REPLY-018");
    assert_eq!(code(&format, &json.replacen("\"name\"", "\"extra\":1,\"name\"", 1)), "CS-REPLY-018");
    assert_eq!(code(&format, &json.replace("README.md", "a.py")), "CS-REPLY-019");
    assert_eq!(code(&ReplyFormat::Plan { features: (5, 15), tasks: (1, 8) }, &json), "CS-REPLY-019");
    assert_eq!(code(&format, &" ".repeat(MAX_PLAN_BYTES).replace("  ", "{ ")), "CS-REPLY-017");
    assert_eq!(code(&format, &"{".repeat(MAX_PLAN_BYTES + 1)), "CS-REPLY-014");
    assert_eq!(code(&format, &"[".repeat(MAX_PLAN_BYTES)), "CS-REPLY-018");
}

#[test]
fn a_feature_plan_may_name_only_agents_of_this_fleet() {
    let format = |agents: &[&str]| ReplyFormat::FeaturePlan {
        feature: Box::new(feature("core", &["a.py", "b.py"])),
        plan: Arc::new(plan()),
        tasks: (2, 8),
        agents: agents.iter().map(|name| AgentType::new(name).unwrap()).collect(),
    };
    let good = FeaturePlan { tasks: vec![task("a", "a.py"), task("b", "b.py")] };
    let text = reply(&serde_json::to_string(&good).unwrap());
    assert_eq!(extract(&format(&["coder"]), &text).unwrap().parsed, Parsed::Feature(good.clone()));
    assert!(extract(&format(&[]), &text).is_ok());
    let rejection = extract(&format(&["backend"]), &text).unwrap_err();
    assert!(rejection.to_string().contains("plan breaks a rule"), "{rejection}");
    assert!(rejection.feedback().contains("use one of backend"), "{}", rejection.feedback());
    let missing = FeaturePlan { tasks: vec![task("a", "a.py")] };
    let rejection = extract(&format(&[]), &reply(&serde_json::to_string(&missing).unwrap())).unwrap_err();
    assert_eq!(rejection.code(), "CS-REPLY-019");
}
