//! Chat templates against `transformers` (tests/goldens/make_chat.py), and hostile ones.

mod common;

use pteron_llm::chat::{ChatError, ChatTemplates, DateTime, Message, RenderOptions};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn template(source: &str) -> Result<ChatTemplates, ChatError> {
    ChatTemplates::from_files(None, Some(source.as_bytes()))
}

fn render(source: &str) -> Result<String, ChatError> {
    template(source)?.render(&[Message::user("hi")], &RenderOptions::default())
}

fn golden_source(name: &str) -> String {
    let path = format!("{}/tests/goldens/templates/{name}.jinja", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn renderings_equal_those_of_transformers() {
    let golden: Value = serde_json::from_str(include_str!("goldens/chat.json")).expect("the golden file is valid JSON");
    let now = DateTime::from_unix_seconds(golden["now"].as_i64().unwrap());
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 18);
    for case in cases {
        let name = case["template"].as_str().unwrap();
        let mut config = case["tokens"].clone();
        config["chat_template"] = golden_source(name).into();
        let templates = ChatTemplates::from_files(Some(config.to_string().as_bytes()), None).unwrap();
        let messages: Vec<Message> =
            case["messages"].as_array().unwrap().iter().map(|m| Message::from_json(m.clone()).unwrap()).collect();
        let mut extra = case["options"].as_object().unwrap().clone();
        let tools = extra.remove("tools").map(|tools| tools.as_array().unwrap().clone());
        let options = RenderOptions {
            add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
            tools,
            now: Some(now),
            extra,
            ..RenderOptions::default()
        };
        let rendered = templates.render(&messages, &options);
        match (&case["text"], &case["error"]) {
            (Value::String(text), _) => assert_eq!(&rendered.unwrap(), text, "{name}"),
            (_, Value::String(error)) => {
                assert_eq!(rendered, Err(ChatError::Refused { message: error.clone() }), "{name}");
            }
            _ => panic!("a case has neither text nor error"),
        }
    }
}

#[test]
fn templates_come_from_either_file_and_are_chosen_by_name() {
    let user = [Message::user("hi")];
    let named = json!({"chat_template": [
        {"name": "default", "template": "plain {{ messages[0].content }}"},
        {"name": "tool_use", "template": "tools {{ tools | length }}"},
    ]})
    .to_string();
    let templates = ChatTemplates::from_files(Some(named.as_bytes()), None).unwrap();
    assert_eq!(templates.names(), ["default", "tool_use"]);
    let with = |options: RenderOptions| templates.render(&user, &options);
    assert_eq!(with(RenderOptions::default()).unwrap(), "plain hi");
    assert_eq!(with(RenderOptions { tools: Some(vec![json!({})]), ..Default::default() }).unwrap(), "tools 1");
    assert_eq!(
        with(RenderOptions { template: Some("rag".into()), ..Default::default() }).unwrap_err().to_string(),
        "the model has no chat template named \"rag\"; it has: default, tool_use"
    );
    let file = ChatTemplates::from_files(Some(named.as_bytes()), Some(b"from the file")).unwrap();
    assert_eq!(file.render(&user, &RenderOptions::default()).unwrap(), "from the file");
    let object_token =
        json!({"chat_template": "{{ bos_token }}|{{ eos_token }}", "bos_token": {"content": "<s>"}, "eos_token": null});
    let templates = ChatTemplates::from_files(Some(object_token.to_string().as_bytes()), None).unwrap();
    assert_eq!(templates.render(&user, &RenderOptions::default()).unwrap(), "<s>|");
}

#[test]
fn what_is_missing_or_wrong_is_said() {
    assert_eq!(ChatTemplates::from_files(Some(b"{}"), None).unwrap_err(), ChatError::NoTemplate);
    assert_eq!(ChatTemplates::from_files(None, None).unwrap_err(), ChatError::NoTemplate);
    for config in [r#"{"chat_template": 3}"#, r#"{"chat_template": [{"name": "x"}]}"#, "{"] {
        let error = ChatTemplates::from_files(Some(config.as_bytes()), None).unwrap_err().to_string();
        assert!(error.starts_with("tokenizer_config.json: "), "{error}");
    }
    assert!(matches!(template("{% if %}"), Err(ChatError::Syntax { .. })));
    assert!(matches!(template("{% generation %}"), Err(ChatError::Syntax { .. })));
    assert!(matches!(ChatTemplates::from_files(None, Some(b"\xFF")), Err(ChatError::Invalid { .. })));
    let date = render("{{ strftime_now('%Y') }}").unwrap_err().to_string();
    assert!(date.contains("asks for today's date"), "{date}");
    assert!(render("{{ messages[0].content.nope() }}").unwrap_err().to_string().contains("nope"));
    let templates = template("x").unwrap();
    assert!(matches!(templates.render(&[], &RenderOptions::default()), Err(ChatError::Invalid { .. })));
    assert!(Message::from_json(json!({"content": "x"})).is_err());
    assert!(Message::from_json(json!(["user"])).is_err());
}

#[test]
fn bombs_end_soon() {
    let nested_list =
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    let bombs = [
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x{% endfor %}{% endfor %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}".to_owned(),
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x.replace('a', 'aaaaaaaa') %}{% endfor %}".to_owned(),
        "{{ 'a' * 99999999999 }}".to_owned(),
        "{{ [0] * 99999999999 }}".to_owned(),
        "{{ ([0] * 9999999999) | length }}{{ ([0] * 9999999999) | tojson }}".to_owned(),
        "{{ 'a' | indent(99999999999) }}{{ '%099999999999d' | format(1) }}".to_owned(),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(),
        format!("{nested_list}{{{{ ns.x }}}}"),
        format!("{nested_list}{{{{ ns.x | tojson }}}}"),
        format!("{nested_list}{{{{ ns.x | string }}}}"),
        format!("{nested_list}{{{{ [ns.x] | join }}}}"),
        format!("{nested_list}{{{{ raise_exception(ns.x) }}}}"),
        format!("{nested_list}{{{{ ns.x ~ 'a' }}}}"),
        format!("{nested_list}{{{{ ns.x | upper }}}}"),
        format!("{nested_list}{{% set y = ns.x %}}{nested_list}{{{{ y == ns.x }}}}{{{{ y in [ns.x] }}}}"),
        "{% set ns = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = ns.x, ns.x %}{% endfor %}{{ ns.x ~ '' }}".to_owned(),
        "{% set ns = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}{{ ns.x ~ '' }}".to_owned(),
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x | zip(ns.x) | list %}{% endfor %}{{ ns.x ~ '' }}".to_owned(),
        "{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = ns.x | batch(1) | list %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% set ns.x = namespace(y=ns.x) %}{% endfor %}".to_owned(),
        "{% macro m(x) %}{{ m([x, x]) }}{% endmacro %}{{ m(1) ~ '' }}".to_owned(),
        "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = ns.x + ns.x %}{% endfor %}".to_owned(),
        "{{ range(99999) | list | tojson(indent='                                ' * 99999) }}".to_owned(),
        "{% for i in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}".to_owned(),
    ];
    for bomb in &bombs {
        let start = Instant::now();
        let before = common::spent(start);
        let result = render(bomb);
        let time = common::spent(start) - before;
        assert!(time < Duration::from_secs(2), "{bomb}: {time:?}");
        let error = result.expect_err(bomb);
        assert!(matches!(error, ChatError::OutOfFuel { .. } | ChatError::Render { .. }), "{bomb}: {error}");
    }
    let deep = format!("{}x{}", "{% if 1 %}".repeat(5000), "{% endif %}".repeat(5000));
    assert!(matches!(template(&deep), Err(ChatError::Syntax { .. })));
    let parentheses = format!("{{{{ {}1{} }}}}", "(".repeat(50_000), ")".repeat(50_000));
    assert!(matches!(template(&parentheses), Err(ChatError::Syntax { .. })));
    assert!(matches!(template(&"x".repeat(2 << 20)), Err(ChatError::Invalid { .. })));
    assert!(render("{% include 'default' %}").is_err());
    assert!(render("{% import 'other' as o %}").is_err());
}

#[test]
fn a_long_honest_conversation_is_within_the_limits() {
    let templates = template(&golden_source("qwen3")).unwrap();
    let long = "word ".repeat(2000);
    let messages: Vec<Message> =
        (0..400).map(|i| if i % 2 == 0 { Message::user(&long) } else { Message::assistant(&long) }).collect();
    let text = templates.render(&messages, &RenderOptions::default()).unwrap();
    assert!(text.len() > 400 * long.trim_end().len());
    let huge = Message::user(&"x".repeat(17 << 20));
    assert!(matches!(templates.render(&[huge], &RenderOptions::default()), Err(ChatError::Invalid { .. })));
}
