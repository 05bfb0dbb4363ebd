//! SmolLM2-135M-Instruct, exported and run, says what transformers says: ten prompts, 64 greedy tokens each, in f32.
//!
//! `tools/oracle/smollm2_golden.py` recorded the tokens. Where the two best logits lie closer than [`TIE`] and the choice
//! differs, the run goes on with the recorded token.

use pteron::exec::ValueRef;
use pteron::llm::tokenizer::Tokenizer;
use pteron::tensor::{Tensor, View};
use pteron::{Exporter, LoadOptions, Program};
use pteron_testkit::{fetched, fixture};
use serde_json::Value as Json;

/// Logits closer than this may change places when sums are reassociated.
const TIE: f64 = 1e-3;

/// Largest difference to a recorded logit, relative to the largest magnitude of the step.
const LOGIT: f64 = 1e-4;

struct Case {
    prompt: String,
    ids: Vec<i64>,
    greedy: Vec<i64>,
    text: String,
    steps: Vec<Vec<(usize, f64)>>,
}

fn cases(golden: &Json) -> Vec<Case> {
    let ints = |v: &Json| v.as_array().unwrap().iter().map(|x| x.as_i64().unwrap()).collect::<Vec<i64>>();
    let top = |ids: &Json, logits: &Json| -> Vec<(usize, f64)> {
        let logits = logits.as_array().unwrap().iter().map(|x| x.as_f64().unwrap());
        ints(ids).into_iter().map(|i| usize::try_from(i).unwrap()).zip(logits).collect()
    };
    golden["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| Case {
            prompt: c["prompt"].as_str().unwrap().to_owned(),
            ids: ints(&c["ids"]),
            greedy: ints(&c["greedy_ids"]),
            text: c["text"].as_str().unwrap().to_owned(),
            steps: c["top_ids"]
                .as_array()
                .unwrap()
                .iter()
                .zip(c["top_logits"].as_array().unwrap())
                .map(|(i, l)| top(i, l))
                .collect(),
        })
        .collect()
}

fn best(logits: &View<'_>) -> i64 {
    let values = logits.as_slice::<f32>().unwrap();
    let first_largest = values.iter().enumerate().fold(0, |b, (i, v)| if *v > values[b] { i } else { b });
    i64::try_from(first_largest).unwrap()
}

/// Runs one step and gives the chosen token after comparing the recorded logits.
fn step(program: &mut Program, tokens: &[i64], position: usize, recorded: &[(usize, f64)]) -> i64 {
    let ids = Tensor::of(&[1, tokens.len()], tokens).unwrap();
    let position = Tensor::of(&[1], &[i64::try_from(position).unwrap()]).unwrap();
    let inputs = [ValueRef::Tensor(ids.view()), ValueRef::Tensor(position.view())];
    let outputs = program.session().run("forward", &inputs).unwrap();
    let logits = outputs.tensor(0).unwrap();
    let values = logits.as_slice::<f32>().unwrap();
    let largest = values.iter().fold(0f64, |m, v| m.max(f64::from(v.abs())));
    for &(id, expected) in recorded {
        let found = f64::from(values[id]);
        assert!((found - expected).abs() <= LOGIT * largest, "token {id}: {found}, transformers gives {expected}");
    }
    best(&logits)
}

#[test]
fn greedy_tokens_equal_those_of_transformers() {
    let Some(folder) = fetched("smollm2::greedy_tokens_equal_those_of_transformers", "smollm2-135m") else { return };
    let golden: Json = serde_json::from_slice(&std::fs::read(fixture("smollm2/golden.json")).unwrap()).unwrap();
    let tokenizer = Tokenizer::from_bytes(&std::fs::read(folder.join("tokenizer.json")).unwrap(), None).unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let out = temporary.path().join("smollm2.pte");
    Exporter::open(&folder)
        .unwrap()
        .kv_cache(true)
        .sdpa_with_kv_cache(true)
        .max_seq_length(256)
        .max_context_length(256)
        .write(&out)
        .unwrap();
    let mut program = Program::open(&out, &LoadOptions { threads: Some(2), ..LoadOptions::default() }).unwrap();
    let cases = cases(&golden);
    assert_eq!(cases.len(), 10);
    let mut ties = 0;
    for case in &cases {
        let ids: Vec<i64> = tokenizer.encode(&case.prompt, false).unwrap().into_iter().map(i64::from).collect();
        assert_eq!(ids, case.ids, "{:?}", case.prompt);
        assert_eq!((case.greedy.len(), case.steps.len()), (64, 64));
        let mut tokens = case.ids.clone();
        let mut position = 0;
        for (i, (&expected, recorded)) in case.greedy.iter().zip(&case.steps).enumerate() {
            let found = step(&mut program, &tokens, position, recorded);
            if found != expected {
                let margin = recorded[0].1 - recorded[1].1;
                assert!(margin < TIE, "{:?}, token {i}: {found}, transformers chooses {expected}", case.prompt);
                ties += 1;
            }
            position += tokens.len();
            tokens = vec![expected];
        }
        let greedy: Vec<u32> = case.greedy.iter().map(|&t| u32::try_from(t).unwrap()).collect();
        assert_eq!(tokenizer.decode(&greedy, false).unwrap(), case.text);
    }
    assert!(ties <= 6, "{ties} of 640 choices differ");
}
