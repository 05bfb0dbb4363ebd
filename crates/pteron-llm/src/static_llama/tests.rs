use super::*;

const CONTEXT: usize = 12;
const VOCAB: usize = 5;
const HEADS: usize = 2;
const DIM: usize = 3;

fn port(element: Element, shape: &[usize]) -> Port {
    Port { element, shape: shape.to_vec() }
}

/// A layer's keys `[1, heads, dim, columns]` and values `[1, heads, columns, dim]`.
fn method(name: &str, ar: usize) -> StaticMethod {
    let (past, u8s) = (CONTEXT - ar, Element::U8);
    StaticMethod {
        name: name.to_owned(),
        inputs: vec![
            port(Element::I32, &[1, ar]),
            port(Element::U16, &[1, 1, ar, CONTEXT]),
            port(Element::I32, &[1, ar]),
            port(u8s, &[1, HEADS, DIM, past]),
            port(u8s, &[1, HEADS, past, DIM]),
        ],
        outputs: vec![
            port(Element::U16, &[1, ar, VOCAB]),
            port(u8s, &[1, HEADS, DIM, ar]),
            port(u8s, &[1, HEADS, ar, DIM]),
        ],
    }
}

/// A model whose logits are the sum over what a token attends to of (token + 1), where keys and values hold the token in
/// every element: wherever a column lies and whichever method is called, the same tokens give the same numbers.
#[derive(Default)]
struct Sums {
    calls: Vec<String>,
}

fn u16s(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect()
}

fn i32s(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks_exact(4).map(|c| i32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
}

impl StaticProgram for Sums {
    fn call(&mut self, method: &str, inputs: &[&[u8]], outputs: &mut Vec<Vec<u8>>) -> Result<(), DecoderError> {
        self.calls.push(method.to_owned());
        let (tokens, mask, positions) = (i32s(inputs[0]), u16s(inputs[1]), i32s(inputs[2]));
        let (ar, past) = (tokens.len(), CONTEXT - tokens.len());
        assert!(positions.windows(2).all(|p| p[1] == p[0] + 1));
        let (keys, values) = (inputs[3], inputs[4]);
        let mut logits = Vec::new();
        for row in 0..ar {
            let mut sum = 0u16;
            let mut seen = 0;
            for column in (0..CONTEXT).filter(|c| mask[row * CONTEXT + c] == u16::MAX) {
                seen += 1;
                let token = if column < past {
                    // The last head's last element, in both layouts.
                    let key = keys[(HEADS * DIM - 1) * past + column];
                    assert_eq!(key, values[((HEADS - 1) * past + column) * DIM + DIM - 1]);
                    u16::from(key)
                } else {
                    tokens[column - past] as u16
                };
                sum += token + 1;
            }
            assert_eq!(seen, positions[row] + 1, "a token sees itself and all before it");
            logits.extend((0..VOCAB as u16).flat_map(|v| (sum + v).to_le_bytes()));
        }
        let key = (0..HEADS * DIM).flat_map(|_| tokens.iter().map(|t| *t as u8));
        let value = (0..HEADS).flat_map(|_| tokens.iter().flat_map(|t| [*t as u8; DIM]));
        *outputs = vec![logits, key.collect(), value.collect()];
        Ok(())
    }
}

fn form(m: StaticMethod) -> StaticForm {
    StaticForm::of(m).expect("well formed").expect("a static Llama's")
}

fn llama(prefill: Option<usize>, update: CacheUpdate) -> StaticLlama {
    let prefill = prefill.map(|ar| form(method(PREFILL_FORWARD, ar)));
    let code = LogitsCode { scale: 0.5, zero_point: 10 };
    let made = StaticLlama::new(form(method(KV_FORWARD, 1)), prefill, Some(code), None).expect("they go together");
    made.with_update(update)
}

/// First logit of each token.
fn expected(tokens: &[i64]) -> Vec<f32> {
    let sums = tokens.iter().scan(0, |sum, t| {
        *sum += t + 1;
        Some(*sum)
    });
    sums.map(|s| (s - 10) as f32 * 0.5).collect()
}

fn first_of_rows(logits: &[f32]) -> Vec<f32> {
    logits.chunks_exact(VOCAB).map(|row| row[0]).collect()
}

#[test]
fn every_split_gives_the_same_logits() {
    let tokens: Vec<i64> = vec![3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5];
    for update in [CacheUpdate::SmartMask, CacheUpdate::ShiftPointer] {
        for ar in [None, Some(2), Some(4), Some(7)] {
            for cut in 1..tokens.len() {
                let (mut model, mut llama) = (Sums::default(), llama(ar, update));
                let mut found = llama.step(&mut model, &tokens[..cut], 0).expect("the prompt");
                for (at, token) in tokens.iter().enumerate().skip(cut) {
                    found.extend(llama.step(&mut model, &[*token], at as i64).expect("a token"));
                }
                assert_eq!(first_of_rows(&found), expected(&tokens), "{update:?}, {ar:?} a call, prompt of {cut}");
            }
        }
    }
}

#[test]
fn the_longer_method_takes_what_fits_it() {
    let (mut model, mut llama) = (Sums::default(), llama(Some(4), CacheUpdate::SmartMask));
    llama.step(&mut model, &[1; 6], 0).expect("six tokens");
    assert_eq!(model.calls, [PREFILL_FORWARD, PREFILL_FORWARD]);
    llama.step(&mut model, &[1], 6).expect("one");
    // Four more columns than nine are not there, so single tokens go on to the end of the context.
    llama.step(&mut model, &[1; 2], 7).expect("two");
    llama.step(&mut model, &[1; 3], 9).expect("three");
    assert_eq!(model.calls[2..], [KV_FORWARD, PREFILL_FORWARD, KV_FORWARD, KV_FORWARD, KV_FORWARD]);
    let past = llama.step(&mut model, &[1], 12).expect_err("the context is full").to_string();
    assert!(past.contains("found position 12 with 1 tokens"), "{past}");
}

#[test]
fn a_conversation_goes_back_and_starts_over() {
    let (mut model, mut llama) = (Sums::default(), llama(Some(4), CacheUpdate::SmartMask));
    llama.step(&mut model, &[7, 8, 9], 0).expect("three tokens");
    let back = llama.step(&mut model, &[2], 1).expect("the second one again");
    assert_eq!(first_of_rows(&back), expected(&[7, 2])[1..]);
    assert!(llama.step(&mut model, &[2], 3).is_err(), "two tokens were seen");
    llama.reset();
    let again = llama.step(&mut model, &[4], 0).expect("the first one");
    assert_eq!(first_of_rows(&again), expected(&[4]));
}

#[test]
fn masks_in_every_type() {
    let row = |element: Element| {
        let mut m = method(KV_FORWARD, 1);
        m.inputs[1].element = element;
        let f = form(m);
        let code = Some(LogitsCode { scale: 1.0, zero_point: 0 });
        let llama = StaticLlama::new(f.clone(), None, code, None).expect("one method");
        let mut out = Vec::new();
        llama.mask(&f, f.mask, usize::MAX, 2, &mut out);
        out
    };
    let open = |columns: [bool; CONTEXT]| columns;
    let mut expected = open([false; CONTEXT]);
    for c in [0, 1, CONTEXT - 1] {
        expected[c] = true;
    }
    assert_eq!(row(Element::U8), expected.map(|o| if o { 255 } else { 0 }));
    assert_eq!(u16s(&row(Element::U16)), expected.map(|o| if o { 65535 } else { 0 }));
    let floats: Vec<f32> =
        row(Element::F32).chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
    assert_eq!(floats, expected.map(|o| if o { 0.0 } else { -65535.0 }));
}

#[test]
fn caches_of_single_heads_are_old() {
    let mut m = method(KV_FORWARD, 1);
    m.inputs[3].shape = vec![1, DIM, CONTEXT - 1];
    m.outputs[1].shape = vec![1, DIM, 1];
    m.inputs[4].shape = vec![1, CONTEXT - 1, DIM];
    m.outputs[2].shape = vec![1, 1, DIM];
    let code = Some(LogitsCode { scale: 1.0, zero_point: 0 });
    let old = StaticLlama::new(form(m), None, code, None).expect("one method");
    assert_eq!(old.update(), CacheUpdate::ShiftPointer);
}

#[test]
fn what_is_no_static_llama_is_told() {
    let refused = |change: fn(&mut StaticMethod)| {
        let mut m = method(PREFILL_FORWARD, 4);
        change(&mut m);
        StaticForm::of(m).expect_err("it must be refused").to_string()
    };
    assert!(refused(|m| m.inputs[1].shape = vec![1, 1, 3, CONTEXT]).contains("a mask [1, 1, 3, 12]"));
    assert!(refused(|m| m.outputs.truncate(2)).contains("2 caches and 1 outputs"));
    assert!(refused(|m| m.outputs[0].shape = vec![1, 3, VOCAB]).contains("expected logits [1, 4, vocabulary]"));
    assert!(refused(|m| m.inputs[3].shape[3] = 7).contains("a cache [1, 2, 3, 7]"));
    assert!(refused(|m| m.inputs[4].shape = vec![usize::MAX, 3]).contains("overflows"));
    let mut text = method("forward", 4);
    text.inputs.truncate(2);
    assert_eq!(StaticForm::of(text), Ok(None));

    let one = form(method(KV_FORWARD, 1));
    let no_scale = StaticLlama::new(one.clone(), None, None, None).expect_err("codes without a scale").to_string();
    assert!(no_scale.contains("codes of 16 bits"), "{no_scale}");
    let code = Some(LogitsCode { scale: 1.0, zero_point: 0 });
    let mut other = method(PREFILL_FORWARD, 4);
    other.outputs[0].shape[2] = 9;
    let pair = StaticLlama::new(one, Some(form(other)), code, None).expect_err("another vocabulary").to_string();
    assert!(pair.contains("vocabularies differ"), "{pair}");
}

#[test]
fn a_sliding_window_has_a_mask_of_its_own() {
    let windowed = |name: &str, ar: usize| {
        let mut m = method(name, ar);
        let second = m.inputs[1].clone();
        m.inputs.insert(2, second);
        form(m)
    };
    let code = Some(LogitsCode { scale: 1.0, zero_point: 0 });
    let unknown = StaticLlama::new(windowed(KV_FORWARD, 1), None, code, None).expect_err("a window").to_string();
    assert!(unknown.contains("get_sliding_window"), "{unknown}");
    let f = windowed(PREFILL_FORWARD, 4);
    let llama = |update| {
        let made = StaticLlama::new(windowed(KV_FORWARD, 1), Some(f.clone()), code, Some(3));
        made.expect("they go together").with_update(update)
    };
    let open = |update: CacheUpdate, window: usize| -> Vec<Vec<usize>> {
        let mut out = Vec::new();
        llama(update).mask(&f, Element::U8, window, 5, &mut out);
        let row = |r: &[u8]| (0..CONTEXT).filter(|c| r[*c] == 255).collect();
        out.chunks_exact(CONTEXT).map(row).collect()
    };
    // Five tokens of the past, four new ones in columns 8 to 11; each sees two before itself.
    assert_eq!(open(CacheUpdate::SmartMask, 3), [vec![3, 4, 8], vec![4, 8, 9], vec![8, 9, 10], vec![9, 10, 11]]);
    assert_eq!(open(CacheUpdate::ShiftPointer, 3)[0], [6, 7, 8]);
    assert_eq!(open(CacheUpdate::SmartMask, usize::MAX)[0], [0, 1, 2, 3, 4, 8]);
}
