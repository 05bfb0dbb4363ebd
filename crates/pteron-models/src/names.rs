//! The weights of a model: what they are called in its module, and in checkpoints of each spelling.

use crate::config::{ConfigFormat, ModelConfig};

/// What a checkpoint calls the modules. Those of a layer follow its prefix and number.
struct Spelling {
    embedding: &'static str,
    layer: &'static str,
    attention_norm: &'static str,
    q: &'static str,
    k: &'static str,
    v: &'static str,
    o: &'static str,
    q_norm: &'static str,
    k_norm: &'static str,
    ffn_norm: &'static str,
    gate: &'static str,
    up: &'static str,
    down: &'static str,
    norm: &'static str,
    output: &'static str,
}

/// The module's own names.
const HUGGING_FACE: Spelling = Spelling {
    embedding: "model.embed_tokens",
    layer: "model.layers",
    attention_norm: "input_layernorm",
    q: "self_attn.q_proj",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    o: "self_attn.o_proj",
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    ffn_norm: "post_attention_layernorm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    norm: "model.norm",
    output: "lm_head",
};

/// What the module calls the embedding's weight.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// What the module calls the output layer's weight.
pub(crate) const OUTPUT: &str = "lm_head.weight";

const META: Spelling = Spelling {
    embedding: "tok_embeddings",
    layer: "layers",
    attention_norm: "attention_norm",
    q: "attention.wq",
    k: "attention.wk",
    v: "attention.wv",
    o: "attention.wo",
    q_norm: "attention.q_norm_fn",
    k_norm: "attention.k_norm_fn",
    ffn_norm: "ffn_norm",
    gate: "feed_forward.w1",
    up: "feed_forward.w3",
    down: "feed_forward.w2",
    norm: "norm",
    output: "output",
};

const GGUF: Spelling = Spelling {
    embedding: "token_embd",
    layer: "blk",
    attention_norm: "attn_norm",
    q: "attn_q",
    k: "attn_k",
    v: "attn_v",
    o: "attn_output",
    q_norm: "attn_q_norm",
    k_norm: "attn_k_norm",
    ffn_norm: "ffn_norm",
    gate: "ffn_gate",
    up: "ffn_up",
    down: "ffn_down",
    norm: "output_norm",
    output: "output",
};

impl ConfigFormat {
    const fn spelling(self) -> &'static Spelling {
        match self {
            ConfigFormat::HuggingFace => &HUGGING_FACE,
            ConfigFormat::Meta | ConfigFormat::Llama2c => &META,
            ConfigFormat::Gguf => &GGUF,
        }
    }

    /// What a checkpoint calls the embedding's weight.
    pub(crate) fn embedding(self) -> String {
        format!("{}.weight", self.spelling().embedding)
    }

    /// What a checkpoint calls the output layer's weight.
    pub(crate) fn output(self) -> String {
        format!("{}.weight", self.spelling().output)
    }

    /// What a checkpoint calls the bias of the first layer's query, attention output, and feed-forward output.
    pub(crate) fn first_biases(self) -> [String; 3] {
        let s = self.spelling();
        [s.q, s.o, s.down].map(|module| format!("{}.0.{module}.bias", s.layer))
    }
}

/// A weight that a model has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in the module, which is Hugging Face's whatever the checkpoint: the module's path and `weight` or `bias`.
    pub name: String,
    /// Its name in a checkpoint of the configuration's format.
    pub stored: String,
    /// Its sizes; a matrix is `[out, in]`.
    pub shape: Vec<usize>,
    /// Which fields of the configuration say so: `num_key_value_heads 2 × head_dim 16, hidden_size 64 of config.json`.
    pub because: String,
    /// Whether its rows are those of heads that are rotated, and the checkpoint has the two of a pair as neighbours
    /// ([`ModelConfig::interleaved`]) where the module has them half a head apart.
    pub interleaved: bool,
}

/// All weights of a model, embedding first, output last; the output layer's is not among them where it is tied.
pub fn parameters(config: &ModelConfig) -> Vec<Parameter> {
    let (m, s, f) = (&HUGGING_FACE, config.format.spelling(), config.format.names());
    let dim = (config.dim, format!("{} {}", f.dim, config.dim));
    let hidden = (config.hidden_dim, format!("{} {}", f.hidden_dim, config.hidden_dim));
    let vocab = (config.vocab_size, format!("{} {}", f.vocab_size, config.vocab_size));
    let head = (config.head_dim, format!("{} {}", f.head_dim, config.head_dim));
    let q = (config.q_dim(), format!("{} {} × {}", f.n_heads, config.n_heads, head.1));
    let kv = (config.kv_dim(), format!("{} {} × {}", f.n_kv_heads, config.n_kv_heads, head.1));
    let mut out = Vec::new();
    // `names` are the module's and the checkpoint's.
    let mut add = |names: [String; 2], leaf: &str, sizes: &[&(usize, String)], rotated: bool| {
        let texts: Vec<&str> = sizes.iter().map(|s| s.1.as_str()).collect();
        let [name, stored] = names.map(|module| format!("{module}.{leaf}"));
        out.push(Parameter {
            name,
            stored,
            shape: sizes.iter().map(|s| s.0).collect(),
            because: format!("{} of {}", texts.join(", "), f.file),
            interleaved: rotated && config.interleaved,
        });
    };
    let top = |get: fn(&Spelling) -> &'static str| [m, s].map(|s| get(s).to_owned());
    add(top(|s| s.embedding), "weight", &[&vocab, &dim], false);
    for i in 0..config.n_layers {
        let at = |get: fn(&Spelling) -> &'static str| [m, s].map(|s| format!("{}.{i}.{}", s.layer, get(s)));
        add(at(|s| s.attention_norm), "weight", &[&dim], false);
        for (names, rows, columns, bias, rotated) in [
            (at(|s| s.q), &q, &dim, config.qkv_bias, true),
            (at(|s| s.k), &kv, &dim, config.qkv_bias, true),
            (at(|s| s.v), &kv, &dim, config.qkv_bias, false),
            (at(|s| s.o), &dim, &q, config.o_bias, false),
        ] {
            add(names.clone(), "weight", &[rows, columns], rotated);
            if bias {
                add(names, "bias", &[rows], rotated);
            }
        }
        if config.qk_norm {
            add(at(|s| s.q_norm), "weight", &[&head], true);
            add(at(|s| s.k_norm), "weight", &[&head], true);
        }
        add(at(|s| s.ffn_norm), "weight", &[&dim], false);
        for (names, rows, columns) in
            [(at(|s| s.gate), &hidden, &dim), (at(|s| s.up), &hidden, &dim), (at(|s| s.down), &dim, &hidden)]
        {
            add(names.clone(), "weight", &[rows, columns], false);
            if config.mlp_bias {
                add(names, "bias", &[rows], false);
            }
        }
    }
    add(top(|s| s.norm), "weight", &[&dim], false);
    if !config.tie_word_embeddings {
        add(top(|s| s.output), "weight", &[&vocab, &dim], false);
    }
    out
}
