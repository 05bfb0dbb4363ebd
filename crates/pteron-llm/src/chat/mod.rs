//! A model's own chat template, rendered as `transformers` does.
//!
//! Templates are Jinja programs that come with a model, so they are run with limits: [`MAX_TEMPLATE_BYTES`],
//! [`MAX_INPUT_BYTES`], [`MAX_RECURSION`], and [`BASE_FUEL`] + [`FUEL_PER_INPUT_BYTE`] units of work (one unit is about one
//! instruction or 64 bytes of data), which bounds time and memory. Lists and dictionaries have a limit of depth and pay for
//! every look into them (see `own.rs`), so that a small value that holds itself many times over is bounded too. What is not
//! charged is the comparison of two long texts, which the engine does byte by byte.
//!
//! As in `transformers`: `trim_blocks` and `lstrip_blocks` are on, loop controls exist, the methods of Python's strings and
//! dictionaries work, `tojson` writes as Python's `json.dumps`, values print as in Python, `raise_exception` and
//! `strftime_now` are there, and `{% generation %}` blocks are accepted.

mod date;
mod generation;
mod own;
mod python;

pub use date::DateTime;

use self::own::Work;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value as Json};
use std::error::Error as _;

/// The longest template.
pub const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// The most text of messages, tools and documents.
pub const MAX_INPUT_BYTES: usize = 16 << 20;
/// Work that every rendering may do, in units of one instruction or 64 bytes.
pub const BASE_FUEL: u64 = 1_000_000;
/// Work that a rendering may do in addition for each byte of its input.
pub const FUEL_PER_INPUT_BYTE: u64 = 16;
/// The deepest nesting of blocks and macros.
pub const MAX_RECURSION: usize = 200;
/// Name of the template where a model has one without a name.
pub const DEFAULT_TEMPLATE: &str = "default";
/// Name of the template that is taken when tools are given and it exists.
pub const TOOL_TEMPLATE: &str = "tool_use";

/// Why a conversation could not be rendered.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The model has none.
    #[error(
        "the model has no chat template (no `chat_template` in tokenizer_config.json and no chat_template.jinja): \
         it is probably not an instruct model; use a plain prompt"
    )]
    NoTemplate,
    /// The model has templates, none with this name.
    #[error("the model has no chat template named {name:?}; it has: {known}")]
    UnknownTemplate {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A file or value is not what it must be.
    #[error("{what}: {message}")]
    Invalid {
        /// The file or value.
        what: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The template does not parse.
    #[error("chat template {name:?} is not valid: {message}")]
    Syntax {
        /// The template's name.
        name: String,
        /// Where and why.
        message: String,
    },
    /// The template refused the conversation by `raise_exception`.
    #[error("the model's chat template refuses the conversation: {message}")]
    Refused {
        /// The template's own words.
        message: String,
    },
    /// The template did more work than allowed.
    #[error("chat template {name:?} exceeds the limit of {limit} units of work")]
    OutOfFuel {
        /// The template's name.
        name: String,
        /// The limit.
        limit: u64,
    },
    /// The template failed.
    #[error("chat template {name:?} failed: {message}")]
    Render {
        /// The template's name.
        name: String,
        /// Where and why.
        message: String,
    },
}

/// One message: a JSON object with at least `role`.
#[derive(Clone, Debug, PartialEq)]
pub struct Message(Map<String, Json>);

impl Message {
    /// A text message of any role.
    pub fn new(role: &str, content: &str) -> Self {
        let mut map = Map::new();
        map.insert("role".to_owned(), role.into());
        map.insert("content".to_owned(), content.into());
        Self(map)
    }

    /// What the model shall be like.
    pub fn system(content: &str) -> Self {
        Self::new("system", content)
    }

    /// What the person says.
    pub fn user(content: &str) -> Self {
        Self::new("user", content)
    }

    /// What the model says.
    pub fn assistant(content: &str) -> Self {
        Self::new("assistant", content)
    }

    /// A message with any fields (`tool_calls`, content parts, …); `role` must be a string.
    pub fn from_json(value: Json) -> Result<Self, ChatError> {
        match value {
            Json::Object(map) if map.get("role").is_some_and(Json::is_string) => Ok(Self(map)),
            other => Err(ChatError::Invalid {
                what: "message",
                message: format!("expected an object with a string `role`, found {}", shorten(&other.to_string())),
            }),
        }
    }

    /// The fields.
    pub fn fields(&self) -> &Map<String, Json> {
        &self.0
    }

    /// The fields as templates see them: a model's reasoning under each of the names that templates use for it.
    fn for_template(&self) -> Json {
        let mut map = self.0.clone();
        let reasoning = ["reasoning_content", "thinking", "reasoning"]
            .iter()
            .find_map(|name| map.get(*name).filter(|value| !value.is_null()).cloned());
        if let Some(reasoning) = reasoning {
            map.entry("thinking").or_insert_with(|| reasoning.clone());
            map.insert("reasoning_content".to_owned(), reasoning);
        }
        Json::Object(map)
    }
}

/// What a rendering depends on besides the messages.
#[derive(Clone, Debug, Default)]
pub struct RenderOptions {
    /// Open the model's turn at the end.
    pub add_generation_prompt: bool,
    /// The template's name; `None` takes [`TOOL_TEMPLATE`] when there are tools and the model has it, else
    /// [`DEFAULT_TEMPLATE`].
    pub template: Option<String>,
    /// JSON schemas of tools.
    pub tools: Option<Vec<Json>>,
    /// Documents to answer from.
    pub documents: Option<Vec<Json>>,
    /// The value of `strftime_now`; a template that asks for it fails without.
    pub now: Option<DateTime>,
    /// Further variables, such as `enable_thinking`.
    pub extra: Map<String, Json>,
}

/// The chat templates of a model.
#[derive(Debug)]
pub struct ChatTemplates {
    env: Environment<'static>,
    names: Vec<String>,
    special: Map<String, Json>,
}

impl ChatTemplates {
    /// Reads the templates out of the contents of `tokenizer_config.json` and of `chat_template.jinja`, which goes before
    /// the `default` template of the former.
    pub fn from_files(tokenizer_config: Option<&[u8]>, jinja: Option<&[u8]>) -> Result<Self, ChatError> {
        let config = match tokenizer_config {
            Some(bytes) => serde_json::from_slice(bytes).map_err(|e| bad_config(e.to_string()))?,
            None => Json::Null,
        };
        let mut sources = config_templates(&config["chat_template"])?;
        if let Some(bytes) = jinja {
            let source = std::str::from_utf8(bytes)
                .map_err(|e| ChatError::Invalid { what: "chat_template.jinja", message: format!("not UTF-8: {e}") })?;
            sources.retain(|(name, _)| name != DEFAULT_TEMPLATE);
            sources.insert(0, (DEFAULT_TEMPLATE.to_owned(), source.to_owned()));
        }
        if sources.is_empty() {
            return Err(ChatError::NoTemplate);
        }
        let mut env = environment()?;
        let mut names = Vec::new();
        for (name, source) in sources {
            if source.len() > MAX_TEMPLATE_BYTES {
                return Err(ChatError::Invalid {
                    what: "chat template",
                    message: format!(
                        "{name:?} has {} bytes, more than the limit of {MAX_TEMPLATE_BYTES}",
                        source.len()
                    ),
                });
            }
            let counted = own::rewrite(&generation::rewrite(&source)).ok_or_else(|| ChatError::Syntax {
                name: name.clone(),
                message: "brackets are nested too deeply".to_owned(),
            })?;
            env.add_template_owned(name.clone(), counted)
                .map_err(|e| ChatError::Syntax { name: name.clone(), message: describe(&e) })?;
            names.push(name);
        }
        Ok(Self { env, names, special: special_tokens(&config) })
    }

    /// The names of the templates.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The prompt for a conversation. It contains the special tokens as text: encode it without adding any.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String, ChatError> {
        if messages.is_empty() {
            return Err(ChatError::Invalid { what: "messages", message: "the conversation is empty".to_owned() });
        }
        let name = self.choose(options)?;
        let mut context = self.special.clone();
        context.extend(options.extra.clone());
        context.insert("messages".to_owned(), messages.iter().map(Message::for_template).collect());
        context.insert("tools".to_owned(), options.tools.clone().into());
        context.insert("documents".to_owned(), options.documents.clone().into());
        context.insert("add_generation_prompt".to_owned(), options.add_generation_prompt.into());
        let context = Json::Object(context);
        let size = python::size(&context);
        if size > MAX_INPUT_BYTES {
            return Err(ChatError::Invalid {
                what: "messages",
                message: format!("the conversation has {size} bytes, more than the limit of {MAX_INPUT_BYTES}"),
            });
        }
        let limit = BASE_FUEL + FUEL_PER_INPUT_BYTE * size as u64;
        let mut env = self.env.clone();
        env.set_fuel(Some(limit));
        let now = options.now;
        env.add_function("strftime_now", move |format: &str| match now {
            Some(now) => now.strftime(format).map_err(|m| minijinja::Error::new(ErrorKind::InvalidOperation, m)),
            None => Err(minijinja::Error::new(
                ErrorKind::InvalidOperation,
                "the template asks for today's date, and none was given",
            )),
        });
        let work = Work::new(limit);
        own::install(&mut env, &work);
        let rendered = env.get_template(name).and_then(|template| template.render(python::to_value(&context, &work)));
        if work.is_spent() {
            return Err(ChatError::OutOfFuel { name: name.to_owned(), limit });
        }
        rendered.map_err(|error| {
            if let Some(refusal) = refusal(&error) {
                ChatError::Refused { message: refusal }
            } else if error.kind() == ErrorKind::OutOfFuel {
                ChatError::OutOfFuel { name: name.to_owned(), limit }
            } else {
                ChatError::Render { name: name.to_owned(), message: describe(&error) }
            }
        })
    }

    fn choose<'a>(&'a self, options: &'a RenderOptions) -> Result<&'a str, ChatError> {
        let has = |name: &str| self.names.iter().any(|n| n == name);
        let name = match &options.template {
            Some(name) => name.as_str(),
            None if options.tools.is_some() && has(TOOL_TEMPLATE) => TOOL_TEMPLATE,
            None => DEFAULT_TEMPLATE,
        };
        if has(name) {
            Ok(name)
        } else {
            Err(ChatError::UnknownTemplate { name: name.to_owned(), known: self.names.join(", ") })
        }
    }
}

fn bad_config(message: String) -> ChatError {
    ChatError::Invalid { what: "tokenizer_config.json", message }
}

/// `chat_template`: a string, or a list of objects with `name` and `template`.
fn config_templates(field: &Json) -> Result<Vec<(String, String)>, ChatError> {
    match field {
        Json::Null => Ok(Vec::new()),
        Json::String(source) => Ok(vec![(DEFAULT_TEMPLATE.to_owned(), source.clone())]),
        Json::Array(entries) => entries
            .iter()
            .map(|entry| match (entry["name"].as_str(), entry["template"].as_str()) {
                (Some(name), Some(source)) => Ok((name.to_owned(), source.to_owned())),
                _ => Err(bad_config("an entry of `chat_template` lacks `name` or `template`".to_owned())),
            })
            .collect(),
        _ => Err(bad_config("`chat_template` is neither a string nor a list".to_owned())),
    }
}

/// `bos_token`, `eos_token`, … as strings; those that are null stay undefined.
fn special_tokens(config: &Json) -> Map<String, Json> {
    let names = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
    let mut tokens = Map::new();
    for name in names {
        let field = &config[name];
        if let Some(token) = field.as_str().or_else(|| field["content"].as_str()) {
            tokens.insert(name.to_owned(), token.into());
        }
    }
    tokens
}

fn environment() -> Result<Environment<'static>, ChatError> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.map_err(|e| ChatError::Invalid { what: "template syntax", message: describe(&e) })?);
    env.set_recursion_limit(MAX_RECURSION);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.set_formatter(python::format);
    env.add_filter("tojson", |state: &minijinja::State<'_, '_>, value: &Value, options: Kwargs| {
        python::to_json(state, value, &options)
    });
    // The engine's own versions print nested lists without paying for it.
    env.add_filter("string", |state: &minijinja::State<'_, '_>, value: &Value| python::to_str(state, value));
    env.add_filter("join", python::join);
    env.add_function(
        "raise_exception",
        |state: &minijinja::State<'_, '_>, message: &Value| -> Result<Value, minijinja::Error> {
            let message = python::to_str(state, message)?;
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Refusal(message)))
        },
    );
    Ok(env)
}

/// The error that `raise_exception` makes.
#[derive(Debug)]
struct Refusal(String);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

fn refusal(error: &minijinja::Error) -> Option<String> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return Some(refusal.0.clone());
        }
        source = error.source();
    }
    None
}

/// The message with its line; causes follow.
fn describe(error: &minijinja::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
