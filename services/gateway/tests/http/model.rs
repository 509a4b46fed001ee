//! The pinned model's own template and tokenizer, against the golden prompts and answers.

use std::path::Path;

use chassis::Tracer;
use chassis::settings::ModelSettings;
use gateway::TextModel;
use protocol::{Finish, TokenId};
use serde_json::{Value, json};

use crate::bench::{Bench, Plan, limits};

fn golden() -> Vec<Value> {
    let path = "../../shared/model/tests/data/smollm2-135m-q4_1.json";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    golden["cases"].as_array().unwrap().clone()
}

async fn bench() -> Bench {
    let settings = ModelSettings { name: Some("smollm2".to_owned()), ..ModelSettings::default() };
    let text = TextModel::open(&testbed::smollm2(), &settings).unwrap();
    Bench::serving(text, limits(), Tracer::off()).await
}

fn tokens(ids: &Value) -> Vec<TokenId> {
    ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as TokenId).collect()
}

/// Undoes the template: the roles and contents between its marks.
fn conversation(rendered: &str) -> Vec<Value> {
    let turns = rendered.split("<|im_start|>").filter(|turn| !turn.is_empty());
    let ended = turns.filter_map(|turn| turn.strip_suffix("<|im_end|>\n"));
    ended
        .map(|turn| {
            let (role, content) = turn.split_once('\n').unwrap();
            json!({ "role": role, "content": content })
        })
        .collect()
}

#[testbed::test]
async fn prompts_become_the_golden_tokens() {
    let bench = bench().await;
    for case in golden() {
        let (name, rendered) = (&case["name"], case["rendered"].as_str().unwrap());
        let mut bodies = vec![json!({ "prompt": rendered })];
        if rendered.starts_with("<|im_start|>") {
            let mut messages = conversation(rendered);
            bodies.push(json!({ "messages": messages }));
            // The template itself puts this system message before a conversation without one.
            let default = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
            if messages[0]["content"] == default {
                messages.remove(0);
                bodies.push(json!({ "messages": messages }));
            }
        }
        for body in bodies {
            let (status, answer) = bench.ask("/tokenize", &body).await;
            assert_eq!((status, &answer["tokens"]), (200, &case["prompt_ids"]), "{name}: {body}");
        }
    }
}

#[testbed::test]
async fn golden_tokens_become_the_golden_text_in_every_form() {
    let bench = bench().await;
    for case in golden() {
        let ids = tokens(&case["greedy_ids"]);
        let expected = case["greedy_text"].as_str().unwrap();
        let expected = expected.strip_suffix("<|im_end|>").unwrap_or(expected);
        let ended = ids.last() == Some(&2);
        let finish = Some(if ended { Finish::Stop } else { Finish::Length });
        let plan = Plan { tokens: ids, finish, ..Plan::says("") };
        bench.backend.then(plan.clone()).then(plan.clone());
        let prompt = json!({ "model": "smollm2", "prompt": [1], "max_tokens": 64 });
        let (_, answer) = bench.complete(prompt.clone()).await;
        assert_eq!(answer["choices"][0]["text"], expected, "{}", case["name"]);
        let chunks = bench.stream("/v1/completions", prompt.clone()).await;
        let texts = chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap());
        assert_eq!(texts.collect::<String>(), expected, "{}", case["name"]);
        let Some(stop) = expected.get(4..7).filter(|stop| !stop.is_empty()) else { continue };
        bench.backend.then(plan);
        let stopped = crate::bench::merged(prompt, json!({ "stop": stop }));
        let (_, answer) = bench.complete(stopped).await;
        let before = &expected[..expected.find(stop).unwrap()];
        assert_eq!(answer["choices"][0]["text"], before, "{} {stop:?}", case["name"]);
    }
}
