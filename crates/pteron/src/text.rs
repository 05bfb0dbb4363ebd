//! Programs that turn tokens into logits, and the tokenizers that go with them.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use pteron_checkpoint::gguf::GgufVocabulary;
use pteron_checkpoint::limits::MAX_TOKENIZER_BYTES;
use pteron_checkpoint::{Checkpoint, LoadMode, TokenizerFiles, open_bytes, read_limited};

use pteron_ir::{SymInt, TensorType};
use pteron_llm::chat::{ChatError, ChatTemplates};
use pteron_llm::metadata::ModelMetadata;
use pteron_llm::runner::{DecoderError, Logits, LogitsData, TextDecoder, TokensPerCall};
use pteron_llm::tokenizer::{GgufVocabularyParts, Tokenizer, TokenizerError, TokenizerKind, detect, foreign};
use pteron_program::{InputSlot, OutputSlot};
use pteron_tensor::{DType, Tensor};

use crate::error::Error;
use crate::program::Program;
use crate::static_llama::{self, StaticDecoder};
use pteron_exec::{NoHook, NodeHook, ValueRef};

/// A program by ExecuTorch's contract of text models: `forward(tokens i64 [1, n], input_pos i64 [1]) -> logits`, without
/// `input_pos` where there is no KV cache. Where `input_pos` is declared with more than one element, it is the position of
/// every token. Logits are f32, f16 or bf16, `[1, n, vocab]` or `[n, vocab]`.
///
/// A program may have two methods `prefill` and `decode` in place of one: single tokens go to `decode`.
///
/// Or it is a static Llama's ([`pteron_llm::static_llama`]), with the methods `kv_forward` and perhaps `prefill_forward`.
#[derive(Debug)]
pub struct ProgramDecoder {
    program: Program,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Text { prefill: Port, decode: Option<Port> },
    Static(Box<StaticDecoder>),
}

#[derive(Debug)]
struct Port {
    method: String,
    tokens: TokensPerCall,
    position: Position,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// No KV cache.
    None,
    /// The first token's.
    Start,
    /// Every token's.
    Each,
}

/// A bound that a foreign program gives where it means none.
const UNBOUNDED: i64 = 1 << 31;

impl ProgramDecoder {
    /// Methods to prepare for text generation with the method `asked`: itself, or `prefill` where it is missing, and
    /// `decode` where there is one. Where `asked` is missing and there are a static Llama's methods, those.
    pub fn methods(known: &[&str], asked: &str) -> Vec<String> {
        if !known.contains(&asked)
            && let Some(methods) = static_llama::methods(known)
        {
            return methods;
        }
        let first = if !known.contains(&asked) && known.contains(&"prefill") { "prefill" } else { asked };
        let mut out = vec![first.to_owned()];
        if first != "decode" && known.contains(&"decode") {
            out.push("decode".to_owned());
        }
        out
    }

    /// Takes the method `method` of `program`; where it is missing and there is a `prefill`, that one. A method `decode`
    /// gets the tokens after the prompt.
    ///
    /// # Errors
    /// [`Error::NotText`] if a method's inputs or outputs are not those of a text model.
    pub fn new(program: Program, method: &str) -> Result<ProgramDecoder, Error> {
        let known: Vec<&str> = program.module().graphs.iter().map(|g| g.name.as_str()).collect();
        if !known.contains(&method)
            && let Some(decoder) = StaticDecoder::of(&program)?
        {
            return Ok(ProgramDecoder { program, form: Form::Static(Box::new(decoder)) });
        }
        let methods = ProgramDecoder::methods(&known, method);
        let mut ports = methods.iter().map(|m| Port::new(&program, m));
        let (Some(prefill), decode) = (ports.next(), ports.next()) else {
            return Err(not_text(&program, method, "it is not there".to_owned()));
        };
        let (prefill, decode) = (prefill?, decode.transpose()?);
        if let Some(decode) = &decode
            && (decode.position == Position::None) != (prefill.position == Position::None)
        {
            let reason = format!("it and `{}` do not agree whether there is a KV cache", prefill.method);
            return Err(not_text(&program, &decode.method, reason));
        }
        Ok(ProgramDecoder { program, form: Form::Text { prefill, decode } })
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The program, to be called otherwise.
    pub fn program_mut(&mut self) -> &mut Program {
        &mut self.program
    }

    /// What the constant methods say, with what the methods themselves say: a static Llama takes several tokens a call where
    /// it has a method for that, and its context is the mask's.
    ///
    /// # Errors
    /// [`Error::Metadata`] for a known method with an unusable value.
    pub fn metadata(&self) -> Result<ModelMetadata, Error> {
        let mut metadata = self.program.metadata()?;
        if let Form::Static(decoder) = &self.form {
            let (ar_len, context) = decoder.sizes();
            metadata.use_kv_cache = true;
            metadata.enable_dynamic_shape = ar_len > 1;
            metadata.max_context_len = context;
            metadata.max_seq_len = context;
        }
        Ok(metadata)
    }

    /// [`TextDecoder::step`], with a hook around every node.
    ///
    /// # Errors
    /// As [`TextDecoder::step`].
    pub fn step_watched(
        &mut self,
        tokens: &[i64],
        start_pos: i64,
        hook: &mut dyn NodeHook,
    ) -> Result<Logits<'_>, DecoderError> {
        let port = match &mut self.form {
            Form::Static(decoder) => {
                let logits = decoder.step(&mut self.program, tokens, start_pos, hook)?;
                let shape = vec![tokens.len(), logits.len() / tokens.len().max(1)];
                return Ok(Logits { data: LogitsData::F32(Cow::Owned(logits)), shape });
            }
            Form::Text { decode: Some(decode), .. } if tokens.len() == 1 => decode,
            Form::Text { prefill, .. } => prefill,
        };
        let ids = Tensor::of(&[1, tokens.len()], tokens)?;
        let positions: Vec<i64> = match port.position {
            Position::None => Vec::new(),
            Position::Start => vec![start_pos],
            Position::Each => (start_pos..).take(tokens.len()).collect(),
        };
        let positions = Tensor::of(&[positions.len()], &positions)?;
        let inputs = [ValueRef::Tensor(ids.view()), ValueRef::Tensor(positions.view())];
        let inputs = if port.position == Position::None { &inputs[..1] } else { &inputs[..] };
        let outputs = self.program.session().run_watched(&port.method, inputs, hook)?;
        let Some(view) = outputs.tensor(0) else { return Err("the program's output is no tensor".into()) };
        let data = match view.dtype() {
            DType::F32 => view.as_slice().map(|s| LogitsData::F32(Cow::Owned(s.to_vec()))),
            DType::F16 => view.as_slice().map(|s| LogitsData::F16(Cow::Owned(s.to_vec()))),
            DType::BF16 => view.as_slice().map(|s| LogitsData::Bf16(Cow::Owned(s.to_vec()))),
            other => return Err(format!("the logits are {other}, expected f32, f16 or bf16").into()),
        };
        let Some(data) = data else { return Err("the logits are not row-major".into()) };
        Ok(Logits { data, shape: view.sizes().to_vec() })
    }
}

fn not_text(program: &Program, method: &str, reason: String) -> Error {
    Error::NotText { path: program.path().to_owned(), method: method.to_owned(), reason }
}

impl Port {
    fn new(program: &Program, method: &str) -> Result<Port, Error> {
        let fail = |reason| not_text(program, method, reason);
        let (Some(graph), Some(io)) = (program.module().graph(method), program.io(method)) else {
            let known: Vec<_> = program.module().graphs.iter().map(|g| format!("`{}`", g.name)).collect();
            return Err(fail(format!("there is no such method; the program has {}", known.join(", "))));
        };
        let mut inputs: Vec<&TensorType> = Vec::new();
        for (i, slot) in io.inputs.iter().enumerate() {
            let ty = match slot {
                InputSlot::Graph { position, .. } => graph.inputs.get(*position).map(|&v| graph.ty(v)),
                InputSlot::Ignored { .. } => None,
            };
            match ty.and_then(pteron_ir::Type::as_tensor) {
                Some(t) if t.dtype == DType::I64 => inputs.push(t),
                _ => return Err(fail(format!("input {i} is no i64 tensor"))),
            }
        }
        let logits = io.outputs.iter().filter(|o| !matches!(o, OutputSlot::Null)).count();
        if logits != 1 || !matches!(io.outputs.first(), Some(OutputSlot::Graph { position: 0 })) {
            return Err(fail(format!("it gives {logits} outputs, expected the logits alone")));
        }
        let bound = |d: &SymInt| (d.as_const(), d.max(&graph.symbols));
        let (tokens, position) = match inputs.as_slice() {
            [tokens] => (tokens, Position::None),
            [tokens, position] => match position.dims.as_slice() {
                [d] if d.max(&graph.symbols) == 1 => (tokens, Position::Start),
                [_] => (tokens, Position::Each),
                _ => return Err(fail(format!("input 1 is {position}, expected positions i64[1]"))),
            },
            other => {
                let expected = "expected tokens, or tokens and their position";
                return Err(fail(format!("it takes {} inputs, {expected}", other.len())));
            }
        };
        let tokens = match tokens.dims.as_slice() {
            [_, n] => match bound(n) {
                (Some(n), _) => TokensPerCall::Exactly(usize::try_from(n).unwrap_or(0)),
                (None, most) if most >= UNBOUNDED => TokensPerCall::Any,
                (None, most) => TokensPerCall::UpTo(usize::try_from(most).unwrap_or(0)),
            },
            _ => return Err(fail(format!("input 0 is {tokens}, expected tokens i64[1, n]"))),
        };
        if tokens.most() == 0 {
            return Err(fail("it takes no tokens at all".to_owned()));
        }
        Ok(Port { method: method.to_owned(), tokens, position })
    }
}

impl TextDecoder for ProgramDecoder {
    fn step(&mut self, tokens: &[i64], start_pos: i64) -> Result<Logits<'_>, DecoderError> {
        self.step_watched(tokens, start_pos, &mut NoHook)
    }

    fn uses_kv_cache(&self) -> bool {
        match &self.form {
            Form::Text { prefill, .. } => prefill.position != Position::None,
            Form::Static(_) => true,
        }
    }

    fn tokens_per_call(&self) -> TokensPerCall {
        match &self.form {
            Form::Text { prefill, .. } => prefill.tokens,
            Form::Static(decoder) => TokensPerCall::UpTo(decoder.sizes().0),
        }
    }

    /// A ring cache keeps the position of each of its entries, which is ExecuTorch's `cache_positions` i64 `[entries]`.
    fn can_wrap(&self) -> bool {
        self.program.module().buffers.values().any(|b| b.ty.dtype == DType::I64 && b.ty.dims.len() == 1)
    }

    /// Restores every buffer to what the program says: state that is not addressed by position (attention sinks) starts
    /// over as well.
    fn reset(&mut self) -> Result<(), DecoderError> {
        if let Form::Static(decoder) = &mut self.form {
            decoder.reset();
        }
        Ok(self.program.session().reset()?)
    }
}

/// A tokenizer file of any kind, and what lies beside it.
#[derive(Debug)]
pub struct TokenizerSource {
    path: PathBuf,
    files: TokenizerFiles,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Bytes(Vec<u8>),
    Gguf(Box<GgufVocabulary>),
}

/// First bytes of a file that tell a foreign one.
const HEAD_BYTES: usize = 64;

/// A file that goes beside a program, so that the program can be used without its checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerPart {
    /// Its name in cards.
    pub key: &'static str,
    /// The end of the file's name, behind the program's.
    pub suffix: &'static str,
    /// What is in it.
    pub bytes: Vec<u8>,
}

impl TokenizerSource {
    /// Reads the tokenizer at `path`: a file of any kind, found by its content, or a folder with `tokenizer.json` or
    /// `tokenizer.model`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for a file that is no tokenizer, [`Error::Checkpoint`] for one that cannot be read,
    /// [`Error::Kind`] for a folder or a GGUF file without a tokenizer.
    pub fn open(path: &Path) -> Result<TokenizerSource, Error> {
        if path.is_dir() {
            let files = TokenizerFiles::find(path);
            let found = files.tokenizer_json.or(files.tokenizer_model).ok_or_else(|| Error::Kind {
                path: path.to_owned(),
                found: "there is no tokenizer.json and no tokenizer.model in this folder".to_owned(),
                expected: "a tokenizer",
            })?;
            return TokenizerSource::open(&found);
        }
        let (path, folder) = (path.to_owned(), folder_of(path));
        // What lies beside `model.tokenizer.json` begins with `model.` as well.
        let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let prefix = ["tokenizer.json", "tokenizer.model"].iter().find_map(|known| name.strip_suffix(known));
        let tokenizer = |source| Error::Tokenizer { path: path.clone(), source: Box::new(source) };
        let head = head(&path)?;
        if let Some(found) = foreign(&head) {
            return Err(tokenizer(TokenizerError::Unknown { found: found.to_owned() }));
        }
        let content = if matches!(detect(&head), Ok(TokenizerKind::Gguf)) {
            let vocabulary = Checkpoint::open(&path)?.gguf_vocabulary()?.ok_or_else(|| Error::Kind {
                path: path.clone(),
                found: "this GGUF file has no tokenizer (tokenizer.ggml.model)".to_owned(),
                expected: "one that has",
            })?;
            Content::Gguf(Box::new(vocabulary))
        } else {
            Content::Bytes(read_limited(&path, MAX_TOKENIZER_BYTES)?)
        };
        Ok(TokenizerSource { files: TokenizerFiles::find_prefixed(&folder, prefix.unwrap_or_default()), path, content })
    }

    /// The tokenizer beside a program: that of its own name (`model.tokenizer.json` beside `model.pte`), else the folder's.
    ///
    /// # Errors
    /// As [`TokenizerSource::open`].
    pub fn beside(program: &Path) -> Result<TokenizerSource, Error> {
        let folder = folder_of(program);
        let stem = program.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
        let own = TokenizerFiles::find_prefixed(&folder, &format!("{stem}."));
        match own.tokenizer_json.or(own.tokenizer_model) {
            Some(path) => TokenizerSource::open(&path),
            None => TokenizerSource::open(&folder),
        }
    }

    /// What goes beside a program. The tokenizer of a GGUF file stays where it is, but for its chat template.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a file that cannot be read.
    pub fn parts(&self) -> Result<Vec<TokenizerPart>, Error> {
        let part = |key, suffix, bytes| TokenizerPart { key, suffix, bytes };
        let mut out = Vec::new();
        match &self.content {
            Content::Bytes(bytes) => {
                let is_json = bytes.trim_ascii_start().starts_with(b"{");
                out.push(part("tokenizer", if is_json { "tokenizer.json" } else { "tokenizer.model" }, bytes.clone()));
                let config = self.files.read(&self.files.tokenizer_config)?;
                out.extend(config.map(|b| part("tokenizer_config", "tokenizer_config.json", b)));
                let jinja = self.files.read(&self.files.chat_template_jinja)?;
                out.extend(jinja.map(|b| part("chat_template", "chat_template.jinja", b)));
            }
            Content::Gguf(vocabulary) => {
                let template = vocabulary.chat_template.as_ref();
                out.extend(template.map(|t| part("chat_template", "chat_template.jinja", t.clone().into_bytes())));
            }
        }
        Ok(out)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content of a file that is not a GGUF one.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Bytes(bytes) => Some(bytes),
            Content::Gguf(_) => None,
        }
    }

    /// The tokenizer. A `tokenizer.json` takes its bos and eos from `tokenizer_config.json` beside it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`], or [`Error::Checkpoint`] for a `tokenizer_config.json` that cannot be read.
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        let made = match &self.content {
            Content::Bytes(bytes) => {
                let config = self.files.read(&self.files.tokenizer_config)?;
                Tokenizer::from_bytes(bytes, config.as_deref())
            }
            Content::Gguf(vocabulary) => Tokenizer::from_gguf(gguf_parts(vocabulary)),
        };
        made.map_err(|e| Error::Tokenizer { path: self.path.clone(), source: Box::new(e) })
    }

    /// The model's chat templates: a GGUF file's own, else those of `tokenizer_config.json` and `chat_template.jinja` beside
    /// the tokenizer.
    ///
    /// # Errors
    /// [`ChatError::NoTemplate`] if there is none; else what is wrong with it, or with reading it.
    pub fn chat_templates(&self) -> Result<ChatTemplates, Box<dyn std::error::Error + Send + Sync>> {
        if let Content::Gguf(vocabulary) = &self.content {
            let template = vocabulary.chat_template.as_deref().ok_or(ChatError::NoTemplate)?;
            let token = |id: Option<u32>| id.and_then(|id| vocabulary.tokens.get(id as usize));
            let config = serde_json::json!({
                "bos_token": token(vocabulary.bos), "eos_token": token(vocabulary.eos),
                "unk_token": token(vocabulary.unk), "pad_token": token(vocabulary.pad),
            });
            return Ok(ChatTemplates::from_files(Some(config.to_string().as_bytes()), Some(template.as_bytes()))?);
        }
        let config = self.files.read(&self.files.tokenizer_config)?;
        let jinja = self.files.read(&self.files.chat_template_jinja)?;
        Ok(ChatTemplates::from_files(config.as_deref(), jinja.as_deref())?)
    }
}

/// The folder that a file is in.
fn folder_of(path: &Path) -> PathBuf {
    path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// The first bytes of a file.
fn head(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Source { path: path.to_owned(), source: Box::new(source) };
    let file = open_bytes(path, LoadMode::File)?;
    let length = file.len().min(HEAD_BYTES as u64);
    let mut bytes = vec![0; length as usize];
    file.read_at(0, &mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// The vocabulary of a GGUF file as the tokenizer takes it.
pub fn gguf_parts(v: &GgufVocabulary) -> GgufVocabularyParts {
    GgufVocabularyParts {
        model: v.model.clone(),
        pre: v.pre.clone(),
        tokens: v.tokens.clone(),
        scores: v.scores.clone(),
        token_types: v.token_types.clone(),
        merges: v.merges.clone(),
        bos: v.bos,
        eos: v.eos,
        unk: v.unk,
        add_bos: v.add_bos,
        add_eos: v.add_eos,
        add_space_prefix: v.add_space_prefix,
        remove_extra_whitespaces: v.remove_extra_whitespaces,
        precompiled_charsmap: v.precompiled_charsmap.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_chosen_as_executorchs_runner_chooses_them() {
        let methods = |known: &[&str], asked: &str| ProgramDecoder::methods(known, asked).join(" ");
        assert_eq!(methods(&["forward", "get_vocab_size"], "forward"), "forward");
        assert_eq!(methods(&["prefill", "decode"], "forward"), "prefill decode");
        assert_eq!(methods(&["prefill"], "forward"), "prefill");
        assert_eq!(methods(&["mine", "prefill", "decode"], "mine"), "mine decode");
        assert_eq!(methods(&["decode"], "decode"), "decode");
        assert_eq!(methods(&["mine"], "forward"), "forward");
        assert_eq!(methods(&["prefill_forward", "kv_forward"], "forward"), "kv_forward prefill_forward");
        assert_eq!(methods(&["kv_forward"], "forward"), "kv_forward");
        assert_eq!(methods(&["forward", "kv_forward"], "forward"), "forward");
    }
}
