//! The modules of a model, their weights, and what both are called.

use crate::config::{ConfigFormat, ModelConfig};

/// What the modules are called. Those of a layer are relative to it.
pub(crate) struct ModuleNames {
    /// The module that holds embedding, layers and last norm; empty for none.
    pub(crate) root: &'static str,
    pub(crate) embedding: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) attention: &'static str,
    pub(crate) q: &'static str,
    pub(crate) k: &'static str,
    pub(crate) v: &'static str,
    pub(crate) o: &'static str,
    pub(crate) q_norm: &'static str,
    pub(crate) k_norm: &'static str,
    pub(crate) ffn_norm: &'static str,
    pub(crate) ffn: &'static str,
    pub(crate) gate: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) norm: &'static str,
    /// The output layer, outside the root.
    pub(crate) output: &'static str,
}

impl ConfigFormat {
    pub(crate) const fn modules(self) -> &'static ModuleNames {
        match self {
            ConfigFormat::HuggingFace => &ModuleNames {
                root: "model",
                embedding: "embed_tokens",
                attention_norm: "input_layernorm",
                attention: "self_attn",
                q: "q_proj",
                k: "k_proj",
                v: "v_proj",
                o: "o_proj",
                q_norm: "q_norm",
                k_norm: "k_norm",
                ffn_norm: "post_attention_layernorm",
                ffn: "mlp",
                gate: "gate_proj",
                up: "up_proj",
                down: "down_proj",
                norm: "norm",
                output: "lm_head",
            },
            ConfigFormat::Meta => &ModuleNames {
                root: "",
                embedding: "tok_embeddings",
                attention_norm: "attention_norm",
                attention: "attention",
                q: "wq",
                k: "wk",
                v: "wv",
                o: "wo",
                q_norm: "q_norm_fn",
                k_norm: "k_norm_fn",
                ffn_norm: "ffn_norm",
                ffn: "feed_forward",
                gate: "w1",
                up: "w3",
                down: "w2",
                norm: "norm",
                output: "output",
            },
        }
    }
}

/// A weight that a model has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in a checkpoint: the module's path and `weight` or `bias`.
    pub name: String,
    /// Its sizes; a matrix is `[out, in]`.
    pub shape: Vec<usize>,
    /// Which fields of the configuration say so: `num_key_value_heads 2 × head_dim 16, hidden_size 64 of config.json`.
    pub because: String,
}

/// All weights of a model, embedding first, output last; the output layer's is not among them where it is tied.
pub fn parameters(config: &ModelConfig) -> Vec<Parameter> {
    let (m, f) = (config.format.modules(), config.format.names());
    let dim = (config.dim, format!("{} {}", f.dim, config.dim));
    let hidden = (config.hidden_dim, format!("{} {}", f.hidden_dim, config.hidden_dim));
    let vocab = (config.vocab_size, format!("{} {}", f.vocab_size, config.vocab_size));
    let head = (config.head_dim, format!("{} {}", f.head_dim, config.head_dim));
    let q = (config.q_dim(), format!("{} {} × {}", f.n_heads, config.n_heads, head.1));
    let kv = (config.kv_dim(), format!("{} {} × {}", f.n_kv_heads, config.n_kv_heads, head.1));
    let mut out = Vec::new();
    let mut add = |module: String, leaf: &str, sizes: &[&(usize, String)]| {
        let texts: Vec<&str> = sizes.iter().map(|s| s.1.as_str()).collect();
        out.push(Parameter {
            name: format!("{module}.{leaf}"),
            shape: sizes.iter().map(|s| s.0).collect(),
            because: format!("{} of {}", texts.join(", "), f.file),
        });
    };
    let root = |name: &str| if m.root.is_empty() { name.to_owned() } else { format!("{}.{name}", m.root) };
    add(root(m.embedding), "weight", &[&vocab, &dim]);
    for i in 0..config.n_layers {
        let layer = root(&format!("layers.{i}"));
        add(format!("{layer}.{}", m.attention_norm), "weight", &[&dim]);
        let attention = |name: &str| format!("{layer}.{}.{name}", m.attention);
        let projections =
            [(m.q, &q, &dim, config.qkv_bias), (m.k, &kv, &dim, config.qkv_bias), (m.v, &kv, &dim, config.qkv_bias)];
        for (name, rows, columns, bias) in projections.into_iter().chain([(m.o, &dim, &q, config.o_bias)]) {
            add(attention(name), "weight", &[rows, columns]);
            if bias {
                add(attention(name), "bias", &[rows]);
            }
        }
        if config.qk_norm {
            add(attention(m.q_norm), "weight", &[&head]);
            add(attention(m.k_norm), "weight", &[&head]);
        }
        add(format!("{layer}.{}", m.ffn_norm), "weight", &[&dim]);
        for (name, rows, columns) in [(m.gate, &hidden, &dim), (m.up, &hidden, &dim), (m.down, &dim, &hidden)] {
            let module = format!("{layer}.{}.{name}", m.ffn);
            add(module.clone(), "weight", &[rows, columns]);
            if config.mlp_bias {
                add(module, "bias", &[rows]);
            }
        }
    }
    add(root(m.norm), "weight", &[&dim]);
    if !config.tie_word_embeddings {
        add(m.output.to_owned(), "weight", &[&vocab, &dim]);
    }
    out
}
