//! Layers with weights, and products.

use pteron_ir::{Arg, Def, Node, Op, ValueId};
use pteron_tensor::DType;

use super::weights::WeightParams;
use super::{Builder, Form, LinearForm, Res, params, plain_name, scalar, u32_of, u32s};
use crate::graph::{Data, DataType, Encoding, Param, ParamValue, Scalar, ScaleOffset};

pub(super) fn is(op: Op) -> bool {
    matches!(op, Op::Linear | Op::RmsNorm | Op::Bmm | Op::Mm | Op::Embedding)
}

/// The weight of a linear layer.
struct LinearWeight {
    /// The static tensor.
    tensor: usize,
    /// The scale of each row, none where it is not quantized.
    scales: Vec<f64>,
    /// The operator that it is laid out for.
    form: LinearForm,
}

impl Builder<'_> {
    pub(super) fn layer(&mut self, node: &Node) -> Res<()> {
        let out = *node.outputs.first().ok_or("it has no output")?;
        match node.op {
            Op::Linear => self.linear(node, out),
            Op::RmsNorm => self.rms_norm(node, out),
            Op::Embedding => {
                let (table, index) = (params::value(node, 0), params::value(node, 1));
                let (table, index) = table.zip(index).ok_or("it has no table")?;
                self.gather(table, index, 0, out)
            }
            _ => {
                let inputs = vec![self.arg(node, 0)?, self.arg(node, 1)?];
                let y = self.output(out)?;
                let plain = |name: &str| scalar(name, Scalar::Bool(false));
                self.op("MatMul", vec![plain("transpose_in0"), plain("transpose_in1")], inputs, vec![y]);
                Ok(())
            }
        }
    }

    fn rms_norm(&mut self, node: &Node, out: ValueId) -> Res<()> {
        if !matches!(params::ints(node, 1).as_deref(), Some([_])) {
            return Err("it normalizes more than the last dimension".to_owned());
        }
        let mut inputs = match node.args.get(2) {
            Some(Arg::Value(_)) => vec![self.arg(node, 0)?, self.arg(node, 2)?],
            _ => return Err("RmsNorm has a weight in QNN".to_owned()),
        };
        let epsilon = params::number(node, 3).ok_or("its epsilon is not known")? as f32;
        let last = u32_of(self.out.tensors[inputs[0]].dims.len()).saturating_sub(1);
        let y = self.output(out)?;
        inputs.push(self.zero_beta(inputs[1], y));
        let settings = vec![scalar("epsilon", Scalar::F32(epsilon)), u32s("axes", &[last])];
        self.op("RmsNorm", settings, inputs, vec![y]);
        Ok(())
    }

    /// What RmsNorm adds: zeros of the output's type, of the weight's sizes. The library's older releases validate a norm without
    /// it and cannot finalize it; ExecuTorch writes it as well, with this scale.
    fn zero_beta(&mut self, weight: usize, y: usize) -> usize {
        let (dims, dtype) = (self.out.tensors[weight].dims.clone(), self.out.tensors[y].dtype);
        let encoding = match dtype {
            DataType::UFixed8 | DataType::SFixed8 => Encoding::per_tensor(1.0 / 255.0, 0),
            DataType::UFixed16 | DataType::SFixed16 => Encoding::per_tensor(1.0 / 65535.0, 0),
            _ => Encoding::None,
        };
        let bytes = dims.iter().map(|&d| d as usize).product::<usize>() * (dtype.bits() / 8) as usize;
        let base = format!("{}_beta", self.path);
        self.add_static(&base, dtype, dims, encoding, vec![0; bytes].into())
    }

    fn linear(&mut self, node: &Node, out: ValueId) -> Res<()> {
        let x = self.arg(node, 0)?;
        let weight = params::value(node, 1).ok_or("its weight is no tensor")?;
        let LinearWeight { tensor: w, scales, form } = self.linear_weight(weight)?;
        let dims = self.dims(out)?;
        let Some((&columns, rows)) = dims.split_last() else { return Err("it gives a number".to_owned()) };
        let rows: u32 = rows.iter().product();
        let inner = self.out.tensors[x].dims.last().copied().unwrap_or(1);
        let mut inputs = vec![x, w];
        if let Some(Arg::Value(bias)) = node.args.get(2) {
            inputs.push(self.bias(*bias, x, &scales, columns)?);
        }
        let y = self.output(out)?;
        match form {
            LinearForm::FullyConnected => {
                let flat = self.like(y, vec![rows, columns], "rows");
                let whole = if dims.len() == 2 { y } else { flat };
                self.op("FullyConnected", Vec::new(), inputs, vec![whole]);
                if whole != y {
                    self.op("Reshape", Vec::new(), vec![flat], vec![y]);
                }
            }
            LinearForm::Conv2d => {
                let image = self.like(x, vec![1, 1, rows, inner], "image");
                self.op("Reshape", Vec::new(), vec![x], vec![image]);
                inputs[0] = image;
                let result = self.like(y, vec![1, 1, rows, columns], "rows");
                let pad = Param { name: "pad_amount".to_owned(), value: ParamValue::u32s(&[2, 2], &[0; 4]) };
                let settings = vec![u32s("stride", &[1, 1]), pad, u32s("dilation", &[1, 1])];
                self.op("Conv2d", settings, inputs, vec![result]);
                self.op("Reshape", Vec::new(), vec![result], vec![y]);
            }
        }
        Ok(())
    }

    /// The static tensor of a linear layer's weight. Weights in blocks become a convolution's in either form: the library's
    /// FullyConnected reads their encoding as another one's, and an address for a scale, so that now and then a context
    /// computes noise (docs/qnn-results.md).
    fn linear_weight(&mut self, v: ValueId) -> Res<LinearWeight> {
        let Def::Node(n, _) = self.graph.values[v].def else {
            // Not quantized: the matrix itself, which the HTP computes with in half precision.
            let c = params::constant(self.graph, v).ok_or("its weight is no constant")?;
            if self.form == LinearForm::FullyConnected {
                return Ok(LinearWeight { tensor: self.tensor(v)?, scales: Vec::new(), form: self.form });
            }
            let source = params::source(self.module, c)?;
            let plain = WeightParams::plain(c, source.dtype())?;
            return Ok(LinearWeight { tensor: self.matrix(&plain, self.form)?, scales: Vec::new(), form: self.form });
        };
        let weight = self.weight(&self.graph.nodes[n])?;
        let rows = params::source(self.module, weight.constant)?.shape().first().copied().unwrap_or(0);
        let scales = weight.channel_scales(rows);
        let form = if weight.block.is_some() { LinearForm::Conv2d } else { self.form };
        Ok(LinearWeight { tensor: self.matrix(&weight, form)?, scales, form })
    }

    /// `[N, K]` as a fully connected layer takes it, or `[1, 1, K, N]` as a convolution does.
    fn matrix(&mut self, weight: &WeightParams, form: LinearForm) -> Res<usize> {
        let convolution = form == LinearForm::Conv2d;
        let form = if convolution { Form::Convolution } else { Form::Matrix };
        let key = (weight.constant, form, 0);
        if let Some(&t) = self.statics.get(&key) {
            return Ok(t);
        }
        let source = params::source(self.module, weight.constant)?;
        let shape = source.shape().to_vec();
        let &[rows, columns] = shape.as_slice() else {
            return Err(format!("its weight is {shape:?}, expected a matrix"));
        };
        if weight.axis.is_some_and(|a| a != 0) {
            return Err("its weight has scales along the columns, expected the rows".to_owned());
        }
        let encoding = weight.encoding(&shape, if convolution { 3 } else { 0 })?;
        let (dims, data): (Vec<u32>, Data) = if convolution {
            (vec![1, 1, u32_of(columns), u32_of(rows)], weight.transposed(source))
        } else {
            (vec![u32_of(rows), u32_of(columns)], weight.codes(source))
        };
        let base = plain_name(&self.module.constants[weight.constant].name);
        let t = self.add_static(&base, weight.dtype, dims, encoding, data);
        self.statics.insert(key, t);
        Ok(t)
    }

    /// A bias as 32-bit integers whose scale is that of the products: the input's times the row's. Other scales are accepted by
    /// the library and computed wrongly where the rows have scales of their own.
    fn bias(&mut self, v: ValueId, x: usize, weights: &[f64], rows: u32) -> Res<usize> {
        let Encoding::ScaleOffset(ScaleOffset { scale, .. }) = self.out.tensors[x].encoding else {
            return self.tensor(v);
        };
        if weights.is_empty() {
            return Err("its input is quantized and its weight is not".to_owned());
        }
        let (c, numbers) = match self.graph.values[v].def {
            Def::Const(c) => (c, params::small_numbers(self.module, c)?),
            Def::Node(n, _) => {
                let bias = self.weight(&self.graph.nodes[n])?;
                let codes = params::small_numbers(self.module, bias.constant)?;
                let own = bias.channel_scales(codes.len());
                let zero = |i: usize| bias.zeros.get(i).or(bias.zeros.first()).copied().unwrap_or(0.0);
                (bias.constant, codes.iter().zip(&own).enumerate().map(|(i, (q, s))| (q - zero(i)) * s).collect())
            }
            _ => return Err("its bias is no constant".to_owned()),
        };
        let key = (c, Form::Bias, x);
        if let Some(&t) = self.statics.get(&key) {
            return Ok(t);
        }
        if numbers.len() != weights.len() || numbers.len() != rows as usize {
            return Err(format!("its bias has {} elements, expected {rows}", numbers.len()));
        }
        let scales: Vec<f32> = weights.iter().map(|w| (f64::from(scale) * w) as f32).collect();
        let code =
            |(b, s): (&f64, &f32)| (b / f64::from(*s)).round_ties_even().clamp(-2_147_483_648.0, 2_147_483_647.0);
        let codes: Vec<i32> = numbers.iter().zip(&scales).map(|pair| code(pair) as i32).collect();
        let bytes: Vec<u8> = codes.iter().flat_map(|c| c.to_le_bytes()).collect();
        let scales = scales.into_iter().map(|scale| ScaleOffset { scale, offset: 0 }).collect();
        let encoding = Encoding::AxisScaleOffset { axis: 0, scales };
        let base = format!("{}_s32", plain_name(&self.module.constants[c].name));
        let t = self.add_static(&base, DataType::SFixed32, vec![rows], encoding, bytes.into());
        self.statics.insert(key, t);
        Ok(t)
    }
}

impl WeightParams {
    /// A matrix of floats.
    fn plain(constant: pteron_ir::ConstId, dtype: DType) -> Res<WeightParams> {
        let (scales, zeros) = (Vec::new(), Vec::new());
        let (axis, block) = (None, None);
        let to = super::plain_type(dtype)?;
        Ok(WeightParams { constant, dtype: to, container: dtype, scales, zeros, axis, block, lo: 0, hi: 0 })
    }
}
