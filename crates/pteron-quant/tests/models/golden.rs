//! The goldens.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use pteron_ir::{ConstData, Def, Graph, Module, Op};
use pteron_quant::TensorLabel;
use pteron_quant::annotation::Point;
use pteron_quant::observer::{Observer, ZeroPoint};
use pteron_quant::pt2e::{Encodings, PreparedGraph, SlotParams};
use pteron_quant::quantizer::{ComposableQuantizer, QnnQuantizer, Quantizer, of_scheme};
use pteron_quant::scheme::{Compat, Patterns, Scheme};
use pteron_quant::spec::QuantizationSpec;
use pteron_tensor::read_all;
use serde_json::Value;

use crate::teacher::Cut;

/// What ExecuTorch's quantizer chose.
pub(crate) struct Golden {
    /// `tiny` or `glass`.
    pub(crate) model: String,
    name: String,
    pub(crate) windows: Vec<Vec<i64>>,
    points: Vec<Value>,
    constants: Vec<Value>,
    logits: Vec<f32>,
    largest_logit: f32,
    /// The codes of all activations of the last window; only of some schemes.
    pub(crate) codes: BTreeMap<Cut, Vec<i64>>,
    /// What histogram observers saw there, and the file that has it.
    recorded: Vec<Recorded>,
    recorded_in: PathBuf,
    /// Mean KL divergence and share of the same top tokens of PyTorch against itself, with sums in another order.
    pub(crate) itself: (f64, f64),
}

/// What one observer saw, step by step.
struct Recorded {
    points: Vec<TensorLabel>,
    at: u64,
    lengths: Vec<usize>,
}

/// The scheme's quantizer; of the one with blocks, with blocks of 32 in the feed-forward.
pub(crate) fn quantizer(scheme: &str) -> Box<dyn Quantizer> {
    let specs = Scheme::find(scheme).unwrap().specs(Compat::ExecuTorch1_5).unwrap();
    if let (Patterns::Qnn(config), true) = (specs.patterns, scheme.ends_with("_block")) {
        let layers = (0..2).flat_map(|l| ["gate", "up", "down"].map(|p| format!("model.layers.{l}.mlp.{p}_proj")));
        let blocks: BTreeMap<String, Vec<usize>> = layers.map(|path| (path, vec![1, 32])).collect();
        let quantizer = QnnQuantizer::new(scheme, config).with_custom_annotations(specs.custom_annotations.clone());
        return Box::new(quantizer.with_block_size_map(blocks));
    }
    Box::new(ComposableQuantizer::new(of_scheme(scheme, &specs).unwrap()))
}

impl Golden {
    /// One of those beside the tests.
    pub(crate) fn read(model: &str, scheme: &str) -> Golden {
        Golden::read_from(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/models")), model, scheme)
    }

    pub(crate) fn read_from(folder: &Path, model: &str, scheme: &str) -> Golden {
        let name = format!("{model}.{scheme}");
        let path = folder.join(format!("{name}.json"));
        let v: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let list = |key: &str| v[key].as_array().unwrap().clone();
        let window = |w: &Value| w.as_array().unwrap().iter().map(|t| t.as_i64().unwrap()).collect();
        Golden {
            model: model.to_owned(),
            windows: list("windows").iter().map(window).collect(),
            points: list("points"),
            constants: list("constants"),
            logits: floats(&v["logits"]),
            largest_logit: v["largest_logit"].as_f64().unwrap() as f32,
            codes: v["codes"].as_array().into_iter().flatten().map(codes).collect(),
            recorded: v["recorded"].as_array().into_iter().flatten().map(recorded).collect(),
            itself: (v["itself"]["kl"].as_f64().unwrap_or(0.0), v["itself"]["same"].as_f64().unwrap_or(1.0)),
            recorded_in: folder.join(format!("{name}.recorded.f32")),
            name,
        }
    }

    /// Shows the recorded tensors to observers of their own, which must find the same parameters to the last bit.
    ///
    /// The search of a histogram stops at the first trim that makes the error larger, and the last bit of a sum may decide which
    /// that is: PyTorch's own parameters differ by several percent on another instruction set then. Observers that differ from the
    /// recorded one must be of that kind, which noise in the recorded tensors shows; they are replaced by the recorded one, so that
    /// what comes behind is compared with the same parameters. Gives their number.
    pub(crate) fn check_recorded(&self, graph: &Graph, prepared: &mut PreparedGraph) -> usize {
        let scale = |o: &Observer, l: &TensorLabel| o.calculate_qparams(l).unwrap().scale[0];
        let far = |a: f32, b: f32| (a - b).abs() > 1e-5 * b.abs();
        let mut replaced = 0;
        for r in &self.recorded {
            let label = &r.points[0];
            let is_it = |p: &Point| prepared.node_label(graph, *p).as_ref() == Some(label);
            let at = prepared.slots.iter().position(|s| s.members.iter().any(is_it)).unwrap();
            let own = prepared.slots[at].observer.as_ref().unwrap();
            let steps = r.read(&self.recorded_in);
            let exact = observed(own.spec(), label, &steps);
            for point in &r.points {
                let is_golden = |p: &&Value| p["module"] == point.module && p["port"] == point.port;
                let golden = self.points.iter().find(is_golden).unwrap();
                let found = SlotParams::Static(exact.calculate_qparams(label).unwrap().into());
                assert_eq!(differs(golden, &found, 0.0), None, "{point}, of the recorded tensors");
            }
            let recorded = scale(&exact, label);
            if far(scale(own, label), recorded) {
                let moves = |seed| far(scale(&observed(own.spec(), label, &noisy(&steps, seed)), label), recorded);
                assert!((1..=32).any(moves), "{label}: scale {}, expected {recorded}", scale(own, label));
                prepared.slots[at].observer = Some(exact);
                replaced += 1;
            }
        }
        replaced
    }

    /// The same tensors are quantized, with the same codes, scales and zero points.
    pub(crate) fn compare_points(
        &self,
        module: &Module,
        prepared: &PreparedGraph,
        encodings: &Encodings,
        tolerance: f32,
    ) {
        // Constants are called by their names here, and by who reads them there.
        let mut of_reader: BTreeMap<TensorLabel, TensorLabel> = BTreeMap::new();
        for (point, label) in &prepared.labels {
            of_reader.insert(prepared.node_label(&module.graphs[0], *point).unwrap(), label.clone());
        }
        let mut wrong = Vec::new();
        for p in &self.points {
            let text = |key: &str| p[key].as_str().unwrap().to_owned();
            let label = TensorLabel::new(text("module"), text("port"));
            match of_reader.remove(&label).and_then(|l| encodings.get(&l)) {
                None => wrong.push(format!("{label} is not quantized here")),
                Some(params) => {
                    if let Some(problem) = differs(p, params, tolerance) {
                        wrong.push(format!("{label}: {problem}"));
                    }
                }
            }
        }
        wrong.extend(of_reader.keys().map(|l| format!("{l} is quantized here only")));
        let (count, shown) = (wrong.len(), wrong.iter().take(40).cloned().collect::<Vec<_>>().join("\n"));
        assert!(wrong.is_empty(), "{}: {count} of {} tensors differ\n{shown}", self.name, self.points.len());
    }

    /// The codes of every constant that was folded are those of a constant of the same shape there.
    pub(crate) fn compare_constants(&self, module: &Module) {
        let mut known: Vec<(Vec<usize>, u64)> = Vec::new();
        for c in &self.constants {
            let shape = c["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
            known.push((shape, c["crc32"].as_u64().unwrap()));
        }
        let graph = &module.graphs[0];
        let mut compared = 0;
        for n in graph.all_nodes() {
            let node = &graph.nodes[n];
            let dequantizes =
                matches!(node.op, Op::DequantizePerTensor | Op::DequantizePerChannel | Op::DequantizeAffine);
            let Some(pteron_ir::Arg::Value(v)) = node.args.first() else { continue };
            let (true, Def::Const(c)) = (dequantizes, graph.values[*v].def) else { continue };
            let ConstData::Source(source) = &module.constants[c].data else { continue };
            let found = (source.shape().to_vec(), u64::from(crc32(&read_all(source.as_ref()).unwrap())));
            assert!(known.contains(&found), "{}: {} has other codes", self.name, module.constants[c].name);
            compared += 1;
        }
        assert!(compared > 0);
    }

    /// The last rows of the last window.
    pub(crate) fn compare_logits(&self, rows: &[Vec<f32>], tolerance: f32) {
        let width = rows[0].len();
        let last = rows[rows.len() - self.logits.len() / width..].concat();
        let error = last.iter().zip(&self.logits).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / self.largest_logit;
        assert!(error <= tolerance, "{}: logits differ by {error:e} of the largest", self.name);
    }
}

/// Mean KL divergence of `found` from `recorded`, rows of logits, and the part of rows with the same largest.
pub(crate) fn distributions(recorded: &[f32], found: &[Vec<f32>]) -> (f64, f64) {
    let log_softmax = |row: &[f32]| -> Vec<f64> {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum = row.iter().map(|x| f64::from(x - most).exp()).sum::<f64>().ln();
        row.iter().map(|x| f64::from(x - most) - sum).collect()
    };
    let top = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i);
    let width = found[0].len();
    assert_eq!(recorded.len(), found.len() * width);
    let (mut kl, mut same) = (0.0, 0);
    for (p, q) in recorded.chunks(width).zip(found) {
        let (log_p, log_q) = (log_softmax(p), log_softmax(q));
        kl += log_p.iter().zip(&log_q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        same += usize::from(top(p) == top(q));
    }
    (kl / found.len() as f64, same as f64 / found.len() as f64)
}

fn codes(v: &Value) -> (Cut, Vec<i64>) {
    let text = |key: &str| v[key].as_str().unwrap().to_owned();
    let raw = bytes(&v["codes"]);
    let codes = match v["kind"].as_str().unwrap() {
        "<i1" => raw.iter().map(|&b| i64::from(b.cast_signed())).collect(),
        "<u1" => raw.iter().map(|&b| i64::from(b)).collect(),
        "<i2" => raw.chunks_exact(2).map(|b| i16::from_le_bytes(b.try_into().unwrap()).into()).collect(),
        _ => raw.chunks_exact(2).map(|b| u16::from_le_bytes(b.try_into().unwrap()).into()).collect(),
    };
    ((text("module"), text("port"), v["depth"].as_u64().unwrap() as usize), codes)
}

fn differs(golden: &Value, params: &SlotParams, tolerance: f32) -> Option<String> {
    let dynamic = golden["dynamic"].as_bool().unwrap_or(false);
    let p = match params {
        SlotParams::Dynamic if dynamic => return None,
        SlotParams::Static(p) if !dynamic => p,
        other => return Some(format!("found {other:?}, expected dynamic {dynamic}")),
    };
    let (lo, hi) = (golden["quant_min"].as_i64().unwrap(), golden["quant_max"].as_i64().unwrap());
    let dtype = golden["dtype"].as_str().unwrap();
    if (p.format.container.torch_name(), p.format.quant_min, p.format.quant_max) != (dtype, lo, hi) {
        return Some(format!("found {}, expected {dtype} {lo}..={hi}", p.format));
    }
    let scales = floats(&golden["scale"]);
    if scales.len() != p.scale.len() {
        return Some(format!("{} scales, expected {}", p.scale.len(), scales.len()));
    }
    // Weights are observed themselves: their scales are equal to the last bit but one.
    let relative = if scales.len() > 1 { f32::EPSILON } else { tolerance };
    if let Some((a, b)) = p.scale.iter().zip(&scales).find(|(a, b)| (*a - *b).abs() > relative * b.abs()) {
        return Some(format!("scale {a:e}, expected {b:e}"));
    }
    match (&p.zero_point, golden.get("zero_point"), golden.get("zero_points")) {
        (ZeroPoint::Int(z), Some(one), _) => {
            let one = one.as_i64().unwrap();
            // A zero point is the rounding of a computed range.
            let apart = if scales.len() > 1 { 0 } else { 1 + (tolerance * (hi - lo) as f32 / 2.0) as i64 };
            let bad = z.iter().find(|z| (**z - one).abs() > apart)?;
            Some(format!("zero point {bad}, expected {one}"))
        }
        (ZeroPoint::Int(z), None, Some(many)) => {
            let many: Vec<i64> =
                bytes(many).chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()).into()).collect();
            (z != &many).then(|| "other zero points".to_owned())
        }
        (ZeroPoint::Float(z), None, Some(many)) => {
            let many = floats(many);
            let near = z.len() == many.len() && z.iter().zip(&many).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs());
            (!near).then(|| "other zero points".to_owned())
        }
        _ => Some("zero points of another kind".to_owned()),
    }
}

fn recorded(v: &Value) -> Recorded {
    let label = |p: &Value| TensorLabel::new(p["module"].as_str().unwrap(), p["port"].as_str().unwrap());
    Recorded {
        points: v["points"].as_array().unwrap().iter().map(label).collect(),
        at: v["at"].as_u64().unwrap(),
        lengths: v["lengths"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect(),
    }
}

impl Recorded {
    fn read(&self, path: &Path) -> Vec<Vec<f32>> {
        let mut file = fs::File::open(path).unwrap();
        file.seek(SeekFrom::Start(self.at)).unwrap();
        let mut step = |&n: &usize| {
            let mut raw = vec![0u8; n * 4];
            file.read_exact(&mut raw).unwrap();
            bytemuck::pod_collect_to_vec(&raw)
        };
        self.lengths.iter().map(&mut step).collect()
    }
}

fn observed(spec: &QuantizationSpec, label: &TensorLabel, steps: &[Vec<f32>]) -> Observer {
    let mut observer = Observer::new(spec).unwrap();
    for step in steps {
        observer.observe(label, &[step.len()], step).unwrap();
    }
    observer
}

/// The same with errors of sums in another order: up to a millionth of the largest element.
fn noisy(steps: &[Vec<f32>], seed: u64) -> Vec<Vec<f32>> {
    let mut state = seed;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let one = |step: &Vec<f32>| {
        let largest = step.iter().fold(0f32, |m, v| m.max(v.abs()));
        step.iter().map(|v| v + noise() * 1e-6 * largest).collect()
    };
    steps.iter().map(one).collect()
}

fn floats(v: &Value) -> Vec<f32> {
    bytes(v).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// From base64.
fn bytes(v: &Value) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = v.as_str().unwrap().trim_end_matches('=').as_bytes();
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.chunks(4) {
        let bits = group
            .iter()
            .fold(0u32, |bits, c| bits << 6 | u32::try_from(ALPHABET.iter().position(|a| a == c).unwrap()).unwrap());
        let bits = bits << (6 * (4 - group.len()));
        out.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, b| {
        (0..8).fold(crc ^ u32::from(*b), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 })
    })
}
