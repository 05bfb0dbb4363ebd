//! The scalar kernels against results of PyTorch (`goldens/scalar.json`, made by `goldens/make_scalar.py`). Every case runs
//! with the layouts recorded and again with every out and input strided, which must give the same bits.

#[path = "scalar_common/mod.rs"]
mod common;

use std::collections::BTreeMap;

use common::T;
use pteron_kernels::elementwise::{self as ew, Operand};
use pteron_kernels::{Context, KernelResult, index, nn, reduce, shape_ops};
use pteron_tensor::{DType, Scalar, Tolerance, View, ViewMut};

#[derive(Clone, Debug)]
enum Json {
    Null,
    Bool(bool),
    Num(f64, bool),
    Text(String),
    List(Vec<Json>),
    Map(BTreeMap<String, Json>),
}

/// Reads the JSON that the script writes: no escapes, no blanks but newlines.
fn parse(s: &mut &str) -> Json {
    fn eat(s: &mut &str, c: char) -> bool {
        let t = s.trim_start();
        *s = t.strip_prefix(c).unwrap_or(t);
        t.starts_with(c)
    }
    if eat(s, '[') {
        let mut all = Vec::new();
        while !eat(s, ']') {
            all.push(parse(s));
            eat(s, ',');
        }
        return Json::List(all);
    }
    if eat(s, '{') {
        let mut all = BTreeMap::new();
        while !eat(s, '}') {
            let Json::Text(key) = parse(s) else { panic!("a key is no string") };
            assert!(eat(s, ':'));
            all.insert(key, parse(s));
            eat(s, ',');
        }
        return Json::Map(all);
    }
    if eat(s, '"') {
        let (text, rest) = s.split_once('"').unwrap();
        *s = rest;
        return Json::Text(text.to_owned());
    }
    let end = s.find([',', ']', '}', '\n']).unwrap();
    let (word, rest) = s.split_at(end);
    *s = rest;
    match word {
        "null" => Json::Null,
        "true" => Json::Bool(true),
        "false" => Json::Bool(false),
        n => Json::Num(n.parse().unwrap_or_else(|_| panic!("`{n}` is no number")), !n.contains(['.', 'e'])),
    }
}

#[derive(Clone, Debug)]
enum Arg {
    None,
    Tensor(T),
    Num(Scalar),
    Text(String),
    List(Vec<Arg>),
}

fn number(j: &Json) -> f64 {
    match j {
        Json::Num(v, _) => *v,
        Json::Bool(b) => f64::from(u8::from(*b)),
        Json::Text(t) => t.parse().unwrap(),
        other => panic!("{other:?} is no number"),
    }
}

fn sizes(j: &Json) -> Vec<usize> {
    let Json::List(all) = j else { panic!("{j:?} is no list") };
    all.iter().map(|n| number(n) as usize).collect()
}

fn arg(j: &Json) -> Arg {
    match j {
        Json::Null => Arg::None,
        Json::Bool(b) => Arg::Num(Scalar::Bool(*b)),
        Json::Num(v, true) => Arg::Num(Scalar::Int(*v as i64)),
        Json::Num(v, false) => Arg::Num(Scalar::Float(*v)),
        Json::Text(t) => Arg::Text(t.clone()),
        Json::List(all) => Arg::List(all.iter().map(arg).collect()),
        Json::Map(m) if m.contains_key("float") => Arg::Num(Scalar::Float(number(&m["float"]))),
        Json::Map(m) => {
            let Json::Text(dtype) = &m["dtype"] else { panic!("no dtype") };
            let dtype: DType = dtype.parse().unwrap();
            let Json::List(data) = &m["data"] else { panic!("no data") };
            let values: Vec<Scalar> = data
                .iter()
                .map(|v| match (dtype.is_float(), v) {
                    (false, v) => Scalar::Int(number(v) as i64),
                    (true, v) => Scalar::Float(number(v)),
                })
                .collect();
            let shape = sizes(&m["sizes"]);
            let strides = m.get("strides").map_or_else(|| common::row_major(&shape), sizes);
            Arg::Tensor(T::from_scalars(dtype, &shape, &strides, &values))
        }
    }
}

impl Arg {
    fn view(&self) -> View<'_> {
        self.maybe().unwrap_or_else(|| panic!("{self:?} is no tensor"))
    }
    fn maybe(&self) -> Option<View<'_>> {
        match self {
            Arg::Tensor(t) => Some(t.view()),
            Arg::None => None,
            other => panic!("{other:?} is no tensor"),
        }
    }
    fn operand(&self) -> Operand<'_> {
        match self {
            Arg::Num(s) => (*s).into(),
            other => other.view().into(),
        }
    }
    fn scalar(&self) -> Option<Scalar> {
        match self {
            Arg::Num(s) => Some(*s),
            Arg::None => None,
            other => panic!("{other:?} is no number"),
        }
    }
    fn int(&self) -> i64 {
        self.scalar().unwrap().as_i64()
    }
    fn flag(&self) -> bool {
        self.scalar().unwrap().as_bool()
    }
    fn float(&self) -> f64 {
        self.scalar().unwrap().as_f64()
    }
    fn list(&self) -> &[Arg] {
        match self {
            Arg::List(all) => all,
            other => panic!("{other:?} is no list"),
        }
    }
    fn ints(&self) -> Vec<i64> {
        self.list().iter().map(Arg::int).collect()
    }
    fn restrided(&self) -> Arg {
        match self {
            Arg::Tensor(t) => Arg::Tensor(t.restrided()),
            Arg::List(all) => Arg::List(all.iter().map(Arg::restrided).collect()),
            other => other.clone(),
        }
    }
}

fn call(op: &str, a: &[Arg], outs: &mut [T]) -> KernelResult {
    let c = &Context::new(1);
    let mut views: Vec<ViewMut<'_>> = outs.iter_mut().map(T::view_mut).collect();
    if op == "split" {
        return shape_ops::split_with_sizes(c, a[0].view(), &a[1].ints(), a[2].int(), &mut views);
    }
    let mut views = views.into_iter();
    let mut next = || views.next().unwrap();
    type Binary = fn(&Context, Operand<'_>, Operand<'_>, ViewMut<'_>) -> KernelResult;
    type Unary = fn(&Context, View<'_>, ViewMut<'_>) -> KernelResult;
    type Reduce = fn(&Context, View<'_>, &[i64], bool, ViewMut<'_>) -> KernelResult;
    let binary: &[(&str, Binary)] = &[
        ("mul", ew::mul),
        ("maximum", ew::maximum),
        ("minimum", ew::minimum),
        ("eq", ew::eq),
        ("ne", ew::ne),
        ("lt", ew::lt),
        ("le", ew::le),
        ("gt", ew::gt),
        ("ge", ew::ge),
        ("logical_and", ew::logical_and),
        ("logical_or", ew::logical_or),
        ("logical_xor", ew::logical_xor),
        ("bitwise_and", ew::bitwise_and),
        ("bitwise_or", ew::bitwise_or),
        ("bitwise_xor", ew::bitwise_xor),
        ("pow", ew::pow),
    ];
    let unary: &[(&str, Unary)] = &[
        ("sqrt", ew::sqrt),
        ("rsqrt", ew::rsqrt),
        ("reciprocal", ew::reciprocal),
        ("exp", ew::exp),
        ("log", ew::log),
        ("sin", ew::sin),
        ("cos", ew::cos),
        ("tanh", ew::tanh),
        ("sigmoid", ew::sigmoid),
        ("neg", ew::neg),
        ("abs", ew::abs),
        ("floor", ew::floor),
        ("ceil", ew::ceil),
        ("round", ew::round),
        ("relu", ew::relu),
        ("isnan", ew::isnan),
        ("isinf", ew::isinf),
        ("logical_not", ew::logical_not),
        ("bitwise_not", ew::bitwise_not),
        ("silu", ew::silu),
        ("to_copy", ew::to_copy),
        ("any", reduce::any),
        ("all", reduce::all),
    ];
    let reductions: &[(&str, Reduce)] =
        &[("sum", reduce::sum), ("mean", reduce::mean), ("amax", reduce::amax), ("amin", reduce::amin)];
    if let Some((_, f)) = binary.iter().find(|(n, _)| *n == op) {
        return f(c, a[0].operand(), a[1].operand(), next());
    }
    if let Some((_, f)) = unary.iter().find(|(n, _)| *n == op) {
        return f(c, a[0].view(), next());
    }
    if let Some((_, f)) = reductions.iter().find(|(n, _)| *n == op) {
        return f(c, a[0].view(), &a[1].ints(), a[2].flag(), next());
    }
    let x = || a[0].view();
    let optional = |a: &Arg| a.scalar().map(Scalar::as_i64);
    match op {
        "add" => ew::add(c, a[0].operand(), a[1].operand(), a[2].scalar().unwrap(), next()),
        "sub" => ew::sub(c, a[0].operand(), a[1].operand(), a[2].scalar().unwrap(), next()),
        "div" => {
            let mode = if let Arg::Text(t) = &a[2] { Some(t.parse()?) } else { None };
            ew::div_mode(c, a[0].operand(), a[1].operand(), mode, next())
        }
        "where" => ew::where_self(c, x(), a[1].operand(), a[2].operand(), next()),
        "gelu" => {
            let Arg::Text(t) = &a[1] else { panic!("no text") };
            ew::gelu(c, x(), t.parse()?, next())
        }
        "clamp" => ew::clamp(c, x(), a[1].scalar(), a[2].scalar(), next()),
        "arange" => ew::arange(c, a[0].scalar().unwrap(), a[1].scalar().unwrap(), a[2].scalar().unwrap(), next()),
        "any_dim" => reduce::any_dim(c, x(), a[1].int(), a[2].flag(), next()),
        "all_dim" => reduce::all_dim(c, x(), a[1].int(), a[2].flag(), next()),
        "cumsum" => reduce::cumsum(c, x(), a[1].int(), next()),
        "max_dim" => reduce::max_dim(c, x(), a[1].int(), a[2].flag(), next(), next()),
        "min_dim" => reduce::min_dim(c, x(), a[1].int(), a[2].flag(), next(), next()),
        "argmax" => reduce::argmax(c, x(), optional(&a[1]), a[2].flag(), next()),
        "argmin" => reduce::argmin(c, x(), optional(&a[1]), a[2].flag(), next()),
        "softmax" => reduce::softmax(c, x(), a[1].int(), a[2].flag(), next()),
        "log_softmax" => reduce::log_softmax(c, x(), a[1].int(), a[2].flag(), next()),
        "topk" => reduce::topk(c, x(), a[1].int(), a[2].int(), a[3].flag(), true, next(), next()),
        "view_copy" => shape_ops::view_copy(c, x(), &a[1].ints(), next()),
        "permute_copy" => shape_ops::permute_copy(c, x(), &a[1].ints(), next()),
        "expand_copy" => shape_ops::expand_copy(c, x(), &a[1].ints(), next()),
        "squeeze_copy" => shape_ops::squeeze_copy(c, x(), &a[1].ints(), next()),
        "unsqueeze_copy" => shape_ops::unsqueeze_copy(c, x(), a[1].int(), next()),
        "flip" => shape_ops::flip(c, x(), &a[1].ints(), next()),
        "repeat" => shape_ops::repeat(c, x(), &a[1].ints(), next()),
        "select_copy" => shape_ops::select_copy(c, x(), a[1].int(), a[2].int(), next()),
        "slice_copy" => shape_ops::slice_copy(c, x(), a[1].int(), optional(&a[2]), optional(&a[3]), a[4].int(), next()),
        "tril" => shape_ops::tril(c, x(), a[1].int(), next()),
        "triu" => shape_ops::triu(c, x(), a[1].int(), next()),
        "cat" | "stack" => {
            let parts: Vec<View<'_>> = a[0].list().iter().map(Arg::view).collect();
            let f = if op == "cat" { shape_ops::cat } else { shape_ops::stack };
            f(c, &parts, a[1].int(), next())
        }
        "embedding" => index::embedding(c, x(), a[1].view(), next()),
        "index" => {
            let ind: Vec<Option<View<'_>>> = a[1].list().iter().map(Arg::maybe).collect();
            index::index(c, x(), &ind, next())
        }
        "index_put" => {
            let ind: Vec<Option<View<'_>>> = a[1].list().iter().map(Arg::maybe).collect();
            index::index_put(c, x(), &ind, a[2].view(), a[3].flag(), next())
        }
        "index_select" => index::index_select(c, x(), a[1].int(), a[2].view(), next()),
        "gather" => index::gather(c, x(), a[1].int(), a[2].view(), next()),
        "index_copy" => index::index_copy(c, x(), a[1].int(), a[2].view(), a[3].view(), next()),
        "rms_norm" => nn::rms_norm(c, x(), a[1].maybe(), a[2].float(), next()),
        "native_layer_norm" => {
            let shape = a[1].ints();
            nn::native_layer_norm(c, x(), &shape, a[2].maybe(), a[3].maybe(), a[4].float(), next(), next(), next())
        }
        "convolution" => {
            let (stride, padding, dilation) = (a[3].ints(), a[4].ints(), a[5].ints());
            let params = nn::ConvParams {
                stride: &stride,
                padding: &padding,
                dilation: &dilation,
                transposed: false,
                groups: a[6].int(),
            };
            nn::convolution(c, x(), a[1].view(), a[2].maybe(), &params, next())
        }
        "upsample" => {
            let scales = match &a[2] {
                Arg::List(l) => Some([l[0].float(), l[1].float()]),
                _ => None,
            };
            nn::upsample_nearest2d(c, x(), scales, next())
        }
        other => panic!("no kernel for {other}"),
    }
}

fn tolerance(dtype: DType) -> Tolerance {
    match dtype {
        DType::F16 => Tolerance::KERNEL_F16,
        DType::BF16 => Tolerance::KERNEL_BF16,
        d if d.is_float() => Tolerance::KERNEL_F32,
        _ => Tolerance::EXACT,
    }
}

#[test]
fn kernels_agree_with_pytorch() {
    let mut text = include_str!("goldens/scalar.json");
    let Json::List(cases) = parse(&mut text) else { panic!("no list of cases") };
    let mut failures = Vec::new();
    let mut seen = BTreeMap::<String, usize>::new();
    for (n, case) in cases.iter().enumerate() {
        let Json::Map(m) = case else { panic!("no case") };
        let Json::Text(op) = &m["op"] else { panic!("no op") };
        *seen.entry(op.clone()).or_default() += 1;
        let (Arg::List(args), Arg::List(want)) = (arg(&m["args"]), arg(&m["outs"])) else { panic!("no lists") };
        let want: Vec<T> =
            want.into_iter().map(|w| if let Arg::Tensor(t) = w { t } else { panic!("{w:?} is no tensor") }).collect();
        let mut outs: Vec<T> = want.iter().map(|w| T::empty(w.dtype, &w.sizes)).collect();
        if let Err(e) = call(op, &args, &mut outs) {
            failures.push(format!("case {n}: {e}"));
            continue;
        }
        for (o, w) in outs.iter().zip(&want) {
            if let Err(e) = tolerance(w.dtype).check(&w.f64s(), &o.f64s()) {
                failures.push(format!("case {n}, {op}: {e}; found {:?}, expected {:?}", o.f64s(), w.f64s()));
            }
        }
        let strided: Vec<Arg> = args.iter().map(Arg::restrided).collect();
        let mut again: Vec<T> = want.iter().map(|w| T::empty(w.dtype, &w.sizes).restrided()).collect();
        call(op, &strided, &mut again).unwrap();
        for (o, s) in outs.iter().zip(&again) {
            assert_eq!(o.bits(), s.bits(), "case {n}, {op}: strides change the result");
        }
    }
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
    assert!(seen.len() > 60, "only {} operators: {seen:?}", seen.len());
}
