//! Both formats carry the same model, and their tokenizers the same tokens.

use modelfile::write::{self, Value};
use modelfile::{ModelFile, ModelFileError, RopePairs};
use tinymodel::TinyLlama;

#[test]
fn gguf_and_safetensors_describe_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = TinyLlama { tied_embeddings: false, ..Default::default() };
    let gguf = tiny.write_gguf(&dir.path().join("tiny.gguf")).unwrap();
    let hf_dir = dir.path().join("tiny-hf");
    std::fs::create_dir(&hf_dir).unwrap();
    let hf = tiny.write_safetensors(&hf_dir).unwrap();

    assert_eq!(gguf.spec().rope_pairs, RopePairs::Interleaved);
    let mut same = gguf.spec().clone();
    same.rope_pairs = RopePairs::Halves;
    assert_eq!(&same, hf.spec());
    assert_eq!(gguf.special(), hf.special());
    let values =
        tiny.tensors().into_iter().map(|(_, tensor)| tensor.shape.iter().product::<usize>());
    assert_eq!(hf.parameters(), values.sum::<usize>() as u64);
    assert_eq!(gguf.parameters(), hf.parameters());
    assert_eq!(gguf.special().stop, [0, 2]);
    assert_eq!(gguf.chat_template(), hf.chat_template());
    assert_eq!((gguf.name(), hf.name()), ("tiny-llama", "tiny-hf"));
    for (name, tensor) in tiny.tensors() {
        assert_eq!(hf.tensor(&name).unwrap(), tensor, "{name}");
        let permuted = name.ends_with("attn_q.weight") || name.ends_with("attn_k.weight");
        assert_eq!(gguf.tensor(&name).unwrap() == tensor, !permuted, "{name}");
    }
    let bytes = std::fs::read(dir.path().join("tiny.gguf")).unwrap();
    assert_eq!(gguf.digest().unwrap(), gguf.digest().unwrap());
    std::fs::write(dir.path().join("copy.gguf"), &bytes).unwrap();
    let copy = ModelFile::open(&dir.path().join("copy.gguf")).unwrap();
    assert_eq!(copy.digest().unwrap(), gguf.digest().unwrap());
    let mut changed = bytes;
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(dir.path().join("copy.gguf"), &changed).unwrap();
    assert_ne!(copy.digest().unwrap(), gguf.digest().unwrap());

    let (ours, theirs) = (gguf.tokenizer().unwrap(), hf.tokenizer().unwrap());
    assert_eq!(ours.vocab_size(), TinyLlama::vocab());
    for text in [
        "the 12 cats and Zürich 🙂",
        "<|im_start|>user\n in the inn<|im_end|>",
        "",
        " the  the\t\n",
    ] {
        for parse_special in [true, false] {
            let ids = ours.encode(text, parse_special).unwrap();
            assert_eq!(ids, theirs.encode(text, parse_special).unwrap(), "{text:?}");
            assert_eq!(ours.decode(&ids, false), text);
            let bytes: Vec<u8> =
                ids.iter().flat_map(|&id| theirs.token_bytes(id).unwrap()).collect();
            assert_eq!(bytes, text.as_bytes());
        }
    }
}

#[test]
fn sampling_defaults_come_from_the_generation_config() {
    let dir = tempfile::tempdir().unwrap();
    let file = TinyLlama::default().write_safetensors(dir.path()).unwrap();
    assert!(file.sampling_defaults().unwrap().is_empty());
    let config = r#"{ "temperature": 0.2, "top_k": 40 }"#;
    std::fs::write(dir.path().join("generation_config.json"), config).unwrap();
    let defaults = ModelFile::open(dir.path()).unwrap().sampling_defaults().unwrap();
    assert_eq!((defaults.temperature, defaults.top_k, defaults.top_p), (Some(0.2), Some(40), None));
    // A mistake there costs the defaults, not the model.
    let config = r#"{ "temperature": "warm" }"#;
    std::fs::write(dir.path().join("generation_config.json"), config).unwrap();
    let error = ModelFile::open(dir.path()).unwrap().sampling_defaults().unwrap_err();
    assert_eq!(error.to_string(), "field temperature: is \"warm\", expected a number");
}

#[test]
fn special_tokens_are_parsed_only_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = TinyLlama::default().write_gguf(&dir.path().join("t.gguf")).unwrap();
    let tokenizer = file.tokenizer().unwrap();

    assert_eq!(tokenizer.encode("<|im_end|>", true).unwrap(), [2]);
    let spelled = tokenizer.encode("<|im_end|>", false).unwrap();
    assert!(spelled.len() > 5 && !spelled.contains(&2), "{spelled:?}");
    assert_eq!(tokenizer.decode(&[2, spelled[0]], true), "<");
    assert_eq!(tokenizer.decode(&[2, spelled[0]], false), "<|im_end|><");
    assert!(tokenizer.is_special(2) && !tokenizer.is_special(spelled[0]));
    assert_eq!(tokenizer.token_bytes(TinyLlama::vocab() as u32), None);
}

#[test]
fn digits_stand_alone_and_merges_apply_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let file = TinyLlama::default().write_gguf(&dir.path().join("t.gguf")).unwrap();
    let tokenizer = file.tokenizer().unwrap();
    let ids = tokenizer.encode("then the and12", false).unwrap();
    let pieces: Vec<String> = ids.iter().map(|&id| tokenizer.decode(&[id], false)).collect();
    assert_eq!(pieces, ["the", "n", " the", " and", "1", "2"]);
}

#[test]
fn sentence_piece_vocabularies_merge_by_score() {
    let dir = tempfile::tempdir().unwrap();
    let mut tiny = TinyLlama::default().metadata();
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["▁", "a", "b", "ab", "▁a", "▁ab"].map(String::from));
    tokens.resize_with(TinyLlama::vocab(), || "unused".into());
    let mut kinds = vec![2, 3, 3];
    kinds.resize(259, 6);
    kinds.resize(tokens.len(), 1);
    let mut scores = vec![0.0; 259];
    scores.extend([-4.0, -5.0, -6.0, -2.0, -3.0, -1.0]);
    scores.resize(tokens.len(), -100.0);
    let mut set = |key: &str, value: Value| {
        tiny.retain(|(name, _)| name != key);
        tiny.push((key.to_owned(), value));
    };
    set("tokenizer.ggml.model", Value::Text("llama".into()));
    set("tokenizer.ggml.tokens", Value::Texts(tokens));
    set("tokenizer.ggml.token_type", Value::Ints(kinds));
    set("tokenizer.ggml.scores", Value::Floats(scores));
    set("tokenizer.ggml.unknown_token_id", Value::Int(0));
    let path = dir.path().join("spm.gguf");
    std::fs::write(&path, write::gguf(&tiny, &TinyLlama::default().tensors())).unwrap();
    let tokenizer = ModelFile::open(&path).unwrap().tokenizer().unwrap();

    let ids = tokenizer.encode("ab é<s>", true).unwrap();
    // The space before the text is the prefix; é is spelled by its bytes.
    assert_eq!(ids, [264, 259, 3 + 0xc3, 3 + 0xa9, 1]);
    assert_eq!(tokenizer.decode(&ids, true), " ab é");
    // "ab" scores higher than "▁a": it is merged first.
    assert_eq!(tokenizer.encode("bab", true).unwrap(), [259, 261, 262]);
}

#[test]
fn what_is_not_implemented_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.gguf");
    let open_with = |key: &str, value: Value| {
        let mut metadata = TinyLlama::default().metadata();
        metadata.retain(|(name, _)| name != key);
        metadata.push((key.to_owned(), value));
        std::fs::write(&path, write::gguf(&metadata, &TinyLlama::default().tensors())).unwrap();
        ModelFile::open(&path).map(drop).unwrap_err()
    };

    let error = open_with("general.architecture", Value::Text("rwkv".into()));
    assert!(
        matches!(&error, ModelFileError::Unsupported { what } if what.contains("rwkv")),
        "{error}"
    );
    let error = open_with("llama.rope.scaling.type", Value::Text("yarn".into()));
    assert!(error.to_string().contains("yarn"), "{error}");
    let error = open_with("llama.attention.head_count_kv", Value::Int(3));
    assert!(error.to_string().contains("head_count_kv"), "{error}");
    let error = open_with("llama.feed_forward_length", Value::Int(97));
    assert!(error.to_string().contains("blk.0.ffn_"), "{error}");
    let error = open_with("llama.block_count", Value::Int(3));
    assert!(error.to_string().contains("blk.2.attn_k.weight: is missing"), "{error}");
    let error = open_with("llama.embedding_length", Value::Int(0));
    assert!(error.to_string().contains("llama.embedding_length"), "{error}");
}
